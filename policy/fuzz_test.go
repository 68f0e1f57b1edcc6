package policy

import (
	"os"
	"strings"
	"testing"

	"cel.dev/cel-go/cel"
	"github.com/go-json-experiment/json"
)

// FuzzCompile: no file makes Compile panic or hang, and what compiles can judge.
func FuzzCompile(f *testing.F) {
	data, err := os.ReadFile("../policies/refund_policy.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(policyWith(fine)))
	f.Add([]byte(policyWith("      - name: a\n        when: |\n          args.l.all(i, i.x in ['a'] && !(int(i.y) != 5))\n        decision: allow\n")))
	f.Add([]byte("policies:\n  - {name: a, version: 1, tools: ['{a,b}*?'], rules: [{name: r, decision: require_approval, approval: {expires: 7d}}]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		s, err := Compile([]Source{{"f.yaml", data}}, Options{})
		if err != nil {
			return
		}
		in := refund(int64(1), "usd")
		d, steps := s.Decide(in), s.Explain(in)
		if d.Effect == Allow && d.ReasonCode == ReasonError {
			t.Fatalf("an error allows: %s", d.Summary)
		}
		for _, step := range steps {
			for _, r := range step.Rules {
				if r.Result == ResultError && d.Effect != Deny {
					t.Fatalf("rule %s failed (%s) and the decision is %s", r.Name, r.Error, d.Effect)
				}
			}
		}
	})
}

// FuzzCondition: a condition that errs as CEL reads it may not become true by
// being made strict, and no condition is decided without a text.
func FuzzCondition(f *testing.F) {
	for _, s := range []string{`args.a <= 5 && args.b == "x"`, `args.a > 5 || true`, `!(args.a in [1, 2])`, `has(args.a) ? args.a : args.b`, `args.l.exists(i, i == args.a)`, `args.s.matches("a+") && size(args) > 1`, `double(args.s) > 1.0`} {
		f.Add(s, `{"a": 1, "b": "x", "l": [1, "2", null], "s": "1.5"}`)
		f.Add(s, `{"a": "1", "b": 5, "l": {"x": 1}, "s": true}`)
	}
	f.Fuzz(func(t *testing.T, when, doc string) {
		var args map[string]any
		if len(doc) > 4096 || json.Unmarshal([]byte(doc), &args) != nil {
			return
		}
		env, err := environment()
		if err != nil {
			t.Fatal(err)
		}
		in := refund(int64(1), "usd")
		in.Args = args
		act := &activation{in: in}
		c, faults := compileCondition(when, cel.BoolType)
		if faults != nil {
			return
		}
		got, err := c.truth(act)
		if err != nil && got {
			t.Fatalf("true with the error %v", err)
		}
		if err != nil && (err.Error() == "" || strings.ContainsAny(err.Error(), "\n\r\x1b")) {
			t.Fatalf("the error %q", err)
		}
		if err != nil || !got {
			return
		}
		// True: then lenient CEL must say true as well.
		checked, issues := env.Compile(when)
		if issues.Err() != nil {
			t.Fatal(issues.Err())
		}
		program, err := env.Program(checked)
		if err != nil {
			t.Fatal(err)
		}
		if out, _, err := program.Eval(act); err != nil || out.Value() != true {
			if strings.Contains(when, "int(") || strings.Contains(when, "double(") {
				return // exact conversions may read what CEL cannot
			}
			t.Fatalf("%s is true, and to CEL it is %v, %v", when, out, err)
		}
	})
}

// FuzzDecide: whatever the arguments are, an action that the shipped policy
// allows is one that it means to allow.
func FuzzDecide(f *testing.F) {
	f.Add(`{"amount": 4900, "currency": "usd"}`, "", "")
	f.Add(`{"amount": "4900", "currency": "usd"}`, "amount", "must be an integer")
	f.Add(`{"amount": 1e6, "currency": ["usd"]}`, "currency", "missing")
	s := example(f)
	f.Fuzz(func(t *testing.T, doc, bad, why string) {
		var args map[string]any
		if len(doc) > 4096 || json.Unmarshal([]byte(doc), &args) != nil {
			return
		}
		for name, v := range args {
			if n, ok := v.(float64); ok && n == float64(int64(n)) {
				args[name] = int64(n)
			}
		}
		in := refund(nil, nil)
		in.Args = args
		if bad != "" {
			in.Unusable = map[string]string{bad: why}
		}
		d := s.Decide(in)
		if d.MatchedRules == nil || d.NextSteps == nil || d.Summary == "" {
			t.Fatalf("%+v", d)
		}
		switch d.Effect {
		case Deny:
			if d.Limits != nil {
				t.Fatalf("%+v", d)
			}
			return
		case RequireApproval:
			if d.Approval == nil {
				t.Fatalf("%+v", d)
			}
		}
		amount, isNumber := args["amount"].(int64)
		currency, isText := args["currency"].(string)
		if !isNumber || !isText || amount < 0 || amount > 50000 || (d.Effect == Allow && (amount > 5000 || currency != "usd")) {
			t.Fatalf("%s for %v", d.Summary, args)
		}
		if bad == "amount" || bad == "currency" {
			t.Fatalf("%s though %s is not usable", d.Summary, bad)
		}
	})
}
