package policy

import "strings"

// Results of a RuleStep.
const (
	ResultMatched   = "matched"
	ResultUnmatched = "not matched"
	ResultError     = "error"
	ResultSkipped   = "not tried" // a rule above it decided
)

// Step is what one policy said about an action, rule by rule.
type Step struct {
	Policy  string
	Version int
	Pos     Pos
	Glob    string // the tool glob that covers the action, as written
	Rules   []RuleStep
	// Limits that the action would use. They are counted only where no policy
	// denies.
	Limits []LimitStep
}

// RuleStep is one rule of a policy.
type RuleStep struct {
	Name     string
	Pos      Pos
	When     string // the condition, "" for a rule that matches everything
	Decision string // the contract's word
	Reason   string
	Result   string // one of the Result constants
	Error    string // why it could not be evaluated; "" otherwise
}

// LimitStep is one limit of a policy.
type LimitStep struct {
	Limit  *Limit
	Name   string
	Pos    Pos
	Key    string // as in Reservation
	Amount int64
	Error  string // why key or sum could not be read; "" otherwise
}

// Explain judges one action as Decide does and tells every step of it: the
// policies that cover the tool, in file order. It is empty when none does.
func (s *Set) Explain(in *Input) []Step {
	act := &activation{in: in}
	steps := []Step{}
	for _, i := range s.under(in.Tool) {
		p := s.policies[i]
		step := Step{
			Policy: p.name, Version: p.version,
			Pos:  Pos{File: p.pos.File, Line: p.pos.Line},
			Glob: p.covers(in.Tool),
		}
		decided := false
		for _, r := range p.rules {
			rs := RuleStep{
				Name: r.name, Pos: r.decision.Pos, Result: ResultSkipped,
				Decision: r.decision.Effect.String(), Reason: r.decision.ReasonCode,
			}
			if r.when != nil {
				rs.When = strings.TrimSpace(r.when.text)
			}
			if !decided {
				ok, err := r.matches(act)
				switch {
				case err != nil:
					rs.Result, rs.Error, decided = ResultError, err.Error(), true
				case ok:
					rs.Result, decided = ResultMatched, true
				default:
					rs.Result = ResultUnmatched
				}
			}
			step.Rules = append(step.Rules, rs)
		}
		for _, l := range p.limits {
			ls := LimitStep{Limit: &l.Limit, Name: l.Name, Pos: l.Pos}
			if r, err := l.reserve(act); err != nil {
				ls.Error = err.Error()
			} else {
				ls.Key, ls.Amount = r.Key, r.Amount
			}
			step.Limits = append(step.Limits, ls)
		}
		steps = append(steps, step)
	}
	return steps
}

// covers gives the first glob, as written, that matches tool.
func (p *compiled) covers(tool string) string {
	for _, g := range p.globs {
		for _, alt := range g.alternatives {
			if matchGlob(alt, tool) {
				return g.text
			}
		}
	}
	return ""
}
