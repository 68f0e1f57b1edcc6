package api

import (
	"context"
	"strings"
	"testing"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
)

const grantsPath = "/api/v1/grants"

func (g *fakeGate) CreateGrant(context.Context, gate.Identity, gate.NewGrant) (gate.Grant, error) {
	return gate.Grant{ID: "grt_1", Count: 1}, g.err
}

func (g *fakeGate) Grants(context.Context, gate.Identity, gate.GrantQuery) ([]gate.Grant, string, error) {
	return nil, "", g.err
}

func (g *fakeGate) Grant(context.Context, gate.Identity, string) (gate.Grant, error) {
	return gate.Grant{ID: "grt_1", Count: 1}, g.err
}

func (g *fakeGate) RevokeGrant(context.Context, gate.Identity, string, string) (gate.Grant, error) {
	return gate.Grant{ID: "grt_1", Count: 1}, g.err
}

func (g *fakeGate) Rules() *gate.Rules {
	return &gate.Rules{Policy: new(policy.Set), Mapping: new(mapping.Set), Mode: gate.ModeMonitor}
}

func (g *fakeGate) Beside(*gate.Approval) []gate.RuleBeside { return nil }

func TestGrants(t *testing.T) {
	r := newReal(t, gate.ModeEnforce)
	agent, _ := r.key(t, `{"name":"agent","role":"gateway","agent_id":"support_agent"}`)
	human, _ := r.key(t, `{"name":"ann","role":"approver","groups":["support-leads"]}`)
	other, _ := r.key(t, `{"name":"bob","role":"approver","groups":["marketing"]}`)
	const shape = `"agent_id":"support_agent","tool":"stripe.refund.create","resource":"stripe:charge:*","policy":"refund_policy","rule":"medium_refund_needs_approval",` +
		`"resource_constraints":{"max":{"amount":30000},"equals":{"currency":"usd"}},"count":1`
	for _, tt := range []struct {
		key, body, code, field string
		status                 int
	}{
		{agent, `{` + shape + `,"ttl":60}`, "forbidden", "", 403},
		{other, `{` + shape + `,"ttl":60}`, "grant.not_allowed", "", 403},
		{human, `{` + shape + `}`, "invalid_request", "ttl", 400},
		{human, `{` + shape + `,"ttl":9223372036854775807}`, "invalid_request", "ttl", 400},
		{human, `{` + shape + `,"ttl":60,"sum":{"arg":"","max":3}}`, "invalid_request", "sum.arg", 400},
		{human, `{` + shape + `,"ttl":60,"forever":true}`, "invalid_request", "forever", 400},
		{human, `{"approval_id":"apr_none","count":1,"ttl":60}`, "not_found", "", 404},
	} {
		r.call("POST", grantsPath, tt.key, tt.body).want(t, tt.status, tt.code, tt.field)
	}
	got := r.call("POST", grantsPath, human, `{`+shape+`,"ttl":60}`)
	got.want(t, 201, "", "")
	id, _ := got.at("id").(string)
	if got.at("state") != "live" || !strings.Contains(got.body, `"resource_constraints":{"equals":{"currency":"usd"},"max":{"amount":30000}}`) {
		t.Error(got.body)
	}
	r.call("GET", grantsPath+"/"+id, human, "").want(t, 200, "", "")
	r.call("GET", grantsPath+"?state=live", human, "").want(t, 200, "", "")
	r.call("GET", grantsPath+"?state=dead", human, "").want(t, 400, "invalid_request", "state")
	r.call("GET", grantsPath, agent, "").want(t, 403, "forbidden", "")
	got = r.call("POST", preflightPath, agent, refund("25000", `,"intent":"execute"`))
	if got.want(t, 200, "", ""); got.at("enforcement") != "none" || got.at("decision") != "require_approval" {
		t.Error(got.body)
	}
	got = r.call("DELETE", grantsPath+"/"+id+"?reason=done", other, "")
	if got.want(t, 200, "", ""); got.at("state") != "revoked" || got.at("used") != float64(1) {
		t.Error(got.body)
	}

	// With the word on an approval, and only with a word that counts.
	got = r.call("POST", preflightPath, agent, refund("26000", ``))
	apr, _ := got.at("approval_request_id").(string)
	decide := "/api/v1/approvals/" + apr + "/decide"
	r.call("POST", decide, human, `{"decision":"deny","grant":{"count":1,"ttl":60}}`).want(t, 400, "invalid_request", "grant")
	r.call("POST", decide, human, `{"decision":"approve","grant":{"count":0,"ttl":60}}`).want(t, 400, "invalid_request", "count")
	if got = r.call("GET", "/api/v1/approvals/"+apr, human, ""); got.at("state") != "pending" {
		t.Errorf("a grant that is not possible decided its approval: %s", got.body)
	}
	got = r.call("POST", decide, human, `{"decision":"approve","reason":"fine","grant":{"count":1,"ttl":60}}`)
	if got.want(t, 200, "", ""); got.at("state") != "approved" || got.at("grant.approval_id") != apr || got.at("grant.reason") != "fine" {
		t.Error(got.body)
	}
	live := r.call("GET", grantsPath+"?state=live", human, "").body
	r.call("POST", decide, human, `{"decision":"approve","grant":{"count":1,"ttl":60}}`).want(t, 409, "approval.illegal_state", "")
	if now := r.call("GET", grantsPath+"?state=live", human, "").body; now != live {
		t.Errorf("a word that came too late left its grant behind: %s", now)
	}
}
