package gate

import (
	"context"
	"time"

	"github.com/actpass/sidecar/passport"
)

// Passport is a passport as it was issued, without its token, and what became of it.
type Passport struct {
	ID       string // jti
	TenantID string
	AgentID  string
	UserID   string
	Goal     string
	Audience string
	Tools    []string
	// Resources and Constraints bound what it is for, as in passport.Claims.
	Resources   []string
	Constraints map[string]any
	RiskTier    string
	// ApprovalID is the approval that minted it, "" for none: it shares the
	// approval's single use.
	ApprovalID string
	// ApprovalHash is the one exact request that it is for, "" for any.
	ApprovalHash string
	SignedBy     string // kid
	KeyID        string // whose key issued it
	KeyName      string
	IssuedAt     time.Time
	ExpiresAt    time.Time // a call may be later by PassportLeeway

	// UsedBy is the event whose call used it, or its approval, "" for none.
	UsedBy       string
	UsedAt       time.Time // zero where it was used by a program that did not keep it
	RevokedAt    time.Time // zero: not revoked
	RevokeReason string
}

// What became of a passport.
const (
	PassportLive    = "live" // it can be used
	PassportUsed    = "used"
	PassportExpired = "expired" // and was never used
	PassportRevoked = "revoked" // used before, or not
)

// Bounds of a passport's time: how long one is good at most, and for how much longer
// a clock that goes wrong is believed.
const (
	MaxPassportTTL = passport.MaxTTL
	PassportLeeway = passport.Leeway
)

// State at now.
func (p *Passport) State(now time.Time) string {
	switch {
	case !p.RevokedAt.IsZero():
		return PassportRevoked
	case p.UsedBy != "":
		return PassportUsed
	case !now.Before(p.ExpiresAt.Add(PassportLeeway)):
		return PassportExpired
	}
	return PassportLive
}

// PassportQuery selects passports, those issued last first.
type PassportQuery struct {
	TenantID string
	AgentID  string    // "" for all
	State    string    // "" for all, else what State says at Now
	Now      time.Time // with State
	Cursor   string
	Limit    int
}

// PassportStore is the part of a Store that keeps passports: what was issued, and
// the single use of each.
type PassportStore interface {
	// KeepPassport keeps what was issued; one of the same jti replaces it. What of it
	// was used or revoked is not looked at. It may be forgotten a week after it has
	// expired.
	KeepPassport(ctx context.Context, p Passport) error
	// Passports lists.
	Passports(ctx context.Context, q PassportQuery) (list []Passport, next string, err error)
	// ClaimPassport takes the single use of a jti for an event, atomically.
	// ErrRevoked when it was revoked, ErrIllegalState when another event has it.
	// The row may be forgotten after expires.
	ClaimPassport(ctx context.Context, tenant, jti, eventID string, at, expires time.Time) error
	// ReleasePassport gives the use back, if that event has it.
	ReleasePassport(ctx context.Context, tenant, jti, eventID string) error
	// RevokePassport revokes a jti, used, unused or never seen; again is no error.
	// The row may be forgotten after expires.
	RevokePassport(ctx context.Context, tenant, jti, reason string, at, expires time.Time) error
	// PassportState tells which event used a jti ("" for none), and whether it was
	// revoked. A jti that is not known is unused.
	PassportState(ctx context.Context, tenant, jti string) (usedBy string, revoked bool, err error)
}
