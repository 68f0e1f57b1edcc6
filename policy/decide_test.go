package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func compile(t testing.TB, opt Options, files ...string) *Set {
	t.Helper()
	var sources []Source
	for i, f := range files {
		sources = append(sources, Source{Name: fmt.Sprintf("f%d.yaml", i), Data: []byte(f)})
	}
	s, err := Compile(sources, opt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// one makes a file of one policy with one rule.
func one(name, tools, when, decision string) string {
	if when != "" {
		when = ", when: \"" + when + "\""
	}
	return fmt.Sprintf("policies:\n  - name: %s\n    version: 2\n    tools: [%q]\n    rules:\n      - { name: %s_rule%s, decision: %s, reason_code: x.%s }\n", name, tools, name, when, decision, name)
}

func TestZeroValues(t *testing.T) {
	var s Set
	for name, d := range map[string]Decision{
		"zero decision":     {},
		"zero set":          s.Decide(&Input{Tool: "t"}),
		"no input":          s.Decide(nil),
		"input of the zero": example(t).Decide(&Input{}),
		"nil input":         example(t).Decide(nil),
	} {
		if d.Effect != Deny || d.Effect.String() != "deny" {
			t.Errorf("%s: %v", name, d.Effect)
		}
	}
	if ok, err := new(rule).matches(&activation{in: &Input{}}); ok || err == nil {
		t.Error("the zero rule matches")
	}
	if Effect(200).String() != "deny" {
		t.Error("an unknown effect does not read deny")
	}
}

func TestDefault(t *testing.T) {
	for word, effect := range map[string]Effect{"": Deny, "deny": Deny, "require_approval": RequireApproval, "allow": Allow} {
		s := compile(t, Options{Default: word}, one("p", "other.*", "", "allow"), one("q", "stripe.*", "args.x == 1", "allow"))
		d := s.Decide(&Input{Tool: "stripe.refund.create", Args: m{"x": int64(2)}})
		want := Decision{
			Effect: effect, ReasonCode: ReasonDefault, RuleHash: d.RuleHash,
			Summary:      "No policy rule matches stripe.refund.create; the default is " + effect.String() + ".",
			MatchedRules: []string{}, NextSteps: d.NextSteps, Approval: d.Approval,
		}
		if diff := cmp.Diff(want, d); diff != "" {
			t.Errorf("%s: %s", word, diff)
		}
		if (effect == RequireApproval) != (d.Approval != nil) || (effect == Allow) != (len(d.NextSteps) == 0) || d.NextSteps == nil || d.RuleHash == "" {
			t.Errorf("%s: %+v", word, d)
		}
	}
}

func TestFirstMatchWins(t *testing.T) {
	s := compile(t, Options{}, policyWith(`
      - { name: a, when: args.n < 10, decision: allow }
      - { name: b, when: args.n < 20, decision: require_approval, message: "Twenty is  the\n limit.", next_steps: ["Ask for less."], approval: { approvers: [g, h], required: 2, expires: 2d, use_within: 5m } }
      - { name: bad, when: args.missing == 1, decision: allow }
      - { name: never, decision: deny, reason_code: x.y }
`))
	at := func(n int64) Decision { return s.Decide(&Input{Tool: "t", Args: m{"n": n}}) }
	if d := at(9); d.Rule != "a" || d.Effect != Allow || d.NextSteps == nil || len(d.NextSteps) != 0 || d.ReasonCode != "policy.a" || d.Approval != nil {
		t.Errorf("%+v", d)
	}
	d := at(19)
	if d.Rule != "b" || d.Summary != "Policy p v1: require_approval. Twenty is the limit." || d.NextSteps[0] != "Ask for less." || len(d.NextSteps) != 2 {
		t.Errorf("%+v", d)
	}
	if diff := cmp.Diff(&Approval{Approvers: []string{"g", "h"}, Required: 2, Expires: 48 * time.Hour, UseWithin: 5 * time.Minute}, d.Approval); diff != "" {
		t.Error(diff)
	}
	// An error stops the policy: the rules below it are not asked.
	if d := at(20); d.Rule != "bad" || d.ReasonCode != ReasonError || d.Effect != Deny || len(d.MatchedRules) != 0 || d.MatchedRules == nil || len(d.NextSteps) == 0 || d.RuleHash == "" {
		t.Errorf("%+v", d)
	}
}

func TestAcrossPolicies(t *testing.T) {
	allow, hold, deny := one("a", "*", "", "allow"), one("h", "*", "", "require_approval"), one("d", "*", "", "deny")
	failing, silent := one("e", "*", "args.x == 1", "allow"), one("s", "*", "tool == 'u'", "deny")
	other := one("o", "u.*", "", "deny")
	for _, tt := range []struct {
		name    string
		files   []string
		effect  Effect
		matched []string
		reason  string
	}{
		{"allow alone", []string{allow}, Allow, []string{"a_rule"}, "x.a"},
		{"the silent say nothing", []string{silent, allow, other}, Allow, []string{"a_rule"}, "x.a"},
		{"approval beats allow", []string{allow, hold}, RequireApproval, []string{"h_rule", "a_rule"}, "x.h"},
		{"deny beats all", []string{allow, hold, deny}, Deny, []string{"d_rule", "a_rule", "h_rule"}, "x.d"},
		{"an error beats allow", []string{allow, failing}, Deny, []string{"a_rule"}, ReasonError},
		{"an error beats approval", []string{failing, hold}, Deny, []string{"h_rule"}, ReasonError},
		{"of two denials the first", []string{deny, failing}, Deny, []string{"d_rule"}, "x.d"},
		{"of two denials the first, error", []string{failing, deny}, Deny, []string{"d_rule"}, ReasonError},
		{"of two allows the first", []string{allow, strings.ReplaceAll(allow, "name: a", "name: b")}, Allow, []string{"a_rule", "b_rule"}, "x.a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := compile(t, Options{}, tt.files...).Decide(&Input{Tool: "t"})
			if d.Effect != tt.effect || d.ReasonCode != tt.reason || !slices.Equal(d.MatchedRules, tt.matched) {
				t.Errorf("%v %s %v", d.Effect, d.ReasonCode, d.MatchedRules)
			}
		})
	}
}

// TestCombining: whatever policies there are and in whatever order, the verdict
// is the strictest, and the default speaks only when all are silent.
func TestCombining(t *testing.T) {
	words := []string{"allow", "require_approval", "deny", "error", "silent"}
	rapid.Check(t, func(t *rapid.T) {
		verdicts := rapid.SliceOfN(rapid.SampledFrom(words), 0, 6).Draw(t, "verdicts")
		fallback := rapid.SampledFrom(words[:3]).Draw(t, "default")
		var files []string
		want, spoken := Allow, false
		for i, v := range verdicts {
			when, decision := "", v
			switch v {
			case "error":
				when, decision = "args.x == 1", "allow"
			case "silent":
				when, decision = "tool == 'u'", "deny"
			}
			files = append(files, one(fmt.Sprintf("p%d", i), "*", when, decision))
			effect := map[string]Effect{"allow": Allow, "require_approval": RequireApproval, "deny": Deny, "error": Deny, "silent": Allow}[v]
			want = min(want, effect)
			spoken = spoken || v != "silent"
		}
		if !spoken {
			want = map[string]Effect{"allow": Allow, "require_approval": RequireApproval, "deny": Deny}[fallback]
		}
		order := rapid.Permutation(files).Draw(t, "order")
		for _, list := range [][]string{files, order} {
			var sources []Source
			for _, f := range list {
				sources = append(sources, Source{Name: "f", Data: []byte(f)})
			}
			s, err := Compile(sources, Options{Default: fallback})
			if err != nil {
				t.Fatal(err)
			}
			d := s.Decide(&Input{Tool: "t"})
			if d.Effect != want || d.MatchedRules == nil || d.NextSteps == nil || (d.Effect == Allow) != (len(d.NextSteps) == 0) {
				t.Fatalf("%v (default %s): %+v, want %v", verdicts, fallback, d, want)
			}
		}
	})
}

func TestGlobs(t *testing.T) {
	for _, tt := range []struct {
		glob, tool string
		want       bool
	}{
		{"stripe.refund.create", "stripe.refund.create", true},
		{"stripe.refund.create", "stripe.refund.creat", false},
		{"stripe.refund.create", "Stripe.refund.create", false},
		{"stripe.*", "stripe.refund.create", true},
		{"stripe.*", "stripe.", true},
		{"stripe.*", "stripe", false},
		{"*", "anything/at.all", true},
		{"*.create", "stripe.refund.create", true},
		{"*.create", "stripe.refund.created", false},
		{"mcp.server.*", "mcp.server.a/b", true},
		{"mcp.*.read", "mcp.a/b.read", true},
		{"a?c", "abc", true},
		{"a?c", "aéc", true},
		{"a?c", "ac", false},
		{"a?c", "abbc", false},
		{"*a*b", "xaxbxab", true},
		{"*a*b", "xaxbxa", false},
		{"**", "x", true},
		{"{stripe,github}.*", "github.issue.create", true},
		{"{stripe,github}.*", "gitlab.issue.create", false},
		{"a.{b,c}.{d,e}", "a.c.d", true},
		{"a.{b,c}.{d,e}", "a.d.c", false},
		{"a{,b}", "a", true},
		{"a{b}", "ab", true},
	} {
		s := compile(t, Options{}, one("p", tt.glob, "", "allow"))
		for range 2 { // found, then remembered
			if got := s.Decide(&Input{Tool: tt.tool}).Effect == Allow; got != tt.want {
				t.Errorf("%s on %s: %v", tt.glob, tt.tool, got)
			}
		}
	}
	for _, bad := range []string{"", "a b", "a\tb", "{a", "a}", "{a,{b}}", "a[b]", `a\*`, "!a", "{,}", "a\xff", strings.Repeat("a", 300), strings.Repeat("*a", 9), strings.Repeat("{a,b}", 7)} {
		if got, err := expandGlob(bad); err == nil {
			t.Errorf("%q gives %q", bad, got)
		}
	}
}

// TestIndexFindsWhatAScanFinds: the index is only a shortcut.
func TestIndexFindsWhatAScanFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		globs := rapid.SliceOfN(rapid.StringMatching(`[ab.]{0,3}[*?]?[ab.]{0,3}[*?ab]`), 1, 12).Draw(t, "globs")
		tool := rapid.StringMatching(`[ab.]{0,6}`).Draw(t, "tool")
		var policies []*compiled
		var want []int
		for i, g := range globs {
			policies = append(policies, &compiled{globs: []toolGlob{{text: g, alternatives: []string{g, g}}}})
			if matchGlob(g, tool) {
				want = append(want, i)
			}
		}
		ix := newIndex(policies)
		for range 2 {
			if got := ix.match(tool); !slices.Equal(got, want) {
				t.Fatalf("%q on %q: %v, want %v", tool, globs, got, want)
			}
		}
	})
}

func TestIndexForgets(t *testing.T) {
	s := compile(t, Options{}, one("p", "tool.*", "", "allow"))
	for i := range 3*maxCached + 10 {
		if d := s.Decide(&Input{Tool: fmt.Sprintf("tool.%d", i)}); d.Effect != Allow {
			t.Fatal(d.Summary)
		}
	}
	n := 0
	s.index.cache.Load().entries.Range(func(any, any) bool { n++; return true })
	if n > maxCached {
		t.Errorf("%d tool names are remembered", n)
	}
}

func TestConcurrent(t *testing.T) {
	s := example(t)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 300 {
				amount := int64(g*10_000 + i)
				in := refund(amount, "usd")
				in.Tool = fmt.Sprintf("stripe.refund.t%d", i)
				want := Deny
				switch {
				case amount <= 5000:
					want = Allow
				case amount <= 50000:
					want = RequireApproval
				}
				if d := s.Decide(in); d.Effect != want {
					t.Errorf("%d: %s", amount, d.Summary)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestDecideLeavesTheInput: Decide does not modify what it judges.
func TestDecideLeavesTheInput(t *testing.T) {
	in, same := refund(int64(4900), "usd"), refund(int64(4900), "usd")
	in.Unusable, same.Unusable = map[string]string{"x": Missing}, map[string]string{"x": Missing}
	s := example(t)
	s.Decide(in)
	s.Explain(in)
	if diff := cmp.Diff(same, in); diff != "" {
		t.Error(diff)
	}
}

func TestExplain(t *testing.T) {
	s := compile(t, Options{}, policyWith(`
      - { name: a, when: args.n < 10, decision: allow }
      - { name: b, when: args.n < 20, decision: allow }
      - { name: c, decision: deny, reason_code: x.y }
    limits:
      - { name: l, key: [agent_id], sum: args.n, max: 10, window: 1h, decision: require_approval }
      - { name: broken, key: [args.x], max: 10, window: 1h, decision: require_approval }
`), one("other", "u.*", "", "allow"), one("e", "{t,u}", "args.x == 1", "allow"))
	want := []Step{
		{
			Policy: "p", Version: 1, Pos: Pos{"f0.yaml", 2}, Glob: "*",
			Rules: []RuleStep{
				{Name: "a", Pos: Pos{"f0.yaml", 7}, When: "args.n < 10", Decision: "allow", Reason: "policy.a", Result: ResultUnmatched},
				{Name: "b", Pos: Pos{"f0.yaml", 8}, When: "args.n < 20", Decision: "allow", Reason: "policy.b", Result: ResultMatched},
				{Name: "c", Pos: Pos{"f0.yaml", 9}, Decision: "deny", Reason: "x.y", Result: ResultSkipped},
			},
			Limits: []LimitStep{
				{Name: "l", Pos: Pos{"f0.yaml", 11}, Key: `["ag"]`, Amount: 15},
				{Name: "broken", Pos: Pos{"f0.yaml", 12}, Error: "args.x is missing"},
			},
		},
		{
			Policy: "e", Version: 2, Pos: Pos{"f2.yaml", 2}, Glob: "{t,u}",
			Rules: []RuleStep{{Name: "e_rule", Pos: Pos{"f2.yaml", 6}, When: "args.x == 1", Decision: "allow", Reason: "x.e", Result: ResultError, Error: "args.x is missing"}},
		},
	}
	in := &Input{Tool: "t", AgentID: "ag", Args: m{"n": int64(15)}}
	got := s.Explain(in)
	for i := range got {
		for j := range got[i].Limits {
			l := &got[i].Limits[j]
			if l.Limit == nil || l.Limit.Name != l.Name {
				t.Errorf("limit %s is of %+v", l.Name, l.Limit)
			}
			l.Limit = nil // TestLimits looks at it
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := s.Explain(&Input{Tool: "x"}); len(got) != 1 || got[0].Policy != "p" {
		t.Errorf("%+v", got)
	}
	if got := new(Set).Explain(in); got == nil || len(got) != 0 {
		t.Errorf("%+v", got)
	}
}
