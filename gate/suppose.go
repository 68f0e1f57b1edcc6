package gate

import (
	"slices"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
)

// PassportShown is what is known of the passport of a call that is thought
// through.
type PassportShown uint8

// A call that shows none lacks one where its tool is risky.
const (
	PassportNone PassportShown = iota
	PassportBad
	PassportGood
)

// Supposed is a call that is only thought through, by the same rules as Check:
// one of the record, or of a fixture. Nothing is asked of the store, and
// nothing is recorded. The zero Supposed refuses.
type Supposed struct {
	Tool, Resource, Risk string
	// Policy is what policy says of it, limits included as far as the caller
	// counts them (policy.Decision.Exceeded).
	Policy policy.Decision
	// Refused is the reason code for which the call cannot leave under enforce and
	// strict whatever policy says; "" for none.
	Refused  string
	Passport PassportShown
}

// Suppose asks the policy of r about a call.
func (r *Rules) Suppose(c *mapping.Call, id Identity, user, goal string, claims map[string]any, now time.Time) Supposed {
	v := r.decideOne(c, id, user, goal, claims, now)
	return Supposed{Tool: c.Tool, Resource: c.Resource, Risk: v.risk, Policy: v.policy}
}

// With is r with another policy and global mode, as a tenant's calls would be
// judged: mode overrides stay, those that were set while running among them.
func (r *Rules) With(p *policy.Set, mode, tenant string) *Rules {
	next := *r
	next.Policy, next.Mode, next.Identity.TenantID = p, mode, tenant
	return &next
}

// ModeOf is the mode that r sets for a tool and an agent of its own tenant.
func (r *Rules) ModeOf(tool, agent string) string {
	return r.modeFor(tool, Identity{TenantID: r.Identity.TenantID, AgentID: agent}, "")
}

// Enforcement is what a mode does with the call: none, warn, block or hold.
func (s *Supposed) Enforcement(mode string) string {
	v := s.verdict()
	return enforcement(mode, &v)
}

// Under renders the decision under a mode, as Check does.
func (s *Supposed) Under(mode string) evidence.Decision {
	v := s.verdict()
	return (*Rules)(nil).render(&v, mode, "")
}

func (s *Supposed) verdict() verdict {
	v := verdict{
		effect: s.Policy.Effect, policy: s.Policy, risk: s.Risk,
		call: &mapping.Call{Tool: s.Tool, Resource: s.Resource, Risk: s.Risk},
	}
	if s.Refused != "" {
		v.refuse = &closed{status: 400, code: s.Refused, detail: "the call was refused for " + s.Refused}
	}
	switch {
	case s.Passport == PassportBad:
		v.passport = passportInvalid
	case s.Passport == PassportGood:
		v.passport = passportValid
	case !risky(s.Risk):
		v.passport = passportUnneeded
	}
	return v
}

// MatchGlob says whether a pattern of the settings (mode_overrides) covers a
// name: '*' is any run of characters, dots and slashes included, '?' is one.
func MatchGlob(pattern, name string) bool { return wildcard(pattern, name) }

// Blocking says that a mode fails closed.
func Blocking(mode string) bool { return blocking(mode) }

// unusable is what a record says of arguments without a usable value: enough to
// judge the action again, and nothing of what was sent.
func unusable(problems []mapping.Problem) map[string]string {
	if len(problems) == 0 {
		return nil
	}
	m := make(map[string]string, min(len(problems), maxUnusable))
	for _, p := range problems {
		if len(m) == maxUnusable || len(p.Arg) > clipLen {
			m[""] = "invalid" // too many to name: about all of them
			continue
		}
		m[p.Arg] = p.Kind
	}
	return m
}

const maxUnusable = 32

// Stricter gives the stricter of two modes; an empty b is none.
func Stricter(a, b string) string { return stricter(a, b) }

// JudgesLike says that under a mode a tenant's calls get the same verdicts from r as
// from o: the same policy, and the same overrides that tighten beyond that mode.
func (r *Rules) JudgesLike(o *Rules, mode, tenant string) bool {
	return r == o || r.Policy.Hash() == o.Policy.Hash() && slices.Equal(r.beyond(mode, tenant), o.beyond(mode, tenant))
}

// beyond are the overrides that are stricter than a mode.
func (r *Rules) beyond(mode, tenant string) (list []Override) {
	for _, o := range r.Overrides {
		if stricter(mode, o.Mode) != mode {
			list = append(list, o)
		}
	}
	for _, o := range r.recorded {
		if o.TenantID == tenant && stricter(mode, o.Mode) != mode {
			list = append(list, Override{Tool: o.Tool, Agent: o.AgentID, Mode: o.Mode})
		}
	}
	return list
}
