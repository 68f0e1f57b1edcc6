package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/actpass/sidecar/gate"
)

// issued is the part of a passport that never changes, as it is stored. New
// members are added; none changes its name.
type issued struct {
	UserID       string          `json:"user_id,omitempty"`
	Goal         string          `json:"goal,omitempty"`
	Audience     string          `json:"aud,omitempty"`
	Tools        []string        `json:"allowed_tools"`
	Resources    []string        `json:"allowed_resources"`
	Constraints  json.RawMessage `json:"resource_constraints,omitempty"`
	RiskTier     string          `json:"risk_tier,omitempty"`
	ApprovalHash string          `json:"approval_hash,omitempty"`
	SignedBy     string          `json:"kid,omitempty"`
	KeyID        string          `json:"key_id,omitempty"`
	KeyName      string          `json:"key_name,omitempty"`
}

func checkPassport(p *gate.Passport) error {
	switch {
	case p.ID == "" || p.TenantID == "" || p.AgentID == "" || p.IssuedAt.IsZero() || p.ExpiresAt.IsZero():
		return misuse("a passport needs an id, a tenant, an agent, and the times of its issue and its end")
	case p.UsedBy != "" || !p.RevokedAt.IsZero():
		return misuse("passport %s is used or revoked before it begins", p.ID)
	}
	return nil
}

func passportPosition(p gate.Passport) position { return position{at: micros(p.IssuedAt), id: p.ID} }

// forgetPassports removes what a week ago was over: uses, revocations, and what was
// issued.
func forgetPassports(b *batch, now int64) error {
	end := now - passportGrace.Microseconds()
	if err := b.run(`DELETE FROM passports WHERE expires_at < ?`, end); err != nil {
		return err
	}
	return b.run(`DELETE FROM issued_passports WHERE expires_at < ?`, end)
}

// KeepPassport implements gate.Store.
func (s *tables) KeepPassport(ctx context.Context, p gate.Passport) error {
	if err := checkPassport(&p); err != nil {
		return err
	}
	row := issued{
		UserID: p.UserID, Goal: p.Goal, Audience: p.Audience, Tools: p.Tools, Resources: p.Resources, RiskTier: p.RiskTier,
		ApprovalHash: p.ApprovalHash, SignedBy: p.SignedBy, KeyID: p.KeyID, KeyName: p.KeyName,
	}
	var err error
	if p.Constraints != nil {
		if row.Constraints, err = json.Marshal(p.Constraints); err != nil {
			return fmt.Errorf("keep passport %s: encode the constraints: %w", p.ID, err)
		}
	}
	claims, err := json.Marshal(row)
	if err != nil {
		return fmt.Errorf("keep passport %s: %w", p.ID, err)
	}
	err = s.transact(ctx, []lock{exclusive("passport", p.TenantID, p.ID)}, func(b *batch) error {
		if s.sweeps() {
			if err := forgetPassports(b, micros(time.Now())); err != nil {
				return err
			}
		}
		return b.run(`INSERT INTO issued_passports (tenant_id, jti, agent_id, approval_id, issued_at, expires_at, claims) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (tenant_id, jti) DO UPDATE SET agent_id = excluded.agent_id, approval_id = excluded.approval_id,
			issued_at = excluded.issued_at, expires_at = excluded.expires_at, claims = excluded.claims`,
			p.TenantID, p.ID, p.AgentID, p.ApprovalID, micros(p.IssuedAt), micros(p.ExpiresAt), string(claims))
	})
	if err != nil {
		return fmt.Errorf("keep passport %s: %w", p.ID, err)
	}
	return nil
}

// issuedRows are passports with what became of them: a use is its own, or that of
// the approval that minted it.
const issuedRows = `SELECT i.jti, i.tenant_id, i.agent_id, i.approval_id, i.issued_at, i.expires_at, i.claims,
		coalesce(nullif(p.used_by, ''), a.consumed_by, ''),
		CASE WHEN coalesce(p.used_by, '') <> '' THEN p.used_at WHEN coalesce(a.consumed_by, '') <> '' THEN a.closed_at ELSE 0 END,
		coalesce(p.revoked_at, 0), coalesce(p.reason, '')
	FROM issued_passports i
	LEFT JOIN passports p ON p.tenant_id = i.tenant_id AND p.jti = i.jti
	LEFT JOIN approvals a ON a.id = i.approval_id AND a.tenant_id = i.tenant_id
	WHERE i.tenant_id = ? AND (i.issued_at, i.jti) < (?, ?)`

const (
	passportUsed    = `(coalesce(p.used_by, '') <> '' OR coalesce(a.consumed_by, '') <> '')`
	passportRevoked = `coalesce(p.revoked_at, 0) <> 0`
)

// Passports implements gate.Store.
func (s *tables) Passports(ctx context.Context, q gate.PassportQuery) ([]gate.Passport, string, error) {
	from, err := parsePosition(q.Cursor)
	if err != nil {
		return nil, "", err
	}
	where, args := "", []any{q.TenantID, from.at, from.id}
	if q.AgentID != "" {
		where, args = ` AND i.agent_id = ?`, append(args, q.AgentID)
	}
	begun := micros(q.Now.Add(-gate.PassportLeeway)) // what ends later is good
	switch q.State {
	case "":
	case gate.PassportRevoked:
		where += ` AND ` + passportRevoked
	case gate.PassportUsed:
		where += ` AND NOT ` + passportRevoked + ` AND ` + passportUsed
	case gate.PassportExpired:
		where, args = where+` AND NOT `+passportRevoked+` AND NOT `+passportUsed+` AND i.expires_at <= ?`, append(args, begun)
	case gate.PassportLive:
		// None lives longer than MaxTTL, so that older ones need not be looked at.
		where += ` AND NOT ` + passportRevoked + ` AND NOT ` + passportUsed + ` AND i.expires_at > ? AND i.issued_at >= ?`
		args = append(args, begun, begun-gate.MaxPassportTTL.Microseconds())
	default:
		return nil, "", misuse("passports in state %q", q.State)
	}
	limit := pageSize(q.Limit)
	var list []gate.Passport
	err = s.each(ctx, issuedRows+where+` ORDER BY i.issued_at DESC, i.jti DESC LIMIT ?`, append(args, limit+1), func(row scanner) error {
		p, err := scanPassport(row)
		list = append(list, p)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list passports: %w", err)
	}
	list, next := page(list, limit, passportPosition)
	return list, next, nil
}

func scanPassport(row scanner) (gate.Passport, error) {
	var p gate.Passport
	var at, end, used, revoked int64
	var claims []byte
	err := row.Scan(&p.ID, &p.TenantID, &p.AgentID, &p.ApprovalID, &at, &end, &claims, &p.UsedBy, &used, &revoked, &p.RevokeReason)
	if err != nil {
		return gate.Passport{}, err
	}
	p.IssuedAt, p.ExpiresAt, p.UsedAt, p.RevokedAt = fromMicros(at), fromMicros(end), fromMicros(used), fromMicros(revoked)
	var c issued // a newer program's members are for it to show
	if err := json.Unmarshal(claims, &c); err != nil {
		return gate.Passport{}, fmt.Errorf("passport %s as stored: %w", p.ID, err)
	}
	p.UserID, p.Goal, p.Audience, p.Tools, p.Resources = c.UserID, c.Goal, c.Audience, c.Tools, c.Resources
	p.RiskTier, p.ApprovalHash, p.SignedBy, p.KeyID, p.KeyName = c.RiskTier, c.ApprovalHash, c.SignedBy, c.KeyID, c.KeyName
	if c.Constraints != nil {
		if p.Constraints, err = decodeArgs(c.Constraints); err != nil {
			return gate.Passport{}, fmt.Errorf("constraints of passport %s as stored: %w", p.ID, err)
		}
	}
	return p, nil
}
