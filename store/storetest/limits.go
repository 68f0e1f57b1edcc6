package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

func use(limit, key string, amount, most int64) gate.Use {
	return gate.Use{Limit: limit, Key: key, Amount: amount, Max: most, Window: time.Hour}
}

// reserve expects an answer.
func (s *suite) reserve(t *testing.T, event string, when time.Time, wantOver int, wantUsed []int64, uses ...gate.Use) {
	t.Helper()
	over, used, err := s.Reserve(s.ctx, "acme", event, uses, when)
	if err != nil {
		t.Fatalf("reserve %s: %v", event, err)
	}
	if over != wantOver {
		t.Errorf("reserve %s: over %d, want %d", event, over, wantOver)
	}
	same(t, "reserve "+event+": used", used, wantUsed)
}

func (s *suite) usage(t *testing.T, when time.Time, want []int64, uses ...gate.Use) {
	t.Helper()
	used, err := s.Usage(s.ctx, "acme", uses, when)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "usage", used, want)
}

func testReserve(t *testing.T, s *suite) {
	s.reserve(t, "ev_0", noon, -1, nil)
	s.reserve(t, "ev_1", noon, -1, []int64{0, 0}, use("p/sum", "a", 60, 100), use("p/calls", "a", 1, 2))
	// The second does not fit, so the first is not taken either.
	s.reserve(t, "ev_2", noon, 0, []int64{60, 1}, use("p/sum", "a", 41, 100), use("p/calls", "a", 1, 2))
	s.reserve(t, "ev_2", noon, -1, []int64{60, 1}, use("p/sum", "a", 40, 100), use("p/calls", "a", 1, 2))
	s.reserve(t, "ev_3", noon, 1, []int64{100, 2}, use("p/sum", "a", 0, 100), use("p/calls", "a", 1, 2))
	s.usage(t, noon, []int64{100, 2, 0}, use("p/sum", "a", 0, 100), use("p/calls", "a", 1, 2), use("p/sum", "b", 1, 1))
	// Neither key, limit name nor tenant spill into each other.
	s.reserve(t, "ev_4", noon, -1, []int64{0, 0}, use("p/sum", "b", 1, 1), use("p/su", "ma", 1, 1))
	if over, used, err := s.Reserve(s.ctx, "other", "ev_1", []gate.Use{use("p/sum", "a", 1, 1)}, noon); err != nil || over != -1 || used[0] != 0 {
		t.Errorf("another tenant: over %d, used %v, %v", over, used, err)
	}
	// One limit twice in one call counts both.
	s.reserve(t, "ev_5", noon, -1, []int64{0, 5}, use("twice", "", 5, 10), use("twice", "", 5, 10))
	s.reserve(t, "ev_6", noon, 0, []int64{10}, use("twice", "", 1, 10))
	s.reserve(t, "ev_7", noon, 1, []int64{0, 7}, use("other", "", 7, 10), use("other", "", 7, 10))
	s.usage(t, noon, []int64{0}, use("other", "", 1, 1))
	// A limit that was lowered, one of nothing, and sums near the end of int64.
	s.reserve(t, "ev_8", noon, 0, []int64{100}, use("p/sum", "a", 0, 50))
	s.reserve(t, "ev_9", noon, 0, []int64{0}, use("none", "", 0, -1))
	s.reserve(t, "ev_10", noon, -1, []int64{0}, use("big", "", math.MaxInt64, math.MaxInt64))
	s.reserve(t, "ev_11", noon, 0, []int64{math.MaxInt64}, use("big", "", math.MaxInt64, math.MaxInt64))
	s.reserve(t, "ev_12", noon, 0, []int64{math.MaxInt64}, use("big", "", 1, math.MinInt64))
	// An event holds one reservation.
	if _, _, err := s.Reserve(s.ctx, "acme", "ev_1", []gate.Use{use("p/sum", "c", 1, 9)}, noon); !errors.Is(err, gate.ErrIllegalState) {
		t.Errorf("a second reservation: %v", err)
	}
}

func testReserveConcurrently(t *testing.T, s *suite) {
	var fit atomic.Int32
	parallel(1000, func(i int) {
		over, _, err := s.Reserve(s.ctx, "acme", fmt.Sprintf("ev_%d", i), []gate.Use{
			use("calls", "a", 1, 100), use("own", fmt.Sprint(i), 1, 1),
		}, at(time.Duration(i)*time.Microsecond))
		switch {
		case err != nil:
			t.Error(err)
		case over == -1:
			fit.Add(1)
		case over != 0:
			t.Errorf("over %d", over)
		}
	})
	if fit.Load() != 100 {
		t.Errorf("%d fit into 100", fit.Load())
	}
	s.usage(t, at(time.Second), []int64{100}, use("calls", "a", 1, 1))
}

func testWindow(t *testing.T, s *suite) {
	for i := range int64(6) { // 1, 2, 4 ... at 0, 10, 20 ... minutes
		s.reserve(t, fmt.Sprintf("ev_%d", i), at(time.Duration(i)*10*time.Minute), -1, []int64{1<<i - 1}, use("l", "k", 1<<i, 1000))
	}
	l := use("l", "k", 0, 1000)
	s.usage(t, at(time.Hour-time.Microsecond), []int64{63}, l)
	s.usage(t, at(time.Hour), []int64{62}, l) // the first has left
	s.usage(t, at(90*time.Minute), []int64{48}, l)
	s.reserve(t, "ev_a", at(90*time.Minute), 0, []int64{48}, use("l", "k", 953, 1000))
	s.reserve(t, "ev_b", at(90*time.Minute), -1, []int64{48}, use("l", "k", 952, 1000))
	s.usage(t, at(100*time.Minute), []int64{984}, l)
	// The policy now says 15 minutes, and then an hour again.
	short := l
	short.Window = 15 * time.Minute
	s.usage(t, at(100*time.Minute), []int64{952}, short)
	short.Amount = 1
	s.reserve(t, "ev_c", at(100*time.Minute), -1, []int64{952}, short)
	s.reserve(t, "ev_d", at(100*time.Minute), -1, []int64{985}, use("l", "k", 1, 1000))
	s.usage(t, at(24*time.Hour), []int64{0}, l)
	s.reserve(t, "ev_e", at(24*time.Hour), -1, []int64{0}, use("l", "k", 1000, 1000))
}

// testClockSetBack: a clock that is set back never makes room, and a small step
// back, as between two callers, changes nothing.
func testClockSetBack(t *testing.T, s *suite) {
	s.reserve(t, "ev_1", at(10*time.Hour), -1, []int64{0}, use("l", "k", 10, 20))
	s.reserve(t, "ev_2", at(10*time.Hour-time.Millisecond), -1, []int64{10}, use("l", "k", 5, 20))
	s.reserve(t, "ev_3", at(10*time.Hour), -1, []int64{15}, use("l", "k", 1, 20))
	s.reserve(t, "ev_4", at(0), 0, []int64{16}, use("l", "k", 5, 20))
	s.reserve(t, "ev_5", at(time.Minute), -1, []int64{16}, use("l", "k", 4, 20))
	s.reserve(t, "ev_6", at(2*time.Minute), 0, []int64{20}, use("l", "k", 1, 20))
	// What seemed to lie hours ahead leaves one window after the clock was set.
	s.reserve(t, "ev_7", at(90*time.Minute), -1, []int64{0}, use("l", "k", 20, 20))
}

func testRelease(t *testing.T, s *suite) {
	s.reserve(t, "ev_1", noon, -1, []int64{0, 0}, use("l", "k", 7, 10), use("m", "k", 1, 10))
	s.reserve(t, "ev_2", noon, -1, []int64{7}, use("l", "k", 3, 10))
	release := func(tenant, event string) {
		t.Helper()
		if err := s.Release(s.ctx, tenant, event); err != nil {
			t.Fatal(err)
		}
	}
	release("other", "ev_1")
	release("acme", "ev_none")
	s.usage(t, noon, []int64{10, 1}, use("l", "k", 0, 10), use("m", "k", 0, 10))
	release("acme", "ev_1")
	s.usage(t, noon, []int64{3, 0}, use("l", "k", 0, 10), use("m", "k", 0, 10))
	release("acme", "ev_1")
	s.reserve(t, "ev_1", noon, -1, []int64{3}, use("l", "k", 7, 10))
	// Released after it left the window: nothing is given back twice.
	s.reserve(t, "ev_3", at(2*time.Hour), -1, []int64{0}, use("l", "k", 4, 10))
	release("acme", "ev_1")
	release("acme", "ev_2")
	s.usage(t, at(2*time.Hour), []int64{4}, use("l", "k", 0, 10))
}

func testMisuse(t *testing.T, s *suite) {
	a := s.opens(t, s.question("f"))
	opening := func(change func(*gate.Approval)) func() error {
		return func() error {
			q := s.question("g")
			change(&q)
			_, _, err := s.OpenApproval(s.ctx, q, 100)
			return err
		}
	}
	reserving := func(tenant, event string, when time.Time, u gate.Use) func() error {
		return func() error {
			_, _, err := s.Reserve(s.ctx, tenant, event, []gate.Use{use("ok", "", 1, 9), u}, when)
			return err
		}
	}
	voting := func(v gate.Vote) func() error {
		return func() error {
			_, err := s.Vote(s.ctx, "acme", a.ID, v, nil)
			return err
		}
	}
	fine := use("l", "", 1, 9)
	for name, f := range map[string]func() error{
		"key without tenant": func() error {
			return s.CreateKey(s.ctx, gate.Key{ID: "k", Role: gate.RoleAdmin, CreatedAt: noon}, hashOf("x"))
		},
		"key without role": func() error {
			return s.CreateKey(s.ctx, gate.Key{ID: "k", TenantID: "acme", CreatedAt: noon}, hashOf("x"))
		},
		"open without tenant":      opening(func(a *gate.Approval) { a.TenantID = "" }),
		"open without fingerprint": opening(func(a *gate.Approval) { a.Fingerprint = "" }),
		"open without end":         opening(func(a *gate.Approval) { a.ExpiresAt = time.Time{} }),
		"open for nobody":          opening(func(a *gate.Approval) { a.Required = 0 }),
		"vote of nothing":          voting(gate.Vote{KeyID: "k", Time: noon}),
		"vote of nobody":           voting(gate.Vote{Decision: "approve", Time: noon}),
		"vote at no time":          voting(gate.Vote{KeyID: "k", Decision: "approve"}),
		"reserve without event":    reserving("acme", "", noon, fine),
		"reserve without tenant":   reserving("", "ev", noon, fine),
		"reserve at no time":       reserving("acme", "ev", time.Time{}, fine),
		"reserve less than zero":   reserving("acme", "ev", noon, use("l", "", -1, 9)),
		"reserve without window":   reserving("acme", "ev", noon, gate.Use{Limit: "l", Amount: 1, Max: 9}),
		"reserve without limit":    reserving("acme", "ev", noon, use("", "", 1, 9)),
		"two windows":              reserving("acme", "ev", noon, gate.Use{Limit: "ok", Amount: 1, Max: 9, Window: time.Minute}),
		"revoke at no time": func() error {
			_, err := s.RevokeKey(s.ctx, "acme", "k", time.Time{})
			return err
		},
		"expire at no time": func() error {
			_, err := s.ExpireApprovals(s.ctx, time.Time{})
			return err
		},
	} {
		if err := f(); !errors.Is(err, s.misuse) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.usage(t, noon, []int64{0}, use("ok", "", 1, 9))
}

// testContext: an error of the context means that nothing was written.
func testContext(t *testing.T, s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	if _, _, err := s.Reserve(ctx, "acme", "ev_1", []gate.Use{use("l", "", 1, 9)}, noon); !errors.Is(err, context.Canceled) {
		t.Errorf("reserve with an ended context: %v", err)
	}
	s.usage(t, noon, []int64{0}, use("l", "", 1, 9))
	if err := s.Ping(s.ctx); err != nil {
		t.Errorf("ping: %v", err)
	}
}
