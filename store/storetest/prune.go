package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

// testPrune: what is over goes, with all that belongs to it, and whatever somebody
// may still ask for stays.
func testPrune(t *testing.T, s *suite) {
	day := 24 * time.Hour
	settle := func() {
		t.Helper()
		for {
			open, err := s.Unrecorded(s.ctx, 100)
			if err != nil {
				t.Fatal(err)
			}
			if len(open) == 0 {
				return
			}
			for _, tr := range open {
				if err := s.MarkRecorded(s.ctx, tr.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	must := func(_ gate.Approval, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	long := func(fingerprint string) gate.Approval {
		q := s.question(fingerprint)
		q.ExpiresAt = at(400 * day)
		return s.opens(t, q)
	}
	pending := long("pending")
	approved := s.question("approved")
	approved.UseWithin = 400 * day
	approved = s.opens(t, approved)
	must(s.Vote(s.ctx, "acme", approved.ID, approve("key_lead", at(time.Minute)), nil))
	used := s.approved(t, "used") // at 1 min
	must(s.Consume(s.ctx, "acme", used.ID, "ev_use", at(2*time.Minute)))
	kept := s.approved(t, "kept") // with an answer that is promised for longer
	must(s.Consume(s.ctx, "acme", kept.ID, "ev_kept", at(2*time.Minute)))
	denied := long("denied")
	must(s.Vote(s.ctx, "acme", denied.ID, gate.Vote{KeyID: "key_lead", Decision: "deny", Time: at(time.Hour)}, nil))
	longDenied := s.question("denied for long") // it answers for as long as an approval could be used
	longDenied.UseWithin = 40 * day
	longDenied = s.opens(t, longDenied)
	must(s.Vote(s.ctx, "acme", longDenied.ID, gate.Vote{KeyID: "key_lead", Decision: "deny", Time: at(time.Hour)}, nil))
	cancelled := long("cancelled")
	must(s.Cancel(s.ctx, "acme", cancelled.ID, gate.Vote{KeyID: "key_agent", Time: at(time.Hour)}))
	expired := s.opens(t, s.question("expired"))
	if _, err := s.ExpireApprovals(s.ctx, at(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	settle()
	unrecorded := long("unrecorded")
	must(s.Cancel(s.ctx, "acme", unrecorded.ID, gate.Vote{KeyID: "key_agent", Time: at(time.Hour)}))
	for _, id := range []string{kept.ID, kept.ID + "/status", used.ID, "apr_other"} {
		expires := at(20 * day)
		if id == kept.ID+"/status" {
			expires = at(60 * day)
		}
		if err := s.KeepAnswer(s.ctx, "acme", id, []byte("sealed"), noon, expires); err != nil {
			t.Fatal(err)
		}
	}

	prune := func(keep, now time.Duration) gate.Pruned {
		t.Helper()
		n, err := s.Prune(s.ctx, at(now-keep), at(now))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	there := func(when string, want ...gate.Approval) {
		t.Helper()
		stays := map[string]bool{}
		for _, a := range want {
			stays[a.Fingerprint] = true
		}
		for _, a := range []gate.Approval{pending, approved, used, kept, denied, longDenied, cancelled, expired, unrecorded} {
			_, err := s.GetApproval(s.ctx, "acme", a.ID)
			if (err == nil) != stays[a.Fingerprint] || err != nil && !errors.Is(err, gate.ErrNotFound) {
				t.Errorf("%s: %q is there: %v", when, a.Fingerprint, err)
			}
		}
	}

	same(t, "too early", prune(day, 12*time.Hour), gate.Pruned{})
	// A day is asked for, and the windows in which they answer are longer than that.
	same(t, "after two days", prune(day, 2*day), gate.Pruned{Approvals: 3, Moves: 3})
	there("after two days", pending, approved, used, kept, longDenied, unrecorded)
	same(t, "again", prune(day, 2*day), gate.Pruned{})
	// What a used one promises is over after 30 days; answers go with their time.
	same(t, "after 31 days", prune(day, 31*day), gate.Pruned{Approvals: 1, Moves: 2, Answers: 3})
	there("after 31 days", pending, approved, kept, longDenied, unrecorded)
	same(t, "after 61 days, kept for 90", prune(90*day, 61*day), gate.Pruned{Answers: 1})
	settle()
	same(t, "after 61 days", prune(day, 61*day), gate.Pruned{Approvals: 3, Moves: 4})
	there("after 61 days", pending, approved)
	if _, err := s.LatestApproval(s.ctx, "acme", "used"); !errors.Is(err, gate.ErrNotFound) {
		t.Errorf("by its fingerprint: %v", err)
	}
	list, _, err := s.Approvals(s.ctx, gate.ApprovalQuery{TenantID: "acme", Limit: 100})
	if err != nil || len(list) != 2 {
		t.Errorf("%d listed, %v", len(list), err)
	}

	// Life goes on: new moves come after all that ever were.
	_, last, err := s.Moved(s.ctx, -1)
	if err != nil {
		t.Fatal(err)
	}
	must(s.Cancel(s.ctx, "acme", pending.ID, gate.Vote{KeyID: "key_agent", Time: at(61 * day)}))
	ids, next, err := s.Moved(s.ctx, last)
	if err != nil || next <= last || len(ids) != 1 || ids[0] != pending.ID {
		t.Errorf("moved after the pruning: %v %d after %d, %v", ids, next, last, err)
	}
	settle()
	if _, err := s.Prune(s.ctx, at(time.Hour), noon); !errors.Is(err, s.misuse) {
		t.Errorf("a future that is over: %v", err)
	}
}

// testPrunePages: however much is over, a call removes a page of it.
func testPrunePages(t *testing.T, s *suite) {
	const n = 150
	for i := range n {
		a := s.opens(t, s.question(fmt.Sprint("q", i)))
		if _, err := s.Cancel(s.ctx, "acme", a.ID, gate.Vote{KeyID: "key_agent", Time: noon}); err != nil {
			t.Fatal(err)
		}
	}
	for {
		list, err := s.Unrecorded(s.ctx, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		ids := make([]int64, len(list))
		for i := range list {
			ids[i] = list[i].ID
		}
		if err := s.MarkRecorded(s.ctx, ids...); err != nil {
			t.Fatal(err)
		}
	}
	total, pages := 0, 0
	for {
		got, err := s.Prune(s.ctx, at(time.Hour), at(2*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if got.None() {
			break
		}
		if got.Approvals > 64 {
			t.Errorf("%d in one page", got.Approvals)
		}
		total, pages = total+got.Approvals, pages+1
	}
	if total != n || pages < 3 {
		t.Errorf("%d removed in %d pages", total, pages)
	}
}

func testPruneGrants(t *testing.T, s *suite) {
	used := func(id string, expires time.Duration) gate.Grant {
		t.Helper()
		g := s.grant()
		g.ID, g.CreatedAt, g.ExpiresAt, g.Count = id, noon, at(expires), 3
		if err := s.CreateGrant(s.ctx, g, 100); err != nil {
			t.Fatal(err)
		}
		if _, err := s.UseGrant(s.ctx, "acme", g.ID, "ev_"+id, 0, noon); err != nil {
			t.Fatal(err)
		}
		return g
	}
	over, live := used("grt_over", time.Hour), used("grt_live", 100*time.Hour)
	if _, err := s.RevokeGrant(s.ctx, "acme", live.ID, "key_a", at(time.Minute)); err != nil {
		t.Fatal(err)
	}
	n, err := s.Prune(s.ctx, at(50*time.Hour), at(60*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "pruned", n, gate.Pruned{Grants: 1, Uses: 1})
	if _, err := s.GetGrant(s.ctx, "acme", over.ID); !errors.Is(err, gate.ErrNotFound) {
		t.Errorf("it is there: %v", err)
	}
	if _, err := s.GetGrant(s.ctx, "acme", live.ID); err != nil {
		t.Errorf("one that could still get a use back: %v", err)
	}
	if err := s.ReleaseGrant(s.ctx, "acme", over.ID, "ev_grt_over"); err != nil {
		t.Errorf("a late return: %v", err)
	}
}
