package gate_test

import (
	"errors"
	"testing"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// TestCameOf: what came of a used approval can be asked of the store, which others
// may share: the status of an answer, and an outcome without one.
func TestCameOf(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(p *gate.Permit)
		want evidence.Outcome
	}{
		"answered": {func(p *gate.Permit) {
			p.Answered(gate.Answer{Status: 201, Body: []byte("x")}, true)
			p.Done(gate.Outcome{State: evidence.StateForwarded, Status: 201})
		}, evidence.Outcome{State: evidence.StateForwarded, Status: 201}},
		"ambiguous": {func(p *gate.Permit) {
			p.Done(gate.Outcome{State: evidence.StateAmbiguous, Status: 502, Error: "reset"})
		}, evidence.Outcome{State: evidence.StateAmbiguous, Status: 502, Error: "reset"}},
		"never sent": {func(p *gate.Permit) {
			p.Done(gate.Outcome{State: evidence.StateRefused, Status: 502, Error: "no such host"})
		}, evidence.Outcome{State: evidence.StateRefused, Status: 502, Error: "no such host"}},
	} {
		f := newGate(t, "enforce", nil)
		p := f.approved(t)
		one := f.only(t)
		if _, _, err := f.CameOf(t.Context(), one); !errors.Is(err, gate.ErrNotFound) {
			t.Errorf("%s, before: %v", name, err)
		}
		c.end(p)
		if got, byAgent, err := f.CameOf(t.Context(), one); err != nil || byAgent || got != c.want {
			t.Errorf("%s: %+v by the agent %v, %v", name, got, byAgent, err)
		}
	}
	f := newGate(t, "enforce", nil)
	d := f.ask(t, refundOf(20000))
	if _, err := f.Decide(t.Context(), approver, d.ApprovalRequestID, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	act := refundOf(20000)
	act.Intent = gate.IntentExecute
	d = f.ask(t, act)
	if err := f.ReportOutcome(t.Context(), admin, d.EvidenceEventID, d.ApprovalRequestID, "unknown", 0, "timed out"); err != nil {
		t.Fatal(err)
	}
	want := evidence.Outcome{State: evidence.StateAmbiguous, Error: "timed out"}
	if got, byAgent, err := f.CameOf(t.Context(), f.only(t)); err != nil || !byAgent || got != want {
		t.Errorf("by the agent: %+v, %v, %v", got, byAgent, err)
	}
}

// only is the one approval that there is.
func (f *fixture) only(t *testing.T) gate.Approval {
	t.Helper()
	list, _, err := f.Approvals(t.Context(), approver, gate.ApprovalQuery{})
	if err != nil || len(list) != 1 {
		t.Fatalf("%d approvals, %v", len(list), err)
	}
	return list[0]
}

func refundOf(amount int64) gate.Preflight {
	return gate.Preflight{Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", Args: map[string]any{"amount": amount, "currency": "usd"}}
}
