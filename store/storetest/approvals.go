package storetest

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

func testOpen(t *testing.T, s *suite) {
	q := s.question("f1")
	// What only a store may set is not taken from the caller.
	sneaky := q
	sneaky.State, sneaky.ConsumedBy, sneaky.UseBefore = gate.ApprovalApproved, "ev_0", at(time.Hour)
	sneaky.Votes = []gate.Vote{approve("key_x", noon)}
	want := q
	want.State = gate.ApprovalPending
	same(t, "opened", s.opens(t, sneaky), want)

	again := s.question("f1")
	again.Summary = "another"
	got, isNew, err := s.OpenApproval(s.ctx, again, room(100))
	if err != nil || isNew {
		t.Fatalf("attach: new %v, %v", isNew, err)
	}
	same(t, "attached", got, want)
	// Attaching is possible when the tenant is full; opening is not.
	if _, isNew, err = s.OpenApproval(s.ctx, again, room(1)); err != nil || isNew {
		t.Errorf("attach when full: new %v, %v", isNew, err)
	}
	if _, isNew, err = s.OpenApproval(s.ctx, s.question("f2"), room(1)); !errors.Is(err, gate.ErrTooMany) || isNew {
		t.Errorf("open when full: new %v, %v", isNew, err)
	}
	if _, isNew, err = s.OpenApproval(s.ctx, s.question("f2"), room(0)); !errors.Is(err, gate.ErrTooMany) || isNew {
		t.Errorf("open when none is allowed: new %v, %v", isNew, err)
	}
	// So is the agent's own room, which another agent has, too.
	if _, isNew, err = s.OpenApproval(s.ctx, s.question("f2"), gate.Room{Tenant: 100, Agent: 1}); !errors.Is(err, gate.ErrTooManyOfAgent) || !errors.Is(err, gate.ErrTooMany) || isNew {
		t.Errorf("open when the agent's room is full: new %v, %v", isNew, err)
	}
	if _, isNew, err = s.OpenApproval(s.ctx, s.question("f2"), gate.Room{Tenant: 1, Agent: 100}); !errors.Is(err, gate.ErrTooMany) || errors.Is(err, gate.ErrTooManyOfAgent) || isNew {
		t.Errorf("open when the tenant's room is full: new %v, %v", isNew, err)
	}
	other := s.question("f3")
	other.AgentID = "other_agent"
	if _, isNew, err = s.OpenApproval(s.ctx, other, gate.Room{Tenant: 2, Agent: 1}); err != nil || !isNew {
		t.Errorf("another agent: new %v, %v", isNew, err)
	}
	// What is decided makes room.
	if _, err = s.Vote(s.ctx, "acme", other.ID, gate.Vote{KeyID: "k", Decision: "deny", Time: noon}, nil); err != nil {
		t.Fatal(err)
	}
	other = s.question("f4")
	other.AgentID = "other_agent"
	if _, isNew, err = s.OpenApproval(s.ctx, other, gate.Room{Tenant: 2, Agent: 1}); err != nil || !isNew {
		t.Errorf("another agent after its first was decided: new %v, %v", isNew, err)
	}
	// Another tenant has its own fingerprints and its own room.
	foreign := s.question("f1")
	foreign.TenantID = "other"
	if _, isNew, err = s.OpenApproval(s.ctx, foreign, room(1)); err != nil || !isNew {
		t.Errorf("another tenant: new %v, %v", isNew, err)
	}

	for what, get := range map[string]func() (gate.Approval, error){
		"get":    func() (gate.Approval, error) { return s.GetApproval(s.ctx, "acme", q.ID) },
		"latest": func() (gate.Approval, error) { return s.LatestApproval(s.ctx, "acme", "f1") },
	} {
		got, err := get()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		same(t, what, got, want)
	}
	for what, get := range map[string]func() (gate.Approval, error){
		"of another tenant":   func() (gate.Approval, error) { return s.GetApproval(s.ctx, "acme", foreign.ID) },
		"unknown":             func() (gate.Approval, error) { return s.GetApproval(s.ctx, "acme", "apr_none") },
		"unknown fingerprint": func() (gate.Approval, error) { return s.LatestApproval(s.ctx, "acme", "f9") },
		"vote":                func() (gate.Approval, error) { return s.Vote(s.ctx, "acme", foreign.ID, approve("k", noon), nil) },
		"consume":             func() (gate.Approval, error) { return s.Consume(s.ctx, "acme", foreign.ID, "ev_9", noon) },
		"cancel": func() (gate.Approval, error) {
			return s.Cancel(s.ctx, "acme", foreign.ID, gate.Vote{KeyID: "k", Time: noon})
		},
	} {
		if _, err := get(); !errors.Is(err, gate.ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func testOpenConcurrently(t *testing.T, s *suite) {
	questions := make([]gate.Approval, 64)
	for i := range questions {
		questions[i] = s.question("same")
	}
	var opened atomic.Int32
	ids := make([]string, len(questions))
	parallel(len(questions), func(i int) {
		got, isNew, err := s.OpenApproval(s.ctx, questions[i], room(100))
		if err != nil {
			t.Error(err)
		}
		if isNew {
			opened.Add(1)
		}
		ids[i] = got.ID
	})
	if opened.Load() != 1 {
		t.Errorf("%d were opened", opened.Load())
	}
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("two approvals for one fingerprint: %s and %s", id, ids[0])
		}
	}
}

func testConsume(t *testing.T, s *suite) {
	a := s.approved(t, "f")
	// An approved one is still attached to, until it is used.
	got, isNew, err := s.OpenApproval(s.ctx, s.question("f"), room(100))
	if err != nil || isNew {
		t.Fatalf("attach to the approved: new %v, %v", isNew, err)
	}
	same(t, "attached to", got, a)

	got, err = s.Consume(s.ctx, "acme", a.ID, "ev_use", a.UseBefore)
	if err != nil {
		t.Fatal(err)
	}
	want := a
	want.State, want.ConsumedBy, want.ClosedAt = gate.ApprovalConsumed, "ev_use", a.UseBefore
	same(t, "consumed", got, want)
	if got, err = s.GetApproval(s.ctx, "acme", a.ID); err != nil {
		t.Fatal(err)
	}
	same(t, "consumed, read again", got, want)
	if _, err = s.Consume(s.ctx, "acme", a.ID, "ev_other", at(2*time.Minute)); !errors.Is(err, gate.ErrIllegalState) {
		t.Errorf("consumed twice: %v", err)
	}
	// The next call with this fingerprint is a new question, and then the latest.
	next := s.question("f")
	next.CreatedAt = at(time.Minute)
	next = s.opens(t, next)
	if got, err = s.LatestApproval(s.ctx, "acme", "f"); err != nil || got.ID != next.ID {
		t.Errorf("latest is %s, %v", got.ID, err)
	}

	late := s.approved(t, "g")
	if _, err = s.Consume(s.ctx, "acme", late.ID, "ev_late", late.UseBefore.Add(time.Microsecond)); !errors.Is(err, gate.ErrIllegalState) {
		t.Errorf("used too late: %v", err)
	}
}

func testConsumeConcurrently(t *testing.T, s *suite) {
	a := s.approved(t, "f")
	var used atomic.Int32
	parallel(64, func(i int) {
		_, err := s.Consume(s.ctx, "acme", a.ID, fmt.Sprintf("ev_%d", i), at(2*time.Minute))
		switch {
		case err == nil:
			used.Add(1)
		case !errors.Is(err, gate.ErrIllegalState):
			t.Error(err)
		}
	})
	if used.Load() != 1 {
		t.Errorf("used %d times", used.Load())
	}
}

// testIllegalMoves tries every operation on every state; what is not listed as
// legal must change nothing.
func testIllegalMoves(t *testing.T, s *suite) {
	when := at(2 * time.Minute)
	operations := map[string]func(id string) (gate.Approval, error){
		"approve": func(id string) (gate.Approval, error) {
			return s.Vote(s.ctx, "acme", id, approve("key_z", when), nil)
		},
		"deny": func(id string) (gate.Approval, error) {
			return s.Vote(s.ctx, "acme", id, gate.Vote{KeyID: "key_z", Decision: "deny", Time: when}, nil)
		},
		"escalate": func(id string) (gate.Approval, error) {
			return s.Vote(s.ctx, "acme", id, gate.Vote{KeyID: "key_z", Decision: "escalate", Time: when}, []string{"g"})
		},
		"cancel": func(id string) (gate.Approval, error) {
			return s.Cancel(s.ctx, "acme", id, gate.Vote{KeyID: "key_z", Reason: "stop", Time: when})
		},
		"consume": func(id string) (gate.Approval, error) { return s.Consume(s.ctx, "acme", id, "ev_z", when) },
	}
	legal := map[string]string{
		"pending approve": gate.ApprovalApproved, "pending deny": gate.ApprovalDenied,
		"pending escalate": gate.ApprovalPending, "pending cancel": gate.ApprovalCancelled,
		"approved consume": gate.ApprovalConsumed,
	}
	n := 0
	make := func(state string) gate.Approval {
		n++
		f := fmt.Sprintf("%s %d", state, n)
		var a gate.Approval
		var err error
		switch state {
		case gate.ApprovalPending:
			return s.opens(t, s.question(f))
		case gate.ApprovalApproved:
			return s.approved(t, f)
		case gate.ApprovalConsumed:
			a, err = s.Consume(s.ctx, "acme", s.approved(t, f).ID, "ev_y", when)
		case gate.ApprovalDenied:
			a, err = operations["deny"](s.opens(t, s.question(f)).ID)
		case gate.ApprovalCancelled:
			a, err = operations["cancel"](s.opens(t, s.question(f)).ID)
		case gate.ApprovalExpired:
			q := s.question(f)
			q.ExpiresAt = at(time.Second)
			s.opens(t, q)
			if _, err = s.ExpireApprovals(s.ctx, at(2*time.Second)); err == nil {
				a, err = s.GetApproval(s.ctx, "acme", q.ID)
			}
		}
		if err != nil || a.State != state {
			t.Fatalf("make %s: %s, %v", state, a.State, err)
		}
		return a
	}
	for _, state := range []string{
		gate.ApprovalPending, gate.ApprovalApproved, gate.ApprovalConsumed,
		gate.ApprovalDenied, gate.ApprovalCancelled, gate.ApprovalExpired,
	} {
		for name, operate := range operations {
			before := make(state)
			got, err := operate(before.ID)
			if want, ok := legal[state+" "+name]; ok {
				if err != nil || got.State != want {
					t.Errorf("%s %s: %s, %v; want %s", state, name, got.State, err, want)
				}
				continue
			}
			if !errors.Is(err, gate.ErrIllegalState) {
				t.Errorf("%s %s: %v", state, name, err)
			}
			after, err := s.GetApproval(s.ctx, "acme", before.ID)
			if err != nil {
				t.Fatal(err)
			}
			same(t, state+" after a refused "+name, after, before)
		}
	}
}

func testExpire(t *testing.T, s *suite) {
	expires := func(now time.Time, want ...string) {
		t.Helper()
		list, err := s.ExpireApprovals(s.ctx, now)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range list {
			if a.State != gate.ApprovalExpired {
				t.Errorf("%s was given as %s", a.ID, a.State)
			}
			got = append(got, a.ID)
		}
		same(t, fmt.Sprintf("expired at %s", now), got, want)
	}
	pending := s.opens(t, s.question("pending")) // one hour
	unused := s.approved(t, "approved")          // 16 minutes after noon
	denied := s.opens(t, s.question("denied"))
	if _, err := s.Vote(s.ctx, "acme", denied.ID, gate.Vote{KeyID: "k", Decision: "deny", Time: noon}, nil); err != nil {
		t.Fatal(err)
	}
	expires(unused.UseBefore)
	expires(unused.UseBefore.Add(time.Microsecond), unused.ID)
	expires(pending.ExpiresAt)
	expires(pending.ExpiresAt.Add(time.Hour), pending.ID)
	expires(pending.ExpiresAt.Add(time.Hour))

	// What is overdue but was not met by ExpireApprovals is not attached to.
	q := s.question("lazy")
	old := s.opens(t, q)
	q = s.question("lazy")
	q.CreatedAt = old.ExpiresAt.Add(time.Microsecond)
	q.ExpiresAt = q.CreatedAt.Add(time.Hour)
	if got := s.opens(t, q); got.ID == old.ID {
		t.Error("attached to an overdue approval")
	}
	old, err := s.GetApproval(s.ctx, "acme", old.ID)
	if err != nil || old.State != gate.ApprovalExpired {
		t.Errorf("the overdue one is %s, %v", old.State, err)
	}
}

func testListApprovals(t *testing.T, s *suite) {
	var all, denied, ofB []string
	for i := range 9 {
		q := s.question(fmt.Sprint(i))
		q.CreatedAt = at(time.Duration(i/2) * time.Second)
		if i%3 == 0 {
			q.AgentID = "b"
			ofB = append([]string{q.ID}, ofB...)
		}
		s.opens(t, q)
		all = append([]string{q.ID}, all...)
		if i%4 == 0 {
			if _, err := s.Vote(s.ctx, "acme", q.ID, gate.Vote{KeyID: "k", Decision: "deny", Time: at(time.Minute)}, nil); err != nil {
				t.Fatal(err)
			}
			denied = append([]string{q.ID}, denied...)
		}
	}
	foreign := s.question("foreign")
	foreign.TenantID = "other"
	s.opens(t, foreign)
	for _, c := range []struct {
		name string
		q    gate.ApprovalQuery
		want []string
	}{
		{"all", gate.ApprovalQuery{}, all},
		{"denied", gate.ApprovalQuery{State: gate.ApprovalDenied}, denied},
		{"of b", gate.ApprovalQuery{AgentID: "b"}, ofB},
		{"denied of b", gate.ApprovalQuery{AgentID: "b", State: gate.ApprovalDenied}, ofB[len(ofB)-1:]},
		{"expired", gate.ApprovalQuery{State: gate.ApprovalExpired}, nil},
	} {
		for _, limit := range []int{1, 2, 100, 0} {
			q := c.q
			q.TenantID, q.Limit = "acme", limit
			var got []string
			for {
				list, next, err := s.Approvals(s.ctx, q)
				if err != nil {
					t.Fatal(err)
				}
				for _, a := range list {
					got = append(got, a.ID)
				}
				if next == "" {
					break
				}
				q.Cursor = next
			}
			same(t, fmt.Sprintf("%s by %d", c.name, limit), got, c.want)
		}
	}
	var fe *gate.FieldError
	if _, _, err := s.Approvals(s.ctx, gate.ApprovalQuery{TenantID: "acme", Cursor: "!"}); !errors.As(err, &fe) || fe.Field != "cursor" {
		t.Errorf("a made up cursor: %v", err)
	}
}

// An answer that came between looking and opening is not asked for again.
func testOpenSeen(t *testing.T, s *suite) {
	open := func(seen string) (gate.Approval, bool) {
		t.Helper()
		q := s.question("f")
		q.Seen = seen
		got, isNew, err := s.OpenApproval(s.ctx, q, room(100))
		if err != nil {
			t.Fatal(err)
		}
		return got, isNew
	}
	first, isNew := open(gate.SeenNone)
	if !isNew {
		t.Fatal("not opened")
	}
	v := gate.Vote{KeyID: "key_h", Decision: gate.DenyIt, Time: first.CreatedAt}
	if _, err := s.Vote(s.ctx, first.TenantID, first.ID, v, nil); err != nil {
		t.Fatal(err)
	}
	if got, isNew := open(gate.SeenNone); isNew || got.ID != first.ID || got.State != gate.ApprovalDenied {
		t.Errorf("opened %v: %s is %s", isNew, got.ID, got.State)
	}
	if got, isNew := open(first.ID); !isNew || got.ID == first.ID {
		t.Errorf("opened %v: %s", isNew, got.ID)
	}
}
