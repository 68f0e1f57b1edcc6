package storetest

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

func testVote(t *testing.T, s *suite) {
	q := s.question("f")
	q.Required = 2
	a := s.opens(t, q)

	if _, err := s.Vote(s.ctx, "acme", a.ID, approve(q.KeyID, at(time.Minute)), nil); !errors.Is(err, gate.ErrNotAllowed) {
		t.Errorf("the agent's own key decides: %v", err)
	}
	first := approve("key_a", at(time.Minute))
	a, err := s.Vote(s.ctx, "acme", a.ID, first, nil)
	if err != nil || a.State != gate.ApprovalPending {
		t.Fatalf("first of two: %s, %v", a.State, err)
	}
	if _, err = s.Vote(s.ctx, "acme", a.ID, approve("key_a", at(2*time.Minute)), nil); !errors.Is(err, gate.ErrIllegalState) {
		t.Errorf("the same key twice: %v", err)
	}
	second := approve("key_b", at(3*time.Minute))
	a, err = s.Vote(s.ctx, "acme", a.ID, second, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := q
	want.State, want.Votes = gate.ApprovalApproved, []gate.Vote{first, second}
	want.DecidedAt, want.UseBefore = at(3*time.Minute), at(18*time.Minute)
	same(t, "approved by two", a, want)
	if a, err = s.GetApproval(s.ctx, "acme", a.ID); err != nil {
		t.Fatal(err)
	}
	same(t, "approved by two, read again", a, want)

	// One deny is enough, also by who approved before.
	q = s.question("g")
	q.Required = 3
	a = s.opens(t, q)
	if _, err = s.Vote(s.ctx, "acme", a.ID, first, nil); err != nil {
		t.Fatal(err)
	}
	no := gate.Vote{KeyID: "key_a", Decision: "deny", Reason: "wrong customer", Time: at(2 * time.Minute)}
	if a, err = s.Vote(s.ctx, "acme", a.ID, no, nil); err != nil || a.State != gate.ApprovalDenied {
		t.Fatalf("deny: %s, %v", a.State, err)
	}
	if !a.DecidedAt.Equal(no.Time) || !a.UseBefore.IsZero() {
		t.Errorf("denied: decided at %s, use before %s", a.DecidedAt, a.UseBefore)
	}

	// The last moment counts, the next one does not.
	late := s.opens(t, s.question("h"))
	if _, err = s.Vote(s.ctx, "acme", late.ID, approve("key_a", late.ExpiresAt.Add(time.Microsecond)), nil); !errors.Is(err, gate.ErrIllegalState) {
		t.Errorf("a vote after the end: %v", err)
	}
	if _, err = s.Vote(s.ctx, "acme", late.ID, approve("key_a", late.ExpiresAt), nil); err != nil {
		t.Errorf("a vote at the last moment: %v", err)
	}
}

func testVoteConcurrently(t *testing.T, s *suite) {
	q := s.question("f")
	q.Required = 5
	a := s.opens(t, q)
	var counted, moved atomic.Int32
	parallel(40, func(i int) {
		// 10 keys, four times each.
		got, err := s.Vote(s.ctx, "acme", a.ID, approve(fmt.Sprintf("key_%d", i%10), at(time.Minute)), nil)
		switch {
		case err == nil:
			counted.Add(1)
			if got.State == gate.ApprovalApproved {
				moved.Add(1)
			}
		case !errors.Is(err, gate.ErrIllegalState):
			t.Error(err)
		}
	})
	got, err := s.GetApproval(s.ctx, "acme", a.ID)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for _, v := range got.Votes {
		keys[v.KeyID] = true
	}
	if counted.Load() != 5 || moved.Load() != 1 || len(got.Votes) != 5 || len(keys) != 5 || got.State != gate.ApprovalApproved {
		t.Errorf("%d votes counted, %d moved it, %d stored by %d keys, %s", counted.Load(), moved.Load(), len(got.Votes), len(keys), got.State)
	}
}

func testEscalate(t *testing.T, s *suite) {
	q := s.question("f")
	q.Required = 2
	a := s.opens(t, q)
	if _, err := s.Vote(s.ctx, "acme", a.ID, approve("key_a", at(time.Minute)), nil); err != nil {
		t.Fatal(err)
	}
	up := gate.Vote{KeyID: "key_a", Decision: "escalate", Reason: "too big for me", Time: at(2 * time.Minute)}
	if _, err := s.Vote(s.ctx, "acme", a.ID, up, nil); !errors.Is(err, gate.ErrIllegalState) {
		t.Errorf("escalate to nobody: %v", err)
	}
	a, err := s.Vote(s.ctx, "acme", a.ID, up, []string{"finance", "cfo"})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "approvers", a.Approvers, []string{"finance", "cfo"})
	if a.State != gate.ApprovalPending || len(a.Votes) != 2 || !a.DecidedAt.IsZero() {
		t.Errorf("escalated: %s, %d votes, decided %s", a.State, len(a.Votes), a.DecidedAt)
	}
	// Nobody of the old groups has a word any more, and the approval given before
	// does not count.
	for _, word := range []string{"approve", "deny", "escalate"} {
		v := approve("key_c", at(3*time.Minute), "support-leads")
		v.Decision = word
		if _, err := s.Vote(s.ctx, "acme", a.ID, v, []string{"support-leads"}); !errors.Is(err, gate.ErrNotAllowed) {
			t.Errorf("%s of an old group: %v", word, err)
		}
	}
	if a, err = s.Vote(s.ctx, "acme", a.ID, approve("key_b", at(3*time.Minute), "cfo"), nil); err != nil || a.State != gate.ApprovalPending {
		t.Errorf("first approval of the new groups: %s, %v", a.State, err)
	}
	if _, err := s.Vote(s.ctx, "acme", a.ID, approve("key_b", at(3*time.Minute), "cfo"), nil); !errors.Is(err, gate.ErrIllegalState) {
		t.Errorf("the same key twice after the escalation: %v", err)
	}
	if a, err = s.Vote(s.ctx, "acme", a.ID, approve("key_d", at(3*time.Minute), "finance"), nil); err != nil || a.State != gate.ApprovalApproved {
		t.Errorf("second approval of the new groups: %s, %v", a.State, err)
	}

	// Who is in the new groups too is asked once, and an admin stands above groups.
	for name, first := range map[string]gate.Vote{
		"in both groups": approve("key_a", at(time.Minute), "support-leads", "cfo"),
		"admin":          {KeyID: "key_a", Role: gate.RoleAdmin, Decision: "approve", Time: at(time.Minute)},
	} {
		q := s.question(name)
		q.Required = 2
		a := s.opens(t, q)
		for _, step := range []struct {
			v  gate.Vote
			to []string
		}{{first, nil}, {up, []string{"cfo"}}, {approve("key_b", at(3*time.Minute), "cfo"), nil}} {
			if a, err = s.Vote(s.ctx, "acme", a.ID, step.v, step.to); err != nil {
				t.Fatalf("%s: %s: %v", name, step.v.Decision, err)
			}
		}
		if a.State != gate.ApprovalApproved || len(a.Votes) != 3 || !a.Counts(0) || a.Counts(1) || !a.Counts(2) {
			t.Errorf("%s: %s after the second approval", name, a.State)
		}
		got, err := s.GetApproval(s.ctx, "acme", a.ID)
		if err != nil {
			t.Fatal(err)
		}
		same(t, name+", read again", got, a)
	}
}

// Who cancels, why and when stays with the approval.
func testCancel(t *testing.T, s *suite) {
	a := s.opens(t, s.question("f"))
	v := gate.Vote{KeyID: a.KeyID, Name: "bot", Role: gate.RoleGateway, Reason: "not needed any more", Time: at(time.Minute)}
	got, err := s.Cancel(s.ctx, "acme", a.ID, v)
	if err != nil {
		t.Fatal(err)
	}
	v.Decision = gate.Cancel
	want := a
	want.State, want.DecidedAt, want.ClosedAt, want.Votes = gate.ApprovalCancelled, v.Time, v.Time, []gate.Vote{v}
	same(t, "cancelled", got, want)
	if got, err = s.GetApproval(s.ctx, "acme", a.ID); err != nil {
		t.Fatal(err)
	}
	same(t, "cancelled, read again", got, want)
	if next := s.opens(t, s.question("f")); next.ID == a.ID {
		t.Error("attached to what was cancelled")
	}
}
