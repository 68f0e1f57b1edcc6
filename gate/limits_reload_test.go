package gate_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

// reload puts other limits in force.
func (f *fixture) reload(t testing.TB, limits ...string) {
	t.Helper()
	r := *f.rules
	r.Policy = rules(t, "enforce", limitPolicy(limits...)).Policy
	f.Load(&r)
}

const (
	lateFull = `{ name: late, key: [agent_id], sum: args.amount, max: 5000, window: 24h, decision: deny, reason_code: x.late }`
	lateFree = `{ name: late, key: [agent_id], sum: args.amount, max: 50000, window: 24h, decision: deny, reason_code: x.late }`
	lateSoft = `{ name: late, key: [agent_id], sum: args.amount, max: 5000, window: 24h, decision: require_approval, reason_code: x.late, approval: { approvers: [finance] } }`
)

// TestLimitAddedWhileHeld: a limit that came into force while a call was held
// is asked when the call is used, whether it held a share of others or none.
func TestLimitAddedWhileHeld(t *testing.T) {
	for name, old := range map[string]struct{ name, limit string }{
		"with shares": {"most", hardDay}, "without shares": {"day", softDay},
	} {
		t.Run(name, func(t *testing.T) {
			f := newLimited(t, old.limit)
			others := int64(0)
			if old.limit == softDay {
				others = 5000
				f.sends(t, "5000", fine) // so that the held call is over the limit that asks
			}
			_, ref := f.Check(t.Context(), f.refund("6000"))
			if ref == nil || ref.Approval == "" {
				t.Fatalf("%+v", ref)
			}
			before := f.used(t, old.name)
			f.reload(t, old.limit, lateFull)
			if _, err := f.Decide(t.Context(), finance, ref.Approval, gate.Approve, "", nil); err != nil {
				t.Fatal(err)
			}
			permit, no := f.Check(t.Context(), f.refund("6000"))
			if permit != nil || no == nil || no.Status != 403 || no.Decision.ReasonCode != "x.late" || !strings.Contains(no.Sentence, "0.00 of 50.00 USD used") && !strings.Contains(no.Sentence, "0 of 5000 used") {
				t.Fatalf("%+v %+v", permit, no)
			}
			if f.used(t, "late") != 0 || f.used(t, old.name) != before {
				t.Errorf("a refused call took %d of late; of the others %d, before it %d", f.used(t, "late"), f.used(t, old.name), before)
			}
			// It may leave once the limit has room, and counts once however many come.
			f.reload(t, old.limit, lateFree)
			var mu sync.Mutex
			var permits []*gate.Permit
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if p, _ := f.Check(t.Context(), f.refund("6000")); p != nil {
						mu.Lock()
						defer mu.Unlock()
						permits = append(permits, p)
					}
				})
			}
			wg.Wait()
			if len(permits) != 1 || f.used(t, "late") != 6000 {
				t.Fatalf("%d permits, %d used", len(permits), f.used(t, "late"))
			}
			// All of it is given back together.
			permits[0].Done(gate.Outcome{State: "forwarded", Status: 402})
			if f.used(t, "late") != 0 || f.used(t, old.name) != others {
				t.Errorf("after a 4xx %d and %d are used", f.used(t, "late"), f.used(t, old.name))
			}
		})
	}
}

// TestSoftLimitAddedWhileHeld: one that asks a human is satisfied by the human
// who approved the call, and counts.
func TestSoftLimitAddedWhileHeld(t *testing.T) {
	f := newLimited(t, hardDay)
	_, ref := f.Check(t.Context(), f.refund("6000"))
	f.reload(t, hardDay, lateSoft)
	if _, err := f.Decide(t.Context(), finance, ref.Approval, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	f.sends(t, "6000", fine)
	if f.used(t, "late") != 6000 || f.used(t, "most") != 6000 {
		t.Errorf("%d and %d are used", f.used(t, "late"), f.used(t, "most"))
	}
}

// TestLimitAddedBeforeAPassportIsShown: the token of an approval is no way
// around a limit either.
func TestLimitAddedBeforeAPassportIsShown(t *testing.T) {
	f := withAuthority(newLimited(t, hardDay))
	_, ref := f.Check(t.Context(), f.refund("6000"))
	a, err := f.Decide(t.Context(), finance, ref.Approval, gate.Approve, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	minted, err := f.PassportFor(t.Context(), finance, a)
	if err != nil {
		t.Fatal(err)
	}
	f.reload(t, hardDay, lateFull)
	permit, no := f.Check(t.Context(), f.with(minted.Token, "6000"))
	if permit != nil || no == nil || no.Decision.ReasonCode != "x.late" {
		t.Fatalf("%+v %+v", permit, no)
	}
	f.reload(t, hardDay, lateFree)
	permit, no = f.Check(t.Context(), f.with(minted.Token, "6000"))
	if permit == nil {
		t.Fatalf("%+v", no)
	}
	permit.Done(fine)
	if f.used(t, "late") != 6000 || f.used(t, "most") != 6000 {
		t.Errorf("%d and %d are used", f.used(t, "late"), f.used(t, "most"))
	}
}

// TestHeldLongerThanTheWindow: a call counts in the window in which it is sent.
func TestHeldLongerThanTheWindow(t *testing.T) {
	minute := strings.Replace(hardDay, "24h", "1m", 1)
	f := newLimited(t, minute)
	_, ref := f.Check(t.Context(), f.refund("6000"))
	f.later(2 * time.Minute)
	if _, err := f.Decide(t.Context(), finance, ref.Approval, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	f.sends(t, "4000", fine)
	f.sends(t, "3000", fine)
	if _, no := f.Check(t.Context(), f.refund("6000")); no == nil || no.Decision.ReasonCode != "x.most" {
		t.Fatalf("%+v", no)
	}
	f.later(2 * time.Minute)
	f.sends(t, "6000", fine)
	if f.used(t, "most") != 6000 {
		t.Errorf("%d are used", f.used(t, "most"))
	}
}
