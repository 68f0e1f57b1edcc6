package whatif_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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

// TestDiffAtEachEdge: a rule that is met by one kind of made-up value alone, beside a
// policy without it. Whichever kind is left out, one of these differences is missed.
func TestDiffAtEachEdge(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	compile := func(rule string) *policy.Set {
		t.Helper()
		set, err := policy.Compile([]policy.Source{{Name: "p.yaml", Data: []byte("policies:\n  - name: p\n    version: 1\n    tools: [t]\n    rules:\n" + rule +
			"      - { name: rest, decision: allow, reason_code: a.rest }\n")}}, policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	without := compile("")
	for when, want := range map[string]map[string]any{
		`args.n > 100`:                            {"n": int64(101)},
		`args.n < 100`:                            {"n": int64(99)},
		`args.n == 100`:                           {"n": int64(100)},
		`args.n < -9223372036854775807`:           {"n": int64(math.MinInt64)},
		`args.n > 9223372036854775806`:            {"n": int64(math.MaxInt64)},
		`args.x > 1.5`:                            {"x": math.Nextafter(1.5, 2)},
		`args.x < 1.5`:                            {"x": math.Nextafter(1.5, 1)},
		`args.x == 1.5`:                           {"x": 1.5},
		`args.s == "a"`:                           {"s": "a"},
		`args.s != "a" && args.s.startsWith("a")`: {"s": "ax"},
		`!args.s.startsWith("a")`:                 {"s": "other"},
		`args.b == true`:                          {"b": true},
		`args.b == false`:                         {"b": false},
		`args.b != true`:                          {"b": false},
		`!has(args.n)`:                            {},
		`args.n == args.n`:                        {"n": "other"},
		`type(args.n) == int`:                     {"n": int64(1)},
	} {
		found := whatif.DiffPolicies(without, compile("      - { name: r, when: '"+when+"', decision: deny, reason_code: a.deny }\n"), nil, now)
		i := slices.IndexFunc(found, func(d whatif.PolicyDifference) bool { return d.To.ReasonCode == "a.deny" })
		if i < 0 {
			t.Errorf("%s: not found", when)
		} else if d := cmp.Diff(want, found[i].Example.Args); d != "" {
			t.Errorf("%s: %s", when, d)
		}
	}
}
