package api

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/actpass/sidecar/gate"
)

const modesPath = "/api/v1/modes"

func (g *fakeGate) SetMode(context.Context, gate.Identity, gate.NewMode) (gate.ModeOverride, error) {
	return gate.ModeOverride{ID: "mod_1", Mode: gate.ModeEnforce}, g.err
}

func (g *fakeGate) Modes(context.Context, gate.Identity) ([]gate.ModeOverride, error) {
	return nil, g.err
}

func (g *fakeGate) ClearMode(context.Context, gate.Identity, string, string) (gate.ModeOverride, error) {
	return gate.ModeOverride{}, g.err
}

func TestModes(t *testing.T) {
	r := newReal(t, gate.ModeMonitor)
	agent, _ := r.key(t, `{"name":"agent","role":"gateway","agent_id":"support_agent"}`)
	human, _ := r.key(t, `{"name":"ann","role":"approver"}`)
	judged := func(status int, mode string) {
		t.Helper()
		got := r.call("POST", preflightPath, agent, refund("9900000", ""))
		got.want(t, status, "", "")
		if m := got.at("mode"); m != mode {
			t.Errorf("judged in %v, want %s", m, mode)
		}
	}
	r.call("POST", modesPath, human, `{"mode":"strict"}`).want(t, 403, "forbidden", "")
	judged(200, gate.ModeMonitor)

	got := r.call("POST", modesPath, r.admin, `{"tool":"stripe.refund.*","agent_id":"support_agent","mode":"enforce","reason":"a quiet week"}`)
	got.want(t, 201, "", "")
	id := got.at("id").(string)
	judged(403, gate.ModeEnforce)
	r.call("POST", modesPath, r.admin, `{"agent_id":"other","mode":"strict"}`).want(t, 201, "", "")
	judged(403, gate.ModeEnforce)

	for _, tt := range []struct{ body, field string }{
		{`{}`, "mode"},
		{`{"mode":"monitor"}`, "mode"},
		{`{"mode":"fast"}`, "mode"},
		{`{"mode":"enforce","tool":"{a,b}"}`, "tool"},
		{`{"mode":"enforce","tool":"` + strings.Repeat("x", 257) + `"}`, "tool"},
		{`{"mode":"enforce","agent_id":"a\u202eb"}`, "agent_id"},
		{`{"mode":"enforce","reason":"` + strings.Repeat("x", 1025) + `"}`, "reason"},
		{`{"mode":"enforce","tenant_id":"rival"}`, "tenant_id"},
	} {
		r.call("POST", modesPath, r.admin, tt.body).want(t, 400, "invalid_request", tt.field)
	}

	// Pages; and another tenant's are none of ours.
	page := r.call("GET", modesPath+"?limit=1", human, "")
	page.want(t, 200, "", "")
	next, _ := page.at("next_cursor").(string)
	page = r.call("GET", modesPath+"?limit=1&cursor="+next, human, "")
	if page.want(t, 200, "", ""); !strings.Contains(page.body, id) || !strings.Contains(page.body, `"next_cursor":""`) {
		t.Error(page.body)
	}
	r.call("GET", modesPath+"?cursor=mod_none", human, "").want(t, 400, "invalid_request", "cursor")
	if list, err := r.gate.Modes(t.Context(), gate.Identity{TenantID: "rival", Role: gate.RoleAdmin}); err != nil || len(list) != 0 {
		t.Errorf("another tenant sees %d, %v", len(list), err)
	}

	r.call("DELETE", modesPath+"/"+id, human, "").want(t, 403, "forbidden", "")
	r.call("DELETE", modesPath+"/mod_none", r.admin, "").want(t, 404, "not_found", "")
	r.call("DELETE", modesPath+"/"+id+"?reason=early", r.admin, "").want(t, 204, "", "")
	r.call("DELETE", modesPath+"/"+id, r.admin, "").want(t, 204, "", "")
	judged(200, gate.ModeMonitor)
}

func TestModesOfAClient(t *testing.T) {
	r := newReal(t, gate.ModeMonitor)
	client := NewClient(r.server.URL, r.admin, nil)
	m, err := client.SetMode(t.Context(), NewMode{Tool: "stripe.*", Mode: gate.ModeStrict, Reason: "why"})
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.Modes(t.Context(), "", 10)
	if err != nil || len(list.Data) != 1 || list.Data[0] != m || m.Tool != "stripe.*" || m.Reason != "why" || m.Name != "admin" {
		t.Errorf("%+v, %v", list, err)
	}
	if err := client.ClearMode(t.Context(), m.ID, "done"); err != nil {
		t.Error(err)
	}
	var e *Error
	if err := client.ClearMode(t.Context(), "mod_none", ""); !errors.As(err, &e) || e.Status != 404 {
		t.Error(err)
	}
}

func TestModesWithoutAStore(t *testing.T) {
	a := newAPI(t)
	a.gate.err = errors.New("gone")
	a.call("POST", modesPath, adminKey, `{"mode":"strict"}`).want(t, 503, "store.unavailable", "")
	a.call("DELETE", modesPath+"/mod_1", adminKey, "").want(t, 503, "store.unavailable", "")
	a.gate.err = gate.ErrTooMany
	a.call("POST", modesPath, adminKey, `{"mode":"strict"}`).want(t, 429, "mode_override.too_many", "")
}
