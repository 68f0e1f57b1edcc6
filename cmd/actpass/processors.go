package main

import (
	"context"
	"math"
	"os"
	"runtime"
	"time"
)

const (
	// processorsEvery is how often it is looked at how busy the sidecar is.
	processorsEvery = 100 * time.Millisecond
	// What is used of the processors that are used at all, above which there are
	// too few of them, and below which perhaps too many.
	processorsFull, processorsRoomy = 0.95, 0.6
	// A processor that was given up and taken back within settled was missed: the
	// next try waits twice as long as this one did, or until there is this much less
	// to do.
	processorsLess               = 0.75
	processorsSettled            = 2 * time.Second
	processorsWait, processorsIn = time.Second, time.Minute
)

// processors decides how many processors the runtime uses at once (GOMAXPROCS):
// as few as the load needs. Each further one costs: connections wander between
// their caches, and whichever has nothing to do looks for work at the others. On
// two cores a call takes a fifth more CPU with two than with one, as long as one
// is enough; and what a sidecar does not take, the agent beside it has.
//
// How much less fewer would need cannot be known, so it is tried: one that was
// given up too early comes back after processorsEvery.
type processors struct {
	most, now int
	wait      time.Duration // before a try, after one that failed
	tried     time.Time     // when one was last given up
	busy      float64       // how many were busy then
	notBefore time.Time
}

func newProcessors(most int) *processors {
	return &processors{most: most, now: most, wait: processorsWait}
}

// next is how many processors to use from now on, after a while in which so many
// were busy.
func (p *processors) next(busy float64, now time.Time) int {
	n := float64(p.now)
	missed := !p.tried.IsZero() && now.Sub(p.tried) < processorsSettled
	switch {
	case busy > processorsFull*n && p.now < p.most:
		if missed {
			p.notBefore = now.Add(p.wait)
			p.wait = min(2*p.wait, processorsIn)
		}
		p.now = min(2*p.now, p.most)
		p.tried = time.Time{}
	case busy < processorsRoomy*n && p.now > 1 && !missed && (!now.Before(p.notBefore) || busy < processorsLess*p.busy):
		// Enough for what is used now, and at least one less.
		p.now = max(1, min(p.now-1, int(math.Ceil(busy/processorsFull))))
		p.tried, p.busy = now, busy
	}
	if !p.tried.IsZero() && !missed && now.Sub(p.tried) >= processorsSettled {
		p.wait = processorsWait
	}
	return p.now
}

// tuneProcessors keeps to that until the context ends, save where GOMAXPROCS says
// otherwise. It does not wait. blocked is how long system calls that block have held
// a processor so far: the runtime takes it from them a millisecond later at the
// earliest, see timerslack.
func tuneProcessors(ctx context.Context, blocked func() time.Duration) {
	most := runtime.GOMAXPROCS(0)
	_, ok := processorTime()
	if os.Getenv("GOMAXPROCS") != "" || most == 1 || !ok {
		return
	}
	go func() {
		defer runtime.SetDefaultGOMAXPROCS() // a stop has much to do
		busy := func() time.Duration {
			used, _ := processorTime()
			return used + blocked()
		}
		p, sum, at := newProcessors(most), busy(), time.Now()
		tick := time.NewTicker(processorsEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			last, since, was := sum, at, p.now
			sum, at = busy(), time.Now()
			n := p.next((sum-last).Seconds()/at.Sub(since).Seconds(), at)
			if n > was {
				// What the machine, or a limit of its cgroup, gives may have changed.
				runtime.SetDefaultGOMAXPROCS()
				p.most = runtime.GOMAXPROCS(0)
				p.now = min(n, p.most)
			}
			if p.now != was {
				runtime.GOMAXPROCS(p.now)
			}
		}
	}()
}
