package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/actpass/sidecar/api"
)

const shopRules = `name: shop
errors: jsonrpc
rules:
  - { match: { host: ["echo.example.test", "echo.example.test:80"], path: /mcp }, tool: mcp.shop, risk: high, args: jsonrpc, mcp: shop }
  - match: { host: ["echo.example.test", "echo.example.test:80"], path: /graphql }
    tool: shop.unknown
    risk: high
    args: graphql
    cases: [{ on: ["query.*"], tool: shop.read, risk: low }, { on: [mutation.pay], tool: shop.pay, risk: high }]
  - { match: { host: ["echo.example.test", "echo.example.test:80"], path: /plain }, tool: shop.graphql, risk: high, args: graphql }
`

const shopPolicy = `policies:
  - name: shop
    version: 1
    tools: ["mcp.shop", "mcp.shop.**", "shop.**"]
    rules: [{ name: any, decision: allow, reason_code: shop.any }]
    limits: [{ name: five, key: [user_id], max: 5, window: 24h, decision: deny, reason_code: shop.five }]
`

// shopSidecar maps an MCP server and a GraphQL API at echo.example.test.
func shopSidecar(t *testing.T, mode string, u *upstream) *sidecar {
	t.Helper()
	sc := &sidecar{t: t, dir: t.TempDir()}
	sc.config = settings{mode: mode, front: u, policies: map[string]string{"shop.yaml": shopPolicy}}.write(t, sc.dir)
	must(t, os.WriteFile(filepath.Join(sc.dir, "shop-rules.yaml"), []byte(shopRules), 0o644))
	text, err := os.ReadFile(sc.config)
	must(t, err)
	must(t, os.WriteFile(sc.config, []byte(strings.Replace(string(text), "packs: [stripe]", "packs: [stripe], files: [./shop-rules.yaml]", 1)), 0o644))
	sc.run()
	sc.admin = sc.key("--name", "admin", "--role", "admin")
	t.Cleanup(sc.stop)
	return sc
}

// severalPayments is one request that pays n times, in each form that holds several acts.
var severalPayments = map[string]func(n int) (target, body string){
	"an MCP batch": func(n int) (string, string) {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"pay","arguments":{"amount":5}}}`, i+1)
		}
		return "/mcp", "[" + strings.Join(list, ",") + "]"
	},
	"GraphQL aliases":                func(n int) (string, string) { return "/graphql", aliases(n) },
	"GraphQL aliases, without cases": func(n int) (string, string) { return "/plain", aliases(n) },
	"a GraphQL batch": func(n int) (string, string) {
		return "/graphql", "[" + strings.TrimSuffix(strings.Repeat(aliases(1)+",", n), ",") + "]"
	},
}

func aliases(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, " a%d: pay(amount: 5) { id }", i)
	}
	return fmt.Sprintf(`{"query":%q}`, "mutation {"+b.String()+" }")
}

// TestEachActionOfARequest: a request that acts twice is not one use of a passport,
// and takes two shares of a limit, in whatever form and at whatever door it comes.
func TestEachActionOfARequest(t *testing.T) {
	for form, request := range severalPayments {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			strict := shopSidecar(t, "strict", u)
			enforce := shopSidecar(t, "enforce", u)
			for i, d := range doors {
				name := d.name + string(rune('0'+i))
				pay := func(sc *sidecar, n int, h http.Header) string {
					target, body := request(n)
					a := d.send(t, sc, "POST", "echo.example.test", target, "application/json", body, h)
					return fmt.Sprint(a.status, " ", a.header.Get("ActPass-Reason"))
				}
				p, err := strict.client().IssuePassport(t.Context(), api.NewPassport{
					AgentID: "support_agent", UserID: "p" + name, AllowedTools: []string{"mcp.shop.pay", "shop.pay", "shop.graphql"}, AllowedResources: []string{"*"},
				})
				must(t, err)
				with := func(token string) http.Header { return http.Header{"ActPass-Passport": {token}} }
				u.quiet(t, name, func() {
					if got := pay(strict, 2, with(p.Token)); got != "403 passport.batch" {
						t.Errorf("%s: two under one passport: %s", name, got)
					}
				})
				if got := pay(strict, 1, with(p.Token)); got != "200 shop.any" {
					t.Errorf("%s: one under it: %s", name, got)
				}
				u.quiet(t, name, func() {
					if got := pay(strict, 1, with(p.Token)); got != "403 passport.replayed" {
						t.Errorf("%s: again: %s", name, got)
					}
				})
				// Of five, three and then two, and nothing more.
				user := http.Header{"ActPass-User": {name}}
				for _, step := range []struct {
					n    int
					want string
				}{{6, "403 shop.five"}, {3, "200 shop.any"}, {3, "403 shop.five"}, {2, "200 shop.any"}, {1, "403 shop.five"}} {
					if got := pay(enforce, step.n, user); got != step.want {
						t.Errorf("%s: %d more: %s, want %s", name, step.n, got, step.want)
					}
				}
			}
		})
	}
}
