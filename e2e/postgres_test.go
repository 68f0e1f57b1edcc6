package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/store/pgtest"
)

const asksPolicy = `policies:
  - name: asks
    version: 1
    tools: ["stripe.refund.*"]
    rules:
      - { name: asks, when: args.amount >= 500, decision: require_approval, reason_code: refund.asks, approval: { approvers: [support-leads] } }
      - { name: free, decision: allow, reason_code: refund.any }
`

// fleet starts n sidecars on one PostgreSQL, with one admin key.
func fleet(t *testing.T, n int, dsn string, s settings) []*sidecar {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "dsn")
	must(t, os.WriteFile(secret, []byte(dsn+"\n"), 0o600))
	s.extra += "\nstore: { driver: postgres, dsn_file: " + secret + " }"
	list := make([]*sidecar, n)
	for i := range list {
		sc := &sidecar{t: t, dir: t.TempDir()}
		sc.config = s.write(t, sc.dir)
		sc.run()
		t.Cleanup(func() {
			sc.stop()
			for _, line := range sc.log() {
				if strings.Contains(line, pgtest.Password) {
					t.Errorf("the log shows the password: %s", line)
				}
			}
		})
		list[i] = sc
	}
	list[0].admin = list[0].key("--name", "admin", "--role", "admin")
	for _, sc := range list[1:] {
		sc.admin = list[0].admin
	}
	return list
}

// TestFleet: three sidecars on one PostgreSQL count one limit, use an approval
// once, and wake each other.
func TestFleet(t *testing.T) {
	pg := pgtest.Start(t)
	u := newUpstream(t)
	u.handle(refunded)
	list := fleet(t, 3, pg.Database(t), settings{front: u, hold: "20s", policies: map[string]string{"p.yaml": hundredPolicy, "q.yaml": asksPolicy}})

	t.Run("limit", func(t *testing.T) {
		began := time.Now()
		var mu sync.Mutex
		var ok, refused int
		var wg sync.WaitGroup
		for i, sc := range list {
			wg.Go(func() {
				o, r := dollars(sc, "ann", fmt.Sprint(i), 1000)
				mu.Lock()
				ok, refused = ok+o, refused+r
				mu.Unlock()
			})
		}
		wg.Wait()
		seen := len(u.requestsSeen())
		t.Logf("%d passed, %d were refused by the limit, in %s", ok, refused, time.Since(began).Round(time.Millisecond))
		if ok != 100 || refused != 2900 || seen != 100 || list[1].held("ann") != 100 {
			t.Errorf("%d passed, %d were refused, the upstream saw %d, the limit holds %d", ok, refused, seen, list[1].held("ann"))
		}
	})

	lead := api.NewClient("http://"+list[0].api, list[0].key("--name", "lead", "--role", "approver", "--group", "support-leads"), nil)
	ctx := context.Background()
	send := func(sc *sidecar, charge string) (answer, error) {
		client := &http.Client{Timeout: 30 * time.Second}
		defer client.CloseIdleConnections()
		return trySend(client, http.MethodPost, "http://"+sc.revers+"/stripe/v1/refunds", form, "charge="+charge+"&currency=usd&amount=500", http.Header{"Actpass-User": {charge}})
	}
	// pending waits until one approval is open at the first sidecar.
	pending := func(t *testing.T, charge string) api.Approval {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			p, err := lead.Approvals(ctx, "pending", "", "", 100)
			must(t, err)
			for _, a := range p.Data {
				if strings.Contains(a.Resource, charge) {
					return a
				}
			}
		}
		t.Fatal("no approval is pending")
		return api.Approval{}
	}

	t.Run("wake", func(t *testing.T) {
		var took []time.Duration
		for i := range 11 {
			charge := fmt.Sprintf("ch_wake_%d", i)
			answered := make(chan time.Time, 1)
			go func() {
				a, err := send(list[1+i%2], charge)
				if err != nil || a.status != 200 {
					t.Errorf("held call: %+v, %v", a, err)
				}
				answered <- time.Now()
			}()
			a := pending(t, charge)
			time.Sleep(100 * time.Millisecond) // it waits, and its sidecar listens
			decided := time.Now()
			_, err := lead.Decide(ctx, a.ID, api.Verdict{Decision: "approve", Reason: "fine"})
			must(t, err)
			took = append(took, (<-answered).Sub(decided))
		}
		slices.Sort(took)
		median := took[len(took)/2]
		t.Logf("from the word at one sidecar to the answer at another: median %s, all %v", median, took)
		if median > 100*time.Millisecond {
			t.Errorf("median %s", median)
		}
	})

	t.Run("once", func(t *testing.T) {
		before := len(u.requestsSeen())
		var mu sync.Mutex
		var statuses []string
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				a, err := send(list[i%3], "ch_once")
				must(t, err)
				mu.Lock()
				defer mu.Unlock()
				statuses = append(statuses, fmt.Sprint(a.status, a.header.Get("ActPass-Replayed")))
			})
		}
		a := pending(t, "ch_once")
		time.Sleep(200 * time.Millisecond)
		_, err := lead.Decide(ctx, a.ID, api.Verdict{Decision: "approve", Reason: "fine"})
		must(t, err)
		wg.Wait()
		count := map[string]int{}
		for _, s := range statuses {
			count[s]++
		}
		t.Logf("answers: %v", count)
		if seen := len(u.requestsSeen()) - before; seen != 1 || count["200"] != 1 {
			t.Errorf("the upstream saw %d requests, answers %v", seen, count)
		}
	})
}
