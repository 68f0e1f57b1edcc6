package api

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/actpass/sidecar/gate"
)

const (
	limitsPath = "/api/v1/limits"
	resetPath  = "/api/v1/limits/reset"
)

func (g *fakeGate) Limits(context.Context, gate.Identity, gate.LimitQuery) ([]gate.LimitUse, string, error) {
	return nil, "", g.err
}

func (g *fakeGate) ResetLimit(context.Context, gate.Identity, string, string, string) ([]gate.LimitUse, error) {
	return nil, g.err
}

func TestLimits(t *testing.T) {
	r := newReal(t, gate.ModeEnforce)
	agent, _ := r.key(t, `{"name":"agent","role":"gateway","agent_id":"support_agent"}`)
	human, _ := r.key(t, `{"name":"ann","role":"approver"}`)

	got := r.call("GET", limitsPath, human, "")
	got.want(t, 200, "", "")
	if !strings.Contains(got.body, `"limit":"refund_policy/refunds_per_day"`) || !strings.Contains(got.body, `"key":null,"used":0,"left":100000,"max":100000`) {
		t.Error(got.body)
	}
	for range 2 {
		r.call("POST", preflightPath, agent, refund("4900", `,"intent":"execute"`)).want(t, 200, "", "")
	}
	r.call("POST", preflightPath, agent, refund("4900", "")).want(t, 200, "", "")
	got = r.call("GET", limitsPath+`?name=refunds_per_day&key=%5B%22support_agent%22,%22USD%22%5D`, human, "")
	got.want(t, 200, "", "")
	for _, want := range []string{
		`"key_names":["agent_id","args.currency"],"key":["support_agent","usd"],"used":9800,"left":90200,"max":100000,"unit":"USD","summary":"98.00 of 1000.00 USD used","window":"24h","zone":"","since":null,"resets_at":"2`,
		`"decision":"require_approval","reason_code":"refund.daily_limit","file":"refund_policy.yaml"`,
	} {
		if !strings.Contains(got.body, want) {
			t.Errorf("%s\nhas no %s", got.body, want)
		}
	}
	for _, tt := range []struct {
		query, code, field string
		status             int
	}{
		{"?name=none", "not_found", "", 404},
		{"?name=refunds_per_day&key=usd", "invalid_request", "key", 400},
		{"?name=refunds_per_day&key=%5B%22usd%22%5D", "invalid_request", "key", 400},
		{"?key=%5B%22usd%22%5D", "invalid_request", "key", 400},
		{"?cursor=x", "invalid_request", "cursor", 400},
		{"?limit=0", "invalid_request", "limit", 400},
		{"?policy=x", "invalid_request", "policy", 400},
	} {
		r.call("GET", limitsPath+tt.query, human, "").want(t, tt.status, tt.code, tt.field)
	}
	r.call("GET", limitsPath, agent, "").want(t, 403, "forbidden", "")

	// Reset: for admins, one key or all, and on record.
	one := `{"limit":"refund_policy/refunds_per_day","key":["support_agent","usd"],"reason":"month end"}`
	r.call("POST", resetPath, human, one).want(t, 403, "forbidden", "")
	for _, tt := range []struct {
		body, code, field string
		status            int
	}{
		{`{"limit":"refunds_per_day"}`, "invalid_request", "key", 400},
		{`{"limit":"refunds_per_day","key":["a","b"],"all":true}`, "invalid_request", "key", 400},
		{`{"limit":"refunds_per_day","key":["a"]}`, "invalid_request", "key", 400},
		{`{"limit":"refunds_per_day","key":"a"}`, "invalid_request", "key", 400},
		{`{"all":true}`, "invalid_request", "limit", 400},
		{`{"limit":"none","all":true}`, "not_found", "", 404},
		{`{"limit":"refunds_per_day","all":true,"reason":"` + strings.Repeat("x", 1025) + `"}`, "invalid_request", "reason", 400},
	} {
		r.call("POST", resetPath, r.admin, tt.body).want(t, tt.status, tt.code, tt.field)
	}
	got = r.call("POST", resetPath, r.admin, one)
	got.want(t, 200, "", "")
	if !strings.Contains(got.body, `"used":9800`) {
		t.Error(got.body)
	}
	events := r.call("GET", "/api/v1/evidence/events?kind=config", r.admin, "")
	if !strings.Contains(events.body, `limit refund_policy/refunds_per_day is reset under one key`) || !strings.Contains(events.body, `"used":"98.00 of 1000.00 USD used"`) {
		t.Error(events.body)
	}

	client := NewClient(r.server.URL, r.admin, nil)
	page, err := client.Limits(t.Context(), "refund_policy/refunds_per_day", "", "", 10)
	if err != nil || len(page.Data) != 1 || page.Data[0].Used != 0 || page.Data[0].ResetsAt != nil {
		t.Errorf("%+v, %v", page, err)
	}
	out, err := client.ResetLimit(t.Context(), LimitReset{Limit: "refunds_per_day", Key: jsontext.Value(`["support_agent","usd"]`)})
	if err != nil || len(out.Reset) != 0 || out.Reset == nil {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestLimitsOfABrokenGate(t *testing.T) {
	a := newAPI(t)
	a.gate.err = errors.New("disk full")
	a.call("GET", limitsPath, adminKey, "").want(t, 503, "store.unavailable", "")
	a.call("POST", resetPath, adminKey, `{"limit":"x","all":true}`).want(t, 503, "store.unavailable", "")
}
