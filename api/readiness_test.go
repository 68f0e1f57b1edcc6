package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/whatif"
)

const readinessPath = "/api/v1/readiness"

func init() {
	calls = append(calls, struct{ method, path, body, roles string }{"GET", readinessPath, "", "approver admin"})
}

var studied struct {
	sync.Mutex
	queries []ReadinessQuery
	err     error
}

func (e *fakeEvents) Readiness(_ context.Context, q ReadinessQuery) (whatif.Readiness, error) {
	studied.Lock()
	defer studied.Unlock()
	studied.queries = append(studied.queries, q)
	at := evidence.Time{Time: time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)}
	return whatif.Readiness{
		Missing: []string{"m"}, Data: []whatif.ReadinessRow{{
			Tool: "t", AgentID: "a", Mode: "monitor", Verdict: whatif.NotReady, Missing: []string{"m"}, Reasons: map[string]int{"policy.default": 1},
			Samples: []string{"ev_1"}, HoldsADay: 1.5, FirstSeen: at, LastSeen: at,
		}},
		Mapped: 0.5, PolicyChanged: &at, Mode: q.Mode, From: at, To: at,
	}, studied.err
}

func TestReadiness(t *testing.T) {
	now := time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)
	a := newAPI(t, func(o *Options) { o.Now = func() time.Time { return now } })
	studied.queries = nil
	a.call("GET", readinessPath, approverKey, "").want(t, 200, "", "")
	a.call("GET", readinessPath+"?since=2d&mode=strict&tool=stripe.*&agent_id=a&min_days=5&max_holds=9&limit=7&cursor=7", adminKey, "").want(t, 200, "", "")
	a.call("GET", readinessPath+"?since=2026-01-30T10:00:00Z", adminKey, "").want(t, 200, "", "")
	a.call("GET", readinessPath+"?since=90m", adminKey, "").want(t, 200, "", "")
	for i, want := range []string{
		"acme enforce 2026-01-24T09:00:00Z   0 0 50 0", "acme strict 2026-01-29T09:00:00Z stripe.* a 5 9 7 7", "acme enforce 2026-01-30T10:00:00Z   0 0 50 0", "acme enforce 2026-01-31T07:30:00Z   0 0 50 0",
	} {
		q := studied.queries[i]
		if got := fmt.Sprint(q.Tenant, " ", q.Mode, " ", q.Since.Format(time.RFC3339), " ", q.Tool, " ", q.Agent, " ", q.MinDays, " ", q.MaxHolds, " ", q.Limit, " ", q.Skip); got != want || !q.Now.Equal(now) {
			t.Errorf("asked %s, want %s", got, want)
		}
	}
	for query, field := range map[string]string{
		"since=soon": "since", "since=-1d": "since", "since=400d": "since", "since=0s": "since", "since=2027-01-01T00:00:00Z": "since", "since=99999999999999999999d": "since",
		"mode=warn": "mode", "min_days=0": "min_days", "max_holds=x": "max_holds", "limit=0": "limit", "agent=a": "agent", "wait=2m": "wait",
	} {
		a.call("GET", readinessPath+"?"+query, adminKey, "").want(t, 400, "invalid_request", field)
	}
	defer func() { studied.err = nil }()
	studied.err = errors.New("disk")
	a.call("GET", readinessPath, adminKey, "").want(t, 503, "evidence.unavailable", "")
	studied.err = context.DeadlineExceeded
	a.call("GET", readinessPath, adminKey, "").want(t, 400, "invalid_request", "since")
	// The record is read piece by piece.
	studied.err = &Behind{Read: 300, Size: 900, Err: context.DeadlineExceeded}
	got := a.call("GET", readinessPath+"?wait=2s", adminKey, "")
	got.want(t, 503, ReadingCode, "")
	if p, _ := got.at("error.progress").(float64); got.header.Get("Retry-After") != "1" || p < 0.33 || p > 0.34 || !strings.Contains(got.body, "33% of it is") || studied.queries[len(studied.queries)-1].Wait != 2*time.Second {
		t.Errorf("%v %s", got.header, got.body)
	}
}

func (x index) Readiness(_ context.Context, q ReadinessQuery) (out whatif.Readiness, err error) {
	s, err := whatif.NewReadiness(whatif.ReadinessOptions{
		Rules: x.gate.Rules(), Mode: q.Mode, Tenant: q.Tenant, Since: q.Since, Now: q.Now, Tool: q.Tool, Agent: q.Agent, MinDays: q.MinDays, MaxHolds: q.MaxHolds, Limit: q.Limit,
	})
	if err != nil {
		return out, err
	}
	entries, err := x.log.Read(0, 1000)
	for _, e := range entries {
		err = errors.Join(err, s.Add(e.Record))
	}
	return s.Report(), err
}

// TestReadinessAndTheSwitch asks a real record, flips, and asks again.
func TestReadinessAndTheSwitch(t *testing.T) {
	r := newReal(t, gate.ModeMonitor)
	for _, amount := range []string{"4900", "25000", "75000"} {
		r.call("POST", preflightPath, r.admin, `{"tool":"stripe.refund.create","resource":"stripe:charge:ch_123","args":{"amount":`+amount+`,"currency":"usd"},"agent_id":"a"}`).want(t, 200, "", "")
	}
	client := NewClient(r.server.URL, r.admin, nil)
	ask := ReadinessQuery{Mode: gate.ModeEnforce, Tool: "stripe.*", MinDays: 1, Since: time.Now().Add(-time.Hour), Limit: 5}
	got, err := client.Readiness(t.Context(), ask)
	if err != nil || !got.Ready || len(got.Data) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if row := got.Data[0]; row.Verdict != whatif.Ready || row.Calls != 3 || row.WouldBlock != 1 || row.Unexplained != 0 || row.Holds != 1 {
		t.Errorf("%+v", row)
	}
	if _, err := client.SetMode(t.Context(), NewMode{Tool: "stripe.*", AgentID: "a", Mode: gate.ModeEnforce}); err != nil {
		t.Fatal(err)
	}
	got, err = client.Readiness(t.Context(), ask)
	if err != nil || !got.Ready || got.Data[0].Verdict != whatif.InForce || got.Data[0].Mode != gate.ModeEnforce {
		t.Errorf("%+v, %v", got, err)
	}
	ask.Tool, ask.MinDays = "none.*", 0
	if got, err = client.Readiness(t.Context(), ask); err != nil || got.Ready || !strings.Contains(got.Missing[0], "no calls on record") {
		t.Errorf("%+v, %v", got, err)
	}
}
