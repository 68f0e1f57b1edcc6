package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/actpass/sidecar/gate"
)

// limitModel counts limits in the most naive way: it keeps every use for ever,
// and adds up.
type limitModel struct {
	tenant string
	now    time.Time            // as the clock has it
	ahead  time.Duration        // of the truth
	seen   map[string]time.Time // by limit and key
	uses   []modelUse
	events int
}

// settle does what a reservation does to a key's clock, and gives the key's time.
func (m *limitModel) settle(u gate.Use, slack time.Duration) time.Time {
	key := u.Limit + "/" + u.Key
	seen, known := m.seen[key]
	switch {
	case !known || !m.now.Before(seen):
		return m.now
	case !m.now.Before(seen.Add(-slack)):
		return seen
	}
	for i, old := range m.uses {
		switch {
		case old.key != key:
		case u.Since.IsZero():
			m.uses[i].at = old.at.Add(m.now.Sub(seen))
		case old.at.After(m.now):
			m.uses[i].at = m.now
		}
	}
	m.seen[key] = m.now
	return m.now
}

func (m *limitModel) held(u gate.Use, now time.Time) (sum int64) {
	for _, old := range m.uses {
		if old.key != u.Limit+"/"+u.Key {
			continue
		}
		if u.Since.IsZero() && old.at.After(now.Add(-u.Window)) || !u.Since.IsZero() && !old.at.Before(u.Since) {
			sum += old.amount
		}
	}
	return sum
}

// use draws one of the limits: two that slide and one that begins with each
// half hour.
func (m *limitModel) use(t *rapid.T) gate.Use {
	u := gate.Use{
		Limit: rapid.SampledFrom([]string{"l", "m", "half"}).Draw(t, "limit"), Key: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key"),
		Amount: rapid.Int64Range(0, 9).Draw(t, "amount"), Max: 20, Window: 30 * time.Minute,
		Force: rapid.IntRange(0, 9).Draw(t, "force") == 0,
	}
	switch u.Limit {
	case "m":
		u.Window = 5 * time.Minute
	case "half":
		u.Since = m.now.Truncate(30 * time.Minute)
	}
	return u
}

// testLimitModel runs random reservations, releases and resets against the
// store and the model, while the clock goes on, jumps and steps back.
func testLimitModel(t *testing.T, s *suite) {
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := &limitModel{tenant: fmt.Sprintf("limits_%d", run), now: noon.Truncate(time.Microsecond), seen: map[string]time.Time{}}
		fail := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 900).Draw(t, "seconds")) * time.Second)
			},
			"clock": func(t *rapid.T) {
				ahead := time.Duration(rapid.IntRange(-50*60, 50*60).Draw(t, "ahead")) * time.Second / 2
				if rapid.Bool().Draw(t, "slightly") {
					ahead = m.ahead + time.Duration(rapid.IntRange(-1500, 1500).Draw(t, "ms"))*time.Millisecond
				}
				m.now, m.ahead = m.now.Add(ahead-m.ahead), ahead
			},
			"reserve": func(t *rapid.T) {
				m.events++
				event := fmt.Sprintf("ev_%d", m.events)
				var uses []gate.Use
				var want []int64
				over := -1
				added := map[string]int64{}
				times := map[string]time.Time{}
				for range rapid.IntRange(1, 3).Draw(t, "uses") {
					u := m.use(t)
					key := u.Limit + "/" + u.Key
					times[key] = m.settle(u, time.Second)
					used := m.held(u, times[key]) + added[key]
					want = append(want, used)
					if !u.Force && used+u.Amount > u.Max {
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
					key := u.Limit + "/" + u.Key
					m.seen[key] = times[key]
					m.uses = append(m.uses, modelUse{key: key, event: event, amount: u.Amount, at: times[key]})
				}
			},
			"release": func(t *rapid.T) {
				event := fmt.Sprintf("ev_%d", rapid.IntRange(0, m.events).Draw(t, "event"))
				fail(s.Release(s.ctx, m.tenant, event))
				m.uses = slices.DeleteFunc(m.uses, func(u modelUse) bool { return u.event == event })
			},
			"reset": func(t *rapid.T) {
				if rapid.IntRange(0, 4).Draw(t, "seldom") > 0 {
					t.Skip("too often")
				}
				u := m.use(t)
				_, err := s.ResetLimit(s.ctx, m.tenant, u, m.now)
				fail(err)
				m.uses = slices.DeleteFunc(m.uses, func(old modelUse) bool { return old.key == u.Limit+"/"+u.Key })
				delete(m.seen, u.Limit+"/"+u.Key)
			},
			"look": func(t *rapid.T) {
				u := m.use(t)
				key := u.Limit + "/" + u.Key
				// As a reservation would see it, without its effect.
				uses, seen := slices.Clone(m.uses), m.seen[key]
				want := m.held(u, m.settle(u, time.Second))
				if m.uses = uses; !seen.IsZero() {
					m.seen[key] = seen
				}
				used, err := s.Usage(s.ctx, m.tenant, []gate.Use{u}, m.now)
				fail(err)
				held, err := s.Held(s.ctx, m.tenant, u, "", 0, m.now)
				fail(err)
				if used[0] != want || len(held) == 0 && want != 0 || len(held) > 0 && held[0].Used != want {
					t.Fatalf("%s at %s: usage %v, held %+v, want %d", key, m.now, used, held, want)
				}
			},
		})
	})
}
