package policy

import (
	"strings"
	"testing"
	"time"
)

// TestAnd: one approval for two calls satisfies what both rules ask, in either order.
func TestAnd(t *testing.T) {
	asks := func(rule string, required int, groups ...string) Decision {
		return Decision{
			Effect: RequireApproval, Rule: rule, ReasonCode: "x." + rule, RuleHash: "hash of " + rule, MatchedRules: []string{rule}, Summary: "Asked.",
			Approval: &Approval{Approvers: groups, Required: required, Expires: time.Hour, UseWithin: time.Duration(required) * time.Minute},
		}
	}
	leads, both, finance, anybody := asks("leads", 1, "leads"), asks("both", 3, "finance", "leads"), asks("finance", 2, "finance"), asks("anybody", 1)
	for _, c := range []struct {
		a, b     Decision
		groups   string
		required int
	}{
		{leads, both, "leads", 3},
		{both, finance, "finance", 3},
		{anybody, finance, "finance", 2},
		{anybody, Decision{Effect: RequireApproval, Rule: "bare", RuleHash: "h"}, "", 1},
	} {
		for _, d := range []Decision{c.a.And(c.b), c.b.And(c.a)} {
			if d.Effect != RequireApproval || strings.Join(d.Approval.Approvers, " ") != c.groups || d.Approval.Required != c.required || d.Approval.UseWithin > 15*time.Minute {
				t.Errorf("%s and %s: %+v %+v", c.a.Rule, c.b.Rule, d, d.Approval)
			}
			if d.RuleHash == c.a.RuleHash || d.RuleHash == c.b.RuleHash {
				t.Errorf("%s and %s ask the question of one of them", c.a.Rule, c.b.Rule)
			}
		}
	}
	if d := leads.And(finance); d.Effect != Deny || d.Approval != nil || d.ReasonCode != "x.leads" || !strings.Contains(d.Summary, "No group may approve this for both leads and finance.") {
		t.Errorf("%+v", d)
	}
	if d := leads.And(both).And(leads); d.Effect != RequireApproval || d.Approval.Required != 3 {
		t.Errorf("%+v", d)
	}
	// The same rule twice is one question; and what does not ask changes nothing.
	if d := leads.And(leads); d.RuleHash != leads.RuleHash || d.Approval != leads.Approval {
		t.Errorf("%+v", d)
	}
	for _, o := range []Decision{{Effect: Allow}, {Effect: Deny}, {}} {
		if d := leads.And(o); d.RuleHash != leads.RuleHash || d.Effect != RequireApproval {
			t.Errorf("%v: %+v", o.Effect, d)
		}
		if d := o.And(leads); d.Effect != o.Effect {
			t.Errorf("%v: %+v", o.Effect, d)
		}
	}
}

// TestPoliciesThatBothAsk: a call about which several policies ask needs an approval
// that satisfies each of them, whichever comes first; a rule of either that changes
// makes it another question.
func TestPoliciesThatBothAsk(t *testing.T) {
	policyOf := func(name, when, approval string) string {
		return "  - name: " + name + "\n    version: 1\n    tools: [\"refund.*\"]\n    rules:\n      - { name: " + name + "_asks, when: \"" + when + "\", decision: require_approval, approval: " + approval + " }\n"
	}
	const big = "args.amount > 100"
	leads := policyOf("leads", "true", "{ approvers: [leads, board], required: 1, expires: 2h }")
	money := policyOf("money", big, "{ approvers: [finance, board], required: 2, expires: 3h, use_within: 1m }")
	open := "  - name: reads\n    version: 1\n    tools: [\"**\"]\n    rules:\n      - { name: go, decision: allow }\n"
	decide := func(amount int, policies ...string) Decision {
		t.Helper()
		set, err := Compile([]Source{{Name: "p.yaml", Data: []byte("policies:\n" + strings.Join(policies, ""))}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return set.Decide(&Input{Tool: "refund.create", Args: map[string]any{"amount": int64(amount)}})
	}
	alone := decide(200, leads, open)
	if strings.Join(alone.Approval.Approvers, " ") != "leads board" || alone.Approval.Required != 1 {
		t.Fatalf("%+v", alone.Approval)
	}
	var hashes []string
	for _, d := range []Decision{decide(200, leads, money, open), decide(200, open, money, leads)} {
		if a := d.Approval; d.Effect != RequireApproval || strings.Join(a.Approvers, " ") != "board" || a.Required != 2 || a.Expires != 2*time.Hour || a.UseWithin != time.Minute {
			t.Errorf("%v %+v", d.Effect, a)
		}
		if d.RuleHash == alone.RuleHash || len(d.MatchedRules) != 3 {
			t.Errorf("%s, %v", d.RuleHash, d.MatchedRules)
		}
		hashes = append(hashes, d.RuleHash)
	}
	if d := decide(200, leads, strings.Replace(money, "> 100", "> 99", 1), open); d.RuleHash == hashes[0] {
		t.Error("the rule of the second policy changed, and the question did not")
	}
	if d := decide(50, leads, money, open); d.RuleHash != alone.RuleHash || d.Approval.Required != 1 {
		t.Errorf("one asks, and it is another question: %+v", d)
	}
	strangers := strings.Replace(money, "finance, board", "finance", 1)
	d := decide(200, strings.Replace(leads, ", board", "", 1), strangers, open)
	if d.Effect != Deny || d.Approval != nil || !strings.Contains(d.Summary, "No group may approve this for both leads_asks and money_asks.") || !strings.Contains(d.NextSteps[0], "operator") {
		t.Errorf("no group in common: %+v", d)
	}
}
