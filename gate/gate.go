// Package gate is the one check between an agent and the world.
//
// Every door turns its call into a Request and asks Check. The answer is a
// Permit, the only thing the proxy can forward with, or a Refusal. Check maps,
// verifies, decides, reserves, records and then permits, refuses or holds; no
// step can be had without the ones before it. The package knows no HTTP and no
// SQL: the world comes in through Body, Store, Recorder and Clock.
package gate

import (
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/mapping"
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
	// PeekTunnel: see Head only.
}

// Outbound is what may be sent, exactly.
type Outbound struct {
	Head mapping.Request
	// Body is what was read for judging; Whole says that it is all of it. When it
	// is not, the rest follows from the door's stream.
	Body  []byte
	Whole bool
	Read  bool // the body was read at all
	// Once: the call must not be sent a second time by anyone below, not even on a
	// connection that turned out to be dead (it was approved by a human).
	Once bool
}

// Permit is the right to send one call once. Only Check makes them; the zero
// value permits nothing.
type Permit struct {
	gate     *Gate
	out      Outbound
	decision evidence.Decision
	warning  string
	started  time.Time
	done     chan struct{}
	use      permitUse
}

// Refusal is a call that does not leave.
type Refusal struct {
	Status     int // 400, 403, 413, 415, 421, 429, 431, 503
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
}

// Outcome is what the door reports when a permitted call is over.
type Outcome struct {
	State  string // evidence.StateForwarded or evidence.StateAmbiguous, or StateRefused when nothing was sent
	Status int
	Bytes  int64
	Error  string
}

type permitUse struct{}

// Gate is the check.
type Gate struct{}

// Outbound is what may be sent.
func (p *Permit) Outbound() Outbound { return p.out }

// Decision is the verdict that the permit stands on, for the answer's headers.
func (p *Permit) Decision() evidence.Decision { return p.decision }

// Warning is the text of ActPass-Warning, "" for none.
func (p *Permit) Warning() string { return p.warning }

// Done reports the outcome, once; later calls do nothing. It does not wait for
// the disk.
func (p *Permit) Done(o Outcome) {}
