package whatif

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/policy"
)

// Draft is a rule that lets a group of stopped actions go.
type Draft struct {
	Name   string
	Policy string
	// YAML is one item of the policy's rules, not indented. Where no rule stopped
	// the actions it is a policy of its own, an item of `policies`.
	YAML string
	// Pos is the item above which it goes in the text before it, and Above its name.
	Pos   policy.Pos
	Above string
	Open  []string // arguments that it lets have any value

	reason string
}

// draft writes the rule. The error says why none would let the actions go, and
// what would.
func (g *Stopped) draft(set *policy.Set) (*Draft, error) {
	code, _, _ := strings.Cut(g.To.ReasonCode, ".")
	switch {
	case g.Limit:
		return nil, fmt.Errorf("the limit %s at %s:%d stops them, and no rule lets calls past a limit: raise it there", g.To.Rule, g.Pos.File, g.Pos.Line)
	case g.To.ReasonCode == gate.ReasonUnmapped:
		return nil, errors.New("no mapping rule reads these calls: write one (actpass mapping suggest), then review again")
	case g.To.ReasonCode == gate.ReasonArgMissing || g.To.ReasonCode == gate.ReasonArgInvalid:
		return nil, errors.New("an argument that the mapping declares is missing or not usable: no policy rule lets such a call go")
	case g.To.Rule == "" && g.To.ReasonCode != policy.ReasonDefault:
		if code == "passport" {
			return nil, errors.New("they lack a valid passport, which no policy rule replaces")
		}
		return nil, fmt.Errorf("they are stopped for %s, which no policy rule changes", g.To.ReasonCode)
	case g.Tool == otherNames:
		return nil, errors.New("these are groups beyond those that are kept apart: review less at once (--tool, --agent)")
	case g.seen.wide:
		return nil, fmt.Errorf("they have more than %d different arguments: write the rule by hand", proposalNames)
	}
	when := g.seen.condition(g.Tool, g.AgentID)
	sum := sha256.Sum256([]byte(fmt.Sprintf("%q", []string{g.Policy, g.To.Rule, when})))
	d := &Draft{
		Name: "accepted_" + hex.EncodeToString(sum[:4]), Policy: g.Policy, Pos: g.Pos, Above: g.To.Rule,
		Open: g.seen.open(), reason: reasonLike(g.To.ReasonCode, "review", "accepted"),
	}
	d.YAML = ruleYAML(d.Name, when, d.reason)
	if g.To.Rule != "" {
		return d, nil
	}
	all := set.Policies()
	if len(all) == 0 {
		return nil, errors.New("no policy stops them but policy.default, and there is no policy file to put a rule in")
	}
	last := all[len(all)-1]
	d.Policy, d.Pos, d.Above = d.Name, last.Pos, last.Name
	var b strings.Builder
	fmt.Fprintf(&b, "- name: %s\n  version: 1\n  tools: [%s]\n  rules:\n", d.Name, quoteYAML(g.Tool))
	for line := range strings.Lines(d.YAML) {
		b.WriteString("    " + line)
	}
	d.YAML = b.String()
	return d, nil
}

// Walk goes through stopped actions and changes the policy files by what a person
// says of them. It holds texts only: nothing is read or written.
type Walk struct {
	rules   gate.Rules
	compile func([]policy.Source) (*policy.Set, error)
	order   []string
	texts   map[string]*Text
	held    []Fixture // those that must go on to pass
	drafts  []*Draft
	kept    []keptGroup
}

// keptGroup is a group that fixtures are written of.
type keptGroup struct {
	group *Stopped
	draft *Draft // nil: rightly blocked
}

// NewWalk begins with rules, of which Mapping and Policy are required, and with
// the fixtures that the policy is held to: those that pass must go on to.
func NewWalk(rules *gate.Rules, compile func([]policy.Source) (*policy.Set, error), fixtures []Fixture) (*Walk, error) {
	w := &Walk{rules: *rules, compile: compile, texts: make(map[string]*Text)}
	for _, src := range rules.Policy.Sources() {
		w.order = append(w.order, src.Name)
		w.texts[src.Name] = NewText(src.Data)
	}
	results, _, err := RunFixtures(rules, fixtures)
	for i := range results {
		if results[i].Passed {
			w.held = append(w.held, fixtures[i])
		}
	}
	return w, err
}

// Rules are those that hold with all that was accepted.
func (w *Walk) Rules() *gate.Rules { return &w.rules }

// Drafts are the rules that were accepted, in their order.
func (w *Walk) Drafts() []*Draft { return w.drafts }

// Texts are the policy files that have changed, by name.
func (w *Walk) Texts() map[string]*Text {
	changed := make(map[string]*Text)
	for name, t := range w.texts {
		if slices.Contains(t.added, true) {
			changed[name] = t
		}
	}
	return changed
}

// Accept puts a rule into the policy that lets the group go. With an error
// nothing has changed; it says why, for a person to read.
func (w *Walk) Accept(g *Stopped) (*Draft, error) {
	d, err := g.draft(w.rules.Policy)
	if err != nil {
		return nil, err
	}
	was := w.texts[d.Pos.File]
	if was == nil {
		return nil, fmt.Errorf("the file %s is not among the policy files", d.Pos.File)
	}
	text := was.Clone()
	if err := text.Insert(d.Pos.Line, d.YAML); err != nil {
		return nil, fmt.Errorf("the rule finds no place in %s: %w. Put it there by hand:\n%s", d.Pos.File, err, d.YAML)
	}
	sources := make([]policy.Source, len(w.order))
	for i, name := range w.order {
		sources[i] = policy.Source{Name: name, Data: w.texts[name].Bytes()}
		if name == d.Pos.File {
			sources[i].Data = text.Bytes()
		}
	}
	set, err := w.compile(sources)
	if err != nil {
		return nil, fmt.Errorf("with the rule the policy cannot be used: %w", err)
	}
	next := w.rules
	next.Policy = set
	for i := range g.Samples {
		if !says(set, d, &g.Samples[i]) {
			return nil, fmt.Errorf("the drafted rule does not cover %s: write it by hand", g.Samples[i].EventID)
		}
	}
	results, _, err := RunFixtures(&next, w.held)
	if err != nil {
		return nil, err
	}
	for i := range results {
		if r := &results[i]; !r.Passed {
			return nil, fmt.Errorf("the fixture %q (%s:%d) says otherwise: change it first", r.Name, r.File, r.Line)
		}
	}
	w.rules, w.texts[d.Pos.File] = next, text
	w.drafts = append(w.drafts, d)
	w.kept = append(w.kept, keptGroup{g, d})
	return d, nil
}

// says tells whether the rule is what its policy says of an action.
func says(set *policy.Set, d *Draft, s *Sample) bool {
	in := &policy.Input{Tool: s.Tool, Resource: s.Resource, Risk: s.Risk, Args: s.Args, AgentID: s.AgentID, UserID: s.UserID, Goal: s.Goal, Now: s.Time}
	for _, step := range set.Explain(in) {
		if step.Policy != d.Policy {
			continue
		}
		for _, r := range step.Rules {
			if r.Name == d.Name {
				return r.Result == policy.ResultMatched
			}
		}
	}
	return false
}

// Blocked notes that a group is rightly stopped: its fixtures hold the policy to it.
func (w *Walk) Blocked(g *Stopped) { w.kept = append(w.kept, keptGroup{g, nil}) }

// Fixtures writes the fixture file of all that was accepted or found rightly
// blocked, "" where there is none, and sentences about what it could not hold
// the policy to. The fixtures pass under Rules.
func (w *Walk) Fixtures() (text string, notes []string) {
	var b strings.Builder
	for _, k := range w.kept {
		held, note := w.fixturesOf(k)
		b.WriteString(held)
		if note != "" {
			notes = append(notes, note)
		}
	}
	if b.Len() == 0 {
		return "", notes
	}
	return fixtureHead + b.String(), notes
}

const fixtureHead = "fixtures:\n"

// fixturesOf writes the fixtures of one group, items of a list; where none holds
// the policy to it, note says so.
func (w *Walk) fixturesOf(k keptGroup) (text, note string) {
	var b strings.Builder
	for i := range k.group.Samples[:min(len(k.group.Samples), proposalExamples)] {
		w.fixture(&b, k, &k.group.Samples[i], k.group.Samples[i].Args, "")
	}
	switch {
	case b.Len() > 0:
	case k.draft != nil:
		note = fmt.Sprintf("%s has no fixture: as fixtures are judged, without limits, its calls do not go yet", k.draft.Name)
	default:
		note = fmt.Sprintf("%s of %s, rightly blocked, has no fixture: limits are not counted there", k.group.Tool, k.group.AgentID)
	}
	if k.draft == nil {
		return b.String(), note
	}
	most := k.group.seen.most()
	for _, name := range sorted(most) {
		args := make(map[string]any)
		for n, v := range k.group.Samples[0].Args {
			args[n] = v
		}
		if _, there := args[name]; there && most[name] < 1<<63-1 {
			args[name] = most[name] + 1
			w.fixture(&b, k, &k.group.Samples[0], args, name)
		}
	}
	return b.String(), note
}

// fixture writes one, where the policy says of the action what was meant: an
// accepted one goes, one that is over in an argument or rightly blocked does not.
func (w *Walk) fixture(b *strings.Builder, k keptGroup, s *Sample, args map[string]any, over string) {
	name := "rightly blocked: " + k.group.Tool + " as " + s.EventID
	if k.draft != nil {
		name = k.draft.Name + ": accepted as " + s.EventID
	}
	if over != "" {
		name = k.draft.Name + ": " + over + " one over"
	}
	got, err := w.judge(name, s, args)
	if err != nil || (got.Decision == policy.Allow.String()) != (k.draft != nil && over == "") {
		return
	}
	writeExample(b, name, s.approval(), args, got.Decision, got.ReasonCode, got.Rule)
}

// judge says what a fixture of the action would come to.
func (w *Walk) judge(name string, s *Sample, args map[string]any) (Verdict, error) {
	var b strings.Builder
	b.WriteString(fixtureHead)
	writeExample(&b, name, s.approval(), args, "allow", "", "")
	list, err := ReadFixtures([]Source{{Name: "fixture", Data: []byte(b.String())}}, time.Time{})
	if err != nil {
		return Verdict{}, err
	}
	results, _, err := RunFixtures(&w.rules, list)
	if err != nil {
		return Verdict{}, err
	}
	return results[0].Got, nil
}
