package whatif_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/whatif"
)

func drawnPolicy(t *rapid.T, label string) (*policy.Set, string) {
	text := "policies:\n  - name: p\n    version: 1\n    tools: [\"stripe.{refund,payout}.*\"]\n    rules:\n"
	for i := range rapid.IntRange(1, 3).Draw(t, label) {
		when := rapid.SampledFrom([]string{
			"args.n <= %d", "has(args.n) && args.n > %d", `args.c in ["usd", "eur"] && args.n < %d`, `has(args.c) && args.c.startsWith("u") && args.n == %d`, `agent_id == "a" && int(args.n) != %d`,
		}).Draw(t, "when")
		text += fmt.Sprintf("      - { name: r%d, when: '"+when+"', decision: %s, reason_code: a.r%d }\n", i, rapid.IntRange(0, 1000).Draw(t, "n"),
			rapid.SampledFrom([]string{"allow", "deny", "require_approval"}).Draw(t, "word"), i)
	}
	set, err := policy.Compile([]policy.Source{{Name: "p.yaml", Data: []byte(text)}}, policy.Options{})
	if err != nil {
		t.Skip(err) // two alike
	}
	return set, text
}

// TestDiffFindsWhatDiffers: where some action is decided otherwise, a difference
// is found; where one is found, its example is decided otherwise.
func TestDiffFindsWhatDiffers(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	rapid.Check(t, func(rt *rapid.T) {
		a, ta := drawnPolicy(rt, "a")
		b, tb := drawnPolicy(rt, "b")
		found := whatif.DiffPolicies(a, b, nil, now)
		for _, d := range found {
			in := &policy.Input{Tool: d.Tool, AgentID: d.Example.AgentID, Args: d.Example.Args, Now: now}
			da, db := a.Decide(in), b.Decide(in)
			if da.Effect == db.Effect && da.ReasonCode == db.ReasonCode || da.Effect.String() != d.From.Decision || db.Effect.String() != d.To.Decision {
				rt.Fatalf("%+v is no difference\n%s\n%s", d, ta, tb)
			}
		}
		if len(found) > 0 {
			return
		}
		for n := int64(-1); n < 1003; n++ {
			for _, agent := range []string{"a", "b"} {
				for _, c := range []any{nil, "usd", "eur", "ux", "x"} {
					in := &policy.Input{Tool: "stripe.refund.create", AgentID: agent, Args: map[string]any{"n": n}, Now: now}
					if c != nil {
						in.Args["c"] = c
					}
					if da, db := a.Decide(in), b.Decide(in); da.Effect != db.Effect || da.ReasonCode != db.ReasonCode {
						rt.Fatalf("n=%d c=%v agent=%s: %v %s and %v %s, and no difference was found\n%s\n%s", n, c, agent, da.Effect, da.ReasonCode, db.Effect, db.ReasonCode, ta, tb)
					}
				}
			}
		}
	})
}
