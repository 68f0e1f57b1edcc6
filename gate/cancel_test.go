package gate_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// agentKey is how support_agent's own gateway key comes to the API.
var agentKey = gate.Identity{TenantID: "acme", AgentID: "support_agent", BoundAgent: "support_agent", KeyID: "key_agent", Name: "bot", Role: gate.RoleGateway}

// TestCancelRefusesTheHeldCall: whoever waits for a cancelled request is refused,
// and so are the retries that are under way; a while later it may be asked anew.
func TestCancelRefusesTheHeldCall(t *testing.T) {
	for name, who := range map[string]gate.Identity{"the agent's key": agentKey, "an approver": approver} {
		t.Run(name, func(t *testing.T) {
			f := newGate(t, "enforce", longHold)
			r := f.refund("25000")
			r.Identity = agentKey
			out := f.held(t, r)
			a := f.pending(t)
			got, err := f.Decide(t.Context(), who, a.ID, gate.Cancel, "found another way", nil)
			if err != nil || got.State != gate.ApprovalCancelled || len(got.Votes) != 1 {
				t.Fatalf("%+v, %v", got, err)
			}
			if v := got.Votes[0]; v.KeyID != who.KeyID || v.Name != who.Name || v.Decision != gate.Cancel || v.Reason != "found another way" {
				t.Errorf("%+v", v)
			}
			refused := func(what string, ref *gate.Refusal) {
				t.Helper()
				if ref == nil || ref.Status != 403 || ref.Retry || ref.Decision.ReasonCode != gate.ReasonCancelled || !strings.Contains(ref.Sentence, "found another way") {
					t.Errorf("%s: %+v", what, ref)
				}
			}
			refused("the held call", (<-out).refusal)
			_, ref := f.Check(t.Context(), r)
			refused("a retry", ref)
			var moves []string
			events, _ := f.rec.log(t)
			for _, e := range events {
				if e.Kind == evidence.KindApproval {
					moves = append(moves, e.Approval.From+">"+e.Approval.State+" by "+e.Approval.Actor+": "+e.Approval.Reason)
				}
			}
			if strings.Join(moves, "\n") != "pending>cancelled by "+who.KeyID+": found another way" {
				t.Errorf("on record: %q", moves)
			}
			if _, err := f.Decide(t.Context(), approver, a.ID, gate.Approve, "", nil); !errors.Is(err, gate.ErrIllegalState) {
				t.Errorf("approve what was cancelled: %v", err)
			}
			f.now = f.now.Add(time.Minute + time.Second)
			again := f.held(t, r)
			if b := f.pending(t); b.ID == a.ID {
				t.Error("asked anew, and attached to what was cancelled")
			}
			f.Drain()
			<-again
		})
	}
}

func TestWhoMayCancel(t *testing.T) {
	f := newGate(t, "enforce", nil)
	r := f.refund("25000")
	r.Identity = agentKey
	_, ref := f.Check(t.Context(), r)
	other := agentKey
	other.KeyID, other.AgentID, other.BoundAgent = "key_other", "other_agent", "other_agent"
	unbound := agentKey
	unbound.KeyID, unbound.BoundAgent = "key_unbound", ""
	foreign := agentKey
	foreign.TenantID = "evil"
	sister := agentKey
	sister.KeyID = "key_sister"
	for name, who := range map[string]gate.Identity{
		"another agent's key":                      other,
		"an unbound key that names the agent":      unbound,
		"the same key id in another tenant":        foreign,
		"another group":                            {TenantID: "acme", KeyID: "key_d", Role: gate.RoleApprover, Groups: []string{"finance"}},
		"nobody":                                   {TenantID: "acme", Role: gate.RoleGateway, AgentID: "support_agent", BoundAgent: "support_agent"},
		"an approver's key that poses as an agent": {TenantID: "acme", KeyID: "key_e", Role: gate.RoleApprover, BoundAgent: "support_agent", Groups: []string{"support-leads"}},
	} {
		if _, err := f.Decide(t.Context(), who, ref.Approval, gate.Cancel, "", nil); !errors.Is(err, gate.ErrNotAllowed) && !errors.Is(err, gate.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// To cancel is all that the agent may say.
	for _, word := range []string{gate.Approve, gate.DenyIt, gate.Escalate} {
		if _, err := f.Decide(t.Context(), agentKey, ref.Approval, word, "", []string{"support-leads"}); !errors.Is(err, gate.ErrNotAllowed) {
			t.Errorf("the agent's own key says %s: %v", word, err)
		}
	}
	if _, err := f.Decide(t.Context(), sister, ref.Approval, gate.Cancel, "", nil); err != nil {
		t.Errorf("another key of the same agent: %v", err)
	}
}

func TestCancelGivesTheLimitBack(t *testing.T) {
	f := newGate(t, "enforce", nil)
	for i := range 6 { // 4 times 25000 are the day's limit
		_, ref := f.Check(t.Context(), f.refund("25000"))
		if ref == nil || ref.Decision.ReasonCode != "refund.medium_needs_approval" {
			t.Fatalf("hold %d: %+v", i, ref)
		}
		if _, err := f.Decide(t.Context(), approver, ref.Approval, gate.Cancel, "", nil); err != nil {
			t.Fatal(err)
		}
		f.now = f.now.Add(2 * time.Minute)
	}
}

// TestEscalationAsksTheNewGroupsAfresh: with two of three asked, one approval of
// the old group does not spare the new one its two.
func TestEscalationAsksTheNewGroupsAfresh(t *testing.T) {
	f := newGate(t, "enforce", nil)
	next := rules(t, "enforce", strings.ReplaceAll(everyRefundAsks, "approvers: [support-leads]", "approvers: [support-leads], required: 2"))
	f.Load(next)
	_, ref := f.Check(t.Context(), f.refund("25000"))
	key := func(id string, groups ...string) gate.Identity {
		return gate.Identity{TenantID: "acme", KeyID: id, Name: id, Role: gate.RoleApprover, Groups: groups}
	}
	say := func(who gate.Identity, word, state string, to ...string) gate.Approval {
		t.Helper()
		a, err := f.Decide(t.Context(), who, ref.Approval, word, "", to)
		if err != nil || a.State != state {
			t.Fatalf("%s of %s: %s, %v", word, who.KeyID, a.State, err)
		}
		return a
	}
	say(key("key_lead", "support-leads"), gate.Approve, gate.ApprovalPending)
	say(key("key_both", "support-leads", "finance"), gate.Escalate, gate.ApprovalPending, "finance")
	if _, err := f.Decide(t.Context(), key("key_lead2", "support-leads"), ref.Approval, gate.Approve, "", nil); !errors.Is(err, gate.ErrNotAllowed) {
		t.Errorf("the old group after the escalation: %v", err)
	}
	a := say(key("key_cfo", "finance"), gate.Approve, gate.ApprovalPending)
	if a.Counts(0) || !a.Counts(2) {
		t.Errorf("what counts: %+v", a.Votes)
	}
	if p, _ := f.Check(t.Context(), f.refund("25000")); p != nil {
		t.Fatal("sent with one approval of the groups that were asked")
	}
	say(key("key_cfo2", "finance"), gate.Approve, gate.ApprovalApproved)
	if p, ref := f.Check(t.Context(), f.refund("25000")); p == nil {
		t.Errorf("%+v", ref)
	}
}
