// Package notify tells people about approvals where they are, and takes their
// word from there: signed webhooks out, signed callbacks in, and Slack.
//
// # How an event reaches a receiver
//
//	move        the store writes the move of an approval and one delivery for each
//	            channel that wants to hear of it, in one transaction
//	attempt     the body is rendered, signed and sent; a crash here sends it again,
//	            under the same delivery id
//	settle      delivered, or put off with back-off, or dead after the last attempt
//
// So every event is delivered at least once, and a receiver that remembers
// delivery ids sees each once. The order is that of the moves as long as nothing
// fails.
//
// Nobody decides anything here: a callback that is genuine is turned into the
// gateway key that the configuration gives its actor, and the gate judges that
// key as it does on the API.
package notify

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/gate"
)

// Events of an approval.
const (
	EventOpened    = "opened"
	EventVoted     = "voted" // an approval that was not enough yet
	EventEscalated = "escalated"
	EventDecided   = "decided" // approved or denied
	EventExpired   = "expired"
	EventConsumed  = "consumed"
	EventCancelled = "cancelled"
)

// Events are all of them, in the order of an approval's life.
var Events = []string{EventOpened, EventVoted, EventEscalated, EventDecided, EventExpired, EventConsumed, EventCancelled}

// States of a delivery.
const (
	Queued    = "queued"
	Delivered = "delivered"
	Dead      = "dead" // given up; it can be sent again by hand
)

// Delivery is one event on its way to one channel.
type Delivery struct {
	Seq        int64
	ID         string // "dlv_" and 32 hex digits, the same in every attempt
	Channel    string
	TenantID   string
	ApprovalID string
	Event      string
	From, To   string // states of the approval; From is "" for opened
	Actor      string // key id, "system", "" for opened
	Reason     string
	Time       time.Time // of the move
	State      string
	Attempts   int
	NextAt     time.Time // of the next attempt; zero: as soon as possible
	SettledAt  time.Time // when it was delivered or given up
	LastStatus int       // HTTP status of the last attempt, 0 for none
	LastError  string
	Body       []byte // as it was first sent, once an attempt has failed
}

// Result is what came of an attempt.
type Result struct {
	State  string // Delivered; Queued, to be tried again at NextAt; Dead
	NextAt time.Time
	Status int
	Error  string
	Body   []byte // kept for the next attempt unless delivered
}

// Subscription is a channel that wants to hear of events.
type Subscription struct {
	Name   string
	Events []string
}

// DeliveryQuery selects deliveries, newest first.
type DeliveryQuery struct {
	TenantID string
	State    string // "" for all
	Cursor   string
	Limit    int
}

// Outbox keeps deliveries and what channels must not forget. Implementations are
// safe for concurrent use; a method that returned nil is durable.
type Outbox interface {
	// SetChannels says who hears of the events of a tenant from now on. What is
	// queued for a channel that is gone becomes dead.
	SetChannels(ctx context.Context, tenant string, list []Subscription, now time.Time) error
	// Due are queued deliveries of a channel whose time has come, oldest first.
	Due(ctx context.Context, channel string, now time.Time, limit int) ([]Delivery, error)
	// Settle counts an attempt and says what came of it.
	Settle(ctx context.Context, id string, r Result, now time.Time) error
	// Deliveries lists. A cursor that it did not give is a *gate.FieldError.
	Deliveries(ctx context.Context, q DeliveryQuery) (list []Delivery, next string, err error)
	// Requeue puts a dead delivery back, as if it had never been tried.
	// gate.ErrNotFound; gate.ErrIllegalState when it is not dead, or when its
	// channel is gone.
	Requeue(ctx context.Context, tenant, id string) (Delivery, error)
	// ClaimCallback takes tokens of a channel, all or none; gate.ErrIllegalState when
	// one was taken before and is not yet forgotten. ReleaseCallback gives them back.
	ClaimCallback(ctx context.Context, channel string, tokens []string, expires time.Time) error
	ReleaseCallback(ctx context.Context, channel string, tokens []string) error
	// KeepReceipt keeps what a channel has to know of an approval; Receipt gives it,
	// "" for none.
	KeepReceipt(ctx context.Context, channel, approvalID, value string, now time.Time) error
	Receipt(ctx context.Context, channel, approvalID string) (string, error)
	// Forget removes what is of no use any more: delivered ones settled before
	// delivered, dead ones and receipts from before dead, claims that expired.
	Forget(ctx context.Context, delivered, dead, now time.Time) error
}

// Gate is what the package asks of the gate; *gate.Gate satisfies it.
type Gate interface {
	KeyIdentity(ctx context.Context, id string) (gate.Identity, error)
	Approval(ctx context.Context, actor gate.Identity, id string, wait time.Duration) (gate.Approval, error)
	Decide(ctx context.Context, actor gate.Identity, id, decision, reason string, to []string) (gate.Approval, error)
	Note(ctx context.Context, kind, message string, data map[string]string) error
	Fault(kind string, err error)
}

var _ Gate = (*gate.Gate)(nil)

// Settings can be changed while it runs, by Load.
type Settings struct {
	Tenant      string
	MaxAttempts int // of one delivery, before it is dead
	Webhooks    []Webhook
	Slack       *Slack // nil: none
}

// Webhook is a channel: events out, and callbacks in for those who have actors.
type Webhook struct {
	Name   string
	URL    string
	Secret []byte // of the signatures, both ways
	Events []string
	Actors map[string]string // actor of a callback to the id of the key that it speaks with
}

// Options of New. All but Log and Now must be set.
type Options struct {
	Outbox Outbox
	Gate   Gate
	// Client sends. It must refuse addresses that must not be dialled, and follow no
	// redirect.
	Client *http.Client
	// Render is an approval as the API shows it, to be encoded as JSON.
	Render func(gate.Approval) any
	Log    *zap.Logger
	Now    func() time.Time
	// Keep is how long a dead delivery, and what a channel keeps of an approval, stay;
	// 30 days when 0, below 0 for ever.
	Keep time.Duration
	// Timeout bounds one attempt: connecting, sending, and the whole answer; 10 s
	// when 0.
	Timeout time.Duration
}

// Notifier delivers, and takes callbacks. Safe for concurrent use.
type Notifier struct {
	Options
	live atomic.Pointer[live]

	mu      sync.Mutex
	pumping map[string]bool      // channels that are being worked on
	rest    map[string]time.Time // channels that are left alone until then
	wg      sync.WaitGroup
}

// live is what Load swaps.
type live struct {
	settings Settings
	channels []channel
	slack    *slack
}

// channel is one receiver.
type channel interface {
	name() string
	events() []string
	// parallel is how many deliveries may be under way at once.
	parallel() int
	// send makes one attempt. retryAfter is what the receiver asked for, 0 for
	// nothing. body is what is to be sent again should it fail.
	send(ctx context.Context, d Delivery, a gate.Approval) sent
}

// sent is what came of an attempt; err nil: it was delivered.
type sent struct {
	status     int
	retryAfter time.Duration
	body       []byte
	err        error
}

// New makes a notifier without channels.
func New(o Options) *Notifier {
	if o.Outbox == nil || o.Gate == nil || o.Client == nil || o.Render == nil {
		panic("notify: New needs an Outbox, a Gate, a Client and Render")
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	n := &Notifier{Options: o, pumping: map[string]bool{}, rest: map[string]time.Time{}}
	n.live.Store(&live{})
	return n
}

// Load swaps the channels. Attempts that are under way keep theirs.
func (n *Notifier) Load(ctx context.Context, s Settings) error {
	l := &live{settings: s}
	for _, w := range s.Webhooks {
		l.channels = append(l.channels, &webhook{Webhook: w, n: n})
	}
	if s.Slack != nil {
		l.slack = &slack{Slack: *s.Slack, n: n}
		l.channels = append(l.channels, l.slack)
	}
	var list []Subscription
	for _, c := range l.channels {
		list = append(list, Subscription{Name: c.name(), Events: c.events()})
	}
	if err := n.Outbox.SetChannels(ctx, s.Tenant, list, n.Now()); err != nil {
		return err
	}
	n.live.Store(l)
	return nil
}

// Deliveries lists those of a tenant, newest first.
func (n *Notifier) Deliveries(ctx context.Context, q DeliveryQuery) ([]Delivery, string, error) {
	return n.Outbox.Deliveries(ctx, q)
}

// message is the body of a webhook.
type message struct {
	ID         string `json:"id"`
	Event      string `json:"event"`
	Time       string `json:"time"`
	ApprovalID string `json:"approval_request_id"`
	From       string `json:"from"`
	To         string `json:"to"`
	Actor      string `json:"actor"`
	Reason     string `json:"reason"`
	Approval   any    `json:"approval"`
}

func (n *Notifier) message(d Delivery, a gate.Approval) ([]byte, error) {
	return json.Marshal(message{
		ID: d.ID, Event: d.Event, Time: d.Time.UTC().Format(time.RFC3339Nano), ApprovalID: d.ApprovalID,
		From: d.From, To: d.To, Actor: d.Actor, Reason: d.Reason, Approval: n.Render(a),
	})
}
