package gate_test

import (
	"testing"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/store"
)

// TestFaultsOfCalls: what keeps a call from being judged as its rules say is counted
// in every mode, also where it does not stop the call.
func TestFaultsOfCalls(t *testing.T) {
	for _, mode := range []string{"monitor", "warn", "enforce", "strict"} {
		for body, want := range map[string]string{
			"charge=ch_1&currency=usd&amount=100":          "",
			"charge=ch_1&currency=usd&amount=90000":        "",
			"charge=ch_1&currency=usd&amount=1&amount=2":   "request",
			"charge=ch_1&currency=usd&amount=%zz":          "request",
			"charge=ch_1&currency=usd":                     "policy", // the rules ask for an amount
			"charge=ch_1&currency=usd&amount=many":         "policy",
			"charge=ch_1&amount=100":                       "policy", // the first rule asks for a currency
			"charge=ch_1&currency=usd&amount=100&amount[]": "request",
		} {
			faults := &counter{}
			g, err := gate.New(gate.Options{Store: store.NewMemory(), Recorder: &recorder{}, RedactKey: make([]byte, 32), Observer: faults})
			if err != nil {
				t.Fatal(err)
			}
			f := &fixture{Gate: g, rules: rules(t, mode, examplePolicy(t))}
			g.Load(f.rules)
			if mode == "strict" && want == "policy" {
				want = "" // a passport is asked for before policy is
			}
			if permit, _ := g.Check(t.Context(), f.request("POST", "/v1/refunds", text(body))); permit != nil {
				permit.Done(fine)
			}
			got := faults.m
			if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || got[want] != 1) {
				t.Errorf("%s: %s: counted %v, want %q once", mode, body, got, want)
			}
		}
	}
}
