package gate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/store"
)

// limitPolicy lets every refund through but for its limits, and asks a human
// for those above 50.
func limitPolicy(limits ...string) string {
	return `policies:
  - name: p
    version: 1
    tools: ["stripe.*"]
    rules:
      - { name: large, when: args.amount > 5000, decision: require_approval, reason_code: x.large, approval: { approvers: [support-leads, finance] } }
      - { name: any, decision: allow, reason_code: x.any }
    limits:
      - ` + strings.Join(limits, "\n      - ") + "\n"
}

const (
	softDay  = `{ name: day, key: [agent_id, args.currency], sum: args.amount, max: 10000, window: 24h, decision: require_approval, reason_code: x.day, approval: { approvers: [finance] } }`
	hardDay  = `{ name: most, key: [agent_id, args.currency], sum: args.amount, max: 12000, window: 24h, decision: deny, reason_code: x.most }`
	hardThen = `{ name: calls, key: [agent_id], max: 3, window: day, zone: Europe/Berlin, decision: deny, reason_code: x.calls }`
)

var finance = gate.Identity{TenantID: "acme", KeyID: "key_f", Name: "fay", Role: gate.RoleApprover, Groups: []string{"finance"}}

func newLimited(t testing.TB, limits ...string) *fixture {
	return newGate(t, "enforce", func(r *gate.Rules) { r.Policy = rules(t, "enforce", limitPolicy(limits...)).Policy })
}

// used is what a limit holds, over all its keys.
func (f *fixture) used(t testing.TB, limit string) (sum int64) {
	t.Helper()
	list, next, err := f.Limits(context.Background(), finance, gate.LimitQuery{Limit: limit})
	if err != nil || next != "" {
		t.Fatal(err, next)
	}
	for _, u := range list {
		sum += u.Used
	}
	return sum
}

func (f *fixture) sends(t testing.TB, amount string, o gate.Outcome) {
	t.Helper()
	permit, ref := f.Check(t.Context(), f.refund(amount))
	if permit == nil {
		t.Fatalf("%s: %+v", amount, ref)
	}
	permit.Done(o)
}

var fine = gate.Outcome{State: evidence.StateForwarded, Status: 200}

// TestApprovedOverTheLimitCounts: a call over a limit that asks a human counts
// when it is sent, though it does not fit, and not before.
func TestApprovedOverTheLimitCounts(t *testing.T) {
	for _, tt := range []struct {
		name    string
		outcome gate.Outcome
		keeps   int64
	}{
		{"success", fine, 12000},
		{"lost answer", gate.Outcome{State: evidence.StateAmbiguous}, 12000},
		{"4xx", gate.Outcome{State: evidence.StateForwarded, Status: 400}, 8000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newLimited(t, softDay)
			f.sends(t, "4000", fine)
			f.sends(t, "4000", fine)
			_, ref := f.Check(t.Context(), f.refund("4000"))
			if ref == nil || !ref.Retry || ref.Decision.ReasonCode != "x.day" || !strings.Contains(ref.Sentence, "80.00 of 100.00 USD used in 24h") {
				t.Fatalf("%+v", ref)
			}
			if f.used(t, "day") != 8000 {
				t.Errorf("while it waits, %d are used", f.used(t, "day"))
			}
			if _, err := f.Decide(t.Context(), approver, ref.Approval, gate.Approve, "", nil); !errors.Is(err, gate.ErrNotAllowed) {
				t.Errorf("a group that the limit does not name: %v", err)
			}
			if _, err := f.Decide(t.Context(), finance, ref.Approval, gate.Approve, "", nil); err != nil {
				t.Fatal(err)
			}
			f.sends(t, "4000", tt.outcome)
			if f.used(t, "day") != tt.keeps {
				t.Errorf("afterwards %d are used, want %d", f.used(t, "day"), tt.keeps)
			}
		})
	}
}

// TestHeldByRuleAndLimit: one approval satisfies both, so a group that both name
// is asked; what was over the limit counts when it is sent.
func TestHeldByRuleAndLimit(t *testing.T) {
	f := newLimited(t, softDay)
	f.sends(t, "4500", fine)
	_, ref := f.Check(t.Context(), f.refund("6000"))
	if ref == nil || ref.Decision.ReasonCode != "x.day" || strings.Join(ref.Decision.Explain.MatchedRules, " ") != "day large" {
		t.Fatalf("%+v", ref)
	}
	if _, again := f.Check(t.Context(), f.refund("6000")); again == nil || again.Approval != ref.Approval {
		t.Errorf("the retry does not attach: %+v", again)
	}
	if f.used(t, "day") != 4500 {
		t.Errorf("while it waits, %d are used", f.used(t, "day"))
	}
	if _, err := f.Decide(t.Context(), approver, ref.Approval, gate.Approve, "", nil); !errors.Is(err, gate.ErrNotAllowed) {
		t.Errorf("the limit names finance only: %v", err)
	}
	if _, err := f.Decide(t.Context(), finance, ref.Approval, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	f.sends(t, "6000", fine)
	if f.used(t, "day") != 10500 {
		t.Errorf("%d are used", f.used(t, "day"))
	}
	// One that fits keeps its share while it is held, over its retries.
	g := newLimited(t, softDay, hardDay)
	for range 3 {
		_, ref = g.Check(t.Context(), g.refund("6000"))
	}
	if g.used(t, "day") != 6000 || g.used(t, "most") != 6000 {
		t.Errorf("held: %d and %d", g.used(t, "day"), g.used(t, "most"))
	}
	if _, err := g.Decide(t.Context(), finance, ref.Approval, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	g.sends(t, "6000", fine)
	if g.used(t, "day") != 6000 || g.used(t, "most") != 6000 {
		t.Errorf("sent: %d and %d", g.used(t, "day"), g.used(t, "most"))
	}
}

// TestApprovalDoesNotLiftADenyingLimit: what a human approved still has to fit
// where a limit denies.
func TestApprovalDoesNotLiftADenyingLimit(t *testing.T) {
	f := newLimited(t, softDay, hardDay)
	f.sends(t, "5000", fine)
	f.sends(t, "4000", fine)
	_, ref := f.Check(t.Context(), f.refund("2000")) // over the 100, not over the 120
	if ref == nil || ref.Decision.ReasonCode != "x.day" {
		t.Fatalf("%+v", ref)
	}
	f.sends(t, "1000", fine)
	if _, full := f.Check(t.Context(), f.refund("2001")); full == nil || full.Decision.ReasonCode != "x.most" || full.Status != 403 {
		t.Fatalf("%+v", full)
	}
	_, other := f.Check(t.Context(), f.refund("1500"))
	for _, id := range []string{ref.Approval, other.Approval} {
		if _, err := f.Decide(t.Context(), finance, id, gate.Approve, "", nil); err != nil {
			t.Fatal(err)
		}
	}
	f.sends(t, "2000", fine)
	_, left := f.Check(t.Context(), f.refund("1500"))
	if left == nil || left.Decision.ReasonCode != "x.most" || !strings.Contains(left.Sentence, "120.00 of 120.00 USD used") {
		t.Errorf("%+v", left)
	}
	if f.used(t, "most") != 12000 || f.used(t, "day") != 12000 {
		t.Errorf("%d and %d are used", f.used(t, "most"), f.used(t, "day"))
	}
}

func TestCurrenciesAreNeverAddedUp(t *testing.T) {
	f := newLimited(t, hardDay)
	refund := func(currency, amount string) *gate.Request {
		return f.request("POST", "/v1/refunds", text("charge=ch_1&currency="+currency+"&amount="+amount))
	}
	for _, step := range []struct {
		currency, amount string
		ok               bool
		says             string
	}{
		{"usd", "5000", true, ""},
		{"eur", "5000", true, ""},
		{"jpy", "5000", true, ""},
		{"USD", "5000", true, ""},
		{"Usd", "5000", false, "limit most leaves no room for this call: 100.00 of 120.00 USD used in 24h, and the call would use 50.00 USD."},
		{"usd", "2000", true, ""},
		{"usd", "1", false, "Nothing is left of the limit most, which is 120.00 USD in 24h"},
		{"jpy", "5000", true, ""},
		{"jpy", "5000", false, "has 2000 JPY left of 12000 JPY in 24h: ask for no more than that"},
	} {
		permit, ref := f.Check(t.Context(), refund(step.currency, step.amount))
		if (permit != nil) != step.ok || !step.ok && !strings.Contains(ref.Sentence, step.says) {
			t.Errorf("%s %s: %v, %+v", step.amount, step.currency, permit != nil, ref)
		}
		if permit != nil {
			permit.Done(fine)
		}
	}
	list, _, err := f.Limits(t.Context(), finance, gate.LimitQuery{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range list {
		got = append(got, u.Key+" "+u.Limit.Used(u.Key, u.Used))
	}
	want := `["support_agent","eur"] 50.00 of 120.00 EUR used, ["support_agent","jpy"] 10000 of 12000 JPY used, ["support_agent","usd"] 120.00 of 120.00 USD used`
	if strings.Join(got, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
	}
}

// TestCalendarLimit: three calls a day, the day being that of Berlin.
func TestCalendarLimit(t *testing.T) {
	f := newLimited(t, hardThen)
	f.now = time.Date(2026, 7, 1, 21, 59, 0, 0, time.UTC) // a minute before midnight there
	for range 3 {
		f.sends(t, "1", fine)
	}
	_, ref := f.Check(t.Context(), f.refund("1"))
	if ref == nil || ref.Decision.ReasonCode != "x.calls" || !strings.Contains(ref.Sentence, "3 of 3 calls used in one day (Europe/Berlin)") ||
		!strings.Contains(ref.Sentence, "the next day (Europe/Berlin) begins at 2026-07-02T00:00:00+02:00") {
		t.Errorf("%+v", ref)
	}
	list, _, err := f.Limits(t.Context(), finance, gate.LimitQuery{Limit: "p/calls", Key: `["support_agent"]`})
	if err != nil || len(list) != 1 || list[0].Left != 0 || !list[0].Empty().Equal(time.Date(2026, 7, 1, 22, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v, %v", list, err)
	}
	f.now = f.now.Add(time.Minute)
	f.sends(t, "1", fine)
}

func TestThousandAtOnce(t *testing.T) {
	f := newLimited(t, `{ name: hundred, key: [agent_id, args.currency], sum: args.amount, max: 10000, window: 24h, decision: deny, reason_code: x.hundred }`)
	var mu sync.Mutex
	var wg sync.WaitGroup
	passed := 0
	for range 1000 {
		wg.Go(func() {
			permit, ref := f.Check(t.Context(), f.refund("100"))
			mu.Lock()
			defer mu.Unlock()
			if permit != nil {
				passed++
				permit.Done(fine)
			} else if ref.Decision.ReasonCode != "x.hundred" {
				t.Errorf("%+v", ref)
			}
		})
	}
	wg.Wait()
	if passed != 100 || f.used(t, "hundred") != 10000 {
		t.Errorf("%d of 1000 passed, %d used", passed, f.used(t, "hundred"))
	}
}

// TestClockDoesNotMoveLimits: while a process runs, setting the clock neither
// frees a limit nor makes it last.
func TestClockDoesNotMoveLimits(t *testing.T) {
	wall := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var passed time.Duration
	rec := &recorder{}
	faults := &counter{}
	g, err := gate.New(gate.Options{
		Store: store.NewMemory(), Recorder: rec, RedactKey: make([]byte, 32), Observer: faults,
		Now: func() time.Time { return wall.Add(passed) }, Elapsed: func() time.Duration { return passed },
	})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{Gate: g, rec: rec, rules: rules(t, "enforce", limitPolicy(hardThen))}
	g.Load(f.rules)
	call := func(want bool) {
		t.Helper()
		permit, _ := f.Check(t.Context(), f.refund("1"))
		if (permit != nil) != want {
			t.Errorf("permit %v, want %v", permit != nil, want)
		}
		if permit != nil {
			permit.Done(fine)
		}
	}
	for range 3 {
		call(true)
	}
	call(false)
	for _, jump := range []time.Duration{25 * time.Hour, -50 * time.Hour, 365 * 24 * time.Hour, -365 * 24 * time.Hour} {
		wall = wall.Add(jump)
		call(false)
		call(false)
	}
	if faults.of("clock") != 4 {
		t.Errorf("told of %d jumps, want 4", faults.of("clock"))
	}
	wall = wall.Add(-time.Hour)
	passed += 20 * time.Hour // to 23:04 of the first day, 00:04 in Berlin
	call(true)
}

type counter struct {
	mu sync.Mutex
	m  map[string]int
}

func (c *counter) Decided(string, string, string, string) {}
func (c *counter) Overhead(time.Duration)                 {}
func (c *counter) Holds(int)                              {}
func (c *counter) Fault(kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[string]int{}
	}
	c.m[kind]++
}

func (c *counter) of(kind string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[kind]
}

// TestLimitsLookOnly: a question uses nothing, and is told what a call would be.
func TestLimitsLookOnly(t *testing.T) {
	f := newLimited(t, hardThen, softDay)
	ask := func(intent string) evidence.Decision {
		t.Helper()
		d, _, err := f.Preflight(t.Context(), f.ConfigIdentity(), gate.Preflight{
			Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", AgentID: "support_agent", Intent: intent,
			Args: map[string]any{"amount": int64(1), "currency": "usd"},
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for range 5 {
		if d := ask(""); d.Decision != "allow" {
			t.Fatalf("%+v", d)
		}
	}
	for range 3 {
		d := ask(gate.IntentExecute)
		if d.Decision != "allow" {
			t.Fatalf("%+v", d)
		}
	}
	for _, intent := range []string{"", gate.IntentExecute} {
		if d := ask(intent); d.Decision != "deny" || d.ReasonCode != "x.calls" {
			t.Errorf("%+v", d)
		}
	}
	if f.used(t, "calls") != 3 || f.used(t, "day") != 3 {
		t.Errorf("%d calls, %d cents", f.used(t, "calls"), f.used(t, "day"))
	}
}

func TestLimitsListAndReset(t *testing.T) {
	f := newLimited(t, softDay, hardThen, hardDay)
	for i := range 5 {
		r := f.refund("100")
		r.Identity.AgentID = fmt.Sprintf("agent_%d", i)
		permit, ref := f.Check(t.Context(), r)
		if permit == nil {
			t.Fatalf("%+v", ref)
		}
	}
	var got []string
	cursor := ""
	for pages := 0; ; pages++ {
		list, next, err := f.Limits(t.Context(), finance, gate.LimitQuery{Cursor: cursor, Count: 2})
		if err != nil || pages > 20 {
			t.Fatal(err, pages)
		}
		for _, u := range list {
			got = append(got, fmt.Sprintf("%s%s=%d", u.Limit.Name, u.Key, u.Used))
		}
		if cursor = next; next == "" {
			break
		}
		if len(list) != 2 {
			t.Errorf("a page of %d", len(list))
		}
	}
	if len(got) != 15 || got[0] != `day["agent_0","usd"]=100` || got[5] != `calls["agent_0"]=1` || got[14] != `most["agent_4","usd"]=100` {
		t.Errorf("%v", got)
	}
	for name, q := range map[string]gate.LimitQuery{"cursor": {Cursor: "x"}, "key": {Key: `["a"]`}} {
		var field *gate.FieldError
		if _, _, err := f.Limits(t.Context(), finance, q); !errors.As(err, &field) || field.Field != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := f.Limits(t.Context(), finance, gate.LimitQuery{Limit: "none"}); !errors.Is(err, gate.ErrNotFound) {
		t.Errorf("%v", err)
	}

	admin := gate.Identity{TenantID: "acme", KeyID: "key_a", Role: gate.RoleAdmin}
	if _, err := f.ResetLimit(t.Context(), finance, "day", "", ""); !errors.Is(err, gate.ErrNotAllowed) {
		t.Errorf("an approver resets: %v", err)
	}
	if _, err := f.ResetLimit(t.Context(), admin, "none", "", ""); !errors.Is(err, gate.ErrNotFound) {
		t.Errorf("%v", err)
	}
	gone, err := f.ResetLimit(t.Context(), admin, "p/day", `["agent_3","usd"]`, "a mistake")
	if err != nil || len(gone) != 1 || gone[0].Used != 100 {
		t.Fatalf("%+v, %v", gone, err)
	}
	if f.used(t, "day") != 400 || f.used(t, "most") != 500 {
		t.Errorf("%d and %d are used", f.used(t, "day"), f.used(t, "most"))
	}
	events, _ := f.rec.log(t)
	e := events[len(events)-1]
	if e.Kind != evidence.KindConfig || e.KeyID != "key_a" || e.Data["limit"] != "p/day" || e.Data["key"] != `["agent_3","usd"]` || e.Data["used"] != "1.00 of 100.00 USD used" || e.Data["reason"] != "a mistake" {
		t.Errorf("%+v", e)
	}
	// What cannot be recorded is not done.
	f.rec.fail(errors.New("disk full"))
	if _, err := f.ResetLimit(t.Context(), admin, "p/day", "", ""); !errors.Is(err, gate.ErrUnavailable) || f.used(t, "day") != 400 {
		t.Errorf("%v, %d", err, f.used(t, "day"))
	}
	f.rec.fail(nil)
	if gone, err = f.ResetLimit(t.Context(), admin, "p/day", "", ""); err != nil || len(gone) != 4 || f.used(t, "day") != 0 {
		t.Errorf("%+v, %v", gone, err)
	}
}

// TestLimitsOfABrokenStore: under enforcement nothing leaves that could not be
// counted.
func TestLimitsOfABrokenStore(t *testing.T) {
	f := newLimited(t, softDay)
	for _, mode := range []store.FailMode{store.Fails, store.FailsButPersist} {
		f.store.Fail("Reserve", mode)
		permit, ref := f.Check(t.Context(), f.refund("1"))
		if permit != nil || ref.Status != 503 || ref.Decision.ReasonCode != gate.ReasonStore {
			t.Errorf("%v: %+v", mode, ref)
		}
	}
	f.store.Fail("Reserve", store.Works)
	f.sends(t, "4000", fine)
	f.sends(t, "4000", fine)
	_, held := f.Check(t.Context(), f.refund("4000"))
	if _, err := f.Decide(t.Context(), finance, held.Approval, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	f.store.Fail("LatestApproval", store.Fails)
	if permit, ref := f.Check(t.Context(), f.refund("4000")); permit != nil || ref.Status != 503 {
		t.Errorf("%+v", ref)
	}
	f.store.Fail("LatestApproval", store.Works)
	f.sends(t, "4000", fine)
}
