package policy

import (
	"slices"
	"testing"
)

const gapsPolicy = `
policies:
  - name: first
    version: 1
    tools: ["pay.*"]
    rules:
      - { name: no_card, when: "!has(args.card)", decision: allow }
      - { name: test_card, when: 'args.card.brand == "test"', decision: deny, reason_code: card.test }
      - { name: large, when: "args.amount > 100", decision: require_approval }
      - { name: team, when: 'header["x-team"] == "a" || passport.goal == "g"', decision: allow }
      - { name: lists, when: "args.items[1].sku == \"s\" && args.items.size() > 1", decision: allow }
    limits:
      - { name: per_note, key: [args.note], max: 3, window: 1h, decision: deny, reason_code: note.limit }
  - name: second
    version: 1
    tools: ["pay.now"]
    rules:
      - { name: huge, when: "args.amount > 1000", decision: deny, reason_code: pay.huge }
`

func TestHingesOn(t *testing.T) {
	set, err := Compile([]Source{{Name: "p.yaml", Data: []byte(gapsPolicy)}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	card := func(brand any) map[string]any { return map[string]any{"brand": brand} }
	for _, c := range []struct {
		name string
		tool string
		args map[string]any
		gaps Gaps
		want string
	}{
		{"nothing is missing", "pay.now", map[string]any{"card": card("x"), "amount": int64(500), "note": "n"}, Gaps{}, ""},
		{"presence is known of what is hidden", "pay.now", map[string]any{"note": "n", "amount": int64(1)}, Gaps{Hidden: []string{"secret"}}, ""},
		{"a hidden value that is compared", "pay.now", map[string]any{"card": card("?"), "amount": int64(500)}, Gaps{Hidden: []string{"card.brand"}}, "args.card.brand"},
		{"a hidden object above it", "pay.now", map[string]any{"card": card("?"), "amount": int64(500)}, Gaps{Hidden: []string{"card"}}, "args.card.brand"},
		{"a sibling that is hidden", "pay.now", map[string]any{"card": card("x"), "amount": int64(500), "note": "n"}, Gaps{Hidden: []string{"card.number"}}, ""},
		{"a name that only begins alike", "pay.now", map[string]any{"card": card("x"), "amount": int64(500), "note": "n"}, Gaps{Hidden: []string{"card.brandy", "not", "amounts"}}, ""},
		{"hidden below a rule that is not tried", "pay.now", map[string]any{"amount": int64(2000), "card": card("test")}, Gaps{Hidden: []string{"amount"}}, ""},
		{"what a later policy asks", "pay.now", map[string]any{"amount": int64(1), "note": "n"}, Gaps{Hidden: []string{"amount"}}, "args.amount"},
		{"which covers another tool only", "pay.later", map[string]any{"amount": int64(1), "note": "n"}, Gaps{Hidden: []string{"amount"}}, ""},
		{"what a limit counts by", "pay.later", map[string]any{"note": "?"}, Gaps{Hidden: []string{"note"}}, "args.note"},
		{"but not where it is denied", "pay.later", map[string]any{"note": "?", "card": card("test")}, Gaps{Hidden: []string{"note"}}, ""},
		{"cut members that may have been", "pay.later", map[string]any{"note": "n"}, Gaps{Cut: []string{""}}, "args.card"},
		{"cut members, and the one that is asked for is there", "pay.later", map[string]any{"note": "n", "card": card("test")}, Gaps{Cut: []string{""}}, ""},
		{"a cut object elsewhere", "pay.later", map[string]any{"note": "n"}, Gaps{Cut: []string{"metadata", "car"}}, ""},
		{"a header", "pay.later", map[string]any{"card": card("x"), "amount": int64(1), "note": "n"}, Gaps{Roots: []string{"header"}}, "header.x-team"},
		{"claims", "pay.later", map[string]any{"card": card("x"), "amount": int64(1), "note": "n"}, Gaps{Roots: []string{"passport"}}, "passport.goal"},
		{"a header behind what decides", "pay.later", map[string]any{"card": card("x"), "amount": int64(500), "note": "n"}, Gaps{Roots: []string{"header", "passport"}}, ""},
		{"no policy", "other", map[string]any{}, Gaps{Hidden: []string{"amount"}, Cut: []string{""}, Roots: []string{"header"}}, ""},
	} {
		if got := set.HingesOn(&Input{Tool: c.tool, Args: c.args}, &c.gaps); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestHingesOnLists(t *testing.T) {
	set, err := Compile([]Source{{Name: "p.yaml", Data: []byte(`
policies:
  - name: lists
    version: 1
    tools: ["*"]
    rules:
      - { name: one, when: 'args.items[0].sku == "s"', decision: deny, reason_code: a.b }
      - { name: size, when: "args.items.size() > 3", decision: allow }
`)}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	items := func(sku string) map[string]any {
		return map[string]any{"items": []any{map[string]any{"sku": sku}}}
	}
	for _, c := range []struct {
		args map[string]any
		gaps Gaps
		want string
	}{
		{items("s"), Gaps{Cut: []string{"items"}}, ""}, // it denies, whatever followed
		{items("t"), Gaps{Cut: []string{"items"}}, "args.items"},
		{items("?"), Gaps{Hidden: []string{"items.0.sku"}}, "args.items.0.sku"},
		{items("t"), Gaps{Hidden: []string{"items.1.sku"}}, "args.items"},
	} {
		if got := set.HingesOn(&Input{Tool: "t", Args: c.args}, &c.gaps); got != c.want {
			t.Errorf("%v %+v: %q, want %q", c.args, c.gaps, got, c.want)
		}
	}
}

func TestReadsAndRules(t *testing.T) {
	set, err := Compile([]Source{{Name: "p.yaml", Data: []byte(gapsPolicy)}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	reads := set.Reads("pay.later")
	for _, want := range []string{"args.card", "args.card.brand", "args.amount", "header.x-team", "passport.goal", "args.note"} {
		if !slices.Contains(reads, want) {
			t.Errorf("%s is not among %v", want, reads)
		}
	}
	if got := set.Reads("other"); len(got) != 0 {
		t.Errorf("other reads %v", got)
	}
	rules := set.Rules()
	if len(rules) != 6 || rules[0] != (RuleInfo{"first", "no_card", Pos{"p.yaml", 7}}) || rules[5].Name != "huge" {
		t.Errorf("%+v", rules)
	}
	if set.LongestWindow().Hours() != 1 || new(Set).LongestWindow() != 0 {
		t.Error(set.LongestWindow())
	}
}
