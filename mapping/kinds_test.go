package mapping

import (
	"bytes"
	"compress/gzip"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const kindRules = `
hosts: [a.example]
rules:
  - { match: { path: /json }, tool: t.json, args: json, optional: [{ name: amount, type: integer }, { name: rate, type: number }, { name: key, secret: true }, { name: "rows.*.n", type: integer, secret: true }], resource: "r:{args.to.id}" }
  - { match: { path: /rpc }, tool: t.rpc, args: jsonrpc }
  - { match: { path: /mcp }, args: jsonrpc, mcp: srv }
  - { match: { path: /gql }, tool: t.gql, args: graphql }
  - { match: { path: /up }, tool: t.up, args: multipart, optional: [{ name: n, type: integer }] }
  - { match: { path: /aq }, tool: t.aq, args: aws-query }
  - { match: { path: /aj }, tool: t.aj, args: aws-json }
  - { match: { path: "/pkg.Service/*" }, tool: t.grpc, args: grpc }
  - { match: { path: /query }, tool: t.query, args: query, optional: [{ name: limit, type: integer }] }
`

func kindRequest(method, target, contentType, body string) *Request {
	r := &Request{Method: method, Scheme: "https", Authority: "a.example:443", Target: target, Header: map[string][]string{}, ContentLength: int64(len(body))}
	if contentType != "" {
		r.Header["Content-Type"] = []string{contentType}
	}
	return r
}

func readAs(s *Set, r *Request, body string) Reading {
	m := s.Match(r)
	if !m.NeedBody {
		return m.Read(nil, false)
	}
	return m.Read([]byte(body), true)
}

func TestJSON(t *testing.T) {
	s := mustCompile(t, kindRules)
	deep := strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000)
	tests := []struct {
		name, body, want string
		args             map[string]any
	}{
		{"plain", `{"amount":5,"rate":1.5,"x":null,"l":[1,"a",true]}`, "", map[string]any{"amount": int64(5), "rate": 1.5, "x": nil, "l": []any{int64(1), "a", true}}},
		{"list", `[{"a":1}]`, "", map[string]any{"items": []any{map[string]any{"a": int64(1)}}}},
		{"no body", "", "", map[string]any{}},
		{"undeclared fraction", `{"t":0.1,"u":1e6}`, "", map[string]any{"t": 0.1, "u": 1e6}},
		{"scalar", `5`, "body/400", map[string]any{}},
		{"duplicate", `{"amount":1,"amount":2}`, "duplicate/400", map[string]any{}},
		{"escaped duplicate", `{"amount":1,"\u0061mount":2}`, "duplicate/400", map[string]any{}},
		{"nested duplicate", `{"x":{"a":1,"a":2}}`, "duplicate/400", map[string]any{}},
		{"case variants", `{"foo":1,"Foo":2}`, "duplicate/400", map[string]any{"foo": int64(1), "Foo": int64(2)}},
		{"case of a declared one", `{"Amount":1}`, "duplicate/400", map[string]any{"Amount": int64(1)}},
		{"Kelvin sign", "{\"\u212aey\":1}", "duplicate/400", map[string]any{"\u212aey": int64(1)}},
		{"trailing document", `{"amount":1}{"amount":2}`, "body/400", map[string]any{}},
		{"trailing text", `{"amount":1} x`, "body/400", map[string]any{}},
		{"trailing comma", `{"amount":1,}`, "body/400", map[string]any{}},
		{"comment", `{/* */"amount":1}`, "body/400", map[string]any{}},
		{"single quotes", `{'amount':1}`, "body/400", map[string]any{}},
		{"byte order mark", "\xef\xbb\xbf{}", "body/400", map[string]any{}},
		{"UTF-16", "{\x00}\x00", "body/400", map[string]any{}},
		{"bad UTF-8", "{\"a\":\"\xff\"}", "body/400", map[string]any{}},
		{"lone surrogate", `{"a":"\ud800"}`, "body/400", map[string]any{}},
		{"NaN", `{"amount":NaN}`, "body/400", map[string]any{}},
		{"plus", `{"amount":+5}`, "body/400", map[string]any{}},
		{"leading zero", `{"amount":05}`, "body/400", map[string]any{}},
		{"control in a string", "{\"a\":\"\n\"}", "body/400", map[string]any{}},
		{"depth", deep, "body/400", map[string]any{}},
		{"cut off", `{"amount":1`, "body/400", map[string]any{}},
		{"spaces only", `  `, "body/400", map[string]any{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := readAs(s, kindRequest("POST", "/json", "application/json", tt.body), tt.body)
			if got := classes(r.Ambiguous); got != tt.want {
				t.Errorf("got %q, want %q: %+v", got, tt.want, r.Ambiguous)
			}
			if d := cmp.Diff(tt.args, r.Calls[0].Args); d != "" {
				t.Error(d)
			}
		})
	}
	r := readAs(s, kindRequest("POST", "/json?amount=1", "application/json", `{"amount":2}`), `{"amount":2}`)
	if classes(r.Ambiguous) != "source/400" {
		t.Errorf("amount in query and body: %+v", r.Ambiguous)
	}
	r = readAs(s, kindRequest("POST", "/json", "text/plain", `{"amount":2}`), `{"amount":2}`)
	if classes(r.Ambiguous) != "content_type/415" || r.Calls[0].Args["amount"] != int64(2) {
		t.Errorf("text/plain: %+v", r)
	}
	r = readAs(s, kindRequest("POST", "/json", "application/vnd.api+json", `{"key":"k","rows":[{"n":1},{"n":2}],"to":{"id":"a:b/c"}}`), `{"key":"k","rows":[{"n":1},{"n":2}],"to":{"id":"a:b/c"}}`)
	if d := cmp.Diff([]string{"key", "rows.0.n", "rows.1.n"}, r.Calls[0].Secret); d != "" || r.Calls[0].Resource != "r:a%3Ab%2Fc" {
		t.Error(d, r.Calls[0].Resource)
	}
}

func TestMillionKeys(t *testing.T) {
	s := mustCompile(t, kindRules)
	var b bytes.Buffer
	b.WriteByte('{')
	for i := range 200_000 {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"K`)
		b.WriteString(strconv.Itoa(i))
		b.WriteString(`":1`)
	}
	b.WriteByte('}')
	body := b.String()
	if r := readAs(s, kindRequest("POST", "/json", "application/json", body), body); classes(r.Ambiguous) != "body/413" {
		t.Fatalf("%+v", r.Ambiguous)
	}
}

func TestGzip(t *testing.T) {
	s := mustCompile(t, kindRules)
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(`{"amount":7}`))
	_ = w.Close()
	req := kindRequest("POST", "/json", "application/json", b.String())
	req.Header["Content-Encoding"] = []string{"gzip"}
	r := readAs(s, req, b.String())
	if len(r.Ambiguous) > 0 || r.Calls[0].Args["amount"] != int64(7) {
		t.Fatalf("%+v", r)
	}
	if r := readAs(s, req, b.String()[:b.Len()-4]); classes(r.Ambiguous) != "encoding/415" {
		t.Fatalf("cut gzip: %+v", r)
	}
}

func TestJSONRPC(t *testing.T) {
	s := mustCompile(t, kindRules)
	type call struct{ tool, risk, id string }
	tests := []struct {
		name, path, body, want string
		calls                  []call
	}{
		{"request", "/rpc", `{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1}}`, "", []call{{"t.rpc", "high", "1"}}},
		{"notification", "/rpc", `{"jsonrpc":"2.0","method":"m"}`, "", []call{{"t.rpc", "high", ""}}},
		{"tool call", "/mcp", `{"jsonrpc":"2.0","id":"x\"","method":"tools/call","params":{"name":"repo.delete","arguments":{"n":1}}}`, "", []call{{"mcp.srv.repo.delete", "high", `"x\""`}}},
		{"odd tool name", "/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a b*","arguments":{}}}`, "", []call{{"mcp.srv.a%20b%2A", "high", "1"}}},
		{"initialize", "/mcp", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`, "", []call{{"mcp.srv", "low", "1"}}},
		{"unknown method", "/mcp", `{"jsonrpc":"2.0","id":1,"method":"x/y"}`, "", []call{{"mcp.srv", "high", "1"}}},
		{"response", "/mcp", `{"jsonrpc":"2.0","id":1,"result":{}}`, "", []call{{"mcp.srv", "low", "1"}}},
		{"batch", "/mcp", `[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"x"}}]`, "", []call{{"mcp.srv", "low", "1"}, {"mcp.srv.x", "high", "2"}}},
		{"spelling", "/mcp", `{"jsonrpc":"2.0","id":1,"method":"Tools/Call","params":{"name":"x"}}`, "method/400", []call{{"mcp.srv.x", "high", "1"}}},
		{"batch in batch", "/mcp", `[[{"jsonrpc":"2.0","id":1,"method":"ping"}]]`, "batch/400", nil},
		{"empty batch", "/mcp", `[]`, "batch/400", nil},
		{"mixed batch", "/mcp", `[1,{"jsonrpc":"2.0","id":1,"method":"ping"}]`, "batch/400", nil},
		{"one id twice", "/mcp", `[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":1,"method":"ping"}]`, "batch/400", nil},
		{"version", "/mcp", `{"id":1,"method":"ping"}`, "body/400", nil},
		{"both", "/mcp", `{"jsonrpc":"2.0","id":1,"method":"ping","result":1}`, "body/400", nil},
		{"neither", "/mcp", `{"jsonrpc":"2.0","id":1}`, "body/400", nil},
		{"no tool", "/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}`, "body/400", nil},
		{"arguments list", "/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":[]}}`, "body/400", nil},
		{"method variant", "/mcp", `{"jsonrpc":"2.0","id":1,"Method":"tools/call","method":"ping"}`, "duplicate/400 duplicate/400", nil},
		{"id object", "/mcp", `{"jsonrpc":"2.0","id":{},"method":"ping"}`, "body/400", nil},
		{"rpc_method member", "/rpc", `{"jsonrpc":"2.0","id":1,"method":"m","params":{"rpc_method":"n"}}`, "duplicate/400", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := readAs(s, kindRequest("POST", tt.path, "application/json", tt.body), tt.body)
			if got := classes(r.Ambiguous); got != tt.want {
				t.Errorf("got %q, want %q: %+v", got, tt.want, r.Ambiguous)
			}
			var got []call
			for _, c := range r.Calls {
				got = append(got, call{c.Tool, c.Risk, string(c.RPCID)})
			}
			if d := cmp.Diff(tt.calls, got, cmp.AllowUnexported(call{})); d != "" && tt.calls != nil {
				t.Error(d)
			}
		})
	}
	if r := readAs(s, kindRequest("GET", "/mcp", "", ""), ""); len(r.Ambiguous) > 0 || r.Calls[0].Tool != "mcp.srv" || r.Calls[0].Risk != RiskLow {
		t.Errorf("%+v", r)
	}
}

func TestGraphQL(t *testing.T) {
	s := mustCompile(t, kindRules)
	tests := []struct {
		name, body, want string
		args             map[string]any
	}{
		{"mutation", `{"query":"mutation M($a: Int){ x: refund(a: $a) { id } ...F } fragment F on Mutation { payout { id } }","variables":{"a":5}}`, "", map[string]any{"operation": "M", "type": "mutation", "fields": []any{"refund", "payout"}, "variables": map[string]any{"a": int64(5)}}},
		{"shorthand", `{"query":"{ a b a }"}`, "", map[string]any{"operation": "", "type": "query", "fields": []any{"a", "b"}, "variables": map[string]any{}}},
		{"chosen", `{"query":"query A { a } mutation B { b }","operationName":"B"}`, "", map[string]any{"operation": "B", "type": "mutation", "fields": []any{"b"}, "variables": map[string]any{}}},
		{"not chosen", `{"query":"query A { a } mutation B { b }"}`, "body/400", nil},
		{"unknown chosen", `{"query":"query A { a }","operationName":"B"}`, "body/400", nil},
		{"persisted", `{"extensions":{"persistedQuery":{"sha256Hash":"x"}}}`, "body/400", nil},
		{"does not parse", `{"query":"{"}`, "body/400", nil},
		{"cycle", `{"query":"{ ...F } fragment F on Q { ...F a }"}`, "", nil},
		{"token bomb", `{"query":"{ ` + strings.Repeat("a ", 20_000) + `}"}`, "body/400", nil},
		{"nesting bomb", `{"query":"` + strings.Repeat("{a", 9_000) + `"}`, "body/400", nil},
		{"undefined fragment", `{"query":"{ ...F }"}`, "body/400", nil},
		{"two of a name", `{"query":"query A { a } query A { b }","operationName":"A"}`, "body/400", nil},
		{"variant", `{"query":"{ a }","Query":"mutation { b }"}`, "duplicate/400 duplicate/400", nil},
		{"batch", `[{"query":"{ a }"},{"query":"mutation { b }"}]`, "", nil},
		{"batch in batch", `[[{"query":"{ a }"}]]`, "batch/400", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := readAs(s, kindRequest("POST", "/gql", "application/json", tt.body), tt.body)
			if got := classes(r.Ambiguous); got != tt.want {
				t.Errorf("got %q, want %q: %+v", got, tt.want, r.Ambiguous)
			}
			if d := cmp.Diff(tt.args, r.Calls[0].Args); d != "" && tt.args != nil {
				t.Error(d)
			}
		})
	}
	if r := readAs(s, kindRequest("GET", "/gql?query=mutation%7Bb%7D", "", ""), ""); classes(r.Ambiguous) != "method/400" {
		t.Errorf("a mutation by GET: %+v", r)
	}
	if r := readAs(s, kindRequest("GET", "/gql?query=%7Bb%7D&variables=%7B%22a%22:1%7D", "", ""), ""); len(r.Ambiguous) > 0 || r.Calls[0].Args["type"] != "query" {
		t.Errorf("a query by GET: %+v", r)
	}
	if r := readAs(s, kindRequest("POST", "/gql?query=%7Bb%7D", "application/json", `{"query":"{a}"}`), `{"query":"{a}"}`); classes(r.Ambiguous) != "source/400" {
		t.Errorf("two queries: %+v", r)
	}
}

func TestMultipart(t *testing.T) {
	s := mustCompile(t, kindRules)
	const begin = "--B\r\nContent-Disposition: form-data; name=\"n\"\r\n\r\n5\r\n"
	tests := []struct{ name, contentType, body, want string }{
		{"plain", "multipart/form-data; boundary=B", begin + "--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\nabc\r\n--B--\r\n", ""},
		{"no boundary", "multipart/form-data", begin + "--B--\r\n", "content_type/415"},
		{"two boundaries", "multipart/form-data; boundary=B; boundary=C", begin + "--B--\r\n", "content_type/415"},
		{"bad boundary", "multipart/form-data; boundary=B\x7f", begin + "--B--\r\n", "header/400 content_type/415"},
		{"preamble", "multipart/form-data; boundary=B", "x\r\n" + begin + "--B--\r\n", "body/400"},
		{"epilogue", "multipart/form-data; boundary=B", begin + "--B--\r\nx", "body/400"},
		{"no end", "multipart/form-data; boundary=B", begin, "body/400"},
		{"line feeds", "multipart/form-data; boundary=B", strings.ReplaceAll(begin+"--B--\r\n", "\r\n", "\n"), "body/400"},
		{"boundary inside", "multipart/form-data; boundary=B", "--B\r\nContent-Disposition: form-data; name=\"n\"\r\n\r\n5\n--B\n\r\n--B--\r\n", "body/400"},
		{"name twice", "multipart/form-data; boundary=B", begin + begin + "--B--\r\n", "duplicate/400"},
		{"two names", "multipart/form-data; boundary=B", strings.Replace(begin, `name="n"`, `name="n"; name="m"`, 1) + "--B--\r\n", "body/400"},
		{"name without quotes", "multipart/form-data; boundary=B", strings.Replace(begin, `name="n"`, `name=n`, 1) + "--B--\r\n", "body/400 body/400"},
		{"escaped name", "multipart/form-data; boundary=B", strings.Replace(begin, `name="n"`, `name="a\"n"`, 1) + "--B--\r\n", "body/400 body/400"},
		{"filename star", "multipart/form-data; boundary=B", strings.Replace(begin, `name="n"`, `name="n"; filename*="x"`, 1) + "--B--\r\n", "body/400"},
		{"two dispositions", "multipart/form-data; boundary=B", strings.Replace(begin, "\r\n\r\n", "\r\nContent-Disposition: form-data; name=\"m\"\r\n\r\n", 1) + "--B--\r\n", "body/400"},
		{"transfer encoding", "multipart/form-data; boundary=B", strings.Replace(begin, "\r\n\r\n", "\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1) + "--B--\r\n", "body/400"},
		{"other type", "application/json", begin + "--B--\r\n", "content_type/415"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := readAs(s, kindRequest("POST", "/up", tt.contentType, tt.body), tt.body)
			if got := classes(r.Ambiguous); got != tt.want {
				t.Errorf("got %q, want %q: %+v", got, tt.want, r.Ambiguous)
			}
			if tt.name == "plain" {
				want := map[string]any{"n": int64(5), "f": map[string]any{"filename": "a.txt", "content_type": "text/plain", "bytes": int64(3), "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}}
				if d := cmp.Diff(want, r.Calls[0].Args); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

func TestOtherKinds(t *testing.T) {
	s := mustCompile(t, kindRules)
	const urlencoded = "application/x-www-form-urlencoded"
	withTarget := func(r *Request, targets ...string) *Request { r.Header["X-Amz-Target"] = targets; return r }
	tests := []struct {
		name string
		req  *Request
		body string
		want string
		args map[string]any
	}{
		{"aws query", kindRequest("POST", "/aq", urlencoded, "x"), "Action=Send&Filter.1.Name=a&X-Amz-Signature=s", "", map[string]any{"action": "Send", "Filter": map[string]any{"1": map[string]any{"Name": "a"}}}},
		{"aws query by GET", kindRequest("GET", "/aq?Action=Send&A=b", "", ""), "", "", map[string]any{"action": "Send", "A": "b"}},
		{"aws action twice", kindRequest("POST", "/aq", urlencoded, "x"), "Action=Send&Action=Delete", "duplicate/400", nil},
		{"aws action in both", kindRequest("POST", "/aq?Action=Delete", urlencoded, "x"), "Action=Send", "source/400", nil},
		{"aws action variant", kindRequest("POST", "/aq", urlencoded, "x"), "Action=Send&action=Delete", "duplicate/400 duplicate/400", nil},
		{"aws no action", kindRequest("POST", "/aq", urlencoded, "x"), "A=b", "body/400", nil},
		{"aws dotted clash", kindRequest("POST", "/aq", urlencoded, "x"), "Action=Send&A=b&A.c=d", "duplicate/400", nil},
		{"aws json", withTarget(kindRequest("POST", "/aj", "application/x-amz-json-1.0", "x"), "DynamoDB_20120810.DeleteTable"), `{"TableName":"t"}`, "", map[string]any{"action": "DeleteTable", "TableName": "t"}},
		{"aws json two targets", withTarget(kindRequest("POST", "/aj", "application/x-amz-json-1.0", "x"), "a.b", "a.c"), `{}`, "header/400", nil},
		{"aws json no target", kindRequest("POST", "/aj", "application/x-amz-json-1.0", "x"), `{}`, "header/400", nil},
		{"aws json action member", withTarget(kindRequest("POST", "/aj", "application/x-amz-json-1.0", "x"), "a.b"), `{"action":"c"}`, "duplicate/400", nil},
		{"grpc", kindRequest("POST", "/pkg.Service/Do", "application/grpc+proto", "x"), "x", "", map[string]any{"service": "pkg.Service", "method": "Do"}},
		{"grpc as json", kindRequest("POST", "/pkg.Service/Do", "application/json", "x"), "x", "content_type/415", nil},
		{"query", kindRequest("GET", "/query?limit=5&expand[]=a&expand[]=b", "", ""), "", "", map[string]any{"limit": int64(5), "expand": []any{"a", "b"}}},
		{"query twice", kindRequest("GET", "/query?limit=5&limit=6", "", ""), "", "duplicate/400", nil},
		{"query with body", kindRequest("GET", "/query?limit=5", "", "x"), "limit=6", "source/400", nil},
		{"query semicolon", kindRequest("GET", "/query?limit=5;limit=6", "", ""), "", "query/400", nil},
		{"query bad UTF-8", kindRequest("GET", "/query?limit=5&x=%ff", "", ""), "", "query/400 query/400", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := readAs(s, tt.req, tt.body)
			if got := classes(r.Ambiguous); got != tt.want {
				t.Errorf("got %q, want %q: %+v", got, tt.want, r.Ambiguous)
			}
			if d := cmp.Diff(tt.args, r.Calls[0].Args); d != "" && tt.args != nil {
				t.Error(d)
			}
		})
	}
}

// TestEachMutationIsACall: to a rule without cases a document is one call, but as
// often as it acts. Reading is not acting.
func TestEachMutationIsACall(t *testing.T) {
	s := mustCompile(t, kindRules)
	for query, want := range map[string]int{
		`{ a b c }`:                               1,
		`query { a: x b: x }`:                     1,
		`subscription { a b }`:                    1,
		`mutation { pay }`:                        1,
		`mutation { __typename pay }`:             1,
		`mutation { __typename }`:                 1,
		`mutation { a: pay b: pay }`:              2,
		`mutation { a: pay ... on M { b: pay } }`: 2,
		`mutation { ...f ...f } fragment f on M { a: pay b: pay }`: 2,
		`mutation { a: pay @skip(if: true) b: pay }`:               2,
		`mutation {` + strings.Repeat(" a: pay", 100) + `}`:        100,
	} {
		body := `{"query":"` + query + `"}`
		r := readAs(s, kindRequest("POST", "/gql", "application/json", body), body)
		if len(r.Calls) != want || len(r.Ambiguous) > 0 {
			t.Errorf("%s: %d calls, want %d, %v", query, len(r.Calls), want, r.Ambiguous)
		}
		for _, c := range r.Calls {
			if c.Tool != "t.gql" {
				t.Errorf("%s: %s", query, c.Tool)
			}
		}
	}
	body := `{"query":"mutation {` + strings.Repeat(" a: pay", 101) + `}"}`
	if r := readAs(s, kindRequest("POST", "/gql", "application/json", body), body); len(r.Ambiguous) != 1 || r.Ambiguous[0].Status != 413 {
		t.Errorf("101 mutations: %v", r.Ambiguous)
	}
}
