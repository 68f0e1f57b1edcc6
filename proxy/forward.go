package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// forward sends what the permit holds, and nothing else, and relays the answer.
func (x *exchange) forward() {
	out := x.permit.Outbound()
	if x.body != nil && x.body.err != nil {
		// Permitted though unreadable (monitor, warn). But there is no whole body,
		// so whatever was sent would not be the agent's request.
		err := printable(x.body.err.Error())
		x.permit.Done(gate.Outcome{State: evidence.StateRefused, Status: http.StatusBadRequest, Error: ReasonMalformed + ": " + err})
		x.failed(http.StatusBadRequest, ReasonMalformed, "The call was not sent, because its body broke off: "+err+".")
		return
	}
	resp, sent, err := x.direct(&out)
	if sent {
		if err != nil {
			x.unanswered(err)
			return
		}
		x.answered(resp, &out)
		return
	}
	watch := &sending{counted: out.Counted}
	defer watch.end()
	x.sending = watch
	req, err := x.outgoing(&out)
	if err != nil {
		x.permit.Done(gate.Outcome{State: evidence.StateRefused, Status: http.StatusBadRequest, Error: err.Error()})
		x.failed(http.StatusBadRequest, ReasonMalformed, "The call was permitted but cannot be sent as it was judged: "+err.Error()+".")
		return
	}
	transport := x.live.upstream.pooled
	if out.Head.Upgrade != "" {
		transport = x.live.upstream.upgrade
	}
	if out.Once {
		var release func()
		if resp, release, err = alone(transport, req); err == nil {
			defer release()
		}
	} else {
		resp, err = transport.RoundTrip(req)
	}
	if err != nil {
		x.unanswered(err)
		return
	}
	x.answered(resp, &out)
}

func (x *exchange) answered(resp *http.Response, out *gate.Outbound) {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		x.switchProtocols(resp, out.Head.Upgrade)
		return
	}
	x.relay(resp)
}

// direct sends what needs no more than one connection of HTTP/1.1; tried is false
// for what does.
func (x *exchange) direct(out *gate.Outbound) (resp *http.Response, tried bool, err error) {
	head := &out.Head
	if out.Once || head.Upgrade != "" || head.Authority != x.req.Head.Authority || head.Scheme != x.req.Head.Scheme {
		return nil, false, nil
	}
	if x.body != nil && (!out.Read || !x.body.whole || len(out.Body) > upMaxBody) {
		return nil, false, nil
	}
	addr := net.JoinHostPort(x.host, x.port)
	pool := x.live.upstream.kept
	if !pool.speaks(head.Scheme, addr) || !plainHost(x.sendHost) {
		return nil, false, nil
	}
	buf, _ := upBuffers.Get().(*[]byte)
	defer upBuffers.Put(buf)
	body := out.Body
	if x.body == nil {
		body = nil
	} else if body == nil {
		body = []byte{}
	}
	b, err := appendCall((*buf)[:0], head.Method, head.Target, x.sendHost, head.Header, body)
	if err != nil {
		return nil, false, nil // net/http says what is wrong with it
	}
	*buf = b
	resp, err = pool.roundTrip(x.r.Context(), &upCall{method: head.Method, scheme: head.Scheme, addr: addr, bytes: b, counted: out.Counted})
	return resp, true, err
}

// outgoing builds the upstream request from what was judged.
func (x *exchange) outgoing(out *gate.Outbound) (*http.Request, error) {
	head := &out.Head
	if head.Authority != x.req.Head.Authority || head.Scheme != x.req.Head.Scheme {
		return nil, errors.New("its authority changed after it was judged")
	}
	u, err := targetURL(head.Scheme, net.JoinHostPort(x.host, x.port), head.Target)
	if err != nil {
		return nil, err
	}
	h := maps.Clone(http.Header(head.Header)) // the gate keeps the judged one
	if h == nil {
		h = http.Header{}
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // none was sent, so none is added
	}
	// net/http takes an Idempotency-Key as leave to send a request again after it
	// was written. Under a name that is not canonical it does not see it; header
	// names are case-insensitive to everyone else.
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		if v, ok := h[name]; ok {
			delete(h, name)
			h[strings.ToLower(name)] = v
		}
	}
	if head.Upgrade != "" {
		h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{head.Upgrade}
	}
	ctx := x.r.Context()
	if out.Once {
		// It cannot be sent again, so it is not given up when the agent goes away:
		// what became of it is worth knowing.
		ctx = context.WithoutCancel(ctx)
	}
	req := (&http.Request{Method: head.Method, URL: u, Host: x.sendHost, Header: h, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(x.sending.watch(ctx))
	x.attach(req, out)
	return req, nil
}

// attach gives req its body.
func (x *exchange) attach(req *http.Request, out *gate.Outbound) {
	b := x.body
	switch {
	case b == nil:
		return
	case out.Read && b.whole:
		delete(req.Header, "Expect") // the body is here: nobody needs to wait
		req.ContentLength = int64(len(out.Body))
		if len(out.Body) == 0 {
			req.Body = http.NoBody
			return
		}
		req.Body = io.NopCloser(bytes.NewReader(out.Body))
		if !out.Once {
			// Leave to try another connection when the kept one turned out dead
			// before a byte was written. net/http writes a call again, too, when its
			// method is safe (RFC 9110 section 9.2.2; it sees no idempotency key), and
			// when an HTTP/2 upstream says that it did not look at it (RFC 9113 section
			// 8.7); never one that is counted, see sending.
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Body)), nil }
		}
	default:
		req.ContentLength = x.req.Head.ContentLength
		rest := io.Reader(b.src)
		if out.Read {
			rest = io.MultiReader(bytes.NewReader(out.Body), bytes.NewReader(b.extra), b.src)
		}
		x.stream = &stream{r: rest}
		req.Body = x.stream
		if isGRPC(req.Header) || req.Header["Te"] != nil {
			req.Trailer = x.r.Trailer
			dropOurs(req.Trailer) // those that are announced; the others come with the end
			x.stream.trailer = req.Trailer
		}
		if x.r.ProtoMajor == 1 {
			// Lets the answer begin while the body is still being sent.
			_ = http.NewResponseController(x.w).EnableFullDuplex()
		}
	}
}

// stream is a request body that is read while it is sent.
type stream struct {
	r       io.Reader
	trailer http.Header           // what follows the body, once it has ended
	ended   atomic.Bool           // read to its end
	failed  atomic.Pointer[error] // the client's fault, not the upstream's
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		dropOurs(s.trailer)
		s.ended.Store(true)
	default:
		s.failed.Store(&err)
	}
	return n, err
}

// Close leaves the agent's body to net/http's server, which owns it.
func (s *stream) Close() error { return nil }

// targetURL makes a URL that net/http writes as exactly target.
func targetURL(scheme, hostport, target string) (*url.URL, error) {
	if !strings.HasPrefix(target, "//") {
		return &url.URL{Scheme: scheme, Host: hostport, Opaque: target}, nil
	}
	// An opaque part that begins with // would be written with the scheme.
	path, query, has := strings.Cut(target, "?")
	decoded, err := url.PathUnescape(path)
	u := &url.URL{Scheme: scheme, Host: hostport, Path: decoded, RawPath: path, RawQuery: query, ForceQuery: has && query == ""}
	if err != nil || u.RequestURI() != target {
		return nil, fmt.Errorf("the target %q cannot be written byte for byte", printable(path))
	}
	return u, nil
}

var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// relay sends the upstream's answer on, as it comes.
func (x *exchange) relay(resp *http.Response) {
	defer func() { _ = resp.Body.Close() }()
	x.status = resp.StatusCode
	if x.permit.Keeps() {
		x.keep = &keeping{header: resp.Header.Clone()}
	}
	h := x.w.Header()
	copyAnswer(h, resp.Header)
	x.sign(h)
	dropOurs(resp.Trailer)
	announced := len(resp.Trailer)
	if announced > 0 {
		names := make([]string, 0, announced)
		for name := range resp.Trailer {
			names = append(names, name)
		}
		h["Trailer"] = []string{strings.Join(names, ", ")}
	}
	length := resp.ContentLength
	if isGRPC(resp.Header) && resp.Header["Grpc-Status"] == nil {
		length = -1 // it ends with trailers, and what they say is the answer
	}
	if x.r.Method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		length = 0
	}
	// The outcome is reported before the agent can know that the answer is
	// complete: who has read the answer finds it in the evidence.
	if length == 0 {
		x.done(0, nil)
	}
	x.wrote = true
	x.w.WriteHeader(resp.StatusCode)
	if length == 0 {
		return
	}
	control := http.NewResponseController(x.w)
	if length < 0 {
		_ = control.Flush()
	}
	sent, err := x.copyBody(control, resp.Body, length)
	if x.keep != nil && isGRPC(resp.Header) {
		x.keep.trailer = resp.Trailer
	}
	if err != nil {
		x.done(sent, err)
		panic(http.ErrAbortHandler) // the agent must not take a part for the whole
	}
	dropOurs(resp.Trailer) // trailers need not be announced
	if len(resp.Trailer) > 0 {
		_ = control.Flush() // settles on chunks, so that there is room for trailers
		prefix := ""
		if len(resp.Trailer) != announced {
			prefix = http.TrailerPrefix
		}
		for name, values := range resp.Trailer {
			h[prefix+name] = values
		}
	}
	x.done(sent, nil)
}

// copyBody copies up to the end of the answer, and flushes whenever the
// upstream paused: a token that came is a token that is passed on.
func (x *exchange) copyBody(control *http.ResponseController, src io.Reader, length int64) (int64, error) {
	buf, _ := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	var sent int64
	var gone error // why nobody reads any more
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			sent += int64(n)
			x.keep.add(buf[:n])
			if sent == length {
				x.done(sent, nil)
			}
			if gone == nil {
				if _, werr := x.w.Write(buf[:n]); werr != nil {
					gone = fmt.Errorf("the client went away: %w", werr)
				} else if sent != length {
					if ferr := control.Flush(); ferr != nil {
						gone = fmt.Errorf("the client went away: %w", ferr)
					}
				}
			}
			if gone != nil && !x.keep.wants() {
				return sent, gone
			}
		}
		if errors.Is(err, io.EOF) {
			if x.keep != nil {
				x.keep.ended = true
			}
			return sent, gone
		}
		if err != nil {
			if x.r.Context().Err() != nil {
				return sent, errors.New("the client went away")
			}
			return sent, fmt.Errorf("the answer broke off: %w", err)
		}
	}
}

func (x *exchange) done(sent int64, err error) {
	if k := x.keep; k != nil {
		x.keep = nil // done may be called again
		x.permit.Answered(gate.Answer{Status: x.status, Header: k.header, Body: k.body, Trailer: k.trailer}, !k.over && (err == nil || k.ended))
	}
	o := gate.Outcome{State: evidence.StateForwarded, Status: x.status, Bytes: sent}
	if err != nil {
		o.Error = err.Error()
		x.note = o.Error
	}
	x.permit.Done(o)
}

// keeping collects the answer to a call that a human approved, for retries of
// it. A nil one collects nothing.
type keeping struct {
	header  http.Header
	body    []byte
	trailer http.Header // of gRPC
	over    bool        // larger than is kept
	ended   bool        // it is all there, whether or not the client took it
}

func (k *keeping) add(b []byte) {
	if k == nil || k.over {
		return
	}
	if k.over = len(k.body)+len(b) > gate.MaxKept; k.over {
		k.body = nil
		return
	}
	k.body = append(k.body, b...)
}

// wants says that the rest of the answer is of use even if the client is gone.
func (k *keeping) wants() bool { return k != nil && !k.over }

// sign puts our headers on an answer.
func (x *exchange) sign(h http.Header) {
	d := x.permit.Decision()
	setDecision(h, d)
	if w := x.permit.Warning(); w != "" {
		h["ActPass-Warning"] = []string{printable(w)}
	}
	if d.ApprovalRequestID != "" {
		h["ActPass-Approval"] = []string{d.ApprovalRequestID}
	}
	if x.mustClose() {
		h["Connection"] = []string{"close"}
	}
}

// unanswered reports and tells that a permitted call got no answer.
func (x *exchange) unanswered(err error) {
	var de *dialError
	var ne net.Error
	status, code, state := http.StatusBadGateway, ReasonUpstreamFailed, evidence.StateAmbiguous
	where := hostHeader(x.req.Head.Scheme, x.host, x.port)
	var sentence string
	switch {
	case x.stream != nil && x.stream.failed.Load() != nil:
		status, code = http.StatusBadRequest, ReasonMalformed
		sentence = "The request body broke off or is not well formed. Part of the call may have reached " + where + "."
	case errors.As(err, &de) && !x.sending.mayHaveArrived():
		// No connection, so nothing was sent.
		code, state = de.code, evidence.StateRefused
		sentence = "The call was permitted but not sent, because " + where + " could not be reached: " + printable(err.Error()) + "."
		switch code {
		case ReasonAddressRefused:
			status = http.StatusForbidden
			sentence = "The call was not sent: " + printable(err.Error()) + "."
		case ReasonUpstreamTimeout:
			status = http.StatusGatewayTimeout
		case ReasonUpstreamCertificate:
			sentence = "The call was permitted but not sent, because the certificate of " + where + " does not hold: " + printable(err.Error()) + "."
		}
	case x.r.Context().Err() != nil:
		sentence = "The client went away before " + where + " answered."
	case errors.As(err, &ne) && ne.Timeout():
		status, code = http.StatusGatewayTimeout, ReasonUpstreamTimeout
		sentence = "The call was sent to " + where + ", and no answer came in time. Whether it took effect is not known; look before you repeat it."
	default:
		sentence = "The call was sent to " + where + ", and the connection broke before an answer came. Whether it took effect is not known; look before you repeat it."
	}
	x.s.metrics.upstreamErrors.WithLabelValues(code).Inc()
	x.permit.Done(gate.Outcome{State: state, Status: status, Error: code + ": " + printable(err.Error())})
	x.failed(status, code, sentence)
}

// failed answers for a permitted call that cannot be completed.
func (x *exchange) failed(status int, code, sentence string) {
	if x.stream != nil && !x.stream.ended.Load() {
		// The rest of the body stands in the way of the next request: net/http
		// closes the connection, and the client must know.
		x.closing = true
	}
	d := x.permit.Decision()
	d.ReasonCode = code
	d.Explain = evidence.Explain{Summary: sentence, MatchedRules: d.Explain.MatchedRules}
	if code == ReasonAddressRefused {
		d.Decision, d.Enforcement = "deny", "block"
	}
	x.decision, x.status, x.note = d, status, code
	shape := ""
	if isGRPC(x.r.Header) {
		shape = "grpc"
	}
	a := render(&gate.Refusal{Status: status, Decision: d, Sentence: sentence, Shape: shape})
	x.answer(&a)
}
