package gate

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/passport"
	"github.com/actpass/sidecar/policy"
)

// Reason codes of this package; docs/reasons.md explains each.
const (
	ReasonAmbiguous       = "request.ambiguous"
	ReasonMalformed       = "request.malformed"
	ReasonTooLarge        = "request.too_large"
	ReasonMisdirected     = "request.misdirected"
	ReasonHeadTooLarge    = "request.head_too_large"
	ReasonIdentity        = "request.identity_unavailable"
	ReasonInternal        = "request.internal"
	ReasonFault           = "request.fault"
	ReasonUnauthenticated = "request.unauthenticated"
	ReasonNoRoute         = "request.no_route"
	ReasonUnmapped        = "mapping.unmapped"
	ReasonArgMissing      = "mapping.argument_missing"
	ReasonArgInvalid      = "mapping.argument_invalid"
	ReasonPassport        = "passport.required"
	ReasonPassportInvalid = "passport.invalid"
	ReasonPassportBatch   = "passport.batch"
	ReasonEvidence        = "evidence.unavailable"
	ReasonStore           = "store.unavailable"
	ReasonDenied          = "approval.denied"
	ReasonExpired         = "approval.expired"
	ReasonCancelled       = "approval.cancelled"
	ReasonConsumed        = "approval.consumed"
	ReasonTooMany         = "approval.too_many"
	ReasonTooManyOfAgent  = "approval.too_many_of_agent"
)

// Flags of an event.
const (
	FlagAmbiguous = "request.ambiguous"
	FlagOpaque    = "opaque"
	FlagFault     = "fault"
	FlagPassport  = "passport.invalid"
	FlagLimit     = "limit.exceeded"
	FlagReplayed  = "replayed"
	FlagUpgrade   = "upgrade"
	FlagCut       = "record.cut"
)

type passportState uint8

const (
	passportAbsent  passportState = iota // needed for a risky tool, and not there
	passportInvalid                      // presented, and no good
	passportUnneeded
	passportValid
)

// closed is why a call cannot leave under enforce and strict whatever policy
// says: it could not be read, or something it depends on failed.
type closed struct {
	status int
	code   string
	detail string
}

// verdict is all that is known about one call before the mode speaks. The zero
// verdict refuses.
type verdict struct {
	effect   policy.Effect
	policy   policy.Decision
	call     *mapping.Call
	risk     string
	refuse   *closed
	passport passportState
	// passportErr is what is wrong with the passport, where it is invalid.
	passportErr error
	// granted says that a human's grant answers the approval which policy asks for.
	granted bool
}

func risky(risk string) bool { return risk != mapping.RiskLow && risk != mapping.RiskMedium }

// decide asks policy about every call of a reading and keeps the strictest
// answer: a batch is denied if any member is, and asks for an approval that
// satisfies every member that asks for one.
func (r *Rules) decide(calls []mapping.Call, id Identity, user, goal string, claims map[string]any, now time.Time) verdict {
	var worst verdict
	for i := range calls {
		v := r.decideOne(&calls[i], id, user, goal, claims, now)
		if i == 0 || v.effect < worst.effect {
			if i > 0 && severity(worst.risk) > severity(v.risk) {
				v.risk = worst.risk
			}
			// The limits of every call are used, whichever decides.
			v.policy.Limits = slices.Concat(worst.policy.Limits, v.policy.Limits)
			worst = v
			continue
		}
		if severity(v.risk) > severity(worst.risk) {
			worst.risk = v.risk
		}
		if v.effect == policy.RequireApproval && worst.effect == policy.RequireApproval {
			worst.policy = worst.policy.And(v.policy)
			worst.effect = worst.policy.Effect
		}
		worst.policy.Limits = slices.Concat(worst.policy.Limits, v.policy.Limits)
	}
	return worst
}

func severity(risk string) int {
	switch risk {
	case mapping.RiskLow:
		return 0
	case mapping.RiskMedium:
		return 1
	case mapping.RiskHigh:
		return 2
	}
	return 3
}

func (r *Rules) decideOne(c *mapping.Call, id Identity, user, goal string, claims map[string]any, now time.Time) verdict {
	d := r.Policy.Decide(policyInput(c, id, user, goal, claims, now))
	v := verdict{effect: d.Effect, policy: d, call: c, risk: c.Risk}
	if d.Effect != policy.Deny && len(c.Problems) > 0 {
		// Policy did not look at the argument, but the rule that declares it says
		// that a call without it is not this call.
		p := c.Problems[0]
		v.effect = policy.Deny
		v.policy = policy.Decision{
			ReasonCode:   ReasonArgInvalid,
			Summary:      "The argument " + p.Arg + " of " + c.Tool + " " + p.Detail + ".",
			MatchedRules: d.MatchedRules,
			NextSteps:    []string{"Send " + p.Arg + " in its declared form."},
		}
		if p.Kind == "missing" {
			v.policy.ReasonCode = ReasonArgMissing
		}
	}
	return v
}

func policyInput(c *mapping.Call, id Identity, user, goal string, claims map[string]any, now time.Time) *policy.Input {
	in := &policy.Input{
		Tool: c.Tool, Resource: c.Resource, Risk: c.Risk,
		Args: c.Args, Path: c.Path, Query: c.Query, HeaderOf: c.Header,
		AgentID: id.AgentID, UserID: user, Goal: goal, Now: now, Passport: claims,
	}
	if len(c.Problems) > 0 {
		in.Unusable = make(map[string]string, len(c.Problems))
		for _, p := range c.Problems {
			in.Unusable[p.Arg] = p.Detail
		}
	}
	return in
}

// closedBy turns the first ambiguity into a refusal.
func closedBy(list []mapping.Ambiguity) *closed {
	if len(list) == 0 {
		return nil
	}
	a := list[0]
	c := &closed{status: a.Status, code: ReasonAmbiguous, detail: a.Detail}
	switch a.Status {
	case 413:
		c.code = ReasonTooLarge
	case 421:
		c.code = ReasonMisdirected
	case 431:
		c.code = ReasonHeadTooLarge
	case 503:
		c.code = ReasonIdentity
	case 0:
		c.status = 400
	}
	return c
}

// render makes the contract's decision object out of a verdict under a mode.
func (r *Rules) render(v *verdict, mode, eventID string) evidence.Decision {
	d := evidence.Decision{
		Decision:        v.effect.String(),
		ReasonCode:      v.policy.ReasonCode,
		RiskTier:        v.risk,
		EvidenceEventID: eventID,
		Mode:            mode,
		Enforcement:     enforcement(mode, v),
		Would:           would(mode, v),
		Explain: evidence.Explain{
			Summary:      v.policy.Summary,
			MatchedRules: orEmpty(v.policy.MatchedRules),
			NextSteps:    orEmpty(v.policy.NextSteps),
		},
	}
	r.stamp(&d)
	d.Mode = mode
	if v.call != nil {
		d.Tool, d.Resource = v.call.Tool, v.call.Resource
	}
	switch {
	case v.refuse != nil && blocking(mode):
		d.Decision = policy.Deny.String()
		d.ReasonCode = v.refuse.code
		d.Explain.Summary = sentence(v.refuse.detail)
		d.Explain.MatchedRules = []string{}
		d.Explain.NextSteps = closedSteps(v.refuse.code)
	case v.passport == passportInvalid && blocking(mode):
		d.Decision = policy.Deny.String()
		d.ReasonCode, d.Explain.Summary = v.passportFault()
		d.Explain.MatchedRules = []string{}
		d.Explain.NextSteps = []string{"Ask for a new passport that fits this call; a passport is used once."}
	case v.passport == passportAbsent && mode == ModeStrict:
		d.Decision = policy.Deny.String()
		d.ReasonCode = ReasonPassport
		d.Explain.Summary = "Strict mode: " + d.Tool + " is a " + v.risk + " risk tool and needs a passport."
		d.Explain.NextSteps = []string{"Obtain a passport for this tool and resource and present it in the ActPass-Passport header (or `passport` in preflight)."}
	}
	if mode == ModeWarn && (v.effect != policy.Allow || v.refuse != nil) {
		d.Decision = "warn"
	}
	return d
}

// stamp says what a decision stands on.
func (r *Rules) stamp(d *evidence.Decision) {
	if r == nil {
		return
	}
	d.Mode = r.Mode
	if r.Policy != nil {
		d.PolicyHash = r.Policy.Hash()
	}
	if r.Mapping != nil {
		d.MappingHash = r.Mapping.Hash()
	}
}

// passportFault words what is wrong with the passport.
func (v *verdict) passportFault() (code, summary string) {
	var e *passport.Error
	if !errors.As(v.passportErr, &e) {
		return ReasonPassportInvalid, "The passport that was presented is not valid here."
	}
	if strings.HasPrefix(e.Code, "approval.") || e.Code == ReasonStore {
		return e.Code, sentence(e.Detail)
	}
	return e.Code, sentence("the passport is not valid for this call: " + e.Detail)
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// sentence gives a text its capital and its full stop.
func sentence(s string) string {
	if s == "" {
		return s
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

func closedSteps(code string) []string {
	switch code {
	case ReasonEvidence, ReasonStore, ReasonIdentity, ReasonInternal, ReasonFault:
		return []string{"Nothing was sent. Try again later; if it persists, tell the operator of the sidecar."}
	case ReasonUnauthenticated:
		return []string{"Do not retry this call unchanged: ask the operator for a key of this agent."}
	case ReasonNoRoute:
		return []string{"Do not retry this call unchanged: use a route that there is, or ask the operator for this one."}
	case ReasonTooMany, ReasonTooManyOfAgent:
		return []string{"Nothing was sent and nobody was asked. Send the same call again when some of those that wait have been decided."}
	case ReasonTooLarge:
		return []string{"Send a smaller body, or ask the operator to raise limits.max_inspect_bytes."}
	}
	return []string{"Send the request in its plain, canonical form."}
}

// tell is the sentence that a model reads when its call was stopped: what
// happened, under which rule, and what it may do next.
func tell(d *evidence.Decision, rule string) string {
	var b strings.Builder
	b.WriteString("ActPass blocked this call and did not send it")
	if d.Tool != "" {
		b.WriteString(": " + d.Tool)
		if d.Resource != "" {
			b.WriteString(" on " + d.Resource)
		}
	}
	b.WriteString(". ")
	b.WriteString(d.Explain.Summary)
	if rule != "" {
		b.WriteString(" Rule: " + rule + ".")
	}
	b.WriteString(" Reason: " + d.ReasonCode + ".")
	for _, s := range d.Explain.NextSteps {
		b.WriteString(" " + s)
	}
	if len(d.Explain.NextSteps) == 0 {
		b.WriteString(" Do not retry it unchanged.")
	}
	b.WriteString(" Evidence: " + d.EvidenceEventID + ".")
	return b.String()
}
