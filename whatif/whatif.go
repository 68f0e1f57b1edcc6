// Package whatif puts a question to the record: what would have become of the
// actions that were judged, had another policy or another mode been in force? It
// also runs policy fixtures, which ask the same of actions that somebody made up.
//
// It judges by the functions of gate and policy that judged the traffic, over
// what the evidence log holds: no clock, no store, no network, no files. Limits
// are counted in memory, in the order of the log, from before the asked time on.
//
// # What a record does not hold
//
// Secrets are redacted there, long values cut, and paths, queries, headers and
// the claims of passports were never written down. An action whose verdict hangs
// on such a value is counted as unknown, with the name of the value; it is never
// guessed. What follows is taken for granted, and said here:
//
//   - of a batch, the record has the member that was judged most strictly;
//   - an action that was blocked, and that the candidate would let through, is
//     taken to have succeeded: it counts against limits;
//   - one that the candidate would hold keeps its share of the limits, unless its
//     outcome on record gives it back;
//   - an unknown action counts against no limit, and neither does one that the
//     candidate would hold because it is over one;
//   - a mode that is asked for is that of every action, tightened by mode
//     overrides; what a key or a request once tightened beyond that is not known.
package whatif

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
)

// Options of New.
type Options struct {
	// Rules are the candidate: Policy is required; Mode "" judges each action in
	// the mode that it was judged in; Overrides tighten a Mode that is given.
	Rules *gate.Rules
	// InForce is the policy that judged, where it is still known: it tells whether
	// the rule that an approval was given for has changed. May be nil.
	InForce *policy.Set

	Tenant string // "" for all
	Since  time.Time
	Until  time.Time // exclusive; zero: no bound
	Tool   string    // glob, "" for all
	Agent  string    // "" for all
	Limit  int       // of groups in the report; DefaultLimit when 0
}

// DefaultLimit is how many groups a report has unless asked for another number.
const DefaultLimit = 50

// Simulation judges records one after the other. Not for concurrent use.
type Simulation struct {
	opt    Options
	rules  gate.Rules
	limits *counts
	some   bool // the candidate has limits
	names  interned
	reads  map[string]roots
	groups groups
	gaps   policy.Gaps
	last   policy.Decision // that judge came to, zero where it asked no policy
	end    time.Time       // of the newest action looked at
	// seen gets every action and configuration event; judged what was asked for,
	// with its verdict: groups, unless a study puts itself there.
	seen   func(a *action)
	judged func(a *action, to Verdict, unknown string)
}

// New makes a simulation.
func New(o Options) (*Simulation, error) {
	switch {
	case o.Rules == nil || o.Rules.Policy == nil:
		return nil, errors.New("whatif: a simulation needs a policy")
	case o.Rules.Mode != "" && !gate.ValidMode(o.Rules.Mode):
		return nil, fmt.Errorf("whatif: %q is no mode: use monitor, warn, enforce or strict", o.Rules.Mode)
	case !o.Until.IsZero() && !o.Since.Before(o.Until):
		return nil, errors.New("whatif: the end must be later than the beginning")
	}
	if o.Limit <= 0 {
		o.Limit = DefaultLimit
	}
	s := &Simulation{
		opt: o, rules: *o.Rules, limits: newCounts(), some: o.Rules.Policy.LongestWindow() > 0, names: interned{}, reads: make(map[string]roots), groups: newGroups(),
	}
	s.judged = s.groups.add
	return s, nil
}

// From is the time from which on records are needed: earlier than Since by the
// longest window of a limit, so that limits are as full at Since as they were.
func (s *Simulation) From() time.Time {
	if s.opt.Since.IsZero() {
		return time.Time{}
	}
	return s.opt.Since.Add(-s.rules.Policy.LongestWindow())
}

// Add looks at the next record of the log, of any kind. Records are to come in
// the order of the log. An error means that it is none.
func (s *Simulation) Add(record []byte) error {
	var a action
	if err := a.read(record, s.names); err != nil {
		return err
	}
	if a.kind == evidence.KindOutcome {
		s.limits.outcome(a.eventRef, a.state, a.status)
		return nil
	}
	if s.seen != nil {
		s.seen(&a)
	}
	if a.kind != evidence.KindAction || s.opt.Tenant != "" && a.tenant != s.opt.Tenant || !s.opt.Until.IsZero() && !a.at.Before(s.opt.Until) {
		return nil
	}
	wanted := !a.at.Before(s.opt.Since) && (s.opt.Tool == "" || gate.MatchGlob(s.opt.Tool, a.tool)) && (s.opt.Agent == "" || a.agent == s.opt.Agent)
	if !wanted && !s.some {
		return nil
	}
	to, unknown, err := s.judge(&a)
	if err != nil {
		return fmt.Errorf("whatif: judge event %s: %w", a.id, err)
	}
	if wanted {
		if a.at.After(s.end) {
			s.end = a.at
		}
		s.judged(&a, to, unknown)
	}
	return nil
}

// judge says what the candidate makes of an action, or what it would have to
// know of it.
func (s *Simulation) judge(a *action) (to Verdict, unknown string, err error) {
	s.last = policy.Decision{}
	if a.neverWasACall() {
		return a.from, "", nil
	}
	args, err := a.arguments(&s.gaps)
	if err != nil {
		return Verdict{}, "", err
	}
	mode := a.mode
	if s.rules.Mode != "" {
		mode = s.rules.ModeOf(a.tool, a.agent)
	}
	call := &mapping.Call{Tool: a.tool, Resource: a.resource, Risk: a.risk, Args: args, Problems: a.problems}
	refused := a.refused()
	if refused == "" || !gate.Blocking(mode) {
		if unknown := s.hinge(a, call); unknown != "" {
			return Verdict{}, unknown, nil
		}
	}
	id := gate.Identity{TenantID: a.tenant, AgentID: a.agent}
	sup := s.rules.Suppose(call, id, a.user, a.goal, nil, a.at)
	sup.Refused, sup.Passport = refused, a.passport()
	if a.reason == gate.ReasonUnmapped && sup.Policy.Effect != policy.Deny {
		sup.Policy = policy.Decision{ReasonCode: a.reason} // the mapping has not changed
	}
	if sup.Policy.Effect == policy.RequireApproval && a.wasApproved() && s.sameRule(a, call, &sup.Policy) {
		return a.from, "", nil
	}
	s.limits.apply(&sup, a, mode)
	d := sup.Under(mode)
	to = Verdict{Decision: d.Decision, ReasonCode: d.ReasonCode, Enforcement: d.Enforcement}
	if d.ReasonCode == sup.Policy.ReasonCode {
		to.Rule, s.last = sup.Policy.Rule, sup.Policy
	}
	if to.ReasonCode == gate.ReasonPassportInvalid && a.ownPassportReason() {
		to.ReasonCode = a.reason
	}
	return to, "", nil
}

// sameRule says that the rule which asks for approval is, word for word, the one
// that asked when the action was judged.
func (s *Simulation) sameRule(a *action, call *mapping.Call, d *policy.Decision) bool {
	if a.policyHash == s.rules.Policy.Hash() {
		return true
	}
	if s.opt.InForce == nil || a.policyHash != s.opt.InForce.Hash() {
		return false
	}
	then := gate.Rules{Policy: s.opt.InForce}
	was := then.Suppose(call, gate.Identity{TenantID: a.tenant, AgentID: a.agent}, a.user, a.goal, nil, a.at)
	return was.Policy.RuleHash == d.RuleHash
}

// roots are the maps of which rules on a tool read something, and a record
// nothing holds.
type roots struct {
	always []string // path, query, header
	claims bool     // passport
}

const maxTools = 4096

func rootsOf(reads []string) (r roots) {
	for _, name := range reads {
		root, _, _ := strings.Cut(name, ".")
		switch root {
		case "path", "query", "header":
			if !slices.Contains(r.always, root) {
				r.always = append(r.always, root)
			}
		case "passport":
			r.claims = true
		}
	}
	return r
}

// hinge names what the verdict hangs on and the record does not hold.
func (s *Simulation) hinge(a *action, call *mapping.Call) string {
	r, known := s.reads[a.tool]
	if !known {
		r = rootsOf(s.rules.Policy.Reads(a.tool))
		if len(s.reads) >= maxTools { // agents choose names
			clear(s.reads)
		}
		s.reads[a.tool] = r
	}
	s.gaps.Roots = s.gaps.Roots[:0]
	if a.door != string(gate.DoorAPI) { // a preflight has none of them
		s.gaps.Roots = append(s.gaps.Roots, r.always...)
	}
	if r.claims && a.jti != "" {
		s.gaps.Roots = append(s.gaps.Roots, "passport")
	}
	if len(s.gaps.Hidden) == 0 && len(s.gaps.Cut) == 0 && len(s.gaps.Roots) == 0 {
		return ""
	}
	in := policy.Input{
		Tool: call.Tool, Resource: call.Resource, Risk: call.Risk, Args: call.Args,
		AgentID: a.agent, UserID: a.user, Goal: a.goal, Now: a.at, Unusable: unusable(a.problems),
	}
	return s.rules.Policy.HingesOn(&in, &s.gaps)
}
