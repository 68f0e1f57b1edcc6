package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

func testOutbox(t *testing.T, s *suite) {
	q := s.question("f")
	q.Required = 2
	a := s.opens(t, q)
	step := func(_ gate.Approval, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step(s.Vote(s.ctx, "acme", a.ID, gate.Vote{KeyID: "key_a", Decision: "escalate", Reason: "up", Time: at(1 * time.Minute)}, []string{"g"}))
	step(s.Vote(s.ctx, "acme", a.ID, approve("key_a", at(2*time.Minute), "g"), nil))
	step(s.Vote(s.ctx, "acme", a.ID, approve("key_b", at(3*time.Minute), "g"), nil))
	step(s.Consume(s.ctx, "acme", a.ID, "ev_use", at(4*time.Minute)))
	if _, err := s.Consume(s.ctx, "acme", a.ID, "ev_again", at(4*time.Minute)); err == nil {
		t.Error("consumed twice")
	}
	b := s.opens(t, s.question("g"))
	step(s.Cancel(s.ctx, "acme", b.ID, gate.Vote{KeyID: "system", Reason: "config changed", Time: at(5 * time.Minute)}))
	c := s.opens(t, s.question("h"))
	if _, err := s.ExpireApprovals(s.ctx, at(2*time.Hour)); err != nil {
		t.Fatal(err)
	}

	move := func(id, from, to, actor, reason string, when time.Duration) gate.Transition {
		return gate.Transition{ApprovalID: id, TenantID: "acme", From: from, To: to, Actor: actor, Reason: reason, Time: at(when)}
	}
	want := []gate.Transition{
		move(a.ID, "pending", "pending", "key_a", "up", 1*time.Minute),
		move(a.ID, "pending", "pending", "key_a", "fine", 2*time.Minute),
		move(a.ID, "pending", "approved", "key_b", "fine", 3*time.Minute),
		move(a.ID, "approved", "consumed", "system", "used by ev_use", 4*time.Minute),
		move(b.ID, "pending", "cancelled", "system", "config changed", 5*time.Minute),
		move(c.ID, "pending", "expired", "system", "nobody decided in time", 2*time.Hour),
	}
	outbox := func(limit int) (got []gate.Transition, ids []int64) {
		t.Helper()
		got, err := s.Unrecorded(s.ctx, limit)
		if err != nil {
			t.Fatal(err)
		}
		last := int64(0)
		for i := range got {
			if got[i].ID <= last {
				t.Errorf("transition %d comes after %d", got[i].ID, last)
			}
			last = got[i].ID
			ids = append(ids, last)
			got[i].ID = 0
		}
		return got, ids
	}
	got, ids := outbox(100)
	same(t, "outbox", got, want)
	got, _ = outbox(2)
	same(t, "outbox, the oldest two", got, want[:2])

	if err := s.MarkRecorded(s.ctx); err != nil {
		t.Errorf("mark nothing: %v", err)
	}
	if err := s.MarkRecorded(s.ctx, ids[0], ids[2]); err != nil {
		t.Fatal(err)
	}
	if err := s.MarkRecorded(s.ctx, ids[2]); err != nil {
		t.Errorf("mark again: %v", err)
	}
	got, _ = outbox(100)
	same(t, "outbox after two were marked", got, append([]gate.Transition{want[1]}, want[3:]...))
	// All or none: the unknown one takes the known one along.
	if err := s.MarkRecorded(s.ctx, ids[1], 1<<40); !errors.Is(err, s.misuse) {
		t.Errorf("mark an unknown transition: %v", err)
	}
	if got, _ = outbox(100); len(got) != 4 {
		t.Errorf("%d unrecorded after a failed marking", len(got))
	}
}
