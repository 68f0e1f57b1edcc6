package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/actpass/sidecar/gate"
)

// memoryPassport is the use and the revocation of one jti.
type memoryPassport struct {
	usedBy          string
	used, revokedAt time.Time
	reason          string
}

// ClaimPassport implements gate.Store.
func (m *Memory) ClaimPassport(ctx context.Context, tenant, jti, eventID string, at, expires time.Time) error {
	return m.do(ctx, "ClaimPassport", func(s *memoryState) error {
		if tenant == "" || jti == "" || eventID == "" || at.IsZero() || expires.IsZero() {
			return misuse("a passport is claimed by tenant, jti, event, time and expiry")
		}
		p := s.passports[[2]string{tenant, jti}]
		switch {
		case !p.revokedAt.IsZero():
			return gate.ErrRevoked
		case p.usedBy != "" && p.usedBy != eventID:
			return fmt.Errorf("event %s has used it: %w", p.usedBy, gate.ErrIllegalState)
		}
		p.usedBy, p.used = eventID, stored(at)
		s.passports[[2]string{tenant, jti}] = p
		return nil
	})
}

// ReleasePassport implements gate.Store.
func (m *Memory) ReleasePassport(ctx context.Context, tenant, jti, eventID string) error {
	return m.do(ctx, "ReleasePassport", func(s *memoryState) error {
		if p := s.passports[[2]string{tenant, jti}]; p.usedBy == eventID {
			p.usedBy, p.used = "", time.Time{}
			s.passports[[2]string{tenant, jti}] = p
		}
		return nil
	})
}

// RevokePassport implements gate.Store.
func (m *Memory) RevokePassport(ctx context.Context, tenant, jti, reason string, at, expires time.Time) error {
	return m.do(ctx, "RevokePassport", func(s *memoryState) error {
		if tenant == "" || jti == "" || at.IsZero() || expires.IsZero() {
			return misuse("a passport is revoked by tenant, jti, time and expiry")
		}
		p := s.passports[[2]string{tenant, jti}]
		if p.revokedAt.IsZero() {
			p.revokedAt, p.reason = stored(at), reason
		}
		s.passports[[2]string{tenant, jti}] = p
		return nil
	})
}

// PassportState implements gate.Store.
func (m *Memory) PassportState(ctx context.Context, tenant, jti string) (usedBy string, revoked bool, err error) {
	err = m.do(ctx, "PassportState", func(s *memoryState) error {
		p := s.passports[[2]string{tenant, jti}]
		usedBy, revoked = p.usedBy, !p.revokedAt.IsZero()
		return nil
	})
	return usedBy, revoked, err
}

// KeepPassport implements gate.Store.
func (m *Memory) KeepPassport(ctx context.Context, p gate.Passport) error {
	return m.do(ctx, "KeepPassport", func(s *memoryState) error {
		if err := checkPassport(&p); err != nil {
			return err
		}
		p.IssuedAt, p.ExpiresAt = stored(p.IssuedAt), stored(p.ExpiresAt)
		s.issued[[2]string{p.TenantID, p.ID}] = ownPassport(p)
		return nil
	})
}

// ownPassport shares nothing with p that either side may change.
func ownPassport(p gate.Passport) gate.Passport {
	p.Tools, p.Resources, p.Constraints = slices.Clone(p.Tools), slices.Clone(p.Resources), maps.Clone(p.Constraints)
	return p
}

// Passports implements gate.Store.
func (m *Memory) Passports(ctx context.Context, q gate.PassportQuery) (list []gate.Passport, next string, err error) {
	err = m.do(ctx, "Passports", func(s *memoryState) error {
		if !slices.Contains([]string{"", gate.PassportLive, gate.PassportUsed, gate.PassportExpired, gate.PassportRevoked}, q.State) {
			return misuse("passports in state %q", q.State)
		}
		all := make(map[[2]string]gate.Passport, len(s.issued))
		for key, p := range s.issued {
			was := s.passports[key]
			p.UsedBy, p.UsedAt, p.RevokedAt, p.RevokeReason = was.usedBy, was.used, was.revokedAt, was.reason
			if a := s.approvals[p.ApprovalID]; p.UsedBy == "" && a.TenantID == p.TenantID && a.ConsumedBy != "" {
				p.UsedBy, p.UsedAt = a.ConsumedBy, a.ClosedAt
			}
			all[key] = ownPassport(p)
		}
		var err error
		list, next, err = newestFirst(all, passportPosition, func(p gate.Passport) bool {
			return p.TenantID == q.TenantID && (q.AgentID == "" || p.AgentID == q.AgentID) && (q.State == "" || p.State(q.Now) == q.State)
		}, q.Cursor, q.Limit)
		return err
	})
	return list, next, err
}
