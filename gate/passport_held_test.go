package gate_test

import (
	"crypto/ed25519"
	"testing"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/passport"
)

// TestAPassportsKeyIsDroppedWhileHeld: every passport ends with its key, those of
// calls that wait for a human among them.
func TestAPassportsKeyIsDroppedWhileHeld(t *testing.T) {
	for name, mounted := range map[string]bool{"presented": false, "mounted": true} {
		t.Run(name, func(t *testing.T) {
			f := withAuthority(newGate(t, "strict", longHold))
			n := wish()
			n.ResourceConstraints = nil
			p := f.issue(t, n)
			r := f.with(p.Token, "25000")
			if mounted {
				f.mount(p.Token)
				r = f.refund("25000")
			}
			out := f.held(t, r)
			a := f.pending(t)
			f.SetAuthority(&gate.Authority{Issuer: "actpass", Audience: "actpass", Keys: []passport.Key{{ID: "k2", Private: ed25519.NewKeyFromSeed(make([]byte, 32))}}})
			if _, err := f.Decide(t.Context(), approver, a.ID, gate.Approve, "", nil); err != nil {
				t.Fatal(err)
			}
			if got := <-out; got.refusal == nil || got.refusal.Decision.ReasonCode != passport.ReasonKey {
				t.Errorf("%+v", got.refusal)
			}
		})
	}
}
