package gate_test

import (
	"context"
	"testing"

	"github.com/actpass/sidecar/gate"
)

// usedBehind uses up the approval that a look at it has just shown as approved.
type usedBehind struct {
	gate.Store
	f     *fixture
	looks *int
}

func (s usedBehind) LatestApproval(ctx context.Context, tenant, fingerprint string) (gate.Approval, error) {
	a, err := s.Store.LatestApproval(ctx, tenant, fingerprint)
	// The first look is that of the limits.
	if *s.looks++; err == nil && a.State == gate.ApprovalApproved && *s.looks == 2 {
		_, _ = s.Store.Consume(ctx, tenant, a.ID, "ev_other", s.f.time())
	}
	return a, err
}

// TestUsedBetweenLookingAndOpening: a retry whose approval another attempt uses
// at that very moment is a retry of a call that was sent, not a new question.
func TestUsedBetweenLookingAndOpening(t *testing.T) {
	f := newGate(t, "enforce", nil)
	_, ref := f.Check(t.Context(), f.refund("25000"))
	if _, err := f.Decide(t.Context(), finance, ref.Approval, gate.Approve, "", nil); err != nil {
		if _, err = f.Decide(t.Context(), approver, ref.Approval, gate.Approve, "", nil); err != nil {
			t.Fatal(err)
		}
	}
	g := f.over(t, usedBehind{f.store, f, new(int)})
	permit, again := g.Check(t.Context(), f.refund("25000"))
	if permit != nil || again == nil || again.Status != 409 || again.Approval != ref.Approval {
		t.Fatalf("%+v %+v", permit, again)
	}
}
