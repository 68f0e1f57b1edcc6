package storetest

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

func testPassports(t *testing.T, s *suite) {
	soon := time.Now().Add(time.Hour)
	state := func(jti, usedBy string, revoked bool) {
		t.Helper()
		u, r, err := s.PassportState(s.ctx, "acme", jti)
		if err != nil || u != usedBy || r != revoked {
			t.Errorf("%s: %q %v %v, want %q %v", jti, u, r, err, usedBy, revoked)
		}
	}
	check := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	state("ap_1", "", false)
	check(s.ClaimPassport(s.ctx, "acme", "ap_1", "ev_1", noon, soon), nil)
	state("ap_1", "ev_1", false)
	check(s.ClaimPassport(s.ctx, "acme", "ap_1", "ev_1", noon, soon), nil)
	check(s.ClaimPassport(s.ctx, "acme", "ap_1", "ev_2", noon, soon), gate.ErrIllegalState)
	check(s.ClaimPassport(s.ctx, "other", "ap_1", "ev_2", noon, soon), nil)
	check(s.ReleasePassport(s.ctx, "acme", "ap_1", "ev_2"), nil)
	state("ap_1", "ev_1", false)
	check(s.ReleasePassport(s.ctx, "acme", "ap_1", "ev_1"), nil)
	state("ap_1", "", false)
	check(s.ClaimPassport(s.ctx, "acme", "ap_1", "ev_2", noon, soon), nil)
	check(s.RevokePassport(s.ctx, "acme", "ap_1", "lost", time.Now(), soon), nil)
	state("ap_1", "ev_2", true)
	check(s.RevokePassport(s.ctx, "acme", "ap_2", "lost", time.Now(), soon), nil)
	check(s.RevokePassport(s.ctx, "acme", "ap_2", "again", time.Now(), soon), nil)
	check(s.ClaimPassport(s.ctx, "acme", "ap_2", "ev_3", noon, soon), gate.ErrRevoked)
	check(s.ReleasePassport(s.ctx, "acme", "ap_9", "ev_3"), nil)
	// Uses and revocations outlive their passport by days: the clock that says that
	// it has ended may be set back.
	for jti, want := range map[string]error{"ap_used": gate.ErrIllegalState, "ap_gone": gate.ErrRevoked} {
		ended := time.Now().Add(-6 * 24 * time.Hour)
		if want == gate.ErrRevoked {
			check(s.RevokePassport(s.ctx, "acme", jti, "lost", ended, ended), nil)
		} else {
			check(s.ClaimPassport(s.ctx, "acme", jti, "ev_1", noon, ended), nil)
		}
		check(s.ClaimPassport(s.ctx, "acme", "ap_next"+jti, "ev_1", noon, soon), nil) // forgets what may be
		check(s.ClaimPassport(s.ctx, "acme", jti, "ev_2", noon, soon), want)
	}

	var wg sync.WaitGroup
	var won atomic.Int64
	for i := range 64 {
		wg.Go(func() {
			err := s.ClaimPassport(s.ctx, "acme", "ap_race", "ev_race"+string(rune('A'+i)), noon, soon)
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, gate.ErrIllegalState):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 64 concurrent claims of one passport won", won.Load())
	}
}
