package web

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
)

// TestTryIt thinks requests and actions through in a form, and leaves no trace.
func TestTryIt(t *testing.T) {
	r := newRig(t)
	_, agent := r.key("acme", gate.RoleGateway)
	_, human := r.key("acme", gate.RoleApprover)
	b := r.signedIn(human)
	if got := r.signedIn(agent).get("/ui/try"); got.status != http.StatusForbidden {
		t.Errorf("an agent's key gets %d", got.status)
	}
	before := r.log.Size()
	form := func(pairs ...string) url.Values {
		f := url.Values{"csrf": {b.token("/ui/try")}}
		for i := 0; i < len(pairs); i += 2 {
			f.Set(pairs[i], pairs[i+1])
		}
		return f
	}
	has := func(got reply, status int, texts ...string) {
		t.Helper()
		if got.status != status {
			t.Errorf("answers %d, want %d", got.status, status)
		}
		for _, text := range texts {
			if !strings.Contains(got.body, text) {
				t.Errorf("no %q in %s", text, got.body)
			}
		}
		// The form has what was typed, as it was typed.
		_, said, _ := strings.Cut(got.body, `id="said"`)
		for bad, where := range map[string]string{"<script>alert": got.body, "<img": got.body, "\u202e": said} {
			if strings.Contains(where, bad) {
				t.Errorf("%q stands there", bad)
			}
		}
	}
	has(b.post("/ui/try", form("kind", "request", "request", "POST https://api.stripe.com/v1/refunds\n\ncharge=ch_1&amount=9000&currency=usd", "agent_id", "<script>alert(1)</script>")),
		200, "stripe.refund.create", "Needs approval", "hold it for a human", "refund.medium_needs_approval", "medium_refund_needs_approval", "The rule that decides", "args.amount", "&lt;script&gt;alert", "Limit ")
	has(b.post("/ui/try", form("kind", "request", "request", "GET /v1/charges/ch_1?<img HTTP/1.1\r\nHost: api.stripe.com\r\nX-A: b\r\n\r\n")), 200, "Ambiguous", "under enforce")
	has(b.post("/ui/try", form("kind", "request", "request", "POST http://api.example.com/v9/a\n\n{}")), 200, "no rule maps it", "policy.default</code> decides")
	has(b.post("/ui/try", form("kind", "action", "tool", "stripe.refund.create", "resource", "stripe:charge:<script>alert(1)</script>a\u202eb", "args", `{"amount":4900,"currency":"usd","note":"<img src=x>"}`)), 200, "Allow", "refund.small_in_scope", "U+202E", `&lt;img src=x&gt;`)
	has(b.post("/ui/try", form("kind", "action", "tool", "stripe.refund.create", "args", `{"amount":9007199254740993,"currency":"usd"}`)), 200, "9007199254740993", "Deny")
	has(b.post("/ui/try", form("kind", "action", "tool", "t", "args", `[1]`)), 400, "must be one JSON object", "[1]")
	has(b.post("/ui/try", form("kind", "request", "request", "nonsense")), 400, "must begin with a method and a URL", "nonsense")
	has(b.post("/ui/try", form("kind", "request", "request", "GET /v1")), 400, "is not an absolute http or https URL")
	if got := b.post("/ui/try", url.Values{"kind": {"action"}, "tool": {"t"}}); got.status != http.StatusForbidden {
		t.Errorf("a form without its token answers %d", got.status)
	}
	if n := r.log.Size(); n != before {
		t.Errorf("%d records were made", n-before)
	}
}

// TestPoliciesPage: what is loaded and since when, what rules say, and rules for
// traffic that has none.
func TestPoliciesPage(t *testing.T) {
	r := newRig(t)
	_, agent := r.key("acme", gate.RoleGateway)
	_, human := r.key("acme", gate.RoleApprover)
	b := r.signedIn(human)
	if got := b.get("/ui/policies"); strings.Contains(got.body, "In force since") {
		t.Error("nothing is on record, and it says since when")
	}
	rules := r.gate.Rules()
	for _, hash := range []string{"sha256:before", rules.Policy.Hash(), rules.Policy.Hash()} {
		if err := r.gate.Note(context.Background(), evidence.KindConfig, "configuration reloaded", map[string]string{"policy_hash": hash, "mapping_hash": rules.Mapping.Hash()}); err != nil {
			t.Fatal(err)
		}
	}
	// The newest first: the two that name what is loaded, and one before them.
	notes, err := api.NewClient("http://api.invalid", human, &http.Client{Transport: inProcess{r.api, "127.0.0.1:1"}}).Events(context.Background(), api.EventQuery{Kind: evidence.KindConfig})
	if err != nil || len(notes.Data) != 3 {
		t.Fatalf("%v %d", err, len(notes.Data))
	}
	for i, shown := range []bool{false, true, false} {
		e, err := decode(notes.Data[i])
		if err != nil || strings.Contains(b.get("/ui/policies").body, "/ui/events/"+e.ID) != shown {
			t.Errorf("%v: the page names note %d: %v", err, i, !shown)
		}
	}
	r.ask(agent, refund(100))
	monitor := *rules
	monitor.Mode = gate.ModeMonitor
	r.gate.Load(&monitor)
	for _, target := range []string{"/v9/orders/4711", "/v9/orders/4712", "/v9/orders/4713", "/v9/<script>alert(1)</script>"} {
		permit, _ := r.gate.Check(context.Background(), &gate.Request{
			Door: gate.DoorForward, Identity: gate.Identity{TenantID: "acme", AgentID: "support_agent", Source: gate.SourceConfig},
			Head: mapping.Request{Method: "POST", Scheme: "https", Authority: "api.example.com", Host: "api.example.com", Target: target, Header: map[string][]string{}},
			Body: nobody{},
		})
		permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
	}
	got := b.get("/ui/policies")
	for _, want := range []string{"In force since", "as the record has it", "Could be called", "POST api.example.com/v9/orders/{", "example.order.update", "suggested.yaml", "small_refund_auto_approve", `class="hit"`, "/ui/try"} {
		if !strings.Contains(got.body, want) {
			t.Errorf("no %q", want)
		}
	}
	if t.Failed() {
		t.Log(got.body)
	}
	if strings.Contains(got.body, "<script>alert") {
		t.Error("a path acts")
	}
	file := b.get("/ui/policies/suggested.yaml")
	if file.status != http.StatusOK || file.header.Get("Content-Disposition") != `attachment; filename="suggested.yaml"` || !strings.Contains(file.body, "api.example.com") {
		t.Errorf("%d %s", file.status, file.body)
	}
	if _, err := mapping.Compile([]mapping.Source{{Name: "suggested.yaml", Data: []byte(file.body)}}, mapping.Options{}); err != nil {
		t.Errorf("the file cannot be used: %v", err)
	}
	_, rival := r.key("globex", gate.RoleAdmin)
	if other := r.signedIn(rival); strings.Contains(other.get("/ui/policies").body, "api.example.com") || other.get("/ui/policies/suggested.yaml").status != http.StatusNotFound {
		t.Error("another tenant sees this one's traffic")
	}
}

type nobody struct{}

func (nobody) Peek(int64) ([]byte, bool, error) { return nil, true, nil }
