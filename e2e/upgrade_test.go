package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/store/pgtest"
)

// TestRollingUpgrade: sidecars of an earlier version and of this one serve side by side
// on one database, which this one migrates under the others' load; then they are
// replaced one by one. ACTPASS_OLD names the earlier program. What it was run with
// stands in docs/postgres.md.
func TestRollingUpgrade(t *testing.T) {
	before := os.Getenv("ACTPASS_OLD")
	if before == "" {
		t.Skip("ACTPASS_OLD names no program of an earlier version")
	}
	pg := pgtest.Start(t)
	dsn := pg.Database(t)
	u := newUpstream(t)
	var once atomic.Int64
	u.handle(func(w http.ResponseWriter, r *http.Request) {
		refunded(w, r)
		if r.PostFormValue("charge") == "ch_once_mixed" {
			once.Add(1)
		}
	})
	secret := filepath.Join(t.TempDir(), "dsn")
	must(t, os.WriteFile(secret, []byte(dsn+"\n"), 0o600))
	must(t, os.WriteFile(secret+".key", []byte("a secret of thirty-two characters\n"), 0o600))
	s := settings{
		front: u, hold: "20s", policies: map[string]string{"p.yaml": hundredPolicy, "q.yaml": asksPolicy},
		extra: "\nstore: { driver: postgres, dsn_file: " + secret + " }",
	}
	one := func() *sidecar {
		sc := &sidecar{t: t, dir: t.TempDir()}
		sc.config = s.write(t, sc.dir)
		t.Cleanup(sc.stop)
		return sc
	}
	serve := func(sc *sidecar, program string) { sc.launch(exec.Command(program, "serve", "--config", sc.config)) }
	a, b := one(), one()
	serve(a, before)
	serve(b, before)
	out, err := exec.Command(before, "keys", "create", "--config", a.config, "--name", "admin", "--role", "admin").Output()
	must(t, err)
	a.admin = strings.TrimSpace(string(out))
	b.admin = a.admin

	// Calls go on all the while, each of a user of its own, through every change.
	load := newUpgradeLoad(t)
	load.at(a)
	load.at(b)
	time.Sleep(time.Second)
	began := time.Now()
	c := one()
	c.admin = a.admin
	serve(c, binary)
	t.Logf("the new version migrated and was ready after %s", time.Since(began).Round(time.Millisecond))
	load.at(c)

	ctx := context.Background()
	t.Run("limits", func(t *testing.T) {
		var wg sync.WaitGroup
		var ok, refused atomic.Int64
		for i, sc := range []*sidecar{a, b, c} {
			wg.Go(func() {
				o, r := dollars(sc, "ann", fmt.Sprint("w", i), 100)
				ok.Add(int64(o))
				refused.Add(int64(r))
			})
		}
		wg.Wait()
		if ok.Load() != 100 || refused.Load() != 200 || a.held("ann") != 100 || c.held("ann") != 100 {
			t.Errorf("%d passed, %d were refused; the limit holds %d by the old, %d by the new", ok.Load(), refused.Load(), a.held("ann"), c.held("ann"))
		}
	})

	leadKey, err := c.client().CreateKey(ctx, api.NewKey{Name: "lead", Role: "approver", Groups: []string{"support-leads"}})
	must(t, err)
	decide := func(t *testing.T, at *sidecar, charge string) {
		t.Helper()
		lead := api.NewClient("http://"+at.api, leadKey.Key, nil)
		becomes(t, 10*time.Second, "the call waits", func() bool {
			p, err := lead.Approvals(ctx, "pending", "", "", 100)
			must(t, err)
			for _, q := range p.Data {
				if strings.Contains(q.Resource, charge) {
					time.Sleep(100 * time.Millisecond)
					_, err := lead.Decide(ctx, q.ID, api.Verdict{Decision: "approve", Reason: "fine"})
					must(t, err)
					return true
				}
			}
			return false
		})
	}
	t.Run("approvals", func(t *testing.T) {
		for name, where := range map[string][2]*sidecar{"asked at the old, decided at the new": {a, c}, "asked at the new, decided at the old": {c, b}} {
			charge := "ch_" + strings.ReplaceAll(strings.ReplaceAll(name, " ", "_"), ",", "")
			answered := make(chan answer, 1)
			go func() {
				r, err := refundOf(where[0], charge, 500)
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				answered <- r
			}()
			decide(t, where[1], charge)
			decided := time.Now()
			r := <-answered
			t.Logf("%s: answered %s after", name, time.Since(decided).Round(time.Millisecond))
			if r.status != 200 {
				t.Errorf("%s: %d %s", name, r.status, r.body)
			}
		}
	})
	t.Run("once", func(t *testing.T) {
		var wg sync.WaitGroup
		var sent atomic.Int64
		for i := range 30 {
			wg.Go(func() {
				r, err := refundOf([]*sidecar{a, b, c}[i%3], "ch_once_mixed", 500)
				must(t, err)
				if r.status == 200 && r.header.Get("ActPass-Replayed") == "" {
					sent.Add(1)
				}
			})
		}
		time.Sleep(300 * time.Millisecond)
		decide(t, a, "ch_once_mixed")
		wg.Wait()
		if once.Load() != 1 || sent.Load() != 1 {
			t.Errorf("%d were sent, %d were told so", once.Load(), sent.Load())
		}
	})
	t.Run("keys", func(t *testing.T) {
		for _, way := range [][2]*sidecar{{a, c}, {c, b}} {
			k, err := way[0].client().CreateKey(ctx, api.NewKey{Name: "reader", Role: "approver"})
			must(t, err)
			ask := func() error {
				_, err := api.NewClient("http://"+way[1].api, k.Key, nil).Approvals(ctx, "", "", "", 1)
				return err
			}
			if err := ask(); err != nil {
				t.Errorf("a key of the other version: %v", err)
			}
			must(t, way[0].client().RevokeKey(ctx, k.ID))
			becomes(t, 5*time.Second, "the revoked key is refused by the other version", func() bool { return ask() != nil })
		}
	})
	t.Run("grants", func(t *testing.T) {
		for i, way := range [][2]*sidecar{{a, c}, {c, a}} {
			charge := fmt.Sprintf("ch_granted_%d", i)
			_, err := way[0].client().CreateGrant(ctx, api.NewGrant{
				AgentID: "support_agent", Tool: "stripe.refund.create", Resource: "stripe:charge:" + charge, Policy: "asks", Rule: "asks", Count: 1, TTL: 600,
				ResourceConstraints: api.Constraints{"max": map[string]any{"amount": 600}, "equals": map[string]any{"currency": "usd"}}, FreeArgs: []string{"charge"},
			})
			must(t, err)
			if r, err := refundOf(way[1], charge, 550); err != nil || r.status != 200 {
				t.Errorf("granted by the other version: %d %s, %v", r.status, r.body, err)
			}
		}
	})

	// One is stopped in order, the other as by a power cut; each comes back as the new
	// version on the data that it had.
	load.leave(a)
	a.stop()
	serve(a, binary)
	load.at(a)
	load.leave(b)
	b.kill()
	serve(b, binary)
	load.at(b)
	time.Sleep(time.Second)
	sent := load.end()
	t.Logf("%d calls went on meanwhile; not answered 200: %v", len(sent), load.failed())

	s.extra = "\nstore: { driver: postgres, dsn_file: " + secret + ", key_file: " + secret + ".key }"
	ctl := one()
	ctl.launch(exec.Command(binary, "serve", "--role", "control", "--config", ctl.config))
	ctl.admin = a.admin
	t.Run("evidence", func(t *testing.T) {
		missing := map[string]bool{}
		becomes(t, time.Minute, "the control shows every call", func() bool {
			clear(missing)
			for charge := range sent {
				missing["stripe:charge:"+charge] = true
			}
			q := api.EventQuery{Kind: "action", Limit: 200}
			for {
				p, err := ctl.client().Events(ctx, q)
				must(t, err)
				for _, raw := range p.Data {
					var e event
					must(t, json.Unmarshal(raw, &e))
					delete(missing, e.Resource)
				}
				if q.Cursor = p.Next; p.Next == "" {
					break
				}
			}
			return len(missing) == 0
		})
		r, err := ctl.client().Verify(ctx)
		must(t, err)
		if !r.OK || len(r.Logs) != 4 {
			t.Errorf("verified: %+v", r)
		}
	})
	t.Run("back", func(t *testing.T) { // the schema stays, and the older program works on it
		s.extra = "\nstore: { driver: postgres, dsn_file: " + secret + " }"
		d := one()
		d.admin = a.admin
		serve(d, before)
		if ok, refused := dollars(d, "ann", "back", 1); ok != 0 || refused != 1 {
			t.Errorf("%d passed, %d were refused", ok, refused)
		}
		if r, err := refundOf(d, "ch_back", 100); err != nil || r.status != 200 {
			t.Errorf("%d %s, %v", r.status, r.body, err)
		}
	})
	t.Run("too old", func(t *testing.T) {
		pg.Exec(t, "test_1", `UPDATE schema_floor SET oldest = 1000`)
		d := one()
		out, err := exec.Command(before, "serve", "--config", d.config).CombinedOutput()
		t.Logf("%s", out)
		if err == nil || !strings.Contains(string(out), "start the newer program") {
			t.Errorf("it started: %v", err)
		}
	})
}

// upgradeLoad sends calls to sidecars that come and go.
type upgradeLoad struct {
	t    *testing.T
	mu   sync.Mutex
	stop map[*sidecar]func()
	sent map[string]bool // charges, of calls that were answered 200
	bad  map[string]int
	n    atomic.Int64
}

func newUpgradeLoad(t *testing.T) *upgradeLoad {
	l := &upgradeLoad{t: t, stop: map[*sidecar]func(){}, sent: map[string]bool{}, bad: map[string]int{}}
	t.Cleanup(func() { l.end() })
	return l
}

// at begins to send to sc.
func (l *upgradeLoad) at(sc *sidecar) {
	ctx, cancel := context.WithCancel(context.Background())
	revers := sc.revers
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			client := &http.Client{Timeout: 10 * time.Second}
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				charge := fmt.Sprintf("ch_load_%d", l.n.Add(1))
				r, err := trySend(client, http.MethodPost, "http://"+revers+"/stripe/v1/refunds", form, "charge="+charge+"&currency=usd&amount=100", http.Header{"Actpass-User": {charge}})
				l.mu.Lock()
				switch {
				case err != nil:
					l.bad[err.Error()]++
				case r.status != 200:
					l.bad[fmt.Sprint(r.status, " ", r.header.Get("ActPass-Reason"))]++
				default:
					l.sent[charge] = true
				}
				l.mu.Unlock()
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop[sc] = func() { cancel(); wg.Wait() }
}

// leave ends the calls to sc.
func (l *upgradeLoad) leave(sc *sidecar) {
	l.mu.Lock()
	stop := l.stop[sc]
	delete(l.stop, sc)
	l.mu.Unlock()
	stop()
}

func (l *upgradeLoad) end() map[string]bool {
	l.mu.Lock()
	stops := l.stop
	l.stop = map[*sidecar]func(){}
	l.mu.Unlock()
	for _, stop := range stops {
		stop()
	}
	return l.sent
}

// failed says what went wrong, and fails the test for each.
func (l *upgradeLoad) failed() map[string]int {
	for what, n := range l.bad {
		l.t.Errorf("%d calls: %s", n, what)
	}
	return l.bad
}
