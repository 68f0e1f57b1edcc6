package store

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/actpass/sidecar/gate"
)

// memoryGrantUse is what one event took of a grant.
type memoryGrantUse struct {
	grant, event string
}

// CreateGrant implements gate.Store.
func (m *Memory) CreateGrant(ctx context.Context, g gate.Grant, maxLive int) error {
	return m.do(ctx, "CreateGrant", func(s *memoryState) error {
		if err := checkGrant(g); err != nil {
			return err
		}
		if _, taken := s.grants[g.ID]; taken {
			return fmt.Errorf("grant %s exists: %w", g.ID, gate.ErrIllegalState)
		}
		live := 0
		for _, old := range s.grants {
			if old.TenantID == g.TenantID && grantLive(&old, g.CreatedAt) {
				live++
			}
		}
		if live >= maxLive {
			return fmt.Errorf("%d grants are in force already: %w", live, gate.ErrTooMany)
		}
		g = ownGrant(g)
		g.CreatedAt, g.ExpiresAt = stored(g.CreatedAt), stored(g.ExpiresAt)
		s.grants[g.ID] = g
		return nil
	})
}

// ownGrant shares nothing with g that either side may change.
func ownGrant(g gate.Grant) gate.Grant {
	g.Constraints, g.FreeArgs = maps.Clone(g.Constraints), slices.Clone(g.FreeArgs)
	return g
}

func (s *memoryState) grant(tenant, id string) (gate.Grant, error) {
	g, ok := s.grants[id]
	if !ok || g.TenantID != tenant {
		return gate.Grant{}, notFound("grant", id)
	}
	return ownGrant(g), nil
}

// GetGrant implements gate.Store.
func (m *Memory) GetGrant(ctx context.Context, tenant, id string) (g gate.Grant, err error) {
	err = m.do(ctx, "GetGrant", func(s *memoryState) (err error) {
		g, err = s.grant(tenant, id)
		return err
	})
	return answer(g, err)
}

// Grants implements gate.Store.
func (m *Memory) Grants(ctx context.Context, q gate.GrantQuery) (list []gate.Grant, next string, err error) {
	err = m.do(ctx, "Grants", func(s *memoryState) (err error) {
		list, next, err = newestFirst(s.grants, grantPosition, func(g gate.Grant) bool {
			return g.TenantID == q.TenantID && (!q.Live || grantLive(&g, q.Now))
		}, q.Cursor, q.Limit)
		for i := range list {
			list[i] = ownGrant(list[i])
		}
		return err
	})
	return list, next, err
}

// GrantsFor implements gate.Store.
func (m *Memory) GrantsFor(ctx context.Context, tenant, agent, tool, ruleHash string, now time.Time) (list []gate.Grant, err error) {
	err = m.do(ctx, "GrantsFor", func(s *memoryState) error {
		for _, g := range s.grants {
			if g.TenantID == tenant && (g.AgentID == agent || g.AgentID == "*") && g.Tool == tool && g.RuleHash == ruleHash && grantLive(&g, now) {
				list = append(list, ownGrant(g))
			}
		}
		slices.SortFunc(list, func(a, b gate.Grant) int {
			return cmp.Or(a.ExpiresAt.Compare(b.ExpiresAt), cmp.Compare(a.ID, b.ID))
		})
		return nil
	})
	return answer(list, err)
}

// UseGrant implements gate.Store.
func (m *Memory) UseGrant(ctx context.Context, tenant, id, eventID string, amount int64, now time.Time) (got gate.Grant, err error) {
	err = m.do(ctx, "UseGrant", func(s *memoryState) error {
		g, err := s.grant(tenant, id)
		if err != nil {
			return err
		}
		use := memoryGrantUse{id, eventID}
		if _, had := s.grantUses[use]; !had {
			if err := grantUse(&g, eventID, amount, now); err != nil {
				return err
			}
			s.grants[id], s.grantUses[use] = g, amount
		}
		got = ownGrant(g)
		return nil
	})
	return answer(got, err)
}

// ReleaseGrant implements gate.Store.
func (m *Memory) ReleaseGrant(ctx context.Context, tenant, id, eventID string) error {
	return m.do(ctx, "ReleaseGrant", func(s *memoryState) error {
		use := memoryGrantUse{id, eventID}
		amount, had := s.grantUses[use]
		g, err := s.grant(tenant, id)
		if !had || err != nil {
			return nil // nothing of this tenant's was taken
		}
		ungrant(&g, amount)
		s.grants[id] = g
		delete(s.grantUses, use)
		return nil
	})
}

// RevokeGrant implements gate.Store.
func (m *Memory) RevokeGrant(ctx context.Context, tenant, id, keyID string, at time.Time) (got gate.Grant, err error) {
	err = m.do(ctx, "RevokeGrant", func(s *memoryState) error {
		if keyID == "" || at.IsZero() {
			return misuse("revoking grant %s without a key or a time", id)
		}
		g, err := s.grant(tenant, id)
		if err != nil {
			return err
		}
		if g.RevokedAt.IsZero() {
			g.RevokedAt, g.RevokedBy = stored(at), keyID
			s.grants[id] = g
		}
		got = ownGrant(g)
		return nil
	})
	return answer(got, err)
}
