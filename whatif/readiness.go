package whatif

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// ReadinessOptions of NewReadiness.
type ReadinessOptions struct {
	// Rules are those in force, mode overrides included. Required.
	Rules *gate.Rules
	// Mode is what to be ready for: enforce unless it is strict.
	Mode   string
	Tenant string // whose mode overrides count, and whose actions; "" for all actions
	Since  time.Time
	Now    time.Time // the end, exclusive
	Tool   string    // glob, "" for all
	Agent  string    // "" for all
	// MinDays is how many days of work an agent must have been seen with a tool,
	// MaxHolds how many holds a day people are taken to face gladly, of one tool and
	// agent. 0: DefaultMinDays, DefaultMaxHolds.
	MinDays, MaxHolds int
	Limit             int // of rows; DefaultLimit when 0
	Skip              int // rows before the first that is reported
}

// What readiness asks for unless it is told otherwise.
const (
	DefaultMinDays  = 3
	DefaultMaxHolds = 20
)

// Verdicts of readiness.
const (
	Ready    = "ready"
	NotReady = "not_ready"
	InForce  = "in_force" // it is judged in that mode, or a stricter one, already
)

// Readiness is the answer to: could these tools and agents be enforced now?
type Readiness struct {
	Ready   bool           `json:"ready"`   // every row is ready or in force, and there is one
	Missing []string       `json:"missing"` // of the whole; rows say more
	Data    []ReadinessRow `json:"data"`    // what is not ready first; as many as were asked for
	Next    string         `json:"next_cursor"` // how many rows there are before what is left; "" at the end
	Rows    int            `json:"rows"` // there are
	Calls   int            `json:"calls"`
	Mapped  float64        `json:"mapped"` // share of the calls, 0 to 1
	// PolicyChanged is when the policy in force first stands on record after
	// another one; nil when no other stands there in the time that was read.
	PolicyChanged *evidence.Time `json:"policy_changed_at"`
	PolicyHash    string         `json:"policy_hash"`
	Mode          string         `json:"mode"` // that was asked for
	From          evidence.Time  `json:"from"`
	To            evidence.Time  `json:"to"`
	MinDays       int            `json:"min_days"`
	MaxHolds      int            `json:"max_holds"`
}

// ReadinessRow is one tool of one agent.
type ReadinessRow struct {
	Tool    string   `json:"tool"`
	AgentID string   `json:"agent_id"`
	Mode    string   `json:"mode"` // it is judged in now
	Verdict string   `json:"verdict"`
	Missing []string `json:"missing"` // sentences; never null
	Calls   int      `json:"calls"`
	// Days are the days (UTC) on which the agent did anything since it first used
	// the tool.
	Days   int     `json:"days"`
	Mapped float64 `json:"mapped"` // share of the calls that a mapping rule named
	// WouldBlock are the calls that would be blocked; Unexplained those of them for
	// which no rule of a policy says so, and those whose verdict is not known.
	WouldBlock  int            `json:"would_block"`
	Unexplained int            `json:"unexplained"`
	Reasons     map[string]int `json:"reasons,omitempty"` // of the unexplained
	Samples     []string       `json:"samples"`           // of the unexplained: event ids, the first few
	Holds       int            `json:"holds"`
	HoldsADay   float64        `json:"holds_a_day"` // over Days
	MostHolds   int            `json:"most_holds"`  // on one day
	FirstSeen   evidence.Time  `json:"first_seen"`
	LastSeen    evidence.Time  `json:"last_seen"`
}

// unknownReason counts calls whose verdict hangs on what is not on record.
const unknownReason = "unknown"

// ReadinessStudy reads the record once. Not for concurrent use.
type ReadinessStudy struct {
	opt     ReadinessOptions
	sim     *Simulation
	rows    map[rowKey]*readinessRow
	agents  map[string]map[int64]bool // days on which they did anything
	asked   map[string]bool           // approvals that were counted as a hold
	mapped  int
	calls   int
	hash    string // of the policy that the newest record was judged by
	changed time.Time
}

type rowKey struct{ tool, agent string }

type readinessRow struct {
	ReadinessRow
	mapped, unruled int
	holds           map[int64]int // by day
}

// NewReadiness makes a study.
func NewReadiness(o ReadinessOptions) (*ReadinessStudy, error) {
	o.Mode = cmp.Or(o.Mode, gate.ModeEnforce)
	switch {
	case o.Rules == nil || o.Rules.Policy == nil:
		return nil, errors.New("whatif: readiness needs a policy")
	case !gate.Blocking(o.Mode):
		return nil, fmt.Errorf("whatif: readiness is for enforce or strict, not %q", o.Mode)
	case o.MinDays < 0 || o.MaxHolds < 0:
		return nil, errors.New("whatif: readiness asks for no negative numbers")
	}
	o.MinDays, o.MaxHolds, o.Limit = cmp.Or(o.MinDays, DefaultMinDays), cmp.Or(o.MaxHolds, DefaultMaxHolds), cmp.Or(o.Limit, DefaultLimit)
	// Every tool of the agents is looked at: it is work that makes a day.
	sim, err := New(Options{Rules: o.Rules.With(o.Rules.Policy, o.Mode, o.Tenant), InForce: o.Rules.Policy, Tenant: o.Tenant, Since: o.Since, Until: o.Now, Agent: o.Agent})
	if err != nil {
		return nil, err
	}
	s := &ReadinessStudy{opt: o, sim: sim, rows: make(map[rowKey]*readinessRow), agents: make(map[string]map[int64]bool), asked: make(map[string]bool)}
	sim.seen, sim.judged = s.seen, s.add
	return s, nil
}

// From is the time from which on records are needed.
func (s *ReadinessStudy) From() time.Time { return s.sim.From() }

// Add looks at the next record of the log, as Simulation.Add does.
func (s *ReadinessStudy) Add(record []byte) error { return s.sim.Add(record) }

// seen notes by which policy a record was made.
func (s *ReadinessStudy) seen(a *action) {
	if a.policyHash == "" || a.policyHash == s.hash || a.at.IsZero() {
		return
	}
	if s.hash != "" {
		s.changed = a.at
	}
	s.hash = a.policyHash
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
	day := dayOf(a.at)
	days[day] = true
	if s.opt.Tool != "" && !gate.MatchGlob(s.opt.Tool, a.tool) {
		return
	}
	r := s.row(a, agent)
	r.Calls++
	s.calls++
	if a.named() {
		r.mapped++
		s.mapped++
	} else if to.Rule == "" && to.Enforcement == "none" {
		r.unruled++
	}
	if a.at.Before(r.FirstSeen.Time) {
		r.FirstSeen.Time = a.at
	}
	if a.at.After(r.LastSeen.Time) {
		r.LastSeen.Time = a.at
	}
	switch {
	case unknown != "":
		r.unexplained(unknownReason, a.id)
	case a.neverWasACall(): // no mode lets it go
	case to.Enforcement == "block":
		r.WouldBlock++
		if to.Rule == "" || ours(to.ReasonCode) {
			r.unexplained(to.ReasonCode, a.id)
		}
	case to.Enforcement == "hold" || a.wasApproved() && a.approval != "":
		if a.approval != "" { // retries attach to one question
			if s.asked[a.approval] {
				return
			}
			s.asked[a.approval] = true
		}
		r.Holds++
		r.holds[day]++
	}
}

func (r *readinessRow) unexplained(reason, id string) {
	r.Unexplained++
	r.Samples = sample(r.Samples, id)
	if r.Reasons == nil {
		r.Reasons = make(map[string]int)
	}
	r.Reasons[reason]++
}

func (s *ReadinessStudy) row(a *action, agent string) *readinessRow {
	key := rowKey{a.tool, agent}
	r := s.rows[key]
	if r == nil && len(s.rows) >= maxGroups {
		key = rowKey{otherNames, otherNames}
		r = s.rows[key]
	}
	if r == nil {
		r = &readinessRow{holds: make(map[int64]int)}
		r.Tool, r.AgentID, r.Samples = key.tool, key.agent, []string{}
		r.FirstSeen.Time, r.LastSeen.Time = a.at, a.at
		s.rows[key] = r
	}
	return r
}

func dayOf(t time.Time) int64 { return t.Unix() / 86400 }

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

// Report gives what was found.
func (s *ReadinessStudy) Report() Readiness {
	out := Readiness{
		Data: make([]ReadinessRow, 0, len(s.rows)), Rows: len(s.rows), Calls: s.calls, Mapped: fraction(s.mapped, s.calls), Missing: []string{},
		PolicyHash: s.opt.Rules.Policy.Hash(), Mode: s.opt.Mode, MinDays: s.opt.MinDays, MaxHolds: s.opt.MaxHolds,
		From: evidence.Time{Time: s.opt.Since.UTC()}, To: evidence.Time{Time: s.opt.Now.UTC()},
	}
	switch {
	case s.hash != "" && s.hash != out.PolicyHash: // nothing was judged by it yet
		out.PolicyChanged = &evidence.Time{Time: s.opt.Now.UTC()}
	case !s.changed.IsZero():
		out.PolicyChanged = &evidence.Time{Time: s.changed}
	}
	now := s.opt.Rules.With(s.opt.Rules.Policy, s.opt.Rules.Mode, s.opt.Tenant)
	open := 0
	for _, r := range s.rows {
		s.conclude(r, now)
		if r.Verdict == NotReady {
			open++
		}
		out.Data = append(out.Data, r.ReadinessRow)
	}
	switch {
	case s.calls == 0:
		out.Missing = append(out.Missing, "there are no calls on record in this time")
	case open > 0:
		out.Missing = append(out.Missing, fmt.Sprintf("%d of %d tools of agents are not ready", open, len(s.rows)))
	}
	out.Ready = len(out.Missing) == 0
	slices.SortFunc(out.Data, func(a, b ReadinessRow) int {
		return cmp.Or(cmp.Compare(verdictOrder(a.Verdict), verdictOrder(b.Verdict)), cmp.Compare(b.Unexplained, a.Unexplained),
			cmp.Compare(b.Calls, a.Calls), cmp.Compare(a.Tool, b.Tool), cmp.Compare(a.AgentID, b.AgentID))
	})
	out.Data = out.Data[min(s.opt.Skip, len(out.Data)):]
	if len(out.Data) > s.opt.Limit {
		out.Data, out.Next = out.Data[:s.opt.Limit], strconv.Itoa(s.opt.Skip+s.opt.Limit)
	}
	return out
}

func verdictOrder(v string) int { return slices.Index([]string{NotReady, Ready, InForce}, v) }

// conclude fills in what follows from the counts.
func (s *ReadinessStudy) conclude(r *readinessRow, now *gate.Rules) {
	r.Mode = now.ModeOf(r.Tool, r.AgentID)
	r.Days, r.Missing, r.MostHolds = 0, []string{}, 0
	first := dayOf(r.FirstSeen.Time)
	for day := range s.agents[r.AgentID] {
		if day >= first {
			r.Days++
		}
	}
	r.Days = max(r.Days, 1) // "(others)" is no agent
	for _, n := range r.holds {
		r.MostHolds = max(r.MostHolds, n)
	}
	r.Mapped, r.HoldsADay = fraction(r.mapped, r.Calls), float64(r.Holds)/float64(r.Days)
	if r.Days < s.opt.MinDays {
		r.Missing = append(r.Missing, fmt.Sprintf("seen on %d of the %d days of work that are asked for", r.Days, s.opt.MinDays))
	}
	if n := r.Reasons[unknownReason]; n > 0 {
		r.Missing = append(r.Missing, fmt.Sprintf("for %d %s the verdict hangs on a value that is not on record", n, calls(n)))
	}
	if n, codes := r.blockedFor(false); n > 0 {
		r.Missing = append(r.Missing, fmt.Sprintf("%d %s would be blocked though no rule says so (%s): write a rule that allows or denies them", n, calls(n), codes))
	}
	if n, codes := r.blockedFor(true); n > 0 {
		r.Missing = append(r.Missing, fmt.Sprintf("%d %s would be blocked for want of a good passport (%s): issue passports to the agent", n, calls(n), codes))
	}
	if r.unruled > 0 {
		r.Missing = append(r.Missing, fmt.Sprintf("%d %s neither mapped nor named by a rule, and would go unread", r.unruled, calls(r.unruled)+isAre(r.unruled)))
	}
	if r.HoldsADay > float64(s.opt.MaxHolds) {
		r.Missing = append(r.Missing, fmt.Sprintf("people would face %.1f holds a day, and %d are thought to be bearable", r.HoldsADay, s.opt.MaxHolds))
	}
	switch {
	case gate.Stricter(r.Mode, s.opt.Mode) == r.Mode:
		r.Verdict = InForce
	case len(r.Missing) == 0:
		r.Verdict = Ready
	default:
		r.Verdict = NotReady
	}
}

// blockedFor counts what would be blocked unexplained, and names the reasons:
// those that a passport would mend, or the others.
func (r *readinessRow) blockedFor(passport bool) (n int, codes string) {
	var list []string
	for reason, count := range r.Reasons {
		if reason != unknownReason && strings.HasPrefix(reason, "passport.") == passport {
			n += count
			list = append(list, reason)
		}
	}
	slices.Sort(list)
	return n, strings.Join(list, ", ")
}

func calls(n int) string {
	if n == 1 {
		return "call"
	}
	return "calls"
}

func isAre(n int) string {
	if n == 1 {
		return " is"
	}
	return " are"
}

func fraction(part, whole int) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}
