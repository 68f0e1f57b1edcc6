package gate_test

import (
	"context"
	"strings"
	"testing"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/store"
)

// TestPassportWithoutAStore: whether a passport was used or revoked is the store's to
// say. Without an answer nothing leaves, and the agent may come back.
func TestPassportWithoutAStore(t *testing.T) {
	for _, op := range []string{"PassportState", "ClaimPassport"} {
		for _, mode := range []string{gate.ModeEnforce, gate.ModeStrict} {
			f := withAuthority(newGate(t, mode, nil))
			p := f.issue(t, wish())
			f.store.Fail(op, store.Fails)
			permit, ref := f.Check(t.Context(), f.with(p.Token, "4900"))
			if permit != nil || ref.Status != 503 || ref.Decision.ReasonCode != "store.unavailable" || !strings.Contains(ref.Sentence, "the store did not answer") {
				t.Errorf("%s, %s: %+v", op, mode, ref)
			}
			a := f.rec.actions(t)
			if o := a[len(a)-1].Outcome; o == nil || o.State != "refused" || o.Status != 503 {
				t.Errorf("%s, %s: recorded as %+v", op, mode, o)
			}
			f.store.Fail(op, store.Works)
			if permit, ref := f.Check(t.Context(), f.with(p.Token, "4900")); permit == nil {
				t.Errorf("%s, %s: with the store again: %+v", op, mode, ref)
			}
		}
	}
}

// The same of a call that was approved while its passport waited with it.
func TestApprovedPassportWithoutAStore(t *testing.T) {
	f := withAuthority(newGate(t, gate.ModeStrict, longHold))
	n := wish()
	n.ResourceConstraints = nil
	p := f.issue(t, n)
	out := f.held(t, f.with(p.Token, "25000"))
	a := f.pending(t)
	f.store.Fail("ClaimPassport", store.Fails)
	if _, err := f.Decide(t.Context(), approver, a.ID, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	if got := <-out; got.refusal == nil || got.refusal.Status != 503 || got.refusal.Decision.ReasonCode != "store.unavailable" {
		t.Errorf("%+v", got.refusal)
	}
}

// panickyRecorder is broken for good.
type panickyRecorder struct{ *recorder }

func (panickyRecorder) Append(context.Context, evidence.Record) (evidence.Entry, error) {
	panic("the recorder is broken")
}

// TestPanicWhileAPanicIsRecorded: what made the judgement panic is still there when
// the refusal is recorded. Neither permit nor refusal is a refusal, too.
func TestPanicWhileAPanicIsRecorded(t *testing.T) {
	g, err := gate.New(gate.Options{Store: store.NewMemory(), Recorder: panickyRecorder{&recorder{}}, RedactKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	f := newGate(t, gate.ModeEnforce, nil)
	g.Load(f.rules)
	if permit, refusal := g.Check(t.Context(), f.refund("75000")); permit != nil || refusal != nil {
		t.Errorf("%+v %+v", permit, refusal)
	}
}
