package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"code.dny.dev/ssrf"
)

// Reason codes of calls that were permitted but did not reach the upstream, or
// came back without an answer.
const (
	ReasonAddressRefused      = "request.address_refused"
	ReasonUpstreamUnreachable = "request.upstream_unreachable"
	ReasonUpstreamCertificate = "request.upstream_certificate"
	ReasonUpstreamTimeout     = "request.upstream_timeout"
	ReasonUpstreamFailed      = "request.upstream_failed"
)

// dialError says that no connection was made, so that nothing was sent.
type dialError struct {
	code string // one of the reasons above
	err  error
}

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// nat64 is the well-known prefix of RFC 6052; its last four bytes are an IPv4
// address, which is judged in its own right.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// wireServer answers for the host's metadata and keys inside Azure. Unlike the
// other clouds' such addresses it lies in public space.
var wireServer = netip.MustParseAddr("168.63.129.16")

// dialer connects to upstreams. It resolves a name once, judges every address,
// and dials the very address that it judged: a name that answers differently
// the second time (DNS rebinding) is never asked a second time.
type dialer struct {
	guard     *ssrf.Guardian
	allow     []netip.Prefix    // IPv4 that may be dialled although not public
	connectTo map[string]string // "host:port" to "address:port"
	roots     *x509.CertPool
	timeout   time.Duration
	lookup    func(ctx context.Context, host string) ([]netip.Addr, error)
	ours      func(netip.AddrPort) bool // our own listeners
	made      *dials                    // takes note of connections; nil: none does
	sessions  tls.ClientSessionCache    // of upstreams whose certificate held
	net       net.Dialer
}

// maxSessions is of how many upstreams the TLS session is kept. A call that a human
// approved has a connection of its own, and most of what that costs is to look at a
// certificate that was looked at a moment before. A session is for one name, ends
// with its certificate, and ends with this dialer and so with the roots that it was
// checked against. Nothing is sent before the handshake is over (no 0-RTT).
const maxSessions = 128

func newDialer(u Upstream, timeout time.Duration, ours func(netip.AddrPort) bool, made *dials) (*dialer, error) {
	d := &dialer{
		roots: u.RootCAs, timeout: timeout, ours: ours, made: made,
		connectTo: make(map[string]string, len(u.ConnectTo)),
		sessions:  tls.NewLRUClientSessionCache(maxSessions),
		lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
	}
	if u.Mark != 0 {
		d.net.Control = setMark(u.Mark)
		resolver := &net.Resolver{PreferGo: true, Dial: d.net.DialContext}
		d.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return resolver.LookupNetIP(ctx, "ip", host)
		}
	}
	for _, c := range u.ConnectTo {
		if c.Host == "" || c.Port < 1 || c.Port > 65535 {
			return nil, fmt.Errorf("connect_to: host and port are needed, got %q and %d", c.Host, c.Port)
		}
		if h, p, err := net.SplitHostPort(c.Address); err != nil || h == "" || p == "" {
			return nil, fmt.Errorf("connect_to for %s: address %q must be host:port", c.Host, c.Address)
		}
		key := net.JoinHostPort(strings.ToLower(c.Host), strconv.Itoa(c.Port))
		if _, dup := d.connectTo[key]; dup {
			return nil, fmt.Errorf("connect_to: %s is there twice", key)
		}
		d.connectTo[key] = c.Address
	}
	var v4, v6 []netip.Prefix
	for _, p := range u.AllowPrivate {
		if !p.IsValid() {
			return nil, errors.New("allow_private: an entry is not a CIDR")
		}
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	d.allow = v4
	d.guard = ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...))
	return d, nil
}

// judge says why an address must not be dialled, nil if it may be.
func (d *dialer) judge(ap netip.AddrPort) error {
	ip := ap.Addr()
	if ip.Zone() != "" {
		return fmt.Errorf("%s names a network interface", ip)
	}
	ip = ip.Unmap()
	if !d.public(ip) {
		return fmt.Errorf("%s is not a public address; list its network in upstream.allow_private if it is meant", ip)
	}
	if nat64.Contains(ip) {
		b := ip.As16()
		if v4 := netip.AddrFrom4([4]byte(b[12:])); !d.public(v4) {
			return fmt.Errorf("%s stands for %s, which is not a public address; list its network in upstream.allow_private if it is meant", ip, v4)
		}
	}
	if d.ours != nil && d.ours(netip.AddrPortFrom(ip, ap.Port())) {
		return fmt.Errorf("%s is this sidecar itself", ap)
	}
	return nil
}

// public says whether ip is a public address, or one that was allowed.
func (d *dialer) public(ip netip.Addr) bool {
	if ip == wireServer && !slices.ContainsFunc(d.allow, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return false
	}
	return d.guard.SafeAddr(ip) == nil
}

// dial connects to a canonical "host:port", within d.timeout in which this process
// ran: see patience.
func (d *dialer) dial(ctx context.Context, addr string) (net.Conn, error) {
	ctx, end := forAtMost(ctx, d.timeout)
	conn, err := d.connect(ctx, addr)
	return conn, d.late(end(), err, "connect to "+addr)
}

// late makes err, which came after the time for what, one of time. One that says
// something else stays.
func (d *dialer) late(over bool, err error, what string) error {
	var de *dialError
	if !over || !errors.As(err, &de) || de.code != ReasonUpstreamUnreachable {
		return err
	}
	return &dialError{ReasonUpstreamTimeout, fmt.Errorf("%s: no answer within %s", what, d.timeout)}
}

func (d *dialer) connect(ctx context.Context, addr string) (net.Conn, error) {
	if to, ok := d.connectTo[addr]; ok {
		addr = to
	}
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, &dialError{ReasonUpstreamUnreachable, fmt.Errorf("connect to %s: %w", addr, err)}
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return nil, &dialError{ReasonUpstreamUnreachable, fmt.Errorf("connect to %s: port %q is not usable", addr, portText)}
	}
	ips, err := d.resolve(ctx, host)
	if err != nil {
		return nil, &dialError{timeoutOr(err, ReasonUpstreamUnreachable), fmt.Errorf("look up %s: %w", host, err)}
	}
	var refused error
	ips = slices.DeleteFunc(ips, func(ip netip.Addr) bool {
		err := d.judge(netip.AddrPortFrom(ip, uint16(port)))
		if err != nil {
			refused = err
		}
		return err != nil
	})
	if len(ips) == 0 {
		if refused == nil {
			return nil, &dialError{ReasonUpstreamUnreachable, fmt.Errorf("look up %s: it has no address", host)}
		}
		return nil, &dialError{ReasonAddressRefused, fmt.Errorf("connect to %s: %w", host, refused)}
	}
	var last error
	for i, ip := range ips {
		// Each remaining address gets its share of the time, so that a dead first
		// one does not use up everything.
		share := ctx
		stop := func() bool { return false }
		if i < len(ips)-1 {
			share, stop = forAtMost(ctx, d.timeout/time.Duration(len(ips)))
		}
		conn, err := d.net.DialContext(share, "tcp", netip.AddrPortFrom(ip.Unmap(), uint16(port)).String())
		stop()
		if err == nil {
			if d.made != nil {
				d.made.note(conn, time.Now())
			}
			return conn, nil
		}
		last = err
	}
	return nil, &dialError{timeoutOr(last, ReasonUpstreamUnreachable), fmt.Errorf("connect to %s: %w", host, last)}
}

func (d *dialer) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	return d.lookup(ctx, host)
}

// dialTLS connects and completes the handshake, so that every failure up to
// here is known to have sent nothing of the request.
func (d *dialer) dialTLS(ctx context.Context, addr string, protos []string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, &dialError{ReasonUpstreamUnreachable, fmt.Errorf("connect to %s: %w", addr, err)}
	}
	raw, err := d.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{
		ServerName: host, RootCAs: d.roots, MinVersion: tls.VersionTLS12, NextProtos: protos,
		ClientSessionCache: d.sessions,
	})
	ctx, end := forAtMost(ctx, d.timeout)
	err = conn.HandshakeContext(ctx)
	if over := end(); err != nil {
		_ = raw.Close()
		code := timeoutOr(err, ReasonUpstreamUnreachable)
		var cert *tls.CertificateVerificationError
		if errors.As(err, &cert) {
			code = ReasonUpstreamCertificate
		}
		return nil, d.late(over, &dialError{code, fmt.Errorf("TLS with %s: %w", host, err)}, "TLS with "+host)
	}
	return conn, nil
}

func timeoutOr(err error, code string) string {
	var ne net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout() {
		return ReasonUpstreamTimeout
	}
	return code
}
