package whatif

import (
	"slices"
	"strings"
	"time"
)

// unknownReason counts calls whose verdict hangs on what is not on record.
const unknownReason = "unknown"

// ReadinessStudy reads the record, once, and answers for any time from its
// beginning on. It counts by the hour, so that a record that grows is not read
// again: what came since is added, and what is too old is left out of the sum.
// Not for concurrent use.
type ReadinessStudy struct {
	opt    ReadinessOptions
	sim    *Simulation
	rows   map[rowKey]*readinessRow
	agents map[string]map[int64]bool // days on which they did anything
	asked  map[string]int64          // approvals that were counted as a hold, and in which hour
	cells  int                       // of all rows
	hashes []policySpan              // of the policies that judged, in the order of the log
}

// policySpan is a policy, and when it first stands on record after another one.
type policySpan struct {
	hash string
	at   time.Time
}

type rowKey struct{ tool, agent string }

type readinessRow struct{ hours map[int64]*readinessCell }

// readinessCell is what one agent did with one tool in one hour.
type readinessCell struct {
	calls, mapped, unruled int
	wouldBlock, holds      int
	unexplained            int
	reasons                map[string]int // of the unexplained
	samples                []string       // of the unexplained
	first, last            time.Time
}

const (
	secondsOfHour = 3600
	hoursOfDay    = 24
	// maxCells bounds a study: some 100 tools of agents, each hour of a month, and
	// more; what is beyond counts as (others).
	maxCells = 100_000
	// maxSpans bounds the policies that are remembered.
	maxSpans = 1000
)

// NewReadiness makes a study of the record from o.Since on.
func NewReadiness(o ReadinessOptions) (*ReadinessStudy, error) {
	o.fill()
	if err := o.check(); err != nil {
		return nil, err
	}
	// Every tool of the agents is looked at: it is work that makes a day.
	sim, err := New(Options{Rules: o.Rules.With(o.Rules.Policy, o.Mode, o.Tenant), InForce: o.Rules.Policy, Tenant: o.Tenant, Since: o.Since, Until: o.Now, Agent: o.Agent})
	if err != nil {
		return nil, err
	}
	s := &ReadinessStudy{opt: o, sim: sim, rows: make(map[rowKey]*readinessRow), agents: make(map[string]map[int64]bool), asked: make(map[string]int64)}
	sim.seen, sim.judged = s.seen, s.add
	return s, nil
}

// From is the time from which on records are needed.
func (s *ReadinessStudy) From() time.Time { return s.sim.From() }

// Add looks at the next record of the log, as Simulation.Add does.
func (s *ReadinessStudy) Add(record []byte) error { return s.sim.Add(record) }

// seen notes by which policy a record was made.
func (s *ReadinessStudy) seen(a *action) {
	n := len(s.hashes)
	if a.policyHash == "" || a.at.IsZero() || n > 0 && s.hashes[n-1].hash == a.policyHash {
		return
	}
	if n == maxSpans {
		s.hashes = append(s.hashes[:0], s.hashes[n/2:]...)
	}
	s.hashes = append(s.hashes, policySpan{a.policyHash, a.at})
}

func (s *ReadinessStudy) add(a *action, to Verdict, unknown string) {
	agent := a.agent
	days := s.agents[agent]
	if days == nil && len(s.agents) >= maxGroups {
		agent = otherNames
		days = s.agents[agent]
	}
	if days == nil {
		days = make(map[int64]bool)
		s.agents[agent] = days
	}
	hour := hourOf(a.at)
	days[hour/hoursOfDay] = true
	c := s.cell(a.tool, agent, hour)
	c.calls++
	if a.named() {
		c.mapped++
	} else if to.Rule == "" && to.Enforcement == "none" {
		c.unruled++
	}
	if c.first.IsZero() || a.at.Before(c.first) {
		c.first = a.at
	}
	if a.at.After(c.last) {
		c.last = a.at
	}
	switch {
	case unknown != "":
		c.unexplain(unknownReason, a.id)
	case a.neverWasACall(): // no mode lets it go
	case to.Enforcement == "block":
		c.wouldBlock++
		if to.Rule == "" || ours(to.ReasonCode) {
			c.unexplain(to.ReasonCode, a.id)
		}
	case to.Enforcement == "hold" || a.wasApproved() && a.approval != "":
		if a.approval != "" { // retries attach to one question
			if _, known := s.asked[a.approval]; known {
				return
			}
			s.asked[a.approval] = hour
		}
		c.holds++
	}
}

func (c *readinessCell) unexplain(reason, id string) {
	c.unexplained++
	c.samples = sample(c.samples, id)
	if c.reasons == nil {
		c.reasons = make(map[string]int)
	}
	c.reasons[reason]++
}

// cell is where a call is counted.
func (s *ReadinessStudy) cell(tool, agent string, hour int64) *readinessCell {
	key := rowKey{tool, agent}
	r := s.rows[key]
	if r == nil && len(s.rows) >= maxGroups || s.cells >= maxCells && (r == nil || r.hours[hour] == nil) {
		key = rowKey{otherNames, otherNames}
		r = s.rows[key]
	}
	if r == nil {
		r = &readinessRow{hours: make(map[int64]*readinessCell)}
		s.rows[key] = r
	}
	c := r.hours[hour]
	if c == nil {
		c = new(readinessCell)
		r.hours[hour] = c
		s.cells++
	}
	return c
}

// Forget lets go of what lies more than an hour before t: no report is to begin
// there.
func (s *ReadinessStudy) Forget(t time.Time) {
	before := hourOf(t)
	for key, r := range s.rows {
		for hour := range r.hours {
			if hour < before {
				delete(r.hours, hour)
				s.cells--
			}
		}
		if len(r.hours) == 0 {
			delete(s.rows, key)
		}
	}
	for agent, days := range s.agents {
		for day := range days {
			if day < before/hoursOfDay {
				delete(days, day)
			}
		}
		if len(days) == 0 {
			delete(s.agents, agent)
		}
	}
	for approval, hour := range s.asked {
		if hour < before {
			delete(s.asked, approval)
		}
	}
}

func hourOf(t time.Time) int64 { return t.Unix() / secondsOfHour }

// named says that a mapping rule, or the agent's own code, named the tool.
func (a *action) named() bool { return a.mapped || !strings.HasPrefix(a.tool, "http.") }

// ours says that a reason code is none of a policy's author: no rule speaks in
// it of the call itself.
func ours(reason string) bool {
	name, _, _ := strings.Cut(reason, ".")
	switch name {
	case "policy", "mapping", "passport", "approval", "evidence", "request", "limit":
		return true
	}
	return false
}

// sum adds up a row from an hour on; nil when there is nothing.
func (r *readinessRow) sum(from int64) *readinessSum {
	var out *readinessSum
	for hour, c := range r.hours {
		if hour < from {
			continue
		}
		if out == nil {
			out = &readinessSum{holds: make(map[int64]int)}
			out.FirstSeen.Time, out.LastSeen.Time = c.first, c.last
		}
		out.Calls += c.calls
		out.mapped += c.mapped
		out.unruled += c.unruled
		out.WouldBlock += c.wouldBlock
		out.Unexplained += c.unexplained
		out.Holds += c.holds
		out.holds[hour/hoursOfDay] += c.holds
		if c.first.Before(out.FirstSeen.Time) {
			out.FirstSeen.Time = c.first
		}
		if c.last.After(out.LastSeen.Time) {
			out.LastSeen.Time = c.last
		}
		for reason, n := range c.reasons {
			if out.Reasons == nil {
				out.Reasons = make(map[string]int)
			}
			out.Reasons[reason] += n
		}
		if len(c.samples) > 0 {
			out.sampled = append(out.sampled, hour)
		}
	}
	if out == nil {
		return nil
	}
	out.Samples = []string{}
	slices.Sort(out.sampled)
	for _, hour := range out.sampled {
		for _, id := range r.hours[hour].samples {
			out.Samples = sample(out.Samples, id)
		}
	}
	return out
}
