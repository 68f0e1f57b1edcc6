package gate

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// pollEvery is how often the store is asked for moves of approvals that another
// process made.
const pollEvery = time.Second

// moveTeller is a Store that can say at once that there may be moves which
// another process made, until ctx ends.
type moveTeller interface {
	Moves(ctx context.Context) <-chan struct{}
}

// waiters wakes the calls that wait for one approval.
type waiters struct {
	mu      sync.Mutex
	m       map[string]map[*waiter]struct{}
	polling bool // somebody asks the store for them
}

// waiter is one of those that wait; wake must not wait itself, nor join or leave.
type waiter struct{ wake func() }

// join has wake called after the moves of an approval, this process's own and those
// that others made, and when the gate drains. One question a second is put to the
// store, for all that wait: ten thousand held calls cost no more than one.
//
// A move that is stored before join returns may go unnoticed; look once after it.
// wake is not called any more once leave has returned.
func (g *Gate) join(id string, wake func()) (leave func()) {
	w, one := &g.waits, &waiter{wake}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m == nil {
		w.m = make(map[string]map[*waiter]struct{})
	}
	if w.m[id] == nil {
		w.m[id] = make(map[*waiter]struct{}, 1)
	}
	w.m[id][one] = struct{}{}
	if !w.polling {
		w.polling = true
		go g.poll()
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.m[id], one)
		if len(w.m[id]) == 0 {
			delete(w.m, id)
		}
	}
}

func (w *waiters) wake(ids ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		for one := range w.m[id] {
			one.wake()
		}
	}
}

func (w *waiters) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, list := range w.m {
		for one := range list {
			one.wake()
		}
	}
}

func nudge(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// idle says that nobody waits; the next to join then starts the polling again.
func (w *waiters) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.polling = len(w.m) > 0
	return !w.polling
}

// poll asks the store for moves until nobody waits, or until Drain sends all of
// them away. What moved before its first answer is unknown to it, so everybody
// looks once more then.
func (g *Gate) poll() {
	var moves <-chan struct{}
	if s, ok := g.store.(moveTeller); ok {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		moves = s.Moves(ctx)
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for at := int64(-1); ; {
		ids, next, err := g.moved(at)
		switch {
		case err != nil:
			g.Fault("store", fmt.Errorf("look for moves of approvals: %w", err))
		case at < 0:
			at = next
			g.waits.wakeAll()
		default:
			at = next
			g.waits.wake(ids...)
		}
		if len(ids) > 0 {
			continue // there may be more
		}
		select {
		case <-tick.C:
		case <-moves:
		case <-g.draining:
			return
		}
		if g.waits.idle() {
			return
		}
	}
}

func (g *Gate) moved(after int64) (ids []string, last int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	return g.store.Moved(ctx, after)
}
