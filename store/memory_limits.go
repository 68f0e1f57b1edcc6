package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/actpass/sidecar/gate"
)

type memoryUse struct {
	tenant, key, event string
	amount, at         int64
}

// Reserve implements gate.Store. Every use is kept and counted: the naive way
// that the sums of the engines are held against.
func (m *Memory) Reserve(ctx context.Context, tenant, eventID string, uses []gate.Use, now time.Time) (over int, used []int64, err error) {
	return m.reserve(ctx, "Reserve", tenant, eventID, uses, now, false)
}

// ReserveSoon implements gate.Store. A failure of "settled" comes after the
// answer. Close polices that every answer was settled.
func (m *Memory) ReserveSoon(ctx context.Context, tenant, eventID string, uses []gate.Use, now time.Time) (over int, used []int64, settled func() error, err error) {
	over, used, err = m.reserve(ctx, "ReserveSoon", tenant, eventID, uses, now, false)
	if err != nil {
		return 0, nil, nil, err
	}
	m.unsettled.Add(1)
	return over, used, sync.OnceValue(func() error {
		m.unsettled.Add(-1)
		m.mu.Lock()
		mode := m.fail["settled"]
		m.mu.Unlock()
		if over < 0 && (mode == Fails || mode == LostButDone) {
			m.forget(tenant, eventID)
		}
		if mode == Fails || mode == FailsButPersist {
			return fmt.Errorf("settle limits for %s: %w", eventID, ErrInjected)
		}
		return nil
	}), nil
}

// forget is a Release that no failure is made for.
func (m *Memory) forget(tenant, eventID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.s.uses = slices.DeleteFunc(slices.Clone(m.s.uses), func(u memoryUse) bool { return u.tenant == tenant && u.event == eventID })
}

// ReserveRest implements gate.Store.
func (m *Memory) ReserveRest(ctx context.Context, tenant, eventID string, uses []gate.Use, now time.Time) (over int, used []int64, err error) {
	return m.reserve(ctx, "ReserveRest", tenant, eventID, uses, now, true)
}

func (m *Memory) reserve(ctx context.Context, method, tenant, eventID string, uses []gate.Use, now time.Time, rest bool) (over int, used []int64, err error) {
	err = m.do(ctx, method, func(s *memoryState) error {
		over, used = -1, nil
		if err := checkReservation(tenant, eventID, uses, now); err != nil {
			return err
		}
		if len(uses) == 0 {
			return nil
		}
		for _, u := range s.uses {
			if u.tenant == tenant && u.event == eventID && !rest {
				return fmt.Errorf("reserve limits for %s: the event has a reservation already: %w", eventID, gate.ErrIllegalState)
			}
		}
		used = make([]int64, len(uses))
		taken := map[string]int64{}
		has := make([]bool, len(uses))
		for i, u := range uses {
			s.setClock(tenant, u, micros(now))
			var own int64
			has[i], own = s.share(tenant, eventID, u, now)
			used[i] = taken[limitKey(u)] + s.held(tenant, u, now) - own
			if has[i] {
				continue
			}
			switch {
			case fits(u, used[i]):
				taken[limitKey(u)] += u.Amount
			case over < 0:
				over = i
			}
		}
		if over >= 0 {
			return nil
		}
		for i, u := range uses {
			if has[i] {
				continue
			}
			k := [2]string{tenant, limitKey(u)}
			s.seen[k] = max(s.seen[k], micros(now))
			s.uses = append(s.uses, memoryUse{tenant: tenant, key: k[1], event: eventID, amount: u.Amount, at: s.seen[k]})
		}
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	return over, used, nil
}

// setClock moves the uses of a key whose clock was set back.
func (s *memoryState) setClock(tenant string, u gate.Use, now int64) {
	k := [2]string{tenant, limitKey(u)}
	back := setBack(u, now, s.seen[k])
	if back == 0 {
		return
	}
	for i, old := range s.uses {
		switch {
		case old.tenant != tenant || old.key != k[1]:
		case u.Since.IsZero():
			s.uses[i].at -= back
		default:
			s.uses[i].at = min(old.at, now)
		}
	}
	s.seen[k] = now
}

func (s *memoryState) held(tenant string, u gate.Use, now time.Time) (sum int64) {
	start := readStart(u, micros(now), s.seen[[2]string{tenant, limitKey(u)}])
	for _, old := range s.uses {
		if old.tenant == tenant && old.key == limitKey(u) && old.at > start {
			sum += old.amount
		}
	}
	return sum
}

// share is what an event has of a limit, of what counts.
func (s *memoryState) share(tenant, eventID string, u gate.Use, now time.Time) (has bool, amount int64) {
	start := readStart(u, micros(now), s.seen[[2]string{tenant, limitKey(u)}])
	for _, old := range s.uses {
		if old.tenant == tenant && old.event == eventID && old.key == limitKey(u) && old.at > start {
			has, amount = true, amount+old.amount
		}
	}
	return has, amount
}

// Usage implements gate.Store.
func (m *Memory) Usage(ctx context.Context, tenant string, uses []gate.Use, now time.Time) (used []int64, err error) {
	err = m.do(ctx, "Usage", func(s *memoryState) error {
		if err := checkUses(tenant, uses, now); err != nil {
			return err
		}
		used = make([]int64, len(uses))
		for i, u := range uses {
			used[i] = s.held(tenant, u, now)
		}
		return nil
	})
	return answer(used, err)
}

// Release implements gate.Store.
func (m *Memory) Release(ctx context.Context, tenant, eventID string) error {
	return m.do(ctx, "Release", func(s *memoryState) error {
		var rest []memoryUse
		for _, u := range s.uses {
			if u.tenant != tenant || u.event != eventID {
				rest = append(rest, u)
			}
		}
		s.uses = rest
		return nil
	})
}

// keysHeld lists as Held does, without an end.
func (s *memoryState) keysHeld(tenant string, u gate.Use, now time.Time) (list []gate.Held) {
	one := u.Key
	u.Key = ""
	prefix := limitKey(u)
	at := map[string]int{}
	for _, old := range s.uses {
		key, mine := strings.CutPrefix(old.key, prefix)
		u.Key = key
		back := int64(0)
		if seen := s.seen[[2]string{tenant, old.key}]; mine {
			back = readStart(u, micros(now), seen) - windowStart(u, micros(now))
		}
		if !mine || old.tenant != tenant || one != "" && key != one || old.at <= windowStart(u, micros(now))+back {
			continue
		}
		i, known := at[key]
		if !known {
			i = len(list)
			at[key] = i
			list = append(list, gate.Held{Key: key, First: fromMicros(min(old.at-back, micros(now)))})
		}
		list[i].Used += old.amount
		if when := fromMicros(min(old.at-back, micros(now))); when.Before(list[i].First) {
			list[i].First = when
		} else if when.After(list[i].Last) {
			list[i].Last = when
		}
	}
	for i := range list {
		if list[i].Last.IsZero() {
			list[i].Last = list[i].First
		}
	}
	list = slices.DeleteFunc(list, func(h gate.Held) bool { return h.Used == 0 })
	slices.SortFunc(list, func(a, b gate.Held) int { return strings.Compare(a.Key, b.Key) })
	return list
}

// Held implements gate.Store.
func (m *Memory) Held(ctx context.Context, tenant string, u gate.Use, after string, limit int, now time.Time) (list []gate.Held, err error) {
	err = m.do(ctx, "Held", func(s *memoryState) error {
		if err := checkUses(tenant, []gate.Use{u}, now); err != nil {
			return err
		}
		list = s.keysHeld(tenant, u, now)
		if u.Key == "" {
			list = slices.DeleteFunc(list, func(h gate.Held) bool { return h.Key <= after && after != "" })
		}
		list = list[:min(len(list), pageSize(limit))]
		return nil
	})
	return answer(list, err)
}

// ResetLimit implements gate.Store.
func (m *Memory) ResetLimit(ctx context.Context, tenant string, u gate.Use, now time.Time) (list []gate.Held, err error) {
	err = m.do(ctx, "ResetLimit", func(s *memoryState) error {
		if err := checkUses(tenant, []gate.Use{u}, now); err != nil {
			return err
		}
		list = s.keysHeld(tenant, u, now)
		prefix := limitKey(gate.Use{Limit: u.Limit})
		gone := func(key string) bool {
			return key == limitKey(u) || u.Key == "" && strings.HasPrefix(key, prefix)
		}
		s.uses = slices.DeleteFunc(slices.Clone(s.uses), func(old memoryUse) bool { return old.tenant == tenant && gone(old.key) })
		for k := range s.seen {
			if k[0] == tenant && gone(k[1]) {
				delete(s.seen, k)
			}
		}
		return nil
	})
	return answer(list, err)
}

// Reservations implements gate.Store.
func (m *Memory) Reservations(ctx context.Context, limit int) (list []gate.Reserved, err error) {
	err = m.do(ctx, "Reservations", func(s *memoryState) error {
		for _, u := range slices.Backward(s.uses) {
			r := gate.Reserved{TenantID: u.tenant, EventID: u.event, Amount: u.amount}
			r.Limit, r.Key = splitLimitKey(u.key)
			if list = append(list, r); len(list) == pageSize(limit) {
				break
			}
		}
		return nil
	})
	return answer(list, err)
}
