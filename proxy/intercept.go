package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
)

// connecting is a CONNECT request on its way to being a connection.
type connecting struct {
	target string
	head   head
	header http.Header
	live   *live
}

// serveConnect owns client from here on. It ends when the connection is
// refused, tunnelled to its end, or handed to the HTTP server.
func (s *Server) serveConnect(client *peekedConn, c *connecting) {
	if !s.tunnels.add(client) {
		return
	}
	handed := false
	defer func() {
		if p := recover(); p != nil {
			s.gate.Fault("panic", errors.New("serve a CONNECT: panic"))
			s.log.Error("panic while serving a CONNECT", zap.Any("panic", p), zap.Stack("stack"))
		}
		s.tunnels.remove(client)
		if !handed {
			_ = client.Close()
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	start := time.Now()

	claims, found := stripRequest(c.header)
	req := &gate.Request{
		Door: gate.DoorConnect, UserID: claims.user, Goal: claims.goal, Passport: claims.passport,
		Identity: s.gate.ConfigIdentity(),
		Findings: append(c.head.findings, found...),
		Tunnel:   true,
		Head: mapping.Request{
			Method: http.MethodConnect, Scheme: "https", Authority: c.target, Host: c.head.host, Target: "/", Header: c.header,
		},
	}
	refuse := func(r *gate.Refusal) {
		s.logRefusal(req, r, start)
		a := render(r)
		_ = client.SetWriteDeadline(time.Now().Add(s.opt.PeekTimeout))
		_, _ = client.Write(a.raw())
	}
	host, port, err := mapping.Authority("https", c.target)
	rooted := isRooted(c.target)
	if err != nil && !rooted || host == "" || !hasPort(c.target) {
		detail := "the port is missing"
		if err != nil {
			detail = printable(err.Error())
		}
		refuse(s.gate.Reject(ctx, req, http.StatusBadRequest, ReasonConnectInvalid, "The CONNECT target is not a plain host:port: "+detail+"."))
		return
	}
	if err != nil {
		// "host.:443" is what DNS calls the same host, and what some tools send; not
		// every parser agrees. Monitor and warn go on, and say so.
		req.Findings = append(req.Findings, mapping.Ambiguity{
			Class: mapping.ClassAuthority, Status: http.StatusBadRequest, Detail: "the CONNECT target: " + printable(err.Error()),
		})
	}
	if hh, _, err := mapping.Authority("https", c.head.host); c.head.host != "" && (err != nil || hh != host) {
		req.Findings = append(req.Findings, mapping.Ambiguity{
			Class: mapping.ClassAuthority, Status: http.StatusMisdirectedRequest,
			Detail: "the CONNECT target and its Host header name different hosts",
		})
	}
	// The target is judged; a Host that merely lacks the port is no second name.
	req.Head.Host = ""
	id, finding, refusal := s.identify(ctx, req, claims.proxyAuth)
	if refusal != nil {
		refuse(refusal)
		return
	}
	req.Identity = id
	inside := req.Findings // what is found in the credentials is found again by each call
	if finding != nil {
		req.Findings = append(req.Findings, *finding)
	}
	if len(req.Findings) > 0 && fails(s.gate.ModeFor(id)) {
		// Every call inside would be refused for it; a client that is told now
		// does not first send a secret into a tunnel that it took for sound.
		f := req.Findings[0]
		code := gate.ReasonAmbiguous
		if f.Status == http.StatusMisdirectedRequest {
			code = ReasonMisdirected
		} else if f.Status == http.StatusServiceUnavailable {
			code = ReasonIdentityUnknown
		}
		refuse(s.gate.Reject(ctx, req, f.Status, code, "The CONNECT is ambiguous: "+f.Detail+"."))
		return
	}
	client.door = &doorway{
		door: gate.DoorConnect, remote: client.door.remote, scheme: "https", authority: c.target, host: host, port: port,
		identity: id, known: true, auth: claims.proxyAuth, findings: inside,
	}
	t := &tunnel{s: s, client: client, req: req, live: c.live, host: host, port: port, start: start}

	if !c.live.intercepts(host, port) {
		t.serve(ctx, false)
		return
	}
	// From here on calls are hidden in the tunnel only because the client wants it
	// so: what no eye can see is judged as the strictest of what it could be.
	req.Floor = s.gate.StrictestFor(id, c.live.mapped(host, port))
	client.door.floor = req.Floor
	if !demands(req.Floor) && s.distrust.has(client.door.remote, host, port) {
		req.Opaque = "the client does not trust the CA"
		t.serve(ctx, false)
		return
	}
	_ = client.SetWriteDeadline(time.Now().Add(s.opt.PeekTimeout))
	if _, err := io.WriteString(client, established); err != nil {
		return
	}
	_ = client.SetWriteDeadline(time.Time{})
	var begin opening
	within(client, s.opt.PeekTimeout, func() { begin, err = client.opening() })
	if len(client.prefix) == 0 && !isTimeout(err) {
		return // the client thought better of it
	}
	switch begin {
	case beginsTLS:
		handed = s.intercept(ctx, client)
	case beginsHTTP:
		client.door.scheme = "http"
		handed = true
		s.inside.give(s.lint(client, client.door))
	default:
		req.Opaque = "the client speaks neither TLS nor HTTP"
		if len(client.prefix) == 0 {
			req.Opaque = "the client waits for the server to speak first"
		}
		t.serve(ctx, true)
	}
}

const established = "HTTP/1.1 200 Connection established\r\n\r\n"

// isRooted says that an authority is sound but for the dot that ends its host.
func isRooted(authority string) bool {
	host, port, ok := strings.Cut(authority, ".:")
	if !ok {
		return false
	}
	_, _, err := mapping.Authority("https", host+":"+port)
	return err == nil
}

func hasPort(authority string) bool {
	_, port, err := net.SplitHostPort(authority)
	return err == nil && port != ""
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

var errNoName = errors.New("no name to sign a certificate for")

// wrongName says why nothing on a connection is judged, "" where its names agree.
func (d *doorway) wrongName() string {
	if d.misnamed == "" {
		return ""
	}
	return "The TLS server name " + printable(d.misnamed) + " is not the CONNECT target " + printable(withoutUser(d.authority)) + "."
}

// interceptTLS is the one TLS configuration of all intercepted connections;
// what differs between them is asked of the connection itself.
func (s *Server) interceptTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			p, ok := hello.Conn.(*peekedConn)
			if !ok {
				return nil, errNoName
			}
			p.greeted = true
			if hello.ServerName == "" {
				return nil, nil
			}
			if host, _, err := mapping.Authority("https", hello.ServerName); err != nil || host != p.door.host {
				// The handshake goes on as the CONNECT target, so that a client which
				// does not look at the certificate is told why: each request gets 421.
				p.door.misnamed = hello.ServerName
			}
			return nil, nil
		},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			p, ok := hello.Conn.(*peekedConn)
			if !ok {
				return nil, errNoName
			}
			return s.leaves.get(hello.Context(), p.door.host)
		},
	}
}

// intercept shakes hands as the host that the client asked for, and gives the
// connection to the HTTP server. It answers whether it did.
func (s *Server) intercept(ctx context.Context, client *peekedConn) bool {
	d := client.door
	conn := tls.Server(client, s.tls)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := newPatience(s.opt.DialTimeout, cancel)
	err := conn.HandshakeContext(ctx)
	if late := p.stop(); err != nil {
		if late {
			// Nobody else will tell: the client sees a connection that ends.
			s.log.Warn("a client did not complete its TLS handshake in time", zap.String("authority", withoutUser(d.authority)),
				zap.String("client", d.remote), zap.String("agent", d.identity.AgentID), zap.Duration("within", s.opt.DialTimeout))
			return false
		}
		s.handshakeFailed(ctx, client, err)
		return false
	}
	if d.misnamed == "" {
		s.distrust.forget(d.remote, d.host, d.port)
	}
	if conn.ConnectionState().NegotiatedProtocol == "h2" {
		s.inside.give(conn)
	} else {
		s.inside.give(s.lint(conn, d))
	}
	return true
}

func (s *Server) handshakeFailed(ctx context.Context, client *peekedConn, err error) {
	d := client.door
	if why := d.wrongName(); why != "" {
		req := s.headless(d, "CONNECT "+withoutUser(d.authority)+" HTTP/1.1", head{host: d.misnamed})
		r := s.gate.Reject(context.WithoutCancel(ctx), req, http.StatusMisdirectedRequest, ReasonMisdirected, why)
		if r != nil {
			s.logRefusal(req, r, time.Now())
		}
		return
	}
	if !distrusts(err, client.greeted) {
		if refusedHello(err) {
			s.unopened(ctx, d, "The TLS handshake failed: "+printable(err.Error())+".")
			return
		}
		s.log.Debug("TLS handshake failed", zap.String("authority", withoutUser(d.authority)), zap.String("client", d.remote), zap.Error(err))
		return
	}
	s.metrics.distrusted.Inc()
	s.gate.Fault("client_trust", nil)
	fields := []zap.Field{
		zap.String("authority", withoutUser(d.authority)), zap.String("client", d.remote), zap.String("agent", d.identity.AgentID), zap.Error(err),
		zap.String("trust", "run `actpass ca export` and point the client at it: NODE_EXTRA_CA_CERTS, SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or AWS_CA_BUNDLE; `actpass run` sets them all"),
	}
	if demands(d.floor) || fails(s.gate.ModeFor(d.identity)) {
		s.log.Warn("a client does not trust the CA; its calls to this host cannot be judged and do not leave", fields...)
		return
	}
	s.distrust.note(d.remote, d.host, d.port)
	s.log.Warn("a client does not trust the CA; its next connections to this host pass uninspected", append(fields, zap.Duration("for", s.distrust.span))...)
}

// refusedHello says whether it was we who ended a handshake: over a version or an
// application protocol that is not spoken here, a server name that is none (one with
// a dot at its end, RFC 6066 section 3), or bytes that are no TLS at all.
func refusedHello(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && (op.Op == "remote error" || op.Op == "read" || op.Op == "write") {
		return false
	}
	return !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, context.Canceled) &&
		!errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) && !errors.Is(err, net.ErrClosed)
}

// unopened records a connection inside which no request could be read.
func (s *Server) unopened(ctx context.Context, d *doorway, detail string) {
	req := s.headless(d, "CONNECT "+withoutUser(d.authority)+" HTTP/1.1", head{})
	if r := s.gate.Reject(context.WithoutCancel(ctx), req, http.StatusBadRequest, ReasonMalformed, detail); r != nil {
		s.logRefusal(req, r, time.Now())
	}
}

// distrusts says whether a handshake failed because the client does not accept
// our certificate: it said so in an alert, or hung up on seeing it.
func distrusts(err error, greeted bool) bool {
	if greeted && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		return true
	}
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" && op.Op != "local error" {
		return false
	}
	// crypto/tls keeps its alert type to itself, but it is a number.
	v := reflect.ValueOf(op.Err)
	if v.Kind() != reflect.Uint8 {
		return false
	}
	if op.Op == "local error" {
		// OpenSSL sends the alert about a TLS 1.3 server's certificate in the clear,
		// where an encrypted record is due: it is read as one whose MAC is bad.
		return greeted && v.Uint() == 20
	}
	switch v.Uint() {
	case 42, 43, 46, 48: // bad, unsupported, unknown certificate, unknown CA (RFC 8446 section 6.2)
		return true
	}
	return false
}

// maxDistrust bounds the memory that clients' distrust can take.
const maxDistrust = 1024

// distrust remembers which clients do not trust the CA, by address and host.
type distrust struct {
	span time.Duration
	now  func() time.Time
	any  atomic.Bool // whether until has entries: most never have

	mu    sync.Mutex
	until map[distrustKey]time.Time
}

type distrustKey struct{ client, host, port string }

func newDistrust(span time.Duration, now func() time.Time) *distrust {
	return &distrust{span: span, now: now, until: make(map[distrustKey]time.Time)}
}

func (d *distrust) has(client, host, port string) bool {
	if !d.any.Load() {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	until, ok := d.until[distrustKey{client, host, port}]
	return ok && d.now().Before(until)
}

func (d *distrust) note(client, host, port string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	if len(d.until) >= maxDistrust {
		for k, until := range d.until {
			if !now.Before(until) {
				delete(d.until, k)
			}
		}
		for k := range d.until {
			if len(d.until) < maxDistrust {
				break
			}
			delete(d.until, k)
		}
	}
	d.until[distrustKey{client, host, port}] = now.Add(d.span)
	d.any.Store(true)
}

func (d *distrust) forget(client, host, port string) {
	if !d.any.Load() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.until, distrustKey{client, host, port})
	d.any.Store(len(d.until) > 0)
}
