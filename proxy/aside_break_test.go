package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// A header block that is found too large in the very piece that ends its frame.
func TestH2BlockTooLargeAtItsEnd(t *testing.T) {
	boom := &panicky{}
	w := newWorld(t, func(w *world, o *Options) { boom.Gate, o.Gate = w.gate, boom })
	conn := w.inside("api.test:443", "api.test", "h2")
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	var out bytes.Buffer
	f := http2.NewFramer(&out, conn)
	out.WriteString(http2.ClientPreface)
	_ = f.WriteSettings()
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, EndHeaders: true, BlockFragment: make([]byte, maxBlock+100)})
	b := out.Bytes()
	if _, err := conn.Write(b[:len(b)-100]); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	_, _ = conn.Write(b[len(b)-100:])
	_, _ = io.Copy(io.Discard, conn)
	if got := w.do(w.client("h2"), "GET", "https://api.test/x", ""); got.status != 200 {
		t.Errorf("%+v", got)
	}
	if n := boom.faults.Load(); n != 0 {
		t.Errorf("%d faults", n)
	}
}

// headAhead has sent the head of a refund and nothing else: what is sent next, its
// body first, comes into an empty buffer.
func headAhead(t *testing.T) (w *world, conn net.Conn, r *bufio.Reader, prefix, body string) {
	t.Helper()
	w = newWorld(t, withHold(10*time.Second))
	conn, prefix = ways["plain"](w)
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	refund := refundOf(prefix, "9001")
	cut := strings.Index(refund, "\r\n\r\n") + 4
	w.send(conn, refund[:cut])
	time.Sleep(100 * time.Millisecond)
	return w, conn, bufio.NewReader(conn), prefix, refund[cut:]
}

// More pipelined behind a held call than net/http's buffer takes beside the made-up
// head, and held again.
func TestAsideTwiceWithMuchBehind(t *testing.T) {
	w, conn, r, prefix, body := headAhead(t)
	rest := body + refundOf(prefix, "9002")
	var paths []string
	for i := 0; len(rest) < 4300; i++ {
		paths = append(paths, fmt.Sprintf("/get/%03d", i))
		rest += getOf(prefix, paths[i])
	}
	w.send(conn, rest)
	w.decide(gate.Approve)
	if got := readReply(t, r); got.status != 200 {
		t.Fatalf("the first: %+v", got)
	}
	w.decide(gate.Approve)
	if got := readReply(t, r); got.status != 200 {
		t.Fatalf("the second: %+v", got)
	}
	for _, p := range paths {
		got := readReply(t, r)
		if got.status != 200 || got.json(t)["uri"] != p {
			t.Fatalf("%s: %+v", p, got)
		}
	}
}

type brokenRecorder struct {
	*trail
	on atomic.Bool
}

func (p *brokenRecorder) Append(ctx context.Context, r evidence.Record) (evidence.Entry, error) {
	if p.on.Load() {
		panic("the recorder is broken")
	}
	return p.trail.Append(ctx, r)
}

func withRecorder(p *brokenRecorder) worldOption {
	return func(w *world, o *Options) {
		p.trail = w.trail
		g, err := gate.New(gate.Options{Store: w.store, Recorder: p, RedactKey: bytes.Repeat([]byte{7}, 32)})
		if err != nil {
			panic(err)
		}
		w.gate, o.Gate = g, g
	}
}

// A panic costs one request, also of a call that was set aside.
func TestPanicWhileAside(t *testing.T) {
	p := &brokenRecorder{}
	w := newWorld(t, withHold(10*time.Second), withRecorder(p))
	conn, prefix := ways["plain"](w)
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	w.send(conn, refundOf(prefix, "9001"))
	w.pendingOne()
	time.Sleep(100 * time.Millisecond)
	p.on.Store(true)
	w.gate.Drain()
	_, _ = http.ReadResponse(bufio.NewReader(conn), nil)
	p.on.Store(false)
	w.untouched()
}

// brokenCounter panics where a call begins to wait.
type brokenCounter struct{}

func (brokenCounter) Decided(string, string, string, string) {}
func (brokenCounter) Overhead(time.Duration)                 {}
func (brokenCounter) Holds(int)                              { panic("the counter is broken") }
func (brokenCounter) Fault(string)                           {}

// The same of a panic that the gate does not catch: the connection ends, the process
// goes on.
func TestPanicOutsideTheGateWhileAside(t *testing.T) {
	w := newWorld(t, withHold(10*time.Second), func(w *world, o *Options) {
		g, err := gate.New(gate.Options{Store: w.store, Recorder: w.trail, RedactKey: bytes.Repeat([]byte{7}, 32), Observer: brokenCounter{}})
		if err != nil {
			panic(err)
		}
		w.gate, o.Gate = g, g
	})
	conn, prefix := ways["plain"](w)
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	w.send(conn, refundOf(prefix, "9001"))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d bytes, %v", n, err)
	}
	w.untouched()
}

// As above, of what the lint of HTTP/2 records.
func TestPanicInH2Lint(t *testing.T) {
	p := &brokenRecorder{}
	w := newWorld(t, withRecorder(p))
	c := newH2Client(t, w, 1<<20)
	if got := c.ask(with(), 1, nil); got != "200" {
		t.Fatal(got)
	}
	p.on.Store(true)
	c.ask(append([][2]string{{":method", "POST"}}, h2Good...), 1, nil)
	p.on.Store(false)
	if got := newH2Client(t, w, 1<<20).ask(with(), 1, nil); got != "200" {
		t.Errorf("the next connection: %s", got)
	}
}

// A call that comes to be held while the sidecar stops is told to come back, on
// whatever connection it came.
func TestHeldWhileStopping(t *testing.T) {
	for _, again := range []bool{false, true} {
		t.Run(map[bool]string{false: "fresh", true: "held before"}[again], func(t *testing.T) {
			w := newWorld(t, withHold(10*time.Second))
			conn, prefix := ways["plain"](w)
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			r := bufio.NewReader(conn)
			if again {
				w.send(conn, refundOf(prefix, "9001"))
				w.decide(gate.Approve)
				if got := readReply(t, r); got.status != 200 {
					t.Fatalf("%+v", got)
				}
			}
			req := refundOf(prefix, "9002")
			cut := strings.Index(req, "\r\n\r\n") + 6
			w.send(conn, req[:cut])
			time.Sleep(100 * time.Millisecond)
			w.gate.Drain()
			stopped := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
				defer cancel()
				stopped <- w.server.Shutdown(ctx)
			}()
			time.Sleep(300 * time.Millisecond)
			w.send(conn, req[cut:])
			if got := readReply(t, r); got.status != 503 || got.header.Get("ActPass-Approval") == "" {
				t.Errorf("%+v", got)
			}
			if err := <-stopped; err != nil {
				t.Error(err)
			}
		})
	}
}

// A stop finds a call that is held already, too.
func TestStopWhileHeld(t *testing.T) {
	w := newWorld(t, withHold(10*time.Second))
	conn, prefix := ways["plain"](w)
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	r := bufio.NewReader(conn)
	w.send(conn, refundOf(prefix, "9002"))
	w.pendingOne()
	time.Sleep(100 * time.Millisecond)
	w.gate.Drain()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	if err := w.server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if got := readReply(t, r); got.status != 503 || got.header.Get("ActPass-Approval") == "" {
		t.Errorf("%+v", got)
	}
}

// The body of a third call, longer than net/http's buffer and there already while two
// before it were held, arrives as it was sent.
func TestAsideTwiceKeepsEveryByte(t *testing.T) {
	w, conn, r, prefix, body := headAhead(t)
	path := "/p"
	for i := 0; len(path) < 4300; i++ {
		path += fmt.Sprintf("/%05d", i)
	}
	w.send(conn, body+refundOf(prefix, "9002")+fmt.Sprintf("POST %s/x HTTP/1.1\r\nHost: api.test\r\nContent-Length: %d\r\n\r\n%s", prefix, len(path), path)+getOf(prefix, "/next"))
	w.decide(gate.Approve)
	_ = readReply(t, r)
	w.decide(gate.Approve)
	_ = readReply(t, r)
	got := readReply(t, r)
	if v, _ := got.json(t)["body"].(string); v != path {
		t.Errorf("status %d, decision %s: the upstream got another body: it ends in %q, not in %q", got.status, got.header.Get("ActPass-Decision"), v[len(v)-50:], path[len(path)-50:])
	}
	if got := readReply(t, r); got.status != 200 {
		t.Errorf("the next: %d", got.status)
	}
}
