package policy

import "fmt"

// Decide judges one action. The slices and pointers of the decision may be
// shared with other decisions: they must not be changed (appending is fine).
func (s *Set) Decide(in *Input) (d Decision) {
	defer func() {
		if r := recover(); r != nil {
			d = Decision{
				ReasonCode:   ReasonError,
				Summary:      "The policy could not be evaluated: " + clean(fmt.Sprint(r)) + ".",
				MatchedRules: []string{},
				NextSteps:    brokenSteps(),
			}
		}
	}()
	act := &activation{in: in}
	covering := s.under(in.Tool)

	// The strictest verdict decides, among equals the first in file order.
	var room [8]*rule
	matched := room[:0]
	var decider *rule
	var fault error // of decider
	for _, i := range covering {
		r, err := s.policies[i].judge(act)
		if r == nil {
			continue
		}
		effect := r.decision.Effect
		if err != nil {
			effect = Deny
		} else {
			matched = append(matched, r)
		}
		switch {
		case decider == nil:
		case effect >= decider.effectOr(fault):
			continue
		}
		decider, fault = r, err
	}

	switch {
	case decider == nil:
		d = s.unmatched(in.Tool)
	case fault != nil:
		d = decider.broken(fault)
	default:
		d = decider.decision
	}
	own := d.MatchedRules
	if d.Effect == RequireApproval && len(matched) > 1 {
		d = d.askedByAll(decider, matched)
	}
	d.MatchedRules = names(own, decider, matched)
	if d.Effect != Deny {
		d = s.reserve(d, covering, act)
	}
	return d
}

// askedByAll is d, of decider, where other policies ask for approval too: one
// approval has to satisfy all of them.
func (d Decision) askedByAll(decider *rule, matched []*rule) Decision {
	for _, r := range matched {
		if r != decider {
			d = d.and(r.decision, "Ask the operator: the policies that cover this call ask different people, and none of them may approve for all.")
		}
	}
	return d
}

// effectOr is the rule's effect, or Deny where it failed.
func (r *rule) effectOr(err error) Effect {
	if err != nil {
		return Deny
	}
	return r.decision.Effect
}

// judge gives the rule that decides for this policy: the first that matches, or
// the first that cannot be judged, with its error. Nil when none matches.
func (p *compiled) judge(a *activation) (*rule, error) {
	for _, r := range p.rules {
		ok, err := r.matches(a)
		if err != nil || ok {
			return r, err
		}
	}
	return nil, nil
}

// names lists the matched rules, the decider first. own is the decider's own
// list, used as it is when nothing else matched.
func names(own []string, decider *rule, matched []*rule) []string {
	if own == nil {
		own = []string{}
	}
	if len(matched) == 0 || (len(matched) == 1 && matched[0] == decider) {
		return own
	}
	out := make([]string, len(own), len(own)+len(matched))
	copy(out, own)
	for _, r := range matched {
		if r != decider {
			out = append(out, r.name)
		}
	}
	return out
}

// unmatched is the default.
func (s *Set) unmatched(tool string) Decision {
	d := Decision{
		Effect:       s.fallback,
		ReasonCode:   ReasonDefault,
		Summary:      fmt.Sprintf("No policy rule matches %s; the default is %s.", clean(tool), s.fallback),
		RuleHash:     defaultHash[s.fallback],
		MatchedRules: []string{},
		NextSteps:    []string{},
	}
	switch d.Effect {
	case Deny:
		d.NextSteps = []string{"Do not retry this call unchanged: ask the operator for a policy rule that covers it."}
	case RequireApproval:
		d.NextSteps = generalSteps(RequireApproval)
		d.Approval = &Approval{Required: 1, Expires: defaultExpires, UseWithin: defaultUseWithin}
	}
	return d
}

var defaultHash = map[Effect]string{
	Deny:            digest("default", Deny.String()),
	RequireApproval: digest("default", RequireApproval.String()),
	Allow:           digest("default", Allow.String()),
}

// reserve adds what the limits of all covering policies ask for; those that
// would deny come first, so that the strictest is the first to be found
// exceeded. A limit that cannot be read denies.
func (s *Set) reserve(d Decision, covering []int, a *activation) Decision {
	var hard, soft []Reservation
	for _, i := range covering {
		for _, l := range s.policies[i].limits {
			r, err := l.reserve(a)
			if err != nil {
				broken := l.broken(err)
				broken.MatchedRules = d.MatchedRules
				return broken
			}
			if l.Effect == Deny {
				hard = append(hard, r)
			} else {
				soft = append(soft, r)
			}
		}
	}
	switch {
	case len(hard) == 0:
		d.Limits = soft
	default:
		d.Limits = append(hard, soft...)
	}
	return d
}
