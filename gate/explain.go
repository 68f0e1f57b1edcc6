package gate

import (
	"fmt"
	"sort"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
)

// Explanation is every step of a judgement that was only thought through.
type Explanation struct {
	Request     ExplainedRequest  `json:"request"`
	Canonical   ExplainedRequest  `json:"canonical"`
	Ambiguous   []ExplainedDoubt  `json:"ambiguous"`
	MappingRule string            `json:"mapping_rule"` // file:line, "" for unmapped
	Args        []ExplainedArg    `json:"args"`
	Problems    []ExplainedDoubt  `json:"problems"`
	Identity    ExplainedIdentity `json:"identity"`
	Policies    []ExplainedPolicy `json:"policies"`
	Decision    evidence.Decision `json:"decision"`
	// Calls are all calls of a request that holds several (a batch, a GraphQL
	// document of more than one root field); what stands above is then the one
	// that decides. Absent for one call.
	Calls []ExplainedCall `json:"calls,omitempty"`
}

// ExplainedCall is one of several calls in a request, judged for itself.
type ExplainedCall struct {
	Tool        string           `json:"tool"`
	Resource    string           `json:"resource"`
	RiskTier    string           `json:"risk_tier"`
	MappingRule string           `json:"mapping_rule"`
	Args        []ExplainedArg   `json:"args"`
	Problems    []ExplainedDoubt `json:"problems"`
	Decision    string           `json:"decision"`
	ReasonCode  string           `json:"reason_code"`
	Decides     bool             `json:"decides"` // whether the request is judged by it
}

// ExplainedRequest is a request line.
type ExplainedRequest struct {
	Method string `json:"method"`
	URL    string `json:"url"`
}

// ExplainedDoubt is an ambiguity, or an argument that cannot be used.
type ExplainedDoubt struct {
	Class  string `json:"class"` // of the ambiguity, or the argument's name
	Detail string `json:"detail"`
	Status int    `json:"status,omitempty"` // HTTP status under enforce
}

// ExplainedArg is one argument as policy sees it.
type ExplainedArg struct {
	Name   string `json:"name"`
	Value  any    `json:"value"`
	Type   string `json:"type"`
	Source string `json:"source"` // body, path, query, header
}

// ExplainedIdentity is who would be calling.
type ExplainedIdentity struct {
	TenantID string `json:"tenant_id"`
	AgentID  string `json:"agent_id"`
	Source   string `json:"source"`
}

// ExplainedPolicy is what one policy said.
type ExplainedPolicy struct {
	Name    string          `json:"name"`
	Version int             `json:"version"`
	At      string          `json:"at"` // file:line
	Glob    string          `json:"glob"`
	Rules   []ExplainedRule `json:"rules"`
	Limits  []string        `json:"limits"`
	// Uses are the limits again, in numbers.
	Uses []ExplainedLimit `json:"limit_uses"`
}

// ExplainedLimit is what the call would use of a limit.
type ExplainedLimit struct {
	Limit  string `json:"limit"` // policy/name
	Line   int    `json:"line"`
	Key    string `json:"key"` // a JSON array
	Amount int64  `json:"amount"`
	Max    int64  `json:"max"`
	Used   *int64 `json:"used"` // null where it is not known
	Fits   *bool  `json:"fits"`
	Error  string `json:"error,omitempty"`
}

// ExplainedRule is one rule of a policy.
type ExplainedRule struct {
	Name     string `json:"name"`
	Line     int    `json:"line"`
	When     string `json:"when"`
	Result   string `json:"result"` // matched, not matched, error, not tried
	Decision string `json:"decision"`
	Reason   string `json:"reason_code"`
	Error    string `json:"error,omitempty"`
}

// explainedBody is a body that is there already.
type explainedBody []byte

func (b explainedBody) Peek(max int64) ([]byte, bool, error) {
	if int64(len(b)) > max {
		return b[:max], false, nil
	}
	return b, true, nil
}

// Usage tells what limits hold, as LimitStore.Usage does.
type Usage func(uses []Use) (used []int64, err error)

// Explain judges a call as Check does, without recording, reserving or sending.
// Limits are counted as far as usage tells what they hold; with nil, they are
// taken to have room.
func (r *Rules) Explain(head *mapping.Request, body []byte, user, goal string, now time.Time, usage Usage) Explanation {
	c := &call{
		Request: &Request{Door: DoorForward, Identity: r.Identity, UserID: user, Goal: goal, Head: *head, Body: explainedBody(body)},
		rules:   r, started: now,
	}
	c.read(r.MaxInspect)
	v := c.suppose(now)
	v.refuse = closedBy(c.reading.Ambiguous)
	if c.match.Rule == nil && c.match.UnmappedDenied() && v.effect != policy.Deny && v.refuse == nil {
		v.effect, v.policy = policy.Deny, c.unmapped()
	}
	x := c.explain(&v, now, usage)
	x.Request = ExplainedRequest{head.Method, head.Scheme + "://" + head.Authority + head.Target}
	x.Canonical = ExplainedRequest{c.match.Method, c.match.URL()}
	for _, a := range c.reading.Ambiguous {
		x.Ambiguous = append(x.Ambiguous, ExplainedDoubt{a.Class, a.Detail, a.Status})
	}
	return x
}

// ExplainAction judges an action as Preflight does, without recording or
// reserving. Errors are *FieldError.
func (r *Rules) ExplainAction(p Preflight, now time.Time, usage Usage) (Explanation, error) {
	if err := p.check(); err != nil {
		return Explanation{}, err
	}
	id := r.Identity
	id.AgentID = p.AgentID
	c := &call{Request: &Request{Door: DoorAPI, Identity: id, UserID: p.UserID, Goal: p.Goal}, rules: r, started: now, match: &mapping.Match{}}
	c.reading.Calls = []mapping.Call{r.action(&p)}
	v := c.suppose(now)
	return c.explain(&v, now, usage), nil
}

// action is what a preflight names, typed as its tool declares.
func (r *Rules) action(p *Preflight) mapping.Call {
	return r.Mapping.Action(p.Tool, p.Resource, p.Args)
}

// suppose is the verdict on a call that shows no passport.
func (c *call) suppose(now time.Time) verdict {
	v := c.rules.decide(c.reading.Calls, c.Identity, c.UserID, c.Goal, nil, now)
	v.passport = passportUnneeded
	if risky(v.risk) {
		v.passport = passportAbsent
	}
	return v
}

// explain counts limits, and says everything that the two ways in have alike.
func (c *call) explain(v *verdict, now time.Time, usage Usage) Explanation {
	r := c.rules
	c.mode = r.modeFor(v.call.Tool, c.Identity, "")
	c.verdict = *v
	if asked := v.policy.Limits; usage != nil && v.refuse == nil && v.effect != policy.Deny && len(asked) > 0 {
		uses := limitUses(asked, now, false)
		if used, err := usage(uses); err == nil {
			c.exceeded(uses, used, now)
			v = &c.verdict
		}
	}
	x := Explanation{
		Ambiguous: []ExplainedDoubt{}, Policies: []ExplainedPolicy{},
		Identity: ExplainedIdentity{c.Identity.TenantID, c.Identity.AgentID, c.Identity.Source},
		Decision: r.render(v, c.mode, ""),
	}
	x.MappingRule, x.Args, x.Problems = explainRule(v.call), explainArgs(v.call), explainProblems(v.call)
	if calls := c.reading.Calls; len(calls) > 1 {
		for i := range calls {
			one := &calls[i]
			d := r.decideOne(one, c.Identity, c.UserID, c.Goal, nil, now)
			x.Calls = append(x.Calls, ExplainedCall{
				Tool: one.Tool, Resource: one.Resource, RiskTier: one.Risk, MappingRule: explainRule(one),
				Args: explainArgs(one), Problems: explainProblems(one),
				Decision: d.effect.String(), ReasonCode: d.policy.ReasonCode, Decides: one == v.call,
			})
		}
	}
	for _, s := range r.Policy.Explain(policyInput(v.call, c.Identity, c.UserID, c.Goal, nil, now)) {
		x.Policies = append(x.Policies, explainPolicy(s, usage, now))
	}
	return x
}

func explainRule(c *mapping.Call) string {
	if c.Rule.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", c.Rule.File, c.Rule.Line)
}

func explainProblems(c *mapping.Call) []ExplainedDoubt {
	list := []ExplainedDoubt{}
	for _, p := range c.Problems {
		list = append(list, ExplainedDoubt{Class: p.Arg, Detail: p.Detail})
	}
	return list
}

func explainArgs(c *mapping.Call) []ExplainedArg {
	list := []ExplainedArg{}
	for _, ns := range []struct {
		source, prefix string
		values         map[string]any
	}{{"args", "args.", c.Args}, {"path", "path.", c.Path}, {"query", "query.", c.Query}, {"header", "header.", c.Header()}} {
		names := make([]string, 0, len(ns.values))
		for name := range ns.values {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			list = append(list, ExplainedArg{ns.prefix + name, ns.values[name], typeName(ns.values[name]), ns.source})
		}
	}
	return list
}

func typeName(v any) string {
	switch v.(type) {
	case int64:
		return "integer"
	case float64:
		return "number"
	case bool:
		return "boolean"
	case string:
		return "string"
	case nil:
		return "null"
	case []any:
		return "array"
	}
	return "object"
}

func explainPolicy(s policy.Step, usage Usage, now time.Time) ExplainedPolicy {
	p := ExplainedPolicy{
		Name: s.Policy, Version: s.Version, At: fmt.Sprintf("%s:%d", s.Pos.File, s.Pos.Line), Glob: s.Glob,
		Rules: []ExplainedRule{}, Limits: []string{}, Uses: []ExplainedLimit{},
	}
	for _, rs := range s.Rules {
		p.Rules = append(p.Rules, ExplainedRule{rs.Name, rs.Pos.Line, rs.When, rs.Result, rs.Decision, rs.Reason, rs.Error})
	}
	for _, step := range s.Limits {
		use, text := explainLimit(step, usage, now)
		p.Limits, p.Uses = append(p.Limits, text), append(p.Uses, use)
	}
	return p
}

func explainLimit(s policy.LimitStep, usage Usage, now time.Time) (ExplainedLimit, string) {
	l := s.Limit
	x := ExplainedLimit{Limit: l.ID(), Line: s.Pos.Line, Key: s.Key, Amount: s.Amount, Max: l.Max, Error: s.Error}
	if s.Error != "" {
		return x, s.Name + ": " + s.Error
	}
	text := fmt.Sprintf("%s: the call would use %s of %s in %s, under key %s", s.Name, l.Amount(s.Key, s.Amount), l.Amount(s.Key, l.Max), l.Per(), s.Key)
	if usage == nil {
		return x, text
	}
	use := limitUse(l, s.Key, now)
	use.Amount = s.Amount
	used, err := usage([]Use{use})
	if err != nil {
		return x, text + "; what is used already is not known: " + err.Error()
	}
	ok := fits(use, used[0])
	x.Used, x.Fits = &used[0], &ok
	text += "; " + l.Used(s.Key, used[0]) + ", so it "
	if ok {
		return x, text + "fits"
	}
	return x, text + "does not fit: " + l.Effect.String() + " (" + l.ReasonCode + ")"
}
