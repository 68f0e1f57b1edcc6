package evidence

import (
	"time"
)

// Decision is the one decision object of the product: preflight answer, 403
// body, evidence event, explain and SDK all show this shape.
type Decision struct {
	Decision        string  `json:"decision"` // allow, deny, require_approval, warn, require_tool_reapproval
	ReasonCode      string  `json:"reason_code"`
	RiskTier        string  `json:"risk_tier"`
	Explain         Explain `json:"explain"`
	EvidenceEventID string  `json:"evidence_event_id"`

	Mode              string            `json:"mode"`        // the effective one
	Enforcement       string            `json:"enforcement"` // none, warn, block, hold
	Would             map[string]string `json:"would"`       // by stricter mode
	ApprovalRequestID string            `json:"approval_request_id,omitempty"`
	PolicyHash        string            `json:"policy_hash,omitempty"`
	MappingHash       string            `json:"mapping_hash,omitempty"`
	Tool              string            `json:"tool"`
	Resource          string            `json:"resource"`
}

// Explain says why, for people and models.
type Explain struct {
	Summary      string   `json:"summary"`
	MatchedRules []string `json:"matched_rules"` // never null
	NextSteps    []string `json:"next_steps"`    // never null
}

// Kinds of record.
const (
	KindAction   = "action"   // a judged call; the intent of it where it was forwarded
	KindOutcome  = "outcome"  // what came of an action
	KindApproval = "approval" // a transition of an approval
	KindConfig   = "config"   // a reload, or one that was refused
	KindPassport = "passport" // one that was issued or revoked
	KindGrant    = "grant"    // a grant was made or revoked
	KindDoctor   = "doctor"   // what a workload found when it tried to get round the sidecar
	KindSystem   = "system"   // start, stop, keys made and revoked
)

// States of an outcome.
const (
	StatePending   = "pending"   // the intent is on record, the answer is not yet
	StateForwarded = "forwarded" // the upstream answered
	StateBlocked   = "blocked"   // policy, approval, passport or limit said no
	StateHeld      = "held"      // waiting for a human, or gave up waiting
	StateRefused   = "refused"   // unreadable, ambiguous, or a fault: never sent
	StateAmbiguous = "ambiguous" // sent, or perhaps sent, and no answer is known
)

// Event is one evidence event. Fields that do not apply are absent in JSON.
type Event struct {
	Decision

	ID             string `json:"id"`   // "ev_" and a UUIDv7
	Kind           string `json:"kind"` // one of the Kind constants
	Time           Time   `json:"time"`
	TenantID       string `json:"tenant_id"`
	AgentID        string `json:"agent_id"`
	UserID         string `json:"user_id,omitempty"`
	Goal           string `json:"goal,omitempty"`
	IdentitySource string `json:"identity_source,omitempty"` // passport, api_key, config
	KeyID          string `json:"key_id,omitempty"`
	Door           string `json:"door,omitempty"` // forward, connect, reverse, transparent, api

	Request *Request       `json:"request,omitempty"`
	Args    map[string]any `json:"args,omitempty"` // redacted
	// Unusable names the declared arguments that have no value in Args because they
	// were "missing" or "invalid", by dotted path; "" is about all of them.
	Unusable    map[string]string `json:"unusable,omitempty"`
	Rule        *Position         `json:"rule,omitempty"`
	MappingRule *Position         `json:"mapping_rule,omitempty"`
	Flags       []string          `json:"flags,omitempty"`
	Notes       []string          `json:"notes,omitempty"` // what each flag is about, in sentences
	Outcome     *Outcome          `json:"outcome,omitempty"`
	Approval    *Approval         `json:"approval,omitempty"`
	PassportJTI string            `json:"passport_jti,omitempty"`
	Grant       *GrantUse         `json:"grant,omitempty"` // that let the call go, though its rule asks a human

	// Message and Data belong to config and system records.
	Message string            `json:"message,omitempty"`
	Data    map[string]string `json:"data,omitempty"`
}

// Request is the HTTP request as far as it may be recorded: no query values, no
// headers, no body.
type Request struct {
	Method      string `json:"method"`
	Authority   string `json:"authority"`
	Path        string `json:"path"`
	ContentType string `json:"content_type,omitempty"`
	BodySHA256  string `json:"body_sha256,omitempty"` // hex, of the bytes as sent; absent when the body was not read
	Bytes       int64  `json:"bytes"`                 // of the body; -1 when not known
}

// Position is where a rule stands.
type Position struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Name string `json:"name,omitempty"`
}

// Outcome is what came of a call.
type Outcome struct {
	State      string  `json:"state"`
	Status     int     `json:"status,omitempty"`      // HTTP status of the upstream, or of the refusal
	Bytes      int64   `json:"bytes"`                 // of the answer's body
	DurationMS float64 `json:"duration_ms,omitempty"` // from the intent to the end of the answer
	Error      string  `json:"error,omitempty"`
}

// Approval is what an event says about its approval; in a record of kind
// approval it is the transition.
type Approval struct {
	ID       string `json:"id"`
	State    string `json:"state"`
	From     string `json:"from,omitempty"`
	Actor    string `json:"actor,omitempty"` // key id, or "system"
	Reason   string `json:"reason,omitempty"`
	EventRef string `json:"event_id,omitempty"` // the action that was held
}

// GrantUse is one use of a grant.
type GrantUse struct {
	ID     string `json:"id"`
	Use    int64  `json:"use"`              // which one of the grant's uses this was
	Of     int64  `json:"of"`               // how many there are
	Amount int64  `json:"amount,omitempty"` // taken of the grant's sum, where it has one
}

// OutcomeRecord completes the action EventID. It is a record of its own,
// because the log is append-only.
type OutcomeRecord struct {
	Kind    string  `json:"kind"` // KindOutcome
	EventID string  `json:"event_id"`
	Time    Time    `json:"time"`
	Outcome Outcome `json:"outcome"`
}

// Time is a time that renders as RFC 3339 in UTC with microseconds, always six
// digits, so that times sort as text.
type Time struct{ time.Time }

// TimeLayout is the layout of Time.
const TimeLayout = "2006-01-02T15:04:05.000000Z"

// Entry is one record in the log.
type Entry struct {
	Index    uint64
	LeafHash string // base64 (standard) of the RFC 6962 leaf hash of Record
	Record   []byte // canonical JSON
}
