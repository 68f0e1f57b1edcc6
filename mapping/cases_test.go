package mapping

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

const caseRules = `
hosts: [api.example.com]
rules:
  - match: { methods: [GET, POST], path: /graphql }
    tool: ex.graphql.unknown
    risk: critical
    args: graphql
    resource: "ex:unknown"
    cases:
      - { on: [mutation.issueDelete, mutation.issueArchive], tool: ex.issue.delete, risk: high, resource: "ex:issue:{args.arguments.id}",
          require: [{ name: arguments.id, type: string }] }
      - { on: [mutation.pay], tool: ex.pay, risk: high, require: [{ name: arguments.input.amount, type: integer }],
          optional: [{ name: arguments.input.iban, secret: true }] }
      - { on: ["query.*"], tool: ex.query, risk: low }
  - match: { path: /rpc }
    tool: ex.rpc.unknown
    args: jsonrpc
    risk: critical
    cases:
      - { on: ["eth_get*", eth_call], tool: ex.rpc.read, risk: low }
      - { on: [eth_sendRawTransaction], tool: ex.rpc.send, risk: critical }
  - match: { path: /aws }
    tool: ex.aws.unknown
    args: aws-query
    risk: critical
    cases:
      - { on: ["Describe*", "Get*User"], tool: ex.aws.read, risk: low }
      - { on: [TerminateInstances], tool: ex.aws.terminate, risk: high, resource: "ex:instance:{args.InstanceId.1}" }
`

func manyArguments(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "a%d: $v ", i)
	}
	return b.String()
}

type wantCall struct{ tool, risk, resource string }

func TestCases(t *testing.T) {
	set := mustCompile(t, caseRules)
	for _, c := range []struct {
		name, path, body string
		want             []wantCall
		args             string // of the first call: name=value below args, as JSON
		ambiguous        string
	}{
		{"literal argument", "/graphql", `{"query":"mutation { issueDelete(id: \"I1\") { ok } }"}`, []wantCall{{"ex.issue.delete", "high", "ex:issue:I1"}}, `{"id":"I1"}`, ""},
		{"variable", "/graphql", `{"query":"mutation($a: ID!) { issueDelete(id: $a) { ok } }","variables":{"a":"I2"}}`, []wantCall{{"ex.issue.delete", "high", "ex:issue:I2"}}, `{"id":"I2"}`, ""},
		{"default of a variable", "/graphql", `{"query":"mutation($a: ID = \"I3\") { issueDelete(id: $a) { ok } }"}`, []wantCall{{"ex.issue.delete", "high", "ex:issue:I3"}}, `{"id":"I3"}`, ""},
		{"no value", "/graphql", `{"query":"mutation($a: ID) { issueDelete(id: $a) { ok } }"}`, []wantCall{{"ex.issue.delete", "high", "ex:issue:-"}}, `{}`, ""},
		{
			"two aliases of one field", "/graphql", `{"query":"mutation { a: issueDelete(id: 1) { ok } b: issueArchive(id: 2) { ok } }"}`,
			[]wantCall{{"ex.issue.delete", "high", "ex:issue:-"}, {"ex.issue.delete", "high", "ex:issue:-"}},
			`{}`, "",
		},
		{"an alias hides nothing", "/graphql", `{"query":"mutation { viewer: issueDelete(id: \"x\") { ok } }"}`, []wantCall{{"ex.issue.delete", "high", "ex:issue:x"}}, `{"id":"x"}`, ""},
		{
			"a fragment hides nothing", "/graphql", `{"query":"mutation { ...f } fragment f on Mutation { issueDelete(id: \"x\") { ok } wipe }"}`,
			[]wantCall{{"ex.issue.delete", "high", "ex:issue:x"}, {"ex.graphql.unknown", "critical", "ex:unknown"}},
			`{"id":"x"}`, "",
		},
		{"a query of that name is no mutation", "/graphql", `{"query":"{ issueDelete { id } }"}`, []wantCall{{"ex.query", "low", "ex:unknown"}}, `{}`, ""},
		{
			"literal object", "/graphql", `{"query":"mutation { pay(input: {amount: 5, iban: \"DE\", tags: [A, null, true, 1.5]}) { ok } }"}`,
			[]wantCall{{"ex.pay", "high", "ex:unknown"}},
			`{"input":{"amount":5,"iban":"DE","tags":["A",null,true,1.5]}}`, "",
		},
		{"variable inside an object", "/graphql", `{"query":"mutation($n: Int) { pay(input: {amount: $n}) { ok } }","variables":{"n":7}}`, []wantCall{{"ex.pay", "high", "ex:unknown"}}, `{"input":{"amount":7}}`, ""},
		{"member twice", "/graphql", `{"query":"mutation { pay(input: {amount: 5, amount: 6}) { ok } }"}`, []wantCall{{"ex.pay", "high", "ex:unknown"}}, "", ClassBody},
		{"argument twice", "/graphql", `{"query":"mutation { issueDelete(id: \"a\", id: \"b\") { ok } }"}`, []wantCall{{"ex.issue.delete", "high", "ex:issue:b"}}, "", ClassBody},
		{"variable declared twice", "/graphql", `{"query":"mutation($a: ID = \"a\", $a: ID = \"b\") { issueDelete(id: $a) { ok } }"}`, []wantCall{{"ex.issue.delete", "high", "ex:issue:b"}}, "", ClassBody},
		{"does not parse", "/graphql", `{"query":"mutation {"}`, []wantCall{{"ex.graphql.unknown", "critical", "ex:unknown"}}, "", ClassBody},
		{"too many fields", "/graphql", `{"query":"mutation {` + strings.Repeat(` a: wipe`, 101) + `}"}`, nil, "", ClassBatch},
		{"values out of one variable", "/graphql", `{"query":"mutation($v: X) { wipe(` + manyArguments(2000) + `) }","variables":{"v":[` + strings.Repeat("1,", 999) + `1]}}`, nil, "", ClassBody},
		{"variables typed for many fields", "/graphql", `{"query":"mutation {` + strings.Repeat(" wipe", 60) + `}","variables":{"v":[` + strings.Repeat("1,", 2000) + `1]}}`, nil, "", ClassBody},
		{"rpc", "/rpc", `{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":[]}`, []wantCall{{"ex.rpc.read", "low", "https://api.example.com/rpc"}}, "", ""},
		{
			"rpc batch", "/rpc", `[{"jsonrpc":"2.0","id":1,"method":"eth_call"},{"jsonrpc":"2.0","id":2,"method":"eth_sendRawTransaction"},{"jsonrpc":"2.0","id":3,"method":"new"}]`,
			[]wantCall{{"ex.rpc.read", "low", "https://api.example.com/rpc"}, {"ex.rpc.send", "critical", "https://api.example.com/rpc"}, {"ex.rpc.unknown", "critical", "https://api.example.com/rpc"}},
			"", "",
		},
		{"action", "/aws", "Action=DescribeInstances", []wantCall{{"ex.aws.read", "low", "https://api.example.com/aws"}}, "", ""},
		{"action in the middle", "/aws", "Action=GetSomeUser", []wantCall{{"ex.aws.read", "low", "https://api.example.com/aws"}}, "", ""},
		{"action by another spelling", "/aws", "Action=describeInstances", []wantCall{{"ex.aws.unknown", "critical", "https://api.example.com/aws"}}, "", ""},
		{"action with arguments", "/aws", "Action=TerminateInstances&InstanceId.1=i-1", []wantCall{{"ex.aws.terminate", "high", "ex:instance:i-1"}}, "", ""},
		{"no action", "/aws", "X=1", []wantCall{{"ex.aws.unknown", "critical", "https://api.example.com/aws"}}, "", ClassBody},
	} {
		t.Run(c.name, func(t *testing.T) {
			ct := "application/json"
			if c.path == "/aws" {
				ct = "application/x-www-form-urlencoded"
			}
			m := set.Match(&Request{
				Method: "POST", Scheme: "https", Authority: "api.example.com:443", Target: c.path,
				Header: map[string][]string{"Content-Type": {ct}}, ContentLength: int64(len(c.body)),
			})
			r := m.Read([]byte(c.body), true)
			if c.ambiguous == "" && len(r.Ambiguous) > 0 || c.ambiguous != "" && (len(r.Ambiguous) == 0 || r.Ambiguous[0].Class != c.ambiguous) {
				t.Errorf("ambiguities %+v, want class %q", r.Ambiguous, c.ambiguous)
			}
			if c.want == nil {
				return
			}
			var got []wantCall
			for _, call := range r.Calls {
				got = append(got, wantCall{call.Tool, call.Risk, call.Resource})
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("calls %v, want %v", got, c.want)
			}
			if c.args != "" {
				if b, _ := json.Marshal(r.Calls[0].Args["arguments"]); string(b) != c.args {
					t.Errorf("arguments %s, want %s", b, c.args)
				}
			}
		})
	}
	if info, ok := set.Tool("ex.pay"); !ok || info.Risk != RiskHigh || len(info.Args) != 2 {
		t.Errorf("the tool of a case is known as %+v, %v", info, ok)
	}
	if call := set.Match(&Request{Method: "POST", Scheme: "https", Authority: "api.example.com", Target: "/graphql", ContentLength: 9}).Read(nil, false); call.Calls[0].Tool != "ex.graphql.unknown" {
		t.Errorf("an unread body is %s", call.Calls[0].Tool)
	}
}

// TestCaseSecrets: a secret argument may stand in a variable of any name.
func TestCaseSecrets(t *testing.T) {
	set := mustCompile(t, caseRules)
	body := `{"query":"mutation($x: P) { pay(input: $x) { ok } }","variables":{"x":{"amount":1,"iban":"DE1"}}}`
	r := set.Match(&Request{
		Method: "POST", Scheme: "https", Authority: "api.example.com", Target: "/graphql",
		Header: map[string][]string{"Content-Type": {"application/json"}}, ContentLength: int64(len(body)),
	}).Read([]byte(body), true)
	if got := fmt.Sprint(r.Calls[0].Secret); got != "[arguments.input.iban variables]" {
		t.Errorf("secret: %s", got)
	}
}

func TestCaseFaults(t *testing.T) {
	for text, want := range map[string]string{
		"args: json\n    cases: [{ on: [a], tool: a.c }]":                                       "`cases` belong to",
		"args: jsonrpc\n    mcp: s\n    cases: [{ on: [a], tool: a.c }]":                        "`cases` belong to",
		"args: jsonrpc\n    cases: [{ on: [a] }]":                                               "has no `tool`",
		"args: jsonrpc\n    cases: [{ tool: a.c }]":                                             "has no `on`",
		"args: jsonrpc\n    cases: [{ on: [a], tool: a.c }, { on: [a], tool: a.d }]":            "in a case before",
		"args: jsonrpc\n    cases: [{ on: [\"a**\"], tool: a.c }]":                              "a part of one with `*`",
		"args: graphql\n    cases: [{ on: [merge], tool: a.c }]":                                "the type and the root field",
		"args: jsonrpc\n    cases: [{ on: [a], tool: a.c, risk: huge }]":                        "unknown risk",
		"args: jsonrpc\n    cases: [{ on: [a], tool: a.c, resource: \"x:{path.none}\" }]":       "names no {none}",
		"args: jsonrpc\n    cases: [{ on: [a], tool: \"a c\" }]":                                "a name has letters",
		"args: jsonrpc\n    cases: [{ on: [a], tool: a.c, require: [{ name: x, type: no }] }]":  "unknown type",
		"args: jsonrpc\n    cases: [{ on: [a], tool: a.c, resources: \"x\" }]":                  "resources",
		"args: jsonrpc\n    cases: [{ on: [a], tool: a.c, resource: [\"x:{args.a}\", \"{\"] }]": "unbalanced brace",
	} {
		_, err := Compile([]Source{{"r.yaml", []byte("rules:\n  - match: { host: a.example, path: /x }\n    tool: a.b\n    " + text + "\n")}}, Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n: %v, want %q", text, err, want)
		}
	}
}

func TestNamedRestHostAndQuery(t *testing.T) {
	set := mustCompile(t, `
rules:
  - match: { host: ["{bucket}.s3.example", "{bucket}.s3-{region}.example"], methods: [POST], path: /, query: { delete: "*" } }
    tool: s3.objects.delete
    resource: "s3:{path.bucket}"
  - match: { host: ["{bucket}.s3.example", "{bucket}.s3-{region}.example"], methods: [PUT], path: "/{key...}", query: { acl: "*", versionId: "v*" } }
    tool: s3.version.acl
    quirks: [empty_segments, encoded_slash]
    resource: "s3:{path.bucket}/{path.key}"
  - match: { host: ["{bucket}.s3.example", "{bucket}.s3-{region}.example"], methods: [PUT], path: "/{key...}" }
    tool: s3.object.put
    quirks: [empty_segments, encoded_slash]
    resource: "s3:{path.bucket}/{path.key}"
  - match: { host: s3.example, methods: [PUT], path: "/{bucket}/{key...}" }
    tool: s3.object.put
    quirks: [empty_segments, encoded_slash]
    resource: "s3:{path.bucket}/{path.key}"
  - match: { host: s3.example, methods: [GET], path: "/{a...}/mid/{b}" }
    tool: s3.mid
    resource: "{path.a}:{path.b}"
`)
	for _, c := range []struct{ method, host, target, tool, resource string }{
		{"PUT", "b1.s3.example", "/a/b%20c.txt", "s3.object.put", "s3:b1/a/b%20c.txt"},
		{"PUT", "b1.s3-eu.example", "/a", "s3.object.put", "s3:b1/a"},
		{"PUT", "s3.example", "/b1/a/b%20c.txt", "s3.object.put", "s3:b1/a/b%20c.txt"},
		{"PUT", "s3.example", "/b1/a%2Fb", "s3.object.put", "s3:b1/a/b"},
		{"PUT", "s3.example", "/b1//a", "s3.object.put", "s3:b1//a"},
		{"PUT", "s3.example", "/b1/a:b", "s3.object.put", "s3:b1/a%3Ab"},
		{"PUT", "b1.s3.example", "/a?acl", "s3.object.put", "s3:b1/a"},
		{"PUT", "b1.s3.example", "/a?acl&versionId=v1", "s3.version.acl", "s3:b1/a"},
		{"PUT", "b1.s3.example", "/a?acl=x/y&versionId=v1", "s3.version.acl", "s3:b1/a"},
		{"PUT", "b1.s3.example", "/a?%61cl&versionId=v1", "s3.version.acl", "s3:b1/a"},
		{"PUT", "b1.s3.example", "/a?acl&versionId=w1", "s3.object.put", "s3:b1/a"},
		{"POST", "b1.s3.example", "/?delete", "s3.objects.delete", "s3:b1"},
		{"POST", "b1.s3.example", "/?delete=", "s3.objects.delete", "s3:b1"},
		{"POST", "b1.s3.example", "/", "http.post", "https://b1.s3.example/"},
		{"GET", "s3.example", "/x/y/mid/z", "s3.mid", "x/y:z"},
	} {
		m := set.Match(&Request{Method: c.method, Scheme: "https", Authority: c.host + ":443", Target: c.target})
		call := m.Read(nil, true).Calls[0]
		if call.Tool != c.tool || call.Resource != c.resource || len(m.Ambiguous) > 0 {
			t.Errorf("%s %s%s: %s on %s (%v), want %s on %s", c.method, c.host, c.target, call.Tool, call.Resource, m.Ambiguous, c.tool, c.resource)
		}
	}
	twice := set.Match(&Request{Method: "PUT", Scheme: "https", Authority: "b.s3.example", Target: "/a?acl&versionId=v1&versionId=w"})
	if len(twice.Ambiguous) == 0 || twice.Rule.Tool != "s3.version.acl" {
		t.Errorf("a parameter that decides, twice: %s, %v", twice.Rule.Tool, twice.Ambiguous)
	}
	dots := set.Match(&Request{Method: "PUT", Scheme: "https", Authority: "s3.example", Target: "/b1/a%2F..%2Fb"})
	if len(dots.Ambiguous) == 0 {
		t.Error("dots behind an encoded slash are not ambiguous")
	}
	for _, text := range []string{
		`{ host: a.example, path: "/x{rest...}" }`, `{ host: a.example, path: "/{rest...}/{rest}" }`, `{ host: a.example, path: "/{a}/{a...}" }`, `{ host: a.example, path: "/{...}" }`,
		`{ host: "{a}.{a}.example", path: / }`, `{ host: "{a}.example", path: "/{a}" }`, `{ host: "{a,b}.example", path: / }`, `{ host: "{a...}.example", path: / }`,
		`{ host: a.example, path: /, query: { "": "x" } }`, `{ host: a.example, path: /, query: { a: "" } }`, `{ host: a.example, path: /, query: { a: "**" } }`,
	} {
		if _, err := Compile([]Source{{"r.yaml", []byte("rules:\n  - match: " + text + "\n    tool: a.b\n")}}, Options{}); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
}
