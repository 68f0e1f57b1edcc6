package whatif_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/whatif"
)

func TestTheShippedFixturesPass(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile("../policies/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	pack, err := mapping.Pack("stripe")
	if err != nil {
		t.Fatal(err)
	}
	m, err := mapping.Compile([]mapping.Source{pack}, mapping.Options{})
	if err != nil {
		t.Fatal(err)
	}
	set, err := policy.Compile([]policy.Source{{Name: "refund_policy.yaml", Data: read("refund_policy.yaml")}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	fixtures, err := whatif.ReadFixtures([]whatif.Source{{Name: "fixtures.yaml", Data: read("fixtures/refund_policy.yaml")}}, monday)
	if err != nil {
		t.Fatal(err)
	}
	results, covered, err := whatif.RunFixtures(&gate.Rules{Policy: set, Mapping: m}, fixtures)
	if err != nil || len(results) != 3 || covered.Reached != 3 || covered.Rules != 3 {
		t.Fatalf("%d results, %+v, %v", len(results), covered, err)
	}
	for _, r := range results {
		if !r.Passed {
			t.Errorf("%+v", r)
		}
	}
}

func TestFixtureFaults(t *testing.T) {
	const good = "fixtures:\n  - name: n\n    action: { tool: t }\n    expect: { decision: deny }\n"
	for _, c := range []struct{ old, new, want string }{
		{"", "", ""},
		{"fixtures:", "fixture:", "f.yaml:1:1: unknown key `fixture`"},
		{good, "fixtures: []", "f.yaml:1:1: the file has no `fixtures`"},
		{"name: n", "name: \"\"", "f.yaml:2:5: the fixture has no `name`"},
		{"{ tool: t }", "{ tool: t, agent: a }", "unknown key `fixtures[0].action.agent`"},
		{"{ tool: t }", "{ tool: t, risk_tier: hgih }", "`risk_tier` cannot be \"hgih\""},
		{"{ tool: t }", "{ resource: t }", "f.yaml:3:13: the action of fixture \"n\" has no `tool`"},
		{"expect: { decision: deny }", "mode: enforce", "expects no `decision`"},
		{"expect:", "mode: hard\n    expect:", "`mode` cannot be \"hard\""},
		{"expect:", "now: today\n    expect:", "`now` must be a time"},
		{"decision: deny", "decision: block", "`decision` cannot be \"block\""},
		{"decision: deny", "decision: deny, enforcement: stop", "`enforcement` cannot be \"stop\""},
		{"decision: deny }\n", "decision: deny }\n  - name: n\n    action: { tool: t }\n    expect: { decision: deny }\n", "a second fixture named \"n\""},
	} {
		_, err := whatif.ReadFixtures([]whatif.Source{{Name: "f.yaml", Data: []byte(strings.Replace(good, c.old, c.new, 1))}}, monday)
		if c.want == "" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q for %q: %v, want %q", c.new, c.old, err, c.want)
		}
	}
	if _, _, err := whatif.RunFixtures(&gate.Rules{Policy: compilePolicy(t, policies[0])}, nil); err == nil {
		t.Error("no mapping is needed")
	}
}

// TestAFixtureOfARecordSaysTheSame: what is written down of an action is read
// back as it was, whatever an agent put into it, and gets the same verdict.
func TestAFixtureOfARecordSaysTheSame(t *testing.T) {
	m, err := mapping.Compile([]mapping.Source{{Name: "m.yaml", Data: []byte(mappingRules)}}, mapping.Options{})
	if err != nil {
		t.Fatal(err)
	}
	name := rapid.OneOf(rapid.StringMatching(`[a-z_]{1,8}`), rapid.StringN(1, 12, -1))
	var value func(depth int) *rapid.Generator[any]
	value = func(depth int) *rapid.Generator[any] {
		kinds := []*rapid.Generator[any]{
			rapid.Custom(func(t *rapid.T) any { return rapid.String().Draw(t, "text") }),
			rapid.Custom(func(t *rapid.T) any { return rapid.Int64().Draw(t, "integer") }),
			rapid.Custom(func(t *rapid.T) any { return rapid.Float64Range(-1e300, 1e300).Draw(t, "number") }),
			rapid.Custom(func(t *rapid.T) any { return rapid.Bool().Draw(t, "truth") }),
			rapid.Just[any](nil),
		}
		if depth > 0 {
			kinds = append(kinds,
				rapid.Custom(func(t *rapid.T) any { return rapid.SliceOfN(value(depth-1), 0, 3).Draw(t, "list") }),
				rapid.Custom(func(t *rapid.T) any { return rapid.MapOfN(name, value(depth-1), 0, 3).Draw(t, "object") }))
		}
		return rapid.OneOf(kinds...)
	}
	rapid.Check(t, func(rt *rapid.T) {
		args := rapid.MapOfN(name, value(2), 0, 4).Draw(rt, "args")
		e := recorded("ev_1", func(e *evidence.Event) {
			e.Tool, e.RiskTier = "other.tool", "low"
			e.Args, e.Goal, e.AgentID = args, rapid.String().Draw(rt, "goal"), rapid.StringN(1, 20, -1).Draw(rt, "agent")
		})
		// As it is on record: bytes that are no text are not there.
		b, err := e.Encode()
		if err != nil {
			rt.Skip()
		}
		got, _, err := evidence.DecodeRecord(b)
		if err != nil {
			rt.Fatal(err)
		}
		text, err := whatif.FixtureOf(got)
		if err != nil {
			rt.Fatal(err)
		}
		fixtures, err := whatif.ReadFixtures([]whatif.Source{{Name: "f.yaml", Data: []byte(text)}}, monday)
		if err != nil {
			rt.Fatalf("%v\n%s", err, text)
		}
		if len(fixtures) != 1 {
			rt.Fatal(text)
		}
		if again := fixtures[0].Args(); !(len(got.Args) == 0 && len(again) == 0) && !reflect.DeepEqual(got.Args, again) {
			rt.Fatalf("%#v\nbecame\n%#v\nby\n%s", got.Args, again, text)
		}
		rules := &gate.Rules{Mapping: m, Policy: compilePolicy(t, "policies:\n  - { name: p, version: 1, tools: [\"*\"], rules: [{ name: all, decision: allow, reason_code: refund.small }] }\n")}
		if r, _, err := whatif.RunFixtures(rules, fixtures); err != nil || !r[0].Passed {
			rt.Fatalf("%+v %v\n%s", r, err, text)
		}
	})
}

func TestFixtureLeavesOutWhatIsNotOnRecord(t *testing.T) {
	e := recorded("ev_1", func(e *evidence.Event) {
		e.Args = map[string]any{
			"amount": int64(1), "key": map[string]any{"redacted": "hmac:00112233"}, "_omitted": int64(2),
			"cards": []any{map[string]any{"number": map[string]any{"redacted": "hmac:0"}, "brand": "b"}, map[string]any{"_omitted": int64(9)}},
			"a.b":   map[string]any{"c": map[string]any{"truncated": "x", "bytes": int64(9999), "hash": "hmac:0"}},
		}
		e.Unusable, e.PassportJTI = map[string]string{"x\ny": "invalid"}, "ap_1"
	})
	text, err := whatif.FixtureOf(&e)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\n        amount: 1\n", "\n        cards: [{ brand: \"b\" }]\n", "# args.key: not on record", "# args.cards.0.number: not on record", "# args.a.b.c: not on record",
		"# args: has members that are not on record", "# args.cards: has elements", `# args.x\ny: invalid`, "# passport: its claims are not on record",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "hmac") || strings.Contains(text, "truncated") {
		t.Error(text)
	}
	if _, err := whatif.ReadFixtures([]whatif.Source{{Name: "f.yaml", Data: []byte(text)}}, monday); err != nil {
		t.Error(err)
	}
	if e.Args["key"] == nil {
		t.Error("the event was changed")
	}
	e.Kind = evidence.KindConfig
	if _, err := whatif.FixtureOf(&e); err == nil {
		t.Error("a reload makes a fixture")
	}
}
