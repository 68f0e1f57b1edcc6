package gate_test

import (
	"context"
	"sync"
	"testing"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/passport"
)

// unseen is a store in which a use or revocation comes after a call has looked,
// and before it claims.
type unseen struct{ gate.Store }

func (unseen) PassportState(context.Context, string, string) (string, bool, error) {
	return "", false, nil
}

// replica is another gate on the same store, with the same rules and clock.
func (f *fixture) replica(t testing.TB) *fixture {
	t.Helper()
	return f.over(t, f.store)
}

// hide puts the fixture on an unseen store.
func (f *fixture) hide(t testing.TB) {
	t.Helper()
	f.Gate = f.over(t, unseen{f.store}).Gate
}

func (f *fixture) over(t testing.TB, s gate.Store) *fixture {
	t.Helper()
	g, err := gate.New(gate.Options{Store: s, Recorder: f.rec, RedactKey: make([]byte, 32), Now: f.time})
	if err != nil {
		t.Fatal(err)
	}
	g.Load(f.rules)
	return &fixture{Gate: g, rec: f.rec, store: f.store, rules: f.rules, now: f.now}
}

// TestALostClaimKeepsNoShare: a call that loses its passport to another one has
// reserved its limits already, and gives them back, at every door.
func TestALostClaimKeepsNoShare(t *testing.T) {
	for _, door := range []string{"traffic", "preflight"} {
		f := newLimited(t, hardDay)
		f.hide(t)
		withAuthority(f)
		p := f.issue(t, wish())
		if err := f.RevokePassport(t.Context(), admin, p.ID, ""); err != nil {
			t.Fatal(err)
		}
		code := ""
		if door == "traffic" {
			if _, ref := f.Check(t.Context(), f.with(p.Token, "4900")); ref != nil {
				code = ref.Decision.ReasonCode
			}
		} else {
			d, _, err := f.Preflight(t.Context(), admin, gate.Preflight{
				Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", Args: map[string]any{"amount": int64(4900), "currency": "usd"},
				AgentID: "support_agent", Passport: p.Token, Intent: gate.IntentExecute,
			})
			if err != nil {
				t.Fatal(err)
			}
			code = d.ReasonCode
		}
		if code != passport.ReasonRevoked || f.used(t, "most") != 0 {
			t.Errorf("%s: %q, and %d are used", door, code, f.used(t, "most"))
		}
	}
}

// TestAnApprovalUsedInVainKeepsNoShare: the approval of a held call is used, and
// then its own passport turns out to be revoked: nothing was sent.
func TestAnApprovalUsedInVainKeepsNoShare(t *testing.T) {
	f := newLimited(t, hardDay)
	f.hide(t)
	withAuthority(f)
	n := wish()
	p := f.issue(t, n)
	_, ref := f.Check(t.Context(), f.with(p.Token, "6000"))
	if ref == nil || ref.Approval == "" || f.used(t, "most") != 6000 {
		t.Fatalf("%+v", ref)
	}
	if err := f.RevokePassport(t.Context(), admin, p.ID, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Decide(t.Context(), approver, ref.Approval, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	permit, ref := f.Check(t.Context(), f.with(p.Token, "6000"))
	if permit != nil || ref.Decision.ReasonCode != passport.ReasonRevoked || f.used(t, "most") != 0 {
		t.Errorf("%+v, and %d are used", ref, f.used(t, "most"))
	}
}

// TestOnePassportManyReplicas: gates that share a store let one call through.
func TestOnePassportManyReplicas(t *testing.T) {
	f := withAuthority(newGate(t, "strict", nil))
	p := f.issue(t, wish())
	replicas := []*fixture{f}
	for range 3 {
		replicas = append(replicas, withAuthority(f.replica(t)))
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	codes := map[string]int{}
	for i := range 32 {
		wg.Go(func() {
			_, ref := replicas[i%len(replicas)].Check(context.Background(), f.with(p.Token, "100"))
			mu.Lock()
			defer mu.Unlock()
			if ref == nil {
				codes["sent"]++
			} else {
				codes[ref.Decision.ReasonCode]++
			}
		})
	}
	wg.Wait()
	if codes["sent"] != 1 || codes[passport.ReasonReplayed] != 31 {
		t.Errorf("%v", codes)
	}
}

// BenchmarkVerifiedBefore is a passport that was verified before: times, use and
// revocation are still looked at. Below 3 microseconds.
func BenchmarkVerifiedBefore(b *testing.B) {
	f := withAuthority(newGate(b, "strict", nil))
	p := f.issue(b, wish())
	for b.Loop() {
		if _, err := f.VerifyPassport(b.Context(), admin, p.Token, ""); err != nil {
			b.Fatal(err)
		}
	}
}
