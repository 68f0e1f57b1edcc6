package api

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/whatif"
)

func init() {
	calls = append(calls, struct{ method, path, body, roles string }{"POST", "/api/v1/simulate", `{}`, "approver admin"})
}

var simulated struct {
	sync.Mutex
	queries []SimulationQuery
	err     error
}

func (e *fakeEvents) Simulate(_ context.Context, q SimulationQuery) (whatif.Report, error) {
	simulated.Lock()
	defer simulated.Unlock()
	simulated.queries = append(simulated.queries, q)
	at := evidence.Time{Time: time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)}
	return whatif.Report{
		Data: []whatif.Group{{
			Tool: "stripe.refund.create", AgentID: "support_agent", Count: 2, Amounts: map[string]int64{"usd": 12300}, FirstSeen: at, LastSeen: at,
			From: whatif.Verdict{Decision: "deny", ReasonCode: "refund.over_limit", Enforcement: "none"},
			To:   whatif.Verdict{Decision: "deny", ReasonCode: "refund.over_limit", Enforcement: "block", Rule: "large_refund"}, Samples: []string{"ev_1", "ev_2"},
		}},
		Unknown: []whatif.Unknown{{Tool: "t", Argument: "args.card", Count: 1, Samples: []string{"ev_3"}}},
		Totals:  whatif.Totals{Events: 3, Changed: 2, Unknown: 1, Groups: 1}, From: at, To: at, PolicyHash: "sha256:1", Mode: q.Mode,
	}, simulated.err
}

func TestSimulate(t *testing.T) {
	now := time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)
	a := newAPI(t, func(o *Options) { o.Now = func() time.Time { return now } })
	simulated.queries = nil
	got := a.call("POST", "/api/v1/simulate", approverKey, `{"policies":[{"name":"new.yaml","yaml":"policies: []"}],"mode":"enforce","since":"2026-01-30T10:00:00+01:00","until":"2026-01-31T00:00:00Z","tool":"stripe.*","agent_id":"a","limit":7}`)
	got.want(t, 200, "", "")
	if !strings.Contains(got.body, `"amounts":{"usd":12300}`) {
		t.Error(got.body)
	}
	a.call("POST", "/api/v1/simulate", adminKey, `{}`).want(t, 200, "", "")
	a.call("POST", "/api/v1/simulate", adminKey, `{"since":"2d","until":"12h"}`).want(t, 200, "", "")
	want := []string{
		"acme enforce 2026-01-30T09:00:00Z 2026-01-31T00:00:00Z stripe.* a 7 [{new.yaml policies: []}]",
		"acme  2026-01-24T09:00:00Z 0001-01-01T00:00:00Z   50 []",
		"acme  2026-01-29T09:00:00Z 2026-01-30T21:00:00Z   50 []",
	}
	for i, q := range simulated.queries {
		if s := fmt.Sprint(q.Tenant, " ", q.Mode, " ", q.Since.UTC().Format(time.RFC3339), " ", q.Until.Format(time.RFC3339), " ", q.Tool, " ", q.Agent, " ", q.Limit, " ", q.Policies); s != want[i] {
			t.Errorf("asked %s, want %s", s, want[i])
		}
	}
	for body, field := range map[string]string{
		`{"mode":"lenient"}`:                          "mode",
		`{"since":"soon"}`:                            "since",
		`{"until":"soon"}`:                            "until",
		`{"until":"2020-01-01T00:00:00Z"}`:            "until",
		`{"limit":201}`:                               "limit",
		`{"limit":-1}`:                                "limit",
		`{"policies":[]}`:                             "policies",
		`{"policies":[{"yaml":"x"}]}`:                 "policies[0].name",
		`{"policies":[{"name":"x","file":"y"}]}`:      "policies.0.file",
		`{"tool":"` + strings.Repeat("t", 257) + `"}`: "tool",
		`{"agent":"a"}`:                               "agent",
	} {
		a.call("POST", "/api/v1/simulate", adminKey, body).want(t, 400, "invalid_request", field)
	}
}

func (x index) Simulate(ctx context.Context, q SimulationQuery) (r whatif.Report, err error) {
	text, err := os.ReadFile("../policies/refund_policy.yaml")
	if err != nil {
		return r, err
	}
	set, err := policy.Compile([]policy.Source{{Name: "refund_policy.yaml", Data: text}}, policy.Options{})
	if err != nil {
		return r, err
	}
	sim, err := whatif.New(whatif.Options{Rules: &gate.Rules{Policy: set, Mode: q.Mode}, Tenant: q.Tenant, Since: q.Since, Tool: q.Tool, Limit: q.Limit})
	if err != nil {
		return r, err
	}
	entries, err := x.log.Read(0, 1000)
	for _, e := range entries {
		err = errors.Join(err, sim.Add(e.Record))
	}
	return sim.Report(), err
}

// TestSimulateTheRealRecord asks what was recorded by a real gate.
func TestSimulateTheRealRecord(t *testing.T) {
	r := newReal(t, gate.ModeMonitor)
	for _, amount := range []string{"4900", "25000", "75000", "75000"} {
		r.call("POST", "/api/v1/actions/preflight", r.admin, `{"tool":"stripe.refund.create","resource":"stripe:charge:ch_123","args":{"amount":`+amount+`,"currency":"usd"},"agent_id":"a"}`).want(t, 200, "", "")
	}
	got := r.call("POST", "/api/v1/simulate", r.admin, `{"mode":"enforce","tool":"stripe.*"}`)
	got.want(t, 200, "", "")
	for _, want := range []string{
		`"totals":{"events":4,"changed":3,"unchanged":1,"unknown":0,"groups":2}`, `"mode":"enforce"`,
		`"from":{"decision":"deny","reason_code":"refund.over_limit","enforcement":"none"},"to":{"decision":"deny","reason_code":"refund.over_limit","enforcement":"block","rule":"large_refund"},"count":2,"amounts":{"usd":150000}`,
	} {
		if !strings.Contains(got.body, want) {
			t.Errorf("no %s in %s", want, got.body)
		}
	}
}

func TestSimulateFails(t *testing.T) {
	a := newAPI(t)
	defer func() { simulated.err = nil }()
	simulated.err = &gate.FieldError{Field: "policies", Message: "new.yaml:1:1: one\nnew.yaml:2:1: two"}
	got := a.call("POST", "/api/v1/simulate", adminKey, `{}`)
	got.want(t, 400, "invalid_request", "policies")
	if !strings.Contains(got.body, "new.yaml:2:1: two") {
		t.Error(got.body)
	}
	simulated.err = context.DeadlineExceeded
	a.call("POST", "/api/v1/simulate", adminKey, `{}`).want(t, 400, "invalid_request", "since")
	simulated.err = fmt.Errorf("disk")
	a.call("POST", "/api/v1/simulate", adminKey, `{}`).want(t, 503, "evidence.unavailable", "")
}
