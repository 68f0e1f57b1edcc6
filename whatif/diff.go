package whatif

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/policy"
)

// PolicyDifference is between two policies: actions with one tool that the one decides
// in one way and the other in another.
type PolicyDifference struct {
	Tool string  `json:"tool"`
	From Verdict `json:"from"`
	To   Verdict `json:"to"`
	// Limits that only the one, or only the other, counts such an action against.
	LimitsFrom []string `json:"limits_from,omitempty"`
	LimitsTo   []string `json:"limits_to,omitempty"`
	// Source is "made up", or "recorded": then Count is of recorded actions.
	Source  string  `json:"source"`
	Count   int     `json:"count"`
	Example Example `json:"example"`
}

// Example is one action that is decided otherwise.
type Example struct {
	EventID  string         `json:"event_id,omitempty"`
	Resource string         `json:"resource,omitempty"`
	AgentID  string         `json:"agent_id,omitempty"`
	UserID   string         `json:"user_id,omitempty"`
	Goal     string         `json:"goal,omitempty"`
	Risk     string         `json:"risk_tier,omitempty"`
	Args     map[string]any `json:"args,omitempty"`
	Path     map[string]any `json:"path,omitempty"`
	Query    map[string]any `json:"query,omitempty"`
	Header   map[string]any `json:"header,omitempty"`
	Passport map[string]any `json:"passport,omitempty"`
}

// Bounds of DiffPolicies: beyond them actions are drawn instead of all made.
const (
	maxMade    = 20_000 // actions of one tool
	maxPerGlob = 50     // tools of one glob
)

type absent struct{}

// DiffPolicies makes actions up at the edges of what the rules of a and b compare
// with: each number and its neighbours, each text, another text, a field that is
// not there. tools are the names that globs may stand for. The made-up differences
// are not all there may be: conditions can compute.
func DiffPolicies(a, b *policy.Set, tools []string, now time.Time) []PolicyDifference {
	found := differences{}
	for _, tool := range diffTools(a, b, tools) {
		fields := mergeFields(a.Fields(tool), b.Fields(tool))
		made(fields, func(values []any) {
			in := madeUp(tool, fields, values, now)
			da, db := a.Decide(in), b.Decide(in)
			found.add(tool, "made up", policyVerdict(&da), policyVerdict(&db), &da, &db, func() Example {
				return Example{
					Resource: in.Resource, AgentID: in.AgentID, UserID: in.UserID, Goal: in.Goal, Risk: in.Risk,
					Args: in.Args, Path: in.Path, Query: in.Query, Header: in.Header, Passport: in.Passport,
				}
			})
		})
	}
	return found.list()
}

func policyVerdict(d *policy.Decision) Verdict {
	return Verdict{Decision: d.Effect.String(), ReasonCode: d.ReasonCode, Rule: d.Rule}
}

type differences map[string]*PolicyDifference

func (m differences) add(tool, source string, from, to Verdict, a, b *policy.Decision, example func() Example) {
	var la, lb []string
	if a != nil {
		la, lb = without(a.Limits, b.Limits), without(b.Limits, a.Limits)
	}
	if from.same(to) && len(la) == 0 && len(lb) == 0 {
		return
	}
	key := fmt.Sprintf("%q %q %q %q %q", tool, []string{from.Decision, from.ReasonCode, from.Rule}, []string{to.Decision, to.ReasonCode, to.Rule}, la, lb)
	d := m[key]
	if d == nil {
		d = &PolicyDifference{Tool: tool, From: from, To: to, LimitsFrom: la, LimitsTo: lb, Source: source, Example: example()}
		m[key] = d
	}
	d.Count++
}

func (m differences) list() []PolicyDifference {
	out := []PolicyDifference{}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out = append(out, *m[key])
	}
	return out
}

// without are the limits of a that b has not, with the same text, key and amount.
func without(a, b []policy.Reservation) (names []string) {
	for _, r := range a {
		if !slices.ContainsFunc(b, func(o policy.Reservation) bool {
			return o.Limit.Hash == r.Limit.Hash && o.Key == r.Key && o.Amount == r.Amount
		}) {
			names = append(names, r.Limit.Policy+"/"+r.Limit.Name)
		}
	}
	return names
}

// diffTools are tools for every glob of the two: those that are known, and one
// that is not.
func diffTools(a, b *policy.Set, known []string) []string {
	var out []string
	add := func(t string) {
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	for _, p := range append(a.Patterns(), b.Patterns()...) {
		if !strings.ContainsAny(p, "*?") {
			add(p)
			continue
		}
		n := 0
		for _, t := range known {
			if n < maxPerGlob && gate.MatchGlob(p, t) {
				add(t)
				n++
			}
		}
		add(strings.NewReplacer("*", "another", "?", "x").Replace(p))
	}
	slices.Sort(out)
	return out
}

func mergeFields(a, b []policy.Field) []policy.Field {
	out := slices.Clone(a)
	for _, f := range b {
		i := slices.IndexFunc(out, func(o policy.Field) bool { return o.Root == f.Root && slices.Equal(o.Path, f.Path) })
		if i < 0 {
			out = append(out, f)
			continue
		}
		out[i].Values = append(slices.Clone(out[i].Values), f.Values...)
	}
	for i := range out {
		out[i].Values = edges(&out[i])
	}
	return out
}

// edges are the values that a field is given: the literals, their neighbours,
// one that none of them is, and none at all.
func edges(f *policy.Field) []any {
	var out []any
	add := func(v any) {
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	for _, v := range f.Values {
		switch v := v.(type) {
		case int64:
			if v > math.MinInt64 {
				add(v - 1)
			}
			add(v)
			if v < math.MaxInt64 {
				add(v + 1)
			}
		case float64:
			add(math.Nextafter(v, math.Inf(-1)))
			add(v)
			add(math.Nextafter(v, math.Inf(1)))
		case bool:
			add(v)
			add(!v)
		case string:
			add(v)
			add(v + "x")
			add("other")
		}
	}
	if len(out) == 0 {
		add("other")
		if f.Root == "args" {
			add(int64(1))
		}
	}
	if len(f.Path) > 0 {
		add(absent{})
	}
	return out
}

// made calls f with one value for each field: with every combination, or with
// many where there are more.
func made(fields []policy.Field, f func(values []any)) {
	values := make([]any, len(fields))
	total := 1
	for _, x := range fields {
		if total *= len(x.Values); total > maxMade {
			break
		}
	}
	if total <= maxMade {
		var each func(i int)
		each = func(i int) {
			if i == len(fields) {
				f(values)
				return
			}
			for _, v := range fields[i].Values {
				values[i] = v
				each(i + 1)
			}
		}
		each(0)
		return
	}
	draw := rand.New(rand.NewPCG(1, 2)) // the same actions every time
	for range maxMade {
		for i := range fields {
			values[i] = fields[i].Values[draw.IntN(len(fields[i].Values))]
		}
		f(values)
	}
}

// madeUp is the action with these values.
func madeUp(tool string, fields []policy.Field, values []any, now time.Time) *policy.Input {
	in := &policy.Input{Tool: tool, Now: now, Args: map[string]any{}}
	for i := range fields {
		f := &fields[i]
		text, _ := values[i].(string)
		switch f.Root {
		case "args":
			place(&in.Args, f.Path, values[i])
		case "path":
			place(&in.Path, f.Path, values[i])
		case "query":
			place(&in.Query, f.Path, values[i])
		case "header":
			place(&in.Header, f.Path, values[i])
		case "passport":
			place(&in.Passport, f.Path, values[i])
		case "resource":
			in.Resource = text
		case "agent_id":
			in.AgentID = text
		case "user_id":
			in.UserID = text
		case "goal":
			in.Goal = text
		case "risk_tier":
			in.Risk = text
		}
	}
	return in
}

// place puts a value below a map, which is made. The whole map, as in
// args.all(...), gets a member of its own.
func place(m *map[string]any, path []string, v any) {
	if _, none := v.(absent); none {
		return
	}
	if *m == nil {
		*m = map[string]any{}
	}
	if len(path) == 0 {
		if v != "other" {
			(*m)["another"] = v
		}
		return
	}
	at := *m
	for _, p := range path[:len(path)-1] {
		next, ok := at[p].(map[string]any)
		if !ok {
			next = map[string]any{}
			at[p] = next
		}
		at = next
	}
	if last := path[len(path)-1]; at[last] == nil {
		at[last] = v
	}
}

// RecordDiff judges recorded actions by two policies, side by side.
type RecordDiff struct {
	a, b    *Simulation
	last    Verdict
	unknown bool
	found   differences
	// Events that were judged, and Unknown those whose verdict hangs on what is
	// not on record.
	Events, Unknown int
}

// NewRecordDiff compares o.Rules with the policy that is given. Modes are left
// out of it: what counts is the policies' own word.
func NewRecordDiff(o Options, other *policy.Set) (*RecordDiff, error) {
	if o.Rules == nil || o.Rules.Policy == nil || other == nil {
		return nil, errors.New("whatif: a comparison needs two policies")
	}
	r := &RecordDiff{found: differences{}}
	one, two := *o.Rules, *o.Rules
	one.Mode, two.Mode, two.Policy = gate.ModeMonitor, gate.ModeMonitor, other
	one.Overrides, two.Overrides = nil, nil
	var err error
	o.Rules = &one
	if r.a, err = New(o); err != nil {
		return nil, err
	}
	o.Rules = &two
	if r.b, err = New(o); err != nil {
		return nil, err
	}
	r.a.judged = func(_ *action, to Verdict, unknown string) { r.last, r.unknown = to, unknown != "" }
	r.b.judged = func(a *action, to Verdict, unknown string) {
		r.Events++
		if r.unknown || unknown != "" {
			r.Unknown++
			return
		}
		r.found.add(a.tool, "recorded", r.last, to, nil, nil, func() Example {
			return Example{EventID: a.id, Resource: a.resource, AgentID: a.agent, UserID: a.user, Goal: a.goal, Risk: a.risk, Args: a.args}
		})
	}
	return r, nil
}

// From is as a simulation's.
func (r *RecordDiff) From() time.Time {
	if a, b := r.a.From(), r.b.From(); b.Before(a) {
		return b
	}
	return r.a.From()
}

// Add is as a simulation's.
func (r *RecordDiff) Add(record []byte) error {
	if err := r.a.Add(record); err != nil {
		return err
	}
	return r.b.Add(record)
}

// Differences are what was found, the most frequent first.
func (r *RecordDiff) Differences() []PolicyDifference {
	list := r.found.list()
	slices.SortStableFunc(list, func(a, b PolicyDifference) int { return cmp.Compare(b.Count, a.Count) })
	return list
}
