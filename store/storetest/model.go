package storetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/actpass/sidecar/gate"
)

// modelApproval is an approval as simply as it can be told.
type modelApproval struct {
	id, agent, fingerprint, state string
	required                      int
	expires, useBefore            time.Time
	approvedBy                    map[string]bool // keys whose approval counts, and whether they are in the group "up"
	escalated                     bool
	consumedBy                    string
	closed, rest                  time.Time // when it was closed, and until when it answers for its call
	recorded                      bool      // each of its moves
}

// end closes it.
func (a *modelApproval) end(state string, now time.Time, answers time.Duration) {
	a.state, a.closed, a.rest = state, now, now.Add(answers)
}

func (a *modelApproval) open() bool { return a.state == "pending" || a.state == "approved" }

func (a *modelApproval) over(now time.Time) bool {
	return a.state == "pending" && now.After(a.expires) || a.state == "approved" && now.After(a.useBefore)
}

type modelUse struct {
	key    string
	event  string
	amount int64
	at     time.Time
}

// model is what a store should hold for one tenant.
type model struct {
	tenant    string
	now       time.Time
	approvals []*modelApproval
	moves     int
	recorded  int // of them
	uses      []modelUse
	events    int
}

// ids are those of a fingerprint, oldest first.
func (m *model) ids(fingerprint string) (list []string) {
	for _, a := range m.approvals {
		if a.fingerprint == fingerprint {
			list = append(list, a.id)
		}
	}
	return list
}

// latest of a fingerprint; nil for none.
func (m *model) latest(fingerprint string) *modelApproval {
	if ids := m.ids(fingerprint); len(ids) > 0 {
		return m.find(ids[len(ids)-1])
	}
	return nil
}

func (m *model) find(id string) *modelApproval {
	for _, a := range m.approvals {
		if a.id == id {
			return a
		}
	}
	return nil
}

// held sums naively.
func (m *model) held(key string, window time.Duration) (sum int64) {
	for _, u := range m.uses {
		if u.key == key && u.at.After(m.now.Add(-window)) {
			sum += u.amount
		}
	}
	return sum
}

// testModel runs random operations against the store and the model. All runs
// share the store, each as a tenant of its own, so that they also show that
// tenants do not touch.
func testModel(t *testing.T, s *suite) {
	const useWithin = 10 * time.Minute
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := &model{tenant: fmt.Sprintf("tenant_%d", run), now: noon}
		fail := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		anyID := func(t *rapid.T) string {
			if len(m.approvals) == 0 {
				return "apr_none"
			}
			return m.approvals[rapid.IntRange(0, len(m.approvals)-1).Draw(t, "approval")].id
		}
		// expect says what an operation on id must answer, when want says whether
		// the state allows it.
		expect := func(id string, err error, want func(a *modelApproval) error) bool {
			t.Helper()
			a := m.find(id)
			wanted := gate.ErrNotFound
			if a != nil {
				wanted = want(a)
			}
			if wanted == nil {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				m.moves++
				a.recorded = false
				return true
			}
			if !errors.Is(err, wanted) {
				t.Fatalf("error %v, want %v", err, wanted)
			}
			return false
		}
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 900).Draw(t, "seconds")) * time.Second)
				if rapid.IntRange(0, 19).Draw(t, "leap") == 0 {
					m.now = m.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "days")) * 24 * time.Hour)
				}
			},
			"open": func(t *rapid.T) {
				q := s.question(rapid.SampledFrom([]string{"f", "g", "h"}).Draw(t, "fingerprint"))
				q.TenantID, q.CreatedAt, q.ExpiresAt, q.UseWithin = m.tenant, m.now, m.now.Add(20*time.Minute), useWithin
				q.Required = rapid.IntRange(1, 3).Draw(t, "required")
				q.AgentID = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "agent")
				room := gate.Room{Tenant: rapid.IntRange(1, 3).Draw(t, "room"), Agent: rapid.IntRange(1, 3).Draw(t, "room of an agent")}
				// What the caller has looked at: it does not say, nothing, or one of them.
				q.Seen = rapid.SampledFrom(append([]string{"", "", gate.SeenNone}, m.ids(q.Fingerprint)...)).Draw(t, "seen")
				latest := m.latest(q.Fingerprint)
				got, isNew, err := s.OpenApproval(s.ctx, q, room)
				pending, ofAgent := 0, 0
				for _, a := range m.approvals {
					if !a.open() {
						continue
					}
					if a.fingerprint == q.Fingerprint {
						if !a.over(m.now) {
							fail(err)
							if isNew || got.ID != a.id {
								t.Fatalf("opened %s (new %v) though %s is open", got.ID, isNew, a.id)
							}
							return
						}
						continue
					}
					if a.state == "pending" {
						pending++
						if a.agent == q.AgentID {
							ofAgent++
						}
					}
				}
				if q.Seen != "" && latest != nil && latest.id != q.Seen {
					fail(err)
					if isNew || got.ID != latest.id {
						t.Fatalf("opened %s (new %v) though %s came after what was seen, %s", got.ID, isNew, latest.id, q.Seen)
					}
					if latest.over(m.now) {
						latest.end("expired", m.now, 0)
						latest.recorded = false
						m.moves++
					}
					if got.State != latest.state {
						t.Fatalf("%s is %s, want %s", got.ID, got.State, latest.state)
					}
					return
				}
				if pending >= room.Tenant || ofAgent >= room.Agent {
					if !errors.Is(err, gate.ErrTooMany) || errors.Is(err, gate.ErrTooManyOfAgent) != (pending < room.Tenant) {
						t.Fatalf("%d pending, %d of the agent, %+v: %v", pending, ofAgent, room, err)
					}
					return
				}
				fail(err)
				if !isNew || got.ID != q.ID {
					t.Fatalf("got %s, new %v", got.ID, isNew)
				}
				for _, a := range m.approvals {
					if a.fingerprint == q.Fingerprint && a.over(m.now) {
						a.end("expired", m.now, 0)
						a.recorded = false
						m.moves++
					}
				}
				m.approvals = append(m.approvals, &modelApproval{
					id: q.ID, agent: q.AgentID, fingerprint: q.Fingerprint, state: "pending", required: q.Required, expires: q.ExpiresAt, approvedBy: map[string]bool{},
				})
			},
			"vote": func(t *rapid.T) {
				id := anyID(t)
				v := gate.Vote{
					Groups:   rapid.SampledFrom([][]string{nil, {"support-leads"}, {"up"}}).Draw(t, "groups"),
					KeyID:    rapid.SampledFrom([]string{"key_a", "key_b", "key_c"}).Draw(t, "key"),
					Decision: rapid.SampledFrom([]string{"approve", "approve", "approve", "deny", "escalate"}).Draw(t, "decision"),
					Time:     m.now,
				}
				_, err := s.Vote(s.ctx, m.tenant, id, v, []string{"up"})
				up := slices.Contains(v.Groups, "up")
				ok := expect(id, err, func(a *modelApproval) error {
					switch _, again := a.approvedBy[v.KeyID]; {
					case a.state != "pending" || a.over(m.now):
						return gate.ErrIllegalState
					case a.escalated && !up:
						return gate.ErrNotAllowed
					case v.Decision == "approve" && again:
						return gate.ErrIllegalState
					}
					return nil
				})
				if !ok {
					return
				}
				a := m.find(id)
				switch v.Decision {
				case "deny":
					a.end("denied", m.now, useWithin)
				case "escalate":
					a.escalated = true
					maps.DeleteFunc(a.approvedBy, func(_ string, up bool) bool { return !up })
				case "approve":
					a.approvedBy[v.KeyID] = up
					if len(a.approvedBy) == a.required {
						a.state, a.useBefore = "approved", m.now.Add(useWithin)
					}
				}
			},
			"consume": func(t *rapid.T) {
				id := anyID(t)
				m.events++
				event := fmt.Sprintf("ev_c%d", m.events)
				_, err := s.Consume(s.ctx, m.tenant, id, event, m.now)
				if expect(id, err, func(a *modelApproval) error {
					if a.state != "approved" || a.over(m.now) {
						return gate.ErrIllegalState
					}
					return nil
				}) {
					a := m.find(id)
					a.end("consumed", m.now, 0)
					a.consumedBy, a.rest = event, a.useBefore.Add(30*24*time.Hour-useWithin)
				}
			},
			"cancel": func(t *rapid.T) {
				id := anyID(t)
				_, err := s.Cancel(s.ctx, m.tenant, id, gate.Vote{KeyID: "key_a", Time: m.now})
				if expect(id, err, func(a *modelApproval) error {
					if a.state != "pending" {
						return gate.ErrIllegalState
					}
					return nil
				}) {
					m.find(id).end("cancelled", m.now, time.Minute)
				}
			},
			"expire": func(t *rapid.T) {
				var got, want []string
				for {
					list, err := s.ExpireApprovals(s.ctx, m.now)
					fail(err)
					if len(list) == 0 {
						break // of other runs too
					}
					for _, a := range list {
						if a.TenantID == m.tenant {
							got = append(got, a.ID)
						}
					}
				}
				for _, a := range m.approvals {
					if a.over(m.now) {
						want = append(want, a.id)
						a.end("expired", m.now, 0)
						a.recorded = false
						m.moves++
					}
				}
				sort.Strings(got)
				sort.Strings(want)
				if !slices.Equal(got, want) {
					t.Fatalf("expired %v, want %v", got, want)
				}
			},
			"reserve": func(t *rapid.T) {
				m.events++
				event := fmt.Sprintf("ev_%d", m.events)
				var uses []gate.Use
				var want []int64
				over := -1
				added := map[string]int64{}
				for range rapid.IntRange(1, 3).Draw(t, "uses") {
					u := gate.Use{
						Limit: rapid.SampledFrom([]string{"l", "m"}).Draw(t, "limit"), Key: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key"),
						Amount: rapid.Int64Range(0, 9).Draw(t, "amount"), Max: 20, Window: 30 * time.Minute,
					}
					if u.Limit == "m" {
						u.Window = 5 * time.Minute
					}
					key := u.Limit + "/" + u.Key
					used := m.held(key, u.Window) + added[key]
					want = append(want, used)
					if used+u.Amount > u.Max {
						if over < 0 {
							over = len(uses)
						}
					} else {
						added[key] += u.Amount
					}
					uses = append(uses, u)
				}
				gotOver, gotUsed, err := s.Reserve(s.ctx, m.tenant, event, uses, m.now)
				fail(err)
				if gotOver != over || !slices.Equal(gotUsed, want) {
					t.Fatalf("over %d, used %v; want %d, %v", gotOver, gotUsed, over, want)
				}
				if over >= 0 {
					return
				}
				for _, u := range uses {
					m.uses = append(m.uses, modelUse{key: u.Limit + "/" + u.Key, event: event, amount: u.Amount, at: m.now})
				}
			},
			"release": func(t *rapid.T) {
				event := fmt.Sprintf("ev_%d", rapid.IntRange(0, m.events).Draw(t, "event"))
				fail(s.Release(s.ctx, m.tenant, event))
				m.uses = slices.DeleteFunc(m.uses, func(u modelUse) bool { return u.event == event })
			},
			"record": func(t *rapid.T) {
				m.recorded += recordAll(t, s, m.tenant)
				for _, a := range m.approvals {
					a.recorded = true
				}
			},
			"prune": func(t *rapid.T) {
				before := m.now.Add(-time.Duration(rapid.IntRange(0, 40*24).Draw(t, "kept hours")) * time.Hour)
				for {
					n, err := s.Prune(s.ctx, before, m.now)
					fail(err)
					if n.None() {
						break
					}
				}
				m.approvals = slices.DeleteFunc(m.approvals, func(a *modelApproval) bool {
					if a.open() || !a.recorded || !a.closed.Before(before) || !a.rest.Before(m.now) {
						return false
					}
					if _, err := s.GetApproval(s.ctx, m.tenant, a.id); !errors.Is(err, gate.ErrNotFound) {
						t.Fatalf("%s is over and was not removed: %v", a.id, err)
					}
					return true
				})
			},
			// Reading everything back after each step would take most of the time.
			"read": func(t *rapid.T) { m.compare(t, s) },
		})
		m.compare(t, s)
		m.finish(t, s)
	})
}

// compare reads everything back.
func (m *model) compare(t *rapid.T, s *suite) {
	for _, a := range m.approvals {
		got, err := s.GetApproval(s.ctx, m.tenant, a.id)
		if err != nil {
			t.Fatal(err)
		}
		if got.State != a.state || got.ConsumedBy != a.consumedBy || got.Required != a.required || !got.UseBefore.Equal(a.useBefore) {
			t.Fatalf("%s is %s, consumed by %q, use before %s; want %+v", a.id, got.State, got.ConsumedBy, got.UseBefore, a)
		}
	}
	for _, u := range []gate.Use{
		{Limit: "l", Key: "a", Window: 30 * time.Minute},
		{Limit: "m", Key: "b", Window: 5 * time.Minute},
	} {
		used, err := s.Usage(s.ctx, m.tenant, []gate.Use{u}, m.now)
		if err != nil {
			t.Fatal(err)
		}
		if want := m.held(u.Limit+"/"+u.Key, u.Window); used[0] != want {
			t.Fatalf("usage of %s/%s is %d, want %d", u.Limit, u.Key, used[0], want)
		}
	}
}

// finish finds one transition for every move, and marks them, so that the next
// run starts with an empty outbox.
func (m *model) finish(t *rapid.T, s *suite) {
	if moves := recordAll(t, s, m.tenant) + m.recorded; moves != m.moves {
		t.Fatalf("%d transitions for %d moves", moves, m.moves)
	}
}

// recordAll marks the moves of all tenants and counts those of one.
func recordAll(t *rapid.T, s *suite, tenant string) (moves int) {
	for {
		list, err := s.Unrecorded(s.ctx, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			return moves
		}
		for _, tr := range list {
			if tr.TenantID == tenant {
				moves++
			}
			if err := s.MarkRecorded(s.ctx, tr.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
}
