package gate

import (
	"context"
	"time"
)

// Grant is a human's word ahead of the calls: those of one shape, asked for by
// one rule, may go without a question, so many times, until a moment.
type Grant struct {
	ID       string // "grt_" and a UUIDv7
	TenantID string
	AgentID  string // or "*" for every agent of the tenant
	Tool     string // one tool, no glob
	Resource string // glob: * is any run of characters
	// Constraints are bounds on arguments, as in passport.Claims. An argument that
	// neither they nor FreeArgs name is not within the shape.
	Constraints map[string]any
	FreeArgs    []string // arguments that may be anything, dotted paths
	// Policy, Rule and RuleHash name the rule that asks. A rule whose text changed
	// asks anew: the hash binds.
	Policy   string
	Rule     string
	RuleHash string

	Count int64 // uses, at least 1
	Used  int64
	// SumArg is the argument whose whole numbers are added up to SumMax, "" for none.
	SumArg string
	SumMax int64
	Summed int64

	KeyID      string // who granted
	KeyName    string
	Reason     string
	ApprovalID string // that it was made from, "" for none
	CreatedAt  time.Time
	ExpiresAt  time.Time
	RevokedAt  time.Time // zero: in force
	RevokedBy  string    // key id
}

// What became of a grant.
const (
	GrantLive    = "live"
	GrantUsedUp  = "used_up"
	GrantExpired = "expired"
	GrantRevoked = "revoked"
)

// State at now; the moment of its end still counts, as for approvals.
func (g *Grant) State(now time.Time) string {
	switch {
	case !g.RevokedAt.IsZero():
		return GrantRevoked
	case g.Used >= g.Count:
		return GrantUsedUp
	case now.After(g.ExpiresAt):
		return GrantExpired
	}
	return GrantLive
}

// GrantQuery selects grants, newest first.
type GrantQuery struct {
	TenantID string
	Live     bool      // only those that have a use left at Now
	Now      time.Time // with Live
	Cursor   string
	Limit    int
}

// GrantStore is the part of a Store that keeps grants.
type GrantStore interface {
	// CreateGrant stores an unused grant. ErrTooMany when the tenant has maxLive
	// live ones; ErrIllegalState when the id exists.
	CreateGrant(ctx context.Context, g Grant, maxLive int) error
	// GetGrant by id. ErrNotFound.
	GetGrant(ctx context.Context, tenant, id string) (Grant, error)
	// Grants lists.
	Grants(ctx context.Context, q GrantQuery) (list []Grant, next string, err error)
	// GrantsFor gives the live grants of one rule and tool, for an agent or for
	// every agent, the one that ends first first.
	GrantsFor(ctx context.Context, tenant, agent, tool, ruleHash string, now time.Time) ([]Grant, error)
	// UseGrant takes one use, and amount of the sum, for an event, atomically: all
	// ceilings hold, or nothing is taken and the error is ErrIllegalState (used up,
	// no room in the sum, past its end) or ErrRevoked. Again for the same event
	// takes nothing more.
	UseGrant(ctx context.Context, tenant, id, eventID string, amount int64, now time.Time) (Grant, error)
	// ReleaseGrant gives back what an event took, if it has it.
	ReleaseGrant(ctx context.Context, tenant, id, eventID string) error
	// RevokeGrant ends a grant, once; again it gives the first. ErrNotFound.
	RevokeGrant(ctx context.Context, tenant, id, keyID string, at time.Time) (Grant, error)
}
