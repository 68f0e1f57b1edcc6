package gate_test

import (
	"crypto/ed25519"
	"testing"

	"github.com/actpass/sidecar/evidence"
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

// TestWhose4xxCounts: what a provider refuses did not happen. But an upstream that
// no mapping rule names is one of the agent's choosing, and may well say 404 to
// everything that it is sent.
func TestWhose4xxCounts(t *testing.T) {
	for name, c := range map[string]struct {
		path  string
		keeps int64
	}{"a mapped call": {"/v1/refunds", 0}, "an unmapped one": {"/v1/elsewhere", 1}} {
		f := newGate(t, "enforce", func(r *gate.Rules) {
			r.Policy = rules(t, "enforce", freeRefunds+`    limits: [{ name: calls, key: [agent_id], max: 2, window: 24h, decision: deny, reason_code: x.calls }]
`).Policy
		})
		for range 3 {
			r := f.refund("100")
			r.Head.Target = c.path
			permit, ref := f.Check(t.Context(), r)
			if permit == nil {
				if c.keeps == 0 || ref.Decision.ReasonCode != "x.calls" {
					t.Fatalf("%s: %+v", name, ref)
				}
				continue
			}
			before := f.used(t, "calls") - 1
			permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 404})
			if got := f.used(t, "calls") - before; got != c.keeps {
				t.Errorf("%s: a 404 keeps %d of its share, want %d", name, got, c.keeps)
			}
		}
		if c.keeps == 1 && f.used(t, "calls") != 2 {
			t.Errorf("%s: %d are used", name, f.used(t, "calls"))
		}
	}
}
