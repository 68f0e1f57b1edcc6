package gate_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

var approver = gate.Identity{TenantID: "acme", KeyID: "key_h", Name: "hana", Role: gate.RoleApprover, Groups: []string{"support-leads"}}

func (f *fixture) pending(t *testing.T) gate.Approval {
	t.Helper()
	for range 500 {
		list, _, err := f.Approvals(t.Context(), approver, gate.ApprovalQuery{State: gate.ApprovalPending})
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 1 {
			return list[0]
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("no approval is pending")
	return gate.Approval{}
}

type answer struct {
	permit  *gate.Permit
	refusal *gate.Refusal
}

func (f *fixture) held(t *testing.T, r *gate.Request) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		p, ref := f.Check(t.Context(), r)
		out <- answer{p, ref}
	}()
	return out
}

func longHold(r *gate.Rules) { r.Hold = 10 * time.Second }

func TestHoldIsReleasedByApproval(t *testing.T) {
	f := newGate(t, "enforce", longHold)
	out := f.held(t, f.refund("25000"))
	a := f.pending(t)
	if a.Tool != "stripe.refund.create" || a.Rule != "medium_refund_needs_approval" || a.Args["amount"] != int64(25000) || a.Approvers[0] != "support-leads" {
		t.Errorf("%+v", a)
	}
	if _, err := f.Decide(t.Context(), approver, a.ID, gate.Approve, "fine", nil); err != nil {
		t.Fatal(err)
	}
	got := <-out
	if got.permit == nil {
		t.Fatalf("%+v", got.refusal)
	}
	if !got.permit.Outbound().Once || string(got.permit.Outbound().Body) != "charge=ch_1&currency=usd&amount=25000" {
		t.Errorf("%+v", got.permit.Outbound())
	}
	got.permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
	events, outcomes := f.rec.log(t)
	var moves []string
	var action *evidence.Event
	for _, e := range events {
		switch e.Kind {
		case evidence.KindApproval:
			moves = append(moves, e.Approval.From+">"+e.Approval.State)
		case evidence.KindAction:
			action = e
		}
	}
	if strings.Join(moves, " ") != "pending>approved approved>consumed" {
		t.Errorf("moves %v", moves)
	}
	o := outcomes[action.ID]
	if action.Outcome.State != evidence.StateHeld || len(o) != 2 || o[0].State != evidence.StatePending || o[1].State != evidence.StateForwarded {
		t.Errorf("%+v %+v", action.Outcome, o)
	}
}

func TestHoldIsRefusedByDenial(t *testing.T) {
	f := newGate(t, "enforce", longHold)
	out := f.held(t, f.refund("25000"))
	a := f.pending(t)
	if _, err := f.Decide(t.Context(), approver, a.ID, gate.DenyIt, "not this one", nil); err != nil {
		t.Fatal(err)
	}
	got := <-out
	if got.refusal == nil || got.refusal.Status != 403 || got.refusal.Decision.ReasonCode != gate.ReasonDenied || !strings.Contains(got.refusal.Sentence, "not this one") {
		t.Fatalf("%+v", got.refusal)
	}
	if _, refusal := f.Check(t.Context(), f.refund("25000")); refusal == nil || refusal.Decision.ReasonCode != gate.ReasonDenied {
		t.Errorf("a retry of a denied call asks again: %+v", refusal)
	}
}

func TestBudgetEndsAndRetryAttaches(t *testing.T) {
	f := newGate(t, "enforce", nil)
	_, first := f.Check(t.Context(), f.refund("25000"))
	if first == nil || first.Status != 503 || !first.Retry || first.Approval == "" || first.Decision.ReasonCode != "refund.medium_needs_approval" {
		t.Fatalf("%+v", first)
	}
	_, second := f.Check(t.Context(), f.refund("25000"))
	if second.Approval != first.Approval {
		t.Error("the retry opened a second approval")
	}
	_, other := f.Check(t.Context(), f.refund("25001"))
	if other.Approval == first.Approval {
		t.Error("another amount attached to the approval")
	}
	r := f.refund("25000")
	r.Head.Header["Stripe-Account"] = []string{"acct_2"}
	if _, other := f.Check(t.Context(), r); other.Approval == first.Approval {
		t.Error("another account attached to the approval")
	}
	r = f.refund("25000")
	for _, name := range []string{"X-Stripe-Client-Telemetry", "Traceparent", "X-Cloud-Trace-Context", "X-Retry-Count", "X-Stainless-Retry-Count"} {
		r.Head.Header[name] = []string{"1"}
	}
	if _, same := f.Check(t.Context(), r); same.Approval != first.Approval {
		t.Error("a volatile header made a new approval")
	}
	if _, err := f.Decide(t.Context(), approver, first.Approval, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	if permit, ref := f.Check(t.Context(), f.refund("25000")); permit == nil {
		t.Errorf("the retry after approval is refused: %+v", ref)
	}
	if _, again := f.Check(t.Context(), f.refund("25000")); again == nil || again.Decision.ReasonCode != gate.ReasonConsumed {
		t.Errorf("a second use: %+v", again)
	}
}

func TestOneApprovalOnePermit(t *testing.T) {
	f := newGate(t, "enforce", longHold)
	const n = 32
	var wg sync.WaitGroup
	results := make(chan answer, n)
	for range n {
		wg.Go(func() {
			p, ref := f.Check(t.Context(), f.refund("25000"))
			if p != nil {
				p.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
			}
			results <- answer{p, ref}
		})
	}
	a := f.pending(t)
	time.Sleep(20 * time.Millisecond)
	if _, err := f.Decide(t.Context(), approver, a.ID, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	close(results)
	permits := 0
	for r := range results {
		if r.permit != nil {
			permits++
		} else if r.refusal.Decision.ReasonCode != gate.ReasonConsumed {
			t.Errorf("%s", r.refusal.Decision.ReasonCode)
		}
	}
	if permits != 1 {
		t.Fatalf("%d permits for one approval", permits)
	}
}

func TestWhoMayDecide(t *testing.T) {
	f := newGate(t, "enforce", nil)
	agent := gate.Identity{TenantID: "acme", AgentID: "support_agent", KeyID: "key_a", Role: gate.RoleAdmin}
	r := f.refund("25000")
	r.Identity = agent
	_, ref := f.Check(t.Context(), r)
	for name, tt := range map[string]struct {
		who gate.Identity
		ok  bool
	}{
		"the agent's own key":      {agent, false},
		"a key bound to the agent": {gate.Identity{TenantID: "acme", KeyID: "key_b", Role: gate.RoleAdmin, BoundAgent: "support_agent"}, false},
		"a gateway key":            {gate.Identity{TenantID: "acme", KeyID: "key_c", Role: gate.RoleGateway}, false},
		"another group":            {gate.Identity{TenantID: "acme", KeyID: "key_d", Role: gate.RoleApprover, Groups: []string{"finance"}}, false},
		"another tenant":           {gate.Identity{TenantID: "evil", KeyID: "key_e", Role: gate.RoleAdmin}, false},
		"nobody":                   {gate.Identity{TenantID: "acme", Role: gate.RoleAdmin}, false},
		"the group":                {approver, true},
	} {
		_, err := f.Decide(t.Context(), tt.who, ref.Approval, gate.Approve, "", nil)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			break
		}
	}
	if _, err := f.Decide(t.Context(), approver, "apr_none", gate.Approve, "", nil); !errors.Is(err, gate.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestReloadBetweenHoldAndApproval(t *testing.T) {
	f := newGate(t, "enforce", longHold)
	out := f.held(t, f.refund("25000"))
	a := f.pending(t)
	f.Load(rules(t, "enforce", strings.ReplaceAll(examplePolicy(t), "args.amount <= 50000", "args.amount <= 20000")))
	if _, err := f.Decide(t.Context(), approver, a.ID, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	got := <-out
	if got.refusal == nil || got.refusal.Decision.ReasonCode != "refund.over_limit" {
		t.Fatalf("approved, but denied by the policy now in force: %+v", got.refusal)
	}
}

func TestClientLeavesAHold(t *testing.T) {
	f := newGate(t, "enforce", longHold)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan *gate.Refusal, 1)
	go func() {
		_, ref := f.Check(ctx, f.refund("25000"))
		done <- ref
	}()
	a := f.pending(t)
	cancel()
	if ref := <-done; ref == nil {
		t.Fatal("a permit for a client that is gone")
	}
	got, err := f.Approval(t.Context(), approver, a.ID, 0)
	if err != nil || got.State != gate.ApprovalPending {
		t.Errorf("the approval must outlive the connection: %v %v", got.State, err)
	}
}

func TestStoreFaults(t *testing.T) {
	f := newGate(t, "enforce", nil)
	_ = f.store.Close()
	if _, ref := f.Check(t.Context(), f.refund("25000")); ref == nil || ref.Status != 503 {
		t.Errorf("%+v", ref)
	}
	m := newGate(t, "monitor", nil)
	_ = m.store.Close()
	if permit, ref := m.Check(t.Context(), m.refund("4900")); permit == nil {
		t.Errorf("monitor breaks on a store fault: %+v", ref)
	}
	if a := m.rec.actions(t); len(a) != 1 || len(a[0].Flags) == 0 {
		t.Error("the fault is not on record")
	}
}

func TestHeldRetriesTakeOneShare(t *testing.T) {
	f := newGate(t, "enforce", nil)
	used := func() int64 {
		use := gate.Use{Limit: "refund_policy/refunds_per_day", Key: `["support_agent","usd"]`, Amount: 1, Max: 100000, Window: 24 * time.Hour}
		n, err := f.store.Usage(t.Context(), "acme", []gate.Use{use}, f.now)
		if err != nil {
			t.Fatal(err)
		}
		return n[0]
	}
	var id string
	for range 5 {
		_, ref := f.Check(t.Context(), f.refund("25000"))
		if ref == nil || !ref.Retry || ref.Decision.ReasonCode != "refund.medium_needs_approval" {
			t.Fatalf("%+v", ref)
		}
		id = ref.Approval
	}
	if used() != 25000 {
		t.Errorf("five attempts at one held call take %d, want 25000", used())
	}
	if _, err := f.Decide(t.Context(), approver, id, gate.DenyIt, "", nil); err != nil {
		t.Fatal(err)
	}
	if used() != 0 {
		t.Errorf("a denied call keeps %d", used())
	}
}

func TestLimitsAreSettledByTheOutcome(t *testing.T) {
	for _, tt := range []struct {
		name    string
		outcome gate.Outcome
		keeps   bool
	}{
		{"success", gate.Outcome{State: evidence.StateForwarded, Status: 200}, true},
		{"5xx", gate.Outcome{State: evidence.StateForwarded, Status: 502}, true},
		{"lost answer", gate.Outcome{State: evidence.StateAmbiguous}, true},
		{"4xx", gate.Outcome{State: evidence.StateForwarded, Status: 402}, false},
		{"never sent", gate.Outcome{State: evidence.StateRefused}, false},
	} {
		f := newGate(t, "enforce", nil)
		for i := range 21 { // 20 fit: 20 x 5000 = 100000
			permit, ref := f.Check(t.Context(), f.refund("5000"))
			if full := i == 20 && tt.keeps; full != (permit == nil) {
				t.Fatalf("%s: call %d: permit %v, %+v", tt.name, i, permit != nil, ref)
			}
			if permit != nil {
				permit.Done(tt.outcome)
			} else if ref.Decision.ReasonCode != "refund.daily_limit" || ref.Approval == "" {
				t.Errorf("%s: %+v", tt.name, ref)
			}
		}
	}
}

// approved opens a hold, approves it, and gives the permit of the retry.
func (f *fixture) approved(t *testing.T) *gate.Permit {
	t.Helper()
	_, held := f.Check(t.Context(), f.refund("25000"))
	if _, err := f.Decide(t.Context(), approver, held.Approval, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	permit, ref := f.Check(t.Context(), f.refund("25000"))
	if permit == nil {
		t.Fatalf("%+v", ref)
	}
	return permit
}

func TestRetryAfterTheOneSendGetsItsAnswer(t *testing.T) {
	f := newGate(t, "enforce", nil)
	permit := f.approved(t)
	header := map[string][]string{"Content-Type": {"application/json"}, "Set-Cookie": {"s=1"}, "Request-Id": {"req_1"}}
	permit.Answered(gate.Answer{Status: 200, Header: header, Body: []byte(`{"id":"re_1"}`)}, true)
	permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200, Bytes: 13})
	_, again := f.Check(t.Context(), f.refund("25000"))
	if again == nil || again.Replay == nil || again.Replay.Status != 200 || string(again.Replay.Body) != `{"id":"re_1"}` {
		t.Fatalf("%+v", again)
	}
	if h := again.Replay.Header; h["Request-Id"] == nil || h["Set-Cookie"] != nil {
		t.Errorf("headers %v", h)
	}
	f.now = f.now.Add(11 * time.Minute)
	_, later := f.Check(t.Context(), f.refund("25000"))
	if later == nil || later.Replay != nil || later.Status != 409 || later.Decision.ReasonCode != gate.ReasonConsumed || !strings.Contains(later.Sentence, "status 200") {
		t.Errorf("after ten minutes: %+v", later)
	}
	f.now = f.now.Add(25 * time.Hour)
	if _, fresh := f.Check(t.Context(), f.refund("25000")); fresh == nil || !fresh.Retry {
		t.Errorf("a day later, without an idempotency key, it is a new question: %+v", fresh)
	}
}

func TestAnswerTooLargeToKeep(t *testing.T) {
	f := newGate(t, "enforce", nil)
	permit := f.approved(t)
	permit.Answered(gate.Answer{Status: 201, Body: make([]byte, gate.MaxKept)}, false)
	permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 201})
	if _, again := f.Check(t.Context(), f.refund("25000")); again == nil || again.Status != 409 || again.Replay != nil || !strings.Contains(again.Sentence, "status 201") {
		t.Errorf("%+v", again)
	}
}

func TestRetryWaitsForTheOneSend(t *testing.T) {
	f := newGate(t, "enforce", longHold)
	out := f.held(t, f.refund("25000"))
	a := f.pending(t)
	if _, err := f.Decide(t.Context(), approver, a.ID, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	first := <-out
	second := f.held(t, f.refund("25000"))
	select {
	case got := <-second:
		t.Fatalf("answered while the call is under way: %+v", got.refusal)
	case <-time.After(50 * time.Millisecond):
	}
	first.permit.Answered(gate.Answer{Status: 200, Body: []byte("done")}, true)
	first.permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
	if got := <-second; got.refusal == nil || got.refusal.Replay == nil || string(got.refusal.Replay.Body) != "done" {
		t.Errorf("%+v", got.refusal)
	}
}

func TestLostAnswerIsNeverSentAgain(t *testing.T) {
	f := newGate(t, "enforce", nil)
	permit := f.approved(t)
	permit.Done(gate.Outcome{State: evidence.StateAmbiguous, Error: "reset"})
	if _, again := f.Check(t.Context(), f.refund("25000")); again == nil || again.Status != 409 || again.Replay != nil {
		t.Errorf("%+v", again)
	}
}
