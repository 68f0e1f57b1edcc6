package policy

import (
	"math"
	"strings"
	"testing"
	"time"
)

// judgeWhen compiles one allow rule with a condition and judges args by it.
func judgeWhen(t testing.TB, when string, in *Input) Decision {
	t.Helper()
	file := policyWith("      - name: r\n        when: |-\n          " + when + "\n        decision: allow\n        reason_code: a.b\n")
	s, err := Compile([]Source{{"f.yaml", []byte(file)}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s.Decide(in)
}

type m = map[string]any

// TestCondition says for each condition what it is on given arguments: yes, no,
// or an error that names the field.
func TestCondition(t *testing.T) {
	now := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC) // a Monday
	for _, tt := range []struct {
		name, when string
		args       m
		unusable   map[string]string
		want       string // "yes", "no", or what the error says
	}{
		{"number", "args.x <= 5", m{"x": int64(5)}, nil, "yes"},
		{"whole and fraction are one class", "args.x == 5", m{"x": 5.0}, nil, "yes"},
		{"fraction", "args.x < 5.5", m{"x": int64(5)}, nil, "yes"},
		{"beyond 2^53", "args.x == 9007199254740993", m{"x": int64(9007199254740992)}, nil, "no"},

		{"absent", "args.x <= 5", m{}, nil, "args.x is missing"},
		{"no args at all", "args.x <= 5", nil, nil, "args.x is missing"},
		{"absent, absorbed by ||", "args.x > 5 || true", m{}, nil, "args.x is missing"},
		{"absent, absorbed by &&", "args.x > 5 && false", m{}, nil, "args.x is missing"},
		{"absent, behind a short circuit", "true || args.x > 5", m{}, nil, "args.x is missing"},
		{"absent in the untaken branch", "true ? true : args.x > 5", m{}, nil, "args.x is missing"},
		{"absent by index", "args['x'] <= 5 || true", m{}, nil, "args.x is missing"},
		{"absent below", "args.a.b == 1 || true", m{"a": m{}}, nil, "args.a.b is missing"},
		{"absent below a text", "args.a.b == 1 || true", m{"a": "t"}, nil, "args.a.b is missing"},
		{"absent element", "args.l[2] == 1 || true", m{"l": []any{int64(1)}}, nil, "args.l.2 is missing"},
		{"element", "args.l[0] == 1", m{"l": []any{int64(1)}}, nil, "yes"},
		{"absent in a call", "size(args.x) > 1 || true", m{}, nil, "args.x is missing"},
		{"absent in a list", "1 in [args.x, 1]", m{}, nil, "args.x is missing"},
		{"absent in a map", "{'a': args.x}.size() == 1", m{}, nil, "args.x is missing"},
		{"absent passport", "passport.goal == 'x' || true", m{}, nil, "passport.goal is missing"},
		{"absent header", "header['X-A'] == 'x' || true", m{}, nil, "header.X-A is missing"},
		{"absent query and path", "query.a == 'x' || path.b == 'y' || true", m{}, nil, "query.a is missing"},

		{"guarded, absent", "has(args.x) && args.x <= 5", m{}, nil, "no"},
		{"guarded, present", "has(args.x) && args.x <= 5", m{"x": int64(5)}, nil, "yes"},
		{"guarded by not", "!has(args.x) || args.x <= 5", m{}, nil, "yes"},
		{"guarded by in", "'x' in args && args.x <= 5", m{}, nil, "no"},
		{"guard of the parent", "has(args.a) && args.a.b == 1", m{}, nil, "no"},
		{"guard of the parent only", "has(args.a) && args.a.b == 1", m{"a": m{}}, nil, "no such key: b"},
		{"guard below an absent parent", "has(args.a.b)", m{}, nil, "args.a is missing"},
		{"guard that does not guard", "has(args.x) || args.x <= 5", m{}, nil, "no such key: x"},
		{"guard of another", "has(args.y) || args.x <= 5", m{"y": int64(1)}, nil, "args.x is missing"},

		{"declared, missing", "args.x <= 5", m{}, map[string]string{"x": Missing}, "args.x is missing"},
		{"declared, missing, guarded", "has(args.x) && args.x <= 5", m{}, map[string]string{"x": Missing}, "no"},
		{"invalid", "args.x <= 5", m{}, map[string]string{"x": `must be an integer, not "1e6"`}, `args.x must be an integer, not "1e6"`},
		{"invalid, guarded", "!has(args.x) || args.x <= 5", m{}, map[string]string{"x": "must be an integer"}, "args.x must be an integer"},
		{"invalid, guarded by in", "!('x' in args) || args.x <= 5", m{}, map[string]string{"x": "must be an integer"}, "args.x must be an integer"},
		{"invalid, absorbed", "true || args.x <= 5", m{}, map[string]string{"x": "must be an integer"}, "args.x must be an integer"},
		{"invalid member", "size(args.l) == 1", m{"l": []any{}}, map[string]string{"l.0.price": "must be an integer"}, "args.l.0.price must be an integer"},
		{"invalid parent", "args.a.b == 1 || true", m{}, map[string]string{"a": "must be an object"}, "args.a must be an object"},
		{"invalid and the whole map read", "size(args) == 0", m{}, map[string]string{"x": "must be an integer"}, "args.x must be an integer"},
		{"required, missing", "args.x <= 5", m{}, map[string]string{"x": "is required"}, "args.x is missing"},
		{"required, missing, guarded", "has(args.x) && args.x <= 5", m{}, map[string]string{"x": "is required"}, "no"},
		{"the arguments as a whole", "args.x <= 5", m{"x": int64(5)}, map[string]string{"": "the argument x is spelt X"}, "the argument x is spelt X"},
		{"the arguments as a whole, none named", "tool == 't.x'", m{}, map[string]string{"": "the argument x is spelt X"}, "yes"},
		{"a name with a dot", "args['a.b'] == 1", m{"a.b": int64(1)}, map[string]string{"a.b": "must be an integer"}, "args.a.b must be an integer"},
		{"another is invalid", "args.y == 1", m{"y": int64(1)}, map[string]string{"x": "must be an integer"}, "yes"},
		{"a longer name is invalid", "args.x == 1", m{"x": int64(1)}, map[string]string{"xy": "must be an integer"}, "yes"},
		{"two are unusable: the first by name", "args.b == 1 && args.a == 1", m{}, map[string]string{"b.z": "is bad", "b.y": "is bad"}, "args.b.y is bad"},

		{"text for number, !=", "args.s != 500", m{"s": "500"}, nil, "args.s is a text, and is compared with a number"},
		{"text for number, ==", "args.s == 500", m{"s": "500"}, nil, "args.s is a text, and is compared with a number"},
		{"number for text", "args.s != 'x'", m{"s": int64(1)}, nil, "args.s is a number, and is compared with a text"},
		{"literal first", "500 != args.s", m{"s": "500"}, nil, "args.s is a text, and is compared with a number"},
		{"text for number, <=", "args.s <= 500", m{"s": "5"}, nil, "args.s is a text, and is compared with a number"},
		{"absorbed <=", "args.s > 500 || true", m{"s": "5"}, nil, "args.s is a text"},
		{"truth for text", "args.s != 'x'", m{"s": true}, nil, "args.s is a truth value"},
		{"list for text", "args.s != 'x'", m{"s": []any{"x"}}, nil, "args.s is a list"},
		{"object for text", "args.s != 'x'", m{"s": m{}}, nil, "args.s is an object"},
		{"in, wrong class", "!(args.s in ['a', 'b'])", m{"s": int64(1)}, nil, "args.s is a number, and is compared with a text"},
		{"in", "args.s in ['a', 'b']", m{"s": "b"}, nil, "yes"},
		{"not in", "args.s in ['a', 'b']", m{"s": "c"}, nil, "no"},
		{"in numbers", "args.s in [1, 2.5]", m{"s": 2.5}, nil, "yes"},
		{"in truths", "args.s in [true]", m{"s": true}, nil, "yes"},
		{"two fields of two classes", "args.a != args.b", m{"a": int64(1), "b": "1"}, nil, "a number is compared with a text"},
		{"two fields", "args.a == args.b", m{"a": "x", "b": "x"}, nil, "yes"},
		{"null is comparable", "args.s == null", m{"s": nil}, nil, "yes"},
		{"not null", "args.s != null", m{"s": "x"}, nil, "yes"},
		{"null as a number", "args.s <= 5", m{"s": nil}, nil, "args.s is null, and is compared with a number"},
		{"in a list", "'a' in args.l", m{"l": []any{"b", "a"}}, nil, "yes"},
		{"in a list of the action", "args.s in args.l", m{"s": "c", "l": []any{"b", "a"}}, nil, "no"},
		{"in an object", "args.s in args.o", m{"s": "c", "o": m{"c": nil}}, nil, "yes"},
		{"in a text", "args.s in args.o", m{"s": "c", "o": "abc"}, nil, "in looks into a text"},
		{"a list in a list", "args.l in [args.l]", m{"l": []any{}}, nil, "a list cannot be looked for"},
		{"size", "size(args.l) == 2 && args.l.size() == 2 && size(args.s) == 1", m{"l": []any{"a", "b"}, "s": "x"}, nil, "yes"},
		{"size of a number", "size(args.s) == 1 || true", m{"s": int64(1)}, nil, "size() of a number"},
		{"list", "args.l == ['a', 'b']", m{"l": []any{"a", "b"}}, nil, "yes"},
		{"object", "args.o == {'a': 1}", m{"o": m{"a": int64(1)}}, nil, "yes"},
		{"null in", "args.s in ['a']", m{"s": nil}, nil, "no"},
		{"asked for its type", "type(args.s) == int ? args.s == 1 : args.s == 'one'", m{"s": "one"}, nil, "yes"},

		{"no truth value", "args.b", m{"b": "true"}, nil, "neither true nor false"},
		{"truth value", "args.b", m{"b": true}, nil, "yes"},
		{"no truth value after ||", "args.n > 5 || args.b", m{"n": int64(1), "b": "yes"}, nil, "no such overload"},
		{"no truth value before &&", "args.b && false", m{"b": "yes"}, nil, "no such overload"},
		{"no truth value under !", "!args.b", m{"b": "false"}, nil, "no such overload"},
		{"truth after &&", "true && args.b", m{"b": true}, nil, "yes"},
		{"chain", "args.n == 1 || args.n == 2 || args.n == 3", m{"n": int64(3)}, nil, "yes"},
		{"chain of and", "args.n > 1 && args.n > 2 && args.n > 3", m{"n": int64(3)}, nil, "no"},

		{"NaN", "!(args.x > 500)", m{"x": math.NaN()}, nil, "args.x is not a finite number"},
		{"infinite", "args.x < 500", m{"x": math.Inf(-1)}, nil, "args.x is not a finite number"},
		{"double of NaN", "!(double(args.x) > 500.0)", m{"x": "NaN"}, nil, "not a decimal number"},
		{"double of hex", "double(args.x) > 0.0", m{"x": "0x1p-2"}, nil, "not a decimal number"},
		{"double of exponent", "double(args.x) > 0.0", m{"x": "1e6"}, nil, "not a decimal number"},
		{"double", "double(args.x) == 1.5", m{"x": "1.5"}, nil, "yes"},
		{"int of a fraction", "int(args.x) == 100", m{"x": 100.5}, nil, "not a whole number"},
		{"int of a whole", "int(args.x) == 100", m{"x": 100.0}, nil, "yes"},
		{"int with separators", "int(args.x) == 500", m{"x": "5_00"}, nil, "not a whole number"},
		{"int with a sign", "int(args.x) == 500", m{"x": "+500"}, nil, "not a whole number"},
		{"int with zeros", "int(args.x) == 500", m{"x": "0500"}, nil, "not a whole number"},
		{"int too large", "int(args.x) > 0", m{"x": "99999999999999999999"}, nil, "not a whole number"},
		{"int of text", "int(args.x) == -500", m{"x": "-500"}, nil, "yes"},
		{"int of truth", "int(args.x) == 1", m{"x": true}, nil, "int() of a truth value"},
		{"int of time", "int(now) > 0", m{}, nil, "yes"},
		{"overflow", "args.x + 1 > 0", m{"x": int64(math.MaxInt64)}, nil, "integer overflow"},
		{"division by zero", "10 / args.x > 0 || true", m{"x": int64(0)}, nil, "division by zero"},

		{"all", "args.l.all(i, i.price < 5)", m{"l": []any{m{"price": int64(1)}, m{"price": int64(2)}}}, nil, "yes"},
		{"all, one without", "args.l.all(i, i.price < 5)", m{"l": []any{m{"price": int64(1)}, m{}}}, nil, "no such key: price"},
		{"all, absorbed by a later false", "!args.l.all(i, i.price < 5)", m{"l": []any{m{}, m{"price": int64(9)}}}, nil, "no such key: price"},
		{"exists, absorbed by a later true", "args.l.exists(i, i.price < 5)", m{"l": []any{m{}, m{"price": int64(1)}}}, nil, "no such key: price"},
		{"exists, wrong class", "args.l.exists(i, i != 'x')", m{"l": []any{int64(1)}}, nil, "a number is compared with a text"},
		{"costly list", "args.l.all(i, i == 'x' || i == 'y' || i == 'z')", m{"l": manyTexts(100_000)}, nil, "cost limit"},
		{"map and filter", "args.l.filter(i, i > 1).map(i, i * 2) == [4]", m{"l": []any{int64(1), int64(2)}}, nil, "yes"},

		{"prefix", "args.s.startsWith('ab')", m{"s": "abc"}, nil, "yes"},
		{"prefix of a number", "args.s.startsWith('ab') || true", m{"s": int64(5)}, nil, "no such overload"},
		{"matches", "args.s.matches('^[a-c]+$')", m{"s": "abc"}, nil, "yes"},
		{"matches a long text", "args.s.matches('^[a-c]+$')", m{"s": strings.Repeat("a", maxMatched+1)}, nil, "too long for a regular expression"},
		{"strings", "args.s.lowerAscii().trim() == 'abc' && args.s.indexOf('B') == 2", m{"s": " aBC"}, nil, "yes"},
		{"now", "now.getDayOfWeek() == 1 && now.getHours('+02:00') == 12", m{}, nil, "yes"},
		{"variables", "tool == 't.x' && resource == 'r' && agent_id == 'a' && user_id == 'u' && goal == 'g' && risk_tier == 'high'", m{}, nil, "yes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := &Input{Tool: "t.x", Resource: "r", AgentID: "a", UserID: "u", Goal: "g", Risk: "high", Now: now, Args: tt.args, Unusable: tt.unusable}
			d := judgeWhen(t, tt.when, in)
			switch tt.want {
			case "yes":
				if d.Effect != Allow {
					t.Errorf("%s", d.Summary)
				}
			case "no":
				if d.ReasonCode != ReasonDefault {
					t.Errorf("%s", d.Summary)
				}
			default:
				prefix := "Policy p v1: rule r cannot be evaluated: "
				if d.Effect != Deny || d.ReasonCode != ReasonError || !strings.HasPrefix(d.Summary, prefix) || !strings.Contains(d.Summary, tt.want) {
					t.Errorf("%s %s\nwant %s", d.ReasonCode, d.Summary, tt.want)
				}
			}
		})
	}
}

func manyTexts(n int) []any {
	l := make([]any, n)
	for i := range l {
		l[i] = "z"
	}
	return l
}

// TestCostIsBounded: what loads ends soon, also on the largest arguments that a
// call can carry. Each of these once took seconds or minutes.
func TestCostIsBounded(t *testing.T) {
	list, text := manyTexts(200_000), strings.Repeat("s", 200_000)
	args := m{
		"l": list, "s": text, "t": strings.Repeat("s", 200_000), "digits": strings.Repeat("1", 200_000),
		"deep": []any{list}, "deep2": []any{manyTexts(200_000)},
	}
	for _, each := range []string{
		"i == 'z'", "args.s.size() > 0", "args.s == args.t", "args.s <= args.t", "args.s + 'x' != 'y'",
		"args.deep == args.deep2", "[args.deep] == [args.deep2]", "int(args.digits) > 0", "double(args.digits) > 0.0",
	} {
		start := time.Now()
		d := judgeWhen(t, "args.l.all(i, "+each+")", &Input{Tool: "t", Args: args})
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s: %v", each, took)
		}
		if d.ReasonCode != ReasonError || !strings.Contains(d.Summary, "cost limit") {
			t.Errorf("%s: %s", each, d.Summary)
		}
	}
	d := judgeWhen(t, "args.deep == args.deep2", &Input{Tool: "t", Args: args})
	if d.ReasonCode != ReasonError || !strings.Contains(d.Summary, "a list of more than 10000 values is compared") {
		t.Error(d.Summary)
	}
}

func TestSummaryIsClean(t *testing.T) {
	d := judgeWhen(t, "args[args.k] == 1", &Input{Tool: "t", Args: m{"k": "a\r\n\x1b[31mb\u2028" + strings.Repeat("c", 1000)}})
	if d.ReasonCode != ReasonError || strings.ContainsAny(d.Summary, "\r\n\x1b\u2028") || len(d.Summary) > 700 {
		t.Errorf("%q", d.Summary)
	}
	s, err := Compile(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d := s.Decide(&Input{Tool: "a\nb" + strings.Repeat("c", 10_000)}); strings.ContainsAny(d.Summary, "\n") || len(d.Summary) > 700 {
		t.Errorf("%q", d.Summary)
	}
}
