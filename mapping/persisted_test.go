package mapping

import (
	"fmt"
	"strings"
	"testing"
)

const persistedRules = `
rules:
  - match: { host: a.example, path: /graphql }
    tool: a.unknown
    risk: critical
    args: graphql
    persisted: ["{ viewer { login } }", "mutation M($id: ID!) { remove(id: $id) }"]
    cases:
      - { on: ["query.*"], tool: a.query, risk: low }
      - { on: [mutation.remove], tool: a.remove, resource: "a:thing:{args.arguments.id}" }
`

func TestPersistedQueries(t *testing.T) {
	s := mustCompile(t, persistedRules)
	ext := func(hash string) string {
		return fmt.Sprintf(`"extensions":{"persistedQuery":{"version":1,"sha256Hash":%q}}`, hash)
	}
	view := documentHash("{ viewer { login } }")
	remove := documentHash("mutation M($id: ID!) { remove(id: $id) }")
	for _, c := range []struct{ name, body, tool, resource string }{
		{"listed", `{` + ext(view) + `}`, "a.query", ""},
		{"listed mutation with its variables", `{` + ext(remove) + `,"variables":{"id":"7"}}`, "a.remove", "a:thing:7"},
		{"not listed", `{` + ext(documentHash("{ other }")) + `}`, "", ""},
		{"upper case", `{` + ext(strings.ToUpper(view)) + `}`, "", ""},
		{"text and its hash", `{"query":"{ other }",` + ext(documentHash("{ other }")) + `}`, "a.query", ""},
		{"text and another's hash", `{"query":"{ viewer { login } }",` + ext(remove) + `}`, "", ""},
		{"text and a document id", `{"query":"{ viewer { login } }","documentId":"x"}`, "", ""},
		{"spelt otherwise", `{"query":"{ viewer { login } }","extensions":{"PersistedQuery":{"sha256Hash":"x"}}}`, "", ""},
		{"extensions that are no object", `{"query":"{ viewer { login } }","extensions":"x"}`, "", ""},
		{"null query beside a hash", `{"query":null,` + ext(view) + `}`, "a.query", ""},
	} {
		r := readAs(s, &Request{
			Method: "POST", Scheme: "https", Authority: "a.example", Target: "/graphql", ContentLength: int64(len(c.body)),
			Header: map[string][]string{"Content-Type": {"application/json"}},
		}, c.body)
		if refused := len(r.Ambiguous) > 0; refused != (c.tool == "") {
			t.Errorf("%s: %+v", c.name, r.Ambiguous)
			continue
		}
		if got := r.Calls[0]; c.tool != "" && (got.Tool != c.tool || c.resource != "" && got.Resource != c.resource) {
			t.Errorf("%s: %s on %s", c.name, got.Tool, got.Resource)
		}
	}
	body := `{"query":"{ viewer { login } }"}`
	for target, want := range map[string]int{"/graphql": 0, "/graphql?op=x": 0, "/graphql?doc_id=7": 1, "/graphql?extensions=%7B%7D": 1} {
		r := readAs(s, &Request{
			Method: "POST", Scheme: "https", Authority: "a.example", Target: target, ContentLength: int64(len(body)),
			Header: map[string][]string{"Content-Type": {"application/json"}},
		}, body)
		if len(r.Ambiguous) != want {
			t.Errorf("%s: %+v", target, r.Ambiguous)
		}
	}
	for _, bad := range []string{
		strings.Replace(persistedRules, "{ viewer { login } }", "{ viewer {", 1),
		"rules: [{ match: { host: a.example, path: /x }, tool: a.x, args: json, persisted: ['{ a }'] }]",
	} {
		if _, err := Compile([]Source{{"f.yaml", []byte(bad)}}, Options{}); err == nil {
			t.Errorf("compiled: %s", bad)
		}
	}
}

func TestAWSREST(t *testing.T) {
	s := mustCompile(t, "rules:\n"+
		"  - { match: { host: ['{bucket}.s3.{region}.amazonaws.com'], path: '/{key...}' }, tool: s3.object, args: aws-rest, quirks: [empty_segments, encoded_slash] }\n"+
		"  - { match: { host: [s3.amazonaws.com, 's3-*.amazonaws.com', 's3.dualstack.*.amazonaws.com', 's3.local.test', '*.s3.amazonaws.com', '*.*.s3.eu-west-1.amazonaws.com'], path: '/{bucket}/{key...}' }, tool: s3.object, args: aws-rest }\n"+
		"  - { match: { host: '*.*.amazonaws.com', path: '/**' }, tool: other, args: aws-rest }\n")
	for _, c := range []struct{ host, target, want string }{
		{"b.s3.eu-west-1.amazonaws.com", "/a//c%2Fd?versionId=1", "s3 eu-west-1 b a//c/d map[versionId:1]"},
		{"s3.amazonaws.com", "/b/k?acl", "s3 <nil> b k map[acl:]"},
		{"s3-us-west-2.amazonaws.com", "/b/k", "s3 us-west-2 b k map[]"},
		{"s3.dualstack.eu-west-1.amazonaws.com", "/b/k", "s3 eu-west-1 b k map[]"},
		{"s3.local.test", "/b/k", "<nil> <nil> b k map[]"},
		{"s3.s3.amazonaws.com", "/x/k", "s3 <nil> s3 k map[]"},
		{"lambda.us-east-1.amazonaws.com", "/2015-03-31/functions", "lambda us-east-1 <nil> <nil> map[]"},
		{"s3.amazonaws.com", "/b/k?X-Amz-Signature=ab&X-Amz-Date=1&partNumber=2", "s3 <nil> b k map[partNumber:2]"},
		{"s3.amazonaws.com", "/b/k?partNumber=2&partNumber=3", ""},
		{"s3.amazonaws.com", "/b/k?versionId=2&versionid=3", ""},
	} {
		r := s.Match(&Request{Method: "GET", Scheme: "https", Authority: c.host, Target: c.target}).Read(nil, true)
		if len(r.Ambiguous) > 0 || c.want == "" {
			if len(r.Ambiguous) == 0 || c.want != "" {
				t.Errorf("%s%s: %+v", c.host, c.target, r.Ambiguous)
			}
			continue
		}
		a := r.Calls[0].Args
		if got := fmt.Sprint(a["service"], " ", a["region"], " ", a["bucket"], " ", a["key"], " ", a["params"]); got != c.want {
			t.Errorf("%s%s: %s, want %s", c.host, c.target, got, c.want)
		}
	}
}
