package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// Errors of a Store. Any other error means that the store could not answer.
var (
	ErrNotFound     = errors.New("not found")
	ErrIllegalState = errors.New("not possible in this state")
	ErrNotAllowed   = errors.New("not allowed")
	ErrTooMany      = errors.New("too many")
	// ErrTooManyOfAgent is an ErrTooMany that one agent alone brought about.
	ErrTooManyOfAgent = fmt.Errorf("%w of one agent", ErrTooMany)
	ErrRevoked        = errors.New("revoked")
)

// StateError is an ErrIllegalState that says for itself, as a clause, what the
// state is: "approval apr_1 is denied: it has been decided".
type StateError struct{ Message string }

func (e *StateError) Error() string { return e.Message + ": " + ErrIllegalState.Error() }

func (e *StateError) Unwrap() error { return ErrIllegalState }

// Roles of a key.
const (
	RoleGateway  = "gateway"  // agents: proxy and preflight
	RoleApprover = "approver" // decides approvals, reads evidence
	RoleAdmin    = "admin"    // everything
)

// Key is a gateway key without its secret.
type Key struct {
	ID         string // "key_" and a UUIDv7
	TenantID   string
	Name       string
	Role       string
	AgentID    string // when set, the key speaks for this agent only
	Groups     []string
	Mode       string // "" or a mode that tightens the global one
	Prefix     string // first characters of the secret, for recognising it
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	LastUsedAt time.Time // zero: never; kept to the minute
	RevokedAt  time.Time // zero: in force
	Ceiling    *Ceiling  // of the passports that it may issue; nil: none but as admin
}

// Approval states. Legal moves: pending to approved, denied, expired, cancelled;
// approved to consumed, expired.
const (
	ApprovalPending   = "pending"
	ApprovalApproved  = "approved"
	ApprovalDenied    = "denied"
	ApprovalExpired   = "expired"
	ApprovalCancelled = "cancelled"
	ApprovalConsumed  = "consumed"
)

// Approval is a question put to humans about one exact call.
type Approval struct {
	ID          string // "apr_" and a UUIDv7
	TenantID    string
	AgentID     string
	KeyID       string // of the agent, which may not decide; "" without one
	UserID      string
	Goal        string
	Fingerprint string // hex; one open approval per tenant and fingerprint
	EventID     string // the event that opened it
	Tool        string
	Resource    string
	Risk        string
	Args        map[string]any // redacted
	Request     *evidence.Request
	ReasonCode  string
	Summary     string
	Policy      string
	Rule        string
	RuleHash    string
	Approvers   []string // groups
	Required    int      // at least 1
	State       string
	CreatedAt   time.Time
	ExpiresAt   time.Time     // of the decision
	UseWithin   time.Duration // from the decision
	DecidedAt   time.Time
	UseBefore   time.Time // set when approved
	Votes       []Vote
	ConsumedBy  string    // event id
	ClosedAt    time.Time // when it came to its end: denied, expired, cancelled, or used; zero before

	// Seen is for OpenApproval only and not stored: the id of the latest approval
	// of the fingerprint that the caller has looked at, SeenNone for none, "" to
	// open whatever happened meanwhile.
	Seen string
}

// SeenNone says that the caller found no approval of the fingerprint.
const SeenNone = "none"

// Room is how many approvals may be pending at a time. The zero Room has none.
type Room struct {
	Tenant int // of all agents of the tenant
	Agent  int // of each agent
}

// Vote is one human's word; with cancel, also the asking agent's own.
type Vote struct {
	KeyID    string
	Name     string   // of the key
	Role     string   // of the key, then
	Groups   []string // of the key, then
	Decision string   // approve, deny, escalate, cancel
	Reason   string
	Time     time.Time
}

// Transition is one move of an approval, or a vote that did not move it yet.
// It is stored in the same transaction as the move, and marked when its
// evidence is in the ledger: a crash between the two is mended at start.
type Transition struct {
	ID         int64
	ApprovalID string
	TenantID   string
	From, To   string
	Actor      string // key id or "system"
	Reason     string
	Time       time.Time
}

// ApprovalQuery selects approvals, newest first.
type ApprovalQuery struct {
	TenantID string
	State    string // "" for all
	AgentID  string
	Cursor   string
	Limit    int
}

// Store is what several sidecars may share. Implementations are safe for
// concurrent use; a method that returned nil is durable.
type Store interface {
	// CreateKey stores a key under the SHA-256 of its secret.
	CreateKey(ctx context.Context, k Key, hash [32]byte) error
	// KeyByHash finds a key, revoked and expired ones too. ErrNotFound.
	KeyByHash(ctx context.Context, hash [32]byte) (Key, error)
	// Keys lists keys of a tenant, newest first.
	Keys(ctx context.Context, tenant, cursor string, limit int) (keys []Key, next string, err error)
	// RevokeKey sets RevokedAt, once. ErrNotFound.
	RevokeKey(ctx context.Context, tenant, id string, at time.Time) (Key, error)
	// TouchKey notes a use.
	TouchKey(ctx context.Context, id string, at time.Time) error

	// OpenApproval stores a as pending, or returns the one of the same tenant and
	// fingerprint that is open (pending, or approved and not past UseBefore)
	// with opened false. Where a.Seen is set and a later one than that exists, that
	// one is returned, in whatever state: between looking and opening, the question
	// was answered. ErrTooMany when the tenant has room.Tenant pending ones,
	// ErrTooManyOfAgent when its agent has room.Agent.
	OpenApproval(ctx context.Context, a Approval, room Room) (got Approval, opened bool, err error)
	// LatestApproval of a fingerprint, any state. ErrNotFound.
	LatestApproval(ctx context.Context, tenant, fingerprint string) (Approval, error)
	// GetApproval by id. ErrNotFound.
	GetApproval(ctx context.Context, tenant, id string) (Approval, error)
	// Approvals lists.
	Approvals(ctx context.Context, q ApprovalQuery) (list []Approval, next string, err error)
	// Vote adds v to a pending approval; the Required-th different approving key
	// approves it, one deny denies it, escalate leaves it pending and replaces
	// Approvers by to. What counts is Approving. ErrIllegalState when it is not
	// pending or past ExpiresAt, or when that key's approval counts already;
	// ErrNotAllowed when it was escalated to groups that the voter is in none of.
	Vote(ctx context.Context, tenant, id string, v Vote, to []string) (Approval, error)
	// Consume moves approved to consumed, once, atomically. ErrIllegalState when
	// it is not approved or past UseBefore.
	Consume(ctx context.Context, tenant, id, eventID string, now time.Time) (Approval, error)
	// Cancel moves pending to cancelled; v, whose Decision it sets, says who, why
	// and when, and is kept with the votes.
	Cancel(ctx context.Context, tenant, id string, v Vote) (Approval, error)
	// ExpireApprovals moves those that are past their time, the longest overdue
	// first, a page of them in one transaction, and returns them; none when there
	// are no more.
	ExpireApprovals(ctx context.Context, now time.Time) ([]Approval, error)
	// Unrecorded transitions, oldest first, and MarkRecorded.
	Unrecorded(ctx context.Context, limit int) ([]Transition, error)
	MarkRecorded(ctx context.Context, ids ...int64) error
	// Moved tells which approvals have transitions after the one with the id after,
	// a page of them, and the id to go on from; with after below 0 only that id, of
	// the newest transition. A transition becomes visible to it before any with a
	// higher id does.
	Moved(ctx context.Context, after int64) (approvals []string, last int64, err error)

	LimitStore
	GrantStore
	ModeStore
	PassportStore
	PruneStore

	// KeepAnswer keeps the sealed answer that a consumed approval's call got, until
	// expires; a second one replaces it.
	KeepAnswer(ctx context.Context, tenant, approvalID string, sealed []byte, now, expires time.Time) error
	// Answer gives it back. ErrNotFound when there is none, or when it has expired.
	Answer(ctx context.Context, tenant, approvalID string, now time.Time) (sealed []byte, err error)

	// Ping says whether the store answers.
	Ping(ctx context.Context) error
	Close() error
}

// Recorder is the evidence log as the gate needs it.
type Recorder interface {
	// Append is durable when it returns nil; see ledger.Log.
	Append(ctx context.Context, record evidence.Record) (evidence.Entry, error)
	// Later queues without waiting.
	Later(record evidence.Record) bool
	// Soon returns when a crash of this process does not lose the record any more; one
	// of the machine still can, for a moment. On an error it will not appear.
	Soon(record evidence.Record) error
}
