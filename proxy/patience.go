package proxy

import (
	"context"
	"net"
	"sync"
	"time"
)

// patienceParts is into how many parts a patience is cut. What a stall of this
// process can cost is one of them.
const patienceParts = 5

// patience ends a wait after d of time in which this process ran. A plain time-out
// also runs while nothing else does: over a machine that is moved or suspended, a
// container that is out of CPU, or kill -STOP. Afterwards it would find clients
// late that have long sent what was asked of them.
type patience struct {
	mu    sync.Mutex
	timer stopper
	left  int
	over  bool
	end   func()
	after func(time.Duration, func()) stopper
	part  time.Duration
}

type stopper interface{ Stop() bool }

func afterFunc(d time.Duration, f func()) stopper { return time.AfterFunc(d, f) }

// newPatience calls end, once, when d is over before stop was called.
func newPatience(d time.Duration, end func()) *patience {
	p := &patience{left: patienceParts, end: end, after: afterFunc, part: d / patienceParts}
	p.start()
	return p
}

func (p *patience) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = p.after(p.part, p.tick)
}

func (p *patience) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	if p.left--; p.left > 0 {
		p.timer = p.after(p.part, p.tick)
		return
	}
	p.over = true
	p.end()
}

// stop ends the wait, and says whether end was called. It is not called later.
func (p *patience) stop() (ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ended, p.over = p.over, true
	p.timer.Stop()
	return ended
}

// forAtMost is ctx for at most d. end must be called, once; it says whether the time
// was over.
func forAtMost(ctx context.Context, d time.Duration) (within context.Context, end func() (over bool)) {
	within, cancel := context.WithCancel(ctx)
	p := newPatience(d, cancel)
	return within, func() bool {
		defer cancel()
		return p.stop()
	}
}

// within reads from c in f for at most d. What is read below fails with a time-out
// afterwards.
func within(c net.Conn, d time.Duration, f func()) {
	p := newPatience(d, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		p.stop()
		_ = c.SetReadDeadline(time.Time{})
	}()
	f()
}
