package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/actpass/sidecar/gate"
)

// windowSum is what a limit holds under one key: the uses with at > since.
type windowSum struct {
	key   string
	span  int64 // how long uses are kept
	since int64
	seen  int64 // time of the last reservation, which is also that of this one
	total int64
}

// Reserve implements gate.Store.
//
// The sum of a key is kept beside its uses, so that a reservation costs the uses
// that left the window since the last one, and not the whole window.
func (s *tables) Reserve(ctx context.Context, tenant, eventID string, uses []gate.Use, now time.Time) (int, []int64, error) {
	return waited(s.reserve(ctx, tenant, eventID, uses, now, false))
}

// ReserveSoon implements gate.Store.
func (s *tables) ReserveSoon(ctx context.Context, tenant, eventID string, uses []gate.Use, now time.Time) (int, []int64, func() error, error) {
	return s.reserve(ctx, tenant, eventID, uses, now, false)
}

// ReserveRest implements gate.Store.
func (s *tables) ReserveRest(ctx context.Context, tenant, eventID string, uses []gate.Use, now time.Time) (int, []int64, error) {
	return waited(s.reserve(ctx, tenant, eventID, uses, now, true))
}

func waited(over int, used []int64, settled func() error, err error) (int, []int64, error) {
	if err == nil {
		err = settled()
	}
	if err != nil {
		return 0, nil, err
	}
	return over, used, nil
}

func (s *tables) reserve(ctx context.Context, tenant, eventID string, uses []gate.Use, now time.Time, rest bool) (int, []int64, func() error, error) {
	if err := checkReservation(tenant, eventID, uses, now); err != nil {
		return 0, nil, nil, err
	}
	if len(uses) == 0 {
		return -1, nil, durable, nil
	}
	over, used := -1, make([]int64, len(uses))
	settled, err := s.soon(ctx, limitLocks(tenant, eventID, uses), func(b *batch) error {
		over = -1
		var held bool
		err := b.row(`SELECT EXISTS (SELECT 1 FROM limit_uses WHERE tenant_id = ? AND event_id = ?)`, []any{tenant, eventID}, &held)
		if err != nil {
			return err
		}
		if held && !rest {
			return fmt.Errorf("the event has a reservation already: %w", gate.ErrIllegalState)
		}
		sums := map[string]*windowSum{}
		has := make([]bool, len(uses))
		for i, u := range uses {
			sum, err := b.windowSum(sums, tenant, u, micros(now))
			if err != nil {
				return err
			}
			used[i] = sum.total
			if held {
				var own int64
				if has[i], own, err = b.share(tenant, eventID, sum); err != nil {
					return err
				}
				if used[i] -= own; has[i] {
					continue
				}
			}
			if !fits(u, sum.total) {
				if over < 0 {
					over = i
				}
				continue
			}
			// For a second use of the same limit in this call.
			sum.total += u.Amount
		}
		if over >= 0 {
			return nil
		}
		for i, u := range uses {
			if has[i] {
				continue
			}
			columns, values := `tenant_id, limit_key, event_id, amount, at`, `?, ?, ?, ?, ?`
			args := []any{tenant, limitKey(u), eventID, u.Amount, sums[limitKey(u)].seen}
			if s.owner != "" {
				columns, values, args = columns+`, owner`, values+`, ?`, append(args, s.owner)
			}
			if err := b.run(`INSERT INTO limit_uses (`+columns+`) VALUES (`+values+`)`, args...); err != nil {
				return err
			}
		}
		for _, sum := range sums {
			if err := b.putSum(tenant, sum); err != nil {
				return err
			}
		}
		if !s.sweeps() {
			return sweepKeys(b, tenant, sums)
		}
		for _, u := range uses {
			s.sweep.span = max(s.sweep.span, u.Window.Microseconds())
		}
		return s.sweep.step(b, micros(now))
	})
	if err != nil {
		return 0, nil, nil, fmt.Errorf("reserve limits for %s: %w", eventID, err)
	}
	return over, used, func() error {
		if err := settled(); err != nil {
			return fmt.Errorf("reserve limits for %s: %w", eventID, err)
		}
		return nil
	}, nil
}

// The keys in these are written so that no index serves them: the planner would
// take that of the key, and read every use in the window to find those of one
// event, of which there are one or two.
const (
	shareQuery = `SELECT count(*) > 0, coalesce(sum(amount), 0) FROM limit_uses
		WHERE tenant_id = ? AND event_id = ? AND (limit_key || '') = ? AND at > ?`
	releaseQuery = `UPDATE limit_sums SET total = total - (
			SELECT coalesce(sum(u.amount), 0) FROM limit_uses u WHERE u.tenant_id = ?1
			AND (u.limit_key || '') = limit_sums.limit_key AND u.event_id = ?2 AND u.at > limit_sums.since)
		WHERE tenant_id = ?1 AND limit_key IN (SELECT limit_key FROM limit_uses WHERE tenant_id = ?1 AND event_id = ?2)`
)

// share is what an event has of a limit, of what counts.
func (b *batch) share(tenant, eventID string, sum *windowSum) (has bool, amount int64, err error) {
	err = b.row(shareQuery, []any{tenant, eventID, sum.key, sum.since}, &has, &amount)
	return has, amount, err
}

func (b *batch) putSum(tenant string, sum *windowSum) error {
	return b.run(`INSERT INTO limit_sums (tenant_id, limit_key, span, since, seen, total) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (tenant_id, limit_key) DO UPDATE SET span = excluded.span, since = excluded.since, seen = excluded.seen, total = excluded.total`,
		tenant, sum.key, sum.span, sum.since, sum.seen, sum.total)
}

// windowSum gives the sum of u's limit at now: as it is in sums, else from the
// database, moved on to now.
func (b *batch) windowSum(sums map[string]*windowSum, tenant string, u gate.Use, now int64) (*windowSum, error) {
	key := limitKey(u)
	if sum := sums[key]; sum != nil {
		return sum, nil
	}
	sum := &windowSum{key: key, span: u.Window.Microseconds()}
	err := b.row(`SELECT since, seen, total FROM limit_sums WHERE tenant_id = ? AND limit_key = ?`,
		[]any{tenant, key}, &sum.since, &sum.seen, &sum.total)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		sum.seen = now
		err = b.count(tenant, sum, windowStart(u, now))
	case err == nil:
		err = b.advance(tenant, sum, u, now)
	}
	if err != nil {
		return nil, fmt.Errorf("sum limit %s: %w", u.Limit, err)
	}
	sums[key] = sum
	return sum, nil
}

// advance moves a stored sum on to now.
func (b *batch) advance(tenant string, sum *windowSum, u gate.Use, now int64) error {
	if back := setBack(u, now, sum.seen); back > 0 {
		err := b.setClock(tenant, sum.key, u, back, now)
		if err == nil {
			sum.seen = now
			err = b.count(tenant, sum, windowStart(u, now))
		}
		if err == nil {
			// Also when the call does not fit: the uses must not be moved again.
			err = b.putSum(tenant, sum)
		}
		return err
	}
	sum.seen = max(sum.seen, now)
	start := windowStart(u, sum.seen)
	if start < sum.since || swept(sum.since, u, sum.seen) {
		return b.count(tenant, sum, start) // the policy has another window now, or the key has rested
	}
	var left int64
	err := b.row(`SELECT coalesce(sum(amount), 0) FROM limit_uses WHERE tenant_id = ? AND limit_key = ? AND at > ? AND at <= ?`,
		[]any{tenant, sum.key, sum.since, start}, &left)
	sum.total -= left
	sum.since = start
	return err
}

// setClock moves the uses of a key whose clock was set back. In a sliding window
// they keep their age. In a calendar window they keep their place, but for those
// that seem to lie in the future: they happened at the latest now.
func (b *batch) setClock(tenant, key string, u gate.Use, back, now int64) error {
	if u.Since.IsZero() {
		return b.run(`UPDATE limit_uses SET at = at - ? WHERE tenant_id = ? AND limit_key = ?`, back, tenant, key)
	}
	return b.run(`UPDATE limit_uses SET at = ? WHERE tenant_id = ? AND limit_key = ? AND at > ?`, now, tenant, key, now)
}

// count makes the sum anew from the uses.
func (b *batch) count(tenant string, sum *windowSum, start int64) error {
	sum.since = start
	return b.row(`SELECT coalesce(sum(amount), 0) FROM limit_uses WHERE tenant_id = ? AND limit_key = ? AND at > ?`,
		[]any{tenant, sum.key, start}, &sum.total)
}

// Usage implements gate.Store.
func (s *tables) Usage(ctx context.Context, tenant string, uses []gate.Use, now time.Time) ([]int64, error) {
	if err := checkUses(tenant, uses, now); err != nil {
		return nil, err
	}
	used := make([]int64, len(uses))
	// One snapshot: a sum and its uses must be of one moment.
	err := s.snapshot(ctx, func(b *batch) (err error) {
		for i, u := range uses {
			if used[i], err = b.usage(tenant, u, micros(now)); err != nil {
				return fmt.Errorf("limit %s: %w", u.Limit, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look at limits: %w", err)
	}
	return used, nil
}

func (b *batch) usage(tenant string, u gate.Use, now int64) (used int64, err error) {
	key := limitKey(u)
	var since, seen, total int64
	err = b.row(`SELECT since, seen, total FROM limit_sums WHERE tenant_id = ? AND limit_key = ?`, []any{tenant, key}, &since, &seen, &total)
	stored := err == nil
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, err
	}
	start := readStart(u, now, seen)
	if stored && start >= since && !swept(since, u, max(now, seen)) {
		err = b.row(`SELECT coalesce(sum(amount), 0) FROM limit_uses WHERE tenant_id = ? AND limit_key = ? AND at > ? AND at <= ?`,
			[]any{tenant, key, since, start}, &used)
		return total - used, err
	}
	err = b.row(`SELECT coalesce(sum(amount), 0) FROM limit_uses WHERE tenant_id = ? AND limit_key = ? AND at > ?`,
		[]any{tenant, key, start}, &used)
	return used, err
}

// heldQuery lists keys with their sums. ?5 is now, ?6 whether the window slides:
// uses of a clock that was set back count as readStart has it.
const (
	heldBack  = `CASE WHEN ?6 AND ?5 < s.seen THEN s.seen - ?5 ELSE 0 END`
	heldQuery = `SELECT u.limit_key, sum(u.amount),
		CASE WHEN min(u.at - ` + heldBack + `) < ?5 THEN min(u.at - ` + heldBack + `) ELSE ?5 END,
		CASE WHEN max(u.at - ` + heldBack + `) < ?5 THEN max(u.at - ` + heldBack + `) ELSE ?5 END
	FROM limit_uses u LEFT JOIN limit_sums s ON s.tenant_id = u.tenant_id AND s.limit_key = u.limit_key
	WHERE u.tenant_id = ?1 AND u.limit_key >= ?2 AND u.limit_key <= ?3 AND u.limit_key <> ?8 AND u.at > ?4 + ` + heldBack + `
	GROUP BY u.limit_key HAVING sum(u.amount) > 0 ORDER BY u.limit_key LIMIT ?7`
)

// keyRange is the keys of a limit, or the one key of u; both ends belong to it.
func keyRange(u gate.Use) (from, to string) {
	one := limitKey(u)
	if u.Key != "" {
		return one, one
	}
	return one, one + "\U0010ffff"
}

func heldArgs(tenant string, u gate.Use, after string, limit int, now time.Time) []any {
	from, to := keyRange(u)
	passed := "" // no key of a limit is empty
	if u.Key == "" && after != "" {
		passed = limitKey(u) + after
		from = passed
	}
	return []any{tenant, from, to, windowStart(u, micros(now)), micros(now), u.Since.IsZero(), limit, passed}
}

func scanHeld(u gate.Use, list *[]gate.Held) func(scanner) error {
	u.Key = ""
	prefix := len(limitKey(u))
	return func(row scanner) error {
		var h gate.Held
		var first, last int64
		if err := row.Scan(&h.Key, &h.Used, &first, &last); err != nil {
			return err
		}
		h.Key, h.First, h.Last = h.Key[prefix:], fromMicros(first), fromMicros(last)
		*list = append(*list, h)
		return nil
	}
}

// Held implements gate.Store.
func (s *tables) Held(ctx context.Context, tenant string, u gate.Use, after string, limit int, now time.Time) ([]gate.Held, error) {
	if err := checkUses(tenant, []gate.Use{u}, now); err != nil {
		return nil, err
	}
	var list []gate.Held
	if err := s.each(ctx, heldQuery, heldArgs(tenant, u, after, pageSize(limit), now), scanHeld(u, &list)); err != nil {
		return nil, fmt.Errorf("list limit %s: %w", u.Limit, err)
	}
	return list, nil
}

// Reservations implements gate.Store.
func (s *tables) Reservations(ctx context.Context, limit int) ([]gate.Reserved, error) {
	var list []gate.Reserved
	mine, args := ``, []any{pageSize(limit)}
	if s.owner != "" {
		mine, args = `WHERE owner = ? `, []any{s.owner, pageSize(limit)}
	}
	err := s.each(ctx, `SELECT tenant_id, limit_key, event_id, amount FROM limit_uses `+mine+`ORDER BY id DESC LIMIT ?`, args, func(row scanner) error {
		var r gate.Reserved
		var key string
		err := row.Scan(&r.TenantID, &key, &r.EventID, &r.Amount)
		r.Limit, r.Key = splitLimitKey(key)
		list = append(list, r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list reservations: %w", err)
	}
	return list, nil
}

// ResetLimit implements gate.Store.
func (s *tables) ResetLimit(ctx context.Context, tenant string, u gate.Use, now time.Time) ([]gate.Held, error) {
	if err := checkUses(tenant, []gate.Use{u}, now); err != nil {
		return nil, err
	}
	var list []gate.Held
	err := s.transact(ctx, []lock{exclusive("limit", tenant, u.Limit)}, func(b *batch) error {
		list = nil
		if err := b.each(heldQuery, heldArgs(tenant, u, "", math.MaxInt32, now), scanHeld(u, &list)); err != nil {
			return err
		}
		from, to := keyRange(u)
		if err := b.run(`DELETE FROM limit_uses WHERE tenant_id = ? AND limit_key >= ? AND limit_key <= ?`, tenant, from, to); err != nil {
			return err
		}
		return b.run(`DELETE FROM limit_sums WHERE tenant_id = ? AND limit_key >= ? AND limit_key <= ?`, tenant, from, to)
	})
	if err != nil {
		return nil, fmt.Errorf("reset limit %s: %w", u.Limit, err)
	}
	return list, nil
}

// limitLocks are those of a reservation: its keys and itself alone, and the
// limits together with other reservations, so that a reset finds none under way.
func limitLocks(tenant, eventID string, uses []gate.Use) []lock {
	list := []lock{exclusive("reservation", tenant, eventID)}
	for _, u := range uses {
		list = append(list, shared("limit", tenant, u.Limit), exclusive("limit key", tenant, limitKey(u)))
	}
	return list
}

// errMoreLocks says that a reservation holds keys that are not locked.
var errMoreLocks = errors.New("the reservation changed meanwhile")

// lockReservation runs fn with the locks of what an event has reserved.
func (s *tables) lockReservation(ctx context.Context, tenant, eventID string, fn func(*batch) error) error {
	const query = `SELECT DISTINCT limit_key FROM limit_uses WHERE tenant_id = ? AND event_id = ?`
	for attempt := 0; ; attempt++ {
		locked := map[string]bool{}
		var uses []gate.Use
		if !s.sweeps() {
			err := s.each(ctx, query, []any{tenant, eventID}, func(row scanner) error {
				var key string
				err := row.Scan(&key)
				locked[key] = true
				limit, rest := splitLimitKey(key)
				uses = append(uses, gate.Use{Limit: limit, Key: rest})
				return err
			})
			if err != nil {
				return err
			}
		}
		err := s.transact(ctx, limitLocks(tenant, eventID, uses), func(b *batch) error {
			if !s.sweeps() {
				missing := false
				err := b.each(query, []any{tenant, eventID}, func(row scanner) error {
					var key string
					err := row.Scan(&key)
					missing = missing || !locked[key]
					return err
				})
				if err != nil {
					return err
				}
				if missing {
					return errMoreLocks
				}
			}
			return fn(b)
		})
		if attempt < 10 && errors.Is(err, errMoreLocks) {
			continue
		}
		return err
	}
}

// Release implements gate.Store. An event that holds nothing is fine.
func (s *tables) Release(ctx context.Context, tenant, eventID string) error {
	err := s.lockReservation(ctx, tenant, eventID, func(b *batch) error {
		err := b.run(releaseQuery, tenant, eventID)
		if err != nil {
			return err
		}
		return b.run(`DELETE FROM limit_uses WHERE tenant_id = ? AND event_id = ?`, tenant, eventID)
	})
	if err != nil {
		return fmt.Errorf("release the limits of %s: %w", eventID, err)
	}
	return nil
}

// sweepKeys forgets, now and then, the uses that left the windows of keys that
// this transaction has locked. Keys that nobody uses any more are for tend.
func sweepKeys(b *batch, tenant string, sums map[string]*windowSum) error {
	if rand.IntN(sweepEvery) != 0 {
		return nil
	}
	for key, sum := range sums {
		err := b.run(`DELETE FROM limit_uses WHERE tenant_id = ? AND limit_key = ? AND at <= ?`, tenant, key, sum.since-sweepGrace)
		if err != nil {
			return err
		}
	}
	return nil
}

// sweep forgets uses and sums that no window reaches any more, a few at a time
// and in the transactions of others. Only the writer touches it.
type sweep struct {
	reservations int
	span         int64 // the longest window there is
	tenant, key  string
}

// sweepGrace is for how long after they left the window uses are kept, so that a
// clock that was ahead by less, and is set right, still finds those of keys that
// nobody used meanwhile. In microseconds.
const sweepGrace = int64(time.Hour / time.Microsecond)

const (
	sweepEvery = 64
	sweepUses  = 256
	sweepSums  = 128
)

func (sw *sweep) step(b *batch, now int64) error {
	if sw.reservations++; sw.reservations%sweepEvery != 0 {
		return nil
	}
	if sw.tenant == "" {
		// At the start, and again after each round, because windows may get shorter.
		if err := b.row(`SELECT coalesce(max(span), 0) FROM limit_sums`, nil, &sw.span); err != nil {
			return err
		}
	}
	// Ids rise with time, so the oldest uses stand first.
	err := b.run(`DELETE FROM limit_uses WHERE id IN (SELECT id FROM limit_uses ORDER BY id LIMIT ?) AND at <= ?`,
		sweepUses, now-sw.span-sweepGrace)
	if err != nil {
		return err
	}
	var keys [][2]string
	err = b.each(`SELECT tenant_id, limit_key FROM limit_sums WHERE (tenant_id, limit_key) > (?, ?) ORDER BY tenant_id, limit_key LIMIT ?`,
		[]any{sw.tenant, sw.key, sweepSums}, func(row scanner) error {
			var k [2]string
			err := row.Scan(&k[0], &k[1])
			keys = append(keys, k)
			return err
		})
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		sw.tenant, sw.key = "", ""
		return nil
	}
	last := keys[len(keys)-1]
	err = b.run(`DELETE FROM limit_sums WHERE (tenant_id, limit_key) > (?, ?) AND (tenant_id, limit_key) <= (?, ?) AND seen <= ? - span`,
		sw.tenant, sw.key, last[0], last[1], now-sweepGrace)
	sw.tenant, sw.key = last[0], last[1]
	return err
}
