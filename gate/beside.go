package gate

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
)

// RuleBeside is a rule of the policy that asks about an approval, above the one
// that asks: why it did not decide.
type RuleBeside struct {
	Rule     string
	Decision string // the contract's word
	When     string // its condition, as written
	// Misses are the comparisons of the condition that the call does not meet, in
	// plain words; only those of an argument with a literal, so it may be empty.
	Misses []string
}

// Beside tells how far a call is from the rules that would have decided without a
// human, as the policy in force has them. It reads what is on record, where
// secrets are hidden, and is for people: nothing is decided by it.
func (g *Gate) Beside(a *Approval) []RuleBeside {
	rules := g.rules.Load()
	if rules == nil || rules.Policy == nil {
		return nil
	}
	call := mapping.Call{Tool: a.Tool, Resource: a.Resource, Risk: a.Risk, Args: a.Args}
	var out []RuleBeside
	for _, step := range rules.Policy.Explain(policyInput(&call, Identity{TenantID: a.TenantID, AgentID: a.AgentID}, a.UserID, a.Goal, nil, a.CreatedAt)) {
		if step.Policy != a.Policy {
			continue
		}
		for _, r := range step.Rules {
			if r.Name == a.Rule {
				break
			}
			if r.Result == policy.ResultUnmatched && r.Decision == policy.Allow.String() {
				out = append(out, RuleBeside{Rule: r.Name, Decision: r.Decision, When: r.When, Misses: misses(r.When, a.Args)})
			}
		}
	}
	return out
}

var comparison = regexp.MustCompile(`args\.([A-Za-z_][\w.]*)\s*(<=|>=|<|>|==)\s*(-?\d+\b|"[^"\\]*")`)

// misses finds the plain comparisons of a condition that args do not meet.
func misses(when string, args map[string]any) (out []string) {
	for _, m := range comparison.FindAllStringSubmatch(when, -1) {
		name, op, want := m[1], m[2], m[3]
		got := argAt(args, name)
		if strings.HasPrefix(want, `"`) {
			if s, ok := got.(string); op == "==" && ok && s != strings.Trim(want, `"`) {
				out = append(out, fmt.Sprintf("%s is %q, not %s", name, clip(s), want))
			}
			continue
		}
		n, ok := got.(int64)
		limit, err := strconv.ParseInt(want, 10, 64)
		if !ok || err != nil {
			continue
		}
		switch {
		case op == "<=" && n > limit, op == "<" && n >= limit:
			out = append(out, fmt.Sprintf("%s is %d, which is %d over %d", name, n, uint64(n-limit), limit))
		case op == ">=" && n < limit, op == ">" && n <= limit:
			out = append(out, fmt.Sprintf("%s is %d, which is %d under %d", name, n, uint64(limit-n), limit))
		case op == "==" && n != limit:
			out = append(out, fmt.Sprintf("%s is %d, not %d", name, n, limit))
		}
	}
	return out
}
