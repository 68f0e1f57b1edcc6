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
	// By turns, so that both are held to everything.
	reserve := s.Reserve
	if s.soon = !s.soon; s.soon {
		reserve = func(ctx context.Context, tenant, eventID string, uses []gate.Use, now time.Time) (int, []int64, error) {
			over, used, settled, err := s.ReserveSoon(ctx, tenant, eventID, uses, now)
			if err != nil {
				return over, used, err
			}
			return over, used, errors.Join(settled(), settled())
		}
	}
	over, used, err := reserve(s.ctx, "acme", event, uses, when)
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

// testClockSetBack: a clock that is set back never makes room and never counts
// a use for longer, and a small step back, as between two callers, changes
// nothing.
func testClockSetBack(t *testing.T, s *suite) {
	s.reserve(t, "ev_0", at(9*time.Hour+20*time.Minute), -1, []int64{0}, use("l", "k", 1, 20))
	s.reserve(t, "ev_1", at(10*time.Hour), -1, []int64{1}, use("l", "k", 10, 20))
	s.reserve(t, "ev_2", at(10*time.Hour-time.Millisecond), -1, []int64{11}, use("l", "k", 5, 20))
	s.reserve(t, "ev_3", at(10*time.Hour), -1, []int64{16}, use("l", "k", 1, 20))
	s.usage(t, at(0), []int64{17}, use("l", "k", 0, 20))
	s.reserve(t, "ev_4", at(0), 0, []int64{17}, use("l", "k", 5, 20))
	s.reserve(t, "ev_5", at(time.Minute), -1, []int64{17}, use("l", "k", 3, 20))
	s.reserve(t, "ev_6", at(2*time.Minute), 0, []int64{20}, use("l", "k", 1, 20))
	// The first was 40 minutes old when the clock was set, and leaves 20 minutes
	// after that; those of that moment, a whole window after it.
	s.usage(t, at(20*time.Minute-time.Microsecond), []int64{20}, use("l", "k", 0, 20))
	s.usage(t, at(20*time.Minute), []int64{19}, use("l", "k", 0, 20))
	s.usage(t, at(time.Hour), []int64{3}, use("l", "k", 0, 20))
	s.reserve(t, "ev_7", at(90*time.Minute), -1, []int64{0}, use("l", "k", 20, 20))
	// Set back by less than a window: what had left does not come back.
	s.reserve(t, "ev_8", at(151*time.Minute), -1, []int64{0}, use("l", "k", 20, 20))
	s.reserve(t, "ev_9", at(120*time.Minute), 0, []int64{20}, use("l", "k", 1, 20))
	s.usage(t, at(180*time.Minute), []int64{0}, use("l", "k", 0, 20))
}

// hourly is a use of a calendar window that begins with each hour.
func hourly(key string, amount, most int64, when time.Time) gate.Use {
	u := use("h", key, amount, most)
	u.Since = when.Truncate(time.Hour)
	return u
}

func testCalendarWindow(t *testing.T, s *suite) {
	one := at(0).Truncate(time.Hour)
	for i, c := range []struct {
		when time.Duration
		used int64
		over int
	}{
		{0, 0, -1},
		{time.Minute, 5, -1},
		{time.Hour - time.Microsecond, 10, 0},
		{time.Hour, 0, -1}, // a use at the very beginning counts in the new one
		{time.Hour + 1, 5, -1},
		{time.Hour - time.Millisecond, 20, 0}, // another caller is a little behind
		{2*time.Hour + time.Minute, 0, -1},    // nothing is left of the old hour
		{time.Hour + 59*time.Minute, 15, 0},   // set back across the hour: both count
		{2*time.Hour + 10*time.Minute, 0, -1}, // and neither in the hour that comes again
		{30 * 24 * time.Hour, 0, -1},
	} {
		when := one.Add(c.when)
		u := hourly("k", 5, 10, when)
		s.usage(t, when, []int64{c.used}, u)
		s.reserve(t, fmt.Sprintf("ev_%d", i), when, c.over, []int64{c.used}, u)
	}
	// The policy now slides, and then not any more.
	when := one.Add(30*24*time.Hour + 30*time.Minute)
	s.reserve(t, "ev_s", when, -1, []int64{5}, use("h", "k", 1, 10))
	when = when.Add(31 * time.Minute)
	s.reserve(t, "ev_t", when, -1, []int64{1}, use("h", "k", 1, 10))
	s.reserve(t, "ev_u", when, -1, []int64{1}, hourly("k", 1, 10, when))
}

func testForce(t *testing.T, s *suite) {
	forced := func(u gate.Use) gate.Use { u.Force = true; return u }
	s.reserve(t, "ev_1", noon, -1, []int64{0}, use("l", "k", 8, 10))
	s.reserve(t, "ev_2", noon, -1, []int64{8}, forced(use("l", "k", 5, 10)))
	s.reserve(t, "ev_3", noon, 0, []int64{13}, use("l", "k", 1, 10))
	// One that is not forced still has to fit.
	s.reserve(t, "ev_4", noon, 1, []int64{13, 0}, forced(use("l", "k", 5, 10)), use("m", "k", 2, 1))
	s.usage(t, noon, []int64{13}, use("l", "k", 0, 10))
	if err := s.Release(s.ctx, "acme", "ev_2"); err != nil {
		t.Fatal(err)
	}
	s.reserve(t, "ev_5", noon, -1, []int64{8}, use("l", "k", 2, 10))
	// What does not fit into a sum would make it negative.
	s.reserve(t, "ev_6", noon, 0, []int64{10}, forced(use("l", "k", math.MaxInt64, 10)))
	s.reserve(t, "ev_7", noon, 1, []int64{10, 1<<62 + 10}, forced(use("l", "k", 1<<62, 10)), forced(use("l", "k", 1<<62, 10)))
}

func (s *suite) held(t *testing.T, u gate.Use, after string, limit int, when time.Time, want ...gate.Held) {
	t.Helper()
	got, err := s.Held(s.ctx, "acme", u, after, limit, when)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "held "+u.Limit, got, want)
}

func testHeld(t *testing.T, s *suite) {
	all := use("l", "", 0, 10)
	s.held(t, all, "", 0, noon)
	s.reserve(t, "ev_1", at(0), -1, []int64{0, 0, 0}, use("l", `["b"]`, 2, 10), use("l", `["a"]`, 1, 10), use("l2", `["a"]`, 9, 10))
	s.reserve(t, "ev_2", at(10*time.Minute), -1, []int64{2, 0}, use("l", `["b"]`, 3, 10), use("l", `["c"]`, 0, 10))
	if _, _, err := s.Reserve(s.ctx, "other", "ev_1", []gate.Use{use("l", `["a"]`, 7, 10)}, noon); err != nil {
		t.Fatal(err)
	}
	a := gate.Held{Key: `["a"]`, Used: 1, First: stamp(0), Last: stamp(0)}
	b := gate.Held{Key: `["b"]`, Used: 5, First: stamp(0), Last: stamp(10 * time.Minute)}
	s.held(t, all, "", 0, at(10*time.Minute), a, b)
	s.held(t, all, "", 1, at(10*time.Minute), a)
	latest, err := s.Reservations(s.ctx, 3)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "reservations", latest, []gate.Reserved{
		{TenantID: "other", EventID: "ev_1", Limit: "l", Key: `["a"]`, Amount: 7},
		{TenantID: "acme", EventID: "ev_2", Limit: "l", Key: `["c"]`},
		{TenantID: "acme", EventID: "ev_2", Limit: "l", Key: `["b"]`, Amount: 3},
	})
	s.held(t, all, `["a"]`, 1, at(10*time.Minute), b)
	s.held(t, all, `["b"]`, 1, at(10*time.Minute))
	s.held(t, use("l", `["b"]`, 0, 10), "", 5, at(10*time.Minute), b)
	s.held(t, use("l", `["none"]`, 0, 10), "", 5, at(10*time.Minute))
	late := b
	late.Used, late.First = 3, b.Last
	s.held(t, all, "", 0, at(time.Hour), late)
	// The clock was set back by an hour and ten minutes.
	back := b
	back.First, back.Last = stamp(-70*time.Minute), stamp(-time.Hour)
	s.held(t, use("l", `["b"]`, 0, 10), "", 0, at(-time.Hour), back)

	reset := func(u gate.Use, want ...gate.Held) {
		t.Helper()
		got, err := s.ResetLimit(s.ctx, "acme", u, at(10*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		same(t, "reset", got, want)
	}
	reset(use("l", `["none"]`, 0, 10))
	reset(use("l", `["b"]`, 0, 10), b)
	s.held(t, all, "", 0, at(10*time.Minute), a)
	s.reserve(t, "ev_3", at(10*time.Minute), -1, []int64{0}, use("l", `["b"]`, 10, 10))
	// What was forgotten is not given back.
	if err := s.Release(s.ctx, "acme", "ev_2"); err != nil {
		t.Fatal(err)
	}
	s.usage(t, at(10*time.Minute), []int64{10, 9}, use("l", `["b"]`, 0, 10), use("l2", `["a"]`, 0, 10))
	reset(all, a, gate.Held{Key: `["b"]`, Used: 10, First: stamp(10 * time.Minute), Last: stamp(10 * time.Minute)})
	s.held(t, all, "", 0, at(10*time.Minute))
	s.usage(t, at(10*time.Minute), []int64{0, 9}, use("l", `["b"]`, 0, 10), use("l2", `["a"]`, 0, 10))
	if used, err := s.Usage(s.ctx, "other", []gate.Use{use("l", `["a"]`, 0, 10)}, noon); err != nil || used[0] != 7 {
		t.Errorf("another tenant's limit was reset: %v, %v", used, err)
	}
}

// stamp is a time as a store gives it back.
func stamp(d time.Duration) time.Time { return at(d).Truncate(time.Microsecond) }

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
			_, _, err := s.OpenApproval(s.ctx, q, room(100))
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
		"rest without event": func() error {
			_, _, err := s.ReserveRest(s.ctx, "acme", "", []gate.Use{fine}, noon)
			return err
		},
		"reserve without event":  reserving("acme", "", noon, fine),
		"reserve without tenant": reserving("", "ev", noon, fine),
		"reserve at no time":     reserving("acme", "ev", time.Time{}, fine),
		"reserve less than zero": reserving("acme", "ev", noon, use("l", "", -1, 9)),
		"reserve without window": reserving("acme", "ev", noon, gate.Use{Limit: "l", Amount: 1, Max: 9}),
		"reserve without limit":  reserving("acme", "ev", noon, use("", "", 1, 9)),
		"window from the future": reserving("acme", "ev", noon, gate.Use{Limit: "l", Amount: 1, Max: 9, Window: time.Hour, Since: noon.Add(1)}),
		"window from the past":   reserving("acme", "ev", noon, gate.Use{Limit: "l", Amount: 1, Max: 9, Window: time.Hour, Since: noon.Add(-time.Hour - 1)}),
		"two beginnings":         reserving("acme", "ev", noon, gate.Use{Limit: "ok", Amount: 1, Max: 9, Window: time.Hour, Since: noon}),
		"two windows":            reserving("acme", "ev", noon, gate.Use{Limit: "ok", Amount: 1, Max: 9, Window: time.Minute}),
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
