package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/actpass/sidecar/gate"
)

// What one transaction of Prune removes at most. Approvals have a few moves each;
// a grant has up to gate.MaxGrantUses uses.
const (
	prunePage  = 64
	pruneUses  = 500
	trimPage   = 256
	closedRows = `state NOT IN ('pending', 'approved')` // as the index has it
)

// pruning is the lock of Prune: sidecars that share a database take turns.
var pruning = []lock{exclusive("prune")}

// Prune implements gate.Store.
func (s *tables) Prune(ctx context.Context, before, now time.Time) (n gate.Pruned, err error) {
	if before.IsZero() || now.IsZero() || before.After(now) {
		return n, misuse("pruning what ended before %s, at %s", before, now)
	}
	if err := s.closeOld(ctx); err != nil {
		return n, fmt.Errorf("prune: look for when old approvals were closed: %w", err)
	}
	if n.Approvals, n.Moves, err = s.pruneApprovals(ctx, before, now); err != nil {
		return n, fmt.Errorf("prune approvals: %w", err)
	}
	if n.Grants, n.Uses, err = s.pruneGrants(ctx, before); err != nil {
		return n, fmt.Errorf("prune grants: %w", err)
	}
	n.Answers, err = s.trim(ctx, "answers", "tenant_id, approval_id", `expires_at <= ?`, micros(now))
	if err != nil {
		return n, fmt.Errorf("prune kept answers: %w", err)
	}
	return n, nil
}

// closeOld fills in when approvals were closed that a program closed which did not
// know of it, until there is none.
func (s *tables) closeOld(ctx context.Context) error {
	for {
		var list []gate.Approval
		err := s.each(ctx, `SELECT `+approvalColumns+` FROM approvals WHERE `+closedRows+` AND closed_at = 0 ORDER BY closed_at LIMIT ?`, []any{prunePage}, func(row scanner) error {
			a, err := scanApproval(row)
			list = append(list, a)
			return err
		})
		if err != nil || len(list) == 0 {
			return err
		}
		err = s.transact(ctx, pruning, func(b *batch) error {
			for _, a := range list {
				var last int64
				if err := b.row(`SELECT coalesce(max(at), 0) FROM transitions WHERE approval_id = ?`, []any{a.ID}, &last); err != nil {
					return err
				}
				last = max(last, micros(a.CreatedAt), micros(a.DecidedAt))
				if err := b.run(`UPDATE approvals SET closed_at = ?, rest_at = ? WHERE id = ? AND closed_at = 0`, last, micros(restAt(a)), a.ID); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// pruneApprovals looks first and writes then, so that looking keeps nobody
// waiting. In between nothing can speak for one of them again: closed ones do not
// move, and neither answers nor deliveries come to them any more. Answers stand
// under the approval's id, or under one that begins with it and a slash; '0' is
// what follows the slash.
func (s *tables) pruneApprovals(ctx context.Context, before, now time.Time) (approvals, moves int, err error) {
	var ids []string
	err = s.each(ctx, `SELECT id FROM approvals a WHERE `+closedRows+` AND closed_at > 0 AND closed_at < ? AND rest_at < ?
		AND NOT EXISTS (SELECT 1 FROM transitions t WHERE t.approval_id = a.id AND t.recorded = 0)
		AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.approval_id = a.id AND d.state IN ('queued', 'dead'))
		AND NOT EXISTS (SELECT 1 FROM answers k WHERE k.tenant_id = a.tenant_id AND k.approval_id >= a.id AND k.approval_id < a.id || '0' AND k.expires_at > ?)
		ORDER BY closed_at, rest_at LIMIT ?`, []any{micros(before), micros(now), micros(now), prunePage}, func(row scanner) error {
		var id string
		err := row.Scan(&id)
		ids = append(ids, id)
		return err
	})
	if err != nil || len(ids) == 0 {
		return 0, 0, err
	}
	err = s.transact(ctx, pruning, func(b *batch) error {
		approvals, moves = 0, 0
		for _, id := range ids {
			n, err := b.removed(`DELETE FROM transitions WHERE approval_id = ?`, id)
			if err != nil {
				return err
			}
			moves += n
			if n, err = b.removed(`DELETE FROM approvals WHERE id = ? AND `+closedRows, id); err != nil {
				return err
			}
			approvals += n
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	return approvals, moves, nil
}

// pruneGrants removes grants that ended before before. One that is used up or
// revoked stays until then too: a use may be given back. A grant goes with the last
// of its uses.
func (s *tables) pruneGrants(ctx context.Context, before time.Time) (grants, uses int, err error) {
	var ids []string
	err = s.each(ctx, `SELECT id FROM grants WHERE expires_at < ? ORDER BY expires_at LIMIT ?`, []any{micros(before), prunePage}, func(row scanner) error {
		var id string
		err := row.Scan(&id)
		ids = append(ids, id)
		return err
	})
	for _, id := range ids {
		if err != nil {
			return grants, uses, err
		}
		var gone, taken int
		err = s.transact(ctx, []lock{exclusive("grant", id)}, func(b *batch) error {
			var err error
			taken, err = b.removed(`DELETE FROM grant_uses WHERE grant_id = ? AND event_id IN (SELECT event_id FROM grant_uses WHERE grant_id = ? LIMIT ?)`, id, id, pruneUses)
			if gone = 0; err != nil || taken == pruneUses {
				return err
			}
			gone, err = b.removed(`DELETE FROM grants WHERE id = ?`, id)
			return err
		})
		if err == nil {
			grants, uses = grants+gone, uses+taken
		}
	}
	return grants, uses, err
}

// removed runs a DELETE and counts.
func (b *batch) removed(query string, args ...any) (int, error) {
	res, err := b.exec(query, args...)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	return int(n), err
}

// trim deletes a page of what cond selects, by key, and looks before it writes:
// most of the time there is nothing.
func (s *tables) trim(ctx context.Context, table, key, cond string, args ...any) (n int, err error) {
	var some bool
	if err := s.row(ctx, `SELECT EXISTS (SELECT 1 FROM `+table+` WHERE `+cond+`)`, args...).Scan(&some); err != nil || !some {
		return 0, err
	}
	err = s.transact(ctx, pruning, func(b *batch) error {
		var err error
		n, err = b.removed(`DELETE FROM `+table+` WHERE (`+key+`) IN (SELECT `+key+` FROM `+table+` WHERE `+cond+` LIMIT ?)`, append(args[:len(args):len(args)], trimPage)...)
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// trimAll is trim until there is no more.
func (s *tables) trimAll(ctx context.Context, table, key, cond string, args ...any) error {
	for {
		if n, err := s.trim(ctx, table, key, cond, args...); err != nil || n == 0 {
			return err
		}
	}
}

// Forget implements notify.Outbox.
func (s *tables) Forget(ctx context.Context, delivered, dead, now time.Time) error {
	err := errors.Join(
		s.trimAll(ctx, "deliveries", "seq", `state = 'delivered' AND settled_at < ?`, micros(delivered)),
		s.trimAll(ctx, "deliveries", "seq", `state = 'dead' AND settled_at < ?`, micros(dead)),
		s.trimAll(ctx, "receipts", "channel, approval_id", `at < ?`, micros(dead)),
		s.trimAll(ctx, "callbacks", "channel, token", `expires_at < ?`, micros(now)))
	if err != nil {
		return fmt.Errorf("forget old deliveries: %w", err)
	}
	return nil
}
