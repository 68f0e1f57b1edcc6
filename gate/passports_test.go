package gate_test

import (
	"crypto/ed25519"
	"errors"
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

var admin = gate.Identity{TenantID: "acme", KeyID: "key_root", Name: "root", Role: gate.RoleAdmin, Source: gate.SourceKey}

func withAuthority(f *fixture) *fixture {
	f.SetAuthority(&gate.Authority{
		Issuer: "actpass", Audience: "actpass",
		Keys: []passport.Key{{ID: "k1", Private: ed25519.NewKeyFromSeed([]byte(strings.Repeat("s", 32)))}},
	})
	return f
}

func wish() gate.NewPassport {
	return gate.NewPassport{
		AgentID: "support_agent", UserID: "user_9", Goal: "refund", AllowedTools: []string{"stripe.refund.create"},
		AllowedResources: []string{"stripe:charge:*"}, ResourceConstraints: map[string]any{"max_amount": int64(10000), "currency": "usd"},
	}
}

func (f *fixture) issue(t testing.TB, n gate.NewPassport) gate.Issued {
	t.Helper()
	got, err := f.IssuePassport(t.Context(), admin, n)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func (f *fixture) with(token, amount string) *gate.Request {
	r := f.refund(amount)
	r.Passport = token
	return r
}

func TestStrictWithPassport(t *testing.T) {
	f := withAuthority(newGate(t, "strict", nil))
	p := f.issue(t, wish())
	permit, ref := f.Check(t.Context(), f.with(p.Token, "4900"))
	if permit == nil {
		t.Fatalf("%+v", ref)
	}
	permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
	e := f.rec.actions(t)[0]
	if e.PassportJTI != p.ID || e.IdentitySource != "passport" || e.UserID != "user_9" || e.Goal != "refund" {
		t.Errorf("%+v", e)
	}
	_, ref = f.Check(t.Context(), f.with(p.Token, "4900"))
	if ref == nil || ref.Decision.ReasonCode != passport.ReasonReplayed {
		t.Errorf("a second use: %+v", ref)
	}
}

func TestPassportIsGivenBackWhenNothingWasSent(t *testing.T) {
	f := withAuthority(newGate(t, "strict", nil))
	p := f.issue(t, wish())
	permit, _ := f.Check(t.Context(), f.with(p.Token, "4900"))
	permit.Done(gate.Outcome{State: evidence.StateRefused, Error: "no connection"})
	if permit, ref := f.Check(t.Context(), f.with(p.Token, "4900")); permit == nil {
		t.Errorf("%+v", ref)
	}
	// A block does not use it either.
	p = f.issue(t, wish())
	if permit, _ := f.Check(t.Context(), f.with(p.Token, "25000")); permit != nil {
		t.Error("over its amount")
	}
	if permit, ref := f.Check(t.Context(), f.with(p.Token, "100")); permit == nil {
		t.Errorf("%+v", ref)
	}
}

func TestEveryWayAPassportIsWrong(t *testing.T) {
	tests := map[string]struct {
		edit   func(*gate.NewPassport)
		req    func(*gate.Request)
		before func(*fixture, gate.Issued)
		code   string
	}{
		"tool":       {edit: func(n *gate.NewPassport) { n.AllowedTools = []string{"stripe.payout.*"} }, code: passport.ReasonTool},
		"resource":   {edit: func(n *gate.NewPassport) { n.AllowedResources = []string{"stripe:charge:ch_2"} }, code: passport.ReasonResource},
		"constraint": {edit: func(n *gate.NewPassport) { n.ResourceConstraints["max_amount"] = int64(100) }, code: passport.ReasonConstraint},
		"risk":       {edit: func(n *gate.NewPassport) { n.RiskTier = "medium" }, code: passport.ReasonRisk},
		"audience":   {edit: func(n *gate.NewPassport) { n.Audience = "elsewhere" }, code: passport.ReasonAudience},
		"agent":      {edit: func(n *gate.NewPassport) { n.AgentID = "other" }, code: passport.ReasonAgent},
		"tenant":     {req: func(r *gate.Request) { r.Identity.TenantID = "evil" }, code: passport.ReasonTenant},
		"expired": {
			before: func(f *fixture, _ gate.Issued) { f.now = f.now.Add(5*time.Minute + 6*time.Second) }, code: passport.ReasonExpired,
		},
		"revoked": {before: func(f *fixture, p gate.Issued) {
			if err := f.RevokePassport(t.Context(), admin, p.ID, "lost"); err != nil {
				t.Fatal(err)
			}
		}, code: passport.ReasonRevoked},
		"tampered": {req: func(r *gate.Request) { r.Passport = r.Passport[:len(r.Passport)-8] + "AAAAAAAA" }, code: passport.ReasonSignature},
		"rotated away": {before: func(f *fixture, _ gate.Issued) {
			f.SetAuthority(&gate.Authority{Issuer: "actpass", Audience: "actpass", Keys: []passport.Key{{ID: "k2", Private: ed25519.NewKeyFromSeed(make([]byte, 32))}}})
		}, code: passport.ReasonKey},
		"another request": {edit: func(n *gate.NewPassport) { n.ApprovalHash = "00" }, code: passport.ReasonRequest},
	}
	for name, tt := range tests {
		for _, mode := range []string{"monitor", "enforce", "strict"} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				f := withAuthority(newGate(t, mode, nil))
				n := wish()
				if tt.edit != nil {
					tt.edit(&n)
				}
				p := f.issue(t, n)
				if tt.before != nil {
					tt.before(f, p)
				}
				r := f.with(p.Token, "4900")
				if tt.req != nil {
					tt.req(r)
				}
				permit, ref := f.Check(t.Context(), r)
				if mode == "monitor" {
					if permit == nil {
						t.Fatalf("monitor blocks: %+v", ref)
					}
					a := f.rec.actions(t)
					if e := a[len(a)-1]; !strings.Contains(strings.Join(e.Notes, " "), tt.code) || e.Would["enforce"] != "block" {
						t.Errorf("%+v", e)
					}
					return
				}
				if ref == nil || ref.Decision.ReasonCode != tt.code || ref.Status != 403 {
					t.Fatalf("want %s, got %+v", tt.code, ref)
				}
			})
		}
	}
}

func TestOnePassportOneCall(t *testing.T) {
	f := withAuthority(newGate(t, "strict", nil))
	p := f.issue(t, wish())
	var won atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if permit, _ := f.Check(t.Context(), f.with(p.Token, "100")); permit != nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d calls under one passport", won.Load())
	}
}

func TestApprovalMintsAPassport(t *testing.T) {
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
	if _, ref := f.Check(t.Context(), f.with(p.Token, "25001")); ref == nil || ref.Decision.ReasonCode != passport.ReasonRequest {
		t.Errorf("another amount under the approval's passport: %+v", ref)
	}
	permit, ref := f.Check(t.Context(), f.with(p.Token, "25000"))
	if permit == nil {
		t.Fatalf("%+v", ref)
	}
	if !permit.Outbound().Once || !permit.Outbound().Counted {
		t.Error("an approved call may be sent twice by what is below")
	}
	permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
	if _, ref := f.Check(t.Context(), f.with(p.Token, "25000")); ref == nil {
		t.Error("the passport was used twice")
	}
	if _, ref := f.Check(t.Context(), f.refund("25000")); ref == nil || ref.Decision.ReasonCode != gate.ReasonConsumed {
		t.Errorf("the approval was used by its passport, and then again: %+v", ref)
	}
}

func TestWhoMayIssue(t *testing.T) {
	f := withAuthority(newGate(t, "strict", nil))
	for _, role := range []string{gate.RoleGateway, gate.RoleApprover, ""} {
		if _, err := f.IssuePassport(t.Context(), gate.Identity{TenantID: "acme", KeyID: "k", Role: role}, wish()); !errors.Is(err, gate.ErrNotAllowed) {
			t.Errorf("role %q: %v", role, err)
		}
	}
	n := wish()
	n.ResourceConstraints = map[string]any{"max_amonut": int64(1)}
	var field *gate.FieldError
	if _, err := f.IssuePassport(t.Context(), admin, n); !errors.As(err, &field) || field.Field != "resource_constraints" {
		t.Errorf("%v", err)
	}
}

func TestExecuteUsesThePassport(t *testing.T) {
	f := withAuthority(newGate(t, "strict", nil))
	ask := func(token, intent string) evidence.Decision {
		t.Helper()
		d, _, err := f.Preflight(t.Context(), admin, gate.Preflight{
			Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", Args: map[string]any{"amount": int64(100), "currency": "usd"},
			AgentID: "support_agent", Passport: token, Intent: intent,
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	p := f.issue(t, wish())
	for range 2 { // a question uses nothing
		if d := ask(p.Token, ""); d.Decision != "allow" || d.Enforcement != "none" {
			t.Fatalf("%+v", d)
		}
	}
	if d := ask(p.Token, gate.IntentExecute); d.Decision != "allow" {
		t.Fatalf("%+v", d)
	}
	if d := ask(p.Token, gate.IntentExecute); d.ReasonCode != passport.ReasonReplayed || d.Enforcement != "block" {
		t.Errorf("a second execution: %+v", d)
	}
	if d := ask(p.Token, ""); d.ReasonCode != passport.ReasonReplayed {
		t.Errorf("asked again after its use: %+v", d)
	}
}

func TestPassportExpiresWhileHeld(t *testing.T) {
	f := withAuthority(newGate(t, "strict", longHold))
	n := wish()
	n.ResourceConstraints = nil
	p := f.issue(t, n)
	out := f.held(t, f.with(p.Token, "25000"))
	a := f.pending(t)
	f.later(6 * time.Minute)
	if _, err := f.Decide(t.Context(), approver, a.ID, gate.Approve, "", nil); err != nil {
		t.Fatal(err)
	}
	if got := <-out; got.refusal == nil || got.refusal.Decision.ReasonCode != passport.ReasonExpired {
		t.Errorf("%+v", got.refusal)
	}
}

// TestWhatWasIssuedIsListed: each passport with who issued it and what became of it,
// in its own tenant, to those who read the record; and none is given out that could
// not be listed.
func TestWhatWasIssuedIsListed(t *testing.T) {
	f := withAuthority(newGate(t, "enforce", nil))
	used, gone := f.issue(t, wish()), f.issue(t, wish())
	permit, ref := f.Check(t.Context(), f.with(used.Token, "4900"))
	if permit == nil {
		t.Fatalf("%+v", ref)
	}
	permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
	if err := f.RevokePassport(t.Context(), admin, gone.ID, "lost"); err != nil {
		t.Fatal(err)
	}
	// The passport of an approval is used when the held call's own retry is.
	_, held := f.Check(t.Context(), f.refund("25000"))
	a, err := f.Decide(t.Context(), approver, held.Approval, gate.Approve, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	minted, err := f.PassportFor(t.Context(), approver, a)
	if err != nil {
		t.Fatal(err)
	}
	list := func(actor gate.Identity, q gate.PassportQuery) map[string]gate.Passport {
		t.Helper()
		l, _, err := f.Passports(t.Context(), actor, q)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]gate.Passport{}
		for _, p := range l {
			out[p.ID] = p
		}
		return out
	}
	if l := list(approver, gate.PassportQuery{State: gate.PassportLive}); len(l) != 1 || l[minted.ID].ApprovalID != a.ID || l[minted.ID].KeyID != approver.KeyID || l[minted.ID].ApprovalHash == "" {
		t.Errorf("%+v", l)
	}
	if permit, ref = f.Check(t.Context(), f.refund("25000")); permit == nil {
		t.Fatalf("%+v", ref)
	}
	permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
	l := list(admin, gate.PassportQuery{})
	p := l[used.ID]
	if len(l) != 3 || p.UsedBy == "" || !p.UsedAt.Equal(f.now) || p.KeyID != admin.KeyID || p.KeyName != admin.Name || p.UserID != "user_9" || p.Constraints["max_amount"] != int64(10000) || !p.ExpiresAt.Equal(used.ExpiresAt) {
		t.Errorf("%+v", p)
	}
	if p := l[gone.ID]; p.RevokedAt.IsZero() || p.RevokeReason != "lost" || p.State(f.now) != gate.PassportRevoked {
		t.Errorf("%+v", p)
	}
	if p := l[minted.ID]; p.UsedBy == "" || p.State(f.now) != gate.PassportUsed {
		t.Errorf("the approval was used, and its passport is %+v", p)
	}
	other := admin
	other.TenantID = "other"
	if l := list(other, gate.PassportQuery{TenantID: "acme"}); len(l) != 0 {
		t.Errorf("another tenant sees %v", l)
	}
	for _, role := range []string{gate.RoleGateway, ""} {
		if _, _, err := f.Passports(t.Context(), gate.Identity{TenantID: "acme", KeyID: "k", Role: role}, gate.PassportQuery{}); !errors.Is(err, gate.ErrNotAllowed) {
			t.Errorf("role %q: %v", role, err)
		}
	}
	f.store.Fail("KeepPassport", store.Fails)
	if p, err := f.IssuePassport(t.Context(), admin, wish()); err == nil || p.Token != "" {
		t.Errorf("given out, and not in the list: %+v %v", p, err)
	}
}
