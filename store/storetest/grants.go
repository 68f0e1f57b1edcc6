package storetest

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/actpass/sidecar/gate"
)

// grant is one with every field filled.
func (s *suite) grant() gate.Grant {
	return gate.Grant{
		ID: s.id("grt"), TenantID: "acme", AgentID: "support_agent", Tool: "stripe.refund.create", Resource: "stripe:charge:*",
		Constraints: map[string]any{"max": map[string]any{"amount": int64(9007199254740993), "ratio": 0.5}, "equals": map[string]any{"currency": "usd"}},
		FreeArgs:    []string{"charge", "metadata.order"}, Policy: "refund_policy", Rule: "medium", RuleHash: "beef",
		Count: 3, SumArg: "amount", SumMax: 100, KeyID: "key_lead", KeyName: "Lena", Reason: "a batch", ApprovalID: "apr_1",
		CreatedAt: noon, ExpiresAt: at(time.Hour),
	}
}

func (s *suite) grants(t *testing.T, g gate.Grant) gate.Grant {
	t.Helper()
	if err := s.CreateGrant(s.ctx, g, 100); err != nil {
		t.Fatal(err)
	}
	return g
}

func testGrants(t *testing.T, s *suite) {
	g := s.grants(t, s.grant())
	got, err := s.GetGrant(s.ctx, "acme", g.ID)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "as stored", got, g)
	if _, err := s.GetGrant(s.ctx, "other", g.ID); !errors.Is(err, gate.ErrNotFound) {
		t.Errorf("another tenant finds it: %v", err)
	}
	if err := s.CreateGrant(s.ctx, g, 100); !errors.Is(err, gate.ErrIllegalState) {
		t.Errorf("the same id twice: %v", err)
	}
	if err := s.CreateGrant(s.ctx, s.grant(), 1); !errors.Is(err, gate.ErrTooMany) {
		t.Errorf("one too many: %v", err)
	}
	use := func(event string, amount int64, when time.Duration, want error, used, summed int64) {
		t.Helper()
		got, err := s.UseGrant(s.ctx, "acme", g.ID, event, amount, at(when))
		if !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Fatalf("use by %s: %v, want %v", event, err, want)
		}
		if err == nil && (got.Used != used || got.Summed != summed) {
			t.Errorf("used by %s: %d, %d", event, got.Used, got.Summed)
		}
		if got, err = s.GetGrant(s.ctx, "acme", g.ID); err != nil || got.Used != used || got.Summed != summed {
			t.Errorf("after %s: %d used, sum %d, %v; want %d, %d", event, got.Used, got.Summed, err, used, summed)
		}
	}
	if _, err := s.UseGrant(s.ctx, "other", g.ID, "ev_0", 1, noon); !errors.Is(err, gate.ErrNotFound) {
		t.Errorf("another tenant uses it: %v", err)
	}
	use("ev_1", 60, 0, nil, 1, 60)
	use("ev_1", 60, 0, nil, 1, 60) // once for an event
	use("ev_2", 41, 0, gate.ErrIllegalState, 1, 60)
	use("ev_2", 40, time.Hour, nil, 2, 100) // the last moment counts
	use("ev_3", 0, time.Hour+time.Microsecond, gate.ErrIllegalState, 2, 100)
	use("ev_3", 0, 0, nil, 3, 100)
	use("ev_4", 0, 0, gate.ErrIllegalState, 3, 100)
	release := func(tenant, event string, used, summed int64) {
		t.Helper()
		if err := s.ReleaseGrant(s.ctx, tenant, g.ID, event); err != nil {
			t.Fatal(err)
		}
		if got, _ := s.GetGrant(s.ctx, "acme", g.ID); got.Used != used || got.Summed != summed {
			t.Errorf("after giving back %s: %d, %d", event, got.Used, got.Summed)
		}
	}
	release("acme", "ev_4", 3, 100)
	release("other", "ev_1", 3, 100)
	release("acme", "ev_1", 2, 40)
	release("acme", "ev_1", 2, 40)
	use("ev_4", 60, 0, nil, 3, 100)

	second := s.grant()
	second.CreatedAt, second.ExpiresAt, second.SumArg, second.SumMax = at(time.Second), at(time.Minute), "", 0
	s.grants(t, second)
	for range 2 {
		got, err = s.RevokeGrant(s.ctx, "acme", second.ID, "key_admin", at(time.Second))
		if err != nil || !got.RevokedAt.Equal(at(time.Second)) || got.RevokedBy != "key_admin" {
			t.Errorf("revoked: %+v, %v", got, err)
		}
	}
	if _, err := s.RevokeGrant(s.ctx, "other", second.ID, "k", noon); !errors.Is(err, gate.ErrNotFound) {
		t.Errorf("another tenant revokes: %v", err)
	}
	if _, err := s.UseGrant(s.ctx, "acme", second.ID, "ev_9", 0, noon); !errors.Is(err, gate.ErrRevoked) {
		t.Errorf("use after revocation: %v", err)
	}
	for name, change := range map[string]func(*gate.Grant){
		"no count":    func(g *gate.Grant) { g.Count = 0 },
		"no agent":    func(g *gate.Grant) { g.AgentID = "" },
		"no end":      func(g *gate.Grant) { g.ExpiresAt = time.Time{} },
		"no rule":     func(g *gate.Grant) { g.RuleHash = "" },
		"nobody's":    func(g *gate.Grant) { g.KeyID = "" },
		"used before": func(g *gate.Grant) { g.Used = -1 },
	} {
		bad := s.grant()
		change(&bad)
		if err := s.CreateGrant(s.ctx, bad, 100); !errors.Is(err, s.misuse) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.UseGrant(s.ctx, "acme", g.ID, "ev_neg", -1, noon); !errors.Is(err, s.misuse) {
		t.Errorf("a negative amount: %v", err)
	}
}

func testGrantLists(t *testing.T, s *suite) {
	var want []string
	for i := range 5 {
		g := s.grant()
		g.CreatedAt, g.ExpiresAt = at(time.Duration(i)*time.Second), at(time.Hour-time.Duration(i)*time.Minute)
		switch i {
		case 3:
			g.AgentID = "*"
		case 4:
			g.AgentID = "other_agent"
		}
		s.grants(t, g)
		want = append([]string{g.ID}, want...)
	}
	elsewhere := s.grant()
	elsewhere.TenantID = "other"
	s.grants(t, elsewhere)
	ids := func(list []gate.Grant) (ids []string) {
		for _, g := range list {
			ids = append(ids, g.ID)
		}
		return ids
	}
	var got []string
	for cursor := ""; ; {
		list, next, err := s.Grants(s.ctx, gate.GrantQuery{TenantID: "acme", Cursor: cursor, Limit: 2})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, ids(list)...)
		if cursor = next; next == "" {
			break
		}
	}
	same(t, "pages", got, want)
	if _, err := s.RevokeGrant(s.ctx, "acme", want[4], "k", noon); err != nil {
		t.Fatal(err)
	}
	list, _, err := s.Grants(s.ctx, gate.GrantQuery{TenantID: "acme", Live: true, Now: at(57 * time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "live", ids(list), want[1:4])
	list, err = s.GrantsFor(s.ctx, "acme", "support_agent", "stripe.refund.create", "beef", at(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "for an agent, the first to end first", ids(list), []string{want[1], want[2], want[3]})
	for _, q := range [][3]string{{"acme", "stripe.refund.update", "beef"}, {"acme", "stripe.refund.create", "cafe"}, {"third", "stripe.refund.create", "beef"}} {
		if list, err := s.GrantsFor(s.ctx, q[0], "support_agent", q[1], q[2], noon); err != nil || len(list) != 0 {
			t.Errorf("%v: %v, %v", q, ids(list), err)
		}
	}
}

func testGrantsConcurrently(t *testing.T, s *suite) {
	g := s.grant()
	g.Count, g.SumMax = 10, 1000
	s.grants(t, g)
	var won atomic.Int64
	parallel(100, func(i int) {
		_, err := s.UseGrant(s.ctx, "acme", g.ID, fmt.Sprint("ev_", i), 7, noon)
		switch {
		case err == nil:
			won.Add(1)
		case !errors.Is(err, gate.ErrIllegalState):
			t.Error(err)
		}
	})
	if got, _ := s.GetGrant(s.ctx, "acme", g.ID); won.Load() != 10 || got.Used != 10 || got.Summed != 70 {
		t.Errorf("%d of 100 passed; %d used, sum %d", won.Load(), got.Used, got.Summed)
	}
}

// testGrantModel holds random uses and releases against a list.
func testGrantModel(t *testing.T, s *suite) {
	rapid.Check(t, func(t *rapid.T) {
		g := s.grant()
		g.Count, g.SumMax = rapid.Int64Range(1, 5).Draw(t, "count"), rapid.Int64Range(0, 50).Draw(t, "sum")
		if err := s.CreateGrant(s.ctx, g, 1<<20); err != nil {
			t.Fatal(err)
		}
		taken, revoked, gone, events := map[string]int64{}, false, false, 0
		total := func() (sum int64) {
			for _, a := range taken {
				sum += a
			}
			return sum
		}
		t.Repeat(map[string]func(*rapid.T){
			"use": func(t *rapid.T) {
				if events++; rapid.IntRange(0, 4).Draw(t, "again") == 0 && events > 1 {
					events--
				}
				event, amount := fmt.Sprint("ev_", events), rapid.Int64Range(0, 30).Draw(t, "amount")
				late := rapid.IntRange(0, 9).Draw(t, "late") == 0
				now := noon
				if late {
					now = at(2 * time.Hour)
				}
				_, had := taken[event]
				fits := !gone && (had || !revoked && !late && int64(len(taken)) < g.Count && total()+amount <= g.SumMax)
				if _, err := s.UseGrant(s.ctx, "acme", g.ID, event, amount, now); (err == nil) != fits {
					t.Fatalf("use of %d: %v, and it fits: %v", amount, err, fits)
				}
				if fits && !had {
					taken[event] = amount
				}
			},
			"release": func(t *rapid.T) {
				event := fmt.Sprint("ev_", rapid.IntRange(0, events+1).Draw(t, "event"))
				if err := s.ReleaseGrant(s.ctx, "acme", g.ID, event); err != nil {
					t.Fatal(err)
				}
				delete(taken, event)
			},
			"revoke": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "really") > 0 {
					return
				}
				if _, err := s.RevokeGrant(s.ctx, "acme", g.ID, "key_x", noon); (err == nil) == gone || gone && !errors.Is(err, gate.ErrNotFound) {
					t.Fatalf("gone %v, %v", gone, err)
				}
				revoked = true
			},
			"prune": func(t *rapid.T) {
				// It ends after an hour; used up or revoked, it is there until then.
				before := at(rapid.SampledFrom([]time.Duration{0, time.Minute, time.Hour, time.Hour, 61 * time.Minute}).Draw(t, "before"))
				for {
					n, err := s.Prune(s.ctx, before, at(2*time.Hour))
					if err != nil {
						t.Fatal(err)
					}
					if n.None() {
						break
					}
				}
				gone = gone || before.After(g.ExpiresAt)
			},
			"": func(t *rapid.T) {
				got, err := s.GetGrant(s.ctx, "acme", g.ID)
				if gone {
					if !errors.Is(err, gate.ErrNotFound) {
						t.Fatalf("it is over, and there: %v", err)
					}
					return
				}
				if err != nil || got.Used != int64(len(taken)) || got.Summed != total() || got.RevokedAt.IsZero() == revoked {
					t.Fatalf("%+v, %v; want %d uses of %d", got, err, len(taken), total())
				}
			},
		})
	})
}
