package passport

import (
	"slices"
	"strings"
)

// Contains says whether everything that child allows is allowed by c too: what
// c's holder may hand on. Where it cannot be shown, the answer is no.
func (c *Claims) Contains(child *Claims) error {
	switch {
	case child.TenantID != c.TenantID:
		return fail(ReasonTenant, "the ceiling is for tenant %q", c.TenantID)
	case c.AgentID != "*" && child.AgentID != c.AgentID:
		return fail(ReasonAgent, "the ceiling is for agent %q", c.AgentID)
	case c.RiskTier != "" && (child.RiskTier == "" || tier(child.RiskTier) > tier(c.RiskTier)):
		return fail(ReasonRisk, "the ceiling allows risk up to %s", c.RiskTier)
	case c.ApprovalHash != "" && child.ApprovalHash != c.ApprovalHash:
		return fail(ReasonRequest, "the ceiling is for one exact request")
	}
	for _, p := range child.AllowedTools {
		if !slices.ContainsFunc(c.AllowedTools, func(q string) bool { return covers(q, p) }) {
			return fail(ReasonTool, "the ceiling allows the tools %s, and not %s", quoteList(c.AllowedTools), p)
		}
	}
	for _, p := range child.AllowedResources {
		if !slices.ContainsFunc(c.AllowedResources, func(q string) bool { return covers(q, p) }) {
			return fail(ReasonResource, "the ceiling allows the resources %s, and not %s", quoteList(c.AllowedResources), p)
		}
	}
	for _, name := range sortedKeys(c.ResourceConstraints) {
		if err := tighter(name, c.ResourceConstraints[name], child.ResourceConstraints[name]); err != nil {
			return err
		}
	}
	return nil
}

// covers says that every text that the pattern p matches is matched by q. A '*'
// of p is treated as a character that only a '*' of q can match, which is
// sound, and complete but for patterns that nobody writes.
func covers(q, p string) bool {
	return globOver(q, strings.ReplaceAll(p, "*", "\x00"))
}

// globOver is glob where \x00 in s is matched by '*' only; text parts of a
// pattern hold no \x00, so plain matching does that.
func globOver(pattern, s string) bool {
	return !strings.Contains(pattern, "\x00") && glob(pattern, s)
}

// tighter says whether the child's constraint allows no more than the parent's.
func tighter(name string, parent, child any) error {
	wider := func() error {
		return fail(ReasonConstraint, "the ceiling has %s %v, and the passport would have %v", name, parent, child)
	}
	if child == nil || checkConstraint(name, child) != nil || checkConstraint(name, parent) != nil {
		return wider()
	}
	narrower := func(name string, parent, child any) bool {
		switch name {
		case "max_amount", "max":
			return compare(child, parent) <= 0
		case "min_amount", "min":
			return compare(child, parent) >= 0
		case "currency", "equals":
			return same(child, parent)
		case "prefix":
			return strings.HasPrefix(child.(string), parent.(string))
		case "one_of":
			for _, x := range child.([]any) {
				if !slices.ContainsFunc(parent.([]any), func(y any) bool { return same(x, y) }) {
					return false
				}
			}
			return true
		}
		return false
	}
	p, ok := parent.(map[string]any)
	if !ok {
		if !narrower(name, parent, child) {
			return wider()
		}
		return nil
	}
	c := child.(map[string]any)
	for arg, bound := range p {
		if c[arg] == nil || !narrower(name, bound, c[arg]) {
			return wider()
		}
	}
	return nil
}
