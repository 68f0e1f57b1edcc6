package gate_test

import (
	"testing"

	"github.com/actpass/sidecar/gate"
)

const askWithinLimit = `policies:
  - name: p
    version: 1
    tools: ["**"]
    rules: [{ name: ask, decision: require_approval, reason_code: x.ask }]
    limits: [{ name: day, key: [agent_id], sum: args.amount, max: 100, window: 24h, decision: deny, reason_code: x.day }]
`

// An action that a human approved and the caller ran itself: its share stands
// under the approval, and goes back when the provider refused the action.
func TestReportedOutcomeOfAnApprovedAction(t *testing.T) {
	for _, c := range []struct {
		state  string
		status int
		used   int64
	}{{"failed", 402, 0}, {"failed", 500, 60}, {"failed", 0, 60}, {"succeeded", 200, 60}, {"unknown", 0, 60}} {
		f := newGate(t, "enforce", nil)
		f.Load(rules(t, "enforce", askWithinLimit))
		act := gate.Preflight{Tool: "crm.pay", Resource: "crm:account:1", Args: map[string]any{"amount": int64(60)}, Intent: gate.IntentExecute}
		asked := f.ask(t, act)
		if _, err := f.Decide(t.Context(), approver, asked.ApprovalRequestID, gate.Approve, "", nil); err != nil {
			t.Fatal(err)
		}
		d := f.ask(t, act)
		if d.Enforcement != "none" || d.ApprovalRequestID != asked.ApprovalRequestID || f.used(t, "day") != 60 {
			t.Fatalf("%+v, %d used", d, f.used(t, "day"))
		}
		// The word on another action does not give this one's share back.
		if err := f.ReportOutcome(t.Context(), f.ConfigIdentity(), "ev_other", d.ApprovalRequestID, "failed", 402, ""); err != nil || f.used(t, "day") != 60 {
			t.Errorf("%v, %d used", err, f.used(t, "day"))
		}
		if err := f.ReportOutcome(t.Context(), f.ConfigIdentity(), d.EvidenceEventID, d.ApprovalRequestID, c.state, c.status, ""); err != nil {
			t.Fatal(err)
		}
		if got := f.used(t, "day"); got != c.used {
			t.Errorf("%s %d: %d used, want %d", c.state, c.status, got, c.used)
		}
	}
}
