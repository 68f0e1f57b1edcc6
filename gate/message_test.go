package gate_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
)

// A client of JSON-RPC that asks again counts on: the id of its message is not
// part of what it asks, and ties an answer to it.

func messages(t *testing.T) *fixture {
	t.Helper()
	m, err := mapping.Compile([]mapping.Source{{Name: "rules.yaml", Data: []byte(`errors: jsonrpc
rules:
  - { match: { host: mcp.example.test, path: /mcp }, tool: mcp.shop, risk: high, args: jsonrpc, mcp: shop }
`)}}, mapping.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile([]policy.Source{{Name: "policy.yaml", Data: []byte(`policies:
  - { name: p, version: 1, tools: ["mcp.shop.**"], rules: [{ name: ask, decision: require_approval, reason_code: shop.ask }] }
`)}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return newGate(t, "enforce", func(r *gate.Rules) { r.Mapping, r.Policy = m, p })
}

func (f *fixture) message(body string) *gate.Request {
	r := f.request("POST", "/mcp", text(body))
	r.Head.Authority, r.Head.Host = "mcp.example.test:443", "mcp.example.test"
	r.Head.Header = map[string][]string{"Content-Type": {"application/json"}, "Mcp-Session-Id": {"s1"}}
	return r
}

func order(id int, token string, amount int) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"pay","arguments":{"amount":%d},"_meta":{"progressToken":%s}}}`, id, amount, token)
}

func TestMessageThatAsksAgainAttaches(t *testing.T) {
	f := messages(t)
	_, first := f.Check(t.Context(), f.message(order(1, "1", 5)))
	if first == nil || !first.Retry {
		t.Fatalf("%+v", first)
	}
	for what, r := range map[string]*gate.Request{
		"another amount":         f.message(order(2, "2", 6)),
		"an object as the token": f.message(order(2, `{"amount":5}`, 5)),
		"a batch":                f.message("[" + order(2, "2", 5) + "]"),
		"another session": func() *gate.Request {
			r := f.message(order(2, "2", 5))
			r.Head.Header["Mcp-Session-Id"] = []string{"s2"}
			return r
		}(),
	} {
		if _, other := f.Check(t.Context(), r); other == nil || other.Approval == first.Approval {
			t.Errorf("%s attached: %+v", what, other)
		}
	}
	if _, again := f.Check(t.Context(), f.message(order(2, "2", 5))); again == nil || again.Approval != first.Approval {
		t.Fatalf("the same with another id did not attach to %s: %+v", first.Approval, again)
	}
	if _, err := f.Decide(t.Context(), approver, first.Approval, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	permit, ref := f.Check(t.Context(), f.message(order(3, "3", 5)))
	if permit == nil {
		t.Fatalf("%+v", ref)
	}
	if sent := string(permit.Outbound().Body); sent != order(3, "3", 5) {
		t.Errorf("what is sent is not what came: %s", sent)
	}
	permit.Answered(gate.Answer{Status: 200, Header: map[string][]string{"Content-Type": {"application/json"}}, Body: []byte(`{"id":3}`)}, true)
	permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
	if _, retry := f.Check(t.Context(), f.message(order(3, "3", 5))); retry == nil || retry.Replay == nil {
		t.Errorf("the same message once more gets its answer: %+v", retry)
	}
	if _, next := f.Check(t.Context(), f.message(order(4, "4", 5))); next == nil || !next.Retry || next.Approval == first.Approval {
		t.Errorf("a message that means it once more is a new question: %+v", next)
	}
}

// Two messages that wait at one approval are two calls that got one yes: one is
// sent, and the other is not given an answer with the id of the first.
func TestOneApprovalForTwoMessages(t *testing.T) {
	f := messages(t)
	r := *f.rules
	longHold(&r)
	f.Load(&r)
	one, two := f.held(t, f.message(order(1, "1", 5))), f.held(t, f.message(order(2, "2", 5)))
	a := f.pending(t)
	for waiting, end := 0, time.Now().Add(5*time.Second); waiting < 2; { // both, before it is decided
		if waiting = 0; time.Now().After(end) {
			t.Fatal("two messages do not wait")
		}
		events, _ := f.rec.log(t)
		for _, e := range events {
			if e.Kind == evidence.KindAction {
				waiting++
			}
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := f.Decide(t.Context(), approver, a.ID, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	var sent answer
	other := two
	select {
	case sent = <-one:
	case sent = <-two:
		other = one
	}
	if sent.permit == nil {
		t.Fatalf("%+v", sent.refusal)
	}
	sent.permit.Answered(gate.Answer{Status: 200, Body: []byte(`{"id":1}`)}, true)
	sent.permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
	got := <-other
	if got.refusal == nil || got.refusal.Replay != nil || got.refusal.Status != 409 || !strings.Contains(got.refusal.Sentence, "a message with another id") {
		t.Errorf("%+v", got.refusal)
	}
}

func TestLostAnswerOfAMessageIsNotAskedAnew(t *testing.T) {
	f := messages(t)
	_, held := f.Check(t.Context(), f.message(order(1, "1", 5)))
	if _, err := f.Decide(t.Context(), approver, held.Approval, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	permit, ref := f.Check(t.Context(), f.message(order(2, "2", 5)))
	if permit == nil {
		t.Fatalf("%+v", ref)
	}
	permit.Done(gate.Outcome{State: evidence.StateAmbiguous, Error: "reset"})
	if _, again := f.Check(t.Context(), f.message(order(3, "3", 5))); again == nil || again.Status != 409 {
		t.Errorf("%+v", again)
	}
}
