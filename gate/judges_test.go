package gate

import (
	"testing"

	"github.com/actpass/sidecar/policy"
)

func TestJudgesLike(t *testing.T) {
	compiled := func(reason string) *policy.Set {
		set, err := policy.Compile([]policy.Source{{Name: "p.yaml", Data: []byte("policies: [{name: p, version: 1, tools: [\"*\"], rules: [{name: r, decision: deny, reason_code: " + reason + "}]}]")}}, policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	base := Rules{Policy: compiled("a.b"), Mode: ModeMonitor}
	strict := Override{Tool: "x", Mode: ModeStrict}
	for name, c := range map[string]struct {
		change func(r *Rules)
		mode   string
		want   bool
	}{
		"the same":                   {func(*Rules) {}, ModeEnforce, true},
		"compiled again":             {func(r *Rules) { r.Policy = compiled("a.b") }, ModeEnforce, true},
		"another policy":             {func(r *Rules) { r.Policy = compiled("a.c") }, ModeEnforce, false},
		"another mode in force":      {func(r *Rules) { r.Mode = ModeEnforce }, ModeEnforce, true},
		"tightened as far":           {func(r *Rules) { r.Overrides = []Override{{Tool: "x", Mode: ModeEnforce}} }, ModeEnforce, true},
		"tightened further":          {func(r *Rules) { r.Overrides = []Override{strict} }, ModeEnforce, false},
		"nothing is further":         {func(r *Rules) { r.Overrides = []Override{strict} }, ModeStrict, true},
		"tightened while running":    {func(r *Rules) { r.recorded = []ModeOverride{{TenantID: "acme", Tool: "x", Mode: ModeStrict}} }, ModeEnforce, false},
		"for another tenant's calls": {func(r *Rules) { r.recorded = []ModeOverride{{TenantID: "globex", Tool: "x", Mode: ModeStrict}} }, ModeEnforce, true},
	} {
		other := base
		c.change(&other)
		if got := other.JudgesLike(&base, c.mode, "acme"); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
