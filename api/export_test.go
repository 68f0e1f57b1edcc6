package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

const exportPath = "/api/v1/evidence/export"

// bundleEvents verifies a bundle and gives the events in it by id, and how many
// outcomes.
func bundleEvents(t *testing.T, bundle []byte, key string) (events map[string]*evidence.Event, outcomes int) {
	t.Helper()
	events = map[string]*evidence.Event{}
	_, err := evidence.VerifyBundle(bytes.NewReader(bundle), key, func(e evidence.Entry) error {
		event, outcome, err := evidence.DecodeRecord(e.Record)
		if event != nil {
			events[event.ID] = event
		}
		if outcome != nil {
			outcomes++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return events, outcomes
}

func TestABundleFromTheAPIVerifiesAndIsOneTenants(t *testing.T) {
	r := newReal(t, gate.ModeMonitor)
	ctx := t.Context()
	_, stranger, err := r.gate.CreateKey(ctx, gate.Identity{TenantID: "rival", Role: gate.RoleAdmin}, gate.NewKey{Name: "admin", Role: gate.RoleAdmin})
	if err != nil {
		t.Fatal(err)
	}
	agent, _ := r.key(t, `{"name":"agent","role":"gateway"}`)
	executed := func(key string) string {
		id := r.call("POST", preflightPath, key, refund("4900", `,"intent":"execute"`)).at("evidence_event_id").(string)
		r.call("POST", outcomePath(id), key, `{"state":"succeeded","status":200}`).want(t, 200, "", "")
		return id
	}
	ours, theirs := executed(agent), executed(stranger)

	var bundle bytes.Buffer
	if err := NewClient(r.server.URL, r.admin, nil).Export(ctx, &bundle, ExportQuery{}); err != nil {
		t.Fatal(err)
	}
	events, outcomes := bundleEvents(t, bundle.Bytes(), r.log.PublicKey())
	if events[ours] == nil || outcomes != 1 {
		t.Errorf("%d events, with ours: %v, %d outcomes", len(events), events[ours] != nil, outcomes)
	}
	for id, e := range events {
		if e.TenantID != "acme" {
			t.Errorf("the bundle of acme has %s of %q", id, e.TenantID)
		}
	}
	if strings.Contains(bundle.String(), theirs) {
		t.Error("the bundle names an event of another tenant")
	}
	flipped := bytes.Replace(bundle.Bytes(), []byte(ours), []byte("ev_x"+ours[4:]), 1)
	if _, err := evidence.VerifyBundle(bytes.NewReader(flipped), r.log.PublicKey(), nil); err == nil {
		t.Error("an altered bundle verifies")
	}

	later := r.call("GET", exportPath+"?since="+time.Now().Add(time.Hour).UTC().Format(time.RFC3339), r.admin, "")
	later.want(t, 200, "", "")
	if events, outcomes := bundleEvents(t, []byte(later.body), r.log.PublicKey()); len(events)+outcomes != 0 {
		t.Errorf("from the future: %d events, %d outcomes", len(events), outcomes)
	}
	if head := r.call("HEAD", exportPath, r.admin, ""); head.status != 200 || head.header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("HEAD: %d %v", head.status, head.header)
	}
	r.call("GET", exportPath, agent, "").want(t, 403, "forbidden", "")
}

func TestExportRefuses(t *testing.T) {
	a := newAPI(t)
	for query, field := range map[string]string{
		"?since=yesterday": "since", "?until=1": "until", "?tenant=other": "tenant", "?limit=1": "limit",
		"?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z": "until",
	} {
		a.call("GET", exportPath+query, adminKey, "").want(t, 400, "invalid_request", field)
	}
	a.events.export = func(context.Context, io.Writer, ExportQuery) error { return errors.New("no log") }
	a.call("GET", exportPath, adminKey, "").want(t, 503, "evidence.unavailable", "")
}

// TestAPartOfABundleIsNotTaken breaks off in the middle.
func TestAPartOfABundleIsNotTaken(t *testing.T) {
	a := newAPI(t)
	a.events.export = func(_ context.Context, w io.Writer, _ ExportQuery) error {
		_, _ = io.WriteString(w, strings.Repeat("{}\n", 10_000))
		return errors.New("the disk is gone")
	}
	var part bytes.Buffer
	if err := NewClient(a.server.URL, adminKey, nil).Export(t.Context(), &part, ExportQuery{}); err == nil {
		t.Errorf("%d bytes of a bundle were taken for the whole", part.Len())
	}
}

func TestOnlySoManyExportsAtATime(t *testing.T) {
	a := newAPI(t)
	begun, end := make(chan struct{}), make(chan struct{})
	a.events.export = func(context.Context, io.Writer, ExportQuery) error {
		begun <- struct{}{}
		<-end
		return nil
	}
	done := make(chan answer)
	for range maxExports {
		go func() { done <- a.call("GET", exportPath, adminKey, "") }()
		<-begun
	}
	more := a.call("GET", exportPath, adminKey, "")
	more.want(t, 429, "too_many_requests", "")
	if more.header.Get("Retry-After") == "" {
		t.Error("it does not say when to come back")
	}
	close(end)
	for range maxExports {
		(<-done).want(t, 200, "", "")
	}
}
