package api

import (
	"context"
	"strings"
	"testing"

	"github.com/actpass/sidecar/gate"
)

const doctorPath = "/api/v1/doctor"

func (g *fakeGate) RecordDoctor(context.Context, gate.Identity, string, map[string]string) (string, error) {
	return "ev_1", g.err
}

func TestDoctor(t *testing.T) {
	r := newReal(t, gate.ModeMonitor)
	agent, _ := r.key(t, `{"name":"agent","role":"gateway","agent_id":"support_agent"}`)
	human, _ := r.key(t, `{"name":"ann","role":"approver"}`)
	body := `{"verdict":"open","paths":[{"path":"tcp","target":"1.1.1.1:443","verdict":"open","certain":true,"detail":"connected","change":"redirect"}]}`
	got := r.call("POST", doctorPath, agent, body)
	got.want(t, 201, "", "")
	id := got.at("evidence_event_id").(string)
	got = r.call("GET", "/api/v1/evidence/events?kind=doctor", human, "")
	got.want(t, 200, "", "")
	for _, want := range []string{id, `"kind":"doctor"`, `"agent_id":"support_agent"`, `"path.tcp":"open: 1.1.1.1:443: connected"`, `"verdict":"open"`} {
		if !strings.Contains(got.body, want) {
			t.Errorf("%s\nhas no %s", got.body, want)
		}
	}
	r.call("POST", doctorPath, human, body).want(t, 403, "forbidden", "")
	for _, tt := range []struct{ old, new, field string }{
		{`{"verdict":"open"`, `{"verdict":"fine"`, "verdict"},
		{`"verdict":"open","certain"`, `"verdict":"fine","certain"`, "paths.0.verdict"},
		{`"path":"tcp"`, `"path":""`, "paths.0.path"},
		{`connected`, strings.Repeat("x", 513), "paths.0"},
		{body[strings.Index(body, "[")+1 : len(body)-2], "", "paths"},
		{`"certain"`, `"sure"`, "paths.0.sure"},
	} {
		r.call("POST", doctorPath, agent, strings.Replace(body, tt.old, tt.new, 1)).want(t, 400, "invalid_request", tt.field)
	}
}
