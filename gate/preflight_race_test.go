package gate_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/actpass/sidecar/gate"
)

// TestManySidecarsPutOneQuestion: however many ask at once, and wherever, a human
// sees one question of one action.
func TestManySidecarsPutOneQuestion(t *testing.T) {
	f := newGate(t, "enforce", nil)
	gates := []*fixture{f, f.over(t, f.store), f.over(t, f.store)}
	var wg sync.WaitGroup
	ids := make([]string, 90)
	for i := range ids {
		wg.Go(func() {
			p := refundOf(20000)
			p.AgentID = "support_agent"
			d, _, err := gates[i%len(gates)].Preflight(t.Context(), admin, p)
			if err != nil {
				t.Error(err)
			}
			ids[i] = d.ApprovalRequestID
		})
	}
	wg.Wait()
	one := f.only(t).ID
	for i, id := range ids {
		if id != one {
			t.Errorf("%d was told of %q, and the question is %s", i, id, one)
		}
	}
}

// TestManySidecarsUseOneApproval: of all that try to act on one approval at once,
// one may. None of the others is asked for again: it is the same action, by its key.
func TestManySidecarsUseOneApproval(t *testing.T) {
	for range 20 {
		f := newGate(t, "enforce", nil)
		gates := []*fixture{f, f.over(t, f.store)}
		act := refundOf(20000)
		act.AgentID, act.IdempotencyKey, act.Intent = "support_agent", "order_1", gate.IntentExecute
		d, _, err := f.Preflight(t.Context(), admin, act)
		if err != nil {
			t.Fatal(err)
		}
		var went atomic.Int64
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				d, refused, err := gates[i%2].Preflight(t.Context(), admin, act)
				switch {
				case err != nil:
					t.Error(err)
				case d.Enforcement == "none":
					went.Add(1)
				case refused && d.ReasonCode != gate.ReasonConsumed:
					t.Errorf("%+v", d)
				}
			})
			if i == 10 {
				if _, err := f.Decide(t.Context(), approver, d.ApprovalRequestID, gate.Approve, "", nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		wg.Wait()
		d, refused, err := f.Preflight(t.Context(), admin, act)
		if err != nil {
			t.Fatal(err)
		}
		if d.Enforcement == "none" {
			went.Add(1) // all of the others came before the decision
			d, refused, err = f.Preflight(t.Context(), admin, act)
		}
		if went.Load() != 1 {
			t.Errorf("%d went", went.Load())
		}
		if err != nil || !refused || d.ReasonCode != gate.ReasonConsumed || d.ApprovalRequestID != f.only(t).ID {
			t.Errorf("after it: %+v, %v, %v", d, refused, err)
		}
	}
}

// between is a store that lets something happen before the nth look for the latest
// question, or before a question is opened.
type between struct {
	gate.Store
	looks   int
	at      int // 0: before the opening
	happens func()
}

func (b *between) LatestApproval(ctx context.Context, tenant, fingerprint string) (gate.Approval, error) {
	if b.looks++; b.looks == b.at {
		b.happens()
	}
	return b.Store.LatestApproval(ctx, tenant, fingerprint)
}

func (b *between) OpenApproval(ctx context.Context, a gate.Approval, room gate.Room) (gate.Approval, bool, error) {
	if b.at == 0 && b.happens != nil {
		b.happens()
		b.happens = nil
	}
	return b.Store.OpenApproval(ctx, a, room)
}

// TestAnAnswerBetweenLookingAndOpening: a question that was open when an action was
// asked for, and is answered before the asker gets to open it, answers the asker. It
// is not put to people again.
func TestAnAnswerBetweenLookingAndOpening(t *testing.T) {
	act := refundOf(20000)
	act.AgentID, act.Intent = "support_agent", gate.IntentExecute
	for name, c := range map[string]struct {
		answer func(t *testing.T, f *fixture, id string)
		code   string
	}{
		"used": {func(t *testing.T, f *fixture, id string) {
			if _, err := f.Decide(t.Context(), approver, id, gate.Approve, "", nil); err != nil {
				t.Fatal(err)
			}
			f.later(1e6)
			if d, _, err := f.Preflight(t.Context(), admin, act); err != nil || d.Enforcement != "none" {
				t.Fatalf("the other one: %+v, %v", d, err)
			}
		}, gate.ReasonConsumed},
		"denied": {func(t *testing.T, f *fixture, id string) {
			if _, err := f.Decide(t.Context(), approver, id, gate.DenyIt, "", nil); err != nil {
				t.Fatal(err)
			}
		}, gate.ReasonDenied},
		"cancelled": {func(t *testing.T, f *fixture, id string) {
			f.later(1e6)
			if _, err := f.Decide(t.Context(), approver, id, gate.Cancel, "", nil); err != nil {
				t.Fatal(err)
			}
		}, gate.ReasonCancelled},
	} {
		for at := range 4 {
			f := newGate(t, "enforce", nil)
			first, _, err := f.Preflight(t.Context(), admin, act)
			if err != nil {
				t.Fatal(err)
			}
			b := &between{Store: f.store, at: at}
			other := f.over(t, b)
			b.happens = func() { c.answer(t, f, first.ApprovalRequestID) }
			d, refused, err := other.Preflight(t.Context(), admin, act)
			if err != nil {
				t.Fatal(err)
			}
			if at > 0 && b.looks < at {
				continue // it does not look as often
			}
			if !refused || d.ReasonCode != c.code || d.ApprovalRequestID != first.ApprovalRequestID {
				t.Errorf("%s, at %d of %d looks: %+v", name, at, b.looks, d)
			}
			f.only(t)
		}
	}
}
