package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/actpass/sidecar/gate"
)

const grantColumns = `id, tenant_id, agent_id, tool, rule_hash, max_uses, used, sum_max, summed, created_at, expires_at, revoked_at, revoked_by, shape`

// shape is the part of a grant that never changes, as it is stored. New members
// are added; none changes its name. A member that this program does not know
// could be a bound, so it is an error and not passed over.
type shape struct {
	Resource    string          `json:"resource"`
	Constraints json.RawMessage `json:"constraints,omitempty"`
	FreeArgs    []string        `json:"free_args,omitempty"`
	Policy      string          `json:"policy"`
	Rule        string          `json:"rule"`
	SumArg      string          `json:"sum_arg,omitempty"`
	KeyID       string          `json:"key_id"`
	KeyName     string          `json:"key_name,omitempty"`
	Reason      string          `json:"reason,omitempty"`
	ApprovalID  string          `json:"approval_id,omitempty"`
}

func encodeShape(g gate.Grant) (string, error) {
	s := shape{
		Resource: g.Resource, FreeArgs: g.FreeArgs, Policy: g.Policy, Rule: g.Rule, SumArg: g.SumArg,
		KeyID: g.KeyID, KeyName: g.KeyName, Reason: g.Reason, ApprovalID: g.ApprovalID,
	}
	if g.Constraints != nil {
		raw, err := json.Marshal(g.Constraints)
		if err != nil {
			return "", fmt.Errorf("encode the constraints: %w", err)
		}
		s.Constraints = raw
	}
	raw, err := json.Marshal(s)
	return string(raw), err
}

func scanGrant(row scanner) (gate.Grant, error) {
	var g gate.Grant
	var created, expires, revoked int64
	var rest []byte
	err := row.Scan(&g.ID, &g.TenantID, &g.AgentID, &g.Tool, &g.RuleHash, &g.Count, &g.Used, &g.SumMax, &g.Summed,
		&created, &expires, &revoked, &g.RevokedBy, &rest)
	if err != nil {
		return gate.Grant{}, err
	}
	g.CreatedAt, g.ExpiresAt, g.RevokedAt = fromMicros(created), fromMicros(expires), fromMicros(revoked)
	var s shape
	if err := strictJSON(rest, &s); err != nil {
		return gate.Grant{}, fmt.Errorf("grant %s as stored: %w", g.ID, err)
	}
	g.Resource, g.FreeArgs, g.Policy, g.Rule, g.SumArg = s.Resource, s.FreeArgs, s.Policy, s.Rule, s.SumArg
	g.KeyID, g.KeyName, g.Reason, g.ApprovalID = s.KeyID, s.KeyName, s.Reason, s.ApprovalID
	if s.Constraints != nil {
		if g.Constraints, err = decodeArgs(s.Constraints); err != nil {
			return gate.Grant{}, fmt.Errorf("constraints of grant %s as stored: %w", g.ID, err)
		}
	}
	return g, nil
}

// grant reads one in the transaction. gate.ErrNotFound.
func (b *batch) grant(tenant, id string) (gate.Grant, error) {
	g, err := scanGrant(b.one(`SELECT `+grantColumns+` FROM grants WHERE tenant_id = ? AND id = ?`, tenant, id))
	if errors.Is(err, sql.ErrNoRows) {
		return gate.Grant{}, notFound("grant", id)
	}
	return g, err
}

// CreateGrant implements gate.Store.
func (s *tables) CreateGrant(ctx context.Context, g gate.Grant, maxLive int) error {
	if err := checkGrant(g); err != nil {
		return err
	}
	rest, err := encodeShape(g)
	if err != nil {
		return fmt.Errorf("store grant %s: %w", g.ID, err)
	}
	err = s.transact(ctx, []lock{exclusive("grants", g.TenantID)}, func(b *batch) error {
		var taken, live int
		if err := b.row(`SELECT count(*) FROM grants WHERE id = ?`, []any{g.ID}, &taken); err != nil {
			return err
		}
		if taken > 0 {
			return fmt.Errorf("it exists: %w", gate.ErrIllegalState)
		}
		err := b.row(`SELECT count(*) FROM grants WHERE tenant_id = ? AND revoked_at = 0 AND used < max_uses AND expires_at >= ?`,
			[]any{g.TenantID, micros(g.CreatedAt)}, &live)
		if err != nil {
			return err
		}
		if live >= maxLive {
			return fmt.Errorf("%d grants are in force already: %w", live, gate.ErrTooMany)
		}
		return b.run(`INSERT INTO grants (`+grantColumns+`) VALUES (?, ?, ?, ?, ?, ?, 0, ?, 0, ?, ?, 0, '', ?)`,
			g.ID, g.TenantID, g.AgentID, g.Tool, g.RuleHash, g.Count, g.SumMax, micros(g.CreatedAt), micros(g.ExpiresAt), rest)
	})
	if err != nil {
		return fmt.Errorf("store grant %s: %w", g.ID, err)
	}
	return nil
}

// GetGrant implements gate.Store.
func (s *tables) GetGrant(ctx context.Context, tenant, id string) (gate.Grant, error) {
	g, err := scanGrant(s.row(ctx, `SELECT `+grantColumns+` FROM grants WHERE tenant_id = ? AND id = ?`, tenant, id))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return gate.Grant{}, notFound("grant", id)
	case err != nil:
		return gate.Grant{}, fmt.Errorf("find grant %s: %w", id, err)
	}
	return g, nil
}

// Grants implements gate.Store.
func (s *tables) Grants(ctx context.Context, q gate.GrantQuery) ([]gate.Grant, string, error) {
	from, err := parsePosition(q.Cursor)
	if err != nil {
		return nil, "", err
	}
	limit := pageSize(q.Limit)
	where, args := "", []any{q.TenantID, from.at, from.id}
	if q.Live {
		where, args = " AND revoked_at = 0 AND used < max_uses AND expires_at >= ?", append(args, micros(q.Now))
	}
	list, err := s.grants(ctx, `WHERE tenant_id = ? AND (created_at, id) < (?, ?)`+where+` ORDER BY created_at DESC, id DESC LIMIT ?`, append(args, limit+1)...)
	if err != nil {
		return nil, "", err
	}
	list, next := page(list, limit, grantPosition)
	return list, next, nil
}

// GrantsFor implements gate.Store.
func (s *tables) GrantsFor(ctx context.Context, tenant, agent, tool, ruleHash string, now time.Time) ([]gate.Grant, error) {
	return s.grants(ctx, `WHERE tenant_id = ? AND tool = ? AND rule_hash = ? AND agent_id IN (?, '*')
		AND revoked_at = 0 AND used < max_uses AND expires_at >= ? ORDER BY expires_at, id`, tenant, tool, ruleHash, agent, micros(now))
}

func (s *tables) grants(ctx context.Context, where string, args ...any) ([]gate.Grant, error) {
	var list []gate.Grant
	err := s.each(ctx, `SELECT `+grantColumns+` FROM grants `+where, args, func(row scanner) error {
		g, err := scanGrant(row)
		list = append(list, g)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list grants: %w", err)
	}
	return list, nil
}

// UseGrant implements gate.Store. The count, the sum and the use are one
// transaction: a crash before its end took nothing, one after it took one use.
func (s *tables) UseGrant(ctx context.Context, tenant, id, eventID string, amount int64, now time.Time) (gate.Grant, error) {
	var got gate.Grant
	err := s.transact(ctx, []lock{exclusive("grant", id)}, func(b *batch) error {
		g, err := b.grant(tenant, id)
		if err != nil {
			return err
		}
		var had int
		if err := b.row(`SELECT count(*) FROM grant_uses WHERE grant_id = ? AND event_id = ?`, []any{id, eventID}, &had); err != nil {
			return err
		}
		if got = g; had > 0 {
			return nil
		}
		if err := grantUse(&got, eventID, amount, now); err != nil {
			return err
		}
		if err := b.run(`UPDATE grants SET used = ?, summed = ? WHERE id = ?`, got.Used, got.Summed, id); err != nil {
			return err
		}
		return b.run(`INSERT INTO grant_uses (grant_id, event_id, amount, at) VALUES (?, ?, ?, ?)`, id, eventID, amount, micros(now))
	})
	if err != nil {
		return gate.Grant{}, fmt.Errorf("use grant %s: %w", id, err)
	}
	return got, nil
}

// ReleaseGrant implements gate.Store.
func (s *tables) ReleaseGrant(ctx context.Context, tenant, id, eventID string) error {
	err := s.transact(ctx, []lock{exclusive("grant", id)}, func(b *batch) error {
		g, err := b.grant(tenant, id)
		if errors.Is(err, gate.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		var amount int64
		err = b.row(`SELECT amount FROM grant_uses WHERE grant_id = ? AND event_id = ?`, []any{id, eventID}, &amount)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		ungrant(&g, amount)
		if err := b.run(`DELETE FROM grant_uses WHERE grant_id = ? AND event_id = ?`, id, eventID); err != nil {
			return err
		}
		return b.run(`UPDATE grants SET used = ?, summed = ? WHERE id = ?`, g.Used, g.Summed, id)
	})
	if err != nil {
		return fmt.Errorf("give back a use of grant %s: %w", id, err)
	}
	return nil
}

// RevokeGrant implements gate.Store.
func (s *tables) RevokeGrant(ctx context.Context, tenant, id, keyID string, at time.Time) (gate.Grant, error) {
	if keyID == "" || at.IsZero() {
		return gate.Grant{}, misuse("revoking grant %s without a key or a time", id)
	}
	var got gate.Grant
	err := s.transact(ctx, []lock{exclusive("grant", id)}, func(b *batch) error {
		err := b.run(`UPDATE grants SET revoked_at = ?, revoked_by = ? WHERE tenant_id = ? AND id = ? AND revoked_at = 0`, micros(at), keyID, tenant, id)
		if err != nil {
			return err
		}
		got, err = b.grant(tenant, id)
		return err
	})
	if err != nil {
		return gate.Grant{}, fmt.Errorf("revoke grant %s: %w", id, err)
	}
	return got, nil
}
