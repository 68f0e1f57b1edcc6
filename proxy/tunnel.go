package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
)

// tunnel is a CONNECT whose bytes are not inspected. It is an action like any
// other (http.connect on host:port), judged before the upstream is dialled.
type tunnel struct {
	s          *Server
	client     *peekedConn
	req        *gate.Request
	live       *live
	host, port string
	start      time.Time
	guard      bool // late TLS or HTTP ends it, whatever the mode
	passed     bool // settings pass it unread, so TLS and HTTP are what is expected in it
}

// serve judges, dials and relays. answered says that the client has had its 200
// already, and can only be told no by closing.
func (t *tunnel) serve(ctx context.Context, answered bool) {
	tell := func(r *gate.Refusal) {
		if answered {
			return
		}
		a := render(r)
		_ = t.client.SetWriteDeadline(time.Now().Add(t.s.opt.PeekTimeout))
		_, _ = t.client.Write(a.raw())
	}
	permit, refusal := t.check(ctx)
	if permit == nil {
		if refusal == nil {
			refusal = &gate.Refusal{Status: http.StatusForbidden, Sentence: "The tunnel was refused."}
		}
		t.s.logRefusal(t.req, refusal, t.start)
		tell(refusal)
		return
	}
	d := permit.Decision()
	host, port := t.host, t.port
	if out := permit.Outbound(); out.Head.Authority != t.req.Head.Authority {
		host, port = "", "" // what was judged is not what was asked
	}
	up, err := t.live.dialer.dial(ctx, net.JoinHostPort(host, port))
	if err != nil {
		var de *dialError
		status, code := http.StatusBadGateway, ReasonUpstreamUnreachable
		if errors.As(err, &de) {
			code = de.code
		}
		switch code {
		case ReasonAddressRefused:
			status = http.StatusForbidden
			d.Decision, d.Enforcement = "deny", "block"
		case ReasonUpstreamTimeout:
			status = http.StatusGatewayTimeout
		}
		t.s.metrics.upstreamErrors.WithLabelValues(code).Inc()
		permit.Done(gate.Outcome{State: evidence.StateRefused, Status: status, Error: code + ": " + printable(err.Error())})
		d.ReasonCode = code
		r := &gate.Refusal{Status: status, Decision: d, Sentence: "The tunnel was not opened: " + printable(err.Error()) + "."}
		t.s.logRefusal(t.req, r, t.start)
		tell(r)
		return
	}
	if !t.s.tunnels.add(up) {
		permit.Done(gate.Outcome{State: evidence.StateRefused, Error: "the sidecar is stopping"})
		return
	}
	defer t.s.tunnels.remove(up)
	if !answered {
		a := answer{header: make(http.Header, 5)}
		a.decision(d)
		if warning := permit.Warning(); warning != "" {
			a.header["ActPass-Warning"] = []string{printable(warning)}
		}
		if d.ApprovalRequestID != "" {
			a.header["ActPass-Approval"] = []string{d.ApprovalRequestID}
		}
		if _, err := io.WriteString(t.client, "HTTP/1.1 200 Connection established\r\n"+headerLines(a.header)+"\r\n"); err != nil {
			_ = up.Close()
			permit.Done(gate.Outcome{State: evidence.StateRefused, Error: "the client went away before a byte was sent"})
			return
		}
	}
	// A client that was silent, or slow, may yet begin what would have been opened
	// and judged by its calls, had it begun in time.
	guarded := !t.passed && (answered && fails(d.Mode) || t.guard)
	sent, received, stopped := t.s.splice(t.client, up, guarded)
	o := gate.Outcome{State: evidence.StateForwarded, Status: http.StatusOK, Bytes: received}
	if stopped != nil {
		o.State, o.Status, o.Error = evidence.StateRefused, http.StatusForbidden, gate.ReasonAmbiguous+": "+stopped.Error()
		d.Decision, d.Enforcement, d.ReasonCode = "deny", "block", gate.ReasonAmbiguous
	}
	permit.Done(o)
	t.s.log.Info("call", append(logHead(t.req),
		zap.String("tool", d.Tool), zap.String("decision", d.Decision), zap.String("reason", d.ReasonCode), zap.String("enforcement", d.Enforcement),
		zap.String("mode", d.Mode), zap.Int("status", o.Status), zap.String("note", o.Error), zap.String("opaque", t.req.Opaque), zap.Int64("sent", sent), zap.Int64("received", received),
		zap.Duration("duration", time.Since(t.start)), zap.String("event", d.EvidenceEventID))...)
}

// check asks the gate, and takes the question back when the client goes away
// while it waits for a human. What the client sends meanwhile is kept.
func (t *tunnel) check(ctx context.Context) (*gate.Permit, *gate.Refusal) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if _, err := t.client.peek(len(t.client.prefix) + 1); err != nil && !isTimeout(err) {
			cancel()
		}
	}()
	permit, refusal := t.s.gate.Check(ctx, t.req)
	_ = t.client.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
	<-watched
	_ = t.client.SetReadDeadline(time.Time{})
	return permit, refusal
}

func headerLines(h http.Header) string {
	var b strings.Builder
	_ = h.Write(&b)
	return b.String()
}

// errNotOpaque ends a tunnel that was judged as one which nobody can look into.
var errNotOpaque = errors.New("the client began to speak TLS or HTTP after the tunnel was judged as one that cannot be inspected; nothing of it was sent")

// splice relays both ways until both are done or one breaks, and closes both.
// Of a guarded tunnel, nothing goes up before it is sure that the client begins
// neither TLS nor HTTP; stopped says that it does.
func (s *Server) splice(client, up net.Conn, guarded bool) (sent, received int64, stopped error) {
	s.metrics.openTunnels.Inc()
	defer s.metrics.openTunnels.Dec()
	var toUp atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		if p, ok := client.(*peekedConn); ok && guarded {
			// An error of reading comes again in pipe.
			if o, _ := p.opening(); o == beginsTLS || o == beginsHTTP {
				stopped = errNotOpaque
				_ = up.Close()
				_ = client.Close()
				return
			}
		}
		n, err := pipe(up, client)
		toUp.Store(n)
		if err != nil {
			_ = up.Close()
			_ = client.Close()
		}
	})
	received, err := pipe(client, up)
	if err != nil {
		_ = up.Close()
		_ = client.Close()
	}
	wg.Wait()
	_ = up.Close()
	_ = client.Close()
	return toUp.Load(), received, stopped
}

// pipe copies until src ends, and passes the end on.
func pipe(dst, src net.Conn) (int64, error) {
	var n int64
	if p, ok := src.(*peekedConn); ok {
		if len(p.prefix) > 0 {
			k, err := dst.Write(p.prefix)
			n, p.prefix = int64(k), nil
			if err != nil {
				return n, err
			}
		}
		src = p.Conn
	}
	to := io.Writer(dst)
	if p, ok := dst.(*peekedConn); ok {
		to = p.Conn
	}
	// From and to a TCPConn this is splice(2): the bytes never come up here.
	k, err := io.Copy(to, src)
	n += k
	if err != nil {
		return n, err
	}
	if cw, ok := dst.(interface{ CloseWrite() error }); ok {
		return n, cw.CloseWrite()
	}
	return n, errNoHalfClose
}

var errNoHalfClose = errors.New("the connection has no half-close")

// intercepts says whether a CONNECT to a canonical host and port is opened.
func (l *live) intercepts(host, port string) bool {
	return !l.passes(host, port) && (l.intercept.Scope != ScopeMapped || l.intercept.Maps(host, port))
}

// passes says whether intercept.passthrough names a canonical host and port.
func (l *live) passes(host, port string) bool {
	for _, g := range l.passthrough {
		if g.matches(host, port) {
			return true
		}
	}
	return false
}

// mapped says whether a mapping rule could match traffic to a canonical host and
// port. Who does not say which hosts are mapped may map them all.
func (l *live) mapped(host, port string) bool {
	return l.intercept.Maps == nil || l.intercept.Maps(host, port)
}

// hostGlob matches a host by label: * stands for exactly one label.
type hostGlob struct {
	labels []string
	port   string // "": any
}

func parseHostGlob(s string) (hostGlob, error) {
	host, port := s, ""
	if h, p, err := net.SplitHostPort(s); err == nil {
		host, port = h, p
	}
	if strings.Trim(host, "*.") != "" && !strings.Contains(host, "*") {
		h, p, err := mapping.Authority("https", s)
		if err != nil {
			return hostGlob{}, fmt.Errorf("%q: %w", s, err)
		}
		if port != "" {
			port = p
		}
		host = h
	}
	g := hostGlob{labels: strings.Split(strings.ToLower(host), "."), port: port}
	for _, l := range g.labels {
		if l == "" || l != "*" && strings.ContainsAny(l, "*?{}") {
			return hostGlob{}, fmt.Errorf("%q: must be a host, with * for a whole label, and an optional port", s)
		}
	}
	return g, nil
}

func (g hostGlob) matches(host, port string) bool {
	if g.port != "" && g.port != port {
		return false
	}
	for i, l := range g.labels {
		label, rest, more := strings.Cut(host, ".")
		if l != label && (l != "*" || label == "") || more != (i < len(g.labels)-1) {
			return false
		}
		host = rest
	}
	return true
}
