package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/policy"
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
	changed, stop := g.waits.join(id)
	defer stop()
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
		poll := time.NewTimer(pollEvery)
		select {
		case <-changed:
		case <-poll.C:
		case <-over.C:
			wait = 0
		case <-g.draining:
			wait = 0
		case <-ctx.Done():
			poll.Stop()
			return a, nil
		}
		poll.Stop()
	}
}

// Decide is a human's word on an approval: approve, deny or escalate (to other
// groups). ErrNotAllowed when the key's role or group does not fit or the key is
// the requesting agent's own, ErrIllegalState when it is not pending any more.
func (g *Gate) Decide(ctx context.Context, actor Identity, id, decision, reason string, to []string) (Approval, error) {
	a, err := g.store.GetApproval(ctx, actor.TenantID, id)
	if err != nil {
		return Approval{}, err
	}
	if err := mayDecide(actor, &a); err != nil {
		return Approval{}, err
	}
	if decision == Escalate && len(to) == 0 {
		return Approval{}, &FieldError{Field: "to", Message: "escalate needs the groups to ask: `\"to\": [\"finance-leads\"]`"}
	}
	if decision != Approve && decision != DenyIt && decision != Escalate {
		return Approval{}, &FieldError{Field: "decision", Message: "must be approve, deny or escalate"}
	}
	v := Vote{KeyID: actor.KeyID, Name: actor.Name, Decision: decision, Reason: clipTo(reason, 1024), Time: g.now()}
	got, err := g.store.Vote(ctx, actor.TenantID, id, v, to)
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
	for _, group := range actor.Groups {
		if slices.Contains(a.Approvers, group) {
			return nil
		}
	}
	return fmt.Errorf("decide approval %s: %w: the rule names the groups %v, and the key is in %v", a.ID, ErrNotAllowed, a.Approvers, actor.Groups)
}

// recordTransitions writes the evidence of approval moves that have none yet.
// It runs after each move, and at start for what a crash left behind.
func (g *Gate) recordTransitions(ctx context.Context) {
	if err := g.RecordTransitions(ctx); err != nil {
		g.Fault("evidence", err)
	}
}

// RecordTransitions writes the evidence of approval moves that have none yet.
func (g *Gate) RecordTransitions(ctx context.Context) error {
	g.transitions.Lock()
	defer g.transitions.Unlock()
	ctx = context.WithoutCancel(ctx)
	for {
		list, err := g.store.Unrecorded(ctx, 100)
		if err != nil {
			return fmt.Errorf("find unrecorded approval transitions: %w", err)
		}
		if len(list) == 0 {
			return nil
		}
		for _, t := range list {
			if err := g.recordTransition(ctx, t); err != nil {
				return err
			}
			// Whatever ended it, the limits' shares of a call that will not happen are
			// given back here, once for every way there.
			switch t.To {
			case ApprovalDenied, ApprovalExpired, ApprovalCancelled:
				g.release(t.TenantID, t.ApprovalID)
			}
			// A crash between the two writes the transition's evidence twice: the
			// second copy names the same move and time.
			if err := g.store.MarkRecorded(ctx, t.ID); err != nil {
				return fmt.Errorf("mark transition of %s as recorded: %w", t.ApprovalID, err)
			}
		}
	}
}

func (g *Gate) recordTransition(ctx context.Context, t Transition) error {
	a, err := g.store.GetApproval(ctx, t.TenantID, t.ApprovalID)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("find approval %s: %w", t.ApprovalID, err)
	}
	e := evidence.Event{
		ID: newID("ev_"), Kind: evidence.KindApproval, Time: evidence.Time{Time: t.Time},
		TenantID: t.TenantID, AgentID: a.AgentID, UserID: a.UserID, KeyID: t.Actor,
		Approval: &evidence.Approval{
			ID: t.ApprovalID, From: t.From, State: t.To, Actor: t.Actor, Reason: t.Reason, EventRef: a.EventID,
		},
	}
	if t.Actor == systemActor {
		e.KeyID = ""
	}
	e.Decision = evidence.Decision{
		Decision: policy.RequireApproval.String(), ReasonCode: "approval." + t.To, RiskTier: a.Risk,
		EvidenceEventID: e.ID, Enforcement: enforceHold, ApprovalRequestID: t.ApprovalID, Tool: a.Tool, Resource: a.Resource,
		Explain: evidence.Explain{Summary: "Approval " + t.ApprovalID + " is " + t.To + ".", MatchedRules: []string{}, NextSteps: []string{}},
		Would:   map[string]string{},
	}
	if a.Rule != "" {
		e.Explain.MatchedRules = []string{a.Rule}
	}
	g.rules.Load().stamp(&e.Decision)
	return g.record(ctx, &e)
}

const systemActor = "system"

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
		gone, err := g.store.ExpireApprovals(ctx, g.now())
		if err != nil {
			if ctx.Err() == nil {
				g.Fault("store", fmt.Errorf("expire approvals: %w", err))
			}
			continue
		}
		if len(gone) > 0 {
			g.log.Info("approvals expired", zap.Int("count", len(gone)))
			g.recordTransitions(ctx)
		}
		for _, a := range gone {
			g.waits.wake(a.ID)
		}
	}
}
