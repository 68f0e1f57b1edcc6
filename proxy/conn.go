package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
)

// doorway is what is known about a client's connection before any request on
// it is read. It does not change afterwards.
type doorway struct {
	door   gate.Door
	remote string // IP of the client

	// Of a connection inside a CONNECT:
	scheme     string        // "https", or "http" where the client spoke plain HTTP
	authority  string        // the CONNECT target as sent
	host, port string        // canonical
	identity   gate.Identity // of the CONNECT
	known      bool          // the CONNECT said who calls; the requests inside do not
	auth       []string      // its Proxy-Authorization
	findings   []mapping.Ambiguity
	floor      string // strictest mode that a call inside can get
	misnamed   string // the TLS server name, where that is not the CONNECT target

	dialled netip.AddrPort // of a redirected connection: where it was going
}

// connKey is the context key of a connection's *accepted.
type connKey struct{}

// accepted ties a doorway to the lint of its connection; lint is nil for HTTP/2.
type accepted struct {
	*doorway
	lint  *lintConn
	aside *aside // the call for which the connection was set aside, until it is taken up
}

func connContext(ctx context.Context, c net.Conn) context.Context {
	a := &accepted{}
	switch c := c.(type) {
	case *lintConn:
		a.doorway, a.lint, a.aside = c.door, c, c.aside
		c.aside = nil
	case *tls.Conn:
		if p, ok := c.NetConn().(*peekedConn); ok {
			a.doorway = p.door
		}
	}
	return context.WithValue(ctx, connKey{}, a)
}

// lintListener puts the lint before every connection of a listener.
type lintListener struct {
	net.Listener
	server *Server
	door   gate.Door
}

func (l *lintListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.server.lint(c, &doorway{door: l.door, remote: hostOf(c.RemoteAddr())}), nil
}

func (s *Server) lint(c net.Conn, d *doorway) *lintConn {
	return &lintConn{
		Conn: c, door: d, maxHead: s.opt.MaxHeaderBytes, headTimeout: s.opt.ReadHeaderTimeout,
		rejected: s.rejectedHead,
	}
}

func hostOf(a net.Addr) string {
	if a == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// peekedConn is a hijacked connection: prefix is read before the rest.
type peekedConn struct {
	net.Conn
	prefix []byte
	door   *doorway

	greeted bool // a TLS client hello came
}

func (p *peekedConn) Read(b []byte) (int, error) {
	if len(p.prefix) > 0 {
		n := copy(b, p.prefix)
		if p.prefix = p.prefix[n:]; len(p.prefix) == 0 {
			p.prefix = nil
		}
		return n, nil
	}
	return p.Conn.Read(b)
}

// CloseWrite half-closes, where the connection below can.
func (p *peekedConn) CloseWrite() error {
	if cw, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}

// peek makes at least n bytes of the stream known without taking them.
func (p *peekedConn) peek(n int) ([]byte, error) {
	for len(p.prefix) < n {
		buf := make([]byte, 1024)
		got, err := p.Conn.Read(buf)
		p.prefix = append(p.prefix, buf[:got]...)
		if err != nil {
			return p.prefix, err
		}
	}
	return p.prefix, nil
}

// takeover is a ResponseWriter whose Hijack loses nothing: the bytes that
// net/http and the lint have read already come first. goproxy throws away the
// buffer that net/http hands it.
type takeover struct {
	http.ResponseWriter
	door *doorway
}

func (t takeover) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(t.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	buffered, _ := rw.Reader.Peek(rw.Reader.Buffered())
	p := &peekedConn{Conn: conn, prefix: append([]byte(nil), buffered...), door: t.door}
	if lc, ok := conn.(*lintConn); ok {
		p.prefix = append(p.prefix, lc.release()...)
		p.Conn = lc.Conn
	}
	return p, rw, nil
}

// handoff is a listener whose connections come from within.
type handoff struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandoff() *handoff {
	return &handoff{conns: make(chan net.Conn), done: make(chan struct{})}
}

// give passes c on; the server owns it then. It closes c, and answers false, when
// nobody takes it any more.
func (h *handoff) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
		_ = c.Close()
		return false
	}
}

func (h *handoff) close() { h.once.Do(func() { close(h.done) }) }

// Accept implements net.Listener.
func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handoff) Close() error { h.close(); return nil }

// Addr implements net.Listener.
func (h *handoff) Addr() net.Addr { return &net.TCPAddr{} }

// connSet holds connections that net/http does not look after.
type connSet struct {
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
	empty  chan struct{} // closed when the last one leaves while somebody waits
}

// add takes c in. After closeAll it closes c and answers false.
func (s *connSet) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return false
	}
	if s.conns == nil {
		s.conns = make(map[net.Conn]struct{})
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *connSet) remove(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 && s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
}

func (s *connSet) wait(ctx context.Context) error {
	s.mu.Lock()
	if len(s.conns) == 0 {
		s.mu.Unlock()
		return nil
	}
	if s.empty == nil {
		s.empty = make(chan struct{})
	}
	empty := s.empty
	s.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *connSet) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		_ = c.Close()
	}
}
