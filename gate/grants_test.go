package gate_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/store"
)

// refunds is a wish for ten refunds of up to 300 dollars on any charge.
func refunds() gate.NewGrant {
	return gate.NewGrant{
		AgentID: "support_agent", Tool: "stripe.refund.create", Resource: "stripe:charge:*", Policy: "refund_policy", Rule: "medium_refund_needs_approval",
		Constraints: map[string]any{"max": map[string]any{"amount": int64(30000)}, "equals": map[string]any{"currency": "usd"}},
		FreeArgs:    []string{"charge"}, Count: 10, TTL: time.Hour, Reason: "the broken batch",
	}
}

func (f *fixture) grant(t testing.TB, n gate.NewGrant) gate.Grant {
	t.Helper()
	g, err := f.CreateGrant(t.Context(), approver, n)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (f *fixture) stored(t testing.TB, id string) gate.Grant {
	t.Helper()
	g, err := f.store.GetGrant(t.Context(), "acme", id)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func noLimits(r *gate.Rules) { r.MaxHolds, r.MaxHoldsPerAgent = 1000, 1000 }

// withoutLimits is the example's policy, whose daily limit would stop most of
// what these tests let through.
func withoutLimits(t testing.TB) string {
	rules, _, ok := strings.Cut(examplePolicy(t), "    limits:")
	if !ok {
		t.Fatal("the example's policy has no limits any more")
	}
	return rules
}

func newGrantGate(t testing.TB, mode string) *fixture {
	f := newGate(t, mode, noLimits)
	next := rules(t, mode, withoutLimits(t))
	noLimits(next)
	next.Hold = time.Millisecond
	f.Load(next)
	return f
}

func TestGrantLetsItsShapeGo(t *testing.T) {
	f := newGrantGate(t, "enforce")
	g := f.grant(t, refunds())
	p, ref := f.Check(t.Context(), f.refund("25000"))
	if p == nil {
		t.Fatalf("%+v", ref)
	}
	d := p.Decision()
	if d.Decision != "require_approval" || d.Enforcement != "none" || d.ReasonCode != "refund.medium_needs_approval" || d.ApprovalRequestID != "" || len(d.Explain.NextSteps) != 0 ||
		!strings.Contains(d.Explain.Summary, g.ID) || !p.Outbound().Once || !p.Outbound().Counted {
		t.Errorf("%+v", d)
	}
	if d.Would["strict"] != "block" {
		t.Errorf("a grant is no passport: %v", d.Would)
	}
	p.Done(gate.Outcome{State: evidence.StateForwarded, Status: 402})
	e := f.rec.actions(t)[0]
	if e.Grant == nil || *e.Grant != (evidence.GrantUse{ID: g.ID, Use: 1, Of: 10}) || e.Outcome.State != evidence.StatePending || e.Approval != nil {
		t.Errorf("%+v", e)
	}
	if f.stored(t, g.ID).Used != 1 {
		t.Error("an answer of any kind keeps the use")
	}
	if list, _, _ := f.Approvals(t.Context(), approver, gate.ApprovalQuery{}); len(list) != 0 {
		t.Errorf("a question was put all the same: %+v", list)
	}
	// What policy allows or denies needs none and gets none.
	if p, _ := f.Check(t.Context(), f.refund("100")); p == nil || f.stored(t, g.ID).Used != 1 {
		t.Error("an allowed call took a use")
	}
	if _, ref := f.Check(t.Context(), f.refund("60000")); ref == nil || ref.Decision.ReasonCode != "refund.over_limit" {
		t.Errorf("a denied call went: %+v", ref)
	}
}

// TestGrantNeverBeyondItsShape: one thing changed at a time, and a human is asked.
func TestGrantNeverBeyondItsShape(t *testing.T) {
	req := func(form string) func(f *fixture) *gate.Request {
		return func(f *fixture) *gate.Request { return f.request("POST", "/v1/refunds", text(form)) }
	}
	const fine = "charge=ch_1&currency=usd&amount=25000"
	for name, c := range map[string]struct {
		wish func(*gate.NewGrant)
		call func(*fixture) *gate.Request
		then func(*fixture, gate.Grant)
	}{
		"over the amount":    {call: req("charge=ch_1&currency=usd&amount=30001")},
		"another currency":   {call: req("charge=ch_1&currency=eur&amount=25000")},
		"an argument more":   {call: req(fine + "&reverse_transfer=true")},
		"a nested one more":  {call: req(fine + "&metadata[a]=b")},
		"a dotted name":      {wish: func(n *gate.NewGrant) { n.FreeArgs = append(n.FreeArgs, "metadata.a") }, call: req(fine + "&metadata.a=1")},
		"below a free one":   {wish: func(n *gate.NewGrant) { n.FreeArgs = append(n.FreeArgs, "metadata.a") }, call: req(fine + "&metadata[a]=1&metadata[b]=1")},
		"another resource":   {wish: func(n *gate.NewGrant) { n.Resource = "stripe:charge:ch_2" }},
		"another agent":      {wish: func(n *gate.NewGrant) { n.AgentID = "other" }},
		"after its end":      {then: func(f *fixture, _ gate.Grant) { f.later(time.Hour + time.Second) }},
		"revoked":            {then: func(f *fixture, g gate.Grant) { _, _ = f.RevokeGrant(t.Context(), approver, g.ID, "no") }},
		"no room in its sum": {wish: func(n *gate.NewGrant) { n.SumArg, n.SumMax = "amount", 24999 }},
		"another tenant":     {call: func(f *fixture) *gate.Request { r := req(fine)(f); r.Identity.TenantID = "other"; return r }},
		"who granted it":     {call: func(f *fixture) *gate.Request { r := req(fine)(f); r.Identity.KeyID = approver.KeyID; return r }},
		"the rule's text changed": {then: func(f *fixture, _ gate.Grant) {
			next := rules(t, "enforce", strings.Replace(withoutLimits(t), "args.amount <= 50000", "args.amount <= 50001", 1))
			f.Load(next)
		}},
		"a store that fails":           {then: func(f *fixture, _ gate.Grant) { f.store.Fail("UseGrant", store.Fails) }},
		"a store that fails after all": {then: func(f *fixture, _ gate.Grant) { f.store.Fail("UseGrant", store.FailsButPersist) }},
	} {
		t.Run(name, func(t *testing.T) {
			f := newGrantGate(t, "enforce")
			n := refunds()
			if c.wish != nil {
				c.wish(&n)
			}
			g := f.grant(t, n)
			if c.then != nil {
				c.then(f, g)
			}
			if c.call == nil {
				c.call = req(fine)
			}
			p, ref := f.Check(t.Context(), c.call(f))
			if p != nil || ref.Approval == "" || ref.Decision.Enforcement != "hold" {
				t.Fatalf("%+v %+v", p, ref)
			}
			if f.stored(t, g.ID).Used != 0 {
				t.Error("it took a use")
			}
			for _, e := range f.rec.actions(t) {
				if e.Grant != nil {
					t.Errorf("%+v", e.Grant)
				}
			}
		})
	}
	// The same, and nothing changed: the table tests what it says.
	f := newGrantGate(t, "enforce")
	f.grant(t, refunds())
	if p, ref := f.Check(t.Context(), req(fine)(f)); p == nil {
		t.Errorf("%+v", ref)
	}
	n := refunds()
	n.AgentID, n.FreeArgs, n.Resource = "*", append(n.FreeArgs, "metadata"), "stripe:charge:ch_9*"
	f.grant(t, n)
	r := f.request("POST", "/v1/refunds", text("charge=ch_91&currency=usd&amount=25000&metadata[a]=b&metadata[c][d]=e"))
	r.Identity.AgentID = "other"
	if p, ref := f.Check(t.Context(), r); p == nil {
		t.Errorf("%+v", ref)
	}
}

// TestGrantHoldsEveryCeiling: whatever calls come, those that go are within the
// shape, the count and the sum.
func TestGrantHoldsEveryCeiling(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := newGrantGate(t, "enforce")
		n := refunds()
		n.Count = rapid.Int64Range(1, 6).Draw(rt, "count")
		most := rapid.Int64Range(5001, 50000).Draw(rt, "max")
		n.Constraints = map[string]any{"max": map[string]any{"amount": most}, "equals": map[string]any{"currency": "usd"}}
		n.SumArg, n.SumMax = "amount", rapid.Int64Range(1, 200000).Draw(rt, "sum")
		g := f.grant(t, n)
		var gone, sum int64
		for i := range 12 {
			amount := rapid.Int64Range(5001, 50000).Draw(rt, "amount")
			currency := rapid.SampledFrom([]string{"usd", "usd", "usd", "eur"}).Draw(rt, "currency")
			p, _ := f.Check(t.Context(), f.request("POST", "/v1/refunds", text(fmt.Sprintf("charge=ch_%d&currency=%s&amount=%d", i, currency, amount))))
			fits := amount <= most && currency == "usd" && gone < n.Count && sum+amount <= n.SumMax
			if (p != nil) != fits {
				rt.Fatalf("%d %s: went %v, fits %v, after %d calls of %d", amount, currency, p != nil, fits, gone, sum)
			}
			if fits && rapid.IntRange(0, 3).Draw(rt, "never sent") == 0 {
				p.Done(gate.Outcome{State: evidence.StateRefused})
				continue
			}
			if fits {
				gone, sum = gone+1, sum+amount
			}
		}
		if got := f.stored(t, g.ID); got.Used != gone || got.Summed != sum {
			rt.Fatalf("%+v, want %d, %d", got, gone, sum)
		}
	})
}

func TestGrantOfTenUnderHundredCalls(t *testing.T) {
	f := newGrantGate(t, "enforce")
	g := f.grant(t, refunds())
	var gone, held atomic.Int64
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			p, ref := f.Check(t.Context(), f.request("POST", "/v1/refunds", text(fmt.Sprintf("charge=ch_%d&currency=usd&amount=25000", i))))
			switch {
			case p != nil:
				gone.Add(1)
			case ref.Approval != "":
				held.Add(1)
			default:
				t.Errorf("%+v", ref)
			}
		})
	}
	wg.Wait()
	if gone.Load() != 10 || held.Load() != 90 || f.stored(t, g.ID).Used != 10 {
		t.Errorf("%d went, %d were held", gone.Load(), held.Load())
	}
	seen := map[int64]bool{}
	for _, e := range f.rec.actions(t) {
		if e.Grant != nil {
			if seen[e.Grant.Use] {
				t.Errorf("use %d is on record twice", e.Grant.Use)
			}
			seen[e.Grant.Use] = true
		}
	}
	if len(seen) != 10 {
		t.Errorf("%d uses on record", len(seen))
	}
}

// TestGrantBehindLimits: a grant goes over no limit, and a call that it lets go
// takes its share like any other.
func TestGrantBehindLimits(t *testing.T) {
	for effect, code := range map[string]int{"require_approval": 503, "deny": 403} {
		f := newGate(t, "enforce", noLimits)
		policies := strings.Replace(examplePolicy(t), "decision: require_approval        #", "decision: "+effect+" #", 1)
		next := rules(t, "enforce", policies)
		noLimits(next)
		f.Load(next)
		g := f.grant(t, refunds())
		for i := range 4 { // 4 times 250 dollars are the day's 1000
			if p, ref := f.Check(t.Context(), f.request("POST", "/v1/refunds", text(fmt.Sprintf("charge=ch_%d&currency=usd&amount=25000", i)))); p == nil {
				t.Fatalf("%s: call %d: %+v", effect, i, ref)
			}
		}
		p, ref := f.Check(t.Context(), f.refund("25000"))
		if p != nil || ref.Status != code || ref.Decision.ReasonCode != "refund.daily_limit" {
			t.Errorf("%s: %+v %+v", effect, p, ref)
		}
		if f.stored(t, g.ID).Used != 4 {
			t.Error("the call over the limit took a use")
		}
	}
}

// TestGrantAfterAnAnswer: what a human said about this very call goes first.
func TestGrantAfterAnAnswer(t *testing.T) {
	f := newGrantGate(t, "enforce")
	_, denied := f.Check(t.Context(), f.refund("25000"))
	_, waiting := f.Check(t.Context(), f.refund("25001"))
	_, used := f.Check(t.Context(), f.refund("25002"))
	for id, word := range map[string]string{denied.Approval: gate.DenyIt, used.Approval: gate.Approve} {
		if _, err := f.Decide(t.Context(), approver, id, word, "", nil); err != nil {
			t.Fatal(err)
		}
	}
	if p, ref := f.Check(t.Context(), f.refund("25002")); p == nil {
		t.Fatalf("%+v", ref)
	} else {
		p.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
	}
	g := f.grant(t, refunds())
	if _, ref := f.Check(t.Context(), f.refund("25000")); ref == nil || ref.Decision.ReasonCode != gate.ReasonDenied {
		t.Errorf("denied, and gone: %+v", ref)
	}
	if _, ref := f.Check(t.Context(), f.refund("25001")); ref == nil || ref.Approval != waiting.Approval {
		t.Errorf("asked, and gone: %+v", ref)
	}
	if _, ref := f.Check(t.Context(), f.refund("25002")); ref == nil || ref.Decision.ReasonCode != gate.ReasonConsumed {
		t.Errorf("used, and gone again: %+v", ref)
	}
	if f.stored(t, g.ID).Used != 0 {
		t.Error("one of them took a use")
	}
}

func TestGrantIsGivenBack(t *testing.T) {
	f := newGrantGate(t, "enforce")
	g := f.grant(t, refunds())
	f.rec.fail(errors.New("disk full"))
	if p, ref := f.Check(t.Context(), f.refund("25000")); p != nil || ref.Decision.ReasonCode != gate.ReasonEvidence {
		t.Fatalf("%+v", ref)
	}
	f.rec.fail(nil)
	if f.stored(t, g.ID).Used != 0 {
		t.Error("a call that could not be recorded kept its use")
	}
	p, _ := f.Check(t.Context(), f.refund("25000"))
	p.Done(gate.Outcome{State: evidence.StateAmbiguous})
	if f.stored(t, g.ID).Used != 1 {
		t.Error("a call that may have happened gave its use back")
	}
}

func TestGrantInPreflight(t *testing.T) {
	f := newGrantGate(t, "enforce")
	g := f.grant(t, refunds())
	agent := gate.Identity{TenantID: "acme", KeyID: "key_agent", Role: gate.RoleGateway}
	ask := func(intent string, amount int64) evidence.Decision {
		t.Helper()
		d, _, err := f.Preflight(t.Context(), agent, gate.Preflight{
			Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", AgentID: "support_agent", Intent: intent,
			Args: map[string]any{"amount": amount, "currency": "usd", "charge": "ch_1"},
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if d := ask("", 25000); d.Decision != "require_approval" || d.Enforcement != "none" || d.ApprovalRequestID != "" || f.stored(t, g.ID).Used != 0 {
		t.Errorf("a question: %+v", d)
	}
	if d := ask("execute", 25000); d.Enforcement != "none" || f.stored(t, g.ID).Used != 1 {
		t.Errorf("an action: %+v", d)
	}
	if d := ask("execute", 30001); d.Enforcement != "hold" || d.ApprovalRequestID == "" || f.stored(t, g.ID).Used != 1 {
		t.Errorf("an action beyond it: %+v", d)
	}
	list := f.rec.actions(t)
	if list[0].Grant != nil || list[1].Grant == nil || list[2].Grant != nil {
		t.Error("the record names uses that were none, or not the one that was")
	}
	f.rec.fail(errors.New("disk full"))
	if _, _, err := f.Preflight(t.Context(), agent, gate.Preflight{
		Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", AgentID: "support_agent", Intent: "execute",
		Args: map[string]any{"amount": int64(25000), "currency": "usd", "charge": "ch_1"},
	}); err == nil || f.stored(t, g.ID).Used != 1 {
		t.Errorf("unrecorded: %v", err)
	}
}

func TestWhoMayGrant(t *testing.T) {
	f := newGrantGate(t, "enforce")
	two := strings.Replace(withoutLimits(t), "required: 1", "required: 2", 1)
	admin := gate.Identity{TenantID: "acme", KeyID: "key_a", Role: gate.RoleAdmin}
	for name, c := range map[string]struct {
		actor  gate.Identity
		change func(*gate.NewGrant)
		policy string
	}{
		"an agent's key":         {actor: gate.Identity{TenantID: "acme", KeyID: "k", Role: gate.RoleGateway}},
		"no key":                 {actor: gate.Identity{TenantID: "acme", Role: gate.RoleApprover, Groups: approver.Groups}},
		"another group":          {actor: gate.Identity{TenantID: "acme", KeyID: "k", Role: gate.RoleApprover, Groups: []string{"marketing"}}},
		"for itself":             {actor: gate.Identity{TenantID: "acme", KeyID: "k", Role: gate.RoleAdmin, BoundAgent: "support_agent"}},
		"for all, itself too":    {actor: gate.Identity{TenantID: "acme", KeyID: "k", Role: gate.RoleAdmin, BoundAgent: "x"}, change: func(n *gate.NewGrant) { n.AgentID = "*" }},
		"alone, where two count": {actor: approver, policy: two},
		"an admin alone, too":    {actor: admin, policy: two},
	} {
		f.Load(rules(t, "enforce", withoutLimits(t)))
		if c.policy != "" {
			f.Load(rules(t, "enforce", c.policy))
		}
		n := refunds()
		if c.change != nil {
			c.change(&n)
		}
		if _, err := f.CreateGrant(t.Context(), c.actor, n); !errors.Is(err, gate.ErrNotAllowed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.Load(rules(t, "enforce", withoutLimits(t)))
	for field, change := range map[string]func(*gate.NewGrant){
		"agent_id":             func(n *gate.NewGrant) { n.AgentID = "" },
		"tool":                 func(n *gate.NewGrant) { n.Tool = "stripe.refund.*" },
		"resource":             func(n *gate.NewGrant) { n.Resource = "" },
		"rule":                 func(n *gate.NewGrant) { n.Rule = "large_refund" },
		"policy":               func(n *gate.NewGrant) { n.Policy = "" },
		"count":                func(n *gate.NewGrant) { n.Count = gate.MaxGrantUses + 1 },
		"ttl":                  func(n *gate.NewGrant) { n.TTL = 0 },
		"sum.max":              func(n *gate.NewGrant) { n.SumArg = "amount" },
		"sum.arg":              func(n *gate.NewGrant) { n.SumMax = 1 },
		"resource_constraints": func(n *gate.NewGrant) { n.Constraints = map[string]any{"most": 1} },
		"free_args":            func(n *gate.NewGrant) { n.FreeArgs = []string{"a..b"} },
	} {
		n := refunds()
		change(&n)
		var bad *gate.FieldError
		if _, err := f.CreateGrant(t.Context(), approver, n); !errors.As(err, &bad) || bad.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if list, _, err := f.Grants(t.Context(), approver, gate.GrantQuery{}); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
}

// TestGrantIsOnRecord: making and revoking are events, and what cannot be
// recorded is not made.
func TestGrantIsOnRecord(t *testing.T) {
	f := newGrantGate(t, "enforce")
	f.rec.fail(errors.New("disk full"))
	if _, err := f.CreateGrant(t.Context(), approver, refunds()); !errors.Is(err, gate.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	f.rec.fail(nil)
	if list, _, _ := f.Grants(t.Context(), approver, gate.GrantQuery{}); len(list) != 0 {
		t.Error("a grant without a record")
	}
	g := f.grant(t, refunds())
	if _, err := f.RevokeGrant(t.Context(), approver, g.ID, "over"); err != nil {
		t.Fatal(err)
	}
	events, _ := f.rec.log(t)
	var told []string
	for _, e := range events {
		if e.Kind == evidence.KindGrant && e.Data["grant"] == g.ID && e.KeyID == approver.KeyID {
			told = append(told, e.Message+": "+e.Data["reason"])
		}
	}
	if strings.Join(told, ", ") != "grant made: the broken batch, grant revoked: over" {
		t.Errorf("%v", told)
	}
}

func TestGrantFromAnApproval(t *testing.T) {
	f := newGrantGate(t, "enforce")
	_, ref := f.Check(t.Context(), f.refund("25000"))
	n := gate.NewGrant{ApprovalID: ref.Approval, Count: 2, TTL: time.Hour}
	g := f.grant(t, n)
	want := map[string]any{"max": map[string]any{"amount": int64(25000)}, "equals": map[string]any{"currency": "usd", "charge": "ch_1"}}
	if fmt.Sprint(g.Constraints) != fmt.Sprint(want) || g.Tool != "stripe.refund.create" || g.Resource != "stripe:charge:ch_1" || g.AgentID != "support_agent" || g.Rule != "medium_refund_needs_approval" {
		t.Errorf("%+v", g)
	}
	n.Resource, n.FreeArgs, n.Constraints = "stripe:charge:*", []string{"charge"}, map[string]any{"max": map[string]any{"amount": int64(40000)}}
	given := maps.Clone(n.Constraints)
	g = f.grant(t, n)
	want = map[string]any{"max": map[string]any{"amount": int64(40000)}, "equals": map[string]any{"currency": "usd"}}
	if fmt.Sprint(g.Constraints) != fmt.Sprint(want) || fmt.Sprint(given) != fmt.Sprint(n.Constraints) {
		t.Errorf("%+v", g)
	}
	if p, ref := f.Check(t.Context(), f.request("POST", "/v1/refunds", text("charge=ch_7&currency=usd&amount=39000"))); p == nil {
		t.Errorf("%+v", ref)
	}
	// A secret is on record as its hash, which is no bound.
	_, ref = f.Check(t.Context(), f.request("POST", "/v1/refunds", text("charge=ch_1&currency=usd&amount=26000&metadata[password]=x")))
	var bad *gate.FieldError
	if _, err := f.CreateGrant(t.Context(), approver, gate.NewGrant{ApprovalID: ref.Approval, Count: 2, TTL: time.Hour}); !errors.As(err, &bad) || bad.Field != "free_args" || !strings.Contains(bad.Message, "metadata.password") {
		t.Errorf("%v", err)
	}
}
