package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/actpass/sidecar/gate"
)

const transitionColumns = `id, approval_id, tenant_id, from_state, to_state, actor, reason, at`

func scanTransition(list *[]gate.Transition) func(scanner) error {
	return func(row scanner) error {
		var t gate.Transition
		var at int64
		err := row.Scan(&t.ID, &t.ApprovalID, &t.TenantID, &t.From, &t.To, &t.Actor, &t.Reason, &at)
		t.Time = fromMicros(at)
		*list = append(*list, t)
		return err
	}
}

// Unrecorded implements gate.Store.
func (s *tables) Unrecorded(ctx context.Context, limit int) ([]gate.Transition, error) {
	if s.owner != "" {
		return s.leaseUnrecorded(ctx, limit)
	}
	var list []gate.Transition
	err := s.each(ctx, `SELECT `+transitionColumns+` FROM transitions WHERE recorded = 0 ORDER BY id LIMIT ?`, []any{pageSize(limit)}, scanTransition(&list))
	if err != nil {
		return nil, fmt.Errorf("read unrecorded transitions: %w", err)
	}
	return list, nil
}

// MarkRecorded implements gate.Store. Marking twice is fine, because a process
// that died after it does so again; an id that was never given is an error.
func (s *tables) MarkRecorded(ctx context.Context, ids ...int64) error {
	if len(ids) == 0 {
		return nil
	}
	err := s.transact(ctx, nil, func(b *batch) error {
		for _, id := range ids {
			res, err := b.exec(`UPDATE transitions SET recorded = 1 WHERE id = ?`, id)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n == 0 {
				return errors.Join(err, misuse("there is no transition %d", id))
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("mark transitions as recorded: %w", err)
	}
	return nil
}

// Moved implements gate.Store. Whoever writes transitions holds
// the lock moves, so ids commit in order.
func (s *tables) Moved(ctx context.Context, after int64) ([]string, int64, error) {
	if after < 0 {
		var last int64
		if err := s.row(ctx, `SELECT coalesce(max(id), 0) FROM transitions`).Scan(&last); err != nil {
			return nil, after, fmt.Errorf("find the newest transition: %w", err)
		}
		return nil, last, nil
	}
	var list []string
	last := after
	err := s.each(ctx, `SELECT id, approval_id FROM transitions WHERE id > ? ORDER BY id LIMIT ?`, []any{after, maxLimit}, func(row scanner) error {
		var approval string
		err := row.Scan(&last, &approval)
		list = append(list, approval)
		return err
	})
	if err != nil {
		return nil, after, fmt.Errorf("read transitions: %w", err)
	}
	return list, last, nil
}
