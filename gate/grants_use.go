package gate

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/passport"
	"github.com/actpass/sidecar/policy"
)

// # How a use of a grant lives
//
//	reserved   the limits' shares first, as for a call that policy allows: a grant
//	           goes over no limit
//	claimed    count and sum, in one transaction; a crash from here to the intent
//	           loses the use, never doubles it
//	recorded   the intent names the grant
//	given back by a call that was never sent; an answer of any kind keeps it
//
// A grant answers the question of one rule. It is not asked where a rule denies,
// where a limit speaks, for more than one call at once, or where a human has
// answered for, or is looking at, this very call.

// granted lets a call that a rule holds go on under a grant, and says whether it
// did. question gives the name of the approval that it would open. With take
// false it only looks, and takes nothing. The verdict may come out stricter, when a
// limit leaves no room any more.
func (g *Gate) granted(ctx context.Context, c *call, question func() string, take bool) bool {
	v := &c.verdict
	if v.effect != policy.RequireApproval || v.policy.Effect != policy.RequireApproval || len(v.policy.Over) > 0 || v.policy.Rule == "" || len(c.reading.Calls) != 1 {
		return false
	}
	list, err := g.store.GrantsFor(ctx, c.Identity.TenantID, c.Identity.AgentID, v.call.Tool, v.policy.RuleHash, g.now())
	if err != nil {
		// The question is put to people then, as if there were no grant.
		g.Fault("store", fmt.Errorf("look for grants: %w", err))
		c.fault("grants could not be looked for: the store did not answer")
		return false
	}
	for i := range list {
		one := &list[i]
		amount, ok := one.covers(c)
		if !ok {
			continue
		}
		if g.answered(ctx, c, question()) {
			return false
		}
		if !take {
			return g.roomFor(ctx, c, one, amount)
		}
		if len(v.policy.Limits) > 0 && c.reservation == "" {
			if g.share(ctx, c, c.id, true); c.reservation == "" {
				return false // no room, or no store: the verdict says which
			}
		}
		if g.takeGrant(ctx, c, one, amount) {
			return true
		}
	}
	if c.reservation == c.id {
		g.unreserve(c) // a held call takes its shares under the approval's id
	}
	return false
}

// takeGrant claims one use. Of calls at the same moment, as many get one as
// there are.
func (g *Gate) takeGrant(ctx context.Context, c *call, one *Grant, amount int64) bool {
	got, err := g.store.UseGrant(ctx, c.Identity.TenantID, one.ID, c.id, amount, g.now())
	if err != nil {
		if !errors.Is(err, ErrIllegalState) && !errors.Is(err, ErrRevoked) {
			g.Fault("store", fmt.Errorf("use grant %s: %w", one.ID, err))
			c.fault("a grant could not be used: the store did not answer")
			g.releaseGrant(c.Identity.TenantID, one.ID, c.id) // it may have been written
		}
		return false
	}
	v := &c.verdict
	v.granted, c.grant, c.out.Once = true, got.ID, true
	c.event.Grant = &evidence.GrantUse{ID: got.ID, Use: got.Used, Of: got.Count, Amount: amount}
	v.policy.Summary = fmt.Sprintf("%s Granted as %s, use %d of %d.", v.policy.Summary, got.ID, got.Used, got.Count)
	v.policy.NextSteps = nil
	return true
}

// roomFor is for a question that is asked without acting on the answer.
func (g *Gate) roomFor(ctx context.Context, c *call, one *Grant, amount int64) bool {
	if one.SumArg != "" && amount > one.SumMax-one.Summed {
		return false
	}
	if len(c.verdict.policy.Limits) > 0 {
		if g.share(ctx, c, c.id, false) || c.verdict.refuse != nil {
			return false
		}
	}
	c.verdict.granted = true
	c.verdict.policy.Summary = fmt.Sprintf("%s Grant %s covers it, with %d of %d uses left.", c.verdict.policy.Summary, one.ID, one.Count-one.Used, one.Count)
	c.verdict.policy.NextSteps = nil
	return true
}

// answered says that this very call has a question of its own: one that people
// look at now, or whose answer still stands. That goes before a grant.
func (g *Gate) answered(ctx context.Context, c *call, question string) bool {
	last, err := g.store.LatestApproval(ctx, c.Identity.TenantID, question)
	if err != nil {
		// Where the store does not answer, opening the question fails too, and says so.
		return !errors.Is(err, ErrNotFound)
	}
	switch last.State {
	case ApprovalPending:
		return true
	case ApprovalApproved:
		return g.now().Before(last.UseBefore)
	case ApprovalDenied:
		return !g.now().After(last.AnswersUntil())
	case ApprovalConsumed:
		until := last.AnswersUntil()
		if !hasKey(c) && c.idempotency == "" {
			until = lastMove(last).Add(consumedFor)
		}
		return c.Door != DoorAPI && !g.now().After(until)
	}
	return false
}

// covers says whether the call is of the grant's shape, and what it takes of the
// sum.
func (one *Grant) covers(c *call) (amount int64, ok bool) {
	call := c.verdict.call
	if c.Identity.KeyID != "" && c.Identity.KeyID == one.KeyID {
		return 0, false // who grants does not act on it
	}
	claims := passport.Claims{
		TenantID: one.TenantID, AgentID: c.Identity.AgentID, AllowedTools: []string{one.Tool}, AllowedResources: []string{one.Resource},
		ResourceConstraints: one.Constraints,
	}
	if one.AgentID != "*" && one.AgentID != c.Identity.AgentID || one.Tool != call.Tool || len(call.Problems) > 0 {
		return 0, false
	}
	err := claims.Permits(&passport.Action{
		TenantID: c.Identity.TenantID, AgentID: c.Identity.AgentID, Tool: call.Tool, Resource: call.Resource, Risk: call.Risk, Args: call.Args,
	})
	if err != nil || !named(call.Args, one.names()) {
		return 0, false
	}
	if one.SumArg == "" {
		return 0, true
	}
	n, ok := argAt(call.Args, one.SumArg).(int64)
	return n, ok && n >= 0
}

// names are the dotted paths of the arguments about which the grant says
// something.
func (one *Grant) names() []string {
	return append(constrained(one.Constraints), one.FreeArgs...)
}

// constrained lists the arguments that constraints bound.
func constrained(constraints map[string]any) (names []string) {
	for name, v := range constraints {
		switch name {
		case "max_amount", "min_amount":
			names = append(names, "amount")
		case "currency":
			names = append(names, "currency")
		default:
			m, _ := v.(map[string]any)
			for arg := range m {
				names = append(names, arg)
			}
		}
	}
	return names
}

// named says whether every argument, down to the leaves, stands at or below one
// of the paths. Names with dots of their own stand at none: a path could mean
// another argument.
func named(args map[string]any, paths []string) bool {
	at := map[string][]string{} // what the paths say below each first step; "" for the step itself
	for _, p := range paths {
		step, rest, _ := strings.Cut(p, ".")
		at[step] = append(at[step], rest)
	}
	for k, v := range args {
		below, ok := at[k]
		if !ok || strings.Contains(k, ".") {
			return false
		}
		whole := false
		for _, rest := range below {
			whole = whole || rest == ""
		}
		if whole {
			continue
		}
		m, isMap := v.(map[string]any)
		if !isMap || !named(m, below) {
			return false
		}
	}
	return true
}

func argAt(args map[string]any, path string) any {
	var v any = args
	for _, step := range strings.Split(path, ".") {
		m, _ := v.(map[string]any)
		v = m[step]
	}
	return v
}

// ungrant gives back the use of a call that does not leave after all.
func (g *Gate) ungrant(c *call) {
	if c.grant == "" {
		return
	}
	g.releaseGrant(c.Identity.TenantID, c.grant, c.id)
	c.grant, c.event.Grant, c.verdict.granted = "", nil, false
}

// releaseGrant gives back a use whose call was never sent.
func (g *Gate) releaseGrant(tenant, id, eventID string) {
	if id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if err := g.store.ReleaseGrant(ctx, tenant, id, eventID); err != nil {
		// It stays taken: the safe side.
		g.Fault("store", fmt.Errorf("give back a use of grant %s: %w", id, err))
	}
}

// grantPreflight lets an action of the API go on under a grant. A question that
// nobody acts on takes no use.
func (g *Gate) grantPreflight(ctx context.Context, c *call, p *Preflight) {
	if c.verdict.do(c.mode) != enforceHold {
		return
	}
	name, err := fingerprintPreflight(c.Identity, p.Tool, p.Resource, c.reading.Calls[0].Args, p.IdempotencyKey)
	if err == nil {
		question := askedBy(name, c.verdict.policy.RuleHash)
		g.granted(ctx, c, func() string { return question }, p.Intent == IntentExecute)
	}
}
