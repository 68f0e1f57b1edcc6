// Package gate is the one check between an agent and the world.
//
// Every door turns its call into a Request and asks Check. The answer is a
// Permit, the only thing the proxy can forward with, or a Refusal. Check maps,
// verifies, decides, reserves, records and then permits, refuses or holds; no
// step can be had without the ones before it. The package knows no HTTP and no
// SQL: the world comes in through Body, Store, Recorder and Clock.
//
// # How a call lives
//
//	map, judge      a crash here: nothing was sent, nothing is known
//	reserve limits  a crash here: the next start gives the share back, on record
//	record intent   durable before Check returns; a crash from here on leaves an
//	                event without an outcome, which the next start marks ambiguous
//	permit          the door dials, sends, and relays the answer
//	Done            the outcome is queued; it needs no wait, because losing it
//	                has a defined meaning: ambiguous, and never sent again by us
package gate

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
)

// Door is a way in.
type Door string

// The doors.
const (
	DoorForward     Door = "forward"
	DoorConnect     Door = "connect"
	DoorReverse     Door = "reverse"
	DoorTransparent Door = "transparent"
	DoorAPI         Door = "api"
)

// Body is a request body that has not been read yet.
type Body interface {
	// Peek reads up to max bytes and keeps them for sending. whole says that the
	// body ended within max. A body that is not well formed (broken chunking, cut
	// off) is an error. Called at most once per request.
	Peek(max int64) (data []byte, whole bool, err error)
}

// Request is one call at a door.
type Request struct {
	Door     Door
	Identity Identity
	// Claims of the agent: never authority.
	UserID   string
	Goal     string
	Passport string
	// Head is the request as it will be sent, hop-by-hop and ActPass-* headers
	// gone. Check keeps it; the caller must not change it afterwards.
	Head mapping.Request
	Body Body // nil: no body
	// Findings are ambiguities that the door itself saw on the wire (framing, SNI).
	Findings []mapping.Ambiguity
	// Tunnel is set for a CONNECT that will not be inspected: the action is
	// http.connect on Head.Authority. Opaque says why, for the record.
	Tunnel bool
	Opaque string
	// Bare is set for a tunnel that no CONNECT asked for: a redirected connection
	// that is neither TLS nor HTTP. The action is tcp.connect.
	Bare bool
	// Dialled is the address that the client of a redirected connection dialled,
	// for the record: where the call goes is in Head.
	Dialled string
	// Floor is the least strict mode that this call may get, "" for none. A door
	// sets it on a tunnel that hides calls which could be judged more strictly than
	// the tunnel itself.
	Floor string
}

// Outbound is what may be sent, exactly.
type Outbound struct {
	Head mapping.Request
	// Body is what was read for judging; Whole says that it is all of it. When it
	// is not, the rest follows from the door's stream.
	Body  []byte
	Whole bool
	Read  bool // the body was read at all
	// Once: a human approved the call. It is counted, gets a connection of its own,
	// and is not given up when the agent goes away: what became of it is worth knowing.
	Once bool
	// Counted: the call stands on something that is used up by sending it, such as an
	// approval, a passport or a share of a limit. Once any of it was written it must not be
	// written again, though its method be safe or the upstream say that it did
	// nothing: one use is one send.
	Counted bool
}

// Permit is the right to send one call once. Only Check makes them; the zero
// value permits nothing.
type Permit struct {
	gate     *Gate
	out      Outbound
	decision evidence.Decision
	warning  string
	tenant   string
	started  time.Time
	recorded bool
	// reservation is the id under which limits' shares were taken, "" for none.
	reservation string
	passport    string // jti whose use was claimed, "" for none
	approval    string // that was consumed for it, "" for none
	rpcID       []byte // of the JSON-RPC message that it sends, nil for none
	grant       string // of which a use was taken, "" for none
	done        atomic.Bool
}

// Outbound is what may be sent. The zero Permit gives an empty one, which no
// door can send.
func (p *Permit) Outbound() Outbound { return p.out }

// Decision is the verdict that the permit stands on, for the answer's headers.
func (p *Permit) Decision() evidence.Decision { return p.decision }

// Warning is the text of ActPass-Warning, "" for none.
func (p *Permit) Warning() string { return p.warning }

// Refusal is a call that does not leave.
type Refusal struct {
	Status     int // 400, 403, 407, 409, 413, 415, 421, 429, 431, 500, 503
	Decision   evidence.Decision
	Sentence   string // for the model: what happened, under which rule, what next
	Shape      string // provider's error shape, see mapping.Match.ErrorShape
	RPCID      []byte // JSON-RPC id, raw JSON
	Retry      bool   // the client's own retry is welcome (a hold goes on)
	RetryAfter time.Duration
	Approval   string // approval request id
	Replay     *Answer
}

// Answer is a recorded upstream answer, given again.
type Answer struct {
	Status int
	Header map[string][]string
	Body   []byte
	// Trailer is what follows the body, of gRPC alone.
	Trailer map[string][]string
}

// Outcome is what the door reports when a permitted call is over.
type Outcome struct {
	State  string // evidence.StateForwarded or evidence.StateAmbiguous, or StateRefused when nothing was sent
	Status int
	Bytes  int64
	Error  string
}

// Observer receives counts. Methods are called on the call path and must be
// quick.
type Observer interface {
	Decided(decision, mode, enforcement, tool string)
	Overhead(d time.Duration) // time the gate added to a call, holds not counted
	Holds(n int)
	Fault(kind string)
}

// Override sets a stricter mode for part of the traffic.
type Override struct {
	Tool  string // glob, "" for every tool
	Agent string // glob, "" for every agent
	Mode  string
}

// Rules is everything a decision stands on. A snapshot is immutable: a reload
// swaps all of it or nothing.
type Rules struct {
	Mapping   *mapping.Set
	Policy    *policy.Set
	Mode      string
	Overrides []Override
	recorded  []ModeOverride // put in by Load and SetMode
	// MaxInspect is how much of a body is read before deciding, in bytes.
	MaxInspect int64
	// Identity is the sidecar's own configured identity.
	Identity Identity
	// Hold is how long a held call waits before its client is told to come back.
	Hold time.Duration
	// MaxHolds bounds the pending approvals of a tenant, MaxHoldsPerAgent those of
	// each of its agents, so that one agent's flood leaves the others their room.
	// Both refuse at zero.
	MaxHolds, MaxHoldsPerAgent int
}

// Options of New. Store, Recorder and RedactKey are required.
type Options struct {
	Store    Store
	Recorder Recorder
	// RedactKey keys the hashes that stand in for secrets, 32 bytes.
	RedactKey []byte
	Now       func() time.Time // time.Now when nil
	// Elapsed is the time since some moment on a clock that cannot be set, which
	// limits follow. Nil: the machine's, or Now where that is given.
	Elapsed  func() time.Duration
	Log      *zap.Logger // silent when nil
	Observer Observer    // may be nil
}

// Gate is the check. Safe for concurrent use.
type Gate struct {
	store     Store
	recorder  Recorder
	redactKey []byte
	now       func() time.Time
	steady    *steady
	log       *zap.Logger
	observer  Observer

	rules atomic.Pointer[Rules]
	modes sync.Mutex // held while rules are swapped
	// recorded are the mode overrides in force, newest first; guarded by modes.
	recorded []ModeOverride
	keys     keyCache

	authority atomic.Pointer[Authority]
	verified  verifiedTokens
	flying    flights

	waits waiters
	held  atomic.Int64

	draining  chan struct{} // closed by Drain
	drainOnce sync.Once

	transitions recording
}

// New makes a gate. Until Load is called it refuses everything.
func New(o Options) (*Gate, error) {
	if o.Store == nil || o.Recorder == nil {
		return nil, errors.New("gate: a store and a recorder are required")
	}
	if len(o.RedactKey) < 32 {
		return nil, errors.New("gate: the redaction key must have 32 bytes")
	}
	g := &Gate{
		store: o.Store, recorder: o.Recorder, redactKey: o.RedactKey,
		now: o.Now, log: o.Log, observer: o.Observer, draining: make(chan struct{}),
	}
	if g.now == nil {
		g.now = time.Now
		if o.Elapsed == nil {
			o.Elapsed = sinceBoot
		}
	}
	g.steady = newSteady(o.Elapsed, g.now())
	if g.log == nil {
		g.log = zap.NewNop()
	}
	if g.observer == nil {
		g.observer = silent{}
	}
	return g, nil
}

// Drain ends all waiting, now and from now on: held calls are told to come back,
// as they are when their budget is over, and their approvals stand. Call it before
// the doors are closed, so that a stop waits for answers only, not for humans.
func (g *Gate) Drain() {
	g.drainOnce.Do(func() {
		close(g.draining)
		g.waits.wakeAll()
	})
}

// Load swaps the rules in force. Calls that are being judged keep theirs. Mode
// overrides that were set while running stay.
func (g *Gate) Load(r *Rules) {
	g.modes.Lock()
	defer g.modes.Unlock()
	next := *r
	next.recorded = g.recorded
	g.rules.Store(&next)
}

// Rules are the ones in force; nil before the first Load. Not to be modified.
func (g *Gate) Rules() *Rules { return g.rules.Load() }

// ConfigIdentity is the sidecar's own configured identity.
func (g *Gate) ConfigIdentity() Identity {
	if r := g.rules.Load(); r != nil {
		return r.Identity
	}
	return Identity{}
}

// Fault counts and logs a fault that did not stop a call. One that has its own line
// in the log is only counted: err is nil.
func (g *Gate) Fault(kind string, err error) {
	g.observer.Fault(kind)
	if err == nil {
		return
	}
	g.log.Warn("fault", zap.String("kind", kind), zap.Error(err))
}

type silent struct{}

func (silent) Decided(string, string, string, string) {}
func (silent) Overhead(time.Duration)                 {}
func (silent) Holds(int)                              {}
func (silent) Fault(string)                           {}
