package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// scripted is an upstream that answers every request on a connection with the
// same bytes.
type scripted struct {
	addr  string
	conns atomic.Int64
	gone  chan struct{} // a connection ended
	seen  chan string   // requests
}

func script(t *testing.T, answer string, hangUp bool) *scripted {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s := &scripted{addr: l.Addr().String(), gone: make(chan struct{}, 100), seen: make(chan string, 100)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			t.Cleanup(func() { _ = c.Close() })
			go func() {
				defer func() { s.gone <- struct{}{} }()
				r := bufio.NewReader(c)
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					b, _ := io.ReadAll(req.Body)
					s.seen <- req.Method + " " + req.RequestURI + " " + string(b)
					_, _ = io.WriteString(c, answer)
					if hangUp {
						_ = c.Close()
					}
				}
			}()
		}
	}()
	return s
}

// TestUpstreamAnswers: what upstreams answer over HTTP/1.1, well or badly, and
// whether the connection is used again.
func TestUpstreamAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		method, answer string
		hangUp         bool
		status         int
		body           string
		again          bool
	}{
		"length":                 {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", status: 200, body: "hi", again: true},
		"nothing":                {answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", status: 200, again: true},
		"chunked with a trailer": {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nhi\r\n0\r\nX-T: v\r\n\r\n", status: 200, body: "hi", again: true},
		"until the end":          {answer: "HTTP/1.0 200 OK\r\n\r\nhi", hangUp: true, status: 200, body: "hi"},
		"close":                  {answer: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", status: 200, body: "hi"},
		"head":                   {method: "HEAD", answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", status: 200, again: true},
		"no content":             {answer: "HTTP/1.1 204 No Content\r\n\r\n", status: 204, again: true},
		"not modified":           {answer: "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", status: 304, again: true},
		"hints before":           {answer: "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", status: 200, body: "hi", again: true},
		"hints without end":      {answer: strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 10), status: 502},
		"two answers":            {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", status: 200, body: "hi"},
		"unasked switch":         {answer: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", status: 502},
		"no HTTP":                {answer: "SSH-2.0-OpenSSH_9.2\r\n", status: 502},
		"a head without end":     {answer: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("x", 1000)+"\r\n", 1200), status: 502},
		"hung up":                {answer: "", hangUp: true, status: 502},
		"two lengths":            {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!", status: 502},
	} {
		t.Run(name, func(t *testing.T) {
			up := script(t, c.answer, c.hangUp)
			w := newWorld(t, func(_ *world, o *Options) { o.Upstream.ConnectTo = []ConnectTo{{"plain.test", 80, up.addr}} })
			method := c.method
			if method == "" {
				method = "POST"
			}
			for i := range 3 {
				conn, err := net.Dial("tcp", w.front)
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
				_, _ = fmt.Fprintf(conn, "%s http://plain.test/v1/refunds HTTP/1.1\r\nHost: plain.test\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
					method, formType, map[bool]int{true: 0, false: 10}[method == "HEAD"], map[bool]string{true: "", false: "amount=100"}[method == "HEAD"])
				resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(resp.Body)
				_ = conn.Close()
				if err != nil || resp.StatusCode != c.status || c.status < 400 && string(b) != c.body {
					t.Fatalf("%d %q, %v", resp.StatusCode, b, err)
				}
				want := int64(1)
				if !c.again {
					want = int64(i + 1)
				}
				if n := up.conns.Load(); n != want {
					t.Fatalf("%d connections after %d calls, want %d", n, i+1, want)
				}
				kept := w.server.live.Load().upstream.kept
				kept.mu.Lock()
				n := kept.count
				kept.mu.Unlock()
				if c.again && n != 1 {
					t.Fatalf("%d kept connections", n)
				}
			}
		})
	}
}

// TestUpstreamHungUp: a kept connection that the upstream has closed since is not
// tried, so that a call which must not be sent twice is not lost on it.
func TestUpstreamHungUp(t *testing.T) {
	up := script(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", true)
	w := newWorld(t, func(_ *world, o *Options) { o.Upstream.ConnectTo = []ConnectTo{{"plain.test", 80, up.addr}} })
	c := w.client()
	for i := range 5 {
		if got := w.do(c, "POST", "http://plain.test/v1/refunds", "amount=100", "Content-Type", formType); got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
		<-up.gone
		if n := len(up.seen); n != i+1 {
			t.Errorf("the upstream saw %d calls, want %d", n, i+1)
		}
	}
}

// TestUpstreamIsLetGo: when the agent goes away, nobody waits for the answer.
func TestUpstreamIsLetGo(t *testing.T) {
	up := script(t, "", false)
	w := newWorld(t, func(_ *world, o *Options) { o.Upstream.ConnectTo = []ConnectTo{{"plain.test", 80, up.addr}} })
	conn, err := net.Dial("tcp", w.front)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "POST http://plain.test/v1/refunds HTTP/1.1\r\nHost: plain.test\r\nContent-Type: "+formType+"\r\nContent-Length: 10\r\n\r\namount=100")
	if d := cmp.Diff("POST /v1/refunds amount=100", <-up.seen); d != "" {
		t.Error(d)
	}
	_ = conn.Close()
	select {
	case <-up.gone:
	case <-time.After(5 * time.Second):
		t.Error("the upstream's connection is still open")
	}
}

// TestKeptConnections: they are bounded, and close when nobody needs them.
func TestKeptConnections(t *testing.T) {
	p := newUpConns(nil, time.Second)
	var ends []net.Conn
	for range upIdlePerHost + 3 {
		a, b := net.Pipe()
		ends = append(ends, b)
		p.put("k", &upConn{conn: a, raw: a})
	}
	if p.count != upIdlePerHost || len(p.idle["k"]) != upIdlePerHost {
		t.Errorf("%d are kept, counted as %d", len(p.idle["k"]), p.count)
	}
	p.closeIdle()
	if p.count != 0 || len(p.idle) != 0 {
		t.Errorf("%d are kept after all were closed", p.count)
	}
	for i, c := range ends {
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("%d: %v", i, err)
		}
	}
	a, _ := net.Pipe()
	old := &upConn{conn: a, raw: a}
	p.put("k", old)
	old.since = time.Now().Add(-time.Hour)
	p.sweep()
	if p.count != 0 || p.sweeps != nil {
		t.Errorf("%d are kept after an hour", p.count)
	}
}

func TestAppendCall(t *testing.T) {
	b, err := appendCall(nil, "POST", "/v1/x?y", "api.test", http.Header{
		"B": {"2"}, "A": {"1", "1"}, "User-Agent": {"ua"}, "Expect": {"100-continue"}, "Content-Length": {"99"}, "Transfer-Encoding": {"chunked"}, "Trailer": {"X"}, "Host": {"evil"},
	}, []byte("hi"))
	want := "POST /v1/x?y HTTP/1.1\r\nHost: api.test\r\nUser-Agent: ua\r\nContent-Length: 2\r\nA: 1\r\nA: 1\r\nB: 2\r\n\r\nhi"
	if d := cmp.Diff(want, string(b)); d != "" || err != nil {
		t.Error(d, err)
	}
	for _, bad := range []string{"x\r\nEvil: 1", "x\nEvil: 1", "x\rEvil", "x\x00"} {
		if b, err := appendCall(nil, "GET", "/", "api.test", http.Header{"A": {bad}}, nil); err == nil {
			t.Errorf("%q was written: %q", bad, b)
		}
	}
	if _, err := appendCall(nil, "GET", "/\nX: y", "api.test", nil, nil); err == nil {
		t.Error("a target with a line break was written")
	}
}
