package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/policy"
)

// # How a limit's share lives
//
//	reserved   before the intent is on record: a crash between the two leaves a
//	           share without a call, which the next start gives back, on record. For an
//	           action of a caller's own both go to the disk at once, and no answer
//	           goes out before both are there: a crash can then also leave an intent
//	           without a share, of which nobody was told, and which becomes ambiguous
//	held       a call that waits for a human takes its share under the id of its
//	           approval, once for all its attempts
//	settled    a 4xx, a refused connection, and an approval that comes to nothing
//	           give it back; a success, a 5xx and a lost answer keep it
//	added      a limit that came into force meanwhile is asked when the call is
//	           used, under the same id
//	forced     a call that was over a limit which asks a human, and that a human
//	           approved, takes its share though it does not fit: what is sent counts

// limit judges by the limits on a call, last of all: they count only calls that
// would leave. With take it takes the shares, for a call that will be sent; a
// call that will be held takes its shares in reserveHeld. Under monitor and warn
// a call over a limit leaves all the same and takes none, as under enforcement.
func (g *Gate) limit(ctx context.Context, c *call, take bool) {
	if !c.limited() {
		return
	}
	if c.approval == "" {
		if !g.share(ctx, c, c.id, take) || c.verdict.effect != policy.RequireApproval {
			return
		}
		// A limit asks for the approval that the call may have brought along.
		if g.approvedBy(ctx, c, &c.verdict); c.approval == "" {
			return
		}
	}
	g.share(ctx, c, c.approval, take)
}

// limited says that limits speak about the call: it would leave under
// enforcement, and some cover it.
func (c *call) limited() bool {
	do := c.verdict.do(c.mode)
	return c.verdict.effect != policy.Deny && len(c.verdict.policy.Limits) > 0 && do != enforceBlock && do != enforceHold
}

// share takes the limits' shares under an id, or only looks. When some do not
// fit, the verdict becomes what they say.
func (g *Gate) share(ctx context.Context, c *call, id string, take bool) (over bool) {
	now := g.limitTime()
	uses := limitUses(c.verdict.policy.Limits, now, c.approval != "")
	var used []int64
	var full bool
	var err error
	if take && c.soon && c.approval == "" {
		used, full, err = g.countSoon(ctx, c, id, uses, now)
	} else {
		used, full, err = g.count(ctx, c.Identity.TenantID, id, uses, now, take, c.approval != "")
	}
	switch {
	case errors.Is(err, ErrIllegalState):
		c.reservation = id // taken by an earlier attempt at the same held call
	case err != nil:
		g.uncounted(c, err)
	case full:
		c.exceeded(uses, used, now)
		return true
	case take:
		c.reservation = id
	}
	return false
}

// uncounted makes the verdict that of a call whose limits the store did not count.
func (g *Gate) uncounted(c *call, err error) {
	g.Fault("store", fmt.Errorf("check limits: %w", err))
	c.fault("limits could not be checked: the store did not answer")
	c.verdict.refuse = &closed{503, ReasonStore, "the limits on this call could not be checked, because the store did not answer"}
}

// countSoon takes the uses, and leaves it to c.settled to wait for the disk.
func (g *Gate) countSoon(ctx context.Context, c *call, id string, uses []Use, now time.Time) (used []int64, full bool, err error) {
	over, used, settled, err := g.store.ReserveSoon(ctx, c.Identity.TenantID, id, uses, now)
	if err != nil {
		return nil, false, err
	}
	if over >= 0 {
		return used, true, settled() // nothing was taken
	}
	c.settled = settled
	return used, false, nil
}

// count takes the uses, or with take false only looks. rest says that the id may
// have some already. full says that some do not fit.
func (g *Gate) count(ctx context.Context, tenant, id string, uses []Use, now time.Time, take, rest bool) (used []int64, full bool, err error) {
	if take {
		reserve := g.store.Reserve
		if rest {
			reserve = g.store.ReserveRest
		}
		over, used, err := reserve(ctx, tenant, id, uses, now)
		return used, over >= 0, err
	}
	used, err = g.store.Usage(ctx, tenant, uses, now)
	for i := range used {
		full = full || !fits(uses[i], used[i])
	}
	return used, full, err
}

// unreserve gives back the shares of a call that does not leave after all. Those
// under an approval's id stay for its other attempts, unless it was used for this
// one: then there are none, and its end has been, so nothing else would.
// The use of a grant goes back with them.
func (g *Gate) unreserve(c *call) {
	g.ungrant(c)
	if c.reservation == "" || c.reservation != c.id && !c.consumed {
		return
	}
	g.release(c.Identity.TenantID, c.reservation)
	c.reservation = ""
}

func fits(u Use, used int64) bool { return u.Force || u.Amount <= u.Max-used }

// exceeded makes the verdict that of the limits that do not fit.
func (c *call) exceeded(uses []Use, used []int64, now time.Time) {
	v := &c.verdict
	first := len(v.policy.Over)
	asked := v.policy.Limits
	for i, u := range uses {
		if !fits(u, used[i]) {
			v.policy = v.policy.Exceeded(asked[i], used[i], now)
		}
	}
	v.effect = v.policy.Effect
	if first < len(v.policy.Over) {
		l := v.policy.Over[first].Limit
		c.event.Rule = &evidence.Position{File: l.Pos.File, Line: l.Pos.Line, Name: l.Name}
	}
	if !slices.Contains(c.event.Flags, FlagLimit) {
		c.event.Flags = append(c.event.Flags, FlagLimit)
	}
}

// limitUses are the uses of the store that reservations come to at a time. A
// human's approval forces those of limits that ask for one.
func limitUses(list []policy.Reservation, now time.Time, approved bool) []Use {
	uses := make([]Use, len(list))
	for i, r := range list {
		uses[i] = limitUse(r.Limit, r.Key, now)
		uses[i].Amount = r.Amount
		uses[i].Force = approved && r.Limit.Effect == policy.RequireApproval
	}
	return uses
}

func limitUse(l *policy.Limit, key string, now time.Time) Use {
	since, _ := l.Bounds(now)
	return Use{Limit: l.ID(), Key: key, Max: l.Max, Window: l.Window, Since: since}
}

// limitHeld judges a call that a rule holds by its limits, before anybody is
// asked: one approval has to satisfy rule and limits. A retry of a call that is
// held already is not judged again, because its own share stands in its way.
func (g *Gate) limitHeld(ctx context.Context, c *call) *Refusal {
	if len(c.verdict.policy.Limits) == 0 || len(c.verdict.policy.Over) > 0 {
		return nil
	}
	last, err := g.store.LatestApproval(ctx, c.Identity.TenantID, askedBy(fingerprint(c), c.asked))
	if err == nil && (last.State == ApprovalPending || last.State == ApprovalApproved && g.now().Before(last.UseBefore)) {
		return nil
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return g.storeDown(ctx, c, err)
	}
	g.share(ctx, c, "", false)
	if c.verdict.do(c.mode) == enforceBlock {
		return g.block(ctx, c)
	}
	return nil
}

// reserveHeld takes the limits' shares of a held call, once for all its attempts,
// under the approval's id. They are given back when the approval comes to
// nothing. A call over a limit takes them when it is approved. A limit that
// denies what is over it ends the hold.
func (g *Gate) reserveHeld(ctx context.Context, c *call, a Approval) *Refusal {
	if len(c.verdict.policy.Limits) == 0 || len(c.verdict.policy.Over) > 0 {
		return nil
	}
	asked, rule, flags := c.verdict.policy, c.event.Rule, slices.Clone(c.event.Flags)
	g.share(ctx, c, a.ID, true)
	if c.verdict.refuse == nil && c.verdict.effect != policy.Deny {
		if c.reservation == "" {
			// It was used up since limitHeld looked, or by who asked for this very
			// approval: the people who were asked then decide.
			c.verdict.policy, c.verdict.effect, c.event.Rule, c.event.Flags = asked, policy.RequireApproval, rule, flags
		}
		return nil
	}
	if _, err := g.store.Cancel(ctx, a.TenantID, a.ID, Vote{KeyID: systemActor, Name: systemActor, Reason: "a limit does not leave room for the call", Time: g.now()}); err == nil {
		g.recordTransitions(ctx)
		g.waits.wake(a.ID)
	}
	return g.block(ctx, c)
}

// reserveApproved takes the shares that an approved call has not yet: of all
// limits, when it was over one, because what is sent counts; of those that came
// into force while it waited; and of those whose window it outlived. It comes
// before the approval is consumed. A crash between the two leaves the share to the next attempt, or to
// the approval's expiry, which gives it back.
func (g *Gate) reserveApproved(ctx context.Context, c *call, a Approval, again policy.Decision) *Refusal {
	if len(again.Limits) == 0 {
		return nil
	}
	now := g.limitTime()
	uses := limitUses(again.Limits, now, true)
	over, used, err := g.store.ReserveRest(ctx, a.TenantID, a.ID, uses, now)
	switch {
	case err != nil:
		g.Fault("store", fmt.Errorf("reserve limits of %s: %w", a.ID, err))
		return g.refuseApproval(ctx, c, a, 503, ReasonStore, "the limits on this call could not be checked, because the store did not answer", true)
	case over >= 0:
		d := again.Exceeded(again.Limits[over], used[over], now)
		return g.refuseApproval(ctx, c, a, 403, d.ReasonCode, "it was approved, but a limit leaves no room for it any more: "+d.Summary, true)
	}
	c.reservation = a.ID
	return nil
}
