package gate

import (
	"fmt"
	"sync"
	"time"
)

// steady is the clock that limits are counted by. It starts at the time of day
// and from then on follows elapsed, a clock that nobody can set: when the time
// of day is set forward, no limit becomes free, and when it is set back, none
// counts for longer. A process that starts later takes the new time of day.
type steady struct {
	elapsed func() time.Duration // nil: follow the time of day

	mu    sync.Mutex
	began time.Time
	from  time.Duration // elapsed, then
	off   time.Duration // by how much the time of day is ahead of it, as last told
}

// tolerated is how far the two clocks may part before it is worth telling:
// elapsed is slewed as the time of day is, but not read in the same moment.
const tolerated = 2 * time.Second

func newSteady(elapsed func() time.Duration, wall time.Time) *steady {
	s := &steady{elapsed: elapsed, began: wall.Round(0)} // without Go's own monotonic reading
	if elapsed != nil {
		s.from = elapsed()
	}
	return s
}

// at gives the steady time when the time of day is wall. err tells, once, that
// the time of day was set.
func (s *steady) at(wall time.Time) (now time.Time, err error) {
	if s.elapsed == nil {
		return wall, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now = s.began.Add(s.elapsed() - s.from)
	off := wall.Round(0).Sub(now)
	if d := off - s.off; d > tolerated || d < -tolerated {
		err = fmt.Errorf("the clock was set by %s; limits go on by the time that has passed, until the sidecar is started again", d.Round(time.Millisecond))
		s.off = off
	}
	return now, err
}

// begin makes now the steady time, when the time of day is wall.
func (s *steady) begin(now, wall time.Time) {
	if s.elapsed == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began, s.from = now.Round(0), s.elapsed()
	s.off = wall.Round(0).Sub(s.began)
}

// CountLimitsFrom says what time it is for limits, from now on: the clock of the
// database that several sidecars share. By their own clocks, which may be apart, one
// would look to the others like a clock that is set back with every call.
func (g *Gate) CountLimitsFrom(now time.Time) { g.steady.begin(now, g.now()) }

func (g *Gate) limitTime() time.Time {
	now, err := g.steady.at(g.now())
	if err != nil {
		g.Fault("clock", err)
	}
	return now
}

var started = time.Now()

// sinceStart stands still while the machine sleeps.
func sinceStart() time.Duration { return time.Since(started) }
