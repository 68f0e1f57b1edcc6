package gate

import (
	"context"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// Modes, in rising strictness.
const (
	ModeMonitor = "monitor"
	ModeWarn    = "warn"
	ModeEnforce = "enforce"
	ModeStrict  = "strict"
)

// Check judges one call. Exactly one of permit and refusal is not nil; should
// both be nil, that is a refusal. It blocks while the call is held, up to the
// hold budget or until ctx ends.
func (g *Gate) Check(ctx context.Context, r *Request) (*Permit, *Refusal) { return nil, nil }

// Reject records and renders a refusal of something that never became a
// request: a malformed head, a bad CONNECT, an oversize header. status is the
// HTTP status, code a reason code under request.*, detail a sentence. Used where
// no mode lets the call through, because there is no call.
func (g *Gate) Reject(ctx context.Context, r *Request, status int, code, detail string) *Refusal {
	return nil
}

// ModeFor is the strictest mode that already applies to an identity before its
// tool is known.
func (g *Gate) ModeFor(id Identity) string { return ModeMonitor }

// Authenticate finds the identity behind a key's secret. ErrNotAllowed when it
// is unknown, revoked or expired; another error when the store cannot answer.
// agent is what the caller says it is (the user name of Proxy-Authorization);
// a key bound to another agent is ErrNotAllowed; a key bound to none takes it.
func (g *Gate) Authenticate(ctx context.Context, secret, agent string) (Identity, error) {
	return Identity{}, nil
}

// ConfigIdentity is the sidecar's own configured identity.
func (g *Gate) ConfigIdentity() Identity { return Identity{} }

// Fault counts and logs a fault that did not stop a call.
func (g *Gate) Fault(kind string, err error) {}

// Preflight is the body of the preflight call, decoded.
type Preflight struct {
	Tool           string
	Resource       string
	Args           map[string]any // JSON; json.Number or float64 or int64 for numbers
	AgentID        string
	UserID         string
	Goal           string
	Mode           string // "" or one that tightens
	Passport       string
	IdempotencyKey string
	Intent         string // "" or "execute"
}

// FieldError is a request field that cannot be used.
type FieldError struct{ Field, Message string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Message }

// Preflight judges without sending. refused says that the answer is a deny
// under enforce or strict (HTTP 403). Errors: *FieldError, ErrNotAllowed (the key
// speaks for another agent), or a failure of store or ledger under enforce.
func (g *Gate) Preflight(ctx context.Context, id Identity, p Preflight) (d evidence.Decision, refused bool, err error) {
	return evidence.Decision{}, true, nil
}

// ReportOutcome takes the caller's word on an action that it executed itself
// after a preflight with intent execute. state: succeeded, failed, unknown.
func (g *Gate) ReportOutcome(ctx context.Context, id Identity, eventID, state string, status int, message string) error {
	return nil
}

// NewKey is the wish for a key.
type NewKey struct {
	Name    string
	Role    string
	AgentID string
	Groups  []string
	Mode    string
	TTL     time.Duration // 0: never expires
}

// CreateKey makes a key and records it. The secret is shown once.
func (g *Gate) CreateKey(ctx context.Context, actor Identity, n NewKey) (k Key, secret string, err error) {
	return Key{}, "", nil
}

// Keys lists.
func (g *Gate) Keys(ctx context.Context, actor Identity, cursor string, limit int) ([]Key, string, error) {
	return nil, "", nil
}

// RevokeKey revokes and records.
func (g *Gate) RevokeKey(ctx context.Context, actor Identity, id string) (Key, error) {
	return Key{}, nil
}

// Approvals lists.
func (g *Gate) Approvals(ctx context.Context, actor Identity, q ApprovalQuery) ([]Approval, string, error) {
	return nil, "", nil
}

// Approval finds one. With wait > 0 it returns when the state is no longer
// pending, or when wait is over.
func (g *Gate) Approval(ctx context.Context, actor Identity, id string, wait time.Duration) (Approval, error) {
	return Approval{}, nil
}

// Decide is a human's word on an approval: approve, deny or escalate (to other
// groups). ErrNotAllowed when the key's role or group does not fit or the key is
// the requesting agent's own, ErrIllegalState when it is not pending any more.
func (g *Gate) Decide(ctx context.Context, actor Identity, id, decision, reason string, to []string) (Approval, error) {
	return Approval{}, nil
}
