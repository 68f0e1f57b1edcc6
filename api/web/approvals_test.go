package web

import (
	"strings"
	"testing"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// TestAnUnclearOutcomeIsShown: an approved action of which nobody knows whether it
// took effect stands on both pages, with what to find out.
func TestAnUnclearOutcomeIsShown(t *testing.T) {
	r := newRig(t)
	_, agent := r.key("acme", gate.RoleGateway)
	_, lead := r.key("acme", gate.RoleApprover, "support-leads")
	b := r.signedIn(lead)
	_, id := r.ask(agent, refund(20000))
	actor, err := r.gate.Authenticate(t.Context(), lead, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.gate.Decide(t.Context(), actor, id, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	act := refund(20000)
	act.Intent = gate.IntentExecute
	event, _ := r.ask(agent, act)
	if got := b.get("/ui/approvals/" + id); !strings.Contains(got.body, "the agent was told to go ahead, and has not said what came of it") || strings.Contains(got.body, `role="alert"`) {
		t.Errorf("on its way: %s", got.body)
	}
	who, err := r.gate.Authenticate(t.Context(), agent, "support_agent")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.gate.ReportOutcome(t.Context(), who, event, id, "unknown", 0, "<b>timed out"); err != nil {
		t.Fatal(err)
	}
	const find = "whether the action took effect before it is asked for again."
	for _, path := range []string{"/ui/approvals/" + id, "/ui/approvals"} {
		got := b.get(path)
		if !strings.Contains(got.body, find) || !strings.Contains(got.body, evidence.StateAmbiguous) || strings.Contains(got.body, "<b>timed") {
			t.Errorf("%s: %s", path, got.body)
		}
	}
}
