package notify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

const (
	lookEvery   = 250 * time.Millisecond
	batchSize   = 64
	firstRetry  = time.Second
	longest     = 10 * time.Minute
	forgetEvery = 10 * time.Minute

	// keepDelivered is how long a delivery that arrived can be seen, keepDead how long
	// one that did not, unless Options say so.
	keepDelivered = 24 * time.Hour
	keepDead      = 30 * 24 * time.Hour
)

// Run delivers until ctx ends, and returns when the attempts that were under way
// are over.
func (n *Notifier) Run(ctx context.Context) {
	defer n.wg.Wait()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var forgot time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := n.Now()
		l := n.live.Load()
		for _, c := range l.channels {
			n.start(ctx, l, c, now)
		}
		// Also without a channel: what those of before left is forgotten too.
		if now.Sub(forgot).Abs() > forgetEvery {
			forgot = now
			if err := n.Outbox.Forget(ctx, now.Add(-keepDelivered), n.deadBefore(now), now); err != nil && ctx.Err() == nil {
				n.Gate.Fault("notify", fmt.Errorf("forget old deliveries: %w", err))
			}
		}
	}
}

// deadBefore is when dead deliveries that are forgotten now were given up.
func (n *Notifier) deadBefore(now time.Time) time.Time {
	switch {
	case n.Keep < 0:
		return time.Time{}
	case n.Keep == 0:
		return now.Add(-keepDead)
	}
	return now.Add(-n.Keep)
}

// start pumps a channel unless that is being done, or it is to be left alone.
func (n *Notifier) start(ctx context.Context, l *live, c channel, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pumping[c.name()] || now.Before(n.rest[c.name()]) {
		return
	}
	n.pumping[c.name()] = true
	n.wg.Go(func() {
		rest := n.pump(ctx, l, c)
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.pumping, c.name())
		delete(n.rest, c.name())
		if rest > 0 {
			n.rest[c.name()] = n.Now().Add(rest)
		}
	})
}

// pump delivers what is due to a channel, and says for how long the channel is
// to be left alone then.
func (n *Notifier) pump(ctx context.Context, l *live, c channel) time.Duration {
	for ctx.Err() == nil {
		due, err := n.Outbox.Due(ctx, c.name(), n.Now(), batchSize)
		if err != nil {
			if ctx.Err() == nil {
				n.Gate.Fault("notify", fmt.Errorf("look for deliveries: %w", err))
			}
			return 5 * time.Second
		}
		if len(due) == 0 {
			return 0
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		var rest time.Duration
		slots := make(chan struct{}, c.parallel())
		for _, d := range due {
			slots <- struct{}{}
			mu.Lock()
			over := rest > 0
			mu.Unlock()
			if over || ctx.Err() != nil {
				break
			}
			wg.Go(func() {
				defer func() { <-slots }()
				if wait := n.attempt(ctx, l, c, d); wait > 0 {
					mu.Lock()
					rest = max(rest, wait)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if rest > 0 {
			return rest
		}
	}
	return 0
}

// attempt makes one attempt at d. It returns for how long the channel is to be
// left alone: when it asked for that, or when the outbox cannot be written and
// going on would send the same again and again.
//
// If we crash after the receiver took it and before it is settled, it is sent
// again, under the same id.
func (n *Notifier) attempt(ctx context.Context, l *live, c channel, d Delivery) time.Duration {
	tryCtx, cancel := context.WithTimeout(ctx, n.Timeout)
	defer cancel()
	var out sent
	a, err := n.Gate.Approval(tryCtx, gate.Identity{TenantID: d.TenantID}, d.ApprovalID, 0)
	gone := errors.Is(err, gate.ErrNotFound)
	if err != nil {
		out.err = fmt.Errorf("find approval: %w", err)
	} else {
		out = c.send(tryCtx, d, a)
	}
	if ctx.Err() != nil && out.err != nil {
		return 0 // a stop is no failure of the receiver
	}
	now := n.Now()
	r := Result{State: Delivered, Status: out.status}
	if out.err != nil {
		r = Result{State: Queued, Status: out.status, Error: Clip(Visible(out.err.Error()), 500), Body: out.body}
		r.NextAt = now.Add(max(backoff(d.Attempts+1), out.retryAfter))
		if gone || d.Attempts+1 >= l.settings.MaxAttempts {
			r.State = Dead
		}
	}
	if err := n.Outbox.Settle(context.WithoutCancel(ctx), d.ID, r, now); err != nil {
		n.Gate.Fault("notify", fmt.Errorf("settle delivery %s: %w", d.ID, err))
		return 5 * time.Second
	}
	if r.State == Dead {
		n.Gate.Fault("notify", fmt.Errorf("delivery %s (%s of %s) to %s is given up after %d attempts: %s", d.ID, d.Event, d.ApprovalID, d.Channel, d.Attempts+1, r.Error))
	} else if out.err != nil {
		n.Log.Info("delivery put off", zap.String("delivery", d.ID), zap.String("channel", d.Channel), zap.Int("attempt", d.Attempts+1), zap.String("because", r.Error), zap.Time("next", r.NextAt))
	}
	return out.retryAfter
}

// backoff is the wait after the n-th failed attempt: doubling from a second to
// ten minutes, of which the second half is left to chance, so that many that
// failed together do not come back together.
func backoff(n int) time.Duration {
	d := longest
	if n < 20 {
		d = min(firstRetry<<(n-1), longest)
	}
	return d/2 + rand.N(d/2+1)
}

// Retry puts a dead delivery back, on record.
func (n *Notifier) Retry(ctx context.Context, actor gate.Identity, id string) (Delivery, error) {
	d, err := n.Outbox.Requeue(ctx, actor.TenantID, id)
	if err != nil {
		return Delivery{}, err
	}
	return d, n.Gate.Note(ctx, evidence.KindSystem, "delivery sent again by hand", map[string]string{
		"delivery": d.ID, "channel": d.Channel, "approval_id": d.ApprovalID, "key_id": actor.KeyID,
	})
}
