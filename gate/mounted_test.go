package gate_test

import (
	"crypto/ed25519"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/passport"
	"github.com/actpass/sidecar/store"
)

// mount makes token the mounted passport.
func (f *fixture) mount(token string) {
	f.SetAuthority(&gate.Authority{
		Issuer: "actpass", Audience: "actpass", Mounted: token,
		Keys: []passport.Key{{ID: "k1", Private: ed25519.NewKeyFromSeed([]byte(strings.Repeat("s", 32)))}},
	})
}

func TestMountedPassport(t *testing.T) {
	f := withAuthority(newGate(t, "strict", nil))
	p := f.issue(t, wish())
	f.mount(p.Token)

	// Over its amount it is no passport, and it is not used up by that.
	_, ref := f.Check(t.Context(), f.refund("25000"))
	if ref == nil || ref.Decision.ReasonCode != gate.ReasonPassport {
		t.Fatalf("%+v", ref)
	}
	e := f.rec.actions(t)[0]
	if !strings.Contains(strings.Join(e.Notes, " "), passport.ReasonConstraint) || e.PassportJTI != "" || e.IdentitySource == "passport" {
		t.Errorf("%+v", e)
	}
	permit, ref := f.Check(t.Context(), f.refund("4900"))
	if permit == nil {
		t.Fatalf("%+v", ref)
	}
	permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
	if e = f.rec.actions(t)[1]; e.PassportJTI != p.ID || e.IdentitySource != "passport" || e.UserID != "user_9" {
		t.Errorf("%+v", e)
	}
	if _, ref = f.Check(t.Context(), f.refund("4900")); ref == nil || ref.Decision.ReasonCode != gate.ReasonPassport {
		t.Errorf("a second call under it: %+v", ref)
	}
	next := f.issue(t, wish())
	f.mount(next.Token)
	if permit, ref = f.Check(t.Context(), f.refund("4900")); permit == nil {
		t.Errorf("the next one: %+v", ref)
	}
	// The agent's own word goes first, also when it is a bad one.
	f.mount(f.issue(t, wish()).Token)
	if _, ref = f.Check(t.Context(), f.with("nonsense", "4900")); ref == nil || ref.Decision.ReasonCode != passport.ReasonMalformed {
		t.Errorf("%+v", ref)
	}
}

// TestMountedPassportIsNotPresented: under enforce nobody needs a passport, and
// one that is no good but was not shown blocks nothing.
func TestMountedPassportIsNotPresented(t *testing.T) {
	f := withAuthority(newGate(t, "enforce", nil))
	p := f.issue(t, wish())
	for name, spoil := range map[string]func(){
		"nonsense": func() { f.mount("nonsense") },
		"revoked": func() {
			f.mount(p.Token)
			if err := f.RevokePassport(t.Context(), admin, p.ID, ""); err != nil {
				t.Fatal(err)
			}
		},
		"expired": func() { f.mount(f.issue(t, wish()).Token); f.now = f.now.Add(time.Hour) },
	} {
		spoil()
		permit, ref := f.Check(t.Context(), f.refund("4900"))
		if permit == nil {
			t.Fatalf("%s: %+v", name, ref)
		}
		permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
	}
}

func TestThePreflightTakesNoMountedPassport(t *testing.T) {
	f := withAuthority(newGate(t, "strict", nil))
	f.mount(f.issue(t, wish()).Token)
	d, refused, err := f.Preflight(t.Context(), gate.Identity{TenantID: "acme", Role: gate.RoleGateway}, gate.Preflight{
		Tool: "stripe.refund.create", Resource: "stripe:charge:ch_123", Args: map[string]any{"amount": int64(4900), "currency": "usd"}, AgentID: "support_agent",
	})
	if err != nil || !refused || d.ReasonCode != gate.ReasonPassport {
		t.Errorf("%+v %v %v", d, refused, err)
	}
}

// TestAnApprovalsPassportAtThePreflight: there are no bytes to hold it against,
// so the arguments must be those that were approved.
func TestAnApprovalsPassportAtThePreflight(t *testing.T) {
	for _, mode := range []string{"enforce", "strict"} {
		f := withAuthority(newGate(t, "enforce", nil))
		_, held := f.Check(t.Context(), f.refund("25000"))
		a, err := f.Decide(t.Context(), approver, held.Approval, gate.Approve, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := f.PassportFor(t.Context(), approver, a)
		if err != nil {
			t.Fatal(err)
		}
		args := func(amount int64) map[string]any {
			m := map[string]any{}
			for k, v := range a.Args {
				m[k] = v
			}
			m["amount"] = amount
			return m
		}
		for amount, code := range map[int64]string{25000: "", 25001: passport.ReasonRequest, 100: passport.ReasonRequest, 40000: passport.ReasonRequest} {
			d, refused, err := f.Preflight(t.Context(), gate.Identity{TenantID: "acme", Role: gate.RoleGateway}, gate.Preflight{
				Tool: "stripe.refund.create", Resource: a.Resource, Args: args(amount), AgentID: "support_agent", Passport: p.Token, Mode: mode,
			})
			if err != nil || refused != (code != "") || refused && d.ReasonCode != code {
				t.Errorf("%s, amount %d: %+v %v %v", mode, amount, d, refused, err)
			}
		}
	}
}

// TestAMountedPassportThatCannotBeClaimed: the call presented nothing, so only
// the mode that needs a passport refuses it.
func TestAMountedPassportThatCannotBeClaimed(t *testing.T) {
	for mode, sent := range map[string]bool{"monitor": true, "enforce": true, "strict": false} {
		f := withAuthority(newGate(t, mode, nil))
		f.mount(f.issue(t, wish()).Token)
		f.store.Fail("ClaimPassport", store.Fails)
		permit, ref := f.Check(t.Context(), f.refund("4900"))
		if (permit != nil) != sent {
			t.Errorf("%s: %+v", mode, ref)
		}
		if e := f.rec.actions(t)[0]; sent && e.PassportJTI != "" {
			t.Errorf("%s: the event names a passport that was not used: %+v", mode, e)
		}
	}
}

// TestOneMountedPassportManyCalls: one call of many gets it.
func TestOneMountedPassportManyCalls(t *testing.T) {
	f := withAuthority(newGate(t, "strict", nil))
	f.mount(f.issue(t, wish()).Token)
	var won atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if permit, _ := f.Check(t.Context(), f.refund("100")); permit != nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d calls under one passport", won.Load())
	}
}
