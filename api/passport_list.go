package api

import (
	"context"
	"net/http"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// Passport is a passport that was issued, and what became of it. Its token is not
// kept.
type Passport struct {
	ID                  string         `json:"jti"`
	State               string         `json:"state"`     // live, used, expired, revoked
	UsesLeft            int            `json:"uses_left"` // 1 or 0
	AgentID             string         `json:"agent_id"`
	UserID              string         `json:"user_id"`
	Goal                string         `json:"goal"`
	Audience            string         `json:"audience"`
	AllowedTools        []string       `json:"allowed_tools"`        // never null
	AllowedResources    []string       `json:"allowed_resources"`    // never null
	ResourceConstraints Constraints    `json:"resource_constraints"` // never null
	RiskTier            string         `json:"risk_tier"`            // "": any
	ApprovalID          string         `json:"approval_id"`          // that minted it, "" for none
	ApprovalHash        string         `json:"approval_hash"`        // of the one request that it is for, "" for any
	SignedBy            string         `json:"kid"`
	KeyID               string         `json:"key_id"` // who issued it
	Name                string         `json:"name"`   // of that key
	IssuedAt            evidence.Time  `json:"issued_at"`
	ExpiresAt           evidence.Time  `json:"expires_at"`
	UsedBy              string         `json:"used_by"` // event, "" for none
	UsedAt              *evidence.Time `json:"used_at"`
	RevokedAt           *evidence.Time `json:"revoked_at"`
	RevokeReason        string         `json:"revoke_reason"`
}

// PassportOf renders p as it is at now.
func PassportOf(p gate.Passport, now time.Time) Passport {
	out := Passport{
		ID: p.ID, State: p.State(now), AgentID: p.AgentID, UserID: p.UserID, Goal: p.Goal, Audience: p.Audience,
		AllowedTools: list(p.Tools), AllowedResources: list(p.Resources), ResourceConstraints: p.Constraints, RiskTier: p.RiskTier,
		ApprovalID: p.ApprovalID, ApprovalHash: p.ApprovalHash, SignedBy: p.SignedBy, KeyID: p.KeyID, Name: p.KeyName,
		IssuedAt: evidence.Time{Time: p.IssuedAt}, ExpiresAt: evidence.Time{Time: p.ExpiresAt}, UsedBy: p.UsedBy, UsedAt: moment(p.UsedAt),
		RevokedAt: moment(p.RevokedAt), RevokeReason: p.RevokeReason,
	}
	if out.State == gate.PassportLive {
		out.UsesLeft = 1
	}
	if out.ResourceConstraints == nil {
		out.ResourceConstraints = Constraints{}
	}
	return out
}

// PassportQuery selects passports, those issued last first. Empty fields select
// all.
type PassportQuery struct {
	AgentID string
	State   string // live, used, expired, revoked
	Cursor  string
	Limit   int
}

func (s *server) listPassports(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	q, err := readQuery(r, "state", "agent_id", "limit", "cursor")
	if err != nil {
		return err
	}
	n, err := q.limit()
	if err != nil {
		return err
	}
	state, err := q.oneOf("state", gate.PassportLive, gate.PassportUsed, gate.PassportExpired, gate.PassportRevoked)
	if err != nil {
		return err
	}
	found, next, err := s.Gate.Passports(r.Context(), id, gate.PassportQuery{AgentID: q["agent_id"], State: state, Cursor: q["cursor"], Limit: n})
	if err != nil {
		return about("passport", storeDown, err)
	}
	p := Page[Passport]{Data: []Passport{}, Next: next}
	for _, one := range found {
		p.Data = append(p.Data, PassportOf(one, s.Now()))
	}
	return writeJSON(w, http.StatusOK, p)
}

// Passports lists what was issued, newest first, for a week after its end.
func (c *Client) Passports(ctx context.Context, q PassportQuery) (p Page[Passport], err error) {
	v := paging(q.Cursor, q.Limit)
	set(v, "state", q.State)
	set(v, "agent_id", q.AgentID)
	err = c.call(ctx, http.MethodGet, "/api/v1/passports", v, nil, &p)
	return p, err
}
