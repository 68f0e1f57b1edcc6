package api

import (
	"strings"
	"testing"

	"github.com/actpass/sidecar/gate"
)

// The tests here send what somebody sends who has read the table of calls and
// nothing else.

func TestAKeyExpiresWhenItWasTold(t *testing.T) {
	r := newReal(t, gate.ModeMonitor)
	got := r.call("POST", "/api/v1/keys", r.admin, `{"name":"a","role":"gateway","expires_at":"2099-01-02T03:04:05+01:00"}`)
	got.want(t, 201, "", "")
	if at := got.at("expires_at"); at != "2099-01-02T02:04:05.000000Z" {
		t.Errorf("asked to expire at 02:04:05Z, it does at %v", at)
	}
	r.call("POST", preflightPath, got.at("key").(string), refund("1", "")).want(t, 200, "", "")
	listed := r.call("GET", "/api/v1/keys?limit=1", r.admin, "")
	if !strings.Contains(listed.body, `"expires_at":"2099-01-02T02:04:05.000000Z"`) {
		t.Error(listed.body)
	}
	r.call("POST", "/api/v1/keys", r.admin, `{"name":"a","role":"gateway","expires_at":"2020-01-01T00:00:00Z"}`).want(t, 400, "invalid_request", "expires_at")
	r.call("POST", "/api/v1/keys", r.admin, `{"name":"a","role":"gateway","ttl":"1h","expires_at":"2099-01-01T00:00:00Z"}`).want(t, 400, "invalid_request", "expires_at")
}

func TestEscalateWithAReasonAlone(t *testing.T) {
	r := withPassports(newReal(t, gate.ModeEnforce))
	agent, _ := r.key(t, `{"name":"agent","role":"gateway","agent_id":"support_agent"}`)
	lead, _ := r.key(t, `{"name":"Ann","role":"approver","group":"support-leads"}`)
	boss, _ := r.key(t, `{"name":"Eve","role":"admin"}`)
	id := r.call("POST", preflightPath, agent, refund("20000", "")).at("approval_request_id").(string)
	path := "/api/v1/approvals/" + id + "/decide"

	got := r.call("POST", path, lead, `{"decision":"escalate","reason":"too much for me"}`)
	got.want(t, 200, "", "")
	if got.at("state") != "pending" || !strings.Contains(got.body, `"approvers":["admin"]`) {
		t.Error(got.body)
	}
	r.call("POST", path, lead, `{"decision":"approve"}`).want(t, 403, "approval.not_allowed", "")
	r.call("POST", path, lead, `{"decision":"escalate","to":[]}`).want(t, 400, "invalid_request", "to")
	got = r.call("POST", path, boss, `{"decision":"approve","reason":"fine"}`)
	got.want(t, 200, "", "")
	if got.at("state") != "approved" || got.at("passport_token") == nil {
		t.Error(got.body)
	}
	late := r.call("POST", path, boss, `{"decision":"deny"}`)
	late.want(t, 409, "approval.illegal_state", "")
	if said := late.at("error.message"); said != "approval "+id+" is approved: it has been decided" {
		t.Errorf("said %q", said)
	}
}

func TestThePassportsOwnIssuerMayBeNamed(t *testing.T) {
	r := withPassports(newReal(t, gate.ModeStrict))
	r.call("POST", issuePath, r.admin, wanted(`{}`, `,"iss":"actpass","aud":"actpass","tenant_id":"acme","ttl":60`)).want(t, 201, "", "")
	r.call("POST", issuePath, r.admin, wanted(`{}`, `,"iss":"somebody"`)).want(t, 400, "invalid_request", "iss")
}

func TestSimulateOneFile(t *testing.T) {
	a := newAPI(t)
	simulated.queries = nil
	a.call("POST", "/api/v1/simulate", adminKey, `{"policy":"policies: []","mode":"enforce"}`).want(t, 200, "", "")
	if q := simulated.queries; len(q) != 1 || len(q[0].Policies) != 1 || q[0].Policies[0] != (SimulationPolicy{Name: "policy.yaml", YAML: "policies: []"}) {
		t.Errorf("asked %v", q)
	}
	a.call("POST", "/api/v1/simulate", adminKey, `{"policy":"policies: []","policies":[{"name":"n","yaml":"policies: []"}]}`).want(t, 400, "invalid_request", "policy")
}
