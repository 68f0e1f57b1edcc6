package proxy

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
)

// Reason codes of requests that never became a call.
const (
	ReasonMalformed       = "request.malformed"
	ReasonHeadTooLarge    = "request.head_too_large"
	ReasonNotForProxy     = "request.not_for_proxy"
	ReasonConnectInvalid  = "request.connect_invalid"
	ReasonConnectInside   = "request.connect_inside"
	ReasonMisdirected     = "request.misdirected"
	ReasonUnauthenticated = gate.ReasonUnauthenticated
	ReasonIdentityUnknown = gate.ReasonIdentity
	ReasonNoRoute         = gate.ReasonNoRoute
	ReasonFault           = gate.ReasonFault
)

// exchange is one request on its way through, whatever door it came by.
type exchange struct {
	s     *Server
	w     http.ResponseWriter
	r     *http.Request
	conn  *accepted
	live  *live
	start time.Time

	req        *gate.Request
	host, port string // canonical, to be dialled
	sendHost   string // Host header for the upstream
	body       *body
	stream     *stream // the body as it is sent, where it streams
	permit     *gate.Permit
	sending    *sending // how far net/http came with it; nil: it was not asked
	keep       *keeping // the answer so far, where retries get it again

	closing  bool // the connection must not be used after this answer
	wrote    bool // the answer has begun
	status   int
	decision evidence.Decision
	note     string // for the log
}

// serveHTTP is the one way in for every request of every door.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	c, _ := r.Context().Value(connKey{}).(*accepted)
	if c == nil || c.doorway == nil {
		panic("proxy: a request on a connection that no door accepted")
	}
	if a := c.aside; a != nil {
		c.aside = nil
		a.resume(w, r)
		return
	}
	x := &exchange{s: s, w: w, r: r, conn: c, live: s.live.Load(), start: time.Now()}
	defer x.end()
	if !x.admit() {
		return
	}
	held, permit, refusal := s.gate.Begin(r.Context(), x.req)
	if held != nil {
		if x.setAside(held) {
			return
		}
		permit, refusal = held.Wait(r.Context())
	}
	x.checked(permit, refusal)
}

// admit reads what is known of a request ahead of its judgement. It answers false
// when the request has been answered, or its connection was taken over.
func (x *exchange) admit() bool {
	var h head
	if lint := x.conn.lint; lint != nil {
		var sure bool
		if h, sure = lint.next(); !sure {
			h.close = true
			x.unjudged(http.StatusBadRequest, ReasonMalformed, "The framing of an earlier request on this connection was not certain, so this one was not read.", h)
			return false
		}
	}
	if h.target != "" {
		x.r.RequestURI = h.target
	}
	x.closing = h.close
	limit := x.s.opt.MaxHeaderBytes
	switch {
	case x.conn.wrongName() != "":
		h.close = true
		x.unjudged(http.StatusMisdirectedRequest, ReasonMisdirected, x.conn.wrongName(), h)
	case h.tooLarge || x.r.ProtoMajor > 1 && headSize(x.r) > limit:
		x.unjudged(http.StatusRequestHeaderFieldsTooLarge, ReasonHeadTooLarge,
			fmt.Sprintf("The request head is larger than %d bytes.", limit), h)
	case x.r.Method == http.MethodConnect:
		x.connect(h)
	case x.r.Method == "PRI":
		x.unjudged(http.StatusBadRequest, ReasonMalformed, "HTTP/2 without TLS is not spoken here.", h)
	default:
		return x.describe(h)
	}
	return false
}

// checked is the one way from the gate's answer to the upstream. It is not inlined
// because its caller's stack is that of calls which wait.
//
//go:noinline
func (x *exchange) checked(permit *gate.Permit, refusal *gate.Refusal) {
	if permit == nil {
		if refusal == nil {
			refusal = &gate.Refusal{Status: http.StatusForbidden, Sentence: "The call was refused."}
		}
		x.refuse(refusal)
		return
	}
	x.permit, x.decision = permit, permit.Decision()
	x.forward()
}

func (x *exchange) find(status int, class, detail string) {
	x.req.Findings = append(x.req.Findings, mapping.Ambiguity{Class: class, Detail: detail, Status: status})
}

// unjudged refuses a request that was not described.
func (x *exchange) unjudged(status int, code, detail string, h head) {
	x.closing = x.closing || h.close
	line := h.line
	if line == "" {
		line = x.r.Method + " " + x.r.RequestURI + " " + x.r.Proto
	}
	x.req = x.s.headless(x.conn.doorway, line, h)
	x.reject(status, code, detail)
}

// headless is the request of which no more than its first line is known.
func (s *Server) headless(d *doorway, line string, h head) *gate.Request {
	method, rest, _ := strings.Cut(line, " ")
	target, _, _ := strings.Cut(rest, " ")
	req := &gate.Request{
		Door: d.door, Identity: s.gate.ConfigIdentity(), Findings: h.findings,
		Head: mapping.Request{
			Method: printable(method), Scheme: d.scheme, Authority: d.authority, Host: printable(withoutUser(h.host)), Target: printable(withoutUser(target)), ContentLength: -1,
		},
	}
	if d.known {
		req.Identity = d.identity
	}
	if scheme, authority, target, ok := splitAbsolute(req.Head.Target); ok && d.authority == "" {
		req.Head.Scheme, req.Head.Authority, req.Head.Target = scheme, authority, target
	}
	return req
}

// rejectedHead answers a head that net/http refused. See lintConn.rejected.
func (s *Server) rejectedHead(c *lintConn, h *head, theirs []byte) []byte {
	status := http.StatusBadRequest
	var minor int
	_, _ = fmt.Sscanf(string(theirs[:min(len(theirs), 16)]), "HTTP/1.%d %d", &minor, &status)
	switch {
	case status < 400 || status > 599:
		return nil
	case status >= 500:
		// A coding or a version that is not spoken here (501, 505): for who asks, the
		// request is not well formed, and trying again elsewhere is no answer.
		status = http.StatusBadRequest
	}
	detail := "The request head is not well-formed HTTP."
	if len(h.findings) > 0 {
		detail = "The request head is not well-formed HTTP: " + h.findings[0].Detail + "."
	}
	code := ReasonMalformed
	if status == http.StatusRequestHeaderFieldsTooLarge {
		code = ReasonHeadTooLarge
	}
	req := s.headless(c.door, h.line, *h)
	refusal := s.gate.Reject(context.Background(), req, status, code, detail)
	if refusal == nil {
		return nil
	}
	s.logRefusal(req, refusal, time.Now())
	a := render(refusal)
	return a.raw()
}

// reject has the gate record and render a refusal of what is no call.
func (x *exchange) reject(status int, code, detail string) {
	refusal := x.s.gate.Reject(x.r.Context(), x.req, status, code, detail)
	if refusal == nil {
		refusal = &gate.Refusal{Status: status, Sentence: detail, Decision: evidence.Decision{Decision: "deny", ReasonCode: code}}
	}
	x.refuse(refusal)
}

// refuse tells the agent.
func (x *exchange) refuse(refusal *gate.Refusal) {
	if refusal.Shape == "" && isGRPC(x.r.Header) {
		refusal.Shape = "grpc"
	}
	if refusal.Retry {
		// The client comes back after a pause, and some (stripe-node) drop this answer
		// unread until then: an open connection would keep such a process from ending.
		x.closing = true
	}
	a := render(refusal)
	x.decision, x.status, x.note = refusal.Decision, refusal.Status, "refused"
	x.answer(&a)
}

// answer sends an answer of our own.
func (x *exchange) answer(a *answer) {
	x.wrote = true
	if x.mustClose() {
		a.header["Connection"] = []string{"close"}
	}
	a.write(x.w, x.r)
}

// mustClose says whether what was seen of this connection makes it unfit for
// another request. Over HTTP/2, net/http takes the header as a wish to go away,
// which would cost the other streams; framing cannot be ambiguous there.
func (x *exchange) mustClose() bool {
	return x.conn.lint != nil && (x.closing || x.conn.lint.bodyFault() != "")
}

func isGRPC(h http.Header) bool {
	ct := h["Content-Type"]
	return len(ct) == 1 && strings.HasPrefix(ct[0], "application/grpc") && !strings.HasPrefix(ct[0], "application/grpc-web")
}

// end is the last step of every exchange: a panic costs one request, the
// outcome is reported, and there is one log line.
func (x *exchange) end() {
	p := recover()
	if p != nil && p != http.ErrAbortHandler { //nolint:errorlint // the value itself is panicked
		err := fmt.Errorf("serve a request: panic: %v", p)
		x.s.gate.Fault("panic", err)
		x.s.log.Error("panic while serving a request", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
		if x.permit != nil {
			// How far it came is not known.
			x.permit.Done(gate.Outcome{State: evidence.StateAmbiguous, Status: http.StatusInternalServerError, Error: "the sidecar failed while it forwarded the call"})
		}
		if x.wrote {
			p = http.ErrAbortHandler
		} else {
			p = nil
			x.status = http.StatusInternalServerError
			d := x.decision
			d.ReasonCode = ReasonFault
			if x.permit == nil {
				d.Decision = "deny"
			}
			a := render(&gate.Refusal{Status: x.status, Decision: d, Sentence: "The sidecar failed while it handled this call. The fault is recorded."})
			x.answer(&a)
		}
	}
	x.log()
	if p != nil {
		panic(p)
	}
}

// headSize is the size of a request head as HTTP/1 would write it.
func headSize(r *http.Request) int {
	n := len(r.Method) + len(r.RequestURI) + len(r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v) + 4
		}
	}
	return n
}
