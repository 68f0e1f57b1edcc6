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
