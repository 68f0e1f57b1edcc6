package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

func TestAnswersStream(t *testing.T) {
	for _, protos := range [][]string{{"http/1.1"}, {"h2"}} {
		w := newWorld(t)
		step := make(chan struct{})
		w.on(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/event-stream")
			_ = http.NewResponseController(rw).Flush()
			for i := range 3 {
				<-step
				fmt.Fprintf(rw, "data: %d\n\n", i)
				_ = http.NewResponseController(rw).Flush()
			}
		})
		resp, err := w.client(protos...).Get("https://api.test/events")
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(resp.Body)
		for i := range 3 {
			step <- struct{}{}
			if line, err := r.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("%q %v", line, err)
			}
			_, _ = r.ReadString('\n')
		}
		if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("end: %v", err)
		}
		// Who has read the end finds the outcome on record.
		if e := w.trail.last(t); e.Outcome.State != evidence.StateForwarded || e.Outcome.Bytes != 27 {
			t.Errorf("outcome %+v", e.Outcome)
		}
	}
}

func TestOutcomeStandsWhenTheAnswerIsRead(t *testing.T) {
	w := newWorld(t)
	w.on(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Length", "20000")
		_, _ = rw.Write(bytes.Repeat([]byte("x"), 20000))
	})
	c := w.client()
	for i := range 50 {
		if got := w.do(c, "GET", "https://api.test/x", ""); got.status != 200 {
			t.Fatal(got.status)
		}
		if e := w.trail.last(t); e.Outcome.State != evidence.StateForwarded {
			t.Fatalf("call %d: outcome %+v", i, e.Outcome)
		}
	}
	for _, method := range []string{"HEAD", "GET"} {
		w.on(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNoContent) })
		if got := w.do(c, method, "https://api.test/x", ""); got.status != 204 || w.trail.last(t).Outcome.Status != 204 {
			t.Errorf("%s: %d %+v", method, got.status, w.trail.last(t).Outcome)
		}
	}
}

func TestLargeAnswerKeepsMemoryFlat(t *testing.T) {
	const size = 96 << 20
	w := newWorld(t)
	w.on(func(rw http.ResponseWriter, _ *http.Request) {
		buf := make([]byte, 64<<10)
		for range size / len(buf) {
			if _, err := rw.Write(buf); err != nil {
				return
			}
		}
	})
	resp, err := w.client("http/1.1").Get("https://api.test/big")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var peak, start runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&start)
	buf := make([]byte, 1<<20)
	var n int64
	for i := 0; ; i++ {
		k, err := io.ReadFull(resp.Body, buf)
		n += int64(k)
		if i%24 == 0 {
			runtime.GC()
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			peak.HeapAlloc = max(peak.HeapAlloc, now.HeapAlloc)
		}
		if err != nil {
			break
		}
	}
	if n != size {
		t.Errorf("%d bytes", n)
	}
	if peak.HeapAlloc > start.HeapAlloc+16<<20 {
		t.Errorf("the heap grew from %d to %d", start.HeapAlloc, peak.HeapAlloc)
	}
}

func TestBrokenAnswerIsNotTakenForWhole(t *testing.T) {
	for _, protos := range [][]string{{"http/1.1"}, {"h2"}} {
		w := newWorld(t)
		w.on(func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = rw.Write([]byte("part"))
			_ = http.NewResponseController(rw).Flush()
			panic(http.ErrAbortHandler)
		})
		resp, err := w.client(protos...).Get("https://api.test/x")
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
		}
		if err == nil {
			t.Errorf("%v: a broken answer ended well", protos)
		}
		waitFor(t, func() bool { return w.trail.last(t).Outcome.State == evidence.StateForwarded })
		if e := w.trail.last(t); !strings.Contains(e.Outcome.Error, "broke off") || e.Outcome.Bytes != 4 {
			t.Errorf("%v: outcome %+v", protos, e.Outcome)
		}
	}
}

func TestClientThatGoesAway(t *testing.T) {
	w := newWorld(t)
	gone := make(chan struct{})
	w.on(func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
		close(gone)
	})
	ctx, cancel := context.WithCancel(context.Background())
	req, _ := http.NewRequestWithContext(ctx, "GET", "https://api.test/x", nil)
	resp, err := w.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = resp.Body.Close()
	<-gone // the upstream is let go too
	waitFor(t, func() bool { return w.trail.last(t).Outcome.State == evidence.StateForwarded })
	if e := w.trail.last(t); !strings.Contains(e.Outcome.Error, "client went away") {
		t.Errorf("outcome %+v", e.Outcome)
	}
}

func TestHeldClientThatGoesAway(t *testing.T) {
	w := newWorld(t, func(w *world, _ *Options) { w.rules.Hold = time.Minute })
	body := "amount=9000&charge=ch_1"
	conn, err := net.Dial("tcp", w.front)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST http://api.test/v1/refunds HTTP/1.1\r\nHost: api.test\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", formType, len(body), body)
	waitFor(t, func() bool { return len(w.trail.events(t)) > 0 })
	_ = conn.Close()
	waitFor(t, func() bool {
		o := w.trail.last(t).Outcome
		return o != nil && strings.Contains(o.Error, "went away")
	})
	w.untouched()
}

// gRPC's shape: both bodies stream at once, and trailers carry the verdict.
func TestFullDuplexAndTrailers(t *testing.T) {
	w := newWorld(t)
	w.on(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/grpc")
		rw.Header().Set("Trailer", "Grpc-Status")
		_ = http.NewResponseController(rw).EnableFullDuplex()
		rw.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(rw).Flush()
		buf := make([]byte, 16)
		for {
			n, err := r.Body.Read(buf)
			_, _ = rw.Write(buf[:n])
			_ = http.NewResponseController(rw).Flush()
			if err != nil {
				break
			}
		}
		rw.Header().Set("Grpc-Status", "0")
		rw.Header().Set(http.TrailerPrefix+"Grpc-Message", r.Trailer.Get("X-End"))
	})
	for _, protos := range [][]string{{"http/1.1"}, {"h2"}} {
		pr, pw := io.Pipe()
		req, _ := http.NewRequest("POST", "https://api.test/svc/Method", pr)
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
		req.Trailer = http.Header{"X-End": nil}
		answer := make(chan *http.Response, 1)
		go func() {
			resp, err := w.client(protos...).Do(req)
			if err != nil {
				t.Errorf("%v: %v", protos, err)
			}
			answer <- resp
		}()
		_, _ = pw.Write([]byte("one"))
		resp := <-answer
		if resp == nil {
			return
		}
		buf := make([]byte, 16)
		for i, word := range []string{"one", "two", "three"} {
			if i > 0 {
				_, _ = pw.Write([]byte(word))
			}
			if _, err := io.ReadFull(resp.Body, buf[:len(word)]); err != nil || string(buf[:len(word)]) != word {
				t.Fatalf("%v: %q %v", protos, buf, err)
			}
		}
		req.Trailer.Set("X-End", "bye")
		_ = pw.Close()
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Errorf("%v: %v", protos, err)
		}
		_ = resp.Body.Close()
		if resp.Trailer.Get("Grpc-Status") != "0" || resp.Trailer.Get("Grpc-Message") != "bye" {
			t.Errorf("%v: trailers %v", protos, resp.Trailer)
		}
	}
}

func TestRefusedGRPC(t *testing.T) {
	w := newWorld(t, func(w *world, _ *Options) { w.rules.Mode = gate.ModeStrict })
	got := w.do(w.client("h2"), "POST", "https://api.test/svc/Method", "x", "Content-Type", "application/grpc", "Te", "trailers")
	if got.status != 200 || got.header.Get("Grpc-Status") != "7" || !strings.Contains(got.header.Get("Grpc-Message"), "ActPass blocked") || got.header.Get("ActPass-Decision") != "deny" {
		t.Errorf("%d %v", got.status, got.header)
	}
	w.untouched()
}

// N attempts at a call that a human approves make one upstream request, also
// when the agent is gone by then.
func TestApprovedCallIsSentOnce(t *testing.T) {
	w := newWorld(t, func(w *world, _ *Options) { w.rules.Hold = 5 * time.Second })
	w.on(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Request-Id", "req_1")
		rw.Header().Set("Set-Cookie", "secret=1")
		_, _ = rw.Write([]byte("refunded"))
	})
	const attempts = 5
	statuses := make(chan int, attempts)
	for range attempts {
		go func() {
			req, _ := http.NewRequest("POST", "https://api.test/v1/refunds", strings.NewReader("amount=9000&charge=ch_1"))
			req.Header.Set("Content-Type", formType)
			req.Header.Set("Idempotency-Key", "k1")
			resp, err := w.client("h2").Do(req)
			if err != nil {
				t.Error(err)
				statuses <- 0
				return
			}
			_ = resp.Body.Close()
			statuses <- resp.StatusCode
		}()
	}
	waitFor(t, func() bool { return len(w.trail.events(t)) == attempts })
	w.untouched()
	list, _, err := w.gate.Approvals(context.Background(), approver, gate.ApprovalQuery{TenantID: "acme"})
	if err != nil || len(list) != 1 {
		t.Fatalf("%d approvals, %v", len(list), err)
	}
	if _, err := w.gate.Decide(context.Background(), approver, list[0].ID, "approve", "fine", nil); err != nil {
		t.Fatal(err)
	}
	count := map[int]int{}
	for range attempts {
		count[<-statuses]++
	}
	if count[200] == 0 || count[200]+count[409] != attempts || w.originReqs.Load() != 1 {
		t.Errorf("answers %v, %d upstream requests", count, w.originReqs.Load())
	}
	// A retry gets what the call got, and says so.
	got := w.do(w.client("http/1.1"), "POST", "https://api.test/v1/refunds", "amount=9000&charge=ch_1", "Content-Type", formType, "Idempotency-Key", "k1")
	if got.status != 200 || got.body != "refunded" || got.header.Get("ActPass-Replayed") != "true" || got.header.Get("Request-Id") != "req_1" || got.header.Get("Set-Cookie") != "" {
		t.Errorf("replay: %d %v %s", got.status, got.header, got.body)
	}
	if w.originReqs.Load() != 1 {
		t.Errorf("%d upstream requests", w.originReqs.Load())
	}
}

// The answer to an approved call is kept though its agent did not wait for it.
func TestApprovedCallOfAnAgentThatLeft(t *testing.T) {
	w := newWorld(t, func(w *world, _ *Options) { w.rules.Hold = 5 * time.Second })
	if got := w.do(w.client(), "GET", "http://api.test/warm", ""); got.status != 200 { // leaves a kept connection
		t.Fatal(got.status)
	}
	left := make(chan struct{})
	w.on(func(rw http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(rw).Flush()
		<-left
		for range 3 {
			_, _ = rw.Write([]byte("refunded "))
			_ = http.NewResponseController(rw).Flush()
			time.Sleep(30 * time.Millisecond)
		}
	})
	const body = "amount=9000&charge=ch_1"
	conn, err := net.Dial("tcp", w.front)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST http://api.test/v1/refunds HTTP/1.1\r\nHost: api.test\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", formType, len(body), body)
	waitFor(t, func() bool { return len(w.trail.events(t)) == 2 })
	list, _, err := w.gate.Approvals(context.Background(), approver, gate.ApprovalQuery{TenantID: "acme"})
	if err != nil || len(list) != 1 {
		t.Fatalf("%d approvals, %v", len(list), err)
	}
	if _, err := w.gate.Decide(context.Background(), approver, list[0].ID, "approve", "fine", nil); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return w.originReqs.Load() == 2 })
	if n := w.originConns.Load(); n != 2 {
		t.Errorf("an approved call took a kept connection, on which it could be sent twice: %d connections", n)
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
	time.Sleep(20 * time.Millisecond) // the server notices
	close(left)
	waitFor(t, func() bool { return w.trail.last(t).Outcome.State == evidence.StateForwarded })
	got := w.do(w.client(), "POST", "http://api.test/v1/refunds", body, "Content-Type", formType)
	if got.status != 200 || got.body != "refunded refunded refunded " || w.originReqs.Load() != 2 {
		t.Errorf("replay: %d %q, %d upstream requests", got.status, got.body, w.originReqs.Load())
	}
}

var approver = gate.Identity{TenantID: "acme", KeyID: "key_approver", Role: gate.RoleAdmin, AgentID: "ann"}
