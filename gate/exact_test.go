package gate_test

import (
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// An approval is for exactly these bytes, asked for by exactly this rule.

func tightened(t *testing.T) string {
	t.Helper()
	text := examplePolicy(t)
	tight := strings.Replace(text, "approvers: [support-leads]", "approvers: [finance-leads]", 1)
	if tight == text {
		t.Fatal("the example policy has another form")
	}
	return tight
}

func TestApprovalUnderAChangedRuleIsNotUsed(t *testing.T) {
	f := newGate(t, "enforce", nil)
	_, first := f.Check(t.Context(), f.refund("25000"))
	if _, err := f.Decide(t.Context(), approver, first.Approval, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	f.Load(rules(t, "enforce", tightened(t)))
	permit, second := f.Check(t.Context(), f.refund("25000"))
	if permit != nil {
		t.Fatal("finance-leads are asked now, and an old word of support-leads was used")
	}
	if !second.Retry || second.Approval == first.Approval {
		t.Errorf("want a new question, got %+v", second)
	}
	f.Load(rules(t, "enforce", examplePolicy(t)))
	if permit, ref := f.Check(t.Context(), f.refund("25000")); permit == nil {
		t.Errorf("the rule is the old one again, and its approval holds: %+v", ref)
	}
}

func TestAnOldQuestionDoesNotReleaseANewOne(t *testing.T) {
	f := newGate(t, "enforce", nil)
	_, first := f.Check(t.Context(), f.refund("25000"))
	next := rules(t, "enforce", tightened(t))
	next.Hold = 200 * time.Millisecond
	f.Load(next)
	out := f.held(t, f.refund("25000"))
	if _, err := f.Decide(t.Context(), approver, first.Approval, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	if got := <-out; got.permit != nil {
		t.Error("support-leads released what finance-leads are asked")
	}
}

const askForReads = `policies:
  - name: p
    version: 1
    tools: ["*"]
    rules: [{ name: ask, decision: require_approval, reason_code: read.ask }]
`

func TestAnUpgradeIsAnotherRequest(t *testing.T) {
	f := newGate(t, "enforce", nil)
	f.Load(rules(t, "enforce", askForReads))
	_, plain := f.Check(t.Context(), f.request("GET", "/v1/charges/ch_1", nil))
	if _, err := f.Decide(t.Context(), approver, plain.Approval, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	up := f.request("GET", "/v1/charges/ch_1", nil)
	up.Head.Upgrade = "websocket"
	permit, ref := f.Check(t.Context(), up)
	if permit != nil || ref.Approval == plain.Approval {
		t.Fatalf("an upgrade went out under the approval of a plain request: %+v", ref)
	}
	a := f.rec.actions(t)
	if e := a[len(a)-1]; !strings.Contains(strings.Join(e.Flags, " "), gate.FlagUpgrade) {
		t.Errorf("the record does not say that it asks for an upgrade: %v", e.Flags)
	}
}

func TestAHugeNameIsOnRecordAndRefused(t *testing.T) {
	for _, mode := range []string{"monitor", "enforce"} {
		f := newGate(t, mode, func(r *gate.Rules) { r.MaxInspect = 1 << 20 })
		body := text("charge=" + strings.Repeat(`"`, 600_000) + "&currency=usd&amount=75000")
		permit, ref := f.Check(t.Context(), f.request("POST", "/v1/refunds", body))
		if (permit != nil) != (mode == "monitor") {
			t.Errorf("%s: permit %v", mode, permit != nil)
		}
		if ref != nil && (ref.Status != 400 || len(ref.Sentence) > 8<<10) {
			t.Errorf("%s: %d, a sentence of %d bytes", mode, ref.Status, len(ref.Sentence))
		}
		if a := f.rec.actions(t); len(a) != 1 || len(a[0].Resource) > 4<<10 {
			t.Errorf("%s: %d events", mode, len(a))
		}
		for _, b := range f.rec.records {
			if len(b) > 256<<10 {
				t.Errorf("%s: a record of %d bytes", mode, len(b))
			}
		}
	}
}

func (f *fixture) ask(t *testing.T, p gate.Preflight) evidence.Decision {
	t.Helper()
	p.AgentID = "support_agent"
	d, _, err := f.Preflight(t.Context(), admin, p)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestPreflightApprovalIsForThatActionOnly(t *testing.T) {
	f := withAuthority(newGate(t, "enforce", nil))
	f.Load(rules(t, "enforce", askForReads))
	first := f.ask(t, gate.Preflight{Tool: "crm.delete", Resource: "crm:record:*", IdempotencyKey: "k1"})
	a, err := f.Decide(t.Context(), approver, first.ApprovalRequestID, gate.Approve, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := f.PassportFor(t.Context(), approver, a)
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]gate.Preflight{
		"another resource": {Tool: "crm.delete", Resource: "crm:record:42", IdempotencyKey: "k1"},
		"another key":      {Tool: "crm.delete", Resource: "crm:record:*", IdempotencyKey: "k2"},
		"more arguments":   {Tool: "crm.delete", Resource: "crm:record:*", IdempotencyKey: "k1", Args: map[string]any{"all": true}},
	} {
		other.Passport, other.Intent = p.Token, gate.IntentExecute
		if d := f.ask(t, other); d.Enforcement == "none" {
			t.Errorf("%s: %+v", name, d)
		}
	}
	same := gate.Preflight{Tool: "crm.delete", Resource: "crm:record:*", IdempotencyKey: "k1", Passport: p.Token, Intent: gate.IntentExecute}
	if d := f.ask(t, same); d.Enforcement != "none" || d.ApprovalRequestID != a.ID {
		t.Errorf("the very action: %+v", d)
	}
}

func TestADeniedPreflightIsNotAskedAgain(t *testing.T) {
	f := newGate(t, "enforce", nil)
	f.Load(rules(t, "enforce", askForReads))
	q := gate.Preflight{Tool: "crm.delete", Resource: "crm:record:1"}
	first := f.ask(t, q)
	if _, err := f.Decide(t.Context(), approver, first.ApprovalRequestID, gate.DenyIt, "no", nil); err != nil {
		t.Fatal(err)
	}
	if d := f.ask(t, q); d.Decision != "deny" || d.ReasonCode != gate.ReasonDenied || d.ApprovalRequestID != first.ApprovalRequestID {
		t.Errorf("%+v", d)
	}
	f.later(16 * time.Minute)
	if d := f.ask(t, q); d.ApprovalRequestID == first.ApprovalRequestID || d.Enforcement != "hold" {
		t.Errorf("later it is a new question: %+v", d)
	}
}
