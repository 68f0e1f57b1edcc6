package notify

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/actpass/sidecar/gate"
)

// SlackName is the channel's name in deliveries and in the record.
const SlackName = "slack"

// Slack is one conversation in Slack: a message for each approval, with buttons,
// kept up to date.
type Slack struct {
	BotToken      []byte
	SigningSecret []byte
	Channel       string            // id of the conversation, or #name
	APIURL        string            // without a slash at the end; https://slack.com/api
	Actors        map[string]string // Slack user id to the id of the key that it speaks with
}

// slack posts and updates the messages.
type slack struct {
	Slack
	n *Notifier
}

func (s *slack) name() string     { return SlackName }
func (s *slack) events() []string { return Events }
func (s *slack) parallel() int    { return 1 } // one message a second is what Slack takes

// place is where the message of an approval is, kept as its receipt.
type place struct {
	Channel string `json:"channel"`
	TS      string `json:"ts"`
}

// send brings the message of a to what a is now, whichever event says so: an
// event that comes late or twice does no harm.
//
// If we crash between the post and its receipt, the approval gets a second
// message, and the first keeps its buttons: pressing them is judged as ever.
func (s *slack) send(ctx context.Context, d Delivery, a gate.Approval) sent {
	kept, err := s.n.Outbox.Receipt(ctx, SlackName, a.ID)
	if err != nil {
		return sent{err: err}
	}
	var at place
	if kept != "" {
		if err := json.Unmarshal([]byte(kept), &at); err != nil {
			return sent{err: fmt.Errorf("receipt of %s: %w", a.ID, err)}
		}
	} else if a.State != gate.ApprovalPending && d.Event != EventOpened {
		return sent{} // asked before this channel was configured: there is nothing to answer
	}
	text, blocks := slackMessage(a)
	out, got := sent{}, slackAnswer{}
	if at.TS != "" {
		out, got = s.call(ctx, "chat.update", map[string]any{"channel": at.Channel, "ts": at.TS, "text": text, "blocks": blocks, "parse": "none", "link_names": false})
		if got.Error != "message_not_found" || a.State != gate.ApprovalPending {
			if got.Error == "message_not_found" {
				return sent{status: out.status} // somebody deleted it, and there is nothing left to ask
			}
			return out
		}
	}
	out, got = s.call(ctx, "chat.postMessage", map[string]any{
		"channel": s.Channel, "text": text, "blocks": blocks, "parse": "none", "link_names": false, "mrkdwn": false, "unfurl_links": false, "unfurl_media": false,
	})
	if out.err != nil {
		return out
	}
	if got.TS == "" || got.Channel == "" {
		out.err = errors.New("chat.postMessage did not say where the message is")
		return out
	}
	receipt, err := json.Marshal(place{got.Channel, got.TS})
	if err == nil {
		err = s.n.Outbox.KeepReceipt(context.WithoutCancel(ctx), SlackName, a.ID, string(receipt), s.n.Now())
	}
	if err != nil {
		s.n.Gate.Fault("notify", fmt.Errorf("keep where the message of %s is: %w", a.ID, err))
	}
	return out
}

type slackAnswer struct {
	OK      bool   `json:"ok"`
	Error   string `json:"error"`
	Channel string `json:"channel"`
	TS      string `json:"ts"`
}

// call calls one method of the Web API.
func (s *slack) call(ctx context.Context, method string, in any) (sent, slackAnswer) {
	body, err := json.Marshal(in)
	if err != nil {
		return sent{err: fmt.Errorf("render: %w", err)}, slackAnswer{}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.APIURL+"/"+method, bytes.NewReader(body))
	if err != nil {
		return sent{err: withoutURL(err)}, slackAnswer{}
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("Authorization", "Bearer "+string(s.BotToken))
	resp, err := s.n.Client.Do(req)
	if err != nil {
		return sent{err: fmt.Errorf("%s: %w", method, withoutURL(err))}, slackAnswer{}
	}
	defer resp.Body.Close()
	out := sent{status: resp.StatusCode, retryAfter: retryAfter(resp.Header)}
	var got slackAnswer
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse))
	switch {
	case resp.StatusCode != http.StatusOK:
		out.err = fmt.Errorf("%s: Slack answered %d", method, resp.StatusCode)
	case err != nil || json.Unmarshal(raw, &got) != nil:
		out.err = fmt.Errorf("%s: the answer cannot be read", method)
	case !got.OK:
		out.err = fmt.Errorf("%s: Slack says %s", method, Clip(got.Error, 100))
	}
	return out, got
}

// interaction is what Slack sends when somebody presses a button; it has more
// members, which do not matter.
type interaction struct {
	Type string `json:"type"`
	User struct {
		ID string `json:"id"`
	} `json:"user"`
	Channel struct {
		ID string `json:"id"`
	} `json:"channel"`
	Actions []struct {
		ActionID string `json:"action_id"`
		Value    string `json:"value"`
	} `json:"actions"`
}

// The parts of the three seconds in which Slack wants an answer.
const (
	slackDecide = 1500 * time.Millisecond
	slackTell   = time.Second
)

// Interaction takes what Slack sends when a button is pressed: header and the
// body, a form with one field, payload. Errors are those of Callback. Who pressed
// is told in the conversation when the word did not count.
func (n *Notifier) Interaction(ctx context.Context, h http.Header, body []byte) error {
	s := n.live.Load().slack
	if s == nil {
		return ErrSignature
	}
	sum, err := verifySlack(s.SigningSecret, h, body, n.Now())
	if err != nil {
		return err
	}
	bad := &gate.FieldError{Field: "payload", Message: "must be the JSON of one pressed button of ours"}
	form, err := url.ParseQuery(string(body))
	if err != nil || len(form["payload"]) != 1 {
		return bad
	}
	var in interaction
	if json.Unmarshal([]byte(form["payload"][0]), &in) != nil || in.Type != "block_actions" || len(in.Actions) != 1 {
		return bad
	}
	w := word{ApprovalID: in.Actions[0].Value, Actor: in.User.ID}
	switch in.Actions[0].ActionID {
	case actionApprove:
		w.Decision = gate.Approve
	case actionDeny:
		w.Decision = gate.DenyIt
	default:
		return bad
	}
	if w.check() != nil {
		return bad
	}
	decideCtx, cancel := context.WithTimeout(ctx, slackDecide)
	defer cancel()
	_, err = n.once(decideCtx, SlackName, []string{"sum " + hex.EncodeToString(sum)}, func() (gate.Approval, error) {
		return n.say(decideCtx, SlackName, s.Actors, w)
	})
	if err != nil && !errors.Is(err, ErrReplayed) {
		tellCtx, cancel := context.WithTimeout(ctx, slackTell)
		defer cancel()
		because := "the sidecar could not store it; try again"
		if final(err) {
			because = err.Error()
		}
		out, _ := s.call(tellCtx, "chat.postEphemeral", map[string]any{
			"channel": in.Channel.ID, "user": in.User.ID, "text": escaped("Nothing was decided: "+because, 1000), "parse": "none", "link_names": false, "mrkdwn": false,
		})
		if out.err != nil {
			n.Log.Info("a Slack user could not be told that nothing was decided: " + out.err.Error())
		}
	}
	return err
}

// verifySlack checks a request of Slack: v0, HMAC-SHA-256 over "v0:TIME:BODY".
// https://docs.slack.dev/authentication/verifying-requests-from-slack
func verifySlack(secret []byte, h http.Header, body []byte, now time.Time) ([]byte, error) {
	stamps, signatures := h.Values("X-Slack-Request-Timestamp"), h.Values("X-Slack-Signature")
	if len(secret) == 0 || len(stamps) != 1 || len(signatures) != 1 {
		return nil, ErrSignature
	}
	if err := fresh(stamps[0], now); err != nil {
		return nil, err
	}
	text, ok := strings.CutPrefix(signatures[0], "v0=")
	sum := mac(secret, "v0:", stamps[0], ":", string(body))
	if !same(text, sum) || !ok {
		return nil, ErrSignature
	}
	return sum, nil
}
