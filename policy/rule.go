package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"github.com/actpass/sidecar/strictyaml"
)

// compiled is one policy, ready to judge. Immutable.
type compiled struct {
	name    string
	version int
	pos     strictyaml.Pos
	globs   []toolGlob
	rules   []*rule
	limits  []*limit
}

type toolGlob struct {
	text         string
	pos          strictyaml.Pos
	alternatives []string
}

// rule is one compiled rule. The zero rule is not unconditional and has no
// condition: judging it is an error, which denies.
type rule struct {
	name   string
	pos    strictyaml.Pos
	always bool
	when   *condition
	// decision is what the rule says when it matches, complete; failed is what
	// follows when it cannot be judged, but for the summary.
	decision Decision
	failed   Decision
}

// matches says whether the rule matches; an error never does.
func (r *rule) matches(a *activation) (bool, error) {
	if r.always {
		return true, nil
	}
	if r.when == nil {
		return false, fmt.Errorf("it has no condition")
	}
	return r.when.truth(a)
}

func (c *compiler) rule(p *compiled, y *ruleYAML, seen map[string]strictyaml.Pos) *rule {
	r := &rule{pos: y.At}
	r.name = c.name(y.At, "rule", y.Name, seen)
	if y.When.Set() {
		r.when = c.condition(y.When, cel.BoolType)
	}
	switch {
	case !y.When.Set():
		r.always = !c.broken
	case r.when != nil && r.when.constant == types.True:
		r.always = true
	case r.when != nil && r.when.constant == types.False:
		c.faults.Addf(y.When.Pos, "rule %s never matches: its condition is false", r.name)
	}

	d := Decision{
		Policy: p.name, Version: p.version, Rule: r.name,
		Pos:          Pos{File: y.At.File, Line: y.At.Line},
		MatchedRules: []string{r.name},
		NextSteps:    []string{},
	}
	word := y.Decision.V
	switch word {
	case "allow":
		d.Effect = Allow
	case "deny":
		d.Effect = Deny
	case "require_approval":
		d.Effect = RequireApproval
	default:
		if y.Decision.Set() {
			c.faults.Addf(y.Decision.Pos, "`decision` must be allow, deny or require_approval, not %q", word)
		} else {
			c.missing(y.At, "rule %s has no `decision`: write allow, deny or require_approval", r.name)
		}
	}
	d.ReasonCode = c.reason(y.ReasonCode, "policy."+slug(r.name))
	if !y.ReasonCode.Set() {
		switch {
		case word == "deny":
			c.missing(y.At, "rule %s denies without a `reason_code`: write one, such as refund.over_limit, so that the refused can be told why", r.name)
		case d.ReasonCode == ReasonDefault || d.ReasonCode == ReasonError:
			c.faults.Addf(y.Name.Pos, "a rule named %s needs a `reason_code` of its own: %s has another meaning", r.name, d.ReasonCode)
		}
	}
	d.Approval = c.approval(y.Approval, word, "rule "+r.name)
	d.Summary = fmt.Sprintf("Policy %s v%d: %s.", p.name, p.version, d.Effect)
	if y.Message.Set() {
		if m := c.sentence(y.Message); m != "" {
			d.Summary += " " + m
		}
	}
	var steps []string
	for _, s := range y.NextSteps {
		if !s.Set() {
			continue
		}
		if m := c.sentence(s); m != "" {
			steps = append(steps, m)
		}
	}
	if word == "allow" && len(y.NextSteps) > 0 {
		c.faults.Addf(y.At, "rule %s allows and has `next_steps`: they are shown with a deny or require_approval only", r.name)
	}
	d.RuleHash = digest("rule", p.name, r.name, strings.TrimSpace(y.When.V), word, d.ReasonCode, d.Approval, steps, y.Message.V)
	if d.Effect != Allow {
		d.NextSteps = slices.Clip(append(steps, generalSteps(d.Effect)...))
	}
	r.decision = d

	r.failed = d
	r.failed.Effect = Deny
	r.failed.ReasonCode = ReasonError
	r.failed.Summary = ""
	r.failed.Approval = nil
	r.failed.MatchedRules = []string{}
	r.failed.NextSteps = nil
	return r
}

func generalSteps(e Effect) []string {
	if e == RequireApproval {
		return []string{"A person has to approve this call: repeat it unchanged to wait for the decision."}
	}
	return []string{"Do not retry this call unchanged."}
}

// broken is the decision of a rule that could not be judged.
func (r *rule) broken(err error) Decision {
	d := r.failed
	d.Summary = fmt.Sprintf("Policy %s v%d: rule %s cannot be evaluated: %s.", d.Policy, d.Version, d.Rule, strings.TrimSuffix(err.Error(), "."))
	d.NextSteps = brokenSteps()
	return d
}

func brokenSteps() []string {
	return []string{"Do not retry this call unchanged: correct the arguments, or ask the operator to look at the policy."}
}

func (c *compiler) condition(v strictyaml.Val[string], want *cel.Type) *condition {
	key := exprKey{text: v.V, sum: want == cel.IntType}
	result, known := c.exprs[key]
	if !known {
		result.condition, result.faults = compileCondition(v.V, want)
		c.exprs[key] = result
	}
	for _, f := range result.faults {
		c.faults.Addf(c.text.locate(v.Pos, v.V, f.line, f.col), "%s", f.message)
	}
	return result.condition
}

// reason checks a reason code of the author's.
func (c *compiler) reason(v strictyaml.Val[string], fallback string) string {
	if !v.Set() {
		return fallback
	}
	if !reasonForm.MatchString(v.V) || len(v.V) > 100 {
		c.faults.Addf(v.Pos, "`reason_code` must be lower-case words joined by dots, such as refund.over_limit, not %q", v.V)
		return v.V
	}
	for _, prefix := range reserved {
		if strings.HasPrefix(v.V, prefix) {
			c.faults.Addf(v.Pos, "the reason code %s begins with %s, which is kept for this product's own codes: choose another first word", v.V, prefix)
		}
	}
	return v.V
}

// slug makes a word of a reason code out of a name.
func slug(name string) string {
	return strings.ReplaceAll(strings.ToLower(name), "-", "_")
}

// sentence checks a text of the author's that agents will read.
func (c *compiler) sentence(v strictyaml.Val[string]) string {
	s := strings.Join(strings.Fields(v.V), " ")
	switch {
	case s == "":
		c.faults.Addf(v.Pos, "an empty sentence: remove it")
	case len(s) > 500:
		c.faults.Addf(v.Pos, "a sentence of %d bytes; at most 500", len(s))
	case len(s) <= 300 && clean(s) != s:
		c.faults.Addf(v.Pos, "a sentence must not hold control characters")
	}
	return s
}

// approval checks the approval block of a rule or a limit; decision is the word
// that stands beside it.
func (c *compiler) approval(y *approvalYAML, decision, owner string) *Approval {
	if decision != "require_approval" {
		if y != nil && decision != "" {
			c.faults.Addf(y.At, "%s has an `approval` block, but its decision is %s: remove the block, or write require_approval", owner, decision)
		}
		return nil
	}
	a := &Approval{Required: 1, Expires: defaultExpires, UseWithin: defaultUseWithin}
	if y == nil {
		return a
	}
	for _, g := range y.Approvers {
		switch {
		case !g.Set():
		case !nameForm.MatchString(g.V):
			c.faults.Addf(g.Pos, "the group name %q must be letters, digits, - and _", g.V)
		case slices.Contains(a.Approvers, g.V):
			c.faults.Addf(g.Pos, "the group %s stands twice", g.V)
		default:
			a.Approvers = append(a.Approvers, g.V)
		}
	}
	if y.Required.Set() {
		a.Required = y.Required.V
		if a.Required < 1 || a.Required > maxRequired {
			c.faults.Addf(y.Required.Pos, "`required` must be from 1 to %d", maxRequired)
		}
	}
	for _, d := range []struct {
		v  strictyaml.Val[string]
		to *time.Duration
	}{{y.Expires, &a.Expires}, {y.UseWithin, &a.UseWithin}} {
		if d.v.Set() {
			*d.to = c.duration(d.v)
		}
	}
	return a
}

func (c *compiler) duration(v strictyaml.Val[string]) time.Duration {
	d, err := parseDuration(v.V)
	if err != nil {
		c.faults.Addf(v.Pos, "%v", err)
	}
	return d
}

// digest is a hash of a text's parts, unambiguous because they are JSON.
func digest(parts ...any) string {
	b, err := json.Marshal(parts)
	if err != nil {
		// Strings, numbers and structs of them always encode.
		panic("policy: a rule's text cannot be encoded: " + err.Error())
	}
	h := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(h[:])
}
