package doctor

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"
)

// issuer is the organisation in the certificates of a sidecar's authority.
const issuer = "ActPass Sidecar"

// tcp connects without a look at any variable, and finds out who answers: by a TLS
// handshake without a name, which the transparent door takes on every port, and
// else by a request in plain HTTP.
func (r *runner) tcp(ctx context.Context, name, target string) Path {
	p := Path{Path: name, Target: target}
	if target == "" {
		return p
	}
	c, err := r.dial(ctx, target)
	if err != nil {
		return r.notConnected(p, err)
	}
	who, answered := r.handshake(c)
	if who {
		return r.enforced(p, true, "led to the sidecar")
	}
	if !answered {
		// A door that opens no TLS to this target, or no TLS server: ask in the clear.
		if c, err = r.dial(ctx, target); err == nil {
			led := askHTTP(c, target)
			_ = c.Close()
			if led {
				return r.enforced(p, true, "led to the sidecar")
			}
		}
	}
	return r.around(p, "connected, and it was not the sidecar that answered")
}

func (r *runner) metadata(ctx context.Context, target string) Path {
	p := Path{Path: "metadata", Target: target}
	if target == "" {
		return p
	}
	c, err := r.dial(ctx, target)
	if err != nil {
		return r.notConnected(p, err)
	}
	defer c.Close()
	if askHTTP(c, target) {
		return r.enforced(p, true, "led to the sidecar, which refuses this address")
	}
	return r.around(p, "the metadata service, or somebody at its address, can be reached: it hands out the node's credentials")
}

func (r *runner) dial(ctx context.Context, target string) (net.Conn, error) {
	d := net.Dialer{Timeout: patience}
	return d.DialContext(ctx, "tcp", target)
}

// notConnected judges an error of connect(2). A refusal by the target itself
// (RST) means that the packet got there.
func (r *runner) notConnected(p Path, err error) Path {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return r.around(p, "the packet got out: the address refused the connection itself")
	}
	return r.stopped(p, err)
}

// stopped is a way on which nothing comes through.
func (r *runner) stopped(p Path, err error) Path {
	switch {
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return r.enforced(p, true, "there is no route: this network has none for it")
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return r.enforced(p, true, "refused by a rule on the way")
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return r.enforced(p, false, "nothing came back: stopped on the way, or nobody there")
	}
	return r.enforced(p, false, "nothing came through: "+err.Error())
}

// handshake says whether the sidecar answered, and whether anybody did.
func (r *runner) handshake(c net.Conn) (sidecar, answered bool) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	var chain []*x509.Certificate
	conf := &tls.Config{
		InsecureSkipVerify: true, // it is asked who answers, and nothing is sent to them
		MinVersion:         tls.VersionTLS12,
		VerifyConnection: func(s tls.ConnectionState) error {
			chain = s.PeerCertificates
			return nil
		},
	}
	if err := tls.Client(c, conf).Handshake(); err != nil || len(chain) == 0 {
		return false, false
	}
	if named := slices.Contains(chain[0].Issuer.Organization, issuer); !named || len(r.o.CAPEM) == 0 {
		return named, true
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.o.CAPEM)
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil, true
}

// askHTTP says whether a request in plain HTTP is answered by the sidecar.
func askHTTP(c net.Conn, host string) bool {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(c, "GET /actpass-doctor HTTP/1.1\r\nHost: %s\r\nUser-Agent: actpass-doctor\r\nConnection: close\r\n\r\n", host); err != nil {
		return false
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.Header.Get("ActPass-Decision") != "" || resp.Header.Get("ActPass-Reason") != ""
}

// udp sends a datagram that a server of the kind answers. Errors that come back by
// ICMP show on the socket.
func (r *runner) udp(ctx context.Context, name, target string, probe []byte) Path {
	p := Path{Path: name, Target: target}
	if target == "" {
		return p
	}
	d := net.Dialer{Timeout: patience}
	c, err := d.DialContext(ctx, "udp", target)
	if err != nil {
		return r.stopped(p, err)
	}
	defer c.Close()
	end := time.Now().Add(patience)
	buf := make([]byte, 2048)
	for time.Now().Before(end) { // a datagram may be lost
		_, err = c.Write(probe)
		if err == nil {
			_ = c.SetReadDeadline(time.Now().Add(patience / 4))
			if _, err = c.Read(buf); err == nil {
				return r.around(p, "answered: it gets out")
			}
		}
		var timeout net.Error
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			return r.around(p, "the datagram got out: the address refused the port itself")
		case !errors.As(err, &timeout) || !timeout.Timeout():
			return r.stopped(p, err)
		}
	}
	return r.stopped(p, err)
}

// quicProbe is a QUIC packet of a version that nobody speaks (RFC 9000 section 15):
// a server answers with those it does.
func quicProbe() []byte {
	b := make([]byte, 1200)
	_, _ = rand.Read(b)
	copy(b, []byte{0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8})
	b[14] = 8 // and eight bytes of source connection id
	return b
}

// dnsProbe asks for the addresses of the root's name servers' zone: NS of ".".
func dnsProbe() []byte {
	return []byte{0x41, 0x50, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}
}

// proxyAddress is host:port of a proxy variable, "" where there is none.
func proxyAddress(value string) string {
	if value == "" {
		return ""
	}
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	u, err := url.Parse(value)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port)
}
