package whatif

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// Report is the answer of a simulation.
type Report struct {
	// Data are the groups of actions that change, the largest first, as many as
	// were asked for; Totals.Groups says how many there are.
	Data []Group `json:"data"`
	Next string  `json:"next_cursor"` // always "": the report is one page
	// Unknown are the actions whose verdict hangs on what is not on record.
	Unknown    []Unknown     `json:"unknown"`
	Totals     Totals        `json:"totals"`
	From       evidence.Time `json:"from"`
	To         evidence.Time `json:"to"`
	PolicyHash string        `json:"policy_hash"` // of the candidate
	Mode       string        `json:"mode"`        // that was asked for, "" for the recorded ones
}

// Totals counts the actions of the asked time, tool and agent: Events is the sum
// of the three that follow it.
type Totals struct {
	Events    int `json:"events"`
	Changed   int `json:"changed"`
	Unchanged int `json:"unchanged"`
	Unknown   int `json:"unknown"`
	Groups    int `json:"groups"`
}

// Group is all actions of one agent with one tool that change in one way.
type Group struct {
	Tool    string  `json:"tool"`
	AgentID string  `json:"agent_id"`
	From    Verdict `json:"from"`
	To      Verdict `json:"to"`
	Count   int     `json:"count"`
	// Amounts are the sums of the argument amount by currency, in lower case and
	// in its smallest unit; "unspecified" where the action names none.
	Amounts   map[string]int64 `json:"amounts,omitempty"`
	FirstSeen evidence.Time    `json:"first_seen"`
	LastSeen  evidence.Time    `json:"last_seen"`
	Samples   []string         `json:"samples"` // event ids, the first few
}

// Unknown counts the actions with one tool whose verdict hangs on one value.
type Unknown struct {
	Tool     string   `json:"tool"`
	Argument string   `json:"argument"` // args.card, header.x-team
	Count    int      `json:"count"`
	Samples  []string `json:"samples"`
}

const (
	maxSamples  = 5
	maxGroups   = 10_000
	unspecified = "unspecified"
	// otherNames stands for what came when there were too many groups already:
	// agents choose their names and, for some doors, those of tools.
	otherNames = "(others)"
)

type groupKey struct {
	tool, agent string
	from, to    Verdict
}

type unknownKey struct{ tool, argument string }

type groups struct {
	totals  Totals
	byKey   map[groupKey]*Group
	unknown map[unknownKey]*Unknown
	first   time.Time
}

func newGroups() groups {
	return groups{byKey: make(map[groupKey]*Group), unknown: make(map[unknownKey]*Unknown)}
}

func (g *groups) add(a *action, to Verdict, unknown string) {
	g.totals.Events++
	if g.first.IsZero() || a.at.Before(g.first) {
		g.first = a.at
	}
	switch {
	case unknown != "":
		g.totals.Unknown++
		g.addUnknown(a, unknown)
	case a.from.same(to):
		g.totals.Unchanged++
	default:
		g.totals.Changed++
		g.addChange(a, to)
	}
}

func (g *groups) addUnknown(a *action, argument string) {
	key := unknownKey{a.tool, argument}
	u := g.unknown[key]
	if u == nil && len(g.unknown) >= maxGroups {
		key.tool = otherNames
		u = g.unknown[key]
	}
	if u == nil {
		u = &Unknown{Tool: key.tool, Argument: key.argument}
		g.unknown[key] = u
	}
	u.Count++
	u.Samples = sample(u.Samples, a.id)
}

func (g *groups) addChange(a *action, to Verdict) {
	key := groupKey{a.tool, a.agent, a.from, to}
	c := g.byKey[key]
	if c == nil && len(g.byKey) >= maxGroups {
		key.tool, key.agent = otherNames, otherNames
		c = g.byKey[key]
	}
	if c == nil {
		c = &Group{Tool: key.tool, AgentID: key.agent, From: key.from, To: key.to, FirstSeen: evidence.Time{Time: a.at}, LastSeen: evidence.Time{Time: a.at}}
		g.byKey[key] = c
	}
	c.Count++
	if a.at.Before(c.FirstSeen.Time) {
		c.FirstSeen.Time = a.at
	}
	if a.at.After(c.LastSeen.Time) {
		c.LastSeen.Time = a.at
	}
	c.Samples = sample(c.Samples, a.id)
	if amount, currency, ok := amountOf(a.args); ok {
		if c.Amounts == nil {
			c.Amounts = make(map[string]int64)
		}
		c.Amounts[currency] = addUp(c.Amounts[currency], amount)
	}
}

func sample(list []string, id string) []string {
	if len(list) < maxSamples {
		return append(list, id)
	}
	return list
}

// amountOf reads the declared amount of an action, as payment APIs have it: an
// integer in the smallest unit of the currency beside it.
func amountOf(args map[string]any) (amount int64, currency string, ok bool) {
	if amount, ok = args["amount"].(int64); !ok {
		return 0, "", false
	}
	text, _ := args["currency"].(string)
	text = strings.ToLower(text)
	if len(text) != 3 || strings.Trim(text, "abcdefghijklmnopqrstuvwxyz") != "" {
		text = unspecified
	}
	return amount, text, true
}

// addUp stays at the ends of int64.
func addUp(a, b int64) int64 {
	switch {
	case b > 0 && a > math.MaxInt64-b:
		return math.MaxInt64
	case b < 0 && a < math.MinInt64-b:
		return math.MinInt64
	}
	return a + b
}

// Report gives what was found so far.
func (s *Simulation) Report() Report {
	r := Report{
		Data: make([]Group, 0, len(s.groups.byKey)), Unknown: make([]Unknown, 0, len(s.groups.unknown)),
		Totals: s.groups.totals, PolicyHash: s.rules.Policy.Hash(), Mode: s.rules.Mode,
		From: evidence.Time{Time: s.opt.Since}, To: evidence.Time{Time: s.opt.Until},
	}
	if s.opt.Since.IsZero() {
		r.From.Time = s.groups.first
	}
	if s.opt.Until.IsZero() {
		r.To.Time = s.end
		if s.end.Before(r.From.Time) {
			r.To.Time = r.From.Time // nothing was found
		}
	}
	for _, g := range s.groups.byKey {
		r.Data = append(r.Data, *g)
	}
	for _, u := range s.groups.unknown {
		r.Unknown = append(r.Unknown, *u)
	}
	slices.SortFunc(r.Data, func(a, b Group) int {
		return cmp.Or(
			cmp.Compare(b.Count, a.Count), cmp.Compare(a.Tool, b.Tool), cmp.Compare(a.AgentID, b.AgentID),
			compareVerdicts(a.From, b.From), compareVerdicts(a.To, b.To),
		)
	})
	slices.SortFunc(r.Unknown, func(a, b Unknown) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Tool, b.Tool), cmp.Compare(a.Argument, b.Argument))
	})
	r.Totals.Groups = len(r.Data)
	r.Data = r.Data[:min(len(r.Data), s.opt.Limit)]
	r.Unknown = r.Unknown[:min(len(r.Unknown), s.opt.Limit)]
	return r
}

func compareVerdicts(a, b Verdict) int {
	return cmp.Or(cmp.Compare(a.Decision, b.Decision), cmp.Compare(a.ReasonCode, b.ReasonCode),
		cmp.Compare(a.Enforcement, b.Enforcement), cmp.Compare(a.Rule, b.Rule))
}
