package gate

import (
	"errors"
	"fmt"

	"github.com/actpass/sidecar/passport"
)

// Ceiling is the most that a key which is not admin's may put into a passport:
// which tools, on which resources, within which values. The tenant is the key's,
// and the agent the one that the key speaks for, where it speaks for one.
type Ceiling struct {
	AllowedTools        []string       `json:"allowed_tools"`
	AllowedResources    []string       `json:"allowed_resources"`
	ResourceConstraints map[string]any `json:"resource_constraints,omitempty"` // as in passport.Claims
	RiskTier            string         `json:"risk_tier,omitempty"`            // "" for any
}

// claims is the widest passport under the ceiling of a key.
func (c *Ceiling) claims(tenant, agent string) *passport.Claims {
	if agent == "" {
		agent = "*"
	}
	return &passport.Claims{
		TenantID: tenant, AgentID: agent, AllowedTools: c.AllowedTools, AllowedResources: c.AllowedResources,
		ResourceConstraints: c.ResourceConstraints, RiskTier: c.RiskTier,
	}
}

// check says whether c can be the ceiling of a key with role.
func (c *Ceiling) check(role string) error {
	switch {
	case c == nil:
		return nil
	case role == RoleAdmin:
		return &FieldError{"ceiling", "belongs to a key that is not admin's: an admin key may issue any passport"}
	case len(c.AllowedTools) == 0:
		return &FieldError{"ceiling.allowed_tools", "is required: at least one tool or glob, such as \"stripe.refund.*\""}
	case len(c.AllowedResources) == 0:
		return &FieldError{"ceiling.allowed_resources", "is required: at least one resource or glob, such as \"stripe:charge:*\""}
	case c.RiskTier != "" && c.RiskTier != "low" && c.RiskTier != "medium" && c.RiskTier != "high" && c.RiskTier != "critical":
		return &FieldError{"ceiling.risk_tier", "must be low, medium, high or critical"}
	}
	// What does not contain itself holds a constraint or a glob without a meaning,
	// and nothing could be issued under it.
	widest := c.claims("t", "a")
	var bad *passport.Error
	if errors.As(widest.Contains(widest), &bad) {
		field := map[string]string{passport.ReasonTool: "allowed_tools", passport.ReasonResource: "allowed_resources"}[bad.Code]
		if field == "" {
			field = "resource_constraints"
		}
		return &FieldError{"ceiling." + field, "has an entry without a meaning: " + bad.Detail}
	}
	return nil
}

// mayIssue says whether a key may make a passport of these claims: admin keys
// any, others what their ceiling contains.
func mayIssue(actor Identity, n *NewPassport) error {
	switch {
	case actor.Role == RoleAdmin:
		return nil
	case actor.Ceiling == nil:
		return fmt.Errorf("issue a passport: %w: the key's role is %s, and admin is needed, or a key with a ceiling", ErrNotAllowed, actor.Role)
	}
	child := passport.Claims{
		TenantID: actor.TenantID, AgentID: n.AgentID, AllowedTools: n.AllowedTools, AllowedResources: n.AllowedResources,
		ResourceConstraints: n.ResourceConstraints, RiskTier: n.RiskTier, ApprovalHash: n.ApprovalHash,
	}
	var over *passport.Error
	if errors.As(actor.Ceiling.claims(actor.TenantID, actor.BoundAgent).Contains(&child), &over) {
		return fmt.Errorf("issue a passport: %w: %s", ErrNotAllowed, over.Detail)
	}
	return nil
}
