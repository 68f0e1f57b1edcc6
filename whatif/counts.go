package whatif

import (
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/policy"
)

// counts holds what the candidate's limits hold, as the gate's store does: each
// use in its window, shares taken once for all attempts at a held call, and given
// back by a 4xx, by a call that was never sent, and by an approval that came to
// nothing. Memory is bounded by the uses that still count.
type counts struct {
	windows map[windowID]*window
	shares  map[string]*share // by event id or approval id
	// exceeded keeps what rules come to over limits: most of the work is in
	// sentences that nobody reads here. As many as the policy has pairs of them.
	exceeded map[exceededID]policy.Decision
}

type exceededID struct {
	rule  string // RuleHash of the decision so far
	over  int    // limits that it is over already
	limit *policy.Limit
}

type windowID struct {
	tenant string
	limit  *policy.Limit
}

// window is one limit of one tenant.
type window struct {
	limit        *policy.Limit
	since, until time.Time // of the calendar window that is being counted
	uses         []use     // oldest first; those before head do not count any more
	head         int
	sums         map[string]*sum // by key
}

type sum struct {
	total int64
	uses  int
}

type use struct {
	at    time.Time
	share *share
	part  int // of the share
}

// share is what one action took of all its limits.
type share struct {
	names    []string // under which it is known
	parts    []part
	live     int // parts whose window has not ended
	released bool
	held     bool // by a call that would have been held
}

type part struct {
	window *window
	key    string
	amount int64
}

func newCounts() *counts {
	return &counts{windows: make(map[windowID]*window), shares: make(map[string]*share), exceeded: make(map[exceededID]policy.Decision)}
}

// apply turns what policy says into what its limits say, and takes a share of
// them where the action would have been sent or held.
func (c *counts) apply(s *gate.Supposed, a *action, mode string) {
	asked := s.Policy
	if asked.Effect == policy.Deny || len(asked.Limits) == 0 {
		return
	}
	do := s.Enforcement(mode)
	if do == "block" || do == "hold" && a.door == string(gate.DoorAPI) {
		return
	}
	name := a.id
	if a.approval != "" {
		name = a.approval // one share for all attempts at a held call
	}
	if taken := c.shares[name]; taken != nil {
		c.know(taken, a.id)
		return
	}
	over := false
	for _, r := range asked.Limits {
		if used := c.window(a.tenant, r.Limit, a.at).total(r.Key); r.Amount > r.Limit.Max-used {
			id := exceededID{s.Policy.RuleHash, len(s.Policy.Over), r.Limit}
			d, known := c.exceeded[id]
			if !known {
				d = s.Policy.Exceeded(r, used, a.at)
				c.exceeded[id] = d
			}
			s.Policy = d
			over = true
		}
	}
	if over || a.question() {
		return
	}
	sh := &share{held: do == "hold", live: len(asked.Limits)}
	for i, r := range asked.Limits {
		w := c.window(a.tenant, r.Limit, a.at)
		sh.parts = append(sh.parts, part{w, r.Key, r.Amount})
		w.uses = append(w.uses, use{a.at, sh, i})
		w.add(r.Key, r.Amount, 1)
	}
	c.know(sh, name)
	c.know(sh, a.id)
}

func (c *counts) know(s *share, name string) {
	if c.shares[name] == nil {
		c.shares[name] = s
		s.names = append(s.names, name)
	}
}

// outcome settles the share of an event.
func (c *counts) outcome(event, state string, status int) {
	s := c.shares[event]
	if s == nil {
		return
	}
	switch {
	case state == evidence.StateRefused,
		state == evidence.StateForwarded && status >= 400 && status < 500,
		state == evidence.StateBlocked && s.held:
		s.released = true
		for _, p := range s.parts {
			p.window.add(p.key, -p.amount, -1)
		}
		c.forget(s)
	}
}

func (c *counts) forget(s *share) {
	for _, n := range s.names {
		delete(c.shares, n)
	}
}

// window gives the limit's window as it is at t.
func (c *counts) window(tenant string, l *policy.Limit, t time.Time) *window {
	id := windowID{tenant, l}
	w := c.windows[id]
	if w == nil {
		w = &window{limit: l, sums: make(map[string]*sum)}
		c.windows[id] = w
	}
	w.advance(c, t)
	return w
}

// advance lets go of what does not count any more at t. A t before that of an
// earlier call takes nothing back.
func (w *window) advance(c *counts, t time.Time) {
	var counting func(u *use) bool
	if w.limit.Calendar != "" {
		if w.until.IsZero() || !t.Before(w.until) {
			w.since, w.until = w.limit.Bounds(t)
		}
		counting = func(u *use) bool { return !u.at.Before(w.since) }
	} else {
		start := t.Add(-w.limit.Window)
		counting = func(u *use) bool { return u.at.After(start) }
	}
	for w.head < len(w.uses) {
		u := &w.uses[w.head]
		if !u.share.released {
			if counting(u) {
				break
			}
			p := u.share.parts[u.part]
			w.add(p.key, -p.amount, -1)
			if u.share.live--; u.share.live == 0 {
				c.forget(u.share)
			}
		}
		*u = use{}
		w.head++
	}
	if w.head > 1024 && w.head > len(w.uses)/2 {
		w.uses = append(w.uses[:0:0], w.uses[w.head:]...)
		w.head = 0
	}
}

func (w *window) add(key string, amount int64, uses int) {
	s := w.sums[key]
	if s == nil {
		s = new(sum)
		w.sums[key] = s
	}
	s.total += amount
	if s.uses += uses; s.uses == 0 {
		delete(w.sums, key)
	}
}

func (w *window) total(key string) int64 {
	if s := w.sums[key]; s != nil {
		return s.total
	}
	return 0
}
