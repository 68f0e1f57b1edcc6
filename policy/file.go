package policy

import (
	"regexp"
	"strings"
	"time"

	"github.com/actpass/sidecar/strictyaml"
)

// The file as it is written. docs/policy.md is its manual.
type (
	fileYAML struct {
		Policies []policyYAML `yaml:"policies"`
	}
	policyYAML struct {
		At          strictyaml.Pos           `yaml:"-"`
		Name        strictyaml.Val[string]   `yaml:"name"`
		Version     strictyaml.Val[int]      `yaml:"version"`
		Description string                   `yaml:"description"`
		Tools       []strictyaml.Val[string] `yaml:"tools"`
		Rules       []ruleYAML               `yaml:"rules"`
		Limits      []limitYAML              `yaml:"limits"`
	}
	ruleYAML struct {
		At         strictyaml.Pos           `yaml:"-"`
		Name       strictyaml.Val[string]   `yaml:"name"`
		When       strictyaml.Val[string]   `yaml:"when"`
		Decision   strictyaml.Val[string]   `yaml:"decision"`
		ReasonCode strictyaml.Val[string]   `yaml:"reason_code"`
		Approval   *approvalYAML            `yaml:"approval"`
		NextSteps  []strictyaml.Val[string] `yaml:"next_steps"`
		Message    strictyaml.Val[string]   `yaml:"message"`
	}
	approvalYAML struct {
		At        strictyaml.Pos           `yaml:"-"`
		Approvers []strictyaml.Val[string] `yaml:"approvers"`
		Required  strictyaml.Val[int]      `yaml:"required"`
		Expires   strictyaml.Val[string]   `yaml:"expires"`
		UseWithin strictyaml.Val[string]   `yaml:"use_within"`
	}
	limitYAML struct {
		At         strictyaml.Pos           `yaml:"-"`
		Name       strictyaml.Val[string]   `yaml:"name"`
		Key        []strictyaml.Val[string] `yaml:"key"`
		Sum        strictyaml.Val[string]   `yaml:"sum"`
		Max        strictyaml.Val[int64]    `yaml:"max"`
		Window     strictyaml.Val[string]   `yaml:"window"`
		Zone       strictyaml.Val[string]   `yaml:"zone"`
		Decision   strictyaml.Val[string]   `yaml:"decision"`
		ReasonCode strictyaml.Val[string]   `yaml:"reason_code"`
		Approval   *approvalYAML            `yaml:"approval"`
	}
)

// Defaults of an approval.
const (
	defaultExpires   = time.Hour
	defaultUseWithin = 15 * time.Minute
	maxRequired      = 100
)

// reserved are the prefixes of this product's own reason codes.
var reserved = []string{"policy.", "mapping.", "passport.", "approval.", "evidence.", "request.", "limit.", "store.unavailable"}

var (
	nameForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$`)
	reasonForm = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$`)
)

// compiler collects policies and faults over all files.
type compiler struct {
	opt    Options
	faults strictyaml.Faults
	names  map[string]strictyaml.Pos // policies by name
	exprs  map[exprKey]exprResult    // equal conditions share one program

	// Of the file in hand.
	text *text
	// broken: the file's form is faulty, so that a key that seems to be missing
	// may be there and unreadable.
	broken bool
}

type exprKey struct {
	text string
	sum  bool
}

type exprResult struct {
	condition *condition
	faults    []exprFault
}

func (c *compiler) file(src Source) []*compiled {
	var f fileYAML
	before := len(c.faults)
	c.faults.Add(strictyaml.Pos{File: src.Name}, strictyaml.Decode(src.Name, src.Data, &f))
	c.broken = len(c.faults) > before
	c.text = newText(src.Data)
	if len(f.Policies) == 0 {
		c.missing(strictyaml.Pos{File: src.Name, Line: 1, Col: 1}, "the file has no `policies`: write a list of them, or remove the file from the configuration")
	}
	out := make([]*compiled, 0, len(f.Policies))
	for i := range f.Policies {
		out = append(out, c.policy(&f.Policies[i]))
	}
	return out
}

// missing is a fault about something that is not there; it is kept back where
// the file could not be read whole.
func (c *compiler) missing(at strictyaml.Pos, format string, args ...any) {
	if !c.broken {
		c.faults.Addf(at, format, args...)
	}
}

// name checks the name of a policy, a rule or a limit.
func (c *compiler) name(at strictyaml.Pos, kind string, v strictyaml.Val[string], seen map[string]strictyaml.Pos) string {
	switch {
	case !v.Set():
		c.missing(at, "the %s has no `name`", kind)
		return ""
	case !nameForm.MatchString(v.V):
		c.faults.Addf(v.Pos, "the %s name %q must be letters, digits, - and _, at most 100", kind, v.V)
		return v.V
	}
	if first, dup := seen[v.V]; dup {
		c.faults.Addf(v.Pos, "a second %s named %s: the first stands at %s", kind, v.V, first)
		return v.V
	}
	seen[v.V] = v.Pos
	return v.V
}

func (c *compiler) policy(y *policyYAML) *compiled {
	p := &compiled{pos: y.At, version: y.Version.V}
	p.name = c.name(y.At, "policy", y.Name, c.names)
	switch {
	case !y.Version.Set():
		c.missing(y.At, "the policy has no `version`: write a whole number, 1 to begin with")
	case y.Version.V < 1:
		c.faults.Addf(y.Version.Pos, "`version` must be 1 or more")
	}
	if len(y.Tools) == 0 {
		c.missing(y.At, "the policy has no `tools`: write the tools that it covers, or [\"*\"] for all")
	}
	for _, t := range y.Tools {
		alternatives, err := expandGlob(t.V)
		if err != nil {
			c.faults.Addf(t.Pos, "%v", err)
			continue
		}
		p.globs = append(p.globs, toolGlob{text: t.V, pos: t.Pos, alternatives: alternatives})
	}
	if len(y.Rules) == 0 {
		c.missing(y.At, "the policy has no `rules`: write at least one")
	}
	vocabulary := c.vocabulary(p)
	seen := make(map[string]strictyaml.Pos)
	conditions := make(map[string]*rule)
	var last *rule // an unconditional rule: nothing below it is reached
	for i := range y.Rules {
		r := c.rule(p, &y.Rules[i], seen)
		vocabulary.check(c, y.Rules[i].When, r.when)
		text := strings.TrimSpace(y.Rules[i].When.V)
		first := conditions[text]
		switch {
		case last != nil:
			c.faults.Addf(y.Rules[i].At, "rule %s is never reached: rule %s on line %d matches everything", r.name, last.name, last.pos.Line)
		case text != "" && first != nil:
			c.faults.Addf(y.Rules[i].At, "rule %s is never reached: rule %s on line %d has the same condition", r.name, first.name, first.pos.Line)
		}
		if text != "" && first == nil {
			conditions[text] = r
		}
		if last == nil && r.always {
			last = r
		}
		p.rules = append(p.rules, r)
	}
	seen = make(map[string]strictyaml.Pos)
	for i := range y.Limits {
		l := c.limit(p, &y.Limits[i], seen)
		vocabulary.check(c, y.Limits[i].Sum, l.sum)
		vocabulary.checkCurrency(c, &y.Limits[i], l)
		for j, k := range l.keys {
			vocabulary.checkReads(c, y.Limits[i].Key[j].Pos, []read{k.read})
		}
		p.limits = append(p.limits, l)
	}
	return p
}
