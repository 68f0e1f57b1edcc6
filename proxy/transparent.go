package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
)

// Reason codes of the transparent door.
const (
	ReasonNotRedirected = "request.not_redirected"
	ReasonLoop          = "request.loop"
)

// maxHello bounds a TLS client hello that is read ahead.
const maxHello = 64 << 10

// ServeTransparent serves the transparent door on l until Shutdown; it then
// returns nil. Connections come here by a redirect of the kernel's.
//
// One rule keeps lies out: what is judged is what is dialled. A connection that
// names a host (TLS server name, Host header) is judged as that name and sent to
// the addresses that the sidecar itself finds for it, never to the one that the
// client dialled; the port is the one that was dialled. A false name therefore
// leads to the host that was named, and to no other. A connection that names
// nothing is judged as the address that was dialled, and goes there.
func (s *Server) ServeTransparent(l net.Listener) error {
	s.dials.watch() // before the first connection can be one of ours
	if !s.open(l) {
		return nil
	}
	stop := context.AfterFunc(s.stopping, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
		case s.stopping.Err() != nil:
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ECONNABORTED):
			time.Sleep(5 * time.Millisecond) // it passes
			continue
		default:
			return fmt.Errorf("serve the transparent door on %s: %w", l.Addr(), err)
		}
		go s.serveTransparent(&peekedConn{Conn: c})
	}
}

// redirected is a connection at the transparent door.
type redirected struct {
	s      *Server
	client *peekedConn
	dst    netip.AddrPort // that the client dialled
	live   *live
	start  time.Time
}

// serveTransparent owns client. It ends when the connection is refused, relayed
// to its end, or handed to the HTTP server.
func (s *Server) serveTransparent(client *peekedConn) {
	if !s.tunnels.add(client) {
		return
	}
	handed := false
	defer func() {
		if p := recover(); p != nil {
			s.gate.Fault("panic", errors.New("serve a redirected connection: panic"))
			s.log.Error("panic while serving a redirected connection", zap.Any("panic", p), zap.Stack("stack"))
		}
		s.tunnels.remove(client)
		if !handed {
			_ = client.Close()
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := &redirected{s: s, client: client, live: s.live.Load(), start: time.Now()}
	dst, err := s.original(client.Conn)
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	r.dst = dst

	var begin opening
	var perr error
	within(client, s.opt.PeekTimeout, func() { begin, perr = client.opening() })
	if len(client.prefix) == 0 && !isTimeout(perr) {
		return // the client thought better of it, or it is a probe
	}
	remote, _ := netip.ParseAddrPort(client.RemoteAddr().String())
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	client.door = r.doorway("http", "", "")
	switch {
	case err != nil || s.isOurs(dst):
		r.reject(ctx, ReasonNotRedirected, "The connection came to the transparent door without a redirect, so where it should go is not known.")
		return
	case s.dials.made(remote, dst):
		// The sidecar's own connections are redirected to it: the rules do not let
		// its uid or mark pass.
		s.gate.Fault("loop", fmt.Errorf("a connection of this sidecar to %s came back to its transparent door: let its uid or mark pass in the redirect rules", dst))
		r.reject(ctx, ReasonLoop, "The connection is one of the sidecar's own: the redirect rules do not let its uid or mark pass.")
		return
	}
	switch {
	case r.live.passes(dst.Addr().String(), strconv.Itoa(int(dst.Port()))):
		r.stream(ctx, true, "passthrough names the address")
	case begin == beginsTLS:
		handed = r.tls(ctx)
	case begin == beginsHTTP && !isPreface(client):
		handed = true
		s.inside.give(s.lint(client, client.door))
	case begin == beginsHTTP:
		r.stream(ctx, false, "the client speaks HTTP/2 without TLS, which is not read here")
	case len(client.prefix) == 0:
		r.stream(ctx, false, "the client waits for the server to speak first")
	default:
		r.stream(ctx, false, "the client speaks neither TLS nor HTTP")
	}
}

// doorway for a connection of this door; host "" where each request names one.
func (r *redirected) doorway(scheme, authority, host string) *doorway {
	return &doorway{
		door: gate.DoorTransparent, remote: hostOf(r.client.RemoteAddr()), scheme: scheme, authority: authority,
		host: host, port: strconv.Itoa(int(r.dst.Port())), dialled: r.dst,
	}
}

// tls reads the server name and intercepts, or relays what is passed through.
func (r *redirected) tls(ctx context.Context) (handed bool) {
	s, client := r.s, r.client
	var name string
	var err error
	within(client, s.opt.PeekTimeout, func() { name, err = client.serverName(ctx) })
	if err != nil {
		r.stream(ctx, false, "the client begins TLS without a hello that can be read")
		return false
	}
	port := strconv.Itoa(int(r.dst.Port()))
	host := r.dst.Addr().String()
	if name != "" {
		named, _, err := mapping.Authority("https", name)
		if _, ip := netip.ParseAddr(named); err != nil || ip == nil && named != host {
			// RFC 6066 section 3: a server name is a DNS name.
			client.door = r.doorway("https", r.dst.String(), host)
			_ = client.SetWriteDeadline(time.Now().Add(s.opt.PeekTimeout))
			_, _ = client.Write(unrecognizedName)
			r.reject(ctx, ReasonMisdirected, "The TLS server name "+printable(name)+" is not a host name.")
			return false
		}
		host = named
	}
	client.door = r.doorway("https", net.JoinHostPort(host, port), host)
	id := s.gate.ConfigIdentity()
	client.door.identity, client.door.known = id, true
	if !r.live.intercepts(host, port) {
		r.tunnel(ctx, host, false, true, "", "")
		return false
	}
	floor := s.gate.StrictestFor(id, r.live.mapped(host, port))
	client.door.floor = floor
	if !demands(floor) && s.distrust.has(client.door.remote, host, port) {
		r.tunnel(ctx, host, false, true, floor, "the client does not trust the CA")
		return false
	}
	return s.intercept(ctx, client)
}

// stream has everything that can be neither opened nor read judged as
// tcp.connect on the address that was dialled.
func (r *redirected) stream(ctx context.Context, passed bool, why string) {
	id := r.s.gate.ConfigIdentity()
	host := r.dst.Addr().String()
	r.tunnel(ctx, host, true, passed, r.s.gate.StrictestFor(id, r.live.mapped(host, strconv.Itoa(int(r.dst.Port())))), why)
}

// tunnel has an unread connection judged, and relays it.
func (r *redirected) tunnel(ctx context.Context, host string, bare, passed bool, floor, opaque string) {
	s := r.s
	port := strconv.Itoa(int(r.dst.Port()))
	id := s.gate.ConfigIdentity()
	t := &tunnel{
		s: s, client: r.client, live: r.live, host: host, port: port, start: r.start, passed: passed,
		req: &gate.Request{
			Door: gate.DoorTransparent, Identity: id, Tunnel: true, Bare: bare, Opaque: opaque, Floor: floor, Dialled: r.dst.String(),
			Head: mapping.Request{Method: http.MethodConnect, Scheme: "https", Authority: net.JoinHostPort(host, port), Target: "/"},
		},
		// An address may be that of any host, so what begins late is let through
		// only where no call of any host could be judged more strictly than this.
		guard: bare && demands(s.gate.StrictestFor(id, true)) && len(r.client.prefix) == 0,
	}
	t.serve(ctx, true)
}

func (r *redirected) reject(ctx context.Context, code, detail string) {
	req := &gate.Request{
		Door: gate.DoorTransparent, Identity: r.s.gate.ConfigIdentity(), Dialled: r.dst.String(), Tunnel: true,
		Head: mapping.Request{Method: http.MethodConnect, Scheme: "https", Authority: r.dst.String(), Target: "/", ContentLength: -1},
	}
	if !r.dst.IsValid() {
		req.Dialled, req.Head.Authority = "", ""
	}
	status := http.StatusMisdirectedRequest
	if refusal := r.s.gate.Reject(ctx, req, status, code, detail); refusal != nil {
		r.s.logRefusal(req, refusal, r.start)
	}
}

// describeTransparent reads a request on a redirected connection without TLS:
// its Host says where it goes, on the port that was dialled.
func (x *exchange) describeTransparent() bool {
	if x.conn.scheme == "https" {
		return x.describeInside()
	}
	head, door := &x.req.Head, x.conn.doorway
	head.Scheme, head.Target = "http", x.r.RequestURI
	x.absolute()
	x.host, x.port = door.dialled.Addr().String(), door.port
	if named, _, err := mapping.Authority("http", head.Host); head.Host != "" && err == nil {
		x.host = named
	}
	// A Host that cannot be read, or with another port than was dialled, is no
	// second name: the gate compares it with this one.
	head.Authority = hostHeader("http", x.host, x.port)
	x.sendHost = head.Host
	if x.sendHost == "" {
		x.sendHost = head.Authority
	}
	return true
}

// isPreface says that a client begins HTTP/2 without TLS (RFC 9113 section 3.4).
func isPreface(p *peekedConn) bool {
	const preface = "PRI * HTTP/2.0"
	_ = p.SetReadDeadline(time.Now().Add(time.Second))
	defer func() { _ = p.SetReadDeadline(time.Time{}) }()
	for n := 1; n <= len(preface); n++ {
		if b, err := p.peek(n); err != nil && len(b) < n || b[n-1] != preface[n-1] {
			return false
		}
	}
	return true
}

// unrecognizedName is the TLS alert of RFC 6066 section 3.
var unrecognizedName = []byte{21, 3, 3, 0, 2, 2, 112}

var errPeeked = errors.New("the hello is read")

// serverName reads the client hello ahead, taking nothing.
func (p *peekedConn) serverName(ctx context.Context) (name string, err error) {
	read := false
	conn := tls.Server(&helloReader{Conn: p.Conn, from: p}, &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			name, read = h.ServerName, true
			return nil, errPeeked
		},
	})
	if err := conn.HandshakeContext(ctx); !read {
		return "", fmt.Errorf("read the TLS hello: %w", err)
	}
	return name, nil
}

// helloReader reads what a peekedConn has and gets, and leaves it there.
type helloReader struct {
	net.Conn
	from *peekedConn
	at   int
}

func (h *helloReader) Read(b []byte) (int, error) {
	if h.at >= maxHello {
		return 0, io.ErrUnexpectedEOF
	}
	if h.at == len(h.from.prefix) {
		if _, err := h.from.peek(h.at + 1); h.at == len(h.from.prefix) {
			return 0, err
		}
	}
	n := copy(b, h.from.prefix[h.at:])
	h.at += n
	return n, nil
}

func (h *helloReader) Write(b []byte) (int, error) { return len(b), nil } // alerts of the trial reach nobody
func (h *helloReader) Close() error                { return nil }

// dials remembers, for a moment, the connections that the dialer made, so that
// one which a redirect leads back here is known. A connection is noted before
// the first byte is sent on it, and looked for after one came or the wait for
// one is over.
type dials struct {
	mu   sync.Mutex
	on   bool
	keep time.Duration
	at   map[[2]netip.AddrPort]time.Time
}

const maxDials = 8192

func (d *dials) watch() {
	d.mu.Lock()
	d.on = true
	d.mu.Unlock()
}

func (d *dials) note(c net.Conn, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.on {
		return
	}
	if d.at == nil {
		d.at = make(map[[2]netip.AddrPort]time.Time)
	}
	if len(d.at) >= maxDials {
		for k, at := range d.at {
			if now.Sub(at) > d.keep {
				delete(d.at, k)
			}
		}
		if len(d.at) >= maxDials {
			clear(d.at)
		}
	}
	local, lerr := netip.ParseAddrPort(c.LocalAddr().String())
	remote, rerr := netip.ParseAddrPort(c.RemoteAddr().String())
	if lerr == nil && rerr == nil {
		d.at[[2]netip.AddrPort{unmapped(local), unmapped(remote)}] = now
	}
}

func (d *dials) made(local, remote netip.AddrPort) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, ok := d.at[[2]netip.AddrPort{local, remote}]
	return ok && time.Since(at) <= d.keep
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
