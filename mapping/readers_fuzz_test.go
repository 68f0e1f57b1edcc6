package mapping

import (
	"encoding/json"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/actpass/sidecar/mapping/corpus"
)

// Each body reader is held to one property: what it reads without an ambiguity is
// what an everyday parser of that format reads.

const readerRules = `
rules:
  - { match: { host: a.example, path: /graphql }, tool: a.graphql, args: graphql, cases: [{ on: ["query.*"], tool: a.query }, { on: ["mutation.*"], tool: a.mutation }] }
  - { match: { host: a.example, path: /rpc }, tool: a.rpc, args: jsonrpc }
  - { match: { host: a.example, path: /aws }, tool: a.aws, args: aws-query }
  - { match: { host: a.example, path: /aws-json }, tool: a.aws_json, args: aws-json }
  - { match: { host: a.example, path: /query }, tool: a.query, args: query }
`

// fuzzReader seeds with the bodies of a class of the corpus and calls check with
// what was read, where nothing was ambiguous.
func fuzzReader(f *testing.F, class, path, contentType string, header map[string][]string, check func(t *testing.T, body string, calls []Call)) {
	cases, err := corpus.Load(os.DirFS("testdata"), "corpus")
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		if _, body, err := c.Split(); err == nil && c.Class == class && len(body) > 0 && len(body) < 4096 {
			f.Add(string(body))
		}
	}
	s := mustCompile(f, readerRules)
	f.Fuzz(func(t *testing.T, body string) {
		req := &Request{Method: "POST", Scheme: "https", Authority: "a.example", Target: path, ContentLength: int64(len(body)), Header: map[string][]string{"Content-Type": {contentType}}}
		for k, v := range header {
			req.Header[k] = v
		}
		r := s.Match(req).Read([]byte(body), true)
		if len(r.Calls) == 0 || r.Calls[0].Tool == "" || r.Calls[0].Resource == "" {
			t.Fatalf("%q: %+v", body, r)
		}
		for _, c := range r.Calls {
			if len(c.Problems) > 0 {
				return
			}
		}
		if len(r.Ambiguous) == 0 && body != "" {
			check(t, body, r.Calls)
		}
	})
}

func FuzzGraphQL(f *testing.F) {
	fuzzReader(f, "graphql", "/graphql", "application/json", nil, func(t *testing.T, body string, calls []Call) {
		var messages []struct{ Query, OperationName string }
		text := body
		if !strings.HasPrefix(strings.TrimLeft(body, " \t\r\n"), "[") {
			text = "[" + body + "]"
		}
		if err := json.Unmarshal([]byte(text), &messages); err != nil {
			t.Fatalf("%q is read, and encoding/json says %v", body, err)
		}
		if len(calls) < len(messages) {
			t.Fatalf("%q: %d calls for %d messages", body, len(calls), len(messages))
		}
		for _, c := range calls {
			field, _ := c.Args["field"].(string)
			found := false
			for _, m := range messages {
				found = found || strings.Contains(m.Query, field)
			}
			if field == "" || !found {
				t.Fatalf("%q: the field %q", body, field)
			}
			if typ := c.Args["type"]; typ == "query" != (c.Tool == "a.query") {
				t.Fatalf("%q: a %v is %s", body, typ, c.Tool)
			}
		}
	})
}

func FuzzJSONRPC(f *testing.F) {
	fuzzReader(f, "jsonrpc", "/rpc", "application/json", nil, func(t *testing.T, body string, calls []Call) {
		var messages []struct{ Method *string }
		text := body
		if !strings.HasPrefix(strings.TrimLeft(body, " \t\r\n"), "[") {
			text = "[" + body + "]"
		}
		if err := json.Unmarshal([]byte(text), &messages); err != nil {
			t.Fatalf("%q is read, and encoding/json says %v", body, err)
		}
		if len(calls) != len(messages) {
			t.Fatalf("%q: %d calls for %d messages", body, len(calls), len(messages))
		}
		for i, m := range messages {
			if method, _ := calls[i].Args["rpc_method"].(string); m.Method != nil && method != *m.Method {
				t.Fatalf("%q: the method %q, and encoding/json says %q", body, method, *m.Method)
			}
		}
	})
}

func FuzzAWSQuery(f *testing.F) {
	fuzzReader(f, "aws", "/aws", "application/x-www-form-urlencoded", nil, func(t *testing.T, body string, calls []Call) {
		v, err := url.ParseQuery(body)
		if err != nil {
			t.Fatalf("%q is read, and net/url says %v", body, err)
		}
		if calls[0].Args["action"] != v.Get("Action") || len(v["Action"]) != 1 {
			t.Fatalf("%q: the action %v, and net/url says %q", body, calls[0].Args["action"], v["Action"])
		}
	})
}

func FuzzAWSJSON(f *testing.F) {
	header := map[string][]string{"X-Amz-Target": {"DynamoDB_20120810.GetItem"}}
	fuzzReader(f, "aws", "/aws-json", "application/x-amz-json-1.0", header, func(t *testing.T, body string, calls []Call) {
		var members map[string]any
		if err := json.Unmarshal([]byte(body), &members); err != nil {
			t.Fatalf("%q is read, and encoding/json says %v", body, err)
		}
		if len(members)+1 != len(calls[0].Args) || calls[0].Args["action"] != "GetItem" {
			t.Fatalf("%q: %v, and encoding/json reads %v", body, calls[0].Args, members)
		}
	})
}

func FuzzQuery(f *testing.F) {
	for _, s := range []string{"a=1&b[c]=2", "a=1&a=2", "a%5B%5D=1", "a;b", "_method=x", "%zz=1"} {
		f.Add(s)
	}
	s := mustCompile(f, readerRules)
	f.Fuzz(func(t *testing.T, query string) {
		r := s.Match(&Request{Method: "GET", Scheme: "https", Authority: "a.example", Target: "/query?" + query}).Read(nil, true)
		if len(r.Ambiguous) > 0 || len(r.Calls[0].Problems) > 0 {
			return
		}
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatalf("%q is read, and net/url says %v", query, err)
		}
		for k, list := range v {
			if !strings.ContainsAny(k, "[]") && (len(list) != 1 || r.Calls[0].Args[k] != list[0]) {
				t.Fatalf("%q: %s is %v, and net/url says %q", query, k, r.Calls[0].Args[k], list)
			}
		}
	})
}
