package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/store/pgtest"
)

// awayPolicy: lists are free, refunds are counted, big ones need a human.
const awayPolicy = `policies:
  - name: reads
    version: 1
    tools: ["stripe.refund.list"]
    rules:
      - { name: reads, decision: allow, reason_code: t.free }
  - name: p
    version: 1
    tools: ["stripe.refund.create"]
    rules:
      - { name: never, when: args.amount > 100000, decision: deny, reason_code: t.never }
      - { name: asks, when: args.amount >= 500, decision: require_approval, reason_code: t.asks, approval: { approvers: [support-leads] } }
      - { name: any, decision: allow, reason_code: t.counted }
    limits:
      - { name: many, key: [user_id], max: 100000000, window: 24h, decision: deny, reason_code: t.many }
`

// TestFleetWithoutDatabase: the database is stopped, as by a crash, under load. What
// needs no shared state is decided as ever, what does is refused with 503, under
// monitor everything goes on; no event is lost, no approval used twice, and within
// 5 s of its return all is as before. ACTPASS_LONG=1 stops it for 60 s, not 6.
func TestFleetWithoutDatabase(t *testing.T) {
	pg := pgtest.Start(t)
	away := 6 * time.Second
	if os.Getenv("ACTPASS_LONG") != "" {
		away = time.Minute
	}
	u := newUpstream(t)
	var waitsSent atomic.Int64
	u.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("charge") == "ch_waits" {
			waitsSent.Add(1)
		}
		refunded(w, r)
	})
	policies := map[string]string{"p.yaml": awayPolicy}
	dsn := pg.Database(t)
	list := fleet(t, 2, dsn, settings{front: u, hold: "30s", policies: policies})
	monitor := fleet(t, 1, dsn, settings{front: u, mode: "monitor", policies: policies})[0]
	ctx := context.Background()
	lead := api.NewClient("http://"+list[0].api, list[0].key("--name", "lead", "--role", "approver", "--group", "support-leads"), nil)

	client := &http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	refund := func(sc *sidecar, charge string, amount int) (answer, error) {
		return trySend(client, http.MethodPost, "http://"+sc.revers+"/stripe/v1/refunds", form, fmt.Sprintf("charge=%s&currency=usd&amount=%d", charge, amount), http.Header{})
	}
	var phase atomic.Int32 // 0 up, 1 away, 2 being found again, 3 up
	type tally struct {
		sync.Mutex
		m       map[string]int
		slowest time.Duration
	}
	got := tally{m: map[string]int{}}
	var sent atomic.Int64
	stop, wg := make(chan struct{}), sync.WaitGroup{}
	load := func(name string, f func(n int64) (answer, error)) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
				before, began := phase.Load(), time.Now()
				a, err := f(sent.Add(1))
				took := time.Since(began)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				got.Lock()
				got.slowest = max(got.slowest, took)
				if after := phase.Load(); before == after {
					got.m[fmt.Sprintf("%d %s %d %s", after, name, a.status, a.header.Get("ActPass-Reason"))]++
				}
				got.Unlock()
			}
		})
	}
	for i := range 2 {
		sc := list[i]
		load("free", func(n int64) (answer, error) {
			return trySend(client, http.MethodGet, fmt.Sprintf("http://%s/stripe/v1/charges/ch_%d/refunds", sc.revers, n), "", "", http.Header{})
		})
		load("denied", func(n int64) (answer, error) { return refund(sc, fmt.Sprint("ch_d", n), 200000) })
		load("counted", func(n int64) (answer, error) { return refund(sc, fmt.Sprint("ch_c", n), 100) })
	}
	load("monitor", func(n int64) (answer, error) { return refund(monitor, fmt.Sprint("ch_m", n), 500) })

	// One call waits for a human all the while.
	waiting := make(chan answer, 1)
	go func() {
		a, err := refund(list[1], "ch_waits", 500)
		if err != nil {
			t.Error(err)
		}
		waiting <- a
	}()
	time.Sleep(time.Second)
	phase.Store(1)
	must(t, pg.Stop())
	time.Sleep(away / 2)
	if a, err := refund(list[0], "ch_asks", 500); err != nil || a.status != 503 || a.header.Get("ActPass-Reason") != "store.unavailable" {
		t.Errorf("needs a human without the database: %d %s, %v", a.status, a.header.Get("ActPass-Reason"), err)
	}
	time.Sleep(away / 2)
	phase.Store(2)
	must(t, pg.Restart())
	back := time.Now()
	for _, sc := range list {
		for {
			if a, err := refund(sc, "ch_probe", 100); err == nil && a.status == 200 {
				break
			}
			if time.Since(back) > 5*time.Second {
				t.Fatal("not found again within 5 s")
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	t.Logf("counted calls pass again %s after the database was up", time.Since(back).Round(time.Millisecond))
	phase.Store(3)
	time.Sleep(time.Second)
	close(stop)
	wg.Wait()

	for k, n := range got.m {
		t.Logf("%6d  %s", n, k)
	}
	for p := range 4 {
		if p == 2 {
			continue
		}
		counted := fmt.Sprintf("%d counted 200 t.counted", p)
		if p == 1 {
			counted = "1 counted 503 store.unavailable"
		}
		for _, k := range []string{fmt.Sprintf("%d free 200 t.free", p), fmt.Sprintf("%d denied 403 t.never", p), counted, fmt.Sprintf("%d monitor 200 t.asks", p)} {
			if got.m[k] == 0 {
				t.Errorf("no call was answered as %q", k)
			}
		}
	}
	if got.slowest > 5*time.Second {
		t.Errorf("a call took %s", got.slowest)
	}
	t.Logf("%d calls, the slowest %s", sent.Load(), got.slowest.Round(time.Millisecond))

	// The approval that was open before is used once, whoever attaches to it.
	p, err := lead.Approvals(ctx, "pending", "", "", 10)
	must(t, err)
	if away < 20*time.Second && len(p.Data) != 1 {
		t.Fatalf("%d approvals are pending", len(p.Data))
	}
	_, err = lead.Decide(ctx, p.Data[0].ID, api.Verdict{Decision: "approve", Reason: "fine"})
	must(t, err)
	for i := range 20 {
		wg.Go(func() {
			a, err := refund(list[i%2], "ch_waits", 500)
			must(t, err)
			got.Lock()
			defer got.Unlock()
			got.m[fmt.Sprintf("approved %d %s%s", a.status, a.header.Get("ActPass-Reason"), a.header.Get("ActPass-Replayed"))]++
		})
	}
	wg.Wait()
	first := <-waiting
	for k, n := range got.m {
		if strings.HasPrefix(k, "approved") {
			t.Logf("%6d  %s", n, k)
		}
	}
	if n := waitsSent.Load(); n != 1 || got.m["approved 503 t.asks"] > 0 || first.status != 200 && away < 20*time.Second {
		t.Errorf("the approved call was sent %d times; the one that waited all the while got %d %s", n, first.status, first.header.Get("ActPass-Reason"))
	}
	// What the upstream saw is on record: nothing was lost. The logs themselves are
	// verified as the sidecars stop.
	sum, seen := 0, len(u.requestsSeen())
	for range 20 { // the index follows the log
		sum = 0
		for _, sc := range append(list, monitor) {
			for _, e := range sc.events() {
				if e.Outcome.State == "forwarded" {
					sum++
				}
			}
		}
		if sum == seen {
			break
		}
		time.Sleep(250 * time.Millisecond)
	}
	t.Logf("the upstream saw %d requests, %d are on record", seen, sum)
	if sum != seen {
		t.Error("an event is lost")
	}
}
