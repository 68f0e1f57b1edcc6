package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
)

// settled is how long after the last call was held its memory is looked at, where
// there are enough of them to look.
const settled = 6 * time.Second

// TestManyOpenHolds measures calls that are held by the real program: 300 of each
// kind of connection, or 10,000 with ACTPASS_LONG; ACTPASS_HOLDS for another
// number. Whatever the number, every call that was approved must complete, and
// reach the upstream once. The figures of the long form are in docs/approvals.md.
func TestManyOpenHolds(t *testing.T) {
	holds := 300
	if os.Getenv("ACTPASS_LONG") != "" {
		holds = 10_000
	}
	if n := os.Getenv("ACTPASS_HOLDS"); n != "" {
		var err error
		holds, err = strconv.Atoi(n)
		must(t, err)
	}
	for _, kind := range []holdKind{
		{"HTTP/1.1", (*manyHolds).plain, 1, 26},
		{"HTTP/1.1 in TLS", (*manyHolds).inTLS, 1, 37},
		{"HTTP/2 in TLS, 200 streams a connection", (*manyHolds).streams, 200, 33},
	} {
		t.Run(kind.name, func(t *testing.T) {
			if holds < 1000 {
				t.Parallel()
			}
			measureHolds(t, holds, kind)
		})
	}
}

// holdKind is one way to be held.
type holdKind struct {
	name string
	open func(m *manyHolds, keys []string, done heldAnswer) // returns when each key is done
	each int                                                // keys a connection
	most int64                                              // KiB that a held call may take: what was measured, and a fifth
}

type heldAnswer func(key string, status int, body string, err error)

// manyHolds is a sidecar with an upstream that counts what arrives.
type manyHolds struct {
	sc      *sidecar
	pool    *tls.Config
	arrived sync.Map
	twice   atomic.Int64
}

func measureHolds(t *testing.T, holds int, kind holdKind) {
	m := &manyHolds{}
	u := newUpstream(t)
	u.handle(func(w http.ResponseWriter, r *http.Request) {
		if key := r.Header.Get("Idempotency-Key"); key != "" {
			if _, again := m.arrived.LoadOrStore(key, true); again {
				m.twice.Add(1)
			}
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"object":"refund"}`)
	})
	m.sc = start(t, settings{front: u, hold: "10m", holds: 20_000})
	m.pool = &tls.Config{RootCAs: m.sc.caPool(t), ServerName: "api.stripe.com"}
	window := 500 * time.Millisecond
	if holds >= 1000 {
		window = 4 * time.Second
	}
	settle := func() {
		if holds >= 1000 {
			time.Sleep(settled)
		}
	}
	settle() // what the start took is given back
	idle := m.sc.rss()

	var completed, failed atomic.Int64
	done := func(key string, status int, body string, err error) {
		if err == nil && status == 200 {
			completed.Add(1)
		} else if failed.Add(1) < 5 {
			t.Errorf("%s: %v %d %.300s", key, err, status, body)
		}
	}
	var calls sync.WaitGroup
	slots := make(chan struct{}, 64) // connections that are opened at a time
	opening := time.Now()
	for from := 0; from < holds; from += kind.each {
		var keys []string
		for i := from; i < min(from+kind.each, holds); i++ {
			keys = append(keys, fmt.Sprintf("hold_%d", i))
		}
		slots <- struct{}{}
		calls.Go(func() {
			time.AfterFunc(50*time.Millisecond, func() { <-slots })
			kind.open(m, keys, done)
		})
	}
	ids := m.pending(t, holds, &failed)
	opened := time.Since(opening)
	settle()
	held := m.sc.rss()
	m.throughput(t, window/4) // warm
	during, duringCPU := m.throughput(t, window)

	approving, cpu := time.Now(), m.sc.cpu()
	m.approve(t, ids)
	decided := time.Since(approving)
	calls.Wait()
	took, cpu := time.Since(approving), m.sc.cpu()-cpu
	after, afterCPU := m.throughput(t, window)
	t.Logf("%d holds: opened in %.1f s; RSS %d MiB idle, %d MiB holding, %.1f KiB a hold; other traffic %.0f/s and %.0f µs of CPU each while they were held, %.0f/s and %.0f µs afterwards (%.2f, %.2f); approved in %.1f s, all completed %.1f s after the first approval, with %.1f s of CPU",
		holds, opened.Seconds(), idle>>20, held>>20, float64(held-idle)/float64(holds)/1024, during, duringCPU, after, afterCPU, during/after, duringCPU/afterCPU, decided.Seconds(), took.Seconds(), cpu)
	if int(completed.Load()) != holds || m.twice.Load() != 0 {
		t.Errorf("%d of %d completed, %d arrived twice", completed.Load(), holds, m.twice.Load())
	}
	// What a start and its first calls take is some 40 MiB more, and few holds would
	// be blamed for it.
	if each := (held - idle) >> 10 / int64(holds); holds >= 5000 && each > kind.most {
		t.Errorf("a held call takes %d KiB, and %d are the most", each, kind.most)
	}
}

// heldCall is the head and body of a call that is held.
func heldCall(target, key string) string {
	body := refund("25000")
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: api.stripe.com\r\nContent-Type: %s\r\nIdempotency-Key: %s\r\nContent-Length: %d\r\n\r\n%s", target, form, key, len(body), body)
}

// plain is one call on a connection of its own, without TLS.
func (m *manyHolds) plain(keys []string, done heldAnswer) {
	conn, err := net.Dial("tcp", m.sc.proxy)
	if err != nil {
		done(keys[0], 0, "", err)
		return
	}
	exchangeOn(conn, heldCall("http://api.stripe.com/v1/refunds", keys[0]), keys[0], done)
}

// inTLS is one call on a connection of its own, inside a CONNECT.
func (m *manyHolds) inTLS(keys []string, done heldAnswer) {
	conn, err := net.Dial("tcp", m.sc.proxy)
	if err != nil {
		done(keys[0], 0, "", err)
		return
	}
	const established = "HTTP/1.1 200 Connection established\r\n\r\n"
	_, _ = io.WriteString(conn, "CONNECT api.stripe.com:443 HTTP/1.1\r\nHost: api.stripe.com:443\r\n\r\n")
	if _, err := io.ReadFull(conn, make([]byte, len(established))); err != nil {
		done(keys[0], 0, "", err)
		return
	}
	exchangeOn(tls.Client(conn, m.pool), heldCall("/v1/refunds", keys[0]), keys[0], done)
}

func exchangeOn(conn net.Conn, call, key string, done heldAnswer) {
	defer conn.Close()
	if _, err := io.WriteString(conn, call); err != nil {
		done(key, 0, "", err)
		return
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
	if err != nil {
		done(key, 0, "", err)
		return
	}
	body, err := io.ReadAll(resp.Body)
	done(key, resp.StatusCode, string(body), err)
}

// streams are calls on one connection of HTTP/2, inside a CONNECT.
func (m *manyHolds) streams(keys []string, done heldAnswer) {
	tr := &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: m.sc.proxy}), TLSClientConfig: m.pool.Clone(), ForceAttemptHTTP2: true,
	}
	defer tr.CloseIdleConnections()
	var wg sync.WaitGroup
	call := func(key string) {
		req, _ := http.NewRequest(http.MethodPost, "https://api.stripe.com/v1/refunds", strings.NewReader(refund("25000")))
		req.Header.Set("Content-Type", form)
		req.Header.Set("Idempotency-Key", key)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			done(key, 0, "", err)
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		done(key, resp.StatusCode, string(body), err)
	}
	// One read first, so that there is a connection, and one only.
	req, _ := http.NewRequest(http.MethodGet, "https://api.stripe.com/v1/charges/ch_1", nil)
	if resp, err := tr.RoundTrip(req); err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	for _, key := range keys {
		wg.Go(func() { call(key) })
	}
	wg.Wait()
}

// throughput of calls that are not held, in calls a second, and the sidecar's CPU
// for each, in microseconds, which depends less on what else the machine does.
func (m *manyHolds) throughput(t *testing.T, d time.Duration) (rate, cost float64) {
	client := &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: m.sc.proxy}), TLSClientConfig: &tls.Config{RootCAs: m.pool.RootCAs}, MaxIdleConnsPerHost: 16,
	}}
	defer client.CloseIdleConnections()
	var n atomic.Int64
	var wg sync.WaitGroup
	begin, cpu := time.Now(), m.sc.cpu()
	for range 8 {
		wg.Go(func() {
			for time.Since(begin) < d {
				a, err := trySend(client, http.MethodGet, "https://echo.example.test/x", "", "", nil)
				if err != nil || a.status != 200 {
					t.Errorf("other traffic: %v %d %s", err, a.status, a.body)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(begin).Seconds(), (m.sc.cpu() - cpu) * 1e6 / float64(max(n.Load(), 1))
}

// pending waits until n approvals are open, and gives their ids.
func (m *manyHolds) pending(t *testing.T, n int, failed *atomic.Int64) (ids []string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end) && failed.Load() == 0; time.Sleep(time.Duration(n)*time.Millisecond/10 + 50*time.Millisecond) {
		ids = ids[:0]
		for cursor := ""; ; {
			page, err := m.sc.client().Approvals(context.Background(), "pending", "", cursor, 200)
			must(t, err)
			for _, a := range page.Data {
				ids = append(ids, a.ID)
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
		if len(ids) >= n {
			return ids
		}
	}
	t.Fatalf("%d of %d calls are held\n%s", len(ids), n, tail(m.sc.log(), 10))
	return nil
}

// approve approves all of them, eight at a time.
func (m *manyHolds) approve(t *testing.T, ids []string) {
	work := make(chan string)
	var deciders sync.WaitGroup
	for range 8 {
		deciders.Go(func() {
			decider := m.sc.client()
			for id := range work {
				if _, err := decider.Decide(context.Background(), id, api.Verdict{Decision: "approve", Reason: "checked"}); err != nil {
					t.Errorf("approve %s: %v", id, err)
				}
			}
		})
	}
	for _, id := range ids {
		work <- id
	}
	close(work)
	deciders.Wait()
}

// cpu is the time that the process has used, user and system, in seconds.
func (sc *sidecar) cpu() float64 {
	sc.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", sc.cmd.Process.Pid))
	if err != nil {
		missing(sc.t, err.Error())
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	user, err := strconv.ParseFloat(fields[11], 64) // in hundredths, proc_pid_stat(5)
	must(sc.t, err)
	system, err := strconv.ParseFloat(fields[12], 64)
	must(sc.t, err)
	return (user + system) / 100
}

// rss is the resident memory of the process, in bytes.
func (sc *sidecar) rss() int64 {
	sc.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", sc.cmd.Process.Pid))
	if err != nil {
		missing(sc.t, err.Error())
	}
	pages, err := strconv.ParseInt(strings.Fields(string(data))[1], 10, 64)
	must(sc.t, err)
	return pages * int64(os.Getpagesize())
}
