package gate

import (
	"context"

	"github.com/actpass/sidecar/evidence"
)

// usesApproval says that the call stands on an approval that it uses up. Under
// monitor and warn it does not: it goes with or without one.
func (c *call) usesApproval() bool { return c.approval != "" && blocking(c.mode) }

// permitApproved is permit for a call that uses up an approval by the passport that
// it minted. The order is that of useApproval: the intent is on record before the
// approval is used, so that no crash uses one up for a call that the record does not
// know. If we crash in between, the event becomes ambiguous at the next start, and
// the approval can be used still.
func (g *Gate) permitApproved(ctx context.Context, c *call) (*Permit, *Refusal) {
	g.intend(c, ApprovalApproved)
	if err := g.record(ctx, &c.event); err != nil {
		return nil, g.unrecordable(c, err)
	}
	if err := g.claim(ctx, c); err != nil {
		return nil, c.refusal(403, g.outrun(ctx, c, err))
	}
	return g.handOut(c, true), nil
}

// outrun ends a call that is on record as going out, and whose approval or passport
// was not to be had any more.
func (g *Gate) outrun(ctx context.Context, c *call, err error) evidence.Decision {
	c.verdict.passport, c.verdict.passportErr = passportInvalid, err
	d := c.rules.render(&c.verdict, c.mode, c.id)
	d.ApprovalRequestID = c.approval
	o := evidence.Outcome{State: evidence.StateBlocked, Status: 403, DurationMS: g.since(c.started), Error: clipTo(d.ReasonCode+": "+err.Error(), 512)}
	_ = g.recordOutcome(ctx, c.id, o)
	if c.consumed {
		g.keepOutcome(c.Identity.TenantID, c.approval, o, false)
	}
	g.flying.land(c.approval)
	g.unreserve(c)
	g.decided(&d, &c.event)
	return d
}
