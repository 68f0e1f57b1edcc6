package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/actpass/sidecar/gate"
)

// KeepAnswer implements gate.Store.
func (s *tables) KeepAnswer(ctx context.Context, tenant, approval string, sealed []byte, now, expires time.Time) error {
	if tenant == "" || approval == "" || len(sealed) == 0 || expires.IsZero() {
		return misuse("an answer is kept by tenant, approval and expiry")
	}
	err := s.transact(ctx, nil, func(b *batch) error {
		if s.sweeps() {
			if err := b.run(`DELETE FROM answers WHERE expires_at < ?`, micros(now)); err != nil {
				return err
			}
		}
		return b.run(`INSERT INTO answers (tenant_id, approval_id, sealed, expires_at) VALUES (?, ?, ?, ?)
			ON CONFLICT (tenant_id, approval_id) DO UPDATE SET sealed = excluded.sealed, expires_at = excluded.expires_at`,
			tenant, approval, sealed, micros(expires))
	})
	if err != nil {
		return fmt.Errorf("keep the answer of approval %s: %w", approval, err)
	}
	return nil
}

// Answer implements gate.Store.
func (s *tables) Answer(ctx context.Context, tenant, approval string, now time.Time) ([]byte, error) {
	var sealed []byte
	err := s.row(ctx, `SELECT sealed FROM answers WHERE tenant_id = ? AND approval_id = ? AND expires_at > ?`,
		tenant, approval, micros(now)).Scan(&sealed)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, gate.ErrNotFound
	case err != nil:
		return nil, fmt.Errorf("look up the answer of approval %s: %w", approval, err)
	}
	return sealed, nil
}
