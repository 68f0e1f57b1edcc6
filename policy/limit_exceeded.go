package policy

import (
	"fmt"
	"slices"
	"time"
)

// Exceeded turns a decision, one of whose limits does not hold, into the one
// that follows: the limit's effect, reason and rule, unless d is already
// stricter. r is the reservation that did not fit, used what its limit holds
// already, now the time that was counted by.
//
// Where rule and limit both ask for approval, or two limits do, one approval has
// to satisfy both: the groups that both name, the greater number of keys, the
// shorter times. When they name no group in common, nobody may approve and the
// call is denied.
func (d Decision) Exceeded(r Reservation, used int64, now time.Time) Decision {
	if d.Effect == Deny {
		return d
	}
	l := r.Limit
	out := Decision{
		Effect: l.Effect, ReasonCode: l.ReasonCode,
		Policy: l.Policy, Version: l.Version, Rule: l.Name, Pos: l.Pos, RuleHash: l.Hash,
		MatchedRules: append([]string{l.Name}, d.MatchedRules...),
		Over:         append(slices.Clone(d.Over), r),
	}
	if l.Effect == Allow {
		out.Effect = Deny // no limit is made so; a made-up one must not loosen
	}
	out.Summary = fmt.Sprintf("Policy %s v%d: limit %s leaves no room for this call: %s in %s, and the call would use %s.",
		l.Policy, l.Version, l.Name, l.Used(r.Key, used), l.Per(), l.Amount(r.Key, r.Amount))
	out.NextSteps = []string{l.left(r, used, now)}
	if out.Effect == RequireApproval {
		out.Limits = d.Limits
		out.Approval = l.Approval
		if out.Approval == nil {
			out.Approval = &Approval{Required: 1, Expires: defaultExpires, UseWithin: defaultUseWithin}
		}
		if len(d.Over) > 0 {
			// The limit that was found first stays the rule of the decision.
			out.Policy, out.Version, out.Rule, out.Pos, out.ReasonCode = d.Policy, d.Version, d.Rule, d.Pos, d.ReasonCode
			out.Summary = d.Summary + " " + out.Summary
			out.NextSteps = append(slices.Clone(d.NextSteps[:len(d.Over)]), out.NextSteps...)
		}
		if d.Effect == RequireApproval && d.Approval != nil {
			both, ok := merge(d.Approval, out.Approval)
			if !ok {
				out.Effect = Deny
				out.Approval = nil
				out.Limits = nil
				out.Summary += " No group may approve this for both " + d.Rule + " and " + l.Name + "."
			} else {
				out.Approval = both
				out.RuleHash = digest("both", d.RuleHash, l.Hash)
			}
		}
	}
	out.NextSteps = append(out.NextSteps, generalSteps(out.Effect)...)
	return out
}

// left tells the caller what is left, and when there is more.
func (l *Limit) left(r Reservation, used int64, now time.Time) string {
	left, most := l.Amount(r.Key, max(l.Max-used, 0)), l.Amount(r.Key, l.Max)
	wait := "a use stops counting " + formatDuration(l.Window) + " after it was made"
	if _, until := l.Bounds(now); !until.IsZero() {
		wait = "the next " + l.per() + " begins at " + until.Format(time.RFC3339)
	}
	switch {
	case r.Amount > l.Max:
		return fmt.Sprintf("The limit %s is %s in %s, so this call alone is over it; %s left now.", l.Name, most, l.Per(), left)
	case used >= l.Max:
		return fmt.Sprintf("Nothing is left of the limit %s, which is %s in %s: wait; %s.", l.Name, most, l.Per(), wait)
	}
	return fmt.Sprintf("The limit %s has %s left of %s in %s: ask for no more than that, or wait; %s.", l.Name, left, most, l.Per(), wait)
}

// merge makes one approval that satisfies two; false when nobody could give it.
func merge(a, b *Approval) (*Approval, bool) {
	m := &Approval{
		Required:  max(a.Required, b.Required),
		Expires:   min(a.Expires, b.Expires),
		UseWithin: min(a.UseWithin, b.UseWithin),
	}
	switch {
	case len(a.Approvers) == 0:
		m.Approvers = b.Approvers
	case len(b.Approvers) == 0:
		m.Approvers = a.Approvers
	default:
		for _, g := range a.Approvers {
			if slices.Contains(b.Approvers, g) {
				m.Approvers = append(m.Approvers, g)
			}
		}
		return m, len(m.Approvers) > 0
	}
	return m, true
}
