package storetest

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

func (s *suite) rest(t *testing.T, event string, when time.Time, wantOver int, wantUsed []int64, uses ...gate.Use) {
	t.Helper()
	over, used, err := s.ReserveRest(s.ctx, "acme", event, uses, when)
	if err != nil {
		t.Fatalf("reserve the rest of %s: %v", event, err)
	}
	if over != wantOver {
		t.Errorf("rest of %s: over %d, want %d", event, over, wantOver)
	}
	same(t, "rest of "+event+": used", used, wantUsed)
}

// testReserveRest: an event takes what it has not, and nothing twice.
func testReserveRest(t *testing.T, s *suite) {
	a, b, c := use("a", "", 6, 10), use("b", "", 6, 10), use("c", "", 1, 0)
	s.rest(t, "ev_0", noon, -1, nil)
	s.reserve(t, "ev_1", noon, -1, []int64{0}, a)
	// The other does not fit: nothing is taken, and its own share is not in its way.
	s.rest(t, "ev_1", noon, 2, []int64{0, 0, 0}, a, b, c)
	s.usage(t, noon, []int64{6, 0, 0}, a, b, c)
	s.rest(t, "ev_1", noon, -1, []int64{0, 0}, a, b)
	s.rest(t, "ev_1", noon, -1, []int64{0, 0}, a, b)
	s.usage(t, noon, []int64{6, 6}, a, b)
	// Others count, and a share that one has is no use that does not fit, whatever
	// was lowered since.
	s.rest(t, "ev_2", noon, 1, []int64{0, 6}, use("d", "", 1, 1), b)
	s.reserve(t, "ev_3", noon, -1, []int64{6}, use("a", "", 4, 10))
	s.rest(t, "ev_1", noon, -1, []int64{4}, use("a", "", 6, 5))
	s.rest(t, "ev_1", noon, -1, []int64{0}, use("a", "key", 1, 1)) // another key is another share
	// A limit twice in one call: both the first time, neither again.
	s.rest(t, "ev_4", noon, -1, []int64{0, 5}, use("twice", "", 5, 10), use("twice", "", 5, 10))
	s.rest(t, "ev_4", noon, -1, []int64{0, 0}, use("twice", "", 5, 10), use("twice", "", 5, 10))
	s.usage(t, noon, []int64{10}, use("twice", "", 0, 10))
	// A use of nothing is a share.
	s.rest(t, "ev_5", noon, -1, []int64{0}, use("none", "", 0, 0))
	s.rest(t, "ev_5", noon, -1, []int64{0}, use("none", "", 1, 0))
	if _, used, err := s.ReserveRest(s.ctx, "other", "ev_1", []gate.Use{b}, noon); err != nil || used[0] != 0 {
		t.Errorf("another tenant: %v, %v", used, err)
	}
	if err := s.Release(s.ctx, "acme", "ev_1"); err != nil {
		t.Fatal(err)
	}
	s.usage(t, noon, []int64{4, 0}, a, b)

	// A share that left its window is none any more, in a sliding and in a calendar
	// window.
	hour := noon.Truncate(time.Hour)
	s.reserve(t, "ev_6", hour.Add(59*time.Minute), -1, []int64{0, 0}, use("l", "", 1, 1), hourly("", 1, 1, hour.Add(59*time.Minute)))
	late := hour.Add(119 * time.Minute)
	s.rest(t, "ev_6", late.Add(-time.Microsecond), -1, []int64{0, 0}, use("l", "", 1, 1), hourly("", 1, 1, late))
	s.usage(t, late.Add(-time.Microsecond), []int64{1, 1}, use("l", "", 0, 1), hourly("", 0, 1, late))
	s.rest(t, "ev_6", late, -1, []int64{0, 0}, use("l", "", 1, 1), hourly("", 1, 1, late))
	s.usage(t, late, []int64{1, 1}, use("l", "", 0, 1), hourly("", 0, 1, late))
	if err := s.Release(s.ctx, "acme", "ev_6"); err != nil {
		t.Fatal(err)
	}
	s.usage(t, late, []int64{0, 0}, use("l", "", 0, 1), hourly("", 0, 1, late))

	// However many attempts at one call come at once, each share is taken once.
	s.reserve(t, "ev_7", late, -1, []int64{0}, use("x", "", 1, 100))
	var bad atomic.Int32
	parallel(100, func(i int) {
		over, _, err := s.ReserveRest(s.ctx, "acme", "ev_7", []gate.Use{use("x", "", 1, 100), use("y", "", 1, 100)}, late)
		if err != nil || over != -1 {
			bad.Add(1)
		}
	})
	if bad.Load() > 0 {
		t.Errorf("%d attempts were refused", bad.Load())
	}
	s.usage(t, late, []int64{1, 1}, use("x", "", 0, 1), use("y", "", 0, 1))
}

// testSweptRest: what a store forgets of old uses, while others are counted, is no
// more in the sum of a key that rested meanwhile.
func testSweptRest(t *testing.T, s *suite) {
	use := func(key string, amount int64) []gate.Use {
		return []gate.Use{{Limit: "l", Key: key, Amount: amount, Max: 1 << 40, Window: 24 * time.Hour}}
	}
	used := func(event, key string, amount int64, when time.Duration) int64 {
		t.Helper()
		over, before, err := s.Reserve(s.ctx, "acme", event, use(key, amount), at(when))
		if err != nil || over >= 0 {
			t.Fatalf("%s: over %d, %v", event, over, err)
		}
		return before[0]
	}
	used("ev_1", "rests", 5, 0)
	used("ev_2", "rests", 3, 10*time.Hour)
	used("ev_3", "long gone", 7, 0)
	for i := range 200 { // enough for any store to tidy up
		used(fmt.Sprint("ev_b", i), "busy", 1, 30*time.Hour)
	}
	for key, want := range map[string]int64{"rests": 3, "long gone": 0} {
		got, err := s.Usage(s.ctx, "acme", use(key, 0), at(30*time.Hour))
		if err != nil || got[0] != want {
			t.Errorf("looked at: %s has %v, want %d, %v", key, got, want, err)
		}
		if got := used("ev_4"+key, key, 1, 30*time.Hour); got != want {
			t.Errorf("reserved: %s has %d, want %d", key, got, want)
		}
	}
	if got := used("ev_5", "rests", 1, 35*time.Hour); got != 1 {
		t.Errorf("later: %d, want 1", got)
	}
}
