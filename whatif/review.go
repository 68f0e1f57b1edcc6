package whatif

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/policy"
)

// Stopped is all actions of one agent with one tool that a mode blocks or holds
// for one reason.
type Stopped struct {
	Tool    string
	AgentID string
	To      Verdict
	Policy  string     // whose rule or limit it is; "" for ours
	Pos     policy.Pos // of the rule, zero where To.Rule is ""
	Limit   bool       // it is a limit, or a rule over one
	Count   int
	Amounts map[string]int64 // as in Group
	First   time.Time
	Last    time.Time
	Samples []Sample // the first few

	seen shape
}

// Sample is one action of a group.
type Sample struct {
	EventID        string
	Time           time.Time
	Resource, Risk string
	UserID, Goal   string
	Tool, AgentID  string
	TenantID       string
	Args           map[string]any
}

const maxShown = 20

// Key tells groups apart, over changes of the policy's text.
func (g *Stopped) Key() string {
	return fmt.Sprintf("%q", []string{g.Tool, g.AgentID, g.To.Decision, g.To.ReasonCode, g.To.Rule, g.Policy})
}

// Resource is what the resources have in common, all of it where same.
func (g *Stopped) Resource() (text string, same bool) { return g.seen.resource, g.seen.same }

// Arguments tells what each argument held, a line each.
func (g *Stopped) Arguments() (lines []string) {
	for _, name := range sorted(g.seen.args) {
		a := g.seen.args[name]
		text := name + ": "
		switch {
		case a.kind == spanWhole && a.low == a.high:
			text += fmt.Sprint(a.low)
		case a.kind == spanWhole:
			text += fmt.Sprintf("%d to %d", a.low, a.high)
		case a.kind == spanTruth:
			text += fmt.Sprint(a.yes)
		case a.kind == spanText && len(a.texts) <= proposalValues:
			for i, t := range a.texts {
				if i > 0 {
					text += ", "
				}
				text += quote(t)
			}
		case a.kind == spanText:
			text += "more than " + fmt.Sprint(proposalValues) + " texts"
		default:
			text += "values of several kinds, or not on record"
		}
		if a.count < g.seen.count {
			text += fmt.Sprintf(" (in %d of %d)", a.count, g.seen.count)
		}
		lines = append(lines, text)
	}
	return lines
}

// Review gathers what a mode stops. It is a simulation, and is fed like one.
type Review struct {
	*Simulation
	stopped map[string]*Stopped
	more    int
}

// NewReview makes a review. Options as for New; Rules.Mode is the mode in question.
func NewReview(o Options) (*Review, error) {
	sim, err := New(o)
	if err != nil {
		return nil, err
	}
	r := &Review{Simulation: sim, stopped: make(map[string]*Stopped)}
	sim.judged = func(a *action, to Verdict, unknown string) {
		sim.groups.add(a, to, unknown)
		if unknown == "" {
			r.see(a, to, &sim.last)
		}
	}
	return r, nil
}

// Stopped are the groups, the largest first; more is the number of actions in
// groups beyond those that are kept apart.
func (r *Review) Stopped() (list []Stopped, more int) {
	for _, g := range r.stopped {
		list = append(list, *g)
	}
	slices.SortFunc(list, func(a, b Stopped) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Key(), b.Key()))
	})
	return list, r.more
}

func (r *Review) see(a *action, to Verdict, d *policy.Decision) {
	if to.Enforcement != "block" && to.Enforcement != "hold" {
		return
	}
	one := Stopped{Tool: a.tool, AgentID: a.agent, To: to}
	if to.Rule != "" {
		one.Policy, one.Pos, one.Limit = d.Policy, d.Pos, len(d.Over) > 0
	}
	key := one.Key()
	g := r.stopped[key]
	if g == nil {
		if len(r.stopped) >= maxGroups {
			r.more++
			return
		}
		g = &one
		g.First, g.Last = a.at, a.at
		r.stopped[key] = g
	}
	g.Count++
	if a.at.Before(g.First) {
		g.First = a.at
	}
	if a.at.After(g.Last) {
		g.Last = a.at
	}
	if len(g.Samples) < maxShown {
		g.Samples = append(g.Samples, Sample{
			EventID: a.id, Time: a.at, Resource: a.resource, Risk: a.risk, UserID: a.user, Goal: a.goal,
			Tool: a.tool, AgentID: a.agent, TenantID: a.tenant, Args: a.args,
		})
	}
	if amount, currency, ok := amountOf(a.args); ok {
		if g.Amounts == nil {
			g.Amounts = make(map[string]int64)
		}
		g.Amounts[currency] = addUp(g.Amounts[currency], amount)
	}
	g.seen.add(a.resource, a.args)
}

// approval is the sample in the form that proposals are written from.
func (s *Sample) approval() *gate.Approval {
	return &gate.Approval{
		ID: s.EventID, TenantID: s.TenantID, Tool: s.Tool, Resource: s.Resource, Risk: s.Risk, AgentID: s.AgentID,
		UserID: s.UserID, Goal: s.Goal, Args: s.Args, CreatedAt: s.Time,
	}
}
