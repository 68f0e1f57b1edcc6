package gate

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/textproto"
	"sync"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// MaxKept is the largest answer body that is kept for retries, in bytes.
const MaxKept = 64 << 10

// keepFor is how long an answer is kept; its status alone is kept for longer.
const (
	keepFor       = 10 * time.Minute
	keepStatusFor = 30 * 24 * time.Hour
)

// After these times a consumed approval no longer answers for its call, and the
// same call is a new question: it is known to be a repetition only by its
// idempotency key, and a caller without one may mean a second call.
const (
	consumedFor        = 24 * time.Hour
	consumedForWithKey = keepStatusFor
)

// essential headers of a kept answer; anything else (cookies above all) is not
// for a second hearing.
var essential = []string{
	"Content-Type", "Content-Encoding", "Content-Language", "Etag", "Last-Modified", "Location", "Retry-After",
	"Request-Id", "X-Request-Id", "Idempotency-Key", "Original-Request", "Stripe-Version", "X-Github-Request-Id",
	"Openai-Version", "X-Amzn-Requestid", "Grpc-Encoding", "Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin",
}

// essentialTrailers are what a gRPC answer comes to.
var essentialTrailers = []string{"Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin"}

// only gives the named ones of h, whose names are canonical.
func only(h map[string][]string, names []string) map[string][]string {
	some := make(map[string][]string)
	for _, name := range names {
		name = textproto.CanonicalMIMEHeaderKey(name)
		if v := h[name]; len(v) > 0 {
			some[name] = v
		}
	}
	return some
}

// kept is what is sealed. Whole is false where only the status could be kept.
type kept struct {
	Status  int                 `json:"status"`
	Whole   bool                `json:"whole"`
	Header  map[string][]string `json:"header,omitempty"`
	Body    []byte              `json:"body,omitempty"`
	Trailer map[string][]string `json:"trailer,omitempty"`
	RPCID   []byte              `json:"rpc_id,omitempty"` // of the message that it answers
	// Outcome is kept under an id of its own, of a call that got no answer, or that
	// the agent ran itself; then ByAgent.
	Outcome *evidence.Outcome `json:"outcome,omitempty"`
	ByAgent bool              `json:"by_agent,omitempty"`
}

// Keeps says that the door should hand the answer over with Answered: the call
// was approved by a human, and its retries get what it got.
func (p *Permit) Keeps() bool { return p.gate != nil && p.approval != "" }

// Answered keeps the upstream's answer for retries, sealed. whole says that a is all
// of it; one with a body of more than MaxKept is kept as its status only. Call it
// before Done. Headers and trailers are by canonical MIME name.
func (p *Permit) Answered(a Answer, whole bool) {
	if !p.Keeps() {
		return
	}
	k := kept{Status: a.Status, Whole: whole && len(a.Body) <= MaxKept, RPCID: p.rpcID}
	if k.Whole {
		k.Body, k.Header, k.Trailer = a.Body, only(a.Header, essential), only(a.Trailer, essentialTrailers)
	}
	// Both at once, so that they share a transaction.
	status := make(chan error, 1)
	go func() {
		status <- p.gate.keep(p.tenant, p.approval+statusOnly, kept{Status: a.Status, RPCID: p.rpcID}, keepStatusFor)
	}()
	err := p.gate.keep(p.tenant, p.approval, k, keepFor)
	if err = errors.Join(err, <-status); err != nil {
		p.gate.Fault("store", fmt.Errorf("keep the answer of approval %s: %w", p.approval, err))
	}
}

// statusOnly ends the id under which the status alone is kept.
const statusOnly = "/status"

// outcomeOnly ends the id under which an outcome without an answer is kept. The
// evidence has it too: this is for people who look at it from another sidecar.
const outcomeOnly = "/outcome"

func (g *Gate) keepOutcome(tenant, approval string, o evidence.Outcome, byAgent bool) {
	if approval == "" {
		return
	}
	if err := g.keep(tenant, approval+outcomeOnly, kept{Outcome: &o, ByAgent: byAgent}, keepStatusFor); err != nil {
		g.Fault("store", fmt.Errorf("keep the outcome of approval %s: %w", approval, err))
	}
}

// CameOf is what the store knows of the one use of an approval, whichever sidecar
// it was at; byAgent, that the agent ran the action itself and said so. ErrNotFound
// while nothing is known, and when it was forgotten.
func (g *Gate) CameOf(ctx context.Context, a Approval) (o evidence.Outcome, byAgent bool, err error) {
	k, err := g.keptAnswer(ctx, a.TenantID, a.ID+outcomeOnly)
	if err == nil && k.Outcome != nil {
		return *k.Outcome, k.ByAgent, nil
	}
	if err == nil || errors.Is(err, ErrNotFound) {
		k, err = g.keptAnswer(ctx, a.TenantID, a.ID+statusOnly)
	}
	if err != nil {
		return evidence.Outcome{}, false, fmt.Errorf("look for the outcome of approval %s: %w", a.ID, err)
	}
	return evidence.Outcome{State: evidence.StateForwarded, Status: k.Status}, false, nil
}

func (g *Gate) keep(tenant, approval string, k kept, ttl time.Duration) error {
	plain, err := json.Marshal(k)
	if err != nil {
		return err
	}
	aead, err := g.sealer()
	if err != nil {
		return err
	}
	nonce := make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	// Bound to its approval: a row that is moved to another does not open.
	sealed := aead.Seal(nonce, nonce, plain, []byte(tenant+"\x00"+approval))
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	now := g.now()
	return g.store.KeepAnswer(ctx, tenant, approval, sealed, now, now.Add(ttl))
}

func (g *Gate) sealer() (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, g.redactKey, nil, "actpass kept answers v1", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (g *Gate) keptAnswer(ctx context.Context, tenant, id string) (kept, error) {
	sealed, err := g.store.Answer(ctx, tenant, id, g.now())
	if err != nil {
		return kept{}, err
	}
	aead, err := g.sealer()
	if err != nil {
		return kept{}, err
	}
	if len(sealed) < aead.NonceSize() {
		return kept{}, errors.New("the kept answer is cut off")
	}
	plain, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], []byte(tenant+"\x00"+id))
	if err != nil {
		return kept{}, fmt.Errorf("open the kept answer: %w", err)
	}
	var k kept
	return k, json.Unmarshal(plain, &k)
}

// flights are the approved calls that are being sent by this process.
type flights struct {
	mu sync.Mutex
	m  map[string]chan struct{}
}

func (f *flights) start(approval string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m == nil {
		f.m = make(map[string]chan struct{})
	}
	f.m[approval] = make(chan struct{})
}

func (f *flights) land(approval string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ch, ok := f.m[approval]; ok {
		close(ch)
		delete(f.m, approval)
	}
}

// landed is closed when the call of an approval is over; at once when it is not
// under way here.
func (f *flights) landed(approval string) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ch, ok := f.m[approval]; ok {
		return ch
	}
	ch := make(chan struct{})
	close(ch)
	return ch
}

// cameOf is what is kept of the one send of a used approval, once it is over.
func (g *Gate) cameOf(ctx context.Context, c *call, a Approval) (kept, error) {
	budget := time.NewTimer(c.rules.Hold)
	defer budget.Stop()
	select {
	case <-g.flying.landed(a.ID):
	case <-budget.C:
	case <-ctx.Done():
	}
	k, err := g.keptAnswer(ctx, a.TenantID, a.ID)
	if errors.Is(err, ErrNotFound) {
		k, err = g.keptAnswer(ctx, a.TenantID, a.ID+statusOnly)
	}
	return k, err
}

// anotherMessage says that a JSON-RPC call is not a retry of the one that used
// an approval, but means the same once more: within a session a client gives
// each of its requests an id of its own. Where it is not known what came of the
// first, it says no.
func (g *Gate) anotherMessage(ctx context.Context, c *call, a Approval) bool {
	id := c.rpcID()
	if id == nil {
		return false
	}
	k, err := g.cameOf(ctx, c, a)
	return err == nil && k.RPCID != nil && !bytes.Equal(k.RPCID, id)
}

// replay answers another attempt at a call whose approval was used: with the
// recorded answer where there is one, else with 409. It waits while the one
// send is under way. held says that this attempt's event stands already.
func (g *Gate) replay(ctx context.Context, c *call, a Approval, held bool) *Refusal {
	k, err := g.cameOf(ctx, c, a)
	if err != nil && !errors.Is(err, ErrNotFound) {
		g.Fault("store", fmt.Errorf("answer again for approval %s: %w", a.ID, err))
	}
	what := "the approval of this exact call was used already: it was sent once, under event " + a.ConsumedBy
	switch {
	case err != nil:
		what += ", and what came of it is not known; find out before you act again"
	case !bytes.Equal(k.RPCID, c.rpcID()):
		what += fmt.Sprintf(", and was answered with status %d, to a message with another id", k.Status)
		k.Whole = false
	case !k.Whole:
		what += fmt.Sprintf(", and was answered with status %d; the answer itself is not kept", k.Status)
	}
	if err == nil && k.Whole {
		c.event.Flags = append(c.event.Flags, FlagReplayed)
	}
	r := g.refuseApproval(ctx, c, a, 409, ReasonConsumed, what, held)
	if err == nil && k.Whole && r.Decision.ReasonCode == ReasonConsumed {
		r.Status = k.Status
		r.Replay = &Answer{Status: k.Status, Header: k.Header, Body: k.Body, Trailer: k.Trailer}
	}
	return r
}
