// Package policy compiles policy files and judges actions by them.
//
// It is pure: no clock (the time comes in with the Input), no network, no
// files, no logger. Everything is compiled at load; Decide parses nothing. The
// zero Effect, the zero Decision and a rule that cannot be evaluated all refuse.
package policy

import "time"

// Effect is what a policy says. The zero value is a refusal.
type Effect uint8

// The effects. Across policies, the strictest wins: Deny > RequireApproval > Allow.
const (
	Deny Effect = iota
	RequireApproval
	Allow
)

// String gives the contract's word: deny, require_approval, allow.
func (e Effect) String() string {
	switch e {
	case Allow:
		return "allow"
	case RequireApproval:
		return "require_approval"
	}
	return "deny"
}

// Reason codes of this package.
const (
	ReasonDefault = "policy.default" // no rule of any policy matched
	ReasonError   = "policy.error"   // a rule could not be evaluated
)

// Input is one action as policy sees it. Maps hold string, int64, float64,
// bool, nil, map[string]any, []any; Decide does not modify them.
type Input struct {
	Tool     string
	Resource string
	Risk     string // CEL: risk_tier
	Args     map[string]any
	Path     map[string]any
	Query    map[string]any
	Header   map[string]any
	AgentID  string
	UserID   string
	Goal     string
	Passport map[string]any // verified claims, nil without one
	Now      time.Time      // frozen for the decision

	// HeaderOf gives Header, where that is nil, when a condition first asks for it.
	HeaderOf func() map[string]any

	// Unusable holds, by dotted path below args, why a declared argument has no
	// value ("missing", `must be an integer, not "1e6"`); the empty path is about
	// all of them. A rule that names one of them cannot be evaluated. One that
	// asks has() can where the argument was not sent, never where it was sent and
	// is not usable.
	Unusable map[string]string
}

// Pos is where a rule stands.
type Pos struct {
	File string
	Line int
}

// Approval is what a require_approval rule asks for.
type Approval struct {
	Approvers []string      // groups; empty: any approver
	Required  int           // different keys that must approve, at least 1
	Expires   time.Duration // from hold to decision
	UseWithin time.Duration // from decision to use
}

// Decision is the verdict. The zero value denies.
type Decision struct {
	Effect     Effect
	ReasonCode string
	// Summary is one sentence: "Policy refund_policy v3: allow." For an error it
	// names rule and argument.
	Summary string
	// Policy, Version, Rule and Pos name the rule that decided; empty for the default.
	Policy  string
	Version int
	Rule    string
	Pos     Pos
	// RuleHash changes when the deciding rule's text changes: an approval given
	// for one text does not satisfy another.
	RuleHash string
	// MatchedRules are the names of all rules that matched, the deciding first.
	MatchedRules []string
	// NextSteps tell the agent what it may do: sentences.
	NextSteps []string
	// Approval is set where Effect is RequireApproval.
	Approval *Approval
	// Limits are the reservations that must hold for the decision to stand; only
	// where Effect is not Deny.
	Limits []Reservation
	// Over are those of Limits that did not hold, see Exceeded. A person who
	// approves the call approves going over them.
	Over []Reservation
}
