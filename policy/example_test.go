package policy

import (
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// example is the set of the policy file that ships with the project.
func example(t testing.TB) *Set {
	t.Helper()
	data, err := os.ReadFile("../policies/refund_policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Compile([]Source{{Name: "policies/refund_policy.yaml", Data: data}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func refund(amount any, currency any) *Input {
	return &Input{
		Tool: "stripe.refund.create", Resource: "stripe:charge:ch_123", Risk: "high",
		Args:    map[string]any{"amount": amount, "currency": currency},
		AgentID: "support_agent", UserID: "user_456", Goal: "resolve_refund_request",
		Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

// TestExample holds the shipped file to the answers that the documentation
// promises for it.
func TestExample(t *testing.T) {
	s := example(t)
	d := s.Decide(refund(int64(4900), "usd"))
	if len(d.Limits) != 1 || d.Limits[0].Limit == nil {
		t.Fatalf("limits %+v", d.Limits)
	}
	l := d.Limits[0]
	if l.Key != `["support_agent","usd"]` || l.Amount != 4900 || l.Limit.Name != "refunds_per_day" || l.Limit.Max != 100000 || l.Limit.Window != 24*time.Hour || l.Limit.Effect != RequireApproval {
		t.Errorf("reservation %+v of %+v", l, l.Limit)
	}
	hash := d.RuleHash
	d.Limits, d.RuleHash = nil, ""
	want := Decision{
		Effect: Allow, ReasonCode: "refund.small_in_scope", Summary: "Policy refund_policy v3: allow.",
		Policy: "refund_policy", Version: 3, Rule: "small_refund_auto_approve",
		Pos:          Pos{File: "policies/refund_policy.yaml", Line: 10},
		MatchedRules: []string{"small_refund_auto_approve"}, NextSteps: []string{},
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Error(diff)
	}
	if len(hash) != len("sha256:")+64 {
		t.Errorf("rule hash %q", hash)
	}

	for _, tt := range []struct {
		name             string
		amount, currency any
		effect           Effect
		reason, summary  string
		rule             string
	}{
		{"limit of the small rule", int64(5000), "usd", Allow, "refund.small_in_scope", "Policy refund_policy v3: allow.", "small_refund_auto_approve"},
		{"one cent more", int64(5001), "usd", RequireApproval, "refund.medium_needs_approval", "Policy refund_policy v3: require_approval.", "medium_refund_needs_approval"},
		{"other currency", int64(100), "eur", RequireApproval, "refund.medium_needs_approval", "Policy refund_policy v3: require_approval.", "medium_refund_needs_approval"},
		{"large", int64(50001), "usd", Deny, "refund.over_limit", "Policy refund_policy v3: deny.", "large_refund"},
		{"amount is text", "4900", "usd", Deny, ReasonError, "Policy refund_policy v3: rule small_refund_auto_approve cannot be evaluated: args.amount is a text, and is compared with a number.", "small_refund_auto_approve"},
		{"negative", int64(-1), "usd", Deny, ReasonError, "Policy refund_policy v3: limit refunds_per_day cannot be evaluated: the sum args.amount is negative.", "refunds_per_day"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := s.Decide(refund(tt.amount, tt.currency))
			if d.Effect != tt.effect || d.ReasonCode != tt.reason || d.Summary != tt.summary || d.Rule != tt.rule {
				t.Errorf("got %v %s %s\n%s", d.Effect, d.ReasonCode, d.Rule, d.Summary)
			}
			if (d.Effect == Deny) != (d.Limits == nil) || (d.Effect == RequireApproval) != (d.Approval != nil) {
				t.Errorf("limits %v, approval %v", d.Limits, d.Approval)
			}
		})
	}
}
