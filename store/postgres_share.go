package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/notify"
)

// What sidecars that share a database share out among them: who records a move,
// who sends a delivery, who forgets. Each is taken for a while by the database's
// clock, so that a sidecar which dies keeps nothing back for longer.

const (
	recordLease = 30 * time.Second
	sendLease   = time.Minute // longer than an attempt, whatever its time-out
	dbNow       = `(extract(epoch FROM clock_timestamp()) * 1000000)::bigint`
)

// leaseUnrecorded is Unrecorded for one of several.
func (s *tables) leaseUnrecorded(ctx context.Context, limit int) ([]gate.Transition, error) {
	// Most of the time there is none: that must not cost a write.
	const open = `recorded = 0 AND (taken_by = ? OR taken_until < ` + dbNow + `)`
	var some bool
	if err := s.row(ctx, `SELECT EXISTS (SELECT 1 FROM transitions WHERE `+open+`)`, s.owner).Scan(&some); err != nil || !some {
		return nil, wrap(err, "read unrecorded transitions")
	}
	var list []gate.Transition
	err := s.transact(ctx, []lock{exclusive("recording")}, func(b *batch) error {
		list = nil
		err := b.run(`UPDATE transitions SET taken_by = ?1, taken_until = `+dbNow+` + ?2 WHERE id IN
			(SELECT id FROM transitions WHERE recorded = 0 AND (taken_by = ?1 OR taken_until < `+dbNow+`) ORDER BY id LIMIT ?3)`,
			s.owner, recordLease.Microseconds(), pageSize(limit))
		if err != nil {
			return err
		}
		return b.each(`SELECT `+transitionColumns+` FROM transitions WHERE recorded = 0 AND taken_by = ? AND taken_until >= `+dbNow+`
			ORDER BY id LIMIT ?`, []any{s.owner, pageSize(limit)}, scanTransition(&list))
	})
	return list, wrap(err, "read unrecorded transitions")
}

// leaseDue is Due for one of several. What it gives is given to nobody else until
// it is settled, or its time is over.
func (s *tables) leaseDue(ctx context.Context, channel string, now time.Time, limit int) ([]notify.Delivery, error) {
	const open = `state = 'queued' AND channel = ?1 AND next_at <= ?2 AND taken_until < ` + dbNow
	var some bool
	if err := s.row(ctx, `SELECT EXISTS (SELECT 1 FROM deliveries WHERE `+open+`)`, channel, micros(now)).Scan(&some); err != nil || !some {
		return nil, wrap(err, "list deliveries")
	}
	var list []notify.Delivery
	err := s.transact(ctx, []lock{exclusive("deliveries", channel)}, func(b *batch) error {
		list = nil
		err := b.each(`SELECT `+deliveryColumns+` FROM deliveries WHERE `+open+` ORDER BY next_at, seq LIMIT ?3`,
			[]any{channel, micros(now), pageSize(limit)}, func(row scanner) error {
				d, err := scanDelivery(row)
				list = append(list, d)
				return err
			})
		if err != nil {
			return err
		}
		for _, d := range list {
			if err := b.run(`UPDATE deliveries SET taken_until = `+dbNow+` + ? WHERE seq = ?`, sendLease.Microseconds(), d.Seq); err != nil {
				return err
			}
		}
		return nil
	})
	return list, wrap(err, "list deliveries")
}

func wrap(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Moves listens for moves of approvals that any process makes, until ctx ends. A
// message on what it gives means that there may be some: ask Moved. It holds a
// connection of its own, which is made again when it breaks; what moved meanwhile
// is told of by one message.
func (p *Postgres) Moves(ctx context.Context) <-chan struct{} {
	moved := make(chan struct{}, 1)
	e := p.pg
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.done {
		return moved
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(e.ctx, cancel)
	e.wg.Go(func() {
		defer cancel()
		defer stop()
		for ctx.Err() == nil {
			// Moved goes on being asked every second, so that nothing hangs on this.
			_ = e.listen(ctx, moved)
			select {
			case <-ctx.Done():
			case <-time.After(500*time.Millisecond + rand.N(500*time.Millisecond)):
			}
		}
	})
	return moved
}

func (e *pgEngine) listen(ctx context.Context, moved chan<- struct{}) error {
	if why := e.gone.Load(); why != nil {
		return *why
	}
	conn, err := pgconn.ConnectConfig(ctx, e.cfg)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	if _, err := conn.Exec(ctx, `LISTEN actpass_moved`).ReadAll(); err != nil {
		return err
	}
	for {
		select {
		case moved <- struct{}{}:
		default:
		}
		// A connection that was cut without a word is found by asking over it.
		wait, cancel := context.WithTimeout(ctx, 15*time.Second)
		err := conn.WaitForNotification(wait)
		quiet := wait.Err() != nil && ctx.Err() == nil
		cancel()
		if quiet {
			ping, cancel := context.WithTimeout(ctx, e.opt.Timeout)
			err = conn.Ping(ping)
			cancel()
		}
		if err != nil {
			return err
		}
	}
}

// tendEvery is how often one of the sidecars forgets what is of no use any more.
const tendEvery = 10 * time.Minute

func (p *Postgres) tend(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(tendEvery/2 + rand.N(tendEvery)):
		}
		_ = p.forget(ctx, time.Now()) // the next one, or another sidecar's, does it
	}
}

// forget removes answers and passports whose time is over, and the sums and uses
// of keys that no window reaches.
func (p *Postgres) forget(ctx context.Context, now time.Time) error {
	return errors.Join(
		p.transact(ctx, []lock{exclusive("forget")}, func(b *batch) error {
			err := b.run(`DELETE FROM answers WHERE expires_at < ?`, micros(now))
			if err == nil {
				err = forgetPassports(b, micros(now))
			}
			return err
		}),
		p.forgetKeys(ctx, micros(now)))
}

func (p *Postgres) forgetKeys(ctx context.Context, now int64) error {
	const stale = `seen <= ? - span`
	for tenant, key := "", ""; ; {
		var keys [][2]string
		err := p.each(ctx, `SELECT tenant_id, limit_key FROM limit_sums WHERE `+stale+` AND (tenant_id, limit_key) > (?, ?) ORDER BY tenant_id, limit_key LIMIT ?`,
			[]any{now - sweepGrace, tenant, key, sweepSums}, func(row scanner) error {
				var k [2]string
				err := row.Scan(&k[0], &k[1])
				keys = append(keys, k)
				return err
			})
		if err != nil || len(keys) == 0 {
			return err
		}
		for _, k := range keys {
			tenant, key = k[0], k[1]
			limit, rest := splitLimitKey(key)
			locks := []lock{shared("limit", tenant, limit), exclusive("limit key", tenant, limitKey(gate.Use{Limit: limit, Key: rest}))}
			err := p.transact(ctx, locks, func(b *batch) error {
				res, err := b.exec(`DELETE FROM limit_sums WHERE tenant_id = ? AND limit_key = ? AND `+stale, tenant, key, now-sweepGrace)
				if err != nil {
					return err
				}
				if n, err := res.RowsAffected(); err != nil || n == 0 {
					return err // it was used meanwhile
				}
				return b.run(`DELETE FROM limit_uses WHERE tenant_id = ? AND limit_key = ?`, tenant, key)
			})
			if err != nil {
				return err
			}
		}
	}
}
