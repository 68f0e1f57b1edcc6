package store

import (
	"fmt"
	"slices"
	"time"

	"github.com/actpass/sidecar/gate"
)

// The state machine of an approval, without storage. Each engine reads a row,
// asks here, and writes row and transition in one transaction.

const (
	actorSystem = "system"

	voteApprove  = "approve"
	voteDeny     = "deny"
	voteEscalate = "escalate"
	voteCancel   = "cancel"
)

// past is the one meaning of "past its time": the moment itself still counts.
// Times are compared as they are stored.
func past(now, limit time.Time) bool { return micros(now) > micros(limit) }

func illegal(a gate.Approval, why string) error {
	return &gate.StateError{Message: fmt.Sprintf("approval %s is %s: %s", a.ID, a.State, why)}
}

// closed says that nothing comes after a state.
func closed(state string) bool {
	return state != gate.ApprovalPending && state != gate.ApprovalApproved
}

// restAt is the moment until which a closed approval answers for its call; zero
// while it is open.
func restAt(a gate.Approval) time.Time {
	if !closed(a.State) {
		return time.Time{}
	}
	return a.AnswersUntil()
}

// move changes the state and says so.
func move(a *gate.Approval, to, actor, reason string, at time.Time) gate.Transition {
	t := gate.Transition{
		ApprovalID: a.ID, TenantID: a.TenantID, From: a.State, To: to,
		Actor: actor, Reason: reason, Time: stored(at),
	}
	if a.State = to; closed(to) {
		a.ClosedAt = t.Time
	}
	return t
}

// roomLeft says whether one more may be pending beside those that are.
func roomLeft(room gate.Room, pending, ofAgent int) error {
	switch {
	case pending >= room.Tenant:
		return fmt.Errorf("%d approvals are pending: %w", pending, gate.ErrTooMany)
	case ofAgent >= room.Agent:
		return fmt.Errorf("%d approvals of this agent are pending: %w", ofAgent, gate.ErrTooManyOfAgent)
	}
	return nil
}

// opened is a as it is stored when it is new.
func opened(a gate.Approval) gate.Approval {
	a.State = gate.ApprovalPending
	a.CreatedAt, a.ExpiresAt = stored(a.CreatedAt), stored(a.ExpiresAt)
	a.UseWithin = a.UseWithin.Truncate(time.Microsecond)
	a.DecidedAt, a.UseBefore, a.ClosedAt = time.Time{}, time.Time{}, time.Time{}
	a.Votes, a.ConsumedBy = nil, ""
	return a
}

// vote applies one human's word to a.
func vote(a *gate.Approval, v gate.Vote, to []string) (gate.Transition, error) {
	if v.KeyID == "" || v.Time.IsZero() {
		return gate.Transition{}, misuse("a vote on %s without a key or a time", a.ID)
	}
	if v.KeyID == a.KeyID {
		return gate.Transition{}, fmt.Errorf("approval %s: key %s asked for it and cannot decide it: %w", a.ID, v.KeyID, gate.ErrNotAllowed)
	}
	if a.State != gate.ApprovalPending {
		return gate.Transition{}, illegal(*a, "it has been decided")
	}
	if past(v.Time, a.ExpiresAt) {
		return gate.Transition{}, illegal(*a, "its time is over")
	}
	if a.Escalated() && !a.Entitled(&v) {
		// It may have been handed on since somebody looked whether v may vote.
		return gate.Transition{}, fmt.Errorf("approval %s was escalated to %v, and key %s is in %v: %w", a.ID, a.Approvers, v.KeyID, v.Groups, gate.ErrNotAllowed)
	}
	v.Time, v.Groups = stored(v.Time), slices.Clone(v.Groups)
	state := gate.ApprovalPending
	switch v.Decision {
	case voteDeny:
		// Also by a key that approved before: whoever sees a mistake can stop it.
		state = gate.ApprovalDenied
	case voteEscalate:
		if len(to) == 0 {
			return gate.Transition{}, illegal(*a, "escalating needs the groups to escalate to")
		}
		a.Approvers = slices.Clone(to)
	case voteApprove:
		have := 1
		for i, old := range a.Votes {
			if !a.Counts(i) {
				continue
			}
			if old.KeyID == v.KeyID {
				return gate.Transition{}, illegal(*a, "this key has approved it already; another one is needed")
			}
			have++
		}
		if have >= a.Required {
			state = gate.ApprovalApproved
		}
	default:
		return gate.Transition{}, misuse("a vote on %s says %q, not approve, deny or escalate", a.ID, v.Decision)
	}
	a.Votes = append(slices.Clone(a.Votes), v)
	t := move(a, state, v.KeyID, v.Reason, v.Time)
	if state != gate.ApprovalPending {
		a.DecidedAt = v.Time
	}
	if state == gate.ApprovalApproved {
		a.UseBefore = v.Time.Add(a.UseWithin)
	}
	return t, nil
}

// consume uses an approved approval.
func consume(a *gate.Approval, eventID string, now time.Time) (gate.Transition, error) {
	if eventID == "" || now.IsZero() {
		return gate.Transition{}, misuse("consuming %s without an event or a time", a.ID)
	}
	if a.State != gate.ApprovalApproved {
		return gate.Transition{}, illegal(*a, "only an approved one can be used")
	}
	if past(now, a.UseBefore) {
		return gate.Transition{}, illegal(*a, "it was not used in time")
	}
	a.ConsumedBy = eventID
	return move(a, gate.ApprovalConsumed, actorSystem, "used by "+eventID, now), nil
}

// cancel withdraws a pending approval.
func cancel(a *gate.Approval, v gate.Vote) (gate.Transition, error) {
	if v.KeyID == "" || v.Time.IsZero() {
		return gate.Transition{}, misuse("cancelling %s without an actor or a time", a.ID)
	}
	if a.State != gate.ApprovalPending {
		return gate.Transition{}, illegal(*a, "only a pending one can be cancelled")
	}
	v.Decision, v.Time, v.Groups = voteCancel, stored(v.Time), slices.Clone(v.Groups)
	a.Votes = append(slices.Clone(a.Votes), v)
	a.DecidedAt = v.Time
	return move(a, gate.ApprovalCancelled, v.KeyID, v.Reason, v.Time), nil
}

// expire moves a when it is past its time.
func expire(a *gate.Approval, now time.Time) (gate.Transition, bool) {
	switch {
	case a.State == gate.ApprovalPending && past(now, a.ExpiresAt):
		return move(a, gate.ApprovalExpired, actorSystem, "nobody decided in time", now), true
	case a.State == gate.ApprovalApproved && past(now, a.UseBefore):
		return move(a, gate.ApprovalExpired, actorSystem, "it was not used in time", now), true
	}
	return gate.Transition{}, false
}

// due is when an open approval ends by itself; zero when it is closed.
func due(a gate.Approval) time.Time {
	switch a.State {
	case gate.ApprovalPending:
		return a.ExpiresAt
	case gate.ApprovalApproved:
		return a.UseBefore
	}
	return time.Time{}
}
