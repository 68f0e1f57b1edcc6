package notify

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// Errors of a callback.
var (
	// ErrReplayed says that the callback was taken before: nothing was done again.
	ErrReplayed = errors.New("this callback was taken before")
	// ErrActor says that the configuration gives the actor no key.
	ErrActor = errors.New("the configuration gives this actor no key")
)

// keepCallback is how long a callback that was taken is remembered; its signature
// is too old long before.
const keepCallback = 24 * time.Hour

// word is a person's word on an approval, as it came over a channel.
type word struct {
	ApprovalID string   `json:"approval_request_id"`
	Decision   string   `json:"decision"` // approve, deny, escalate, cancel
	Reason     string   `json:"reason,omitempty"`
	Actor      string   `json:"actor"`
	To         []string `json:"to,omitempty"` // groups, for escalate
}

func (w word) check() error {
	bad := func(field, message string) error { return &gate.FieldError{Field: field, Message: message} }
	switch {
	case !strings.HasPrefix(w.ApprovalID, "apr_") || len(w.ApprovalID) > 64:
		return bad("approval_request_id", "must be the id of an approval, apr_...")
	case w.Decision != gate.Approve && w.Decision != gate.DenyIt && w.Decision != gate.Escalate && w.Decision != gate.Cancel:
		return bad("decision", "must be approve, deny, escalate or cancel")
	case w.Actor == "" || len(w.Actor) > 200:
		return bad("actor", "must have 1 to 200 characters")
	case len(w.Reason) > 4096:
		return bad("reason", "is longer than 4096 bytes")
	case w.Decision != gate.Escalate && len(w.To) > 0:
		return bad("to", "belongs to escalate only")
	}
	for _, g := range w.To {
		if g == "" || len(g) > 200 {
			return bad("to", "a group is a name of 1 to 200 bytes")
		}
	}
	return nil
}

// Callback takes a signed callback of the webhook name and gives the approval as
// it stands afterwards. Errors: ErrSignature, ErrReplayed, ErrActor,
// *gate.FieldError, and those of gate.Decide. With any of them the approval is as
// it was.
//
// What is claimed is the delivery id, and what was signed: a captured callback
// does not become new under another id, because the id itself is not signed.
func (n *Notifier) Callback(ctx context.Context, name string, h http.Header, body []byte) (gate.Approval, error) {
	hook := n.webhook(name)
	signatures := h.Values(HeaderSignature)
	if hook == nil || len(signatures) != 1 {
		return gate.Approval{}, ErrSignature
	}
	now := n.Now()
	sum, err := verify(hook.Secret, signatures[0], body, now)
	if err != nil {
		return gate.Approval{}, err
	}
	ids := h.Values(HeaderDelivery)
	if len(ids) != 1 || ids[0] == "" || len(ids[0]) > 128 {
		return gate.Approval{}, &gate.FieldError{Field: HeaderDelivery, Message: "the header must be there once, with an id of 1 to 128 characters that is new for each callback"}
	}
	var w word
	if err := json.Unmarshal(body, &w, json.RejectUnknownMembers(true)); err != nil {
		return gate.Approval{}, &gate.FieldError{Message: "the body must be a JSON object with approval_request_id, decision and actor, and optionally reason and to"}
	}
	if err := w.check(); err != nil {
		return gate.Approval{}, err
	}
	return n.once(ctx, name, []string{"sum " + hex.EncodeToString(sum), "id " + ids[0]}, func() (gate.Approval, error) {
		return n.say(ctx, name, hook.Actors, w)
	})
}

func (n *Notifier) webhook(name string) *Webhook {
	for i, w := range n.live.Load().settings.Webhooks {
		if w.Name == name {
			return &n.live.Load().settings.Webhooks[i]
		}
	}
	return nil
}

// once does f unless one of the tokens was taken before. They are taken first:
// of two copies that arrive together one is refused. Where the store or the log
// failed nothing was decided, and the tokens are given back, so that the sender
// can try again.
//
// If we crash between the two, the sender's own retry is refused as a replay; it
// sees by the approval's state that nothing was decided, and sends a new one.
func (n *Notifier) once(ctx context.Context, channel string, tokens []string, f func() (gate.Approval, error)) (gate.Approval, error) {
	now := n.Now()
	err := n.Outbox.ClaimCallback(ctx, channel, tokens, now.Add(keepCallback))
	if errors.Is(err, gate.ErrIllegalState) {
		return gate.Approval{}, ErrReplayed
	}
	if err != nil {
		return gate.Approval{}, err
	}
	a, err := f()
	if err != nil && !final(err) {
		if err := n.Outbox.ReleaseCallback(context.WithoutCancel(ctx), channel, tokens); err != nil {
			n.Gate.Fault("notify", err)
		}
	}
	return a, err
}

// final says that trying again would end in the same way.
func final(err error) bool {
	var field *gate.FieldError
	return errors.As(err, &field) || errors.Is(err, ErrActor) || errors.Is(err, gate.ErrNotAllowed) ||
		errors.Is(err, gate.ErrNotFound) || errors.Is(err, gate.ErrIllegalState)
}

// say gives a word to the gate, with the key that the configuration gives the
// actor. A word that does not count is put on record.
func (n *Notifier) say(ctx context.Context, channel string, actors map[string]string, w word) (gate.Approval, error) {
	a, err := n.decide(ctx, channel, actors, w)
	if errors.Is(err, ErrActor) || errors.Is(err, gate.ErrNotAllowed) {
		note := n.Gate.Note(context.WithoutCancel(ctx), evidence.KindSystem, "word on an approval refused", map[string]string{
			"channel": channel, "actor": Clip(w.Actor, 200), "approval_id": w.ApprovalID, "decision": w.Decision, "because": Clip(err.Error(), 500),
		})
		if note != nil {
			n.Gate.Fault("evidence", fmt.Errorf("record a refused word: %w", note))
		}
	}
	return a, err
}

func (n *Notifier) decide(ctx context.Context, channel string, actors map[string]string, w word) (gate.Approval, error) {
	key := actors[w.Actor]
	if key == "" {
		return gate.Approval{}, ErrActor
	}
	id, err := n.Gate.KeyIdentity(ctx, key)
	if err != nil {
		return gate.Approval{}, err
	}
	// The record names the key; whose hand it was in is said beside the reason.
	reason := strings.TrimSpace(Clip(w.Reason, 700) + " (" + w.Actor + " by " + channel + ")")
	return n.Gate.Decide(ctx, id, w.ApprovalID, w.Decision, reason, w.To)
}
