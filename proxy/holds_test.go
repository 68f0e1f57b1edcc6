package proxy

import (
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/policy"
)

var lead = gate.Identity{TenantID: "acme", KeyID: "key_lead", Name: "lead", Role: gate.RoleAdmin}

// heldRefund sends a refund that needs a human and gives its answer later.
func (w *world) heldRefund(amount string) <-chan reply {
	out := make(chan reply, 1)
	c := w.client()
	go func() {
		out <- w.do(c, "POST", "https://api.test/v1/refunds", "charge=ch_1&amount="+amount, "Content-Type", formType)
	}()
	return out
}

// pendingOne waits until exactly one approval is pending.
func (w *world) pendingOne() gate.Approval {
	w.t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		list, _, err := w.gate.Approvals(w.t.Context(), lead, gate.ApprovalQuery{State: gate.ApprovalPending})
		if err != nil {
			w.t.Fatal(err)
		}
		if len(list) == 1 {
			return list[0]
		}
	}
	w.t.Fatal("no approval is pending")
	return gate.Approval{}
}

func (w *world) reload(text string) {
	w.t.Helper()
	pol, err := policy.Compile([]policy.Source{{Name: "policy.yaml", Data: []byte(text)}}, policy.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	next := w.rules
	next.Policy = pol
	w.gate.Load(&next)
}

func replaceOnce(t *testing.T, text, from, to string) string {
	t.Helper()
	if from != "" && strings.Count(text, from) != 1 {
		t.Fatalf("%q is not there once", from)
	}
	return strings.Replace(text, from, to, 1)
}

func withHold(d time.Duration) worldOption {
	return func(w *world, _ *Options) { w.rules.Hold = d }
}

// TestNoRoomForHolds: a flood of calls that need a human is answered with 429 and
// the time to come back, and none of it is sent.
func TestNoRoomForHolds(t *testing.T) {
	w := newWorld(t, withHold(time.Millisecond), func(w *world, _ *Options) { w.rules.MaxHoldsPerAgent = 1 })
	if got := <-w.heldRefund("20001"); got.status != 503 {
		t.Fatalf("the first: %+v", got)
	}
	got := <-w.heldRefund("20002")
	if got.status != 429 || got.header.Get("ActPass-Reason") != gate.ReasonTooManyOfAgent || got.header.Get("Retry-After") != "30" {
		t.Errorf("the second: %d %v", got.status, got.header)
	}
	if !strings.Contains(got.body, "nobody was asked") || strings.Contains(got.body, "canonical") {
		t.Errorf("the second is told to %s", got.body)
	}
	w.untouched()
}

// TestReloadBetweenHoldAndApproval: what was approved is judged again by the
// policy that is in force when it would be sent.
func TestReloadBetweenHoldAndApproval(t *testing.T) {
	for name, c := range map[string]struct {
		from, to string
		reason   string
		asks     bool // sent again, it is a new question
	}{
		"denied now":          {"args.amount <= 50000", "args.amount <= 20000", "refund.over_limit", false},
		"asked by a new text": {"args.amount <= 50000", "args.amount <= 40000", "refund.medium_needs_approval", true},
		"nothing changed":     {"", "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, withHold(10*time.Second))
			out := w.heldRefund("25000")
			a := w.pendingOne()
			w.reload(replaceOnce(t, testPolicy, c.from, c.to))
			if _, err := w.gate.Decide(t.Context(), lead, a.ID, gate.Approve, "", nil); err != nil {
				t.Fatal(err)
			}
			got := <-out
			if c.reason == "" {
				if got.status != 200 || w.originReqs.Load() != 1 {
					t.Fatalf("an approved call under the same policy: %d, %d sent", got.status, w.originReqs.Load())
				}
				return
			}
			if got.status != 403 || got.header.Get("ActPass-Reason") != c.reason {
				t.Errorf("%d %s: %s", got.status, got.header.Get("ActPass-Reason"), got.body)
			}
			w.untouched()
			if now, err := w.gate.Approval(t.Context(), lead, a.ID, 0); err != nil || now.State != gate.ApprovalApproved {
				t.Errorf("the approval was used for nothing: %s, %v", now.State, err)
			}
			again := w.heldRefund("25000")
			if !c.asks {
				if got := <-again; got.status != 403 || got.header.Get("ActPass-Reason") != c.reason {
					t.Errorf("sent again: %d %s", got.status, got.header.Get("ActPass-Reason"))
				}
				w.untouched()
				return
			}
			b := w.pendingOne()
			if b.ID == a.ID {
				t.Fatal("the question under the new rule is the old one")
			}
			w.untouched()
			if _, err := w.gate.Decide(t.Context(), lead, b.ID, gate.Approve, "", nil); err != nil {
				t.Fatal(err)
			}
			if got := <-again; got.status != 200 || w.originReqs.Load() != 1 {
				t.Errorf("approved under the new rule: %d, %d sent", got.status, w.originReqs.Load())
			}
		})
	}
}

// TestCancelledHoldIsNotSent: the held call and the retry after it are refused.
func TestCancelledHoldIsNotSent(t *testing.T) {
	w := newWorld(t, withHold(10*time.Second))
	out := w.heldRefund("25000")
	a := w.pendingOne()
	if _, err := w.gate.Decide(t.Context(), lead, a.ID, gate.Cancel, "no longer wanted", nil); err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string]reply{"held": <-out, "retry": <-w.heldRefund("25000")} {
		if got.status != 403 || got.header.Get("ActPass-Reason") != gate.ReasonCancelled || !strings.Contains(got.body, "no longer wanted") {
			t.Errorf("%s: %d %s", what, got.status, got.body)
		}
	}
	w.untouched()
}
