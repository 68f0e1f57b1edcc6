package policy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLimits(t *testing.T) {
	const base = "      - { name: ok, when: agent_id != 'blocked', decision: allow }\n      - { name: no, decision: deny, reason_code: x.y }\n    limits:\n"
	for _, tt := range []struct {
		name, limit string
		in          Input
		key         string
		amount      int64
		fails       string
	}{
		{"count", "key: [agent_id]", Input{AgentID: "a"}, `["a"]`, 1, ""},
		{"variables", "key: [agent_id, user_id, goal, tool, resource, risk_tier]", Input{AgentID: "a", UserID: "", Goal: "g", Resource: "r", Risk: "low"}, `["a","","g","t","r","low"]`, 1, ""},
		{"no joining by accident", "key: [agent_id, user_id]", Input{AgentID: `a","b`, UserID: "c"}, `["a\",\"b","c"]`, 1, ""},
		{"fields", "key: [args.a, args.b.c, args.d]", Input{Args: m{"a": int64(1), "b": m{"c": "1"}, "d": true}}, `[1,"1",true]`, 1, ""},
		{"path", "key: [path.account]", Input{Path: m{"account": "acct_1"}}, `["acct_1"]`, 1, ""},
		{"key missing", "key: [args.a]", Input{}, "", 0, "args.a is missing"},
		{"key invalid", "key: [args.a]", Input{Args: m{"a": "x"}, Unusable: map[string]string{"a": "must be a currency"}}, "", 0, "args.a must be a currency"},
		{"key fraction", "key: [args.a]", Input{Args: m{"a": 1.0}}, "", 0, "args.a is a number: only a text, a whole number"},
		{"key null", "key: [args.a]", Input{Args: m{"a": nil}}, "", 0, "args.a is null"},
		{"key list", "key: [args.a]", Input{Args: m{"a": []any{}}}, "", 0, "args.a is a list"},
		{"key not UTF-8", "key: [args.a]", Input{Args: m{"a": "\xff"}}, "", 0, "args.a is not valid UTF-8"},
		{"key too long", "key: [args.a]", Input{Args: m{"a": strings.Repeat("x", 2000)}}, "", 0, "args.a is too long"},
		{"sum", "key: [agent_id], sum: args.n", Input{Args: m{"n": int64(7)}}, `[""]`, 7, ""},
		{"sum of zero", "key: [agent_id], sum: args.n", Input{Args: m{"n": int64(0)}}, `[""]`, 0, ""},
		{"sum computed", "key: [agent_id], sum: args.n * args.price", Input{Args: m{"n": int64(7), "price": int64(3)}}, `[""]`, 21, ""},
		{"sum overflows", "key: [agent_id], sum: args.n * args.n", Input{Args: m{"n": int64(1) << 40}}, "", 0, "overflow"},
		{"sum missing", "key: [agent_id], sum: args.n", Input{}, "", 0, "args.n is missing"},
		{"sum invalid", "key: [agent_id], sum: args.n", Input{Unusable: map[string]string{"n": "must be an integer"}}, "", 0, "args.n must be an integer"},
		{"sum negative", "key: [agent_id], sum: args.n", Input{Args: m{"n": int64(-1)}}, "", 0, "negative"},
		{"sum fraction", "key: [agent_id], sum: args.n", Input{Args: m{"n": 1.5}}, "", 0, "must be a whole number"},
		{"sum text", "key: [agent_id], sum: args.n", Input{Args: m{"n": "5"}}, "", 0, "must be a whole number"},
		{"sum optional", "key: [agent_id], sum: \"has(args.n) ? args.n : 5\"", Input{}, `[""]`, 5, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := compile(t, Options{}, policyWith(base+"      - { name: l, "+tt.limit+", max: 10, window: 7d, decision: deny, reason_code: x.l }\n"))
			tt.in.Tool = "t"
			d := s.Decide(&tt.in)
			if tt.fails != "" {
				if d.Effect != Deny || d.ReasonCode != ReasonError || d.Rule != "l" || d.Limits != nil || !strings.HasPrefix(d.Summary, "Policy p v1: limit l cannot be evaluated: ") || !strings.Contains(d.Summary, tt.fails) {
					t.Errorf("%+v", d)
				}
				return
			}
			if d.Effect != Allow || len(d.Limits) != 1 || d.Limits[0].Key != tt.key || d.Limits[0].Amount != tt.amount || d.Limits[0].Limit.Window != 168*time.Hour {
				t.Errorf("%+v", d)
			}
			tt.in.AgentID = "blocked"
			if d := s.Decide(&tt.in); d.Effect != Deny || d.Limits != nil {
				t.Errorf("denied: %+v", d)
			}
		})
	}
}

// TestLimitsOfSilentPolicies: a policy's limits count whether or not one of its
// rules matched, and those that deny come first.
func TestLimitsOfSilentPolicies(t *testing.T) {
	silent := "policies:\n  - name: q\n    version: 1\n    tools: [t]\n    rules: [{name: r, when: \"tool == 'u'\", decision: allow}]\n    limits:\n" +
		"      - { name: soft, key: [agent_id], max: 1, window: 1h, decision: require_approval }\n" +
		"      - { name: hard, key: [agent_id], max: 1, window: 1h, decision: deny, reason_code: x.h }\n"
	d := compile(t, Options{}, silent, one("a", "*", "", "allow")).Decide(&Input{Tool: "t"})
	var got []string
	for _, r := range d.Limits {
		got = append(got, r.Limit.Name)
	}
	if d.Effect != Allow || !slices.Equal(got, []string{"hard", "soft"}) {
		t.Errorf("%v %v", d.Effect, got)
	}
	d = compile(t, Options{Default: "allow"}, silent).Decide(&Input{Tool: "t"})
	if d.Effect != Allow || len(d.Limits) != 2 {
		t.Errorf("by default: %+v", d)
	}
}

func TestExceeded(t *testing.T) {
	s := example(t)
	d := s.Decide(refund(int64(4900), "usd"))
	r := d.Limits[0]
	l := r.Limit
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	over := func(l *Limit) Reservation { return Reservation{Limit: l, Key: r.Key, Amount: r.Amount} }
	got := d.Exceeded(r, 98000, now)
	want := Decision{
		Effect: RequireApproval, ReasonCode: "refund.daily_limit",
		Summary: "Policy refund_policy v3: limit refunds_per_day leaves no room for this call: 980.00 of 1000.00 USD used in 24h, and the call would use 49.00 USD.",
		Policy:  "refund_policy", Version: 3, Rule: "refunds_per_day", Pos: l.Pos, RuleHash: l.Hash,
		MatchedRules: []string{"refunds_per_day", "small_refund_auto_approve"},
		NextSteps: []string{
			"The limit refunds_per_day has 20.00 USD left of 1000.00 USD in 24h: ask for no more than that, or wait; a use stops counting 24h after it was made.",
			"A person has to approve this call: repeat it unchanged to wait for the decision.",
		},
		Approval: &Approval{Required: 1, Expires: time.Hour, UseWithin: 15 * time.Minute},
		Limits:   d.Limits,
		Over:     []Reservation{r},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	hard := *l
	hard.Effect, hard.Approval = Deny, nil
	if got := d.Exceeded(over(&hard), 1, now); got.Effect != Deny || got.Approval != nil || got.Limits != nil || got.ReasonCode != "refund.daily_limit" {
		t.Errorf("%+v", got)
	}
	odd := *l
	odd.Effect = Allow
	if got := d.Exceeded(over(&odd), 1, now); got.Effect != Deny {
		t.Errorf("a limit that allows loosens: %+v", got)
	}
	denied := s.Decide(refund(int64(60000), "usd"))
	if diff := cmp.Diff(denied, denied.Exceeded(r, 1, now)); diff != "" {
		t.Errorf("a denial is softened: %s", diff)
	}
	held := s.Decide(refund(int64(20000), "usd"))
	if got := held.Exceeded(over(&hard), 1, now); got.Effect != Deny {
		t.Errorf("%+v", got)
	}

	// Rule and limit both ask for approval: one approval satisfies both.
	with := func(a Approval) *Limit {
		l := *l
		l.Approval = &a
		return &l
	}
	for _, tt := range []struct {
		name string
		l    *Limit
		want *Approval
	}{
		{"the rule's groups", l, &Approval{Approvers: []string{"support-leads"}, Required: 1, Expires: time.Hour, UseWithin: 15 * time.Minute}},
		{"groups in common", with(Approval{Approvers: []string{"finance", "support-leads"}, Required: 2, Expires: 2 * time.Hour, UseWithin: time.Minute}), &Approval{Approvers: []string{"support-leads"}, Required: 2, Expires: time.Hour, UseWithin: time.Minute}},
		{"no group in common", with(Approval{Approvers: []string{"finance"}, Required: 1}), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := held.Exceeded(over(tt.l), 1, now)
			if diff := cmp.Diff(tt.want, got.Approval); diff != "" {
				t.Error(diff)
			}
			if (got.Effect == Deny) != (tt.want == nil) {
				t.Errorf("%v", got.Effect)
			}
			if got.RuleHash == held.RuleHash || (tt.want != nil && got.RuleHash == tt.l.Hash) {
				t.Error("an approval of the one alone would satisfy both")
			}
		})
	}
	var made Decision
	made.Effect = RequireApproval
	made.Approval = &Approval{Required: 3}
	if got := made.Exceeded(over(with(Approval{Approvers: []string{"g"}, Required: 1})), 1, now); !slices.Equal(got.Approval.Approvers, []string{"g"}) || got.Approval.Required != 3 {
		t.Errorf("%+v", got.Approval)
	}
}

func TestLimitHash(t *testing.T) {
	const base = "      - { name: r, decision: allow }\n    limits:\n      - { name: l, key: [agent_id], sum: args.n, max: 10, window: 1h, decision: require_approval, reason_code: a.b, approval: { required: 1 } }\n"
	hash := func(file string) string {
		return compile(t, Options{}, policyWith(file)).policies[0].limits[0].Hash
	}
	want := hash(base)
	if hash("# moved\n"+base) != want {
		t.Error("the hash depends on the place")
	}
	for _, change := range [][2]string{{"name: l", "name: k"}, {"[agent_id]", "[user_id]"}, {"args.n", "args.m"}, {"max: 10", "max: 11"}, {"1h", "2h"}, {"a.b", "a.c"}, {"required: 1", "required: 2"}} {
		if hash(strings.Replace(base, change[0], change[1], 1)) == want {
			t.Errorf("%s for %s does not change the hash", change[1], change[0])
		}
	}
}
