package main

import (
	"errors"
	"net"
	"syscall"

	"github.com/actpass/sidecar/config"
)

// listenTransparent opens the door for redirected connections. A redirect of
// local traffic ends at 127.0.0.1 and at ::1, so localhost means both; a machine
// without IPv6 has no ::1, and nothing to redirect to it.
func (p *program) listenTransparent(open func(name, address string, serve func(net.Listener) error) (string, error)) error {
	address := p.cfg.Listen.Transparent
	if config.Off(address) {
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if host != "localhost" {
		p.addresses.transparent, err = open("transparent", address, p.proxy.ServeTransparent)
		return err
	}
	if p.addresses.transparent, err = open("transparent", net.JoinHostPort("127.0.0.1", port), p.proxy.ServeTransparent); err != nil {
		return err
	}
	if _, port, err = net.SplitHostPort(p.addresses.transparent); err != nil {
		return err
	}
	_, err = open("transparent", net.JoinHostPort("::1", port), p.proxy.ServeTransparent)
	if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
		return nil
	}
	return err
}
