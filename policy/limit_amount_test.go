package policy

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestAmounts(t *testing.T) {
	money := &Limit{Name: "l", Keys: []string{"agent_id", "args.currency"}, Sum: "args.amount", Max: 10000, Window: time.Hour}
	plain := &Limit{Name: "l", Keys: []string{"agent_id"}, Sum: "args.amount", Max: 10000, Window: time.Hour}
	calls := &Limit{Name: "l", Keys: []string{"args.currency"}, Max: 5, Window: time.Hour}
	for _, tt := range []struct {
		l    *Limit
		key  string
		n    int64
		want string
		used string
	}{
		{money, `["a","usd"]`, 6200, "62.00 USD", "62.00 of 100.00 USD used"},
		{money, `["a","eur"]`, 5, "0.05 EUR", "0.05 of 100.00 EUR used"},
		{money, `["a","USD"]`, 0, "0.00 USD", "0.00 of 100.00 USD used"},
		{money, `["a","jpy"]`, 6200, "6200 JPY", "6200 of 10000 JPY used"},
		{money, `["a","kwd"]`, 6200, "6.200 KWD", "6.200 of 10.000 KWD used"},
		{money, `["a","clf"]`, 7, "0.0007 CLF", "0.0007 of 1.0000 CLF used"},
		{money, `["a","usd"]`, math.MaxInt64, "92233720368547758.07 USD", "92233720368547758.07 of 100.00 USD used"},
		{money, `["a","usd"]`, math.MinInt64, "-92233720368547758.08 USD", "-92233720368547758.08 of 100.00 USD used"},
		{money, `["a","usd"]`, -5, "-0.05 USD", "-0.05 of 100.00 USD used"},
		// No currency of ISO 4217: the numbers as they are counted.
		{money, `["a","xyz"]`, 6200, "6200", "6200 of 10000 used"},
		{money, `["a","US "]`, 6200, "6200", "6200 of 10000 used"},
		{money, `["a","dollars"]`, 6200, "6200", "6200 of 10000 used"},
		{money, `["a",1]`, 6200, "6200", "6200 of 10000 used"},
		{money, `["usd","a"]`, 6200, "6200", "6200 of 10000 used"},
		{money, `["usd"]`, 6200, "6200", "6200 of 10000 used"},
		{money, ``, 6200, "6200", "6200 of 10000 used"},
		{plain, `["usd"]`, 6200, "6200", "6200 of 10000 used"},
		{calls, `["usd"]`, 3, "3 calls", "3 of 5 calls used"},
		{calls, `["usd"]`, 1, "1 call", "1 of 5 calls used"},
	} {
		if got := tt.l.Amount(tt.key, tt.n); got != tt.want {
			t.Errorf("%d under %s: %q, want %q", tt.n, tt.key, got, tt.want)
		}
		if got := tt.l.Used(tt.key, tt.n); got != tt.used {
			t.Errorf("%d under %s: %q, want %q", tt.n, tt.key, got, tt.used)
		}
	}
}

// TestCurrencyIsOneKey: a provider that takes USD as usd would give an agent a
// limit for each spelling.
func TestCurrencyIsOneKey(t *testing.T) {
	s := compile(t, Options{}, policyWith("      - { name: r, decision: allow }\n    limits:\n      - { name: l, key: [args.currency, args.name], sum: args.n, max: 10, window: 1h, decision: deny, reason_code: a.b }\n"))
	for _, spelling := range []string{"usd", "USD", "Usd", "uSD", " usd", "usd ", "\tUSD\n", "usd\u00a0"} {
		d := s.Decide(&Input{Tool: "t", Args: m{"n": int64(1), "currency": spelling, "name": "ABC"}})
		if len(d.Limits) != 1 || d.Limits[0].Key != `["usd","ABC"]` {
			t.Errorf("%s: %+v", spelling, d.Limits)
		}
	}
}

func TestCurrenciesAreNotAddedUp(t *testing.T) {
	opt := Options{Tools: []string{"t"}, Args: func(string) ([]string, bool, bool) {
		return []string{"amount", "currency", "n", "fee.amount", "fee.currency"}, true, true
	}}
	for _, tt := range []struct {
		limit, fault string
	}{
		{"key: [agent_id], sum: args.amount", "limit l adds up args.amount over all currencies: put args.currency into its `key`"},
		{"key: [agent_id], sum: args.n * args.amount", "put args.currency into"},
		{"key: [agent_id, args.currency], sum: args.fee.amount", "put args.fee.currency into"},
		{"key: [agent_id, args.currency], sum: args.amount", ""},
		{"key: [args.fee.currency], sum: args.fee.amount", ""},
		{"key: [agent_id], sum: args.n", ""},
		{"key: [agent_id]", ""},
	} {
		file := policyWith("      - { name: r, decision: allow }\n    limits:\n      - { name: l, " + tt.limit + ", max: 10, window: 1h, decision: deny, reason_code: a.b }\n")
		_, err := Compile([]Source{{Name: "p.yaml", Data: []byte(file)}}, opt)
		if (err == nil) != (tt.fault == "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
			t.Errorf("%s: %v", tt.limit, err)
		}
	}
}

func TestParseKey(t *testing.T) {
	l := &Limit{Keys: []string{"agent_id", "args.currency", "args.n"}}
	for text, want := range map[string]string{
		`["a","usd",1]`:           `["a","usd",1]`,
		` [ "a" , "USD" , true ]`: `["a","usd",true]`,
		`["\u0061","eur",-5]`:     `["a","eur",-5]`,
	} {
		got, err := l.ParseKey(text)
		if err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
		// What is read is what an action's key would be.
		if again, err := l.ParseKey(got); err != nil || again != got {
			t.Errorf("%s again: %s, %v", got, again, err)
		}
	}
	for _, text := range []string{``, `a`, `["a","usd"]`, `["a","usd",1,2]`, `["a","usd",1.5]`, `["a","usd",1e3]`, `["a","usd",99999999999999999999]`, `["a","usd",null]`, `["a","usd",{}]`, `{"a":1}`, `["a","usd",1]]`, `["a","usd","` + "\xff" + `"]`} {
		if got, err := l.ParseKey(text); err == nil || !strings.Contains(err.Error(), "agent_id, args.currency, args.n") {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}

// TestExceededByTwo: a call over two limits needs the approval of both.
func TestExceededByTwo(t *testing.T) {
	limit := func(name string, groups ...string) *Limit {
		return &Limit{
			Policy: "p", Version: 1, Name: name, Max: 10, Window: time.Hour, Effect: RequireApproval, ReasonCode: "x." + name,
			Hash: "hash of " + name, Approval: &Approval{Approvers: groups, Required: 1},
		}
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	d := Decision{Effect: Allow, Rule: "r", MatchedRules: []string{"r"}}
	one := d.Exceeded(Reservation{Limit: limit("one", "leads", "finance"), Amount: 3}, 8, now)
	both := one.Exceeded(Reservation{Limit: limit("two", "finance"), Amount: 11}, 0, now)
	if both.Effect != RequireApproval || both.Rule != "one" || both.ReasonCode != "x.one" || len(both.Over) != 2 || len(both.Approval.Approvers) != 1 ||
		both.RuleHash == one.RuleHash || strings.Join(both.MatchedRules, " ") != "two one r" {
		t.Errorf("%+v", both)
	}
	for _, want := range []string{"8 of 10 calls used in 1h, and the call would use 3 calls.", "0 of 10 calls used in 1h"} {
		if !strings.Contains(both.Summary, want) {
			t.Errorf("%s\nhas no %s", both.Summary, want)
		}
	}
	if len(both.NextSteps) != 3 || !strings.Contains(both.NextSteps[0], "has 2 calls left of 10 calls") || !strings.Contains(both.NextSteps[1], "this call alone is over it") {
		t.Errorf("%q", both.NextSteps)
	}
	none := one.Exceeded(Reservation{Limit: limit("two", "board"), Amount: 1}, 10, now)
	if none.Effect != Deny || none.Approval != nil || !strings.Contains(none.Summary, "No group may approve this for both one and two.") {
		t.Errorf("%+v", none)
	}
}
