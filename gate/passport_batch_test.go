package gate_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/passport"
)

// shop is an MCP server and a GraphQL API whose calls are all allowed.
func shop(t *testing.T, mode string) *fixture {
	t.Helper()
	m, err := mapping.Compile([]mapping.Source{{Name: "rules.yaml", Data: []byte(`rules:
  - { match: { host: mcp.example.test, path: /mcp }, tool: mcp.shop, risk: high, args: jsonrpc, mcp: shop }
  - match: { host: mcp.example.test, path: /graphql }
    tool: shop.unknown
    risk: high
    args: graphql
    cases: [{ on: ["query.*"], tool: shop.read, risk: low }, { on: [mutation.pay], tool: shop.pay, risk: high }]
  - { match: { host: mcp.example.test, path: /plain }, tool: shop.graphql, risk: high, args: graphql }
`)}}, mapping.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return withAuthority(newGate(t, mode, func(r *gate.Rules) {
		r.Mapping = m
		r.Policy = rules(t, mode, `policies:
  - name: p
    version: 1
    tools: ["mcp.shop", "mcp.shop.**", "shop.**"]
    rules: [{ name: any, decision: allow, reason_code: shop.any }]
    limits: [{ name: calls, key: [agent_id], max: 1000, window: 24h, decision: deny, reason_code: shop.calls }]
`).Policy
	}))
}

func (f *fixture) graphql(path, query string) *gate.Request {
	r := f.message(fmt.Sprintf(`{"query":%q}`, query))
	r.Head.Target = path
	return r
}

func forTheShop() gate.NewPassport {
	return gate.NewPassport{AgentID: "support_agent", AllowedTools: []string{"mcp.shop*", "shop.*"}, AllowedResources: []string{"*"}}
}

const ping = `{"jsonrpc":"2.0","id":9,"method":"ping"}`

// TestOnePassportOneAction: a request that makes several is not one use, however
// it holds them; with what reads and does nothing it may be together.
func TestOnePassportOneAction(t *testing.T) {
	requests := map[string]struct {
		make func(*fixture) *gate.Request
		acts int
	}{
		"one tool":          {func(f *fixture) *gate.Request { return f.message(order(1, "1", 5)) }, 1},
		"a batch of one":    {func(f *fixture) *gate.Request { return f.message("[" + order(1, "1", 5) + "]") }, 1},
		"a tool and a ping": {func(f *fixture) *gate.Request { return f.message("[" + ping + "," + order(1, "1", 5) + "]") }, 1},
		"two tools": {func(f *fixture) *gate.Request {
			return f.message("[" + order(1, "1", 5) + "," + order(2, "2", 5) + "]")
		}, 2},
		"three with a ping": {func(f *fixture) *gate.Request {
			return f.message("[" + order(1, "1", 5) + "," + ping + "," + order(2, "2", 5) + "," + order(3, "3", 5) + "]")
		}, 3},
		"one mutation": {func(f *fixture) *gate.Request { return f.graphql("/graphql", `mutation { pay(amount: 5) { id } }`) }, 1},
		"aliases": {func(f *fixture) *gate.Request {
			return f.graphql("/graphql", `mutation { a: pay(amount: 5) { id } b: pay(amount: 5) { id } }`)
		}, 2},
		"aliases, without cases": {func(f *fixture) *gate.Request {
			return f.graphql("/plain", `mutation { a: pay(amount: 5) { id } b: pay(amount: 5) { id } }`)
		}, 2},
		"a fragment, without cases": {func(f *fixture) *gate.Request {
			return f.graphql("/plain", `mutation { ...f c: pay(amount: 5) { id } } fragment f on M { a: pay(amount: 5) { id } b: pay(amount: 5) { id } }`)
		}, 3},
		"one mutation without cases": {func(f *fixture) *gate.Request {
			return f.graphql("/plain", `mutation { __typename pay(amount: 5) { id } }`)
		}, 1},
	}
	for name, c := range requests {
		for _, mode := range []string{"monitor", "warn", "enforce", "strict"} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				f := shop(t, mode)
				p := f.issue(t, forTheShop())
				r := c.make(f)
				r.Passport = p.Token
				permit, ref := f.Check(t.Context(), r)
				e := f.rec.actions(t)[0]
				told := strings.Contains(strings.Join(e.Notes, " "), gate.ReasonPassportBatch)
				passes := c.acts == 1 || mode == "monitor" || mode == "warn"
				if (permit != nil) != passes || told != (c.acts > 1) {
					t.Fatalf("%+v %+v", ref, e)
				}
				if c.acts > 1 {
					if !passes && ref.Decision.ReasonCode != gate.ReasonPassportBatch {
						t.Errorf("%+v", ref)
					}
					if passes && e.Would["strict"] != "block" {
						t.Errorf("%+v", e.Would)
					}
					one := f.message(order(7, "7", 5))
					one.Passport = p.Token
					if permit, ref = f.Check(t.Context(), one); permit == nil {
						t.Errorf("it was not used: %+v", ref)
					}
				}
				// Every act has its share, whoever holds them together.
				want := int64(c.acts)
				if c.acts > 1 {
					want = 1
					if passes {
						want += int64(c.acts)
					}
				}
				if strings.Contains(name, "ping") {
					want = f.used(t, "calls") // a ping is a call, too
				}
				if got := f.used(t, "calls"); got != want {
					t.Errorf("%d shares, want %d", got, want)
				}
			})
		}
	}
}

// TestAMountedPassportIsForOneAction: strict asks for another one.
func TestAMountedPassportIsForOneAction(t *testing.T) {
	f := shop(t, "strict")
	f.mount(f.issue(t, forTheShop()).Token)
	_, ref := f.Check(t.Context(), f.message("["+order(1, "1", 5)+","+order(2, "2", 5)+"]"))
	if ref == nil || ref.Decision.ReasonCode != gate.ReasonPassport || !strings.Contains(strings.Join(f.rec.actions(t)[0].Notes, " "), gate.ReasonPassportBatch) {
		t.Errorf("%+v", ref)
	}
	if permit, ref := f.Check(t.Context(), f.message(order(1, "1", 5))); permit == nil {
		t.Errorf("%+v", ref)
	}
}

// TestTheApprovalOfABatch: what a human saw whole may go whole.
func TestTheApprovalOfABatch(t *testing.T) {
	f := withAuthority(messages(t))
	batch := "[" + order(1, "1", 5) + "," + order(2, "2", 5) + "]"
	_, held := f.Check(t.Context(), f.message(batch))
	a, err := f.Decide(t.Context(), approver, held.Approval, gate.Approve, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := f.PassportFor(t.Context(), approver, a)
	if err != nil {
		t.Fatal(err)
	}
	r := f.message(batch)
	r.Passport = p.Token
	permit, ref := f.Check(t.Context(), r)
	if permit == nil {
		t.Fatalf("%+v", ref)
	}
	permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
	r = f.message(batch)
	r.Passport = p.Token
	if _, ref := f.Check(t.Context(), r); ref == nil || ref.Decision.ReasonCode != passport.ReasonReplayed && ref.Decision.ReasonCode != gate.ReasonConsumed {
		t.Errorf("again: %+v", ref)
	}
}
