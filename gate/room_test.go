package gate_test

import (
	"errors"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// TestRoomForHolds: one agent's flood ends at its own bound and leaves the others
// room; all together end at the bound of the tenant.
func TestRoomForHolds(t *testing.T) {
	f := newGate(t, "enforce", nil)
	next := rules(t, "enforce", withoutLimits(t))
	next.MaxHolds, next.MaxHoldsPerAgent, next.Hold = 3, 2, time.Millisecond
	f.Load(next)
	as := func(agent, amount string) *gate.Refusal {
		t.Helper()
		r := f.refund(amount)
		r.Identity.AgentID = agent
		p, ref := f.Check(t.Context(), r)
		if p != nil {
			t.Fatalf("%s sent %s", agent, amount)
		}
		return ref
	}
	expect := func(what string, ref *gate.Refusal, status int, code string) {
		t.Helper()
		if ref.Status != status || ref.Decision.ReasonCode != code || ref.RetryAfter <= 0 {
			t.Errorf("%s: %d %s, retry after %s", what, ref.Status, ref.Decision.ReasonCode, ref.RetryAfter)
		}
	}
	const asked = "refund.medium_needs_approval"
	first := as("flood", "20001")
	expect("the first", first, 503, asked)
	expect("the second", as("flood", "20002"), 503, asked)
	full := as("flood", "20003")
	expect("the third", full, 429, gate.ReasonTooManyOfAgent)
	if full.Approval != "" || full.Decision.ApprovalRequestID != "" {
		t.Errorf("a call that was not asked about names an approval: %+v", full)
	}
	expect("a retry of the first attaches", as("flood", "20001"), 503, asked)
	expect("another agent", as("quiet", "20001"), 503, asked)
	expect("all together", as("third", "20001"), 429, gate.ReasonTooMany)
	if e := f.rec.actions(t); e[len(e)-1].Outcome.State != evidence.StateRefused || e[len(e)-1].Decision.ReasonCode != gate.ReasonTooMany {
		t.Errorf("on record: %+v", e[len(e)-1])
	}
	// The other entrance has the same bound.
	_, _, err := f.Preflight(t.Context(), f.ConfigIdentity(), gate.Preflight{
		Tool: "stripe.refund.create", AgentID: "flood", Resource: "stripe:charge:ch_9", Args: map[string]any{"amount": 20009, "currency": "usd", "charge": "ch_9"},
	})
	if !errors.Is(err, gate.ErrTooMany) {
		t.Errorf("preflight: %v", err)
	}
	if _, err := f.Decide(t.Context(), approver, first.Approval, gate.DenyIt, "", nil); err != nil {
		t.Fatal(err)
	}
	expect("after one was decided", as("flood", "20003"), 503, asked)
}
