package gate_test

import (
	"testing"

	"github.com/actpass/sidecar/gate"
)

// TestWhatIsCounted: a call that uses something up must not be written twice.
func TestWhatIsCounted(t *testing.T) {
	counted := func(f *fixture, r *gate.Request) bool {
		t.Helper()
		p, ref := f.Check(t.Context(), r)
		if p == nil {
			t.Fatalf("%+v", ref)
		}
		return p.Outbound().Counted
	}
	f := withAuthority(newGate(t, "enforce", func(r *gate.Rules) { r.Policy = rules(t, "enforce", freeRefunds).Policy }))
	if counted(f, f.refund("100")) {
		t.Error("a call that uses nothing up is counted")
	}
	if !counted(f, f.with(f.issue(t, wish()).Token, "100")) {
		t.Error("a passport's call is not counted")
	}
	if f = newLimited(t, hardDay); !counted(f, f.refund("100")) {
		t.Error("a call with a share of a limit is not counted")
	}
	f = newGate(t, "enforce", nil)
	if p := f.approved(t); !p.Outbound().Counted {
		t.Error("a call that was approved while it waited is not counted")
	}
}

const freeRefunds = `policies:
  - name: p
    version: 1
    tools: ["**"]
    rules: [{ name: free, decision: allow, reason_code: x.free }]
`
