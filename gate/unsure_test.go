package gate_test

import "testing"

// A policy that goes by a header must not be led around by a second one: the
// condition would hold of a list, which equals nothing.
func TestAHeaderThatThePolicyReadsStandsOnce(t *testing.T) {
	for mode, want := range map[string]string{"enforce": "request.ambiguous", "monitor": ""} {
		f := newGate(t, mode, nil)
		f.Load(rules(t, mode, `
policies:
  - name: p
    version: 1
    tools: ["*"]
    rules:
      - { name: closed_team, when: '"X-Team" in header && header["X-Team"] == "closed"', decision: deny, reason_code: team.closed }
      - { name: other, decision: allow, reason_code: team.other }
`))
		r := f.request("GET", "/v1/charges/ch_1", nil)
		r.Head.Header["X-Team"] = []string{"open", "closed"}
		permit, ref := f.Check(t.Context(), r)
		switch {
		case want == "" && (permit == nil || permit.Decision().Would["enforce"] != "block"):
			t.Errorf("%s: %+v", mode, ref)
		case want != "" && (permit != nil || ref.Decision.ReasonCode != want):
			t.Errorf("%s: permit %v, %+v", mode, permit != nil, ref)
		}
		// One that it does not read may stand twice.
		r = f.request("GET", "/v1/charges/ch_1", nil)
		r.Head.Header["X-Other"] = []string{"a", "b"}
		if permit, ref := f.Check(t.Context(), r); permit == nil {
			t.Errorf("%s: %+v", mode, ref)
		}
	}
}
