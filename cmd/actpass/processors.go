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
	// A machine that idles less than this has not given what was wanted, if
	// processorsSome of the processors were used: whoever runs on more threads gets a
	// larger share of it.
	processorsScarce, processorsSome = 0.02, 0.3
	// processorsLook is over how long that is looked at: the system counts in hundredths.
	processorsLook = time.Second
	// processorsAsk is how often it is asked again how many there are.
	processorsAsk = 10 * time.Second
	// A processor that was given up and taken back within processorsSettled was missed: the
	// next try waits twice as long as this one did, or until there is this much less
	// to do.
	processorsLess                     = 0.75
	processorsSettled                  = 2 * time.Second
	processorsWait, processorsWaitMost = time.Second, time.Minute
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
// were busy, and this share of the machine's was idle.
func (p *processors) next(busy, idle float64, now time.Time) int {
	n := float64(p.now)
	starved := idle < processorsScarce && busy > processorsSome*n
	missed := !p.tried.IsZero() && now.Sub(p.tried) < processorsSettled
	switch {
	case (busy > processorsFull*n || starved) && p.now < p.most:
		if missed {
			p.notBefore = now.Add(p.wait)
			p.wait = min(2*p.wait, processorsWaitMost)
		}
		p.now = min(2*p.now, p.most)
		p.tried = time.Time{}
	case busy < processorsRoomy*n && !starved && p.now > 1 && !missed && (!now.Before(p.notBefore) || busy < processorsLess*p.busy):
		// Enough for what is used now, and at least one less.
		p.now = max(1, min(p.now-1, int(math.Ceil(busy/processorsFull))))
		p.tried, p.busy = now, busy
	}
	if !p.tried.IsZero() && now.Sub(p.tried) >= processorsSettled {
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
		p, sum, at, asked := newProcessors(most), busy(), time.Now(), time.Now()
		m := machine{share: 1}
		tick := time.NewTicker(processorsEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			long := time.Since(at)
			if long < processorsEvery/2 {
				continue // after a tick that came late
			}
			last, was := sum, p.now
			sum, at = busy(), time.Now()
			used := (sum - last).Seconds() / long.Seconds()
			n := p.next(used, m.idle(used > processorsSome, at), at)
			if n > was || n > 1 && at.Sub(asked) > processorsAsk {
				// What the machine, or a limit of its cgroup, gives may have changed.
				runtime.SetDefaultGOMAXPROCS()
				p.most, asked = runtime.GOMAXPROCS(0), at
				p.now = min(n, p.most)
				was = p.most
			}
			if p.now != was {
				runtime.GOMAXPROCS(p.now)
			}
		}
	}()
}

// machine is what share of the machine's processors was idle lately.
type machine struct {
	share      float64
	idled, all uint64
	at         time.Time // zero: not looked at
}

// idle is that share, 1 where it is not known, or does not matter.
func (m *machine) idle(matters bool, now time.Time) float64 {
	switch {
	case !matters:
		m.share, m.at = 1, time.Time{}
	case m.at.IsZero() || now.Sub(m.at) >= processorsLook:
		was, wasAll, first := m.idled, m.all, m.at.IsZero()
		m.idled, m.all = machineTime()
		if m.at = now; !first && m.all > wasAll {
			m.share = float64(m.idled-was) / float64(m.all-wasAll)
		}
	}
	return m.share
}
