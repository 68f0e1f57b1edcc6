package proxy

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/passport"
)

// fickle is an upstream that serves the first calls well and then does the worst
// that its protocol allows. It counts the calls whose head arrived.
type fickle struct {
	t     *testing.T
	l     net.Listener
	calls atomic.Int64
	good  int64 // how many are answered
	deaf  bool  // it listens no more once it misbehaves
	worst func(*fickleConn)
	room  []http2.Setting // HTTP/2: what it leaves to clients

	mu    sync.Mutex
	conns []net.Conn
}

// fickleConn is where one call arrived.
type fickleConn struct {
	net.Conn
	f      *fickle
	framer *http2.Framer // nil: HTTP/1.1
	stream uint32
}

func newFickle(t *testing.T, http2 bool) *fickle {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fickle{t: t, l: l}
	serve := f.http1
	if http2 {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{originCA.leaf("fickle.test")}, NextProtos: []string{"h2"}})
		serve = f.http2
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns = append(f.conns, c)
			f.mu.Unlock()
			wg.Go(func() { defer c.Close(); serve(c) })
		}
	})
	t.Cleanup(func() { _ = f.l.Close(); f.hangUp(); wg.Wait() })
	return f
}

func (f *fickle) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close()
	}
	f.conns = nil
}

// arrived counts a call, and says whether it is to be answered.
func (f *fickle) arrived() bool {
	n := f.calls.Add(1)
	if n > f.good && f.deaf {
		_ = f.l.Close()
	}
	return n <= f.good
}

func (f *fickle) http1(c net.Conn) {
	for r := bufio.NewReader(c); ; {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		if !f.arrived() {
			f.worst(&fickleConn{Conn: c, f: f})
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}
}

func (f *fickle) http2(c net.Conn) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c, preface); err != nil {
		return
	}
	framer := http2.NewFramer(c, c)
	_ = framer.WriteSettings(f.room...)
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = framer.WriteSettingsAck()
			}
		case *http2.HeadersFrame:
			if !f.arrived() {
				f.worst(&fickleConn{c, f, framer, frame.StreamID})
				continue
			}
			var b strings.Builder
			_ = hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
			_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: frame.StreamID, BlockFragment: []byte(b.String()), EndHeaders: true})
			_ = framer.WriteData(frame.StreamID, true, []byte("ok"))
		}
	}
}

func reset(code http2.ErrCode) func(*fickleConn) {
	return func(c *fickleConn) { _ = c.framer.WriteRSTStream(c.stream, code) }
}

var worsts = []struct {
	name  string
	http2 bool
	good  int64
	deaf  bool
	do    func(*fickleConn)
}{
	{"hangs up on the first call", false, 0, false, func(*fickleConn) {}},
	{"hangs up on a kept connection", false, 2, false, func(*fickleConn) {}},
	{"hangs up on a kept connection for good", false, 2, true, func(*fickleConn) {}},
	{"never answers", false, 2, false, func(c *fickleConn) { _, _ = c.Read(make([]byte, 1)) }},
	{"resets after the head of an answer", false, 2, false, func(c *fickleConn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
		_ = c.Conn.(*net.TCPConn).SetLinger(0)
	}},
	{"says continue and hangs up", false, 2, false, func(c *fickleConn) { _, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n") }},
	{"says half a status", false, 2, false, func(c *fickleConn) { _, _ = io.WriteString(c, "HTTP/1.1 4") }},
	{"refuses the stream", true, 0, false, reset(http2.ErrCodeRefusedStream)},
	{"refuses a later stream", true, 2, false, reset(http2.ErrCodeRefusedStream)},
	{"refuses the stream and listens no more", true, 2, true, func(c *fickleConn) {
		reset(http2.ErrCodeRefusedStream)(c)
		c.f.hangUp()
	}},
	{"speaks of a protocol error", true, 2, false, reset(http2.ErrCodeProtocol)},
	{"cancels the stream", true, 2, false, reset(http2.ErrCodeCancel)},
	{"goes away", true, 2, false, func(c *fickleConn) { _ = c.framer.WriteGoAway(0, http2.ErrCodeNo, nil); _ = c.Close() }},
	{"goes away before a later stream", true, 2, false, func(c *fickleConn) { _ = c.framer.WriteGoAway(c.stream-2, http2.ErrCodeNo, nil) }},
	{"goes away for good", true, 2, true, func(c *fickleConn) {
		_ = c.framer.WriteGoAway(c.stream-2, http2.ErrCodeNo, nil)
		c.f.hangUp()
	}},
	{"closes the connection", true, 2, false, func(c *fickleConn) { _ = c.Close() }},
}

var root = gate.Identity{TenantID: "acme", KeyID: "key_root", Role: gate.RoleAdmin, Source: gate.SourceKey}

// anyPassport issues one for everything that the agent does.
func (w *world) anyPassport() string {
	w.t.Helper()
	p, err := w.gate.IssuePassport(context.Background(), root, gate.NewPassport{AgentID: "agent", AllowedTools: []string{"*"}, AllowedResources: []string{"*"}})
	if err != nil {
		w.t.Fatal(err)
	}
	return p.Token
}

func withAuthority(w *world, _ *Options) {
	w.gate.SetAuthority(&gate.Authority{Issuer: "i", Audience: "a", Keys: []passport.Key{{ID: "k", Private: ed25519.NewKeyFromSeed(make([]byte, 32))}}})
}

// fickleAt is where fickle.test is.
func fickleAt(f *fickle) worldOption {
	return func(_ *world, o *Options) {
		o.ResponseHeaderTimeout = 500 * time.Millisecond
		o.Upstream.ConnectTo = []ConnectTo{{"fickle.test", 80, f.l.Addr().String()}, {"fickle.test", 443, f.l.Addr().String()}}
	}
}

// TestAPassportIsOneSend: whatever an upstream does with a call that it got, the
// call is not written again, and its passport is used.
func TestAPassportIsOneSend(t *testing.T) {
	for _, c := range worsts {
		for _, call := range []string{"GET", "POST", "POST without a body", "PUT that streams"} {
			t.Run(c.name+"/"+call, func(t *testing.T) {
				t.Parallel()
				f := newFickle(t, c.http2)
				f.good, f.deaf, f.worst = c.good, c.deaf, c.do
				w := newWorld(t, withAuthority, fickleAt(f))
				method, _, _ := strings.Cut(call, " ")
				send := func(token string) (reply, error) {
					var body io.Reader
					switch call {
					case "POST":
						body = strings.NewReader("amount=1")
					case "PUT that streams":
						body = io.MultiReader(strings.NewReader("some")) // of no known length
					}
					return w.to(c.http2, method, token, body)
				}
				for range c.good {
					if got, err := send(w.anyPassport()); err != nil || got.status != 200 {
						t.Fatalf("a good call: %d %s %v", got.status, got.body, err)
					}
				}
				token := w.anyPassport()
				got, err := send(token)
				if n := f.calls.Load() - c.good; n != 1 {
					t.Errorf("one passport, and the upstream saw %d sends", n)
				}
				if err == nil && got.status < 500 {
					t.Errorf("%d %s", got.status, got.body)
				}
				if e := w.trail.last(t); e.Outcome.State == evidence.StateRefused {
					t.Errorf("on record as not sent: %+v", e.Outcome)
				}
				if got, err = send(token); err != nil || got.status != 403 || got.header.Get("ActPass-Reason") != passport.ReasonReplayed {
					t.Errorf("the passport again: %d %s %v", got.status, got.body, err)
				}
				if n := f.calls.Load() - c.good; n > 1 {
					t.Errorf("the upstream saw %d sends after all", n)
				}
			})
		}
	}
}

// to sends calls to an upstream of the test.
func (w *world) to(h2 bool, method, token string, body io.Reader, headers ...string) (reply, error) {
	target := "http://fickle.test/x"
	if h2 {
		target = "https://fickle.test/x"
	}
	req, _ := http.NewRequest(method, target, body)
	if token != "" {
		req.Header.Set("ActPass-Passport", token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] != "" {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	resp, err := w.client().Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{status: resp.StatusCode, header: resp.Header, body: string(b)}, err
}

// TestAnyCallIsSentTwiceAtMost: what uses nothing up may be written once more
// where net/http holds that harmless, and an upstream cannot have it sent for ever.
func TestAnyCallIsSentTwiceAtMost(t *testing.T) {
	for _, c := range worsts {
		for _, method := range []string{"GET", "POST"} {
			t.Run(c.name+"/"+method, func(t *testing.T) {
				t.Parallel()
				f := newFickle(t, c.http2)
				f.good, f.deaf, f.worst = c.good, c.deaf, c.do
				w := newWorld(t, fickleAt(f))
				for range c.good {
					if got, err := w.to(c.http2, method, "", nil); err != nil || got.status != 200 {
						t.Fatalf("a good call: %d %s %v", got.status, got.body, err)
					}
				}
				got, err := w.to(c.http2, method, "", nil)
				if n := f.calls.Load() - c.good; n < 1 || n > 2 || !c.http2 && method == "POST" && n != 1 {
					t.Errorf("the upstream saw %d sends", n)
				}
				if e := w.trail.last(t); e.Outcome.State == evidence.StateRefused || err == nil && got.status < 500 {
					t.Errorf("%d, %+v", got.status, e.Outcome)
				}
			})
		}
	}
}

// TestADeadConnectionCostsNoPassport: a kept connection that the upstream closed
// before anything was written on it is replaced, and where there is no other, the
// passport is given back.
func TestADeadConnectionCostsNoPassport(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		f := newFickle(t, h2)
		f.good = 100
		w := newWorld(t, withAuthority, fickleAt(f))
		for i := range 4 {
			for _, method := range []string{"GET", "POST"} {
				if got, err := w.to(h2, method, w.anyPassport(), nil); err != nil || got.status != 200 {
					t.Errorf("call %d over HTTP/2 %v: %d %s %v", i, h2, got.status, got.body, err)
				}
				f.hangUp()
				time.Sleep(20 * time.Millisecond)
			}
		}
		_ = f.l.Close()
		f.hangUp()
		time.Sleep(20 * time.Millisecond)
		token, before := w.anyPassport(), f.calls.Load()
		for range 2 {
			if got, err := w.to(h2, "POST", token, nil); err != nil || got.status != 502 || got.header.Get("ActPass-Reason") != ReasonUpstreamUnreachable {
				t.Errorf("nobody listens: %d %s %v", got.status, got.body, err)
			}
			if e := w.trail.last(t); e.Outcome.State != evidence.StateRefused {
				t.Errorf("nobody listens: %+v", e.Outcome)
			}
		}
		if n := f.calls.Load() - before; n != 0 {
			t.Errorf("%d sends to nobody", n)
		}
	}
}
