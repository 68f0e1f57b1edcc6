package gate

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/policy"
)

const systemActor = "system"

// transitionPage is how many moves are put on record together.
const transitionPage = 200

// recording lets those who made a move share the work of putting it on record:
// whoever comes while a round runs waits for the next, which one of them leads.
type recording struct {
	mu    sync.Mutex
	next  *recordingRound // that has not looked at the store yet
	round sync.Mutex      // held by the leader of the round that runs
}

type recordingRound struct {
	done chan struct{}
	err  error // set before done is closed
}

// recordTransitions writes the evidence of approval moves that have none yet.
// It runs after each move, and at start for what a crash left behind.
func (g *Gate) recordTransitions(ctx context.Context) {
	if err := g.RecordTransitions(ctx); err != nil {
		g.Fault("evidence", err)
	}
}

// RecordTransitions writes the evidence of approval moves that have none yet. It
// returns when every move that was stored before the call is on record.
func (g *Gate) RecordTransitions(ctx context.Context) error {
	rec := &g.transitions
	rec.mu.Lock()
	r, leads := rec.next, rec.next == nil
	if leads {
		r = &recordingRound{done: make(chan struct{})}
		rec.next = r
	}
	rec.mu.Unlock()
	if !leads {
		<-r.done
		return r.err
	}
	rec.round.Lock()
	defer rec.round.Unlock()
	rec.mu.Lock()
	rec.next = nil // from here on the store is read: later moves are the next round's
	rec.mu.Unlock()
	defer close(r.done)
	r.err = g.recordPages(context.WithoutCancel(ctx))
	return r.err
}

func (g *Gate) recordPages(ctx context.Context) error {
	for {
		list, err := g.store.Unrecorded(ctx, transitionPage)
		if err != nil {
			return fmt.Errorf("find unrecorded approval transitions: %w", err)
		}
		if len(list) == 0 {
			return nil
		}
		if err := g.recordPage(ctx, list); err != nil {
			return err
		}
		if len(list) < transitionPage {
			return nil
		}
	}
}

// recordPage puts moves on record at once, so that they share the log's fsync,
// and marks them with one write. Those of one approval keep their order.
//
// If we crash between the two, their evidence is written twice: the second copy
// names the same move and time.
func (g *Gate) recordPage(ctx context.Context, list []Transition) error {
	chains := make(map[string][]Transition, len(list))
	for _, t := range list {
		chains[t.ApprovalID] = append(chains[t.ApprovalID], t)
	}
	var mu sync.Mutex
	var done []int64
	var failed error
	var wg sync.WaitGroup
	for _, chain := range chains {
		wg.Go(func() {
			for _, t := range chain {
				err := g.recordTransition(ctx, t)
				mu.Lock()
				if err != nil {
					failed = err
				} else {
					done = append(done, t.ID)
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	if err := g.store.MarkRecorded(ctx, done...); err != nil {
		return errors.Join(failed, fmt.Errorf("mark %d approval transitions as recorded: %w", len(done), err))
	}
	return failed
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
	if err := g.record(ctx, &e); err != nil {
		return err
	}
	// Whatever ended it, the limits' shares of a call that will not happen are
	// given back here, once for every way there.
	switch t.To {
	case ApprovalDenied, ApprovalExpired, ApprovalCancelled:
		g.release(t.TenantID, t.ApprovalID)
	}
	return nil
}
