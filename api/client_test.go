package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

// TestTheClient lets the client talk to what ships.
func TestTheClient(t *testing.T) {
	r := newReal(t, gate.ModeEnforce)
	ctx := t.Context()
	admin := NewClient(r.server.URL+"/", r.admin, nil)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(admin.Healthy(ctx))
	k, err := admin.CreateKey(ctx, NewKey{Name: "agent", Role: "gateway", AgentID: "support_agent", TTL: "1h"})
	check(err)
	if k.Key == "" || k.ExpiresAt == nil {
		t.Errorf("%+v", k)
	}
	lead, err := admin.CreateKey(ctx, NewKey{Name: "Ann", Role: "approver", Groups: []string{"support-leads"}})
	check(err)
	first, err := admin.Keys(ctx, "", 2)
	check(err)
	rest, err := admin.Keys(ctx, first.Next, 2)
	check(err)
	if len(first.Data) != 2 || len(rest.Data) != 1 || rest.Next != "" {
		t.Errorf("pages of %d and %d", len(first.Data), len(rest.Data))
	}

	agent, human := NewClient(r.server.URL, k.Key, nil), NewClient(r.server.URL, lead.Key, nil)
	act := Action{Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", AgentID: "support_agent", Args: map[string]any{"amount": 60000, "currency": "usd"}}
	d, refused, err := agent.Preflight(ctx, act)
	check(err)
	if !refused || d.Decision != "deny" {
		t.Errorf("refused %v: %+v", refused, d)
	}
	act.Args["amount"] = 20000
	d, refused, err = agent.Preflight(ctx, act)
	check(err)
	if refused || d.ApprovalRequestID == "" {
		t.Fatalf("refused %v: %+v", refused, d)
	}
	queue, err := human.Approvals(ctx, gate.ApprovalPending, "support_agent", "", 0)
	check(err)
	if len(queue.Data) != 1 || queue.Data[0].ID != d.ApprovalRequestID {
		t.Errorf("%+v", queue)
	}
	a, err := human.Decide(ctx, d.ApprovalRequestID, Verdict{Decision: "approve", Reason: "fine"})
	check(err)
	seen, err := agent.Approval(ctx, a.ID, time.Second)
	check(err)
	if seen.State != gate.ApprovalApproved {
		t.Error(seen.State)
	}

	act.Args["amount"], act.Intent = 100, "execute"
	d, _, err = agent.Preflight(ctx, act)
	check(err)
	check(agent.ReportOutcome(ctx, d.EvidenceEventID, "succeeded", 200, ""))
	raw, err := human.Event(ctx, d.EvidenceEventID)
	check(err)
	var e struct{ Outcome struct{ State string } }
	check(json.Unmarshal(raw, &e))
	if e.Outcome.State != "forwarded" {
		t.Errorf("%s", raw)
	}
	found, err := human.Events(ctx, EventQuery{Tool: "stripe.*", Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour), Limit: 2})
	check(err)
	if len(found.Data) != 2 || found.Next == "" {
		t.Errorf("%d events, next %q", len(found.Data), found.Next)
	}
	report, err := human.Verify(ctx)
	check(err)
	if !report.OK {
		t.Errorf("%+v", report)
	}
	check(admin.RevokeKey(ctx, k.ID))

	_, refused, err = agent.Preflight(ctx, act)
	var said *Error
	if !errors.As(err, &said) || said.Status != 401 || said.Code != "unauthenticated" || said.RequestID == "" || !refused {
		t.Errorf("refused %v: %#v", refused, err)
	}
}

func TestTheClientsErrors(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	if err := NewClient(gone.URL, "sk_x", nil).Healthy(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody listens: %v", err)
	}

	leaked := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { leaked = true }))
	defer elsewhere.Close()
	odd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz":
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		case "/api/v1/keys":
			fmt.Fprint(w, "<html>")
		case "/api/v1/actions/preflight":
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"decision":""}`)
		}
	}))
	defer odd.Close()
	c := NewClient(odd.URL, "sk_x", nil)
	var said *Error
	if err := c.Healthy(t.Context()); !errors.As(err, &said) || said.Status != 307 || leaked {
		t.Errorf("a redirect: %v, followed %v", err, leaked)
	}
	if _, err := c.Keys(t.Context(), "", 0); err == nil {
		t.Error("HTML was read as keys")
	}
	if _, refused, err := c.Preflight(t.Context(), Action{}); err == nil || !refused {
		t.Errorf("a 403 of somebody else is an answer: refused %v, %v", refused, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Healthy(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
