package gate

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// Waiting is a held call, on record and with its question open, which nobody holds a
// stack for. Whoever has one calls Wait, once; or, to wait in a way of its own, Start,
// then Look until it says that the wait is over, and End.
type Waiting struct {
	g *Gate
	c *call

	leave   func() // ends Start
	budget  *time.Timer
	late    atomic.Bool // the budget is over
	wake    func()
	now     *Approval // how it ended, where it was decided
	why     string    // or why it waits no more
	refusal *Refusal  // or what went wrong
}

// Wait ends when the call waits no more: as Check does. A ctx that ends means that
// the client went away.
func (w *Waiting) Wait(ctx context.Context) (*Permit, *Refusal) {
	woken := make(chan struct{}, 1)
	w.Start(func() { nudge(woken) })
	// What lies on the stack here lies there for as long as a human takes.
	for !w.Look(ctx) {
		select {
		case <-woken:
		case <-ctx.Done():
		}
	}
	return w.End(ctx)
}

// Start has wake called, from then on and until End, whenever it is time to Look:
// from any goroutine, more than once, and maybe still after End. wake must not wait.
// What happened before Start wakes nobody, so the first Look follows it at once.
func (w *Waiting) Start(wake func()) {
	w.g.observer.Holds(int(w.g.held.Add(1)))
	w.wake = wake
	w.leave = w.g.join(w.c.event.Approval.ID, wake)
	w.budget = time.AfterFunc(w.c.rules.Hold, func() {
		w.late.Store(true)
		wake()
	})
}

// Look says whether the call waits no more. A ctx that has ended means that the
// client went away.
func (w *Waiting) Look(ctx context.Context) (over bool) {
	defer func() {
		if p := recover(); p != nil {
			w.refusal, over = w.g.panicked(ctx, w.c.Request, p), true
		}
	}()
	select {
	case <-ctx.Done():
		w.why = "the client went away while it waited"
		return true
	case <-w.g.draining:
		w.why = "the sidecar stopped while it waited"
		return true
	default:
	}
	now, err := w.g.look(ctx, w.c)
	if now != nil {
		w.now = now
		return true
	}
	if err != nil {
		time.AfterFunc(pollEvery, w.wake)
	}
	return w.late.Load()
}

// End is what Check answers, after Look said that the wait is over.
func (w *Waiting) End(ctx context.Context) (permit *Permit, refusal *Refusal) {
	defer func() {
		if p := recover(); p != nil {
			permit, refusal = nil, w.g.panicked(ctx, w.c.Request, p)
		}
	}()
	w.budget.Stop()
	w.leave()
	w.g.observer.Holds(int(w.g.held.Add(-1)))
	switch {
	case w.refusal != nil:
		return nil, w.refusal
	case w.now == nil:
		return nil, w.g.stillHeld(ctx, w.c, w.c.event.Approval.ID, w.why)
	}
	return w.g.decidedHold(ctx, w.c, *w.now)
}

// look is the approval of a held call if it is no longer pending.
func (g *Gate) look(ctx context.Context, c *call) (moved *Approval, err error) {
	onFreshStack(func() {
		var now Approval
		now, err = g.store.GetApproval(ctx, c.Identity.TenantID, c.event.Approval.ID)
		switch {
		case err == nil && now.State != ApprovalPending:
			moved = &now
		case err != nil && ctx.Err() != nil:
			err = nil
		case err != nil:
			g.Fault("store", fmt.Errorf("look at approval %s: %w", c.event.Approval.ID, err))
		}
	})
	return moved, err
}
