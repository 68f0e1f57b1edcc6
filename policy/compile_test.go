package policy

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/strictyaml"
)

// policyWith makes a file of one policy with the given rules, which begin on
// line 6.
func policyWith(rules string) string {
	return "policies:\n  - name: p\n    version: 1\n    tools: [\"*\"]\n    rules:\n" + rules
}

const fine = "      - { name: ok, decision: allow }\n"

func TestFaults(t *testing.T) {
	deny := "policies:\n  - name: p\n    version: 1\n    tools: [\"*\"]\n    rules: [{name: r, decision: deny, reason_code: a.b}]\n    limits:\n"
	for _, tt := range []struct{ name, in, want string }{
		{"empty", "", "f.yaml:1:1: the file is empty"},
		{"no policies", "policies: []\n", "f.yaml:1:1: the file has no `policies`"},
		{"unknown key", policyWith("      - { name: r, decison: allow }\n"), "f.yaml:6:20: unknown key `policies[0].rules[0].decison`: did you mean `decision`?"},
		{"no name", "policies:\n  - version: 1\n    tools: [a]\n    rules: [{name: r, decision: allow}]\n", "f.yaml:2:5: the policy has no `name`"},
		{"bad name", "policies:\n  - name: a b\n    version: 1\n    tools: [a]\n    rules: [{name: r, decision: allow}]\n", `f.yaml:2:11: the policy name "a b" must be letters`},
		{"no version", "policies:\n  - name: a\n    tools: [a]\n    rules: [{name: r, decision: allow}]\n", "f.yaml:2:5: the policy has no `version`"},
		{"version 0", "policies:\n  - name: a\n    version: 0\n    tools: [a]\n    rules: [{name: r, decision: allow}]\n", "f.yaml:3:14: `version` must be 1 or more"},
		{"no tools", "policies:\n  - name: a\n    version: 1\n    rules: [{name: r, decision: allow}]\n", "f.yaml:2:5: the policy has no `tools`"},
		{"no rules", "policies:\n  - name: a\n    version: 1\n    tools: [a]\n    rules: []\n", "f.yaml:2:5: the policy has no `rules`"},
		{"glob syntax", "policies:\n  - name: a\n    version: 1\n    tools: [\"a[b]\"]\n    rules: [{name: r, decision: allow}]\n", `f.yaml:4:13: "[" is not used in tool globs`},
		{"glob bomb", "policies:\n  - name: a\n    version: 1\n    tools: [\"{a,a}{a,a}{a,a}{a,a}{a,a}{a,a}{a,a}\"]\n    rules: [{name: r, decision: allow}]\n", "more than 64 globs"},
		{"duplicate policy", "policies:\n  - name: a\n    version: 1\n    tools: [a]\n    rules: [{name: r, decision: allow}]\n  - name: a\n    version: 1\n    tools: [b]\n    rules: [{name: r, decision: allow}]\n", "f.yaml:6:11: a second policy named a: the first stands at f.yaml:2:11"},
		{"duplicate rule", policyWith("      - { name: r, when: tool == 'a', decision: allow }\n      - { name: r, decision: allow }\n"), "f.yaml:7:17: a second rule named r"},
		{"no decision", policyWith("      - { name: r }\n"), "rule r has no `decision`"},
		{"bad decision", policyWith("      - { name: r, decision: block }\n"), "f.yaml:6:30: `decision` must be allow, deny or require_approval, not \"block\""},
		{"deny without reason", policyWith("      - { name: r, decision: deny }\n"), "rule r denies without a `reason_code`"},
		{"reserved reason", policyWith("      - { name: r, decision: deny, reason_code: policy.mine }\n"), "f.yaml:6:49: the reason code policy.mine begins with policy."},
		{"reserved reason limit", policyWith("      - { name: r, decision: deny, reason_code: limit.x }\n"), "begins with limit."},
		{"reason form", policyWith("      - { name: r, decision: deny, reason_code: Over }\n"), "`reason_code` must be lower-case words joined by dots"},
		{"default reason clashes", policyWith("      - { name: error, decision: allow }\n"), "a rule named error needs a `reason_code` of its own"},
		{"approval on allow", policyWith("      - name: r\n        decision: allow\n        approval: { required: 1 }\n"), "f.yaml:8:19: rule r has an `approval` block, but its decision is allow"},
		{"approval required", policyWith("      - name: r\n        decision: require_approval\n        approval: { required: 0 }\n"), "f.yaml:8:31: `required` must be from 1 to 100"},
		{"approval expires", policyWith("      - name: r\n        decision: require_approval\n        approval: { expires: 1 hour }\n"), `f.yaml:8:30: "1 hour" is not a duration`},
		{"approval bare number", policyWith("      - name: r\n        decision: require_approval\n        approval: { expires: \"30\" }\n"), `"30" is not a duration`},
		{"approval group", policyWith("      - name: r\n        decision: require_approval\n        approval: { approvers: [a, a] }\n"), "the group a stands twice"},
		{"next steps on allow", policyWith("      - { name: r, decision: allow, next_steps: [x] }\n"), "allows and has `next_steps`"},
		{"control characters", policyWith("      - { name: r, decision: deny, reason_code: a.b, message: \"a\\u0007b\" }\n"), "must not hold control characters"},
		{"unreachable", policyWith(fine + "      - { name: late, decision: deny, reason_code: a.b }\n"), "f.yaml:7:9: rule late is never reached: rule ok on line 6 matches everything"},
		{"unreachable after true", policyWith("      - { name: t, when: \"true\", decision: allow }\n      - { name: late, decision: deny, reason_code: a.b }\n"), "rule late is never reached"},
		{"same condition", policyWith("      - { name: a, when: args.x == 1, decision: allow }\n      - { name: b, when: \" args.x == 1\", decision: deny, reason_code: a.b }\n"), "rule b is never reached: rule a on line 6 has the same condition"},
		{"never true", policyWith("      - { name: a, when: \"false\", decision: allow }\n"), "f.yaml:6:26: rule a never matches"},
		{"empty condition", policyWith("      - { name: a, when: \"  \", decision: allow }\n"), "the expression is empty"},

		{"syntax", policyWith("      - name: a\n        when: args.amount <=\n        decision: allow\n"), "f.yaml:7:29: not a CEL expression: the condition ends"},
		{"unknown variable", policyWith("      - name: a\n        when: arg.amount <= 5\n        decision: allow\n"), "f.yaml:7:15: undeclared reference to 'arg': did you mean `args`?"},
		{"type", policyWith("      - name: a\n        when: tool + 1 == tool\n        decision: allow\n"), "f.yaml:7:20: found no matching overload for '_+_'"},
		{"type in quotes", policyWith("      - name: a\n        when: \"tool == \\\"x\\\" && tool + 1 == tool\"\n        decision: allow\n"), "f.yaml:7:38: found no matching overload"},
		{"type in single quotes", policyWith("      - name: a\n        when: 'tool == ''x'' && tool + 1 == tool'\n        decision: allow\n"), "f.yaml:7:38: found no matching overload"},
		{"type in block", policyWith("      - name: a\n        when: |\n          args.x == 1 &&\n            tool + 1 == tool\n        decision: allow\n"), "f.yaml:9:18: found no matching overload"},
		{"type in folded block", policyWith("      - name: a\n        when: >-\n          args.x == 1 &&\n          tool + 1 == tool\n        decision: allow\n"), "f.yaml:9:16: found no matching overload"},
		{"type in plain lines", policyWith("      - name: a\n        when: args.x == 1 &&\n          tool + 1 == tool\n        decision: allow\n"), "f.yaml:8:16: found no matching overload"},
		{"not a bool", policyWith("      - name: a\n        when: args.size()\n        decision: allow\n"), "f.yaml:7:24: a condition must be true or false; this gives int"},
		{"number for text", policyWith("      - name: a\n        when: 5\n        decision: allow\n"), "must be text"},
		{"nested loops", policyWith("      - name: a\n        when: args.a.all(x, args.b.all(y, x == y))\n        decision: allow\n"), "f.yaml:7:15: the expression can cost more than"},
		{"too long", policyWith("      - name: a\n        when: " + strings.Repeat("tool == 'x' || ", 400) + "true\n        decision: allow\n"), "expression code point size exceeds limit"},
		{"too deep", policyWith("      - name: a\n        when: " + strings.Repeat("(", 300) + "true" + strings.Repeat(")", 300) + "\n        decision: allow\n"), "f.yaml:7:15: "},
		{"shadowed", policyWith("      - name: a\n        when: args.list.all(args, args == 1)\n        decision: allow\n"), "a loop variable may not be called args"},
		{"pattern from the call", policyWith("      - name: a\n        when: tool.matches(args.p)\n        decision: allow\n"), "the pattern of matches() must be written out"},
		{"bad pattern", policyWith("      - name: a\n        when: tool.matches('(')\n        decision: allow\n"), "f.yaml:7:"},
		{"replace", policyWith("      - name: a\n        when: tool.replace('', args.s) == 'x'\n        decision: allow\n"), "f.yaml:7:27: replace() is not used in conditions"},
		{"zone by name", policyWith("      - name: a\n        when: now.getHours('Europe/Berlin') > 8\n        decision: allow\n"), "the time zone of getHours() must be"},
		{"uint", policyWith("      - name: a\n        when: uint(args.x) > 8u\n        decision: allow\n"), "uint() is not used"},

		{"limit without key", deny + "      - { name: l, max: 1, window: 1h, decision: deny, reason_code: a.b }\n", "limit l has no `key`"},
		{"limit without max", deny + "      - { name: l, key: [agent_id], window: 1h, decision: deny, reason_code: a.b }\n", "limit l has no `max`"},
		{"limit max 0", deny + "      - { name: l, key: [agent_id], max: 0, window: 1h, decision: deny, reason_code: a.b }\n", "`max` must be 1 or more"},
		{"limit without window", deny + "      - { name: l, key: [agent_id], max: 1, decision: deny, reason_code: a.b }\n", "limit l has no `window`"},
		{"limit window", deny + "      - { name: l, key: [agent_id], max: 1, window: 0s, decision: deny, reason_code: a.b }\n", "the duration 0s is too short"},
		{"limit allows", deny + "      - { name: l, key: [agent_id], max: 1, window: 1h, decision: allow }\n", "`decision` of a limit must be deny or require_approval"},
		{"limit without decision", deny + "      - { name: l, key: [agent_id], max: 1, window: 1h }\n", "limit l has no `decision`"},
		{"limit denies without reason", deny + "      - { name: l, key: [agent_id], max: 1, window: 1h, decision: deny }\n", "limit l denies without a `reason_code`"},
		{"limit key", deny + "      - { name: l, key: [agent], max: 1, window: 1h, decision: require_approval }\n", "f.yaml:7:26: unknown variable agent: known here are agent_id"},
		{"limit key map", deny + "      - { name: l, key: [args], max: 1, window: 1h, decision: require_approval }\n", "a key needs one field of args"},
		{"limit key now", deny + "      - { name: l, key: [now], max: 1, window: 1h, decision: require_approval }\n", "cannot be counted by the time"},
		{"limit key form", deny + "      - { name: l, key: [args..x], max: 1, window: 1h, decision: require_approval }\n", `"args..x" is not a key`},
		{"limit sum type", deny + "      - { name: l, key: [agent_id], sum: tool, max: 1, window: 1h, decision: require_approval }\n", "a sum must be a whole number; this gives string"},
		{"limit sum float", deny + "      - { name: l, key: [agent_id], sum: \"1.5\", max: 1, window: 1h, decision: require_approval }\n", "a sum must be a whole number; this gives double"},
		{"duplicate limit", deny + "      - { name: l, key: [agent_id], max: 1, window: 1h, decision: require_approval }\n      - { name: l, key: [agent_id], max: 1, window: 1h, decision: require_approval }\n", "a second limit named l"},
		{"limit approval", deny + "      - { name: l, key: [agent_id], max: 1, window: 1h, decision: deny, reason_code: a.b, approval: {} }\n", "limit l has an `approval` block"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Compile([]Source{{"f.yaml", []byte(tt.in)}}, Options{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got  %v\nwant %s", err, tt.want)
			}
			var faults strictyaml.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("%T", err)
			}
		})
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	a := policyWith("      - name: a\n        when: args.\n        decision: allow\n      - name: b\n        when: tool + 1\n        decision: maybe\n      - nme: c\n")
	b := policyWith("      - name: x\n        decision: deny\n")
	_, err := Compile([]Source{{"a.yaml", []byte(a)}, {"b.yaml", []byte(b)}}, Options{Default: "perhaps"})
	var faults strictyaml.Faults
	if !errors.As(err, &faults) {
		t.Fatal(err)
	}
	for _, want := range []string{
		"a.yaml:7:", "a.yaml:10:", "a.yaml:11:19: `decision` must be", "a.yaml:12:9: unknown key",
		"b.yaml:2:11: a second policy named p", "b.yaml:6:9: rule x denies without", "policy.default: must be",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
	if len(faults) != 7 {
		t.Errorf("%d faults:\n%v", len(faults), err)
	}
}

func TestArgumentNames(t *testing.T) {
	declared := map[string][]string{
		"stripe.refund.create":   {"amount", "currency", "metadata", "items.price"},
		"stripe.refund.retrieve": {},
		"open.tool":              {"amount"},
	}
	opt := Options{
		Tools: []string{"stripe.refund.create", "stripe.refund.retrieve", "open.tool"},
		Args: func(tool string) ([]string, bool, bool) {
			names, known := declared[tool]
			return names, tool == "open.tool", known
		},
	}
	for _, tt := range []struct{ name, tools, when, want string }{
		{"declared", "stripe.refund.*", "args.amount <= 5", ""},
		{"slip", "stripe.refund.*", "args.amonut <= 5", "no tool of this policy has an argument args.amonut: did you mean `amount`?"},
		{"slip in has", "stripe.refund.*", "has(args.amonut)", "args.amonut"},
		{"slip in in", "stripe.refund.*", "'amonut' in args", "args.amonut"},
		{"slip by index", "stripe.refund.create", "args['amonut'] == 1", "args.amonut"},
		{"below an object", "stripe.refund.create", "args.metadata.order == 'x'", ""},
		{"above a member", "stripe.refund.create", "size(args.items) == 1", ""},
		{"open tool", "{stripe.refund.create,open.tool}", "args.amonut <= 5", ""},
		{"unknown tool", "other.tool", "args.amonut <= 5", ""},
		{"unknown glob", "other.*", "args.amonut <= 5", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := "policies:\n  - name: p\n    version: 1\n    tools: [\"" + tt.tools + "\"]\n    rules:\n      - name: r\n        when: " + `"` + tt.when + `"` + "\n        decision: allow\n"
			s, err := Compile([]Source{{"f.yaml", []byte(file)}}, opt)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				wantWarning := strings.HasPrefix(tt.tools, "other.")
				if got := len(s.Warnings()) == 1; got != wantWarning {
					t.Errorf("warnings: %v", s.Warnings())
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	limits := "policies:\n  - name: p\n    version: 1\n    tools: [\"stripe.refund.create\"]\n    rules: [{name: r, decision: allow}]\n    limits:\n      - { name: l, key: [args.curency], sum: args.amonut, max: 1, window: 1h, decision: require_approval }\n"
	_, err := Compile([]Source{{"f.yaml", []byte(limits)}}, opt)
	if err == nil || !strings.Contains(err.Error(), "args.curency") || !strings.Contains(err.Error(), "args.amonut") {
		t.Errorf("got %v", err)
	}
}

func TestHash(t *testing.T) {
	one := []byte(policyWith(fine))
	hash := func(opt Options, sources ...Source) string {
		t.Helper()
		s, err := Compile(sources, opt)
		if err != nil {
			t.Fatal(err)
		}
		return s.Hash()
	}
	base := hash(Options{}, Source{"a.yaml", one})
	if base != hash(Options{Default: "deny"}, Source{"elsewhere/a.yaml", one}) {
		t.Error("the same content elsewhere has another hash")
	}
	for name, other := range map[string]string{
		"default": hash(Options{Default: "allow"}, Source{"a.yaml", one}),
		"comment": hash(Options{}, Source{"a.yaml", append([]byte("# x\n"), one...)}),
		"none":    hash(Options{}),
	} {
		if other == base {
			t.Errorf("%s: the hash is the same", name)
		}
	}
}

func TestRuleHash(t *testing.T) {
	const base = "      - { name: r, when: args.x == 1, decision: require_approval, reason_code: a.b, approval: { approvers: [g], required: 1, expires: 1h, use_within: 5m } }\n"
	hash := func(file string) string {
		t.Helper()
		s, err := Compile([]Source{{"f.yaml", []byte(file)}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s.Decide(&Input{Tool: "t", Args: map[string]any{"x": int64(1)}}).RuleHash
	}
	want := hash(policyWith(base))
	if got := hash("# moved\n\n" + policyWith("      - { name: other, when: args.x == 2, decision: allow }\n"+base)); got != want {
		t.Error("the hash depends on the place of the rule")
	}
	for _, change := range [][2]string{
		{"name: r,", "name: s,"},
		{"x == 1", "x >= 1"},
		{"a.b", "a.c"},
		{"[g]", "[h]"},
		{"required: 1", "required: 2"},
		{"1h", "2h"},
		{"5m", "6m"},
	} {
		if got := hash(policyWith(strings.Replace(base, change[0], change[1], 1))); got == want {
			t.Errorf("%s for %s does not change the hash", change[1], change[0])
		}
	}
	if got := hash(strings.Replace(policyWith(base), "name: p", "name: q", 1)); got == want {
		t.Error("the policy's name does not change the hash")
	}
}

func TestDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"1h": time.Hour, "15m": 15 * time.Minute, "24h": 24 * time.Hour, "7d": 168 * time.Hour, "1h30m": 90 * time.Minute, "30s": 30 * time.Second,
		"": 0, "30": 0, "-1h": 0, "0s": 0, "1.5s": 0, "500ms": 0, "400d": 0, "1d12h": 0, "-1d": 0, "1 h": 0, "99999999999999h": 0,
	} {
		got, err := parseDuration(in)
		if got != want && err == nil || (err != nil) != (want == 0) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for d, want := range map[time.Duration]string{
		24 * time.Hour: "24h", 168 * time.Hour: "7d", 90 * time.Minute: "90m", 45 * time.Second: "45s", time.Hour: "1h",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
}

func TestPolicies(t *testing.T) {
	s := example(t)
	got := s.Policies()
	if len(got) != 1 || got[0].Name != "refund_policy" || got[0].Version != 3 || got[0].Pos.Line != 6 || got[0].Rules != 3 || got[0].Limits != 1 || got[0].Tools[0] != "stripe.refund.*" {
		t.Errorf("%+v", got)
	}
}
