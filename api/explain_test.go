package api

import (
	"context"
	"testing"

	"github.com/actpass/sidecar/gate"
)

const explainPath = "/api/v1/explain"

func init() {
	calls = append(calls, struct{ method, path, body, roles string }{"POST", explainPath, `{"action":{"tool":"t"},"agent_id":"a"}`, "approver admin"})
}

// TestExplain thinks a request and an action through: both are judged as they
// would be, and nothing of it is on record.
func TestExplain(t *testing.T) {
	r := newReal(t, gate.ModeEnforce)
	before := r.log.Size()
	c := NewClient(r.server.URL, r.admin, nil)
	for want, body := range map[string]string{
		"refund.small_in_scope":        "charge=ch_1&amount=4900&currency=usd",
		"refund.medium_needs_approval": "charge=ch_1&amount=9000&currency=usd",
	} {
		x, err := c.Explain(context.Background(), NewExplanation{Request: &ExplainedRequest{Method: "POST", URL: "https://api.stripe.com/v1/refunds", Body: body}, AgentID: "a"})
		if err != nil || x.Decision.ReasonCode != want || x.Decision.Tool != "stripe.refund.create" || x.MappingRule == "" || x.Identity.AgentID != "a" || len(x.Policies) != 1 || x.Policies[0].Uses[0].Used == nil {
			t.Errorf("%v %+v", err, x)
		}
	}
	x, err := c.Explain(context.Background(), NewExplanation{Action: &ExplainedAction{Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", Args: map[string]any{"amount": 900000, "currency": "usd"}}})
	if err != nil || x.Decision.ReasonCode != "refund.over_limit" || x.Decision.Enforcement != "block" || x.Identity.AgentID != "support_agent" || x.Identity.TenantID != "acme" || x.Canonical.URL != "" {
		t.Errorf("%v %+v", err, x)
	}
	if x, err = c.Explain(context.Background(), NewExplanation{Action: &ExplainedAction{Tool: "stripe.refund.create", Args: map[string]any{"amount": "many"}}}); err != nil || len(x.Problems) == 0 || x.Decision.Decision != "deny" {
		t.Errorf("%v %+v", err, x)
	}
	if n := r.log.Size(); n != before {
		t.Errorf("%d records were made", n-before)
	}
	for body, field := range map[string]string{
		`{}`: "request", `{"action":{"tool":"t"},"request":{"method":"GET","url":"https://a/"}}`: "request",
		`{"action":{"tool":""}}`: "tool", `{"request":{"method":"GET","url":"/v1"}}`: "request",
		`{"request":{"method":"GET","url":"https://a/","headers":["no header"]}}`: "request", `{"action":{"tool":"t","arg":{}}}`: "action.arg",
	} {
		r.call("POST", explainPath, r.admin, body).want(t, 400, "invalid_request", field)
	}
}
