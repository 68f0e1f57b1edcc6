package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/actpass/sidecar/gate"
)

// limitKey joins name and key so that no two pairs give the same text.
func limitKey(u gate.Use) string {
	return strconv.Itoa(len(u.Limit)) + ":" + u.Limit + u.Key
}

// clockSlack is how far the time of one caller may lie behind that of another
// before it counts as a clock that was set back.
const clockSlack = int64(time.Second / time.Microsecond)

// windowSum is what a limit holds: the uses with at > since.
type windowSum struct {
	key   string
	span  int64
	since int64
	total int64
}

// Reserve implements gate.Store.
//
// The window slides: a use counts from its moment on for one window. When the
// clock is set back, uses that seem to lie in the future count from the new
// present.
func (s *SQLite) Reserve(ctx context.Context, tenant, eventID string, uses []gate.Use, now time.Time) (int, []int64, error) {
	if err := checkReservation(tenant, eventID, uses, now); err != nil {
		return 0, nil, err
	}
	if len(uses) == 0 {
		return -1, nil, nil
	}
	over, used := -1, make([]int64, len(uses))
	err := s.w.do(ctx, func(b *batch) error {
		over = -1
		var held bool
		err := b.row(`SELECT EXISTS (SELECT 1 FROM limit_uses WHERE tenant_id = ? AND event_id = ?)`, []any{tenant, eventID}, &held)
		if err != nil {
			return err
		}
		if held {
			return fmt.Errorf("the event has a reservation already: %w", gate.ErrIllegalState)
		}
		sums := map[string]*windowSum{}
		for i, u := range uses {
			sum, err := b.windowSum(sums, tenant, u, micros(now))
			if err != nil {
				return err
			}
			used[i] = sum.total
			if u.Max < 0 || u.Amount > u.Max-sum.total {
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
		for _, u := range uses {
			s.sweep.span = max(s.sweep.span, u.Window.Microseconds())
			err := b.run(`INSERT INTO limit_uses (tenant_id, limit_key, event_id, amount, at) VALUES (?, ?, ?, ?, ?)`,
				tenant, limitKey(u), eventID, u.Amount, micros(now))
			if err != nil {
				return err
			}
		}
		for _, sum := range sums {
			err := b.run(`INSERT INTO limit_sums (tenant_id, limit_key, span, since, total) VALUES (?, ?, ?, ?, ?)
				ON CONFLICT DO UPDATE SET span = excluded.span, since = excluded.since, total = excluded.total`,
				tenant, sum.key, sum.span, sum.since, sum.total)
			if err != nil {
				return err
			}
		}
		return s.sweep.step(b, micros(now))
	})
	if err != nil {
		return 0, nil, fmt.Errorf("reserve limits for %s: %w", eventID, err)
	}
	return over, used, nil
}

// windowSum gives the sum of u's limit at now: as it is in sums, else from the
// database, moved on to now.
func (b *batch) windowSum(sums map[string]*windowSum, tenant string, u gate.Use, now int64) (*windowSum, error) {
	key := limitKey(u)
	if sum := sums[key]; sum != nil {
		return sum, nil
	}
	span := u.Window.Microseconds()
	start := now - span
	sum := &windowSum{key: key, span: span}
	var stored int64
	err := b.row(`SELECT span, since, total FROM limit_sums WHERE tenant_id = ? AND limit_key = ?`,
		[]any{tenant, key}, &stored, &sum.since, &sum.total)
	switch {
	case errors.Is(err, sql.ErrNoRows), err == nil && stored != span:
		// New, or the policy has another window now: count from the uses.
		sum.since = start
		err = b.row(`SELECT coalesce(sum(amount), 0) FROM limit_uses WHERE tenant_id = ? AND limit_key = ? AND at > ?`,
			[]any{tenant, key, start}, &sum.total)
	case err != nil:
	case start > sum.since:
		var left int64
		err = b.row(`SELECT coalesce(sum(amount), 0) FROM limit_uses WHERE tenant_id = ? AND limit_key = ? AND at > ? AND at <= ?`,
			[]any{tenant, key, sum.since, start}, &left)
		sum.total -= left
		sum.since = start
	case start < sum.since-min(clockSlack, span/2):
		// The clock was set back. What seems to lie in the future is put into the
		// present, or it would fill the limit until that future comes.
		sum.since = start
		if err = b.run(`UPDATE limit_uses SET at = ? WHERE tenant_id = ? AND limit_key = ? AND at > ?`, now, tenant, key, now); err != nil {
			break
		}
		err = b.row(`SELECT coalesce(sum(amount), 0) FROM limit_uses WHERE tenant_id = ? AND limit_key = ? AND at > ?`,
			[]any{tenant, key, start}, &sum.total)
	}
	if err != nil {
		return nil, fmt.Errorf("sum limit %s: %w", u.Limit, err)
	}
	sums[key] = sum
	return sum, nil
}

// Usage implements gate.Store.
func (s *SQLite) Usage(ctx context.Context, tenant string, uses []gate.Use, now time.Time) ([]int64, error) {
	if err := checkUses(tenant, uses, now); err != nil {
		return nil, err
	}
	used := make([]int64, len(uses))
	for i, u := range uses {
		// As windowSum, in one statement, because this connection holds no lock.
		span := u.Window.Microseconds()
		err := s.read.QueryRowContext(ctx, `SELECT coalesce(
			(SELECT s.total - (SELECT coalesce(sum(amount), 0) FROM limit_uses
					WHERE tenant_id = ?1 AND limit_key = ?2 AND at > s.since AND at <= ?4)
				FROM limit_sums s WHERE tenant_id = ?1 AND limit_key = ?2 AND span = ?3 AND ?4 >= since - ?5),
			(SELECT sum(amount) FROM limit_uses WHERE tenant_id = ?1 AND limit_key = ?2 AND at > ?4), 0)`,
			tenant, limitKey(u), span, micros(now)-span, min(clockSlack, span/2)).Scan(&used[i])
		if err != nil {
			return nil, fmt.Errorf("sum limit %s: %w", u.Limit, err)
		}
	}
	return used, nil
}

// Release implements gate.Store. An event that holds nothing is fine.
func (s *SQLite) Release(ctx context.Context, tenant, eventID string) error {
	err := s.w.do(ctx, func(b *batch) error {
		err := b.run(`UPDATE limit_sums SET total = total - (
				SELECT coalesce(sum(u.amount), 0) FROM limit_uses u WHERE u.tenant_id = limit_sums.tenant_id
				AND u.limit_key = limit_sums.limit_key AND u.event_id = ?2 AND u.at > limit_sums.since)
			WHERE tenant_id = ?1 AND limit_key IN (SELECT limit_key FROM limit_uses WHERE tenant_id = ?1 AND event_id = ?2)`,
			tenant, eventID)
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

// sweep forgets uses and sums that no window reaches any more, a few at a time
// and in the transactions of others. Only the writer touches it.
type sweep struct {
	reservations int
	span         int64 // the longest window there is
	tenant, key  string
}

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
		sweepUses, now-sw.span-clockSlack)
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
	// since is the last reservation's time less the window.
	err = b.run(`DELETE FROM limit_sums WHERE (tenant_id, limit_key) > (?, ?) AND (tenant_id, limit_key) <= (?, ?) AND since <= ? - 2 * span`,
		sw.tenant, sw.key, last[0], last[1], now-clockSlack)
	sw.tenant, sw.key = last[0], last[1]
	return err
}
