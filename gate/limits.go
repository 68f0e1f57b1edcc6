package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/policy"
)

// # How a limit's share lives
//
//	reserved   before the intent is on record: a crash after it leaves the share
//	           taken until its window ends, with or without an event
//	held       a call that waits for a human takes its share under the id of its
//	           approval, once for all its attempts
//	settled    a 4xx, a refused connection, and an approval that comes to nothing
//	           give it back; a success, a 5xx and a lost answer keep it
//	forced     a call that was over a limit which asks a human, and that a human
//	           approved, takes its share though it does not fit: what is sent counts

// limit takes the shares of the limits on a call, or turns the verdict into what
// a limit that does not fit says. Limits come last, and count only calls that
// would leave. A call that will be held takes its shares in reserveHeld.
func (g *Gate) limit(ctx context.Context, c *call) {
	if !c.limited() {
		return
	}
	id := c.id
	if c.approval != "" {
		id = c.approval // the share was taken when the call was held
	}
	g.reserve(ctx, c, id)
}

// limitPreflight looks at the limits, and takes a share only for an action that
// will be executed.
func (g *Gate) limitPreflight(ctx context.Context, c *call, execute bool) {
	switch {
	case !c.limited():
	case execute:
		g.reserve(ctx, c, c.id)
	default:
		g.look(ctx, c)
	}
}

// limited says that limits speak about the call: it would leave under
// enforcement, and some cover it.
func (c *call) limited() bool {
	do := c.verdict.do(c.mode)
	return c.verdict.effect != policy.Deny && len(c.verdict.policy.Limits) > 0 && do != enforceBlock && do != enforceHold
}

// reserve takes the limits' shares under an id, or turns the verdict into what
// the limits that do not fit say.
func (g *Gate) reserve(ctx context.Context, c *call, id string) {
	uses := limitUses(c.verdict.policy.Limits)
	over, used, err := g.store.Reserve(ctx, c.Identity.TenantID, id, uses, c.started)
	switch {
	case errors.Is(err, ErrIllegalState):
		c.reservation = id // taken by an earlier attempt at the same held call
	case err != nil:
		g.limitsDown(c, err)
	case over >= 0:
		c.exceeded(uses, used)
	default:
		c.reservation = id
	}
}

// look judges by the limits without taking anything.
func (g *Gate) look(ctx context.Context, c *call) {
	uses := limitUses(c.verdict.policy.Limits)
	used, err := g.store.Usage(ctx, c.Identity.TenantID, uses, c.started)
	if err != nil {
		g.limitsDown(c, err)
		return
	}
	c.exceeded(uses, used)
}

func (g *Gate) limitsDown(c *call, err error) {
	g.Fault("store", fmt.Errorf("check limits: %w", err))
	c.fault("limits could not be checked: the store did not answer")
	c.verdict.refuse = &closed{503, ReasonStore, "the limits on this call could not be checked, because the store did not answer"}
}

// exceeded makes the verdict that of the limits that do not fit, if any.
func (c *call) exceeded(uses []Use, used []int64) {
	asked := c.verdict.policy.Limits
	for i, u := range uses {
		if u.Amount <= u.Max-used[i] {
			continue
		}
		c.verdict.policy = c.verdict.policy.Exceeded(asked[i], used[i], c.started)
	}
	if len(c.verdict.policy.Over) == 0 {
		return
	}
	c.verdict.effect = c.verdict.policy.Effect
	l := c.verdict.policy.Over[0].Limit
	c.event.Rule = &evidence.Position{File: l.Pos.File, Line: l.Pos.Line, Name: l.Name}
	if !slices.Contains(c.event.Flags, FlagLimit) {
		c.event.Flags = append(c.event.Flags, FlagLimit)
	}
}

func limitUses(list []policy.Reservation) []Use {
	uses := make([]Use, len(list))
	for i, l := range list {
		uses[i] = Use{
			Limit: l.Limit.ID(), Key: l.Key, Amount: l.Amount,
			Max: l.Limit.Max, Window: l.Limit.Window,
		}
	}
	return uses
}

// reserveHeld takes the limits' shares of a held call, once for all its attempts,
// under the approval's id. They are given back when the approval comes to
// nothing. A limit that denies what is over it ends the hold.
func (g *Gate) reserveHeld(ctx context.Context, c *call, a Approval) *Refusal {
	if len(c.verdict.policy.Limits) == 0 || slices.Contains(c.event.Flags, FlagLimit) {
		return nil
	}
	asked := c.verdict.policy
	g.reserve(ctx, c, a.ID)
	if c.verdict.refuse == nil && c.verdict.effect != policy.Deny {
		// Over a limit that asks a human too: one human is asked, for the rule.
		c.verdict.policy, c.verdict.effect = asked, policy.RequireApproval
		return nil
	}
	if _, err := g.store.Cancel(ctx, a.TenantID, a.ID, systemActor, "a limit does not leave room for the call", g.now()); err == nil {
		g.recordTransitions(ctx)
		g.waits.wake(a.ID)
	}
	return g.block(ctx, c)
}
