package api

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

func TestCountDecided(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	made := func(ago time.Duration, rule string, line int, hash, path string, mapped bool) (e evidence.Event) {
		e.Kind, e.Time, e.PolicyHash, e.Tool = evidence.KindAction, evidence.Time{Time: at.Add(-ago)}, hash, "http.post"
		if rule != "" {
			e.Rule = &evidence.Position{File: "p.yaml", Line: line, Name: rule}
		}
		if path != "" {
			e.Request = &evidence.Request{Method: "POST", Authority: "api.acme.test", Path: path}
		}
		if mapped {
			e.MappingRule = &evidence.Position{File: "m.yaml", Line: 1}
		}
		return e
	}
	tunnel := made(0, "", 0, "h1", "/", false)
	tunnel.Tool = "http.connect"
	got := CountDecided([]evidence.Event{
		made(0, "a", 5, "h1", "/v1/x", true), made(time.Hour, "b", 9, "h1", "/v1/y", false), made(2*time.Hour, "b", 9, "h1", "/v1/y", false),
		made(3*time.Hour, "b", 9, "h0", "", false), made(time.Minute, "", 0, "h1", "/v1/z", false), tunnel,
	})
	since := evidence.Time{Time: at.Add(-3 * time.Hour)}
	want := Decided{
		Actions: 6, Since: &since,
		Rules: []RuleHits{{"h1", "p.yaml", 9, "b", 2}, {"h1", "p.yaml", 5, "a", 1}, {"h0", "p.yaml", 9, "b", 1}},
		Unmapped: []UnmappedHits{
			{Method: "POST", Authority: "api.acme.test", Path: "/v1/y", Count: 2}, {Method: "POST", Authority: "api.acme.test", Path: "/v1/z", Count: 1},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n := len(got.Calls()); n != 2 {
		t.Errorf("%d calls", n)
	}
	if none := CountDecided(nil); none.Since != nil || none.Rules == nil || none.Unmapped == nil {
		t.Errorf("%+v", none)
	}
}

// TestDecidedIsOfTheTenantAndTheNewest asks a real record.
func TestDecidedIsOfTheTenantAndTheNewest(t *testing.T) {
	r := newReal(t, gate.ModeEnforce)
	agent, _ := r.key(t, `{"name":"agent","role":"gateway"}`)
	for _, amount := range []string{"100", "200", "900000"} {
		r.call("POST", preflightPath, agent, refund(amount, ""))
	}
	got := r.call("GET", "/api/v1/evidence/decided", r.admin, "")
	if got.at("actions") != 3.0 || got.at("rules.0.count") != 2.0 || got.at("rules.1.count") != 1.0 || got.at("since") == nil {
		t.Error(got.body)
	}
	if got = r.call("GET", "/api/v1/evidence/decided?last=1", r.admin, ""); got.at("actions") != 1.0 || got.at("rules.0.name") != "large_refund" {
		t.Error(got.body)
	}
	r.call("GET", "/api/v1/evidence/decided", agent, "").want(t, 403, "forbidden", "")
}
