package gate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
)

const (
	defaultExpires   = time.Hour
	defaultUseWithin = 15 * time.Minute
)

// Words of a decision on an approval.
const (
	Approve  = "approve"
	DenyIt   = "deny"
	Escalate = "escalate"
	Cancel   = "cancel"
)

// Approvals lists, newest first. An agent's key sees its own agent's only.
func (g *Gate) Approvals(ctx context.Context, actor Identity, q ApprovalQuery) ([]Approval, string, error) {
	q.TenantID = actor.TenantID
	if actor.Role == RoleGateway {
		q.AgentID = actor.AgentID
	}
	return g.store.Approvals(ctx, q)
}

// Approval finds one. With wait > 0 it returns when the state is no longer
// pending, or when wait is over.
func (g *Gate) Approval(ctx context.Context, actor Identity, id string, wait time.Duration) (Approval, error) {
	changed := make(chan struct{}, 1)
	defer g.join(id, func() { nudge(changed) })()
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		a, err := g.store.GetApproval(ctx, actor.TenantID, id)
		if err != nil {
			return Approval{}, err
		}
		if actor.Role == RoleGateway && a.AgentID != actor.AgentID {
			return Approval{}, ErrNotFound
		}
		if a.State != ApprovalPending || wait <= 0 {
			return a, nil
		}
		select {
		case <-changed:
		case <-over.C:
			wait = 0
		case <-g.draining:
			wait = 0
		case <-ctx.Done():
			return a, nil
		}
	}
}

// Decide is a human's word on an approval: approve, deny, escalate (to other
// groups; to none: to the keys with role admin) or cancel, which the requesting agent's own key may say too.
// ErrNotAllowed when the key's role or group does not fit or the key is the
// requesting agent's own, ErrIllegalState when it is not pending any more.
func (g *Gate) Decide(ctx context.Context, actor Identity, id, decision, reason string, to []string) (Approval, error) {
	a, err := g.store.GetApproval(ctx, actor.TenantID, id)
	if err != nil {
		return Approval{}, err
	}
	if err := mayDecide(actor, &a); err != nil && (decision != Cancel || !asked(actor, &a)) {
		return Approval{}, err
	}
	if decision == Escalate && len(to) == 0 {
		// Handed on without a name: to those who are above every group.
		to = []string{RoleAdmin}
	}
	v := Vote{
		KeyID: actor.KeyID, Name: actor.Name, Role: actor.Role, Groups: slices.Clone(actor.Groups),
		Decision: decision, Reason: clipTo(reason, 1024), Time: g.now(),
	}
	var got Approval
	switch decision {
	case Approve, DenyIt, Escalate:
		got, err = g.store.Vote(ctx, actor.TenantID, id, v, to)
	case Cancel:
		got, err = g.store.Cancel(ctx, actor.TenantID, id, v)
	default:
		return Approval{}, &FieldError{Field: "decision", Message: "must be approve, deny, escalate or cancel"}
	}
	if err != nil {
		return Approval{}, fmt.Errorf("%s approval %s: %w", decision, id, err)
	}
	// If we crash here, the move is stored and its evidence is written at the next
	// start, from the same table.
	g.recordTransitions(ctx)
	g.waits.wake(id)
	return got, nil
}

func mayDecide(actor Identity, a *Approval) error {
	switch {
	case actor.KeyID == "":
		return fmt.Errorf("decide approval %s: %w: a key is needed", a.ID, ErrNotAllowed)
	case actor.KeyID == a.KeyID || actor.BoundAgent != "" && actor.BoundAgent == a.AgentID:
		return fmt.Errorf("decide approval %s: %w: the requesting agent's own key may not decide", a.ID, ErrNotAllowed)
	case actor.Role == RoleAdmin:
		return nil
	case actor.Role != RoleApprover:
		return fmt.Errorf("decide approval %s: %w: the key's role is %s, and approver is needed", a.ID, ErrNotAllowed, actor.Role)
	case len(a.Approvers) == 0:
		return nil
	}
	if shareGroup(actor.Groups, a.Approvers) {
		return nil
	}
	return fmt.Errorf("decide approval %s: %w: the rule names the groups %v, and the key is in %v", a.ID, ErrNotAllowed, a.Approvers, actor.Groups)
}

// asked says that actor's key is the one that asked, or speaks for nobody but the
// agent that did. It may take its question back.
func asked(actor Identity, a *Approval) bool {
	return actor.KeyID != "" && (actor.KeyID == a.KeyID || actor.Role == RoleGateway && actor.BoundAgent != "" && actor.BoundAgent == a.AgentID)
}

func shareGroup(have, named []string) bool {
	return slices.ContainsFunc(have, func(g string) bool { return slices.Contains(named, g) })
}

// Entitled says whether v is the word of somebody whom a asks now.
func (a *Approval) Entitled(v *Vote) bool {
	return len(a.Approvers) == 0 || v.Role == RoleAdmin || shareGroup(v.Groups, a.Approvers)
}

// Escalated says whether a was handed on to other groups.
func (a *Approval) Escalated() bool { return a.escalation() >= 0 }

func (a *Approval) escalation() int {
	for i := len(a.Votes) - 1; i >= 0; i-- {
		if a.Votes[i].Decision == Escalate {
			return i
		}
	}
	return -1
}

// Counts says whether the vote at i is an approval that counts: one that was given
// to the groups asked now, or, before the last escalation, by a key that is in them
// as well. What was approved by those who then handed it on is not what the new
// groups were asked.
func (a *Approval) Counts(i int) bool {
	return a.Votes[i].Decision == Approve && (i > a.escalation() || a.Entitled(&a.Votes[i]))
}

// Tend expires approvals until ctx ends. It is the gate's only background work.
func (g *Gate) Tend(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := g.expireApprovals(ctx); err != nil && ctx.Err() == nil {
			g.Fault("store", err)
		}
	}
}

func (g *Gate) expireApprovals(ctx context.Context) error {
	for {
		gone, err := g.store.ExpireApprovals(ctx, g.now())
		if err != nil {
			return fmt.Errorf("expire approvals: %w", err)
		}
		if len(gone) == 0 {
			return nil
		}
		g.log.Info("approvals expired", zap.Int("count", len(gone)))
		g.recordTransitions(ctx)
		ids := make([]string, len(gone))
		for i := range gone {
			ids[i] = gone[i].ID
		}
		g.waits.wake(ids...)
	}
}
