package e2e

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/actpass/sidecar/api"
)

// TestAnAmbiguousOutcomeIsShown kills a sidecar while the approved call is at its
// host: after the next start the API and the command line tell a human when it was
// sent, to which host, that no answer was recorded, and what to find out. One that
// was answered says so.
func TestAnAmbiguousOutcomeIsShown(t *testing.T) {
	u := newUpstream(t)
	arrived, let := make(chan struct{}, 1), make(chan struct{})
	var calls atomic.Int64
	u.handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if calls.Add(1) == 1 {
			arrived <- struct{}{}
			<-let
		}
		_, _ = w.Write([]byte(`{"object":"refund"}`))
	})
	defer close(let)
	sc := start(t, settings{front: u, hold: "20s"})
	call := func(amount string) {
		client := sc.proxied(t, false)
		client.Timeout = patience
		_, _ = trySend(client, http.MethodPost, "https://api.stripe.com/v1/refunds", form, refund(amount), http.Header{"Idempotency-Key": {amount}})
		client.CloseIdleConnections()
	}
	approve := func(amount string) (id string, gone chan struct{}) {
		gone = make(chan struct{})
		go func() { defer close(gone); call(amount) }()
		id = sc.pending()
		_, err := sc.client().Decide(context.Background(), id, api.Verdict{Decision: "approve", Reason: "checked"})
		must(t, err)
		return id, gone
	}
	lost, gone := approve("25000")
	<-arrived
	a, err := sc.client().Approval(context.Background(), lost, 0)
	must(t, err)
	if a.Outcome == nil || a.Outcome.State != "pending" || a.Unclear() || !strings.Contains(a.Outcome.Summary, "is under way to api.stripe.com") {
		t.Errorf("under way: %+v", a.Outcome)
	}
	sc.kill()
	<-gone
	sc.run()
	a, err = sc.client().Approval(context.Background(), lost, 0)
	must(t, err)
	o := a.Outcome
	if a.State != "consumed" || o == nil || o.State != "ambiguous" || o.Host != "api.stripe.com" || o.UsedAt == nil || o.EventID != a.ConsumedBy {
		t.Fatalf("%s, %+v", a.State, o)
	}
	for _, part := range []string{"It was used at 20", " UTC; the call was sent to api.stripe.com, or may have been, and no answer was recorded.", "It is not sent again."} {
		if !strings.Contains(o.Summary, part) {
			t.Errorf("%q is not in %q", part, o.Summary)
		}
	}
	if o.Check != "Find out at api.stripe.com whether the call took effect before it is asked for again: it may have happened." {
		t.Errorf("%q", o.Check)
	}
	var seen *api.ApprovalOutcome
	defer func() {
		if t.Failed() {
			t.Logf("%+v", seen)
		}
	}()
	well, gone := approve("26000")
	<-gone
	sc.await(t, "the outcome of the second call", func() bool {
		a, err := sc.client().Approval(context.Background(), well, 0)
		seen = a.Outcome
		return err == nil && seen != nil && seen.State == "forwarded" && seen.Status == 200 && !a.Unclear()
	})
	out, code := sc.cli("approvals", "list", "--state", "consumed")
	if code != 0 || strings.Count(out, "ambiguous ?") != 1 || strings.Count(out, "forwarded 200") != 1 {
		t.Errorf("%d\n%s", code, out)
	}
	out, code = sc.cli("approvals", "show", lost)
	if code != 0 || !strings.Contains(out, "to check    Find out at api.stripe.com") {
		t.Errorf("%d\n%s", code, out)
	}
}
