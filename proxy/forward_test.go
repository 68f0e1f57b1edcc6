package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// What is sent is what came: targets byte for byte, and no header that the
// agent did not write.
func TestTargetsArriveByteForByte(t *testing.T) {
	w := newWorld(t, withMode(gate.ModeMonitor))
	targets := []string{
		"/", "/a?b", "/a?", "/a%2Fb?c=%20+d", "//a//b", "//a?x=//y", "/a/../b/./c", "/%61", "/a;b=c", "/a?x=a;y", "/a?q=%zz", "/a'b(c)*!$&,:@~", "/a?x#y",
		"/a?{}|^`\\\"<>", "/~user/%7Euser", "/?", "/a%00b",
	}
	for _, target := range targets {
		for _, base := range []string{"http://api.test", "reverse"} {
			if base == "reverse" && strings.HasPrefix(target, "//") {
				continue
			}
			got := reply{}
			if base == "reverse" {
				got = w.raw(w.reverse, "GET /stripe"+target+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			} else {
				got = w.raw(w.front, "GET "+base+target+" HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n")
			}
			if got.status != 200 {
				t.Errorf("%s%s: %d %s", base, target, got.status, got.body)
				continue
			}
			if m := got.json(t); m["uri"] != target {
				t.Errorf("%s%s: the upstream saw %q", base, target, m["uri"])
			} else if h, _ := m["header"].(map[string]any); len(h) != 0 {
				t.Errorf("%s%s: headers were added: %v", base, target, h)
			}
		}
	}
	got := w.raw(w.front, "OPTIONS http://api.test HTTP/1.1\r\nHost: api.test\r\n\r\n")
	if got.status != 200 || got.json(t)["uri"] != "*" {
		t.Errorf("OPTIONS: %d %s", got.status, got.body)
	}
	for _, text := range []string{"OPTIONS * HTTP/1.1\r\nHost: api.test\r\n\r\n", "GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n", "GET ftp://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n"} {
		if got := w.raw(w.front, text); got.status != 400 || got.json(t)["reason_code"] != ReasonNotForProxy {
			t.Errorf("%q: %d %s", text, got.status, got.body)
		}
	}
}

// The bytes of a request on the upstream's side of the wire.
func TestRequestOnTheWire(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	heads := make(chan string, 4)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 64<<10)
			n, _ := c.Read(buf)
			heads <- string(buf[:n])
			_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
			_ = c.Close()
		}
	}()
	w := newWorld(t, withMode(gate.ModeMonitor), func(_ *world, o *Options) {
		o.Upstream.ConnectTo = []ConnectTo{{"api.test", 8080, l.Addr().String()}}
	})
	for text, want := range map[string]string{
		"GET http://api.test:8080/x HTTP/1.1\r\nHost: api.test:8080\r\nPragma: no-cache\r\n\r\n":                                                                     "GET /x HTTP/1.1\r\nHost: api.test:8080\r\nPragma: no-cache\r\n\r\n",
		"PUT http://api.test:8080/x HTTP/1.1\r\nHost: api.test:8080\r\nAccept-Encoding: br\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\nContent-Length: 0\r\n\r\n": "PUT /x HTTP/1.1\r\nHost: api.test:8080\r\nContent-Length: 0\r\nAccept-Encoding: br\r\n\r\n",
		// What net/http cannot read as a URL is for the check to judge, and goes out as it came.
		"GET http://api.test:8080/x%zz/%?a=%zz HTTP/1.1\r\nHost: api.test:8080\r\n\r\n":                                    "GET /x%zz/%?a=%zz HTTP/1.1\r\nHost: api.test:8080\r\n\r\n",
		"PUT http://api.test:8080/%u0041%4 HTTP/1.1\r\nHost: api.test:8080\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": "PUT /%u0041%4 HTTP/1.1\r\nHost: api.test:8080\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		if got := w.raw(w.front, text); got.status != 204 {
			t.Errorf("%d %s", got.status, got.body)
		}
		if got := <-heads; got != want {
			t.Errorf("the upstream saw %q, want %q", got, want)
		}
	}
}

func TestReverseHostIsPlain(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ target, host string }{
		{"/v1/x", "stripe.localhost:080"},
		{"/v1/x", "stripe.localhost:"},
		{"/v1/x", "stripe.localhost:+80"},
		{"/v1/x", "stripe.localhost:99999"},
		{"/stripe/v1/x", "a@localhost"},
		{"/stripe/v1/x", "localhost.:8081"},
		{"/stripe/v1/x", "0x7f000001:8081"},
		{"/stripe/v1/x", "%6cocalhost"},
	} {
		got := w.raw(w.reverse, "GET "+c.target+" HTTP/1.1\r\nHost: "+c.host+"\r\n\r\n")
		if got.status != 400 {
			t.Errorf("%s under %s: %d %s", c.target, c.host, got.status, got.body)
		}
	}
	w.untouched()
}

func TestReverseRoutes(t *testing.T) {
	w := newWorld(t)
	for target, want := range map[string]string{
		"/stripe/v1/x?y=z": "/v1/x?y=z", "/stripe": "/", "/stripe?x": "/?x", "/stripe/": "/", "/based/v1": "/base/v1", "/based": "/base/",
	} {
		got := w.raw(w.reverse, "GET "+target+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if got.status != 200 || got.json(t)["uri"] != want {
			t.Errorf("%s: %d %s, want %s", target, got.status, got.body, want)
		}
	}
	for _, c := range []struct{ target, host string }{
		{"/none/x", "localhost"}, {"/", "localhost"}, {"/x", "none.localhost:8081"}, {"/stripe/x", "none.localhost"}, {"/%73tripe/x", "localhost"}, {"/Stripe/x", "x"}, {"/stripe%2Fx", "x"},
	} {
		got := w.raw(w.reverse, "GET "+c.target+" HTTP/1.1\r\nHost: "+c.host+"\r\n\r\n")
		if got.status != 404 || got.json(t)["reason_code"] != ReasonNoRoute || !strings.Contains(got.body, "/stripe/") || !strings.Contains(got.body, "use a route that there is") {
			t.Errorf("%s at %s: %d %s", c.target, c.host, got.status, got.body)
		}
	}
	// A route cannot be left by dot segments.
	before := w.originReqs.Load()
	for _, target := range []string{"/based/../v1", "/based/%2e%2e/v1", "/based/..%2fv1"} {
		if got := w.raw(w.reverse, "GET "+target+" HTTP/1.1\r\nHost: x\r\n\r\n"); got.status != 400 {
			t.Errorf("%s: %d", target, got.status)
		}
	}
	if w.originReqs.Load() != before {
		t.Error("a dot segment left")
	}
	good, _ := url.Parse("https://a.test")
	user, _ := url.Parse("https://u@a.test")
	query, _ := url.Parse("https://a.test/?q")
	ftp, _ := url.Parse("ftp://a.test")
	for _, r := range [][]Route{{{"", good}}, {{"A", good}}, {{"a.b", good}}, {{"a/b", good}}, {{"a", nil}}, {{"a", user}}, {{"a", query}}, {{"a", ftp}}, {{"a", good}, {"a", good}}} {
		if err := w.server.Reload(Settings{Routes: r}); err == nil {
			t.Errorf("route %+v was accepted", r)
		}
	}
	if got := w.raw(w.reverse, "GET /stripe/v1 HTTP/1.1\r\nHost: x\r\n\r\n"); got.status != 200 {
		t.Errorf("a bad reload took the good routes: %d", got.status)
	}
	set := w.settings
	set.Routes = []Route{{"other", w.settings.Routes[0].Upstream}}
	if err := w.server.Reload(set); err != nil {
		t.Fatal(err)
	}
	if got := w.raw(w.reverse, "GET /other/v1 HTTP/1.1\r\nHost: x\r\n\r\n"); got.status != 200 {
		t.Errorf("new route: %d %s", got.status, got.body)
	}
	if got := w.raw(w.reverse, "GET /stripe/v1 HTTP/1.1\r\nHost: x\r\n\r\n"); got.status != 404 {
		t.Errorf("old route: %d", got.status)
	}
}

func TestUpstreamFailures(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	w := newWorld(t, func(w *world, o *Options) {
		o.ResponseHeaderTimeout = 200 * time.Millisecond
		o.DialTimeout = 300 * time.Millisecond
		o.Upstream.ConnectTo = append(
			o.Upstream.ConnectTo,
			ConnectTo{"closed.test", 443, closed.Addr().String()},
			ConnectTo{"silent.test", 443, silent.Addr().String()},
			ConnectTo{"wrong.test", 443, w.origin.Listener.Addr().String()},
		)
	})
	w.on(func(_ http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/slow") {
			<-r.Context().Done()
		}
		panic(http.ErrAbortHandler)
	})
	for _, c := range []struct {
		url, code, state string
		status           int
	}{
		{"https://closed.test/x", ReasonUpstreamUnreachable, evidence.StateRefused, 502},
		{"https://nowhere.invalid/x", ReasonUpstreamUnreachable, evidence.StateRefused, 502},
		{"https://silent.test/x", ReasonUpstreamTimeout, evidence.StateRefused, 504},
		{"https://wrong.test/x", ReasonUpstreamCertificate, evidence.StateRefused, 502},
		{"https://api.test/slow", ReasonUpstreamTimeout, evidence.StateAmbiguous, 504},
		{"https://api.test/break", ReasonUpstreamFailed, evidence.StateAmbiguous, 502},
	} {
		got := w.do(w.client(), "PUT", c.url, "x")
		if got.status != c.status || got.json(t)["reason_code"] != c.code || got.header.Get("ActPass-Reason") != c.code || got.header.Get("ActPass-Evidence") == "" {
			t.Errorf("%s: %d %s", c.url, got.status, got.body)
		}
		if e := w.trail.last(t); e.Outcome.State != c.state || e.Outcome.Status != c.status {
			t.Errorf("%s: outcome %+v, want %s", c.url, e.Outcome, c.state)
		}
	}
}

// A call that was written is not written again, whatever its headers say.
func TestNothingIsSentTwice(t *testing.T) {
	w := newWorld(t)
	var posts atomic.Int64
	w.on(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Header.Get("X-Break") != "" {
			posts.Add(1)
			if c, _, err := http.NewResponseController(rw).Hijack(); err == nil {
				_ = c.Close()
			}
		}
	})
	c := w.client()
	// The body of the first is read and judged, that of the second streams.
	for _, path := range []string{"/v1/refunds", "/v1/refunds", "/upload", "/upload"} {
		send := func(headers ...string) reply {
			return w.do(c, "POST", "http://plain.test"+path, "amount=4900&charge=ch_1", append(headers, "Content-Type", formType)...)
		}
		if got := send(); got.status != 200 { // leaves a kept connection
			t.Fatalf("%d", got.status)
		}
		before, conns := posts.Load(), w.originConns.Load()
		got := send("X-Break", "1", "Idempotency-Key", "k", "X-Idempotency-Key", "k")
		if got.status != 502 || posts.Load() != before+1 || w.originConns.Load() != conns {
			t.Errorf("%d, sent %d times, over %d new connections", got.status, posts.Load()-before, w.originConns.Load()-conns)
		}
	}
}

func TestHeadersTooLargeOverHTTP2(t *testing.T) {
	w := newWorld(t)
	c := w.inside("api.test:443", "api.test", "h2")
	cc := h2On(t, c)
	for _, size := range []int{70 << 10, 400 << 10} {
		req, _ := http.NewRequest("GET", "https://api.test/x", nil)
		req.Header.Set("X-Big", strings.Repeat("a", size))
		resp, err := cc.RoundTrip(req)
		if err != nil {
			continue // the client itself obeys the announced limit
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 431 {
			t.Errorf("%d bytes: %d", size, resp.StatusCode)
		}
	}
	w.untouched()
}

func TestPanicCostsOneRequest(t *testing.T) {
	w := newWorld(t)
	boom := &panicky{Gate: w.gate}
	w.server.gate = boom
	for _, protos := range [][]string{{"http/1.1"}, {"h2"}} {
		c := w.client(protos...)
		boom.on.Store(true)
		got := w.do(c, "GET", "https://api.test/x", "")
		if got.status != 500 || got.json(t)["decision"] != "deny" {
			t.Errorf("%v: %d %s", protos, got.status, got.body)
		}
		boom.on.Store(false)
		if got := w.do(c, "GET", "https://api.test/x", ""); got.status != 200 {
			t.Errorf("%v: after the panic: %d", protos, got.status)
		}
	}
	if boom.faults.Load() != 2 {
		t.Errorf("%d faults", boom.faults.Load())
	}
	if w.originReqs.Load() != 2 {
		t.Errorf("%d calls left", w.originReqs.Load())
	}
}

type panicky struct {
	Gate
	on     atomic.Bool
	faults atomic.Int64
}

func (p *panicky) Begin(ctx context.Context, r *gate.Request) (*gate.Waiting, *gate.Permit, *gate.Refusal) {
	if p.on.Load() {
		panic("boom")
	}
	return p.Gate.Begin(ctx, r)
}

func (p *panicky) Fault(string, error) { p.faults.Add(1) }

// A gate that answers neither way refuses; a permit that only looks like one
// sends nothing.
func TestNoPermitNoCall(t *testing.T) {
	w := newWorld(t)
	w.server.gate = mute{Gate: w.gate}
	if got := w.do(w.client(), "GET", "https://api.test/x", ""); got.status != 403 {
		t.Errorf("%d", got.status)
	}
	w.server.gate = mute{Gate: w.gate, permit: &gate.Permit{}}
	if got := w.do(w.client(), "GET", "https://api.test/x", ""); got.status != 400 {
		t.Errorf("zero permit: %d %s", got.status, got.body)
	}
	w.untouched()
}

type mute struct {
	Gate
	permit *gate.Permit
}

func (m mute) Begin(context.Context, *gate.Request) (*gate.Waiting, *gate.Permit, *gate.Refusal) {
	return nil, m.permit, nil
}

func TestShutdownDrains(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	w.on(func(rw http.ResponseWriter, _ *http.Request) {
		<-release
		_, _ = rw.Write([]byte("done"))
	})
	type result struct {
		body string
		err  error
	}
	results := make(chan result, 2)
	for _, base := range []string{"http://api.test/x", "https://api.test/x"} {
		go func() {
			resp, err := w.client("http/1.1").Get(base)
			if err != nil {
				results <- result{err: err}
				return
			}
			b, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			results <- result{string(b), err}
		}()
	}
	waitFor(t, func() bool { return w.originReqs.Load() == 2 })
	stopped := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		stopped <- w.server.Shutdown(ctx)
	}()
	waitFor(t, func() bool {
		c, err := net.Dial("tcp", w.front)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(release)
	for range 2 {
		if r := <-results; r.err != nil || r.body != "done" {
			t.Errorf("%q %v", r.body, r.err)
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestShutdownCutsTunnels(t *testing.T) {
	w := newWorld(t, allowTunnels(t), func(_ *world, o *Options) { o.Intercept.Passthrough = []string{"plain.test"} })
	conn, r := w.tunnelTo("plain.test:80")
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := w.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := r.ReadByte(); err == nil || isTimeout(err) {
		t.Errorf("the tunnel is still open: %v", err)
	}
}

func TestRedirectsAndHeadersPass(t *testing.T) {
	w := newWorld(t)
	w.on(func(rw http.ResponseWriter, _ *http.Request) {
		h := rw.Header()
		h.Set("Location", "https://evil.test/")
		h.Set("ActPass-Decision", "allow")
		h.Set("ActPass-Evidence", "forged")
		h.Set("Alt-Svc", `h3=":443"`)
		h.Set("Keep-Alive", "timeout=5")
		h.Set("Connection", "X-Hop")
		h.Set("X-Hop", "1")
		h.Set("Content-Encoding", "br")
		h.Add("Set-Cookie", "a=1")
		h.Add("Set-Cookie", "b=2")
		rw.WriteHeader(http.StatusFound)
	})
	got := w.do(w.client(), "GET", "http://api.test/x", "")
	if got.status != 302 || got.header.Get("Location") != "https://evil.test/" || got.header.Get("Content-Encoding") != "br" || len(got.header["Set-Cookie"]) != 2 {
		t.Errorf("%d %v", got.status, got.header)
	}
	for _, name := range []string{"Alt-Svc", "Keep-Alive", "X-Hop", "Via", "X-Content-Type-Options"} {
		if got.header.Get(name) != "" {
			t.Errorf("%s: %q", name, got.header.Get(name))
		}
	}
	if e := got.header["Actpass-Evidence"]; len(e) != 1 || e[0] == "forged" {
		t.Errorf("evidence %v", e)
	}
	if n := w.originReqs.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestClientSeesACertificateFromTheCA(t *testing.T) {
	w := newWorld(t)
	c := w.inside("api.test:443", "api.test")
	if v := c.ConnectionState().Version; v < tls.VersionTLS12 {
		t.Errorf("TLS version %x", v)
	}
	conn, _ := w.tunnelTo("api.test:443")
	if err := tls.Client(conn, &tls.Config{ServerName: "api.test", InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}).Handshake(); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
}

// A call that fails before its streamed body was read costs the connection, and
// the client is told: it must not send its next call into a closing one.
func TestFailedUploadAnnouncesTheClose(t *testing.T) {
	w := newWorld(t, func(_ *world, o *Options) { o.Upstream.AllowPrivate = nil })
	body := strings.Repeat("x", 64<<10)
	got := w.raw(w.front, "POST http://plain.test/upload HTTP/1.1\r\nHost: plain.test\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body)
	if got.status != 403 || got.header.Get("Connection") != "close" {
		t.Errorf("%d %v", got.status, got.header)
	}
	w.untouched()
}
