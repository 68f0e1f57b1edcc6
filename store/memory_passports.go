package store

import (
	"context"
	"fmt"
	"time"

	"github.com/actpass/sidecar/gate"
)

// memoryPassport is the use and the revocation of one jti.
type memoryPassport struct {
	usedBy  string
	revoked bool
}

// ClaimPassport implements gate.Store.
func (m *Memory) ClaimPassport(ctx context.Context, tenant, jti, eventID string, expires time.Time) error {
	return m.do(ctx, "ClaimPassport", func(s *memoryState) error {
		if tenant == "" || jti == "" || eventID == "" || expires.IsZero() {
			return misuse("a passport is claimed by tenant, jti, event and expiry")
		}
		p := s.passports[[2]string{tenant, jti}]
		switch {
		case p.revoked:
			return gate.ErrRevoked
		case p.usedBy != "" && p.usedBy != eventID:
			return fmt.Errorf("event %s has used it: %w", p.usedBy, gate.ErrIllegalState)
		}
		p.usedBy = eventID
		s.passports[[2]string{tenant, jti}] = p
		return nil
	})
}

// ReleasePassport implements gate.Store.
func (m *Memory) ReleasePassport(ctx context.Context, tenant, jti, eventID string) error {
	return m.do(ctx, "ReleasePassport", func(s *memoryState) error {
		if p := s.passports[[2]string{tenant, jti}]; p.usedBy == eventID {
			p.usedBy = ""
			s.passports[[2]string{tenant, jti}] = p
		}
		return nil
	})
}

// RevokePassport implements gate.Store.
func (m *Memory) RevokePassport(ctx context.Context, tenant, jti, _ string, at, expires time.Time) error {
	return m.do(ctx, "RevokePassport", func(s *memoryState) error {
		if tenant == "" || jti == "" || at.IsZero() || expires.IsZero() {
			return misuse("a passport is revoked by tenant, jti, time and expiry")
		}
		p := s.passports[[2]string{tenant, jti}]
		p.revoked = true
		s.passports[[2]string{tenant, jti}] = p
		return nil
	})
}

// PassportState implements gate.Store.
func (m *Memory) PassportState(ctx context.Context, tenant, jti string) (usedBy string, revoked bool, err error) {
	err = m.do(ctx, "PassportState", func(s *memoryState) error {
		p := s.passports[[2]string{tenant, jti}]
		usedBy, revoked = p.usedBy, p.revoked
		return nil
	})
	return usedBy, revoked, err
}
