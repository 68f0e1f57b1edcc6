package gate_test

import (
	"testing"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/policy"
)

// TestPolicyByHeader: a condition sees the request's headers, several values as a
// list, and none of those that carry secrets.
func TestPolicyByHeader(t *testing.T) {
	const byTeam = `
policies:
  - name: by_team
    version: 1
    tools: ["http.get"]
    rules:
      - { name: payments, when: 'header["X-Team"] == "payments"', decision: allow }
      - { name: both, when: '"payments" in header["X-Teams"]', decision: allow }
      - { name: secret, when: 'has(header.Authorization)', decision: allow }
`
	f := newGate(t, gate.ModeEnforce, func(r *gate.Rules) {
		p, err := policy.Compile([]policy.Source{{Name: "p.yaml", Data: []byte(byTeam)}}, policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		r.Policy = p
	})
	for name, c := range map[string]struct {
		header map[string][]string
		passes bool
	}{
		"named":    {map[string][]string{"X-Team": {"payments"}}, true},
		"another":  {map[string][]string{"X-Team": {"support"}, "X-Teams": {"a", "b"}}, false},
		"one of":   {map[string][]string{"X-Team": {"support"}, "X-Teams": {"a", "payments"}}, true},
		"a secret": {map[string][]string{"X-Team": {"support"}, "X-Teams": {"a", "b"}, "Authorization": {"Bearer x"}}, false},
		"absent":   {nil, false},
	} {
		r := f.request("GET", "/v1/unmapped", nil)
		r.Head.Header = c.header
		permit, refusal := f.Check(t.Context(), r)
		if (permit != nil) != c.passes || (refusal == nil) != c.passes {
			t.Errorf("%s: permit %v, refusal %+v", name, permit != nil, refusal)
		}
		if permit != nil {
			permit.Done(gate.Outcome{State: "forwarded", Status: 200})
		}
	}
}
