package proxy

import (
	"context"
	"encoding/base64"
	"errors"
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
	ReasonUnauthenticated = "request.unauthenticated"
	ReasonIdentityUnknown = "request.identity_unavailable"
	ReasonNoRoute         = "request.no_route"
	ReasonFault           = "request.fault"
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
	x := &exchange{s: s, w: w, r: r, conn: c, live: s.live.Load(), start: time.Now()}
	defer x.end()
	var h head
	if c.lint != nil {
		var sure bool
		if h, sure = c.lint.next(); !sure {
			h.close = true
			x.unjudged(http.StatusBadRequest, ReasonMalformed, "The framing of an earlier request on this connection was not certain, so this one was not read.", h)
			return
		}
	}
	x.closing = h.close
	switch {
	case h.tooLarge || r.ProtoMajor > 1 && headSize(r) > s.opt.MaxHeaderBytes:
		x.unjudged(http.StatusRequestHeaderFieldsTooLarge, ReasonHeadTooLarge,
			fmt.Sprintf("The request head is larger than %d bytes.", s.opt.MaxHeaderBytes), h)
	case r.Method == http.MethodConnect:
		x.connect(h)
	case r.Method == "PRI":
		x.unjudged(http.StatusBadRequest, ReasonMalformed, "HTTP/2 without TLS is not spoken here.", h)
	default:
		x.judge(h)
	}
}

// judge is the one path from a request to the gate.
func (x *exchange) judge(h head) {
	if !x.describe(h) {
		return
	}
	permit, refusal := x.s.gate.Check(x.r.Context(), x.req)
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

// describe fills the gate's request. It answers false when it has refused.
func (x *exchange) describe(h head) bool {
	r := x.r
	if r.Header["Pragma"] != nil && x.conn.lint != nil && !h.hasCacheControl {
		delete(r.Header, "Cache-Control") // net/http made it up (RFC 7234 section 5.4)
	}
	claims, found := stripRequest(r.Header)
	x.closing = x.closing || len(found) > 0
	x.req = &gate.Request{
		Door: x.conn.door, UserID: claims.user, Goal: claims.goal, Passport: claims.passport,
		Identity: x.s.gate.ConfigIdentity(),
		Head: mapping.Request{
			Method: r.Method, Host: h.host, Header: r.Header,
			ContentLength: r.ContentLength, Upgrade: claims.upgrade,
		},
		Findings: append(append(h.findings, x.conn.findings...), found...),
	}
	if x.conn.lint == nil {
		x.req.Head.Host = r.Host
		if hosts := r.Header["Host"]; hosts != nil {
			if len(hosts) != 1 || hosts[0] != r.Host {
				x.find(http.StatusMisdirectedRequest, mapping.ClassAuthority, "the request has both :authority and another Host")
			}
			delete(r.Header, "Host")
		}
	}
	if claims.upgrade != "" && r.ContentLength != 0 {
		x.req.Head.Upgrade = "" // lint has noted it
	}
	if !x.identify(claims.proxyAuth) {
		return false
	}
	ok := false
	switch x.conn.door {
	case gate.DoorForward:
		ok = x.describeForward()
	case gate.DoorConnect:
		ok = x.describeInside()
	case gate.DoorReverse:
		ok = x.describeReverse()
	}
	if !ok {
		if x.status == 0 {
			x.reject(http.StatusBadRequest, ReasonMalformed, "The request cannot be read.")
		}
		return false
	}
	if t := x.req.Head.Target; t == "" || t[0] != '/' && (t != "*" || r.Method != http.MethodOptions) || unsendable(t) {
		x.reject(http.StatusBadRequest, ReasonMalformed, "The request target cannot be sent as it came.")
		return false
	}
	if r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 {
		x.body = &body{src: r.Body, length: r.ContentLength, control: http.NewResponseController(x.w), lint: x.conn.lint}
		x.req.Body = x.body
	}
	return true
}

// describeForward reads an absolute-form request (RFC 9112 section 3.2.2).
func (x *exchange) describeForward() bool {
	scheme, authority, target, ok := splitAbsolute(x.r.RequestURI)
	if !ok {
		x.reject(http.StatusBadRequest, ReasonNotForProxy,
			"This is a forward proxy: it takes absolute http:// and https:// URLs and CONNECT. The reverse door is another address.")
		return false
	}
	if target == "" {
		target = "/"
		if x.r.Method == http.MethodOptions {
			target = "*" // RFC 9112 section 3.2.4
		}
	}
	return x.address(scheme, authority, target)
}

// describeInside reads a request inside a CONNECT.
func (x *exchange) describeInside() bool {
	head := &x.req.Head
	head.Scheme, head.Authority, head.Target = x.conn.scheme, x.conn.authority, x.r.RequestURI
	x.host, x.port = x.conn.host, x.conn.port
	if scheme, authority, target, ok := splitAbsolute(x.r.RequestURI); ok {
		// A server must take it (RFC 9112 section 3.2.2), and then the target's
		// authority is the one that counts.
		if target == "" {
			target = "/"
		}
		if scheme != head.Scheme || authority != head.Host && head.Host != "" {
			x.find(http.StatusMisdirectedRequest, mapping.ClassAuthority, "the request target and the Host header name different places")
		}
		head.Host, head.Target = authority, target
	}
	x.sendHost = head.Host
	if x.sendHost == "" {
		x.sendHost = hostHeader(head.Scheme, x.host, x.port)
	}
	return true
}

// address sets where an absolute-form request goes.
func (x *exchange) address(scheme, authority, target string) bool {
	head := &x.req.Head
	head.Scheme, head.Authority, head.Target = scheme, authority, target
	host, port, err := mapping.Authority(scheme, authority)
	if host == "" || port == "" {
		detail := "The request names no host."
		if err != nil {
			detail = "The request names no usable host: " + printable(err.Error()) + "."
		}
		x.reject(http.StatusBadRequest, ReasonMalformed, detail)
		return false
	}
	x.host, x.port = host, port
	// RFC 9112 section 3.2.2: the target's authority replaces the Host header. As
	// the client spelt it, where the two agree.
	x.sendHost = authority[strings.LastIndexByte(authority, '@')+1:]
	if err != nil {
		x.sendHost = hostHeader(scheme, host, port)
	}
	return true
}

// splitAbsolute takes an absolute-form target apart without decoding anything.
func splitAbsolute(uri string) (scheme, authority, target string, ok bool) {
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return "", "", "", false
	}
	scheme = strings.ToLower(scheme)
	if scheme != "http" && scheme != "https" {
		return "", "", "", false
	}
	i := strings.IndexAny(rest, "/?#")
	if i < 0 {
		return scheme, rest, "", true
	}
	authority, target = rest[:i], rest[i:]
	if target[0] != '/' {
		target = "/" + target
	}
	return scheme, authority, target, true
}

// unsendable says whether a target would not survive a request line.
func unsendable(target string) bool {
	for i := range len(target) {
		if target[i] <= ' ' || target[i] == 0x7f {
			return true
		}
	}
	return false
}

// hostHeader is the Host header for a canonical host and port.
func hostHeader(scheme, host, port string) string {
	if strings.IndexByte(host, ':') >= 0 {
		host = "[" + host + "]"
	}
	if scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		return host
	}
	return host + ":" + port
}

func (x *exchange) find(status int, class, detail string) {
	x.req.Findings = append(x.req.Findings, mapping.Ambiguity{Class: class, Detail: detail, Status: status})
}

// identify finds out who calls. It answers false when it has refused.
func (x *exchange) identify(auth []string) bool {
	if x.conn.known {
		x.req.Identity = x.conn.identity
		return true
	}
	id, finding, refusal := x.s.identify(x.r.Context(), x.req, auth)
	if refusal != nil {
		x.refuse(refusal)
		return false
	}
	x.req.Identity = id
	if finding != nil {
		x.req.Findings = append(x.req.Findings, *finding)
	}
	return true
}

// identify reads Proxy-Authorization. Credentials that do not hold are refused
// under enforce and strict; under monitor and warn the call goes on under the
// configured identity, and the finding says so.
func (s *Server) identify(ctx context.Context, req *gate.Request, auth []string) (gate.Identity, *mapping.Ambiguity, *gate.Refusal) {
	configured := s.gate.ConfigIdentity()
	if len(auth) == 0 {
		return configured, nil, nil
	}
	detail := "the key in Proxy-Authorization is not known, revoked or expired, or belongs to another agent"
	agent, key, ok := basicAuth(auth)
	var err error
	if ok {
		var id gate.Identity
		if id, err = s.gate.Authenticate(ctx, key, agent); err == nil {
			return id, nil, nil
		}
	} else {
		err, detail = gate.ErrNotAllowed, "Proxy-Authorization is not one Basic credential of agent and key"
	}
	lenient := !fails(s.gate.ModeFor(configured))
	if !errors.Is(err, gate.ErrNotAllowed) {
		s.gate.Fault("identity", fmt.Errorf("look up the key in Proxy-Authorization: %w", err))
		if lenient {
			return configured, nil, nil
		}
		return configured, nil, s.gate.Reject(ctx, req, http.StatusServiceUnavailable, ReasonIdentityUnknown,
			"Who is calling could not be looked up, so the call did not leave.")
	}
	if lenient {
		return configured, &mapping.Ambiguity{Class: mapping.ClassHeader, Status: http.StatusProxyAuthRequired, Detail: detail}, nil
	}
	return configured, nil, s.gate.Reject(ctx, req, http.StatusProxyAuthRequired, ReasonUnauthenticated,
		"The call did not leave: "+detail+". Set the proxy URL to http://AGENT:KEY@HOST:PORT with a key that is in force.")
}

// fails says whether a mode fails closed.
func fails(mode string) bool { return mode != gate.ModeMonitor && mode != gate.ModeWarn }

func basicAuth(auth []string) (user, password string, ok bool) {
	if len(auth) != 1 {
		return "", "", false
	}
	scheme, rest, ok := strings.Cut(auth[0], " ")
	if !ok || !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimLeft(rest, " "))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(b), ":")
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
			Method: printable(method), Scheme: d.scheme, Authority: d.authority, Host: printable(h.host), Target: printable(target), ContentLength: -1,
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
	if status < 400 || status > 599 {
		return nil
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
