package mapping

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTypeValue(t *testing.T) {
	tests := []struct {
		v    any
		typ  string
		text bool
		want any // nil: refused
	}{
		{"4900", "integer", true, int64(4900)},
		{"-1", "integer", true, int64(-1)},
		{"9223372036854775807", "integer", true, int64(math.MaxInt64)},
		{"-9223372036854775808", "integer", true, int64(math.MinInt64)},
		{"9223372036854775808", "integer", true, nil},
		{"4900", "integer", false, nil},
		{"1e6", "integer", true, nil},
		{"+5", "integer", true, nil},
		{"05", "integer", true, nil},
		{"1_000", "integer", true, nil},
		{"1,000", "integer", true, nil},
		{"5.0", "integer", true, nil},
		{"0x10", "integer", true, nil},
		{" 5", "integer", true, nil},
		{"5 ", "integer", true, nil},
		{"", "integer", true, nil},
		{"-", "integer", true, nil},
		{"\u0665", "integer", true, nil},
		{"NaN", "integer", true, nil},
		{int64(5), "integer", false, int64(5)},
		{4900.0, "integer", true, nil},
		{rawNumber("1e6"), "integer", false, nil},
		{rawNumber("4900.0"), "integer", false, nil},
		{json.Number("4900"), "integer", true, int64(4900)},
		{json.Number("4900.0"), "integer", true, nil},
		{nil, "integer", true, nil},
		{true, "integer", true, nil},
		{[]any{int64(1)}, "integer", true, nil},

		{"1.5", "number", true, 1.5},
		{"1e6", "number", true, 1e6},
		{"NaN", "number", true, nil},
		{"Infinity", "number", true, nil},
		{"1e400", "number", true, nil},
		{"0x1p4", "number", true, nil},
		{".5", "number", true, nil},
		{"5.", "number", true, nil},
		{"01.5", "number", true, nil},
		{"1e", "number", true, nil},
		{"1e+-5", "number", true, nil},
		{"9007199254740993", "number", true, int64(9007199254740993)},
		{"18446744073709551617", "number", true, nil},
		{"0.12345678901234567890", "number", true, nil},
		{math.NaN(), "number", true, nil},
		{math.Inf(1), "number", true, nil},

		{"true", "boolean", true, true},
		{"false", "boolean", true, false},
		{"True", "boolean", true, nil},
		{"1", "boolean", true, nil},
		{"yes", "boolean", true, nil},
		{"true", "boolean", false, nil},
		{true, "boolean", false, true},

		{"usd", "currency", true, "usd"},
		{"USD", "currency", true, nil},
		{"us", "currency", true, nil},
		{"usd ", "currency", true, nil},
		{"u\u017fd", "currency", true, nil},

		{"1700000000", "timestamp", true, int64(1700000000)},
		{"2026-01-02T03:04:05Z", "timestamp", true, "2026-01-02T03:04:05Z"},
		{"tomorrow", "timestamp", true, nil},

		{"x", "string", true, "x"},
		{int64(5), "string", true, nil},
		{"x", "array", true, nil},
		{"x", "object", true, nil},
		{indexedList{"x"}, "object", true, map[string]any{"0": "x"}},
		{indexedList{"x"}, "array", true, []any{"x"}},
	}
	for _, tt := range tests {
		got, want := typeValue(tt.v, tt.typ, tt.text)
		if (want == "") != (tt.want != nil) || !cmp.Equal(got, tt.want) {
			t.Errorf("%T(%v) as %s: %v %q, want %v", tt.v, tt.v, tt.typ, got, want, tt.want)
		}
	}
}

func TestProblems(t *testing.T) {
	s := mustCompile(t, stripeRules)
	tests := []struct {
		body string
		want []Problem
	}{
		{"amount=1e6", []Problem{{"amount", `must be an integer, not "1e6"`, "invalid"}}},
		{"charge=ch_1", []Problem{{"amount", "is required", "missing"}}},
		{"amount=1&currency=USD", []Problem{{"currency", `must be a currency of three lower-case letters, not "USD"`, "invalid"}}},
		{"amount=1&metadata=x", []Problem{{"metadata", `must be an object, not "x"`, "invalid"}}},
		{"amount[]=1", []Problem{{"amount", "must be an integer, not a list", "invalid"}}},
		{"amount=1&items[0][quantity]=x", []Problem{{"items.0.quantity", `must be an integer, not "x"`, "invalid"}}},
	}
	for _, tt := range tests {
		req, body := form(tt.body)
		r := s.Match(req).Read(body, true)
		if d := cmp.Diff(tt.want, r.Calls[0].Problems); d != "" || len(r.Ambiguous) > 0 {
			t.Errorf("%s: %s %+v", tt.body, d, r.Ambiguous)
		}
		for _, p := range tt.want {
			if _, there := r.Calls[0].Args[p.Arg]; there {
				t.Errorf("%s: %s is still there", tt.body, p.Arg)
			}
		}
	}
}

func TestNestedRequirements(t *testing.T) {
	s := mustCompile(t, `
hosts: [a.example]
rules:
  - match: { path: /a }
    tool: t
    args: json
    require: [{ name: to.account }, { name: "rows.*.n", type: integer }, { name: kind, enum: [x, y] }, { name: pin, type: integer, secret: true }]
`)
	tests := []struct{ body, want string }{
		{`{}`, "kind missing, pin missing, to.account missing"},
		{`{"to":{},"kind":"x","pin":1}`, "to.account missing"},
		{`{"to":5,"kind":"x","pin":1}`, "to.account missing"},
		{`{"to":{"account":null},"kind":"z","pin":"hunter2"}`, "kind invalid, pin invalid, to.account invalid"},
		{`{"to":{"account":"a"},"kind":"x","pin":1,"rows":[{"n":1},{}]}`, "rows.1.n missing"},
		{`{"to":{"account":"a"},"kind":"x","pin":1,"big":18446744073709551617}`, "big invalid"},
	}
	for _, tt := range tests {
		r := readAs(s, kindRequest("POST", "/a", "application/json", tt.body), tt.body)
		var got []string
		for _, p := range r.Calls[0].Problems {
			got = append(got, p.Arg+" "+p.Kind)
			if strings.Contains(p.Detail, "hunter2") {
				t.Errorf("a secret is told: %s", p.Detail)
			}
		}
		if strings.Join(got, ", ") != tt.want {
			t.Errorf("%s: got %q, want %q", tt.body, strings.Join(got, ", "), tt.want)
		}
	}
}

func TestTypeArgs(t *testing.T) {
	s := mustCompile(t, stripeRules+`
  - { match: { host: mcp.example, path: /mcp }, args: jsonrpc, mcp: srv, risk: medium, optional: [{ name: n, type: integer }, { name: token, secret: true }] }
`)
	args := map[string]any{"amount": "4900", "currency": "usd", "card": map[string]any{"number": "1"}, "n": json.Number("5"), "f": json.Number("1.5")}
	typed, secret, problems := s.TypeArgs("stripe.refund.create", args)
	want := map[string]any{"amount": int64(4900), "currency": "usd", "card": map[string]any{"number": "1"}, "n": int64(5), "f": 1.5}
	if d := cmp.Diff(want, typed); d != "" || len(problems) > 0 || len(secret) != 1 || args["amount"] != "4900" {
		t.Errorf("%s %v %v %v", d, problems, secret, args)
	}
	_, _, problems = s.TypeArgs("stripe.refund.create", map[string]any{"amount": 4900.0, "Currency": "usd"})
	if len(problems) != 2 {
		t.Errorf("%+v", problems)
	}
	if typed, _, problems = s.TypeArgs("unknown", map[string]any{"amount": "4900"}); typed["amount"] != "4900" || problems != nil {
		t.Errorf("%v %v", typed, problems)
	}
	if _, _, problems = s.TypeArgs("stripe.refund.create", nil); len(problems) != 1 || problems[0].Kind != "missing" {
		t.Errorf("%+v", problems)
	}
	deep := any("x")
	for range 200 {
		deep = map[string]any{"a": deep}
	}
	if _, _, problems = s.TypeArgs("unknown", map[string]any{"d": deep}); len(problems) != 1 {
		t.Errorf("%+v", problems)
	}
	typed, secret, _ = s.TypeArgs("mcp.srv.tool", map[string]any{"n": "5", "token": "t"})
	if typed["n"] != int64(5) || len(secret) != 1 {
		t.Errorf("%v %v", typed, secret)
	}
	info, ok := s.Tool("mcp.srv.tool")
	if !ok || info.Name != "mcp.srv.tool" || info.Risk != RiskMedium || !info.OpenArgs {
		t.Errorf("%+v", info)
	}
	for _, name := range []string{"mcp.other.tool", "mcp.srv.", "nothing", ""} {
		if _, ok := s.Tool(name); ok {
			t.Errorf("there is a tool %q", name)
		}
	}
	if info, ok := s.Tool("stripe.refund.create"); !ok || info.Risk != RiskHigh || len(info.Args) != 5 {
		t.Errorf("%+v", info)
	}
	if got := s.Tools(); len(got) != 6 || got[0] != "mcp.srv" {
		t.Errorf("%v", got)
	}
}

func TestTemplates(t *testing.T) {
	s := mustCompile(t, `
hosts: [a.example]
rules:
  - { match: { path: "/o/{owner}/{repo}" }, tool: t, args: query, resource: "{host}:{path.owner}/{path.repo}:{query.q}:{header.X-Y}:{args.a.b}" }
`)
	req := kindRequest("GET", "/o/a%20b/-?q=1:2&a[b]=%7Bx%7D", "", "")
	req.Header["X-Y"] = []string{"v/w"}
	r := readAs(s, req, "")
	if want := "a.example:a%20b/%2D:1%3A2:v%2Fw:%7Bx%7D"; r.Calls[0].Resource != want || len(r.Ambiguous) > 0 {
		t.Errorf("%s %+v", r.Calls[0].Resource, r.Ambiguous)
	}
	r = readAs(s, kindRequest("GET", "/o/a/b?q=1&q=2", "", ""), "")
	if want := "a.example:a/b:-:-:-"; r.Calls[0].Resource != want || len(r.Ambiguous) == 0 {
		t.Errorf("%s %+v", r.Calls[0].Resource, r.Ambiguous)
	}
}

func TestQuirks(t *testing.T) {
	s := mustCompile(t, `
hosts: [a.example]
rules:
  - { match: { path: "/k/{key}" }, tool: slash, quirks: [encoded_slash, encoded_unreserved], resource: "k:{path.key}" }
  - { match: { path: "/e/**" }, tool: empty, quirks: [empty_segments] }
  - { match: { path: "/t/x" }, tool: trailing, quirks: [trailing_slash] }
  - { match: { path: "/p/{x}" }, tool: params, quirks: [path_params], resource: "p:{path.x}" }
  - { match: { path: "/f" }, tool: form, risk: critical, args: form, quirks: [query_with_form] }
`)
	tests := []struct{ target, tool, class string }{
		{"/k/a%2Fb", "slash", ""},
		{"/k/%61", "slash", ""},
		{"/k/a;b", "slash", "path/400"},
		{"/k/..%2Ff", "form", "path/400 path/400"},
		{"/k/%2e%2e/f", "form", "path/400 path/400"},
		{"/e//a//b", "empty", ""},
		{"/e//../f", "form", "path/400 path/400"},
		{"/t/x/", "trailing", ""},
		{"/t//x", "trailing", "path/400"},
		{"/p/a;b=c", "params", ""},
		{"/p/..;/f", "form", "path/400 path/400"},
		{"/f?a=1", "form", ""},
		{"/f?b=1", "form", "source/400"},
	}
	for _, tt := range tests {
		r := readAs(s, kindRequest("POST", tt.target, "application/x-www-form-urlencoded", "b=2"), "b=2")
		if r.Calls[0].Tool != tt.tool || classes(r.Ambiguous) != tt.class {
			t.Errorf("%s: %s %q %+v", tt.target, r.Calls[0].Tool, classes(r.Ambiguous), r.Ambiguous)
		}
	}
}

func TestHeaderMatch(t *testing.T) {
	s := mustCompile(t, `
hosts: [a.example]
rules:
  - { match: { path: /, headers: { x-amz-target: "Dynamo*.Delete{Table,Item}" } }, tool: delete, risk: critical }
  - { match: { path: / }, tool: other, risk: low }
`)
	for _, tt := range []struct {
		values []string
		tool   string
		class  string
	}{
		{[]string{"DynamoDB_1.DeleteTable"}, "delete", ""},
		{[]string{"DynamoDB_1.GetItem"}, "other", ""},
		{nil, "other", ""},
		{[]string{"DynamoDB_1.GetItem", "DynamoDB_1.DeleteItem"}, "delete", "header/400"},
	} {
		req := kindRequest("POST", "/", "", "")
		if tt.values != nil {
			req.Header["X-Amz-Target"] = tt.values
		}
		r := readAs(s, req, "")
		if r.Calls[0].Tool != tt.tool || classes(r.Ambiguous) != tt.class {
			t.Errorf("%v: %s %+v", tt.values, r.Calls[0].Tool, r.Ambiguous)
		}
	}
}
