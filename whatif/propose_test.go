package whatif_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/whatif"
)

func proposalRules(t *testing.T, text string) *gate.Rules {
	t.Helper()
	m, err := mapping.Compile(nil, mapping.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile([]policy.Source{{Name: "p.yaml", Data: []byte(text)}}, policy.Options{})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return &gate.Rules{Mapping: m, Policy: p, Mode: gate.ModeEnforce}
}

func approvals(rules *gate.Rules, args ...map[string]any) (list []gate.Approval) {
	asks, _, _ := rules.Policy.Rule("refund_policy", "medium_refund_needs_approval", "stripe.refund.create")
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for i, a := range args {
		list = append(list, gate.Approval{
			ID: fmt.Sprint("apr_", i), State: gate.ApprovalConsumed, Tool: "stripe.refund.create", Resource: fmt.Sprint("stripe:charge:ch_", i), Risk: "high",
			AgentID: "support_agent", Policy: "refund_policy", Rule: "medium_refund_needs_approval", RuleHash: asks.RuleHash, ReasonCode: asks.ReasonCode,
			Args: a, CreatedAt: at.Add(-time.Duration(i) * time.Hour), UseBefore: at,
		})
	}
	return list
}

func refundArgs(i int, amount int64) map[string]any {
	return map[string]any{"charge": fmt.Sprint("ch_", i), "amount": amount, "currency": "usd", "reason": "it's \"broken\"\\", "we-ird": "x"}
}

// TestProposedRuleHolds: what is proposed compiles, its fixtures pass with it, and
// they do not pass without it.
func TestProposedRuleHolds(t *testing.T) {
	text, err := os.ReadFile("../policies/refund_policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rules := proposalRules(t, string(text))
	list := approvals(rules, refundArgs(0, 20000), refundArgs(1, 25000), refundArgs(2, 9000), refundArgs(3, 9000))
	got := whatif.Propose(rules, list, 3)
	if len(got) != 1 || got[0].Count != 4 || got[0].Rule != "medium_refund_needs_approval" {
		t.Fatalf("%+v", got)
	}
	p := got[0]
	if !strings.Contains(p.RuleYAML, `args.amount <= 25000`) || !strings.Contains(p.RuleYAML, `resource.startsWith("stripe:charge:")`) || strings.Contains(p.RuleYAML, "ch_") {
		t.Errorf("%s", p.RuleYAML)
	}
	next, err := p.Insert(text)
	if err != nil {
		t.Fatal(err)
	}
	fixtures, err := whatif.ReadFixtures([]whatif.Source{{Name: "f.yaml", Data: []byte(p.Fixtures)}}, time.Now())
	if err != nil {
		t.Fatalf("%v\n%s", err, p.Fixtures)
	}
	passed := func(rules *gate.Rules) (n int, told string) {
		results, _, err := whatif.RunFixtures(rules, fixtures)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range results {
			if r.Passed {
				n++
			} else {
				told += fmt.Sprintf("%s: %+v %s\n", r.Name, r.Differences, r.Summary)
			}
		}
		return n, told
	}
	if n, told := passed(proposalRules(t, string(next))); n != 4 {
		t.Errorf("%d of %d pass\n%s%s", n, len(fixtures), told, next)
	}
	if n, _ := passed(rules); n != 1 { // the one that is over goes on being asked
		t.Errorf("%d pass without the rule", n)
	}
}

func TestNothingIsProposed(t *testing.T) {
	text, err := os.ReadFile("../policies/refund_policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rules := proposalRules(t, string(text))
	three := func() []gate.Approval {
		return approvals(rules, refundArgs(0, 20000), refundArgs(1, 25000), refundArgs(2, 9000))
	}
	for name, change := range map[string]func([]gate.Approval) []gate.Approval{
		"too few":         func(l []gate.Approval) []gate.Approval { return l[:2] },
		"one was denied":  func(l []gate.Approval) []gate.Approval { d := l[0]; d.State = gate.ApprovalDenied; return append(l, d) },
		"two agents":      func(l []gate.Approval) []gate.Approval { l[0].AgentID = "other"; return l },
		"other arguments": func(l []gate.Approval) []gate.Approval { l[0].Args["more"] = "x"; return l },
		"a changed rule": func(l []gate.Approval) []gate.Approval {
			for i := range l {
				l[i].RuleHash = "old"
			}
			return l
		},
		"batches": func(l []gate.Approval) []gate.Approval {
			for i := range l {
				one := map[string]any{"tool": l[i].Tool, "resource": l[i].Resource, "args": l[i].Args}
				l[i].Args = map[string]any{"calls": []any{one, one}}
			}
			return l
		},
		"a limit that asks": func(l []gate.Approval) []gate.Approval {
			for i := range l {
				l[i].Rule = "refunds_per_day"
			}
			return l
		},
		"nobody approved": func(l []gate.Approval) []gate.Approval {
			for i := range l {
				l[i].State, l[i].UseBefore = gate.ApprovalExpired, time.Time{}
			}
			return l
		},
	} {
		if got := whatif.Propose(rules, change(three()), 3); len(got) != 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
	other := strings.Replace(string(text), "policies:", "policies:\n  - { name: all, version: 1, tools: [\"*\"], rules: [{ name: ask, decision: require_approval, reason_code: a.b }] }", 1)
	if got := whatif.Propose(proposalRules(t, other), three(), 3); len(got) != 0 {
		t.Errorf("another policy goes on asking: %+v", got)
	}
}
