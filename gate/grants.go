package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/passport"
)

// Bounds of a grant, and of how many may be in force in a tenant.
const (
	MaxGrantUses = 10_000
	MaxGrantTime = 30 * 24 * time.Hour
	maxGrants    = 1000
)

// NewGrant is the wish for a grant. What ApprovalID names fills in what is
// empty: its agent, tool, resource, rule, and for each argument that nothing else
// names the value as its bound: numbers at most, everything else exactly.
type NewGrant struct {
	ApprovalID  string
	AgentID     string // or "*"
	Tool        string
	Resource    string
	Policy      string
	Rule        string
	Constraints map[string]any // as in passport.Claims
	FreeArgs    []string
	Count       int64
	SumArg      string
	SumMax      int64
	TTL         time.Duration
	Reason      string
}

// CreateGrant approves a shape of calls ahead, for a bounded number of uses and
// time. Only who could approve each of them by themselves may: ErrNotAllowed.
// Other errors: *FieldError, ErrNotFound (of the approval), ErrTooMany,
// ErrUnavailable.
func (g *Gate) CreateGrant(ctx context.Context, actor Identity, n NewGrant) (Grant, error) {
	if n.ApprovalID != "" {
		a, err := g.store.GetApproval(ctx, actor.TenantID, n.ApprovalID)
		if err != nil {
			return Grant{}, err
		}
		if a.Several() {
			return Grant{}, &FieldError{"approval_id", "is of a request that holds several calls: say by tool, resource and bounds what is granted"}
		}
		if err := n.from(&a); err != nil {
			return Grant{}, err
		}
	}
	if err := n.check(); err != nil {
		return Grant{}, err
	}
	rules := g.rules.Load()
	if rules == nil || rules.Policy == nil {
		return Grant{}, fmt.Errorf("%w: no policy is loaded yet", ErrUnavailable)
	}
	asks, covers, ok := rules.Policy.Rule(n.Policy, n.Rule, n.Tool)
	switch {
	case !ok:
		return Grant{}, &FieldError{"rule", fmt.Sprintf("the policy in force has no rule %s / %s; a limit cannot be granted over", clip(n.Policy), clip(n.Rule))}
	case !covers:
		return Grant{}, &FieldError{"tool", "is not covered by the policy " + n.Policy}
	case asks.Approval == nil:
		return Grant{}, &FieldError{"rule", "does not ask for approval, so there is nothing to grant: it says " + asks.Effect.String()}
	}
	// The same question as for one approval, whose asker is whoever may act.
	asked := Approval{ID: "ahead of the calls", AgentID: n.AgentID, Approvers: asks.Approval.Approvers}
	switch err := mayDecide(actor, &asked); {
	case err != nil:
		return Grant{}, fmt.Errorf("grant: %w", err)
	case n.AgentID == "*" && actor.BoundAgent != "":
		return Grant{}, fmt.Errorf("grant: %w: the key speaks for agent %q, which is one of all", ErrNotAllowed, actor.BoundAgent)
	case asks.Approval.Required > 1:
		return Grant{}, fmt.Errorf("grant: %w: the rule wants %d different keys for each call, and a grant is the word of one", ErrNotAllowed, asks.Approval.Required)
	}
	now := g.now()
	one := Grant{
		ID: newID("grt_"), TenantID: actor.TenantID, AgentID: n.AgentID, Tool: n.Tool, Resource: n.Resource,
		Constraints: n.Constraints, FreeArgs: n.FreeArgs, Policy: n.Policy, Rule: n.Rule, RuleHash: asks.RuleHash,
		Count: n.Count, SumArg: n.SumArg, SumMax: n.SumMax,
		KeyID: actor.KeyID, KeyName: actor.Name, Reason: clipTo(n.Reason, 1024), ApprovalID: n.ApprovalID,
		CreatedAt: now, ExpiresAt: now.Add(n.TTL),
	}
	// On record before it can be used. If we crash between the two, the record
	// tells of a grant that nobody can use.
	if err := g.noteGrant(ctx, actor, &one, "grant made"); err != nil {
		return Grant{}, err
	}
	if err := g.store.CreateGrant(ctx, one, maxGrants); err != nil {
		return Grant{}, fmt.Errorf("grant: %w", err)
	}
	return one, nil
}

// from fills in what the wish leaves to an approval.
func (n *NewGrant) from(a *Approval) error {
	for _, f := range []struct {
		to   *string
		from string
	}{{&n.AgentID, a.AgentID}, {&n.Tool, a.Tool}, {&n.Resource, a.Resource}, {&n.Policy, a.Policy}, {&n.Rule, a.Rule}} {
		if *f.to == "" {
			*f.to = f.from
		}
	}
	most, exactly := map[string]any{}, map[string]any{}
	if err := bounds(a.Args, "", append(constrained(n.Constraints), n.FreeArgs...), most, exactly); err != nil {
		return err
	}
	n.Constraints = cloneConstraints(n.Constraints)
	for name, more := range map[string]map[string]any{"max": most, "equals": exactly} {
		if len(more) == 0 {
			continue
		}
		given, isMap := n.Constraints[name].(map[string]any)
		if n.Constraints[name] != nil && !isMap {
			continue // without a meaning: check says so
		}
		for arg, v := range given {
			more[arg] = v
		}
		n.Constraints[name] = more
	}
	return nil
}

// bounds makes the arguments of one approved call the bounds of others. What is
// hidden or cut on record can be no bound.
func bounds(args map[string]any, at string, names []string, most, exactly map[string]any) error {
	for k, v := range args {
		path := at + k
		if slices.ContainsFunc(names, func(n string) bool { return n == path || strings.HasPrefix(path, n+".") }) {
			continue
		}
		hidden := &FieldError{"free_args", fmt.Sprintf("must name %s, or resource_constraints must: its value in the approval is hidden, cut, or has no path", strconv.Quote(clip(path)))}
		if strings.Contains(k, ".") || k == evidence.OmittedKey || k == "" {
			return hidden
		}
		switch v := v.(type) {
		case int64, float64:
			most[path] = v
		case json.Number:
			return hidden
		case map[string]any:
			if v[evidence.RedactedKey] != nil || v[evidence.TruncatedKey] != nil || v[evidence.OmittedKey] != nil {
				return hidden
			}
			if len(v) == 0 {
				exactly[path] = v
				continue
			}
			if err := bounds(v, path+".", names, most, exactly); err != nil {
				return err
			}
		case []any:
			return hidden // an element may be hidden or cut
		default:
			exactly[path] = v
		}
	}
	return nil
}

func cloneConstraints(m map[string]any) map[string]any {
	out := make(map[string]any, len(m)+2)
	for k, v := range m {
		out[k] = v
	}
	return out
}

func (n *NewGrant) check() error {
	switch {
	case n.AgentID == "":
		return &FieldError{"agent_id", "is required: for which agent, or \"*\" for every one"}
	case len(n.AgentID) > clipLen || !printable(n.AgentID):
		return &FieldError{"agent_id", "must be a name of at most 256 printable characters"}
	case n.Tool == "" || len(n.Tool) > maxTool || !printable(n.Tool) || strings.Contains(n.Tool, "*"):
		return &FieldError{"tool", "is required: the name of one tool, without *"}
	case n.Resource == "" || len(n.Resource) > maxResource || !printable(n.Resource):
		return &FieldError{"resource", "is required: a resource or glob of at most 2048 characters, such as \"stripe:charge:*\""}
	case n.Policy == "":
		return &FieldError{"policy", "is required: the policy whose rule asks"}
	case n.Rule == "":
		return &FieldError{"rule", "is required: the rule that asks"}
	case n.Count < 1 || n.Count > MaxGrantUses:
		return &FieldError{"count", fmt.Sprintf("is required: how many calls, 1 to %d", MaxGrantUses)}
	case n.TTL < time.Second || n.TTL > MaxGrantTime:
		return &FieldError{"ttl", fmt.Sprintf("is required: for how many seconds, 1 to %d", int(MaxGrantTime.Seconds()))}
	case n.SumArg == "" && n.SumMax != 0:
		return &FieldError{"sum.arg", "is required: the argument that is added up"}
	case n.SumArg != "" && n.SumMax < 1:
		return &FieldError{"sum.max", "is required: the most that the uses may come to together, at least 1"}
	case len(n.FreeArgs) > 100:
		return &FieldError{"free_args", "must be at most 100"}
	}
	for _, f := range n.FreeArgs {
		if f == "" || len(f) > clipLen || !printable(f) || slices.Contains(strings.Split(f, "."), "") {
			return &FieldError{"free_args", "must be dotted paths below args, such as \"metadata.order\""}
		}
	}
	// Bounds that do not bound themselves have no meaning.
	widest := passport.Claims{TenantID: "t", AgentID: "a", ResourceConstraints: n.Constraints}
	var bad *passport.Error
	if errors.As(widest.Contains(&widest), &bad) {
		return &FieldError{"resource_constraints", "has an entry without a meaning: " + bad.Detail}
	}
	if n.SumArg != "" {
		names := append(constrained(n.Constraints), n.FreeArgs...)
		if !slices.Contains(names, n.SumArg) {
			return &FieldError{"sum.arg", "must be an argument that resource_constraints or free_args name"}
		}
		if slices.Contains(n.FreeArgs, "currency") {
			return &FieldError{"free_args", "leaves the currency open, and sums of different currencies mean nothing: name one in resource_constraints"}
		}
	}
	return nil
}

func (g *Gate) noteGrant(ctx context.Context, actor Identity, one *Grant, message string) error {
	shape, err := json.Marshal(map[string]any{"resource_constraints": evidence.Redact(one.Constraints, nil, g.redactKey), "free_args": one.FreeArgs})
	if err != nil {
		return fmt.Errorf("grant: encode its shape: %w", err)
	}
	data := map[string]string{
		"grant": one.ID, "agent_id": one.AgentID, "tool": one.Tool, "resource": clipTo(one.Resource, maxResource), "policy": one.Policy, "rule": one.Rule,
		"shape": clipTo(string(shape), 8192), "count": strconv.FormatInt(one.Count, 10), "used": strconv.FormatInt(one.Used, 10),
		"expires_at": one.ExpiresAt.UTC().Format(time.RFC3339), "reason": one.Reason,
	}
	if one.SumArg != "" {
		data["sum"] = fmt.Sprintf("%s at most %d", one.SumArg, one.SumMax)
	}
	if one.ApprovalID != "" {
		data["approval"] = one.ApprovalID
	}
	if err := g.noteFor(ctx, actor, evidence.KindGrant, message, data); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// Grants lists those of the tenant, newest first; live ones only, where it is
// asked so. Agents do not see them.
func (g *Gate) Grants(ctx context.Context, actor Identity, q GrantQuery) ([]Grant, string, error) {
	if actor.Role == RoleGateway {
		return nil, "", fmt.Errorf("list grants: %w: the key's role is %s", ErrNotAllowed, actor.Role)
	}
	q.TenantID, q.Now = actor.TenantID, g.now()
	return g.store.Grants(ctx, q)
}

// Grant finds one. ErrNotFound.
func (g *Gate) Grant(ctx context.Context, actor Identity, id string) (Grant, error) {
	if actor.Role == RoleGateway {
		return Grant{}, fmt.Errorf("find grant %s: %w: the key's role is %s", id, ErrNotAllowed, actor.Role)
	}
	return g.store.GetGrant(ctx, actor.TenantID, id)
}

// RevokeGrant ends a grant at once. Whoever may decide approvals may take a
// grant back, whoever gave it: stopping needs no second group.
func (g *Gate) RevokeGrant(ctx context.Context, actor Identity, id, reason string) (Grant, error) {
	if actor.Role != RoleApprover && actor.Role != RoleAdmin {
		return Grant{}, fmt.Errorf("revoke grant %s: %w: the key's role is %s, and approver is needed", id, ErrNotAllowed, actor.Role)
	}
	one, err := g.store.RevokeGrant(ctx, actor.TenantID, id, actor.KeyID, g.now())
	if err != nil {
		return Grant{}, err
	}
	// If we crash here, it is revoked without a word of it on record; revoking it
	// again writes one.
	told := one
	told.Reason = clipTo(reason, 1024)
	return one, g.noteGrant(ctx, actor, &told, "grant revoked")
}
