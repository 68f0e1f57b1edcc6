package gate_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/store"
)

// limitWorld is a gate with two limits, and beside it a model that keeps every
// use and adds up. truth is the time that has really passed; the time of day is
// ahead of it by skew.
type limitWorld struct {
	t     testing.TB
	gate  *gate.Gate
	rec   *recorder
	store gate.Store
	open  func() gate.Store
	rules *gate.Rules

	truth  time.Time
	skew   time.Duration
	uses   []worldUse
	flying []flight
}

type worldUse struct {
	event    string
	currency string
	amount   int64
	at       time.Time
}

type flight struct {
	permit *gate.Permit
	event  string
}

const (
	worldSum   = `{ name: sum, key: [args.currency], sum: args.amount, max: 1000, window: 3h, decision: deny, reason_code: x.sum }`
	worldCalls = `{ name: calls, key: [agent_id], max: 40, window: day, zone: Europe/Berlin, decision: deny, reason_code: x.calls }`
)

func (w *limitWorld) restart() {
	if w.store != nil {
		if err := w.store.Close(); err != nil {
			w.t.Fatal(err)
		}
	}
	w.store, w.rec, w.skew = w.open(), &recorder{}, 0 // whoever starts it again sets the clock
	g, err := gate.New(gate.Options{
		Store: w.store, Recorder: w.rec, RedactKey: make([]byte, 32),
		Now:     func() time.Time { return w.truth.Add(w.skew) },
		Elapsed: func() time.Duration { return w.truth.Sub(time.Unix(0, 0)) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	g.Load(w.rules)
	w.gate, w.flying = g, nil
}

// left is what fits: of the sum, and of the calls.
func (w *limitWorld) left(currency string) (sum, calls int64) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		w.t.Fatal(err)
	}
	sum, calls = 1000, 40
	day := w.truth.In(berlin).Format(time.DateOnly)
	for _, u := range w.uses {
		if u.currency == currency && u.at.After(w.truth.Add(-3*time.Hour)) {
			sum -= u.amount
		}
		if u.at.In(berlin).Format(time.DateOnly) == day {
			calls--
		}
	}
	return sum, calls
}

func (w *limitWorld) call(currency string, amount int64) (permit *gate.Permit, reason string) {
	f := &fixture{Gate: w.gate}
	permit, ref := f.Check(context.Background(), f.request("POST", "/v1/refunds", text("charge=ch_1&currency="+currency+"&amount="+strconv.FormatInt(amount, 10))))
	if ref != nil {
		reason = ref.Decision.ReasonCode
	}
	return permit, reason
}

func (w *limitWorld) took(p *gate.Permit, currency string, amount int64) {
	id := p.Decision().EvidenceEventID
	w.uses = append(w.uses, worldUse{id, currency, amount, w.truth})
	w.flying = append(w.flying, flight{p, id})
}

// TestLimitsAgainstTheModel: calls, bursts of calls at once, outcomes, time that
// passes, clocks that are set and restarts, in any order.
func TestLimitsAgainstTheModel(t *testing.T) {
	dir, run := t.TempDir(), 0
	policies := rules(t, "enforce", limitPolicy(worldSum, worldCalls))
	outcomes := []struct {
		o     gate.Outcome
		keeps bool
	}{
		{fine, true},
		{gate.Outcome{State: evidence.StateForwarded, Status: 503}, true},
		{gate.Outcome{State: evidence.StateAmbiguous, Error: "reset"}, true},
		{gate.Outcome{State: evidence.StateForwarded, Status: 402}, false},
		{gate.Outcome{State: evidence.StateRefused}, false},
	}
	rapid.Check(t, func(rt *rapid.T) {
		run++
		w := &limitWorld{t: t, rules: policies, truth: time.Date(2026, 10, 24, 12, 0, 0, 0, time.UTC)}
		memory := store.NewMemory()
		w.open = func() gate.Store { return lasting{memory} }
		if path := filepath.Join(dir, fmt.Sprint(run)+".db"); run <= 4 { // each fsync costs
			w.open = func() gate.Store {
				s, err := store.OpenSQLite(path, store.Options{})
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
		}
		w.restart()
		defer func() { _ = w.store.Close() }()
		currency := rapid.SampledFrom([]string{"usd", "eur", "jpy"})
		rt.Repeat(map[string]func(*rapid.T){
			"call": func(rt *rapid.T) {
				c, amount := currency.Draw(rt, "currency"), rapid.Int64Range(1, 400).Draw(rt, "amount")
				sum, calls := w.left(c)
				want := ""
				switch {
				case amount > sum:
					want = "x.sum"
				case calls < 1:
					want = "x.calls"
				}
				p, reason := w.call(c, amount)
				if reason != want {
					rt.Fatalf("%d %s: %q, want %q; left %d, and %d calls", amount, c, reason, want, sum, calls)
				}
				if p != nil {
					w.took(p, c, amount)
				}
			},
			"burst": func(rt *rapid.T) {
				c, amount := currency.Draw(rt, "currency"), rapid.Int64Range(20, 300).Draw(rt, "amount")
				n := rapid.Int64Range(2, 12).Draw(rt, "calls")
				sum, calls := w.left(c)
				want := min(n, calls, sum/amount)
				var mu sync.Mutex
				var wg sync.WaitGroup
				var got int64
				for range n {
					wg.Go(func() {
						p, _ := w.call(c, amount)
						mu.Lock()
						defer mu.Unlock()
						if p != nil {
							got++
							w.took(p, c, amount)
						}
					})
				}
				wg.Wait()
				if got != max(want, 0) {
					rt.Fatalf("%d of %d calls of %d %s passed, want %d", got, n, amount, c, want)
				}
			},
			"outcome": func(rt *rapid.T) {
				if len(w.flying) == 0 {
					rt.Skip("nothing is under way")
				}
				i := rapid.IntRange(0, len(w.flying)-1).Draw(rt, "call")
				o := rapid.SampledFrom(outcomes).Draw(rt, "outcome")
				f := w.flying[i]
				w.flying = append(w.flying[:i:i], w.flying[i+1:]...)
				f.permit.Done(o.o)
				if !o.keeps {
					for j, u := range w.uses {
						if u.event == f.event {
							w.uses = append(w.uses[:j:j], w.uses[j+1:]...)
							break
						}
					}
				}
			},
			"time": func(rt *rapid.T) {
				w.truth = w.truth.Add(time.Duration(rapid.IntRange(1, 7200).Draw(rt, "seconds")) * time.Second)
			},
			"clock": func(rt *rapid.T) {
				w.skew = time.Duration(rapid.IntRange(-72, 72).Draw(rt, "hours")) * time.Hour
			},
			"restart": func(rt *rapid.T) { w.restart() },
			"": func(rt *rapid.T) {
				list, _, err := w.gate.Limits(context.Background(), gate.Identity{TenantID: "acme"}, gate.LimitQuery{})
				if err != nil {
					rt.Fatal(err)
				}
				for _, u := range list {
					if u.Key == "" {
						continue
					}
					c := strings.Trim(u.Key, `[]"`)
					sum, calls := w.left(c)
					if want := map[string]int64{"sum": sum, "calls": calls}[u.Limit.Name]; u.Left != want {
						rt.Fatalf("%s %s: %d left, want %d", u.Limit.Name, u.Key, u.Left, want)
					}
				}
			},
		})
	})
}

// lasting is a store in memory that outlives its gate.
type lasting struct{ *store.Memory }

func (lasting) Close() error { return nil }

// TestReleaseUnrecorded: a crash between reserving and recording leaves a share
// that no call stands behind. It is given back, on record, and those of recorded
// calls and of approvals are not.
func TestReleaseUnrecorded(t *testing.T) {
	f := newLimited(t, softDay, hardThen)
	f.sends(t, "100", fine)
	_, held := f.Check(t.Context(), f.refund("6000"))
	recorded := map[string]bool{}
	for _, e := range f.rec.actions(t) {
		recorded[e.ID] = true
	}
	day, calls := f.rules.Policy.Limits()[0], f.rules.Policy.Limits()[1]
	since, _ := calls.Bounds(f.now)
	for _, event := range []string{"ev_lost", "ev_lost2"} {
		over, _, err := f.store.Reserve(t.Context(), "acme", event, []gate.Use{
			{Limit: day.ID(), Key: `["support_agent","usd"]`, Amount: 300, Max: day.Max, Window: day.Window},
			{Limit: calls.ID(), Key: `["b"]`, Amount: 1, Max: calls.Max, Window: calls.Window, Since: since},
		}, f.now)
		if err != nil || over >= 0 {
			t.Fatal(over, err)
		}
	}
	known := func(id string) bool { return recorded[id] }
	f.rec.fail(context.DeadlineExceeded)
	if n, err := f.ReleaseUnrecorded(t.Context(), known); err == nil || n != 0 || f.used(t, "day") != 6700 {
		t.Errorf("released without a record: %d, %v", n, err)
	}
	f.rec.fail(nil)
	for _, want := range []int{2, 0} {
		if n, err := f.ReleaseUnrecorded(t.Context(), known); err != nil || n != want {
			t.Errorf("%d calls, want %d, %v", n, want, err)
		}
	}
	if f.used(t, "day") != 6100 || f.used(t, "calls") != 2 || held.Approval == "" {
		t.Errorf("%d cents and %d calls are used", f.used(t, "day"), f.used(t, "calls"))
	}
	events, _ := f.rec.log(t)
	e := events[len(events)-1]
	if e.Kind != evidence.KindSystem || e.TenantID != "acme" || !strings.HasPrefix(e.Data["event_id"], "ev_lost") || e.Data["limit.2"] != "p/day" || e.Data["amount.2"] != "300" || e.Data["key.2"] != `["support_agent","usd"]` || e.Data["limit.1"] != "p/calls" {
		t.Errorf("%+v", e)
	}
}
