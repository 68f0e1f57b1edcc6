package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/policy"
)

// asksForAll lets reads pass and asks a human for everything else.
const asksForAll = `policies:
  - name: p
    version: 1
    tools: [http.post, http.options, http.delete]
    rules:
      - { name: hold, decision: require_approval, reason_code: x.held }
  - name: reads
    version: 1
    tools: [http.get]
    rules:
      - { name: open, decision: allow, reason_code: x.open }
`

func withPolicy(text string) worldOption {
	return func(w *world, _ *Options) {
		pol, err := policy.Compile([]policy.Source{{Name: "policy.yaml", Data: []byte(text)}}, policy.Options{})
		if err != nil {
			w.t.Fatal(err)
		}
		w.rules.Policy, w.rules.Hold = pol, 10*time.Second
	}
}

// approved sends a call that is held, has it approved while it waits, and gives
// what came of it.
func (w *world) approved(send func() (reply, error)) (reply, error) {
	w.t.Helper()
	type result struct {
		reply
		error
	}
	out := make(chan result, 1)
	go func() {
		got, err := send()
		out <- result{got, err}
	}()
	a := w.pendingOne()
	if _, err := w.gate.Decide(w.t.Context(), lead, a.ID, gate.Approve, "", nil); err != nil {
		w.t.Fatal(err)
	}
	got := <-out
	return got.reply, got.error
}

// TestAnApprovalIsOneSend: whatever an upstream does with a call that a human
// approved, the call is written once, and what came of it is told as unknown.
func TestAnApprovalIsOneSend(t *testing.T) {
	cases := append(worsts[:len(worsts):len(worsts)], []struct {
		name  string
		http2 bool
		good  int64
		deaf  bool
		do    func(*fickleConn)
	}{
		{"resets after the head of an answer over HTTP/2", true, 2, false, func(c *fickleConn) {
			_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: []byte{0x88}, EndHeaders: true}) // :status 200
			reset(http2.ErrCodeRefusedStream)(c)
		}},
		{"goes away after it read the head", true, 2, false, func(c *fickleConn) { _ = c.framer.WriteGoAway(c.stream, http2.ErrCodeNo, nil); _ = c.Close() }},
		{"takes no body", true, 0, false, func(*fickleConn) {}},
	}...)
	for _, c := range cases {
		for _, call := range []string{"OPTIONS", "POST", "DELETE with a key"} {
			t.Run(c.name+"/"+call, func(t *testing.T) {
				t.Parallel()
				f := newFickle(t, c.http2)
				f.good, f.deaf, f.worst = c.good, c.deaf, c.do
				if c.name == "takes no body" {
					f.room = []http2.Setting{{ID: http2.SettingInitialWindowSize}}
				}
				w := newWorld(t, withPolicy(asksForAll), fickleAt(f))
				for range c.good {
					if got, err := w.to(c.http2, "GET", "", nil); err != nil || got.status != 200 {
						t.Fatalf("a good call: %d %s %v", got.status, got.body, err)
					}
				}
				method, key, _ := strings.Cut(call, " ")
				send := func() (reply, error) {
					var body io.Reader
					if method == "POST" {
						body = strings.NewReader("amount=1")
					}
					return w.to(c.http2, method, "", body, "Idempotency-Key", key)
				}
				got, err := w.approved(send)
				if n := f.calls.Load() - c.good; n != 1 {
					t.Errorf("one approval, and the upstream saw %d sends", n)
				}
				if err == nil && got.status < 500 {
					t.Errorf("%d %s", got.status, got.body)
				}
				answered := strings.HasPrefix(c.name, "resets after the head")
				want := evidence.StateAmbiguous
				if answered {
					want = evidence.StateForwarded
				}
				if e := w.trail.last(t); e.Outcome.State != want || e.Outcome.Error == "" {
					t.Errorf("on record as %+v", e.Outcome)
				}
				if got, err = send(); err != nil || got.status != 409 || got.header.Get("ActPass-Reason") != gate.ReasonConsumed || got.header.Get("ActPass-Replayed") != "" {
					t.Errorf("the call again: %d %s %v", got.status, got.body, err)
				}
				if n := f.calls.Load() - c.good; n > 1 {
					t.Errorf("the upstream saw %d sends after all", n)
				}
			})
		}
	}
}

// speaker is a TLS upstream that offers what it is told.
type speaker struct {
	calls, open atomic.Int64
	last        atomic.Pointer[http.Request]
}

func newSpeaker(t *testing.T, protos []string, h http.HandlerFunc) (*speaker, worldOption) {
	t.Helper()
	s := &speaker{}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls.Add(1)
		s.last.Store(r)
		h(w, r)
	}))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.open.Add(1)
		case http.StateClosed, http.StateHijacked:
			s.open.Add(-1)
		}
	}
	srv.EnableHTTP2 = protos[0] == "h2"
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{originCA.leaf("fickle.test")}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	srv.TLS.NextProtos = protos // the server adds HTTP/1.1 of its own accord
	return s, func(_ *world, o *Options) {
		o.Upstream.ConnectTo = []ConnectTo{{"fickle.test", 443, srv.Listener.Addr().String()}}
	}
}

// TestApprovedCallsSpeakAsTheUpstreamDoes: HTTP/2 where that is all there is, on a
// connection of the call's own.
func TestApprovedCallsSpeakAsTheUpstreamDoes(t *testing.T) {
	for _, c := range []struct {
		protos []string
		want   string
	}{{[]string{"h2"}, "HTTP/2.0"}, {[]string{"h2", "http/1.1"}, "HTTP/2.0"}, {[]string{"http/1.1"}, "HTTP/1.1"}} {
		for _, expect := range []string{"", "100-continue"} {
			var read atomic.Pointer[string]
			s, at := newSpeaker(t, c.protos, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				text := string(b)
				read.Store(&text)
				_, _ = w.Write([]byte("done"))
			})
			w := newWorld(t, withPolicy(asksForAll), at)
			got, err := w.approved(func() (reply, error) {
				return w.to(true, "POST", "", strings.NewReader("amount=1"), "Expect", expect)
			})
			if err != nil || got.status != 200 || got.body != "done" || s.calls.Load() != 1 || *read.Load() != "amount=1" {
				t.Fatalf("%v: %d %s, %d calls, %v", c.protos, got.status, got.body, s.calls.Load(), err)
			}
			if r := s.last.Load(); r.Proto != c.want || r.Header.Get("Connection") != "" || r.Header.Get("Expect") != "" {
				t.Errorf("%v: arrived as %s with %v", c.protos, r.Proto, r.Header)
			}
			waitFor(t, func() bool { return s.open.Load() == 0 })
		}
	}
}

// frame is a gRPC message in its frame.
func frame(message string) string {
	return string(append([]byte{0, 0, 0, 0, byte(len(message))}, message...))
}

// rpc is an upstream's answer to gRPC calls.
var rpcs = map[string]struct {
	do     http.HandlerFunc
	body   string
	status string // where it stands
}{
	"a message and trailers": {func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Grpc-Encoding", "identity")
		_, _ = io.WriteString(w, frame("ok"))
		w.(http.Flusher).Flush()
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "")
		w.Header().Set(http.TrailerPrefix+"Set-Cookie", "not for a second hearing")
	}, frame("ok"), "trailer"},
	// net/http's server announces the length of a short answer.
	"with a length": {func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Grpc-Encoding", "identity")
		_, _ = io.WriteString(w, frame("ok"))
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}, frame("ok"), "trailer"},
	"a length of nothing, and trailers": {func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Grpc-Encoding", "identity")
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(200)
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "9")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "no balance")
	}, "", "trailer"},
	"no message": {func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Grpc-Encoding", "identity")
		w.Header().Set("Grpc-Status", "9")
		w.Header().Set("Grpc-Message", "no balance")
	}, "", "header"},
}

// TestApprovedGRPC: a held call to a server of HTTP/2 alone is sent once, its status
// comes back, and its retry, with less time left, gets the recorded answer.
func TestApprovedGRPC(t *testing.T) {
	for name, c := range rpcs {
		t.Run(name, func(t *testing.T) {
			s, at := newSpeaker(t, []string{"h2"}, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", "application/grpc")
				c.do(w, r)
			})
			w := newWorld(t, withPolicy(asksForAll), at)
			var trailer http.Header
			attempt := 0
			send := func() (reply, error) {
				attempt++
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, "POST", "https://fickle.test/pay.Refunds/Create", bytes.NewReader([]byte(frame("refund"))))
				req.Header.Set("Content-Type", "application/grpc")
				req.Header.Set("Te", "trailers")
				req.Header.Set("Grpc-Timeout", fmt.Sprint(9999-attempt, "m"))
				if attempt > 1 {
					req.Header.Set("Grpc-Previous-Rpc-Attempts", "1")
				}
				resp, err := w.client("h2").Do(req)
				if err != nil {
					return reply{}, err
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				trailer = resp.Trailer
				return reply{status: resp.StatusCode, header: resp.Header, body: string(b)}, err
			}
			check := func(what string, got reply, err error) {
				t.Helper()
				from := trailer
				if c.status == "header" {
					from = got.header
				}
				if err != nil || got.status != 200 || got.body != c.body || from.Get("Grpc-Status") == "" || got.header.Get("Grpc-Encoding") != "identity" {
					t.Errorf("%s: %d %q %v, trailers %v, %v", what, got.status, got.body, got.header, trailer, err)
				}
				if c.body == "" && from.Get("Grpc-Message") != "no balance" {
					t.Errorf("%s: %v", what, from)
				}
			}
			got, err := w.approved(send)
			check("the approved call", got, err)
			if e := w.trail.last(t); e.Outcome.State != evidence.StateForwarded || e.Outcome.Error != "" {
				t.Errorf("on record as %+v", e.Outcome)
			}
			got, err = send()
			check("its retry", got, err)
			if got.header.Get("ActPass-Replayed") != "true" || trailer.Get("Set-Cookie") != "" {
				t.Errorf("the retry: %v, %v", got.header, trailer)
			}
			if n, proto := s.calls.Load(), s.last.Load().Proto; n != 1 || proto != "HTTP/2.0" {
				t.Errorf("%d calls over %s", n, proto)
			}
		})
	}
}

// TestAnApprovedCallGetsStuck: an upstream that takes the beginning of a body and
// leaves no room for the rest is given up, and what came of the call is told as
// unknown.
func TestAnApprovedCallGetsStuck(t *testing.T) {
	t.Parallel()
	f := newFickle(t, true)
	f.worst = func(*fickleConn) {}
	w := newWorld(t, withPolicy(asksForAll), fickleAt(f))
	began := time.Now()
	got, err := w.approved(func() (reply, error) {
		// More than the 65,535 bytes that a connection takes unasked (RFC 9113 section 6.9.2).
		return w.to(true, "POST", "", strings.NewReader("amount="+strings.Repeat("1", 200_000)))
	})
	if err != nil || got.status != http.StatusBadGateway || f.calls.Load() != 1 {
		t.Errorf("%d %s %v, of %d sent", got.status, got.body, err, f.calls.Load())
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it was given up after %s", took)
	}
	if e := w.trail.last(t); e.Outcome.State != evidence.StateAmbiguous || e.Outcome.Error == "" {
		t.Errorf("on record as %+v", e.Outcome)
	}
}
