package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// newFront is a TLS upstream for hosts that records each call and gives it to h.
func newFront(t testing.TB, hosts []string, h http.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{}
	cert, ca := testCertificate(t, hosts)
	u.caFile = filepath.Join(t.TempDir(), "upstream-ca.pem")
	must(t, os.WriteFile(u.caFile, ca, 0o644))
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			u.record(r, body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			h(w, r)
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	u.tls = ln.Addr().String()
	go func() { _ = srv.ServeTLS(countedListener{ln, u}, "", "") }()
	t.Cleanup(func() { _ = srv.Close() })
	return u
}

// realClient is one SDK with what it is used with.
type realClient struct {
	name  string // as realclients.mjs knows it
	hosts []string
	packs string
	rules string // of the operator's own
	// policy holds policies; the default is deny.
	policy string
	serve  func(t testing.TB) http.HandlerFunc
}

// attempt is what came of one call of an SDK.
type attempt struct {
	OK       bool
	Value    any
	Status   int
	Name     string
	Message  string
	Attempts int
}

// run makes the calls inside `actpass run` and gives what came of each, what the
// upstream saw, and the record.
func (c realClient) run(t *testing.T) (map[string]attempt, []seen, []event) {
	t.Helper()
	script := nodeScript(t, "realclients.mjs")
	u := newFront(t, c.hosts, c.serve(t))
	sc := &sidecar{t: t, dir: t.TempDir()}
	must(t, os.WriteFile(filepath.Join(sc.dir, "mapping.yaml"), []byte(orElse(c.rules, "rules:\n  - { match: { host: unused.example.test, path: /unused }, tool: unused }\n")), 0o644))
	must(t, os.WriteFile(filepath.Join(sc.dir, "policy.yaml"), []byte("policies:\n"+c.policy), 0o644))
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("mode: enforce")
	p("identity: { tenant_id: acme, agent_id: support_agent }")
	p("listen: { proxy: 127.0.0.1:0, reverse: 127.0.0.1:0, api: 127.0.0.1:0 }")
	p("mapping: { packs: [%s], files: [./mapping.yaml] }", c.packs)
	p("policy: { files: [./policy.yaml] }")
	p("upstream:")
	p("  allow_private: [127.0.0.0/8]")
	p("  ca_file: %s", u.caFile)
	p("  connect_to:")
	for _, host := range c.hosts {
		p("    - { host: %s, port: 443, address: %q }", host, u.tls)
	}
	sc.config = filepath.Join(sc.dir, "config.yaml")
	must(t, os.WriteFile(sc.config, []byte(b.String()), 0o644))
	call := sc.around(t, nil, "node", script, c.name)
	if code := call.wait(t); code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, &call.stdout, &call.stderr)
	}
	var came map[string]attempt
	if err := json.Unmarshal(call.stdout.Bytes(), &came); err != nil {
		t.Fatalf("%v: %q", err, &call.stdout)
	}
	saw := u.requestsSeen()
	sc.run()
	sc.admin = sc.key("--name", "admin", "--role", "admin")
	t.Cleanup(sc.stop)
	return came, saw, sc.events()
}

// allowed checks that a call came through with a value.
func allowed(t *testing.T, came map[string]attempt, name string, want any) {
	t.Helper()
	if a := came[name]; !a.OK || fmt.Sprint(a.Value) != fmt.Sprint(want) {
		t.Errorf("%s: %+v, want %v", name, a, want)
	}
}

// denied checks that the SDK raised our sentence, which names tool and rule.
func denied(t *testing.T, came map[string]attempt, name string, status int, says ...string) {
	t.Helper()
	a := came[name]
	if a.OK || a.Status != status {
		t.Errorf("%s: %+v, want it refused with %d", name, a, status)
	}
	for _, s := range append([]string{"ActPass blocked this call and did not send it"}, says...) {
		if !strings.Contains(a.Message, s) {
			t.Errorf("%s: the SDK says %q, want %q in it", name, a.Message, s)
		}
	}
}

// recorded finds the events of a tool and checks what they say.
func recorded(t *testing.T, events []event, tool, decision, reason, resource string, args map[string]any) {
	t.Helper()
	state := map[string]string{"allow": "forwarded", "deny": "blocked"}[decision]
	var others []string
	for _, e := range events {
		others = append(others, fmt.Sprintf("%s %s %s %s %v %s", e.Decision, e.ReasonCode, e.Tool, e.Resource, e.Args, e.Outcome.State))
		if e.Tool != tool || e.Decision != decision || e.ReasonCode != reason || e.Resource != resource || e.Outcome.State != state {
			continue
		}
		same := true
		for k, v := range args {
			same = same && fmt.Sprint(e.Args[k]) == fmt.Sprint(v)
		}
		if same {
			return
		}
	}
	t.Errorf("no event of %s: %s %s on %s with %v\n  %s", tool, decision, reason, resource, args, strings.Join(others, "\n  "))
}

func answerJSON(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func TestOctokit(t *testing.T) {
	t.Parallel()
	came, saw, events := realClient{
		name: "octokit", hosts: []string{"api.github.com"}, packs: "github",
		policy: `
  - name: repos
    version: 1
    tools: ["github.*"]
    rules:
      - { name: no_deletion, when: tool.endsWith(".delete"), decision: deny, reason_code: github.no_deletion }
      - { name: the_rest, decision: allow, reason_code: github.fine }
`,
		serve: func(testing.TB) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/graphql" {
					answerJSON(w, 200, `{"data":{"repository":{"id":"R_1"}}}`)
					return
				}
				answerJSON(w, 201, `{"id":42}`)
			}
		},
	}.run(t)
	allowed(t, came, "comment", 42)
	allowed(t, came, "query", "R_1")
	denied(t, came, "delete", 403, "github.repo.delete", "no_deletion")
	denied(t, came, "mutation", 403, "github.issue.delete", "no_deletion")
	if len(saw) != 2 || saw[0].Target != "/repos/acme/shop/issues/7/comments" || string(saw[0].Body) != `{"body":"looks \"good\" – é"}` || saw[0].Header.Get("Authorization") != "token ghp_test" ||
		!strings.Contains(string(saw[1].Body), "repository(owner") {
		t.Errorf("the upstream saw %+v", saw)
	}
	recorded(t, events, "github.issue.comment.create", "allow", "github.fine", "github:repo:acme/shop/issue:7", map[string]any{"body": `looks "good" – é`})
	recorded(t, events, "github.repo.delete", "deny", "github.no_deletion", "github:repo:acme/shop", nil)
	recorded(t, events, "github.graphql.query", "allow", "github.fine", "github:graphql", map[string]any{"type": "query", "field": "repository"})
	recorded(t, events, "github.issue.delete", "deny", "github.no_deletion", "github:node:I_1", map[string]any{"type": "mutation", "field": "deleteIssue"})
	if len(events) != 4 {
		t.Errorf("%d events: a refusal is not to be retried", len(events))
	}
}

func TestOpenAI(t *testing.T) {
	t.Parallel()
	came, saw, events := realClient{
		name: "openai", hosts: []string{"api.openai.com"}, packs: "openai",
		policy: `
  - name: models
    version: 1
    tools: ["openai.chat.create"]
    rules:
      - { name: small_models, when: args.model == "small", decision: allow, reason_code: model.small }
      - { name: no_other_models, decision: deny, reason_code: model.not_agreed }
`,
		serve: func(testing.TB) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if !bytes.Contains(body, []byte(`"stream":true`)) {
					answerJSON(w, 200, `{"id":"c1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}`)
					return
				}
				w.Header().Set("Content-Type", "text/event-stream")
				for _, part := range []string{"h", "i", "!"} {
					fmt.Fprintf(w, "data: {\"id\":\"c1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}]}\n\n", part)
					_ = http.NewResponseController(w).Flush()
				}
				_, _ = io.WriteString(w, "data: [DONE]\n\n")
			}
		},
	}.run(t)
	allowed(t, came, "chat", "hi")
	allowed(t, came, "stream", "hi!")
	denied(t, came, "large", 403, "openai.chat.create", "no_other_models")
	denied(t, came, "file", 403)
	if len(saw) != 2 || saw[0].Target != "/v1/chat/completions" || saw[0].Header.Get("Authorization") != "Bearer sk-test" {
		t.Errorf("the upstream saw %+v", saw)
	}
	recorded(t, events, "openai.chat.create", "allow", "model.small", "openai:model:small", map[string]any{"stream": true})
	recorded(t, events, "openai.chat.create", "deny", "model.not_agreed", "openai:model:large", map[string]any{"model": "large"})
	recorded(t, events, "openai.file.delete", "deny", "policy.default", "openai:file:file-1", nil)
	if len(events) != 4 {
		t.Errorf("%d events: a refusal is not to be retried", len(events))
	}
}

// everything starts the reference server of MCP and gives its address.
func everything(t testing.TB) *url.URL {
	t.Helper()
	loopback := nodeScript(t, "loopback.cjs")
	addr, err := freeAddress()
	must(t, err)
	_, port, _ := net.SplitHostPort(addr)
	b := begin(t, []string{"PORT=" + port}, "node", "--require", loopback,
		filepath.Join(filepath.Dir(loopback), "node_modules", "@modelcontextprotocol", "server-everything", "dist", "index.js"), "streamableHttp")
	eventually(t, "the MCP server listens", func() bool {
		select {
		case <-b.ended:
			t.Fatalf("the MCP server ended: %s%s", &b.stdout, &b.stderr)
		default:
		}
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return &url.URL{Scheme: "http", Host: addr}
}

func TestMCP(t *testing.T) {
	t.Parallel()
	came, saw, events := realClient{
		name: "mcp", hosts: []string{"everything.example.test"},
		rules: `name: everything
errors: jsonrpc
rules:
  - { match: { host: everything.example.test, path: /mcp }, tool: mcp.everything, risk: high, args: jsonrpc, mcp: everything }
`,
		policy: `
  - { name: session, version: 1, tools: ["mcp.everything"], rules: [{ name: session, decision: allow, reason_code: mcp.session }] }
  - { name: echo, version: 1, tools: ["mcp.everything.echo"], rules: [{ name: echo, decision: allow, reason_code: mcp.echo }] }
  - { name: sums, version: 1, tools: ["mcp.everything.get-sum"], rules: [
      { name: small_sums, when: args.a + args.b <= 100, decision: allow, reason_code: mcp.small_sum },
      { name: no_large_sums, decision: deny, reason_code: mcp.large_sum }] }
  - { name: env, version: 1, tools: ["mcp.everything.get-env"], rules: [{ name: no_environment, decision: deny, reason_code: mcp.no_environment }] }
`,
		serve: func(t testing.TB) http.HandlerFunc {
			p := httputil.NewSingleHostReverseProxy(everything(t))
			p.FlushInterval = -1
			p.ErrorLog = log.New(io.Discard, "", 0)
			return p.ServeHTTP
		},
	}.run(t)
	if list, ok := came["list"].Value.([]any); !ok || !slices.Contains(list, any("echo")) || !slices.Contains(list, any("get-env")) {
		t.Errorf("list: %+v", came["list"])
	}
	allowed(t, came, "echo", "Echo: hello")
	allowed(t, came, "sum", "The sum of 2 and 3 is 5.")
	allowed(t, came, "echo again", "Echo: still here")
	for name, says := range map[string]string{"env": "no_environment", "large sum": "no_large_sums"} {
		denied(t, came, name, 403, says)
	}
	for _, r := range saw {
		if bytes.Contains(r.Body, []byte("get-env")) || bytes.Contains(r.Body, []byte("2000")) {
			t.Errorf("a denied call is upstream: %s", r.Body)
		}
	}
	recorded(t, events, "mcp.everything.echo", "allow", "mcp.echo", "mcp:everything:echo", map[string]any{"message": "hello"})
	recorded(t, events, "mcp.everything.get-sum", "allow", "mcp.small_sum", "mcp:everything:get-sum", map[string]any{"a": 2, "b": 3})
	recorded(t, events, "mcp.everything.get-sum", "deny", "mcp.large_sum", "mcp:everything:get-sum", map[string]any{"a": 2000, "b": 3})
	recorded(t, events, "mcp.everything.get-env", "deny", "mcp.no_environment", "mcp:everything:get-env", nil)
	recorded(t, events, "mcp.everything", "allow", "mcp.session", "https://everything.example.test/mcp", map[string]any{"rpc_method": "initialize"})
}

func TestGraphQLClient(t *testing.T) {
	t.Parallel()
	came, saw, events := realClient{
		name: "graphql", hosts: []string{"shop.example.test"},
		rules: `name: shop
rules:
  - { match: { host: shop.example.test, methods: [POST], path: /graphql }, tool: shop.graphql, risk: high, args: graphql, resource: "shop:graphql" }
`,
		policy: `
  - name: reads
    version: 1
    tools: ["shop.graphql"]
    rules:
      - { name: queries, when: args.type == "query", decision: allow, reason_code: shop.read }
      - { name: no_mutations, decision: deny, reason_code: shop.no_mutations }
`,
		serve: func(testing.TB) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { answerJSON(w, 200, `{"data":"p1"}`) }
		},
	}.run(t)
	allowed(t, came, "query", "p1")
	denied(t, came, "mutation", 403, "shop.graphql", "no_mutations")
	denied(t, came, "hidden", 403, "shop.graphql", "no_mutations")
	if len(saw) != 1 || !strings.Contains(string(saw[0].Body), "query Q") {
		t.Errorf("the upstream saw %+v", saw)
	}
	recorded(t, events, "shop.graphql", "allow", "shop.read", "shop:graphql", map[string]any{"operation": "Q", "fields": []string{"product"}, "variables": map[string]any{"id": "p1"}})
	recorded(t, events, "shop.graphql", "deny", "shop.no_mutations", "shop:graphql", map[string]any{"type": "mutation", "fields": []string{"refundOrder"}})
	recorded(t, events, "shop.graphql", "deny", "shop.no_mutations", "shop:graphql", map[string]any{"operation": "B", "fields": []string{"refundOrder"}})
}

// TestGraphQLRequest is a client made for GraphQL against GitHub's shape of it.
func TestGraphQLRequest(t *testing.T) {
	t.Parallel()
	came, saw, events := realClient{
		name: "graphqlRequest", hosts: []string{"api.github.com"}, packs: "github",
		policy: `
  - name: repos
    version: 1
    tools: ["github.*"]
    rules:
      - { name: reads, when: tool == "github.graphql.query", decision: allow, reason_code: github.read }
      - { name: no_deletion, decision: deny, reason_code: github.no_deletion }
`,
		serve: func(testing.TB) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { answerJSON(w, 200, `{"data":{"repo":{"id":"R_1"}}}`) }
		},
	}.run(t)
	allowed(t, came, "query", "R_1")
	allowed(t, came, "query again", "R_1")
	denied(t, came, "mutation", 403, "github.issue.delete", "no_deletion")
	denied(t, came, "batch", 403, "github.issue.delete", "no_deletion")
	if len(saw) != 2 || !strings.Contains(string(saw[0].Body), "query Repo") || saw[0].Header.Get("Authorization") != "Bearer ghp_test" {
		t.Errorf("the upstream saw %+v", saw)
	}
	recorded(t, events, "github.graphql.query", "allow", "github.read", "github:graphql", map[string]any{"type": "query", "field": "repository"})
	recorded(t, events, "github.issue.delete", "deny", "github.no_deletion", "github:node:I_1", map[string]any{"type": "mutation", "field": "deleteIssue"})
}

// TestS3 has Amazon's SDK sign its calls, and the front check the signatures over
// what arrived: nothing that is signed was rewritten on the way.
func TestS3(t *testing.T) {
	t.Parallel()
	const host = "ledger.s3.us-east-1.amazonaws.com"
	var mu sync.Mutex
	objects, signed := map[string][]byte{}, 0
	came, saw, events := realClient{
		name: "s3", hosts: []string{host}, packs: "aws",
		policy: `
  - name: objects
    version: 1
    tools: ["aws.s3.object.*"]
    rules:
      - { name: no_deletion, when: tool.endsWith(".delete"), decision: deny, reason_code: s3.no_deletion }
      - { name: ledger, when: resource.startsWith("aws:s3:ledger/"), decision: allow, reason_code: s3.ledger }
`,
		serve: func(t testing.TB) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				body, _ := io.ReadAll(r.Body)
				if err := checkSigV4(r, body, "secret/of+test"); err != nil {
					t.Errorf("%s %s: %v", r.Method, r.RequestURI, err)
					http.Error(w, err.Error(), http.StatusForbidden)
					return
				}
				signed++
				switch r.Method {
				case http.MethodPut:
					objects[r.URL.Path] = body
					w.Header().Set("ETag", `"e1"`)
				case http.MethodGet:
					_, _ = w.Write(objects[r.URL.Path])
				}
			}
		},
	}.run(t)
	allowed(t, came, "put", `"e1"`)
	allowed(t, came, "get", "amount=4900")
	allowed(t, came, "get again", "amount=4900")
	if a := came["delete"]; a.OK || a.Status != 403 || a.Attempts != 1 {
		t.Errorf("delete: %+v", a)
	}
	if len(saw) != 3 || signed != 3 {
		t.Errorf("the upstream saw %d calls, %d of them soundly signed: %+v", len(saw), signed, saw)
	}
	const object = "aws:s3:ledger/a%20dir/%C3%BC+1%20%28copy%29.txt"
	recorded(t, events, "aws.s3.object.write", "allow", "s3.ledger", object, nil)
	recorded(t, events, "aws.s3.object.retrieve", "allow", "s3.ledger", object, nil)
	recorded(t, events, "aws.s3.object.delete", "deny", "s3.no_deletion", object, nil)
}

// checkSigV4 computes the signature of AWS Signature Version 4 over the request
// as it arrived and compares.
func checkSigV4(r *http.Request, body []byte, secret string) error {
	scheme, fields, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	parts := map[string]string{}
	for f := range strings.SplitSeq(fields, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(f), "=")
		parts[k] = v
	}
	credential := strings.Split(parts["Credential"], "/")
	if scheme != "AWS4-HMAC-SHA256" || len(credential) != 5 {
		return fmt.Errorf("no signature in %q", r.Header.Get("Authorization"))
	}
	payload := r.Header.Get("X-Amz-Content-Sha256")
	if sum := sha256.Sum256(body); len(payload) == 64 && payload != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("the body is not the one that was signed")
	}
	path, query, _ := strings.Cut(r.RequestURI, "?")
	var params []string
	for p := range strings.SplitSeq(query, "&") {
		if p != "" && !strings.Contains(p, "=") {
			p += "="
		}
		params = append(params, p)
	}
	slices.Sort(params)
	var canonical strings.Builder
	fmt.Fprintf(&canonical, "%s\n%s\n%s\n", r.Method, path, strings.Join(params, "&"))
	for name := range strings.SplitSeq(parts["SignedHeaders"], ";") {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(r.ContentLength)
		}
		fmt.Fprintf(&canonical, "%s:%s\n", name, strings.Join(strings.Fields(value), " "))
	}
	fmt.Fprintf(&canonical, "\n%s\n%s", parts["SignedHeaders"], payload)
	sum := sha256.Sum256([]byte(canonical.String()))
	mac := func(key []byte, s string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(s))
		return h.Sum(nil)
	}
	key := []byte("AWS4" + secret)
	for _, part := range credential[1:] {
		key = mac(key, part)
	}
	toSign := "AWS4-HMAC-SHA256\n" + r.Header.Get("X-Amz-Date") + "\n" + strings.Join(credential[1:], "/") + "\n" + hex.EncodeToString(sum[:])
	if want := hex.EncodeToString(mac(key, toSign)); want != parts["Signature"] {
		return fmt.Errorf("the signature does not fit\n%s", canonical.String())
	}
	return nil
}
