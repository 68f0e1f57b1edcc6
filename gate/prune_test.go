package gate_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/store"
)

const day = 24 * time.Hour

func (f *fixture) prune(t *testing.T, keep time.Duration) gate.Pruned {
	t.Helper()
	n, err := f.Prune(t.Context(), keep)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPruneKeepsWhatIsPromised: however short things are kept, a retry with its
// idempotency key is answered by the one send for as long as it is promised, and
// never sent again meanwhile.
func TestPruneKeepsWhatIsPromised(t *testing.T) {
	f := newGate(t, "enforce", nil)
	call := func() (*gate.Permit, *gate.Refusal) {
		r := f.refund("25000")
		r.Head.Header["Idempotency-Key"] = []string{"k1"}
		return f.Check(t.Context(), r)
	}
	_, first := call()
	if _, err := f.Decide(t.Context(), approver, first.Approval, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	permit, ref := call()
	if permit == nil {
		t.Fatalf("%+v", ref)
	}
	permit.Answered(gate.Answer{Status: 200, Body: []byte("done")}, true)
	permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
	// Another, denied: it answers for a quarter of an hour.
	_, other := f.Check(t.Context(), f.refund("26000"))
	if _, err := f.Decide(t.Context(), approver, other.Approval, gate.DenyIt, "", nil); err != nil {
		t.Fatal(err)
	}
	if n := f.prune(t, 0); !n.None() {
		t.Errorf("at once: %+v", n)
	}
	for _, at := range []time.Duration{20 * time.Minute, 10 * day, 19 * day} {
		f.later(at)
		f.prune(t, 0)
		if permit, ref := call(); permit != nil || ref.Status != 409 || ref.Approval != first.Approval {
			t.Fatalf("after %s: permit %v, %+v", at, permit != nil, ref)
		}
	}
	if _, err := f.Approval(t.Context(), approver, other.Approval, 0); !errors.Is(err, gate.ErrNotFound) {
		t.Errorf("the denied one is there: %v", err)
	}
	f.later(2 * day)
	if n := f.prune(t, 0); n.Approvals != 1 || n.Moves != 2 {
		t.Errorf("after 31 days: %+v", n)
	}
	if permit, ref := call(); permit != nil || !ref.Retry {
		t.Errorf("after it, the call is a new question: %+v", ref)
	}
	// The record has all of it, and says what was removed.
	events, _ := f.rec.log(t)
	moves, told := 0, 0
	for _, e := range events {
		if e.Approval != nil && e.Kind == evidence.KindApproval {
			moves++
		}
		if e.Kind == evidence.KindSystem && strings.HasPrefix(e.Message, "old approvals") {
			told++
			if e.Data["approvals"] != "1" || e.Data["kept"] != "0s" {
				t.Errorf("%v", e.Data)
			}
		}
	}
	if moves != 3 || told != 2 {
		t.Errorf("%d moves on record, %d notes of what was removed", moves, told)
	}
}

// TestPruneSaysWhatFailed, and puts on record what it removed before that.
func TestPruneSaysWhatFailed(t *testing.T) {
	f := newGate(t, "enforce", nil)
	f.store.Fail("Prune", store.Fails)
	if _, err := f.Prune(t.Context(), day); !errors.Is(err, store.ErrInjected) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Prune(ctx, day); err != nil {
		t.Errorf("it was told to stop: %v", err)
	}
	events, _ := f.rec.log(t)
	if len(events) != 0 {
		t.Errorf("nothing was removed, and %d events say so", len(events))
	}
}
