package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

// passport is one with every field filled.
func (s *suite) passport(issued time.Time) gate.Passport {
	return gate.Passport{
		ID: s.id("ap"), TenantID: "acme", AgentID: "support_agent", UserID: "user_456", Goal: "refund <b>", Audience: "sidecar",
		Tools: []string{"stripe.refund.*"}, Resources: []string{"stripe:charge:*", "stripe:charge:ch_1"},
		Constraints: map[string]any{"max_amount": int64(9007199254740993), "currency": "usd", "one_of": map[string]any{"reason": []any{"duplicate", "fraudulent"}}},
		RiskTier:    "high", ApprovalHash: "beef", SignedBy: "pk_1", KeyID: "key_lead", KeyName: "Lena",
		IssuedAt: issued, ExpiresAt: issued.Add(5 * time.Minute),
	}
}

func (s *suite) keep(t *testing.T, p gate.Passport) gate.Passport {
	t.Helper()
	if err := s.KeepPassport(s.ctx, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// testListPassports: what was issued is listed as it was issued, those issued last
// first, with what became of each, for its own tenant only.
func testListPassports(t *testing.T, s *suite) {
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now().UTC().Truncate(time.Second).Add(-2 * time.Hour)
	live, used, gone, ended := s.passport(begin), s.passport(begin.Add(time.Second)), s.passport(begin.Add(2*time.Second)), s.passport(begin.Add(3*time.Second))
	both := s.passport(begin.Add(4 * time.Second))
	other, alien := s.passport(begin.Add(5*time.Second)), s.passport(begin)
	live.ExpiresAt, other.AgentID, alien.TenantID = begin.Add(gate.MaxPassportTTL), "triage_agent", "other"
	other.ExpiresAt = live.ExpiresAt
	ended.Constraints, ended.UserID, ended.RiskTier, ended.ApprovalHash = nil, "", "", ""
	// The use of an approval is the use of its passport, whoever made it.
	minted := s.passport(begin.Add(6 * time.Second))
	a := s.approved(t, "print")
	minted.ApprovalID, minted.ExpiresAt = a.ID, live.ExpiresAt
	for _, p := range []gate.Passport{live, used, gone, ended, both, other, alien, minted} {
		s.keep(t, p)
	}
	now := begin.Add(30 * time.Minute)
	list := func(q gate.PassportQuery, want ...gate.Passport) []gate.Passport {
		t.Helper()
		q.Now = now
		if q.TenantID == "" {
			q.TenantID = "acme"
		}
		got, next, err := s.Passports(s.ctx, q)
		ok(err)
		if next != "" {
			t.Errorf("%+v: there is more", q)
		}
		ids := func(l []gate.Passport) (out []string) {
			for _, p := range l {
				out = append(out, p.ID)
			}
			return out
		}
		same(t, q.State+" "+q.AgentID+" "+q.TenantID, ids(got), ids(want))
		return got
	}
	end := time.Now().Add(time.Hour)
	ok(s.ClaimPassport(s.ctx, "acme", used.ID, "ev_1", now.Add(-time.Minute), end))
	ok(s.RevokePassport(s.ctx, "acme", gone.ID, "lost", now.Add(-2*time.Minute), end))
	ok(s.ClaimPassport(s.ctx, "acme", both.ID, "ev_2", now.Add(-time.Minute), end))
	ok(s.RevokePassport(s.ctx, "acme", both.ID, "leaked", now, end))
	ok(s.RevokePassport(s.ctx, "acme", both.ID, "again", now.Add(time.Minute), end))
	// Neither another tenant's uses and revocations count, nor a use that was given back.
	ok(s.ClaimPassport(s.ctx, "other", live.ID, "ev_3", now, end))
	ok(s.RevokePassport(s.ctx, "other", ended.ID, "", now, end))
	ok(s.ClaimPassport(s.ctx, "acme", live.ID, "ev_4", now, end))
	ok(s.ReleasePassport(s.ctx, "acme", live.ID, "ev_4"))

	all := list(gate.PassportQuery{}, minted, other, both, ended, gone, used, live)
	used.UsedBy, used.UsedAt = "ev_1", now.Add(-time.Minute)
	gone.RevokedAt, gone.RevokeReason = now.Add(-2*time.Minute), "lost"
	both.UsedBy, both.UsedAt, both.RevokedAt, both.RevokeReason = "ev_2", now.Add(-time.Minute), now, "leaked"
	for i, want := range []gate.Passport{minted, other, both, ended, gone, used, live} {
		same(t, "as listed", all[i], want)
	}
	list(gate.PassportQuery{State: gate.PassportLive}, minted, other, live)
	list(gate.PassportQuery{State: gate.PassportUsed}, used)
	list(gate.PassportQuery{State: gate.PassportRevoked}, both, gone)
	list(gate.PassportQuery{State: gate.PassportExpired}, ended)
	list(gate.PassportQuery{AgentID: "triage_agent"}, other)
	list(gate.PassportQuery{AgentID: "triage_agent", State: gate.PassportUsed})
	list(gate.PassportQuery{TenantID: "other"}, alien)
	list(gate.PassportQuery{TenantID: "nobody"})

	done, err := s.Consume(s.ctx, "acme", a.ID, "ev_5", at(2*time.Minute))
	ok(err)
	minted.UsedBy, minted.UsedAt = "ev_5", done.ClosedAt
	same(t, "minted", list(gate.PassportQuery{State: gate.PassportUsed}, minted, used)[0], minted)

	// The leeway of a clock counts, to its last moment.
	for ago, state := range map[time.Duration]string{gate.PassportLeeway - time.Microsecond: gate.PassportLive, gate.PassportLeeway: gate.PassportExpired} {
		now = live.ExpiresAt.Add(ago)
		list(gate.PassportQuery{State: state, AgentID: "triage_agent"}, other)
	}
	// Page by page, and again what was kept again.
	other.Goal = "another"
	s.keep(t, other)
	var seen []string
	for q := (gate.PassportQuery{TenantID: "acme", Limit: 3}); ; {
		page, next, err := s.Passports(s.ctx, q)
		ok(err)
		for _, p := range page {
			seen = append(seen, p.ID)
		}
		if q.Cursor = next; next == "" {
			break
		}
	}
	same(t, "pages", seen, []string{minted.ID, other.ID, both.ID, ended.ID, gone.ID, used.ID, live.ID})
	if p := list(gate.PassportQuery{AgentID: "triage_agent"}, other); p[0].Goal != "another" {
		t.Errorf("kept again: %+v", p)
	}
	for _, bad := range []gate.PassportQuery{{TenantID: "acme", Cursor: "x"}, {TenantID: "acme", State: "lost"}} {
		if _, _, err := s.Passports(s.ctx, bad); err == nil {
			t.Errorf("%+v is answered", bad)
		}
	}
	for i := range 3 {
		p := s.passport(begin)
		switch i {
		case 0:
			p.ID = ""
		case 1:
			p.ExpiresAt = time.Time{}
		case 2:
			p.UsedBy = "ev_1"
		}
		if err := s.KeepPassport(s.ctx, p); !errors.Is(err, s.misuse) {
			t.Errorf("%d: %v", i, err)
		}
	}
}
