package policy

import "slices"

// And is the decision about two calls of one request, where d and o are those about
// each. Whoever approves the request approves both, so where both ask for approval
// one approval has to satisfy both rules: the groups that both name, the greater
// number of keys, the shorter times. When they name no group in common, nobody may
// approve and the request is denied. Otherwise it is d.
func (d Decision) And(o Decision) Decision {
	return d.and(o, "Send the calls of this request by themselves: different people decide about them.")
}

// and is And, with what to do when nobody may approve.
func (d Decision) and(o Decision, step string) Decision {
	if d.Effect != RequireApproval || o.Effect != RequireApproval || d.RuleHash == o.RuleHash {
		return d
	}
	out := d
	out.RuleHash = digest("both", d.RuleHash, o.RuleHash)
	out.MatchedRules = slices.Clone(d.MatchedRules)
	for _, name := range o.MatchedRules {
		if !slices.Contains(out.MatchedRules, name) {
			out.MatchedRules = append(out.MatchedRules, name)
		}
	}
	both, ok := merge(d.asks(), o.asks())
	if !ok {
		out.Effect, out.Approval, out.Limits = Deny, nil, nil
		out.Summary = d.Summary + " No group may approve this for both " + d.Rule + " and " + o.Rule + "."
		out.NextSteps = append([]string{step}, generalSteps(Deny)...)
		return out
	}
	out.Approval = both
	return out
}

// asks is what d says of its approval, or the defaults where it says nothing.
func (d Decision) asks() *Approval {
	if d.Approval != nil {
		return d.Approval
	}
	return &Approval{Required: 1, Expires: defaultExpires, UseWithin: defaultUseWithin}
}
