package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/passport"
)

// NewPassport is the wish for a passport.
type NewPassport struct {
	AgentID             string
	UserID              string
	Goal                string
	Issuer              string // "" or the authority's own: nobody issues in another's name
	Audience            string // "" for the authority's own
	AllowedTools        []string
	AllowedResources    []string
	ResourceConstraints map[string]any
	RiskTier            string
	ApprovalHash        string
	TTL                 time.Duration // 0: 5 minutes
}

const defaultPassportTTL = 5 * time.Minute

// Issued is a passport that was made.
type Issued struct {
	Token     string
	ID        string // jti
	ExpiresAt time.Time
}

// IssuePassport makes a passport and records it. Admin keys may make any, and
// others what their ceiling contains: ErrNotAllowed.
func (g *Gate) IssuePassport(ctx context.Context, actor Identity, n NewPassport) (Issued, error) {
	if actor.Role != RoleAdmin && actor.Ceiling == nil {
		return Issued{}, mayIssue(actor, &n) // before a word about what is wrong with it
	}
	switch {
	case n.AgentID == "":
		return Issued{}, &FieldError{"agent_id", "is required: for which agent"}
	case len(n.AllowedTools) == 0:
		return Issued{}, &FieldError{"allowed_tools", "is required: at least one tool or glob, such as \"stripe.refund.*\""}
	case len(n.AllowedResources) == 0:
		return Issued{}, &FieldError{"allowed_resources", "is required: at least one resource or glob, such as \"stripe:charge:*\""}
	case n.TTL < 0 || n.TTL > passport.MaxTTL:
		return Issued{}, &FieldError{"ttl", fmt.Sprintf("must be between 1 and %d seconds", int(passport.MaxTTL.Seconds()))}
	case n.RiskTier != "" && n.RiskTier != "low" && n.RiskTier != "medium" && n.RiskTier != "high" && n.RiskTier != "critical":
		return Issued{}, &FieldError{"risk_tier", "must be low, medium, high or critical"}
	}
	if err := mayIssue(actor, &n); err != nil {
		return Issued{}, err
	}
	if a := g.authority.Load(); actor.Role != RoleAdmin && n.Audience != "" && (a == nil || n.Audience != a.Audience) {
		return Issued{}, fmt.Errorf("issue a passport: %w: the ceiling is for this sidecar, and the passport would be for the audience %q", ErrNotAllowed, clip(n.Audience))
	}
	return g.issue(ctx, actor, n, newID("ap_"), "")
}

// issue signs, records and keeps, in this order. If we crash on the way, a passport
// is on record, or in the list, that nobody holds: its token is not given out.
func (g *Gate) issue(ctx context.Context, actor Identity, n NewPassport, jti, approval string) (Issued, error) {
	a := g.authority.Load()
	if a == nil || len(a.Keys) == 0 {
		return Issued{}, fmt.Errorf("issue a passport: %w: there is no signing key", ErrUnavailable)
	}
	if n.Issuer != "" && n.Issuer != a.Issuer {
		return Issued{}, &FieldError{"iss", fmt.Sprintf("is not the issuer here, %q: leave it out", a.Issuer)}
	}
	if n.TTL == 0 {
		n.TTL = defaultPassportTTL
	}
	if n.Audience == "" {
		n.Audience = a.Audience
	}
	now := g.now().Truncate(time.Second)
	claims := &passport.Claims{
		Issuer: a.Issuer, Audience: n.Audience, IssuedAt: now, ExpiresAt: now.Add(n.TTL), ID: jti,
		TenantID: actor.TenantID, AgentID: n.AgentID, UserID: n.UserID, Goal: n.Goal,
		AllowedTools: n.AllowedTools, AllowedResources: n.AllowedResources,
		ResourceConstraints: n.ResourceConstraints, RiskTier: n.RiskTier, ApprovalHash: n.ApprovalHash,
	}
	token, err := passport.Sign(claims, a.Keys[0])
	var bad *passport.Error
	if errors.As(err, &bad) {
		field := "resource_constraints"
		if bad.Code != passport.ReasonConstraint {
			field = "ttl"
		}
		return Issued{}, &FieldError{field, bad.Detail}
	}
	if err != nil {
		return Issued{}, err
	}
	// On record before it can be used.
	bounds, err := json.Marshal(n.ResourceConstraints)
	if err != nil {
		return Issued{}, fmt.Errorf("issue a passport: %w", err)
	}
	err = g.noteFor(ctx, actor, evidence.KindPassport, "passport issued", map[string]string{
		"kid": a.Keys[0].ID, "constraints": clipTo(string(bounds), 2048), "risk_tier": n.RiskTier,
		"jti": jti, "agent_id": n.AgentID, "user_id": n.UserID, "goal": clip(n.Goal), "tools": clip(strings.Join(n.AllowedTools, " ")),
		"resources": clip(strings.Join(n.AllowedResources, " ")), "expires_at": claims.ExpiresAt.UTC().Format(time.RFC3339),
	})
	if err != nil {
		return Issued{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	err = g.store.KeepPassport(ctx, Passport{
		ID: jti, TenantID: claims.TenantID, AgentID: n.AgentID, UserID: n.UserID, Goal: n.Goal, Audience: n.Audience,
		Tools: n.AllowedTools, Resources: n.AllowedResources, Constraints: n.ResourceConstraints, RiskTier: n.RiskTier,
		ApprovalID: approval, ApprovalHash: n.ApprovalHash, SignedBy: a.Keys[0].ID, KeyID: actor.KeyID, KeyName: actor.Name,
		IssuedAt: claims.IssuedAt, ExpiresAt: claims.ExpiresAt,
	})
	if err != nil {
		return Issued{}, fmt.Errorf("keep passport %s: %w", jti, err)
	}
	return Issued{Token: token, ID: jti, ExpiresAt: claims.ExpiresAt}, nil
}

// VerifyPassport checks a token as a call would be checked, without using it.
// The error is a *passport.Error, or the store's.
func (g *Gate) VerifyPassport(ctx context.Context, actor Identity, token, audience string) (*passport.Claims, error) {
	c, err := g.verify(token, audience)
	if err != nil {
		return c, err
	}
	if c.TenantID != actor.TenantID {
		return nil, &passport.Error{Code: passport.ReasonTenant, Detail: "it is for another tenant"}
	}
	usedBy, revoked, err := g.store.PassportState(ctx, c.TenantID, c.ID)
	switch {
	case err != nil:
		return nil, fmt.Errorf("look up passport %s: %w", c.ID, err)
	case revoked:
		return c, &passport.Error{Code: passport.ReasonRevoked, Detail: "it was revoked"}
	case usedBy != "":
		return c, &passport.Error{Code: passport.ReasonReplayed, Detail: "it was used already, by event " + usedBy}
	}
	return c, nil
}

// RevokePassport takes a passport's validity away at once, by its jti.
func (g *Gate) RevokePassport(ctx context.Context, actor Identity, jti, reason string) error {
	switch {
	case actor.Role != RoleAdmin:
		return fmt.Errorf("revoke a passport: %w: the key's role is %s, and admin is needed", ErrNotAllowed, actor.Role)
	case !strings.HasPrefix(jti, "ap_") || len(jti) > 128 || !printable(jti):
		return &FieldError{"jti", "must be a passport's id, which begins with ap_"}
	}
	now := g.now()
	if err := g.store.RevokePassport(ctx, actor.TenantID, jti, clip(reason), now, now.Add(passport.MaxTTL+passport.Leeway)); err != nil {
		return fmt.Errorf("revoke passport %s: %w", jti, err)
	}
	return g.noteFor(ctx, actor, evidence.KindPassport, "passport revoked", map[string]string{"jti": jti, "reason": clip(reason)})
}

// PassportFor mints the passport of an approved approval: the right to make this
// one request, which can be checked offline. It shares the approval's single use.
func (g *Gate) PassportFor(ctx context.Context, actor Identity, a Approval) (Issued, error) {
	if a.State != ApprovalApproved {
		return Issued{}, fmt.Errorf("mint the passport of approval %s: %w: it is %s", a.ID, ErrIllegalState, a.State)
	}
	ttl := min(a.UseBefore.Sub(g.now()), passport.MaxTTL)
	return g.issue(ctx, Identity{TenantID: a.TenantID, KeyID: actor.KeyID, Name: actor.Name, Source: actor.Source}, NewPassport{
		AgentID: a.AgentID, UserID: a.UserID, Goal: a.Goal,
		AllowedTools: []string{a.Tool}, AllowedResources: []string{a.Resource},
		RiskTier: a.Risk, ApprovalHash: callOf(a.Fingerprint), TTL: max(ttl, time.Second),
	}, "ap_"+strings.TrimPrefix(a.ID, "apr_"), a.ID)
}

// Passports lists what was issued for the actor's tenant, to whom reads the record.
func (g *Gate) Passports(ctx context.Context, actor Identity, q PassportQuery) ([]Passport, string, error) {
	if actor.Role != RoleApprover && actor.Role != RoleAdmin {
		return nil, "", fmt.Errorf("list passports: %w: the key's role is %s", ErrNotAllowed, actor.Role)
	}
	q.TenantID, q.Now = actor.TenantID, g.now()
	return g.store.Passports(ctx, q)
}
