// Package api is the HTTP API of the sidecar: /api/v1 with its keys, roles and
// errors, the health and metrics endpoints, and the Go client of all that.
//
// The package holds no rules of its own about actions: it decodes strictly,
// asks the gate, and renders. Everything but /healthz and /readyz needs a key,
// and every route names the roles that may call it; a route without roles can
// be called by nobody.
package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/passport"
	"github.com/actpass/sidecar/whatif"
)

// Gate is what the API asks of the gate; *gate.Gate satisfies it.
type Gate interface {
	Authenticate(ctx context.Context, secret, agent string) (gate.Identity, error)
	Preflight(ctx context.Context, id gate.Identity, p gate.Preflight) (d evidence.Decision, refused bool, err error)
	ReportOutcome(ctx context.Context, id gate.Identity, eventID, approval, state string, status int, message string) error
	CreateKey(ctx context.Context, actor gate.Identity, n gate.NewKey) (k gate.Key, secret string, err error)
	Keys(ctx context.Context, actor gate.Identity, cursor string, limit int) ([]gate.Key, string, error)
	RevokeKey(ctx context.Context, actor gate.Identity, id string) (gate.Key, error)
	Approvals(ctx context.Context, actor gate.Identity, q gate.ApprovalQuery) ([]gate.Approval, string, error)
	Approval(ctx context.Context, actor gate.Identity, id string, wait time.Duration) (gate.Approval, error)
	CameOf(ctx context.Context, a gate.Approval) (o evidence.Outcome, byAgent bool, err error)
	Decide(ctx context.Context, actor gate.Identity, id, decision, reason string, to []string) (gate.Approval, error)
	Rules() *gate.Rules
	Beside(a *gate.Approval) []gate.RuleBeside
	PassportFor(ctx context.Context, actor gate.Identity, a gate.Approval) (gate.Issued, error)
	IssuePassport(ctx context.Context, actor gate.Identity, n gate.NewPassport) (gate.Issued, error)
	Passports(ctx context.Context, actor gate.Identity, q gate.PassportQuery) ([]gate.Passport, string, error)
	VerifyPassport(ctx context.Context, actor gate.Identity, token, audience string) (*passport.Claims, error)
	RevokePassport(ctx context.Context, actor gate.Identity, jti, reason string) error
	JWKS() passport.JWKS
	CreateGrant(ctx context.Context, actor gate.Identity, n gate.NewGrant) (gate.Grant, error)
	Grants(ctx context.Context, actor gate.Identity, q gate.GrantQuery) ([]gate.Grant, string, error)
	Grant(ctx context.Context, actor gate.Identity, id string) (gate.Grant, error)
	RevokeGrant(ctx context.Context, actor gate.Identity, id, reason string) (gate.Grant, error)
	Limits(ctx context.Context, actor gate.Identity, q gate.LimitQuery) ([]gate.LimitUse, string, error)
	ResetLimit(ctx context.Context, actor gate.Identity, name, key, reason string) ([]gate.LimitUse, error)
	RecordDoctor(ctx context.Context, actor gate.Identity, verdict string, paths map[string]string) (eventID string, err error)
	SetMode(ctx context.Context, actor gate.Identity, n gate.NewMode) (gate.ModeOverride, error)
	Modes(ctx context.Context, actor gate.Identity) ([]gate.ModeOverride, error)
	ClearMode(ctx context.Context, actor gate.Identity, id, reason string) (gate.ModeOverride, error)
	Fault(kind string, err error)
}

var _ Gate = (*gate.Gate)(nil)

// EventQuery selects evidence events, newest first. Empty fields select all.
type EventQuery struct {
	Tenant   string
	Tool     string // name or glob
	Agent    string
	Decision string
	Kind     string // "" is every kind but system, "all" is every kind
	State    string // of the outcome
	Reason   string
	Since    time.Time // inclusive; zero: no bound
	Until    time.Time // exclusive; zero: no bound
	Cursor   string
	Limit    int
}

// EventSource is the event index as the API needs it. Events are JSON objects
// in the form of the contract: the event, merged with its outcome, and log.
type EventSource interface {
	// Event finds one; gate.ErrNotFound.
	Event(ctx context.Context, tenant, id string) ([]byte, error)
	// Events lists; next is "" at the end. A cursor that the source did not make
	// is a *gate.FieldError.
	Events(ctx context.Context, q EventQuery) (items []json.RawMessage, next string, err error)
	// Counts gives the tenant's actions since a time, by minute or by hour.
	Counts(ctx context.Context, tenant string, since time.Time, minutes bool) ([]Count, error)
	// Decided counts over a tenant's newest actions, see CountDecided.
	Decided(ctx context.Context, q DecidedQuery) (Decided, error)
	// CatchUp returns when everything that was recorded before the call can be
	// found, or with ctx.
	CatchUp(ctx context.Context) error
	// Verify reads the whole log and checks it.
	Verify(ctx context.Context) (VerifyReport, error)
	// Export writes a bundle of the tenant's records that verifies offline. It
	// writes nothing before it knows that it can begin; an error after that leaves
	// a part of a bundle in w.
	Export(ctx context.Context, w io.Writer, q ExportQuery) error
	// Simulate judges the record again, see whatif. What is wrong with the
	// candidate is a *gate.FieldError.
	Simulate(ctx context.Context, q SimulationQuery) (whatif.Report, error)
	// Review judges it and goes through what would be stopped, see whatif.Walk.
	Review(ctx context.Context, q ReviewQuery) (whatif.ReviewReport, error)
	// Readiness judges it by the rules in force and tells what could be enforced.
	Readiness(ctx context.Context, q ReadinessQuery) (whatif.Readiness, error)
}

// VerifyReport says whether the evidence log is whole.
type VerifyReport struct {
	OK        bool          `json:"ok"`
	Records   uint64        `json:"records"`    // that verified: events, and the outcomes that are written after them
	TreeSize  uint64        `json:"tree_size"`  // records ever written; more than Records where old ones were removed
	Root      string        `json:"root"`       // base64 of the tree's root hash
	PublicKey string        `json:"public_key"` // verifier key of the checkpoints, note format
	Finding   *LogFinding   `json:"finding"`    // null when OK
	Notes     []string      `json:"notes"`      // never null
	Logs      []SharedLog   `json:"logs,omitempty"`
	Took      time.Duration `json:"-"`
}

// SharedLog is what a control finds of one sidecar's log: in its copy in the database.
type SharedLog struct {
	Origin    string         `json:"origin"` // the name of the log and of its key
	Source    string         `json:"source"` // the machine that writes it
	PublicKey string         `json:"public_key"`
	OK        bool           `json:"ok"`
	Records   uint64         `json:"records"`         // that came in
	Verified  uint64         `json:"verified"`        // that its newest checkpoint covers
	First     uint64         `json:"first,omitempty"` // the oldest that was not removed
	ShippedAt *evidence.Time `json:"shipped_at"`      // null: nothing yet
	Problem   string         `json:"problem,omitempty"`
}

// LogFinding is the first thing in the log that is not as it was written.
type LogFinding struct {
	Index   uint64 `json:"index"`
	EventID string `json:"event_id"` // "" when it cannot be read any more
	Problem string `json:"problem"`  // a sentence
}

// Check is one thing that must work for the sidecar to be ready.
type Check struct {
	Name string
	Err  error // nil: it works
}

// Options of New. Gate and Events must be set.
type Options struct {
	Gate     Gate
	Events   EventSource
	Channels Channels       // nil: none
	Logger   *zap.Logger    // nil: no log
	Ready    func() []Check // nil: ready as soon as it serves
	Metrics  http.Handler   // nil: /metrics is not found
	Version  string
	Rate     int              // calls a second that each key may make, twice as many at once; 0: no bound
	Now      func() time.Time // nil: time.Now
}

type server struct {
	Options
	routes  []route
	limiter *limiter
	rates   *rates
	reports reports
	answers answers
	verify  chan struct{} // one verification or simulation at a time: it reads the whole log
	exports chan struct{} // exports have places of their own: how long one takes is up to its reader
	ready   readyLog
}

// New gives the handler of the whole API.
func New(o Options) http.Handler {
	if o.Gate == nil || o.Events == nil {
		panic("api: New needs a Gate and an EventSource")
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &server{Options: o, limiter: newLimiter(), rates: newRates(o.Rate), verify: make(chan struct{}, 1), exports: make(chan struct{}, maxExports)}
	s.routes = s.table()
	return s.serve(s.mux())
}

// MaxWait is the longest long poll.
const MaxWait = 60 * time.Second

// NewServer gives a server for h whose timeouts leave room for the longest long
// poll, and for nothing much longer.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            10 * time.Second,
		ReadTimeout:                  30 * time.Second,
		WriteTimeout:                 MaxWait + 30*time.Second,
		IdleTimeout:                  2 * time.Minute,
		MaxHeaderBytes:               64 << 10,
		DisableGeneralOptionsHandler: true,
	}
}
