package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/elazarl/goproxy"
)

// bareMain is what the sidecar is measured against: goproxy's own interception,
// which judges and records nothing. It keeps its certificates and its upstream
// connections, as anyone would who runs it in earnest.
func bareMain(args []string) error {
	fs := flag.NewFlagSet(roleBare, flag.ExitOnError)
	upstream := fs.String("upstream", "", "address of the upstream")
	upstreamCA := fs.String("upstream-ca", "", "its CA")
	ca := fs.String("ca", "", "the proxy's own CA, certificate and key")
	if err := fs.Parse(args); err != nil {
		return err
	}
	authority, err := tls.LoadX509KeyPair(*ca, *ca)
	if err != nil {
		return err
	}
	pool, err := roots(*upstreamCA)
	if err != nil {
		return err
	}
	p := goproxy.NewProxyHttpServer()
	p.CertStore = &certificates{}
	p.KeepAcceptEncoding = true
	var d net.Dialer
	p.Tr = &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return d.DialContext(ctx, network, *upstream)
		},
		TLSClientConfig: &tls.Config{RootCAs: pool}, DisableCompression: true,
		MaxIdleConns: 2048, MaxIdleConnsPerHost: 512, IdleConnTimeout: 90 * time.Second,
	}
	intercept := &goproxy.ConnectAction{Action: goproxy.ConnectMitm, TLSConfig: goproxy.TLSConfigFromCA(&authority)}
	p.OnRequest().HandleConnect(goproxy.FuncHttpsHandler(func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
		return intercept, host
	}))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	return http.Serve(ln, p) //nolint:gosec // a bench, on loopback
}

// certificates is a goproxy.CertStorage.
type certificates struct {
	mu   sync.Mutex
	host map[string]*tls.Certificate
}

func (c *certificates) Fetch(host string, gen func() (*tls.Certificate, error)) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cert := c.host[host]; cert != nil {
		return cert, nil
	}
	cert, err := gen()
	if err != nil {
		return nil, err
	}
	if c.host == nil {
		c.host = make(map[string]*tls.Certificate)
	}
	c.host[host] = cert
	return cert, nil
}
