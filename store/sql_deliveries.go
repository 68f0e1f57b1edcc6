package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/notify"
)

const deliveryColumns = `seq, id, channel, tenant_id, approval_id, event, from_state, to_state, actor, reason, at, state, attempts, next_at, settled_at, last_status, last_error, body`

func scanDelivery(row scanner) (notify.Delivery, error) {
	var d notify.Delivery
	var at, next, settled int64
	err := row.Scan(&d.Seq, &d.ID, &d.Channel, &d.TenantID, &d.ApprovalID, &d.Event, &d.From, &d.To, &d.Actor, &d.Reason, &at,
		&d.State, &d.Attempts, &next, &settled, &d.LastStatus, &d.LastError, &d.Body)
	d.Time, d.NextAt, d.SettledAt = fromMicros(at), fromMicros(next), fromMicros(settled)
	return d, err
}

// SetChannels implements notify.Outbox.
func (s *tables) SetChannels(ctx context.Context, tenant string, list []notify.Subscription, now time.Time) error {
	err := s.transact(ctx, []lock{exclusive("channels")}, func(b *batch) error {
		// Alone, what an earlier tenant left goes too.
		others, mine, args := ``, ``, []any{}
		if s.owner != "" {
			others, mine, args = ` WHERE tenant_id = ?`, ` AND tenant_id = ?`, []any{tenant}
		}
		if err := b.run(`DELETE FROM channels`+others, args...); err != nil {
			return err
		}
		for _, c := range list {
			if err := b.run(`INSERT INTO channels (tenant_id, name, events) VALUES (?, ?, ?)`, tenant, c.Name, " "+strings.Join(c.Events, " ")+" "); err != nil {
				return err
			}
		}
		return b.run(`UPDATE deliveries SET state = 'dead', settled_at = ?, last_error = 'the channel is not configured any more'
			WHERE state = 'queued' AND NOT EXISTS (SELECT 1 FROM channels c WHERE c.name = channel AND c.tenant_id = deliveries.tenant_id)`+mine, append([]any{micros(now)}, args...)...)
	})
	if err != nil {
		return fmt.Errorf("store the notification channels: %w", err)
	}
	return nil
}

// Due implements notify.Outbox.
func (s *tables) Due(ctx context.Context, channel string, now time.Time, limit int) ([]notify.Delivery, error) {
	if s.owner != "" {
		return s.leaseDue(ctx, channel, now, limit)
	}
	return s.deliveries(ctx, `SELECT `+deliveryColumns+` FROM deliveries
		WHERE state = 'queued' AND channel = ? AND next_at <= ? ORDER BY next_at, seq LIMIT ?`, channel, micros(now), pageSize(limit))
}

func (s *tables) deliveries(ctx context.Context, query string, args ...any) ([]notify.Delivery, error) {
	var list []notify.Delivery
	err := s.each(ctx, query, args, func(row scanner) error {
		d, err := scanDelivery(row)
		list = append(list, d)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	return list, nil
}

// Settle implements notify.Outbox.
func (s *tables) Settle(ctx context.Context, id string, r notify.Result, now time.Time) error {
	if r.State != notify.Queued && r.State != notify.Delivered && r.State != notify.Dead || now.IsZero() {
		return misuse("settling delivery %s as %q", id, r.State)
	}
	var settled, next int64
	body := r.Body
	switch r.State {
	case notify.Queued:
		next = micros(r.NextAt)
	case notify.Delivered:
		settled, body = micros(now), nil
	default:
		settled = micros(now)
	}
	err := s.transact(ctx, nil, func(b *batch) error {
		res, err := b.exec(`UPDATE deliveries SET state = ?, attempts = attempts + 1, next_at = ?, settled_at = ?, last_status = ?, last_error = ?, body = ?
			WHERE id = ? AND state = 'queued'`, r.State, next, settled, r.Status, r.Error, body, id)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, gate.ErrIllegalState)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("settle delivery %s: %w", id, err)
	}
	return nil
}

// Deliveries implements notify.Outbox.
func (s *tables) Deliveries(ctx context.Context, q notify.DeliveryQuery) ([]notify.Delivery, string, error) {
	before := int64(math.MaxInt64)
	if q.Cursor != "" {
		var err error
		if before, err = strconv.ParseInt(q.Cursor, 10, 64); err != nil {
			return nil, "", badCursor()
		}
	}
	limit := pageSize(q.Limit)
	query, args := `SELECT `+deliveryColumns+` FROM deliveries WHERE tenant_id = ? AND seq < ?`, []any{q.TenantID, before}
	if q.State != "" {
		query += ` AND state = ?`
		args = append(args, q.State)
	}
	list, err := s.deliveries(ctx, query+` ORDER BY seq DESC LIMIT ?`, append(args, limit+1)...)
	if err != nil || len(list) <= limit {
		return list, "", err
	}
	return list[:limit], strconv.FormatInt(list[limit-1].Seq, 10), nil
}

// Requeue implements notify.Outbox.
func (s *tables) Requeue(ctx context.Context, tenant, id string) (notify.Delivery, error) {
	var d notify.Delivery
	err := s.transact(ctx, []lock{exclusive("delivery", id)}, func(b *batch) error {
		var err error
		if d, err = scanDelivery(b.one(`SELECT `+deliveryColumns+` FROM deliveries WHERE tenant_id = ? AND id = ?`, tenant, id)); errors.Is(err, sql.ErrNoRows) {
			return gate.ErrNotFound
		} else if err != nil {
			return err
		}
		if d.State != notify.Dead {
			return fmt.Errorf("it is %s, and only a dead one is sent again by hand: %w", d.State, gate.ErrIllegalState)
		}
		var there bool
		if err := b.row(`SELECT EXISTS (SELECT 1 FROM channels WHERE tenant_id = ? AND name = ?)`, []any{tenant, d.Channel}, &there); err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("its channel %s is not configured any more: %w", d.Channel, gate.ErrIllegalState)
		}
		d.State, d.Attempts, d.NextAt, d.SettledAt = notify.Queued, 0, time.Time{}, time.Time{}
		return b.run(`UPDATE deliveries SET state = 'queued', attempts = 0, next_at = 0, settled_at = 0 WHERE id = ?`, id)
	})
	if err != nil {
		return notify.Delivery{}, fmt.Errorf("send delivery %s again: %w", id, err)
	}
	return d, nil
}

// ClaimCallback implements notify.Outbox.
func (s *tables) ClaimCallback(ctx context.Context, channel string, tokens []string, expires time.Time) error {
	if channel == "" || len(tokens) == 0 || expires.IsZero() {
		return misuse("a claim needs a channel, tokens and an expiry")
	}
	err := s.transact(ctx, nil, func(b *batch) error {
		for _, token := range tokens {
			res, err := b.exec(`INSERT INTO callbacks (channel, token, expires_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, channel, token, micros(expires))
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n == 0 {
				return errors.Join(err, fmt.Errorf("it was taken before: %w", gate.ErrIllegalState))
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("claim a callback of %s: %w", channel, err)
	}
	return nil
}

// ReleaseCallback implements notify.Outbox.
func (s *tables) ReleaseCallback(ctx context.Context, channel string, tokens []string) error {
	err := s.transact(ctx, nil, func(b *batch) error {
		for _, token := range tokens {
			if err := b.run(`DELETE FROM callbacks WHERE channel = ? AND token = ?`, channel, token); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("release a callback of %s: %w", channel, err)
	}
	return nil
}

// KeepReceipt implements notify.Outbox.
func (s *tables) KeepReceipt(ctx context.Context, channel, approvalID, value string, now time.Time) error {
	err := s.transact(ctx, nil, func(b *batch) error {
		return b.run(`INSERT INTO receipts (channel, approval_id, value, at) VALUES (?, ?, ?, ?)
			ON CONFLICT (channel, approval_id) DO UPDATE SET value = excluded.value, at = excluded.at`, channel, approvalID, value, micros(now))
	})
	if err != nil {
		return fmt.Errorf("keep the receipt of %s: %w", approvalID, err)
	}
	return nil
}

// Receipt implements notify.Outbox.
func (s *tables) Receipt(ctx context.Context, channel, approvalID string) (string, error) {
	var value string
	err := s.row(ctx, `SELECT value FROM receipts WHERE channel = ? AND approval_id = ?`, channel, approvalID).Scan(&value)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("look up the receipt of %s: %w", approvalID, err)
	}
	return value, nil
}
