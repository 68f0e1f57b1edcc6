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

// fill puts in what was left out.
func (o *ReadinessOptions) fill() {
	o.Mode = cmp.Or(o.Mode, gate.ModeEnforce)
	o.MinDays, o.MaxHolds, o.Limit = cmp.Or(o.MinDays, DefaultMinDays), cmp.Or(o.MaxHolds, DefaultMaxHolds), cmp.Or(o.Limit, DefaultLimit)
}

func (o *ReadinessOptions) check() error {
	switch {
	case o.Rules == nil || o.Rules.Policy == nil:
		return errors.New("whatif: readiness needs a policy")
	case !gate.Blocking(o.Mode):
		return fmt.Errorf("whatif: readiness is for enforce or strict, not %q", o.Mode)
	case o.MinDays < 0 || o.MaxHolds < 0:
		return errors.New("whatif: readiness asks for no negative numbers")
	}
	return nil
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
	Ready   bool           `json:"ready"`       // every row is ready or in force, and there is one
	Missing []string       `json:"missing"`     // of the whole; rows say more
	Data    []ReadinessRow `json:"data"`        // what is not ready first; as many as were asked for
	Next    string         `json:"next_cursor"` // how many rows there are before what is left; "" at the end
	Rows    int            `json:"rows"`        // there are
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

// readinessSum is a row while it is concluded.
type readinessSum struct {
	ReadinessRow
	mapped, unruled int
	holds           map[int64]int // by day
	sampled         []int64       // hours
}

// Report gives what was found.
func (s *ReadinessStudy) Report() Readiness { return s.ReportOf(s.opt) }

// ReportOf gives what was found from o.Since on, which is rounded down to an hour
// where it is later than the study's own beginning. Rules, tool, agent, bounds and
// rows may be others than the study's; rules that judge otherwise, mode and tenant
// may not.
func (s *ReadinessStudy) ReportOf(o ReadinessOptions) Readiness {
	o.fill()
	from := hourOf(o.Since)
	if since := time.Unix(from*secondsOfHour, 0); o.Since.After(s.opt.Since) && since.After(s.opt.Since) {
		o.Since = since
	} else if o.Since.After(s.opt.Since) {
		o.Since = s.opt.Since
	}
	out := Readiness{
		Data: []ReadinessRow{}, Missing: []string{},
		PolicyHash: o.Rules.Policy.Hash(), Mode: o.Mode, MinDays: o.MinDays, MaxHolds: o.MaxHolds,
		From: evidence.Time{Time: o.Since.UTC()}, To: evidence.Time{Time: o.Now.UTC()},
	}
	if n := len(s.hashes); n > 0 {
		switch last := s.hashes[n-1]; {
		case last.hash != out.PolicyHash: // nothing was judged by it yet
			out.PolicyChanged = &evidence.Time{Time: o.Now.UTC()}
		case n > 1 && !last.at.Before(o.Since.Add(-o.Rules.Policy.LongestWindow())):
			out.PolicyChanged = &evidence.Time{Time: last.at}
		}
	}
	now := o.Rules.With(o.Rules.Policy, o.Rules.Mode, o.Tenant)
	open, mapped := 0, 0
	for key, row := range s.rows {
		if o.Tool != "" && !gate.MatchGlob(o.Tool, key.tool) || o.Agent != "" && o.Agent != key.agent {
			continue
		}
		r := row.sum(from)
		if r == nil {
			continue
		}
		r.Tool, r.AgentID = key.tool, key.agent
		s.conclude(r, &o, now)
		if r.Verdict == NotReady {
			open++
		}
		out.Calls += r.Calls
		mapped += r.mapped
		out.Data = append(out.Data, r.ReadinessRow)
	}
	out.Rows, out.Mapped = len(out.Data), fraction(mapped, out.Calls)
	switch {
	case out.Calls == 0:
		out.Missing = append(out.Missing, "there are no calls on record in this time")
	case open > 0:
		out.Missing = append(out.Missing, fmt.Sprintf("%d of %d tools of agents are not ready", open, out.Rows))
	}
	out.Ready = len(out.Missing) == 0
	slices.SortFunc(out.Data, func(a, b ReadinessRow) int {
		return cmp.Or(cmp.Compare(verdictOrder(a.Verdict), verdictOrder(b.Verdict)), cmp.Compare(b.Unexplained, a.Unexplained),
			cmp.Compare(b.Calls, a.Calls), cmp.Compare(a.Tool, b.Tool), cmp.Compare(a.AgentID, b.AgentID))
	})
	out.Data = out.Data[min(o.Skip, len(out.Data)):]
	if len(out.Data) > o.Limit {
		out.Data, out.Next = out.Data[:o.Limit], strconv.Itoa(o.Skip+o.Limit)
	}
	return out
}

func verdictOrder(v string) int { return slices.Index([]string{NotReady, Ready, InForce}, v) }

// conclude fills in what follows from the counts.
func (s *ReadinessStudy) conclude(r *readinessSum, o *ReadinessOptions, now *gate.Rules) {
	r.Mode, r.Missing = now.ModeOf(r.Tool, r.AgentID), []string{}
	first := hourOf(r.FirstSeen.Time) / hoursOfDay
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
	if r.Days < o.MinDays {
		r.Missing = append(r.Missing, fmt.Sprintf("seen on %d of the %d days of work that are asked for", r.Days, o.MinDays))
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
	if r.HoldsADay > float64(o.MaxHolds) {
		r.Missing = append(r.Missing, fmt.Sprintf("people would face %.1f holds a day, and %d are thought to be bearable", r.HoldsADay, o.MaxHolds))
	}
	switch {
	case gate.Stricter(r.Mode, o.Mode) == r.Mode:
		r.Verdict = InForce
	case len(r.Missing) == 0:
		r.Verdict = Ready
	default:
		r.Verdict = NotReady
	}
}

// blockedFor counts what would be blocked unexplained, and names the reasons:
// those that a passport would mend, or the others.
func (r *readinessSum) blockedFor(passport bool) (n int, codes string) {
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
