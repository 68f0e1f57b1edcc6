package whatif

import (
	"errors"
	"fmt"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/strictyaml"
)

// A fixture file as it is written. docs/simulate.md is its manual.
type (
	fixtureFile struct {
		Fixtures []fixtureYAML `yaml:"fixtures"`
	}
	fixtureYAML struct {
		At     strictyaml.Pos          `yaml:"-"`
		Name   strictyaml.Val[string]  `yaml:"name"`
		Action *actionYAML             `yaml:"action"`
		Mode   strictyaml.Val[string]  `yaml:"mode"`
		Now    *strictyaml.Val[string] `yaml:"now"`
		Expect *expectYAML             `yaml:"expect"`
	}
	actionYAML struct {
		At       strictyaml.Pos         `yaml:"-"`
		Tool     strictyaml.Val[string] `yaml:"tool"`
		Resource string                 `yaml:"resource"`
		Args     map[string]any         `yaml:"args"`
		AgentID  string                 `yaml:"agent_id"`
		UserID   string                 `yaml:"user_id"`
		Goal     string                 `yaml:"goal"`
		RiskTier strictyaml.Val[string] `yaml:"risk_tier"`
		Passport map[string]any         `yaml:"passport"`
	}
	expectYAML struct {
		At          strictyaml.Pos         `yaml:"-"`
		Decision    strictyaml.Val[string] `yaml:"decision"`
		ReasonCode  strictyaml.Val[string] `yaml:"reason_code"`
		Rule        strictyaml.Val[string] `yaml:"rule"`
		Enforcement strictyaml.Val[string] `yaml:"enforcement"`
	}
)

// Source is one fixture file.
type Source struct {
	Name string
	Data []byte
}

// Fixture is one made-up action, and what policy is to say of it.
type Fixture struct {
	Name   string
	Pos    strictyaml.Pos
	action actionYAML
	mode   string
	now    time.Time
	want   []expectation
}

// Args are the arguments of the action as they are written.
func (f *Fixture) Args() map[string]any { return f.action.Args }

// expectation is one value that a decision is to have.
type expectation struct {
	field string
	want  string
	at    strictyaml.Pos
}

// ReadFixtures reads fixture files. The error is strictyaml.Faults, with every
// fault of every file. now is the time of fixtures that give none.
func ReadFixtures(sources []Source, now time.Time) ([]Fixture, error) {
	var faults strictyaml.Faults
	var out []Fixture
	for _, src := range sources {
		var f fixtureFile
		before := len(faults)
		faults.Add(strictyaml.Pos{File: src.Name}, strictyaml.Decode(src.Name, src.Data, &f))
		if len(faults) > before {
			continue
		}
		if len(f.Fixtures) == 0 {
			faults.Addf(strictyaml.Pos{File: src.Name, Line: 1, Col: 1}, "the file has no `fixtures`: write a list of them")
		}
		seen := make(map[string]strictyaml.Pos)
		for i := range f.Fixtures {
			out = append(out, f.Fixtures[i].fixture(&faults, seen, now))
		}
	}
	return out, faults.Err()
}

func (y *fixtureYAML) fixture(faults *strictyaml.Faults, seen map[string]strictyaml.Pos, now time.Time) Fixture {
	f := Fixture{Name: y.Name.V, Pos: y.At, mode: gate.ModeMonitor, now: now}
	if first, twice := seen[f.Name]; twice && f.Name != "" {
		faults.Addf(y.Name.Pos, "a second fixture named %q: the first stands at %s", f.Name, first)
	}
	seen[f.Name] = y.Name.Pos
	switch {
	case f.Name == "":
		faults.Addf(y.At, "the fixture has no `name`: say what it shows")
	case y.Action == nil:
		faults.Addf(y.At, "fixture %q has no `action`", f.Name)
	case !y.Action.Tool.Set():
		faults.Addf(y.Action.At, "the action of fixture %q has no `tool`, such as stripe.refund.create", f.Name)
	}
	if y.Action != nil {
		f.action = *y.Action
		oneOf(faults, "risk_tier", y.Action.RiskTier, "low", "medium", "high", "critical")
	}
	if y.Mode.Set() {
		f.mode = y.Mode.V
		oneOf(faults, "mode", y.Mode, "monitor", "warn", "enforce", "strict")
	}
	if y.Now != nil {
		t, err := time.Parse(time.RFC3339, y.Now.V)
		if err != nil {
			faults.Addf(y.Now.Pos, "`now` must be a time in RFC 3339, as in \"2026-01-31T09:00:00Z\"")
		}
		f.now = t
	}
	if y.Expect == nil || !y.Expect.Decision.Set() {
		faults.Addf(y.At, "fixture %q expects no `decision`: write expect: { decision: allow }", f.Name)
		return f
	}
	e := y.Expect
	oneOf(faults, "decision", e.Decision, "allow", "deny", "require_approval", "warn")
	oneOf(faults, "enforcement", e.Enforcement, "none", "warn", "block", "hold")
	for _, x := range []struct {
		field string
		value strictyaml.Val[string]
	}{{"decision", e.Decision}, {"reason_code", e.ReasonCode}, {"rule", e.Rule}, {"enforcement", e.Enforcement}} {
		if x.value.Set() {
			f.want = append(f.want, expectation{x.field, x.value.V, x.value.Pos})
		}
	}
	return f
}

func oneOf(faults *strictyaml.Faults, key string, v strictyaml.Val[string], words ...string) {
	if !v.Set() {
		return
	}
	for _, w := range words {
		if v.V == w {
			return
		}
	}
	faults.Addf(v.Pos, "`%s` cannot be %q%s", key, v.V, strictyaml.Suggest(v.V, words))
}

// FixtureResult is what became of one fixture.
type FixtureResult struct {
	Name   string `json:"name"`
	File   string `json:"file"`
	Line   int    `json:"line"`
	Passed bool   `json:"passed"`
	// Differences are not empty where it failed.
	Differences []Difference `json:"differences,omitempty"`
	Got         Verdict      `json:"got"`
	// RuleFile and RuleLine are where the rule stands that decided.
	RuleFile string `json:"rule_file,omitempty"`
	RuleLine int    `json:"rule_line,omitempty"`
	Summary  string `json:"summary"`
}

// Difference is one value that is not as expected.
type Difference struct {
	Field string `json:"field"`
	Want  string `json:"want"`
	Got   string `json:"got"`
	Line  int    `json:"line"` // where it is expected
}

// Coverage says which rules the fixtures reached.
type Coverage struct {
	Rules   int             `json:"rules"`
	Reached int             `json:"reached"`
	Missed  []UnreachedRule `json:"missed"`
}

// UnreachedRule is a rule that no fixture reached.
type UnreachedRule struct {
	Policy string `json:"policy"`
	Rule   string `json:"rule"`
	File   string `json:"file"`
	Line   int    `json:"line"`
}

// RunFixtures judges fixtures by rules, of which Mapping and Policy are
// required: arguments are typed as at the preflight. Limits are not counted.
func RunFixtures(rules *gate.Rules, fixtures []Fixture) ([]FixtureResult, Coverage, error) {
	if rules == nil || rules.Policy == nil || rules.Mapping == nil {
		return nil, Coverage{}, errors.New("whatif: fixtures need a policy and a mapping")
	}
	out := make([]FixtureResult, len(fixtures))
	reached := make(map[policy.Pos]bool)
	for i := range fixtures {
		out[i] = fixtures[i].run(rules, reached)
	}
	c := Coverage{Missed: []UnreachedRule{}}
	for _, r := range rules.Policy.Rules() {
		c.Rules++
		if reached[r.Pos] {
			c.Reached++
			continue
		}
		c.Missed = append(c.Missed, UnreachedRule{r.Policy, r.Name, r.Pos.File, r.Pos.Line})
	}
	return out, c, nil
}

func (f *Fixture) run(rules *gate.Rules, reached map[policy.Pos]bool) FixtureResult {
	a := &f.action
	call := rules.Mapping.Action(a.Tool.V, a.Resource, a.Args)
	if a.RiskTier.Set() {
		call.Risk = a.RiskTier.V
	}
	sup := rules.Suppose(&call, gate.Identity{AgentID: a.AgentID}, a.UserID, a.Goal, a.Passport, f.now)
	if a.Passport != nil {
		sup.Passport = gate.PassportGood
	}
	d := sup.Under(f.mode)
	in := policy.Input{
		Tool: call.Tool, Resource: call.Resource, Risk: call.Risk, Args: call.Args, AgentID: a.AgentID, UserID: a.UserID, Goal: a.Goal,
		Passport: a.Passport, Now: f.now, Unusable: unusable(call.Problems),
	}
	for _, step := range rules.Policy.Explain(&in) {
		for _, r := range step.Rules {
			if r.Result == policy.ResultMatched || r.Result == policy.ResultError {
				reached[r.Pos] = true
			}
		}
	}
	res := FixtureResult{
		Name: f.Name, File: f.Pos.File, Line: f.Pos.Line, Summary: d.Explain.Summary,
		Got: Verdict{Decision: d.Decision, ReasonCode: d.ReasonCode, Enforcement: d.Enforcement},
	}
	if d.ReasonCode == sup.Policy.ReasonCode {
		res.Got.Rule, res.RuleFile, res.RuleLine = sup.Policy.Rule, sup.Policy.Pos.File, sup.Policy.Pos.Line
	}
	for _, w := range f.want {
		if got := field(&res.Got, w.field); got != w.want {
			res.Differences = append(res.Differences, Difference{w.field, w.want, got, w.at.Line})
		}
	}
	res.Passed = len(res.Differences) == 0 && len(f.want) > 0
	return res
}

func field(v *Verdict, name string) string {
	switch name {
	case "decision":
		return v.Decision
	case "reason_code":
		return v.ReasonCode
	case "rule":
		return v.Rule
	}
	return v.Enforcement
}

func unusable(problems []mapping.Problem) map[string]string {
	if len(problems) == 0 {
		return nil
	}
	m := make(map[string]string, len(problems))
	for _, p := range problems {
		m[p.Arg] = p.Detail
	}
	return m
}

// FixtureOf writes an event down as a fixture that expects what was decided. It
// says in comments what of the action is not on record.
func FixtureOf(e *evidence.Event) (string, error) {
	if e.Kind != evidence.KindAction {
		return "", fmt.Errorf("whatif: event %s is of kind %s: only an action makes a fixture", e.ID, e.Kind)
	}
	return writeFixture(e), nil
}
