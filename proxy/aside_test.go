package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

// ways are the connections of HTTP/1.1 on which calls are held.
var ways = map[string]func(w *world) (conn net.Conn, prefix string){
	"plain": func(w *world) (net.Conn, string) {
		c, err := net.Dial("tcp", w.front)
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { _ = c.Close() })
		return c, "http://api.test"
	},
	"in TLS": func(w *world) (net.Conn, string) { return w.inside("api.test:443", "api.test"), "" },
}

func onEachWay(t *testing.T, f func(t *testing.T, w *world, conn net.Conn, prefix string), options ...worldOption) {
	for name, open := range ways {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, append([]worldOption{withHold(10 * time.Second)}, options...)...)
			conn, prefix := open(w)
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			f(t, w, conn, prefix)
		})
	}
}

// refundOf is a call that needs a human, as bytes.
func refundOf(prefix, amount string, headers ...string) string {
	body := "charge=ch_1&amount=" + amount
	return fmt.Sprintf("POST %s/v1/refunds HTTP/1.1\r\nHost: api.test\r\n%sContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
		prefix, strings.Join(headers, ""), formType, len(body), body)
}

func getOf(prefix, path string) string {
	return "GET " + prefix + path + " HTTP/1.1\r\nHost: api.test\r\n\r\n"
}

func (w *world) send(c net.Conn, text string) {
	w.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) decide(word string) {
	w.t.Helper()
	if _, err := w.gate.Decide(w.t.Context(), lead, w.pendingOne().ID, word, "", nil); err != nil {
		w.t.Fatal(err)
	}
}

// TestAfterAHeldCall: the connection goes on after the answer as it would have,
// whatever the answer was and whenever the next request came.
func TestAfterAHeldCall(t *testing.T) {
	onEachWay(t, func(t *testing.T, w *world, conn net.Conn, prefix string) {
		r := bufio.NewReader(conn)
		for i, c := range []struct {
			word   string
			status int
		}{{gate.Approve, 200}, {gate.DenyIt, 403}, {gate.Cancel, 403}, {gate.Approve, 200}} {
			w.send(conn, refundOf(prefix, fmt.Sprint(9000+i)))
			w.decide(c.word)
			if got := readReply(t, r); got.status != c.status || got.header.Get("Connection") != "" {
				t.Fatalf("%d, %s: %+v", i, c.word, got)
			}
			w.send(conn, getOf(prefix, "/then"))
			if got := readReply(t, r); got.status != 200 || got.json(t)["uri"] != "/then" {
				t.Fatalf("%d, the next: %+v", i, got)
			}
		}
		// A malformed head then is still refused in our words, and on record.
		w.send(conn, "GET "+prefix+"/x HTTP/1.1\r\nHost: api.test\r\nbad header\r\n\r\n")
		if got := readReply(t, r); got.status != 400 || got.header.Get("ActPass-Reason") != ReasonMalformed {
			t.Errorf("a malformed head: %+v", got)
		}
	})
}

// TestPipelinedBehindAHeldCall: requests that come before the answer, with the held
// one or later, whole or in parts, are answered after it and in order.
func TestPipelinedBehindAHeldCall(t *testing.T) {
	onEachWay(t, func(t *testing.T, w *world, conn net.Conn, prefix string) {
		r := bufio.NewReader(conn)
		split := getOf(prefix, "/third")
		w.send(conn, refundOf(prefix, "9001")+getOf(prefix, "/first"))
		w.pendingOne()
		time.Sleep(80 * time.Millisecond) // so that it is looked at
		w.send(conn, getOf(prefix, "/second"))
		w.send(conn, split[:9])
		time.Sleep(20 * time.Millisecond)
		w.send(conn, split[9:])
		w.decide(gate.Approve)
		if got := readReply(t, r); got.status != 200 || got.json(t)["method"] != "POST" {
			t.Fatalf("the held one: %+v", got)
		}
		for _, path := range []string{"/first", "/second", "/third"} {
			if got := readReply(t, r); got.status != 200 || got.json(t)["uri"] != path {
				t.Fatalf("%s: %+v", path, got)
			}
		}
		// And one that comes alone, while nothing else was sent.
		w.send(conn, refundOf(prefix, "9002"))
		w.pendingOne()
		time.Sleep(80 * time.Millisecond)
		w.send(conn, getOf(prefix, "/late"))
		time.Sleep(20 * time.Millisecond)
		w.decide(gate.DenyIt)
		if got := readReply(t, r); got.status != 403 {
			t.Fatalf("the second held one: %+v", got)
		}
		if got := readReply(t, r); got.status != 200 || got.json(t)["uri"] != "/late" {
			t.Fatalf("late: %+v", got)
		}
	})
}

// TestHeldClientLeaves: however a client leaves, its call waits no more, nothing is
// sent, and its question stands.
func TestHeldClientLeaves(t *testing.T) {
	for name, leave := range map[string]func(c net.Conn){
		"closes": func(c net.Conn) { _ = c.Close() },
		"resets": func(c net.Conn) {
			if nc, ok := c.(interface{ NetConn() net.Conn }); ok {
				c = nc.NetConn()
			}
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		},
		"closes its side": func(c net.Conn) { _ = c.(interface{ CloseWrite() error }).CloseWrite() },
	} {
		for _, at := range []time.Duration{0, 100 * time.Millisecond} {
			t.Run(fmt.Sprint(name, " after ", at), func(t *testing.T) {
				onEachWay(t, func(t *testing.T, w *world, conn net.Conn, prefix string) {
					w.send(conn, refundOf(prefix, "9001"))
					if at > 0 {
						w.pendingOne()
						time.Sleep(at)
					}
					leave(conn)
					waitFor(t, func() bool {
						list := w.trail.events(t)
						return len(list) > 0 && strings.Contains(list[len(list)-1].Outcome.Error, "went away")
					})
					w.pendingOne()
					w.untouched()
				})
			})
		}
	}
}

// corked sends what is written to it together.
type corked struct {
	net.Conn
	waits bytes.Buffer
	on    bool
}

func (c *corked) Write(p []byte) (int, error) {
	if c.on {
		return c.waits.Write(p)
	}
	return c.Conn.Write(p)
}

// TestHeldClientLeftBefore: the end of what TLS says comes in one piece with the
// call, so that nothing ever comes on the socket afterwards.
func TestHeldClientLeftBefore(t *testing.T) {
	w := newWorld(t, withHold(10*time.Second))
	conn, _ := w.tunnelTo("api.test:443")
	cork := &corked{Conn: conn}
	roots := x509.NewCertPool()
	roots.AddCert(w.ca.Certificate())
	c := tls.Client(cork, &tls.Config{ServerName: "api.test", RootCAs: roots})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	cork.on = true
	w.send(c, refundOf("", "9001"))
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(5 * time.Second)) // CloseWrite has set it
	w.send(conn, cork.waits.String())
	waitFor(t, func() bool {
		list := w.trail.events(t)
		return len(list) > 0 && strings.Contains(list[len(list)-1].Outcome.Error, "went away")
	})
	w.untouched()
}

// TestShapesOfHeldCalls: what an answer looks like depends on its request, of which
// net/http sees another head the second time.
func TestShapesOfHeldCalls(t *testing.T) {
	asksEverything := withPolicy(strings.Replace(asksForAll, "tools: [http.get]", "tools: [http.none]", 1) + `  - name: more
    version: 1
    tools: [http.get, http.head]
    rules:
      - { name: hold, decision: require_approval, reason_code: x.held }
`)
	for _, c := range []struct {
		name, request string
		close         bool
		check         func(resp *http.Response, body string) bool
	}{
		{"HEAD", "HEAD %s/x HTTP/1.1\r\nHost: api.test\r\n\r\n", false, func(r *http.Response, b string) bool { return b == "" && r.ContentLength == 5 }},
		{"GET", "GET %s/x HTTP/1.1\r\nHost: api.test\r\n\r\n", false, func(_ *http.Response, b string) bool { return b == "hello" }},
		{"close", "GET %s/x HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n", true, func(r *http.Response, b string) bool { return b == "hello" && r.Close }},
		{"HTTP/1.0", "GET %s/x HTTP/1.0\r\nHost: api.test\r\n\r\n", true, func(_ *http.Response, b string) bool { return b == "hello" }},
		{"HTTP/1.0 that stays", "GET %s/x HTTP/1.0\r\nHost: api.test\r\nConnection: keep-alive\r\n\r\n", false, func(r *http.Response, b string) bool {
			return b == "hello" && r.Header.Get("Connection") == "keep-alive"
		}},
		{"chunked", "POST %s/x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", false, func(r *http.Response, b string) bool { return b == "hello" && r.Header.Get("X-Body") == "abc" }},
		{"expects 100", "POST %s/x HTTP/1.1\r\nHost: api.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", false, func(r *http.Response, b string) bool { return b == "hello" && r.Header.Get("X-Body") == "abc" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			onEachWay(t, func(t *testing.T, w *world, conn net.Conn, prefix string) {
				w.on(func(rw http.ResponseWriter, r *http.Request) {
					b, _ := io.ReadAll(r.Body)
					rw.Header().Set("X-Body", string(b))
					_, _ = io.WriteString(rw, "hello")
				})
				w.send(conn, fmt.Sprintf(c.request, prefix))
				w.decide(gate.Approve)
				r := bufio.NewReader(conn)
				method, _, _ := strings.Cut(c.request, " ")
				var resp *http.Response
				for resp == nil || resp.StatusCode == 100 {
					var err error
					if resp, err = http.ReadResponse(r, &http.Request{Method: method}); err != nil {
						t.Fatal(err)
					}
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != 200 || !c.check(resp, string(body)) {
					t.Errorf("%d %v %q %v", resp.StatusCode, resp.Header, body, err)
				}
				_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
				if _, err := r.ReadByte(); (err == io.EOF) != c.close {
					t.Errorf("afterwards: %v", err)
				}
			}, asksEverything)
		})
	}
}

// TestHeldUpgrade: a connection that was held switches protocols.
func TestHeldUpgrade(t *testing.T) {
	onEachWay(t, func(t *testing.T, w *world, conn net.Conn, prefix string) {
		w.on(echoUpgrade)
		w.send(conn, "POST "+prefix+"/ws"+upgradeHead)
		w.decide(gate.Approve)
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatalf("%v %v", resp, err)
		}
		w.send(conn, "ping")
		buf := make([]byte, 4)
		if _, err := io.ReadFull(r, buf); err != nil || string(buf) != "ping" {
			t.Errorf("%q %v", buf, err)
		}
		_ = conn.Close()
	}, withPolicy(asksForAll))
}

// TestNothingServesAHeldConnection: that is what a held call costs so little by.
func TestNothingServesAHeldConnection(t *testing.T) {
	onEachWay(t, func(t *testing.T, w *world, conn net.Conn, prefix string) {
		w.send(conn, refundOf(prefix, "9001"))
		w.pendingOne()
		serving := func() int {
			buf := make([]byte, 1<<20)
			n := 0
			for _, g := range bytes.Split(buf[:runtime.Stack(buf, true)], []byte("\n\n")) {
				if bytes.Contains(g, []byte("net/http.(*conn).serve")) && bytes.Contains(g, []byte("sidecar/proxy.")) ||
					bytes.Contains(g, []byte("net/http.(*connReader).backgroundRead")) {
					n++
				}
			}
			return n
		}
		waitFor(t, func() bool { return serving() == 0 })
		w.decide(gate.DenyIt)
		if got := readReply(t, bufio.NewReader(conn)); got.status != 403 {
			t.Errorf("%+v", got)
		}
	})
}

// TestShutdownAnswersHeldCalls: what is drained is told to come back, and what was
// approved a moment before is waited for.
func TestShutdownAnswersHeldCalls(t *testing.T) {
	onEachWay(t, func(t *testing.T, w *world, conn net.Conn, prefix string) {
		arrived, release := make(chan struct{}), make(chan struct{})
		w.on(func(rw http.ResponseWriter, _ *http.Request) {
			close(arrived)
			<-release
			_, _ = rw.Write([]byte("done"))
		})
		w.send(conn, refundOf(prefix, "9001"))
		w.decide(gate.Approve)
		<-arrived
		other, theirs := ways["plain"](w)
		w.send(other, refundOf(theirs, "9002"))
		w.pendingOne()
		stopped := make(chan error, 1)
		w.gate.Drain()
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			stopped <- w.server.Shutdown(ctx)
		}()
		if got := readReply(t, bufio.NewReader(other)); got.status != 503 || got.header.Get("Connection") != "close" || got.header.Get("ActPass-Approval") == "" {
			t.Errorf("the held one: %+v", got)
		}
		select {
		case err := <-stopped:
			t.Fatalf("stopped before the answer: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		close(release)
		if got := readReply(t, bufio.NewReader(conn)); got.status != 200 || got.body != "done" {
			t.Errorf("the approved one: %+v", got)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// TestShutdownWaitsForHeldCalls: one that is decided within the time that a stop has
// is answered, and a connection that was held and is idle now does not stay.
func TestShutdownWaitsForHeldCalls(t *testing.T) {
	onEachWay(t, func(t *testing.T, w *world, conn net.Conn, prefix string) {
		w.send(conn, refundOf(prefix, "9001"))
		w.decide(gate.Approve)
		r := bufio.NewReader(conn)
		if got := readReply(t, r); got.status != 200 {
			t.Fatalf("%+v", got)
		}
		other, theirs := ways["plain"](w)
		w.send(other, refundOf(theirs, "9002"))
		w.pendingOne()
		stopped := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			stopped <- w.server.Shutdown(ctx)
		}()
		time.Sleep(100 * time.Millisecond)
		w.decide(gate.Approve)
		if got := readReply(t, bufio.NewReader(other)); got.status != 200 {
			t.Errorf("%+v", got)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if _, err := r.ReadByte(); err == nil || isTimeout(err) {
			t.Errorf("the idle connection is still open: %v", err)
		}
	})
}

// TestShutdownCutsHeldCalls: one that nobody drains does not keep the sidecar.
func TestShutdownCutsHeldCalls(t *testing.T) {
	onEachWay(t, func(t *testing.T, w *world, conn net.Conn, prefix string) {
		w.send(conn, refundOf(prefix, "9001"))
		w.pendingOne()
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		if err := w.server.Shutdown(ctx); err == nil {
			t.Error("it waited for a human")
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("the connection is still open: %v", err)
		}
		w.untouched()
	})
}
