package gate_test

import (
	"strings"
	"testing"

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
