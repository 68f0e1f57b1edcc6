package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/actpass/sidecar/gate"
)

// passportGrace is for how long after its end the use or the revocation of a
// passport is kept: a clock that was ahead by less, and is set right, must not
// find a passport good again that was used or revoked before.
const passportGrace = 7 * 24 * time.Hour

// ClaimPassport implements gate.Store.
func (s *tables) ClaimPassport(ctx context.Context, tenant, jti, eventID string, at, expires time.Time) error {
	if tenant == "" || jti == "" || eventID == "" || at.IsZero() || expires.IsZero() {
		return misuse("a passport is claimed by tenant, jti, event, time and expiry")
	}
	err := s.transact(ctx, []lock{exclusive("passport", tenant, jti)}, func(b *batch) error {
		if s.sweeps() {
			if err := forgetPassports(b, micros(time.Now())); err != nil {
				return err
			}
		}
		var used string
		var revoked int64
		err := b.row(`SELECT used_by, revoked_at FROM passports WHERE tenant_id = ? AND jti = ?`, []any{tenant, jti}, &used, &revoked)
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return err
		case revoked != 0:
			return gate.ErrRevoked
		case used != "" && used != eventID:
			return fmt.Errorf("event %s has used it: %w", used, gate.ErrIllegalState)
		}
		return b.run(`INSERT INTO passports (tenant_id, jti, used_by, used_at, expires_at) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (tenant_id, jti) DO UPDATE SET used_by = excluded.used_by, used_at = excluded.used_at`, tenant, jti, eventID, micros(at), micros(expires))
	})
	if err != nil {
		return fmt.Errorf("claim passport %s: %w", jti, err)
	}
	return nil
}

// ReleasePassport implements gate.Store.
func (s *tables) ReleasePassport(ctx context.Context, tenant, jti, eventID string) error {
	err := s.transact(ctx, []lock{exclusive("passport", tenant, jti)}, func(b *batch) error {
		return b.run(`UPDATE passports SET used_by = '', used_at = 0 WHERE tenant_id = ? AND jti = ? AND used_by = ?`, tenant, jti, eventID)
	})
	if err != nil {
		return fmt.Errorf("give back passport %s: %w", jti, err)
	}
	return nil
}

// RevokePassport implements gate.Store.
func (s *tables) RevokePassport(ctx context.Context, tenant, jti, reason string, at, expires time.Time) error {
	if tenant == "" || jti == "" || at.IsZero() || expires.IsZero() {
		return misuse("a passport is revoked by tenant, jti, time and expiry")
	}
	err := s.transact(ctx, []lock{exclusive("passport", tenant, jti)}, func(b *batch) error {
		return b.run(`INSERT INTO passports (tenant_id, jti, revoked_at, reason, expires_at) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (tenant_id, jti) DO UPDATE SET revoked_at = CASE WHEN passports.revoked_at = 0 THEN excluded.revoked_at ELSE passports.revoked_at END,
			reason = CASE WHEN passports.revoked_at = 0 THEN excluded.reason ELSE passports.reason END,
			expires_at = CASE WHEN passports.expires_at < excluded.expires_at THEN excluded.expires_at ELSE passports.expires_at END`,
			tenant, jti, micros(at), reason, micros(expires))
	})
	if err != nil {
		return fmt.Errorf("revoke passport %s: %w", jti, err)
	}
	return nil
}

// PassportState implements gate.Store.
func (s *tables) PassportState(ctx context.Context, tenant, jti string) (usedBy string, revoked bool, err error) {
	var at int64
	err = s.row(ctx, `SELECT used_by, revoked_at FROM passports WHERE tenant_id = ? AND jti = ?`, tenant, jti).Scan(&usedBy, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("look up passport %s: %w", jti, err)
	}
	return usedBy, at != 0, nil
}
