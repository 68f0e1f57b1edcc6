package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// Kinds of GuardError.
const (
	GuardRefused     = "refused"     // policy, a passport or a human said no
	GuardHeld        = "held"        // a human has to decide first
	GuardExpired     = "expired"     // the approval was not given, or not used, in time
	GuardUnreachable = "unreachable" // no usable answer came from ActPass
	GuardMisused     = "misused"     // a bad key, a bad argument: to repeat it changes nothing
)

// GuardError says why an action was not run, and what to do. Nothing secret is in it.
type GuardError struct {
	Kind       string
	Decision   *evidence.Decision // nil when none was made
	ApprovalID string             // of kind held: the approval that is open
	message    string
	cause      error // of kind misused an *Error where the API answered
}

func (e *GuardError) Error() string { return e.message }

func (e *GuardError) Unwrap() error { return e.cause }

func refused(d *evidence.Decision) error {
	rule, next := "", "Do not retry it unchanged."
	if len(d.Explain.MatchedRules) > 0 {
		rule = " Rule: " + strings.Join(d.Explain.MatchedRules, ", ") + "."
	}
	if len(d.Explain.NextSteps) > 0 {
		next = strings.Join(d.Explain.NextSteps, " ")
	}
	return &GuardError{Kind: GuardRefused, Decision: d, message: fmt.Sprintf("ActPass refused %s, and it was not run. %s%s Reason: %s. %s", d.Tool, d.Explain.Summary, rule, d.ReasonCode, next)}
}

func held(d *evidence.Decision) error {
	id := d.ApprovalRequestID
	return &GuardError{Kind: GuardHeld, Decision: d, ApprovalID: id, message: fmt.Sprintf("ActPass holds %s for a human, and it was not run. %s Reason: %s. Approval %s is open: wait for it, then call Guard again unchanged.", d.Tool, d.Explain.Summary, d.ReasonCode, id)}
}

func misused(what string, cause error) error {
	return &GuardError{Kind: GuardMisused, message: "ActPass did not take the call: " + what, cause: cause}
}

func unreachable(what string, cause error) error {
	return &GuardError{Kind: GuardUnreachable, message: "ActPass could not be asked: " + what + "; check that the sidecar runs and that the base URL names its API", cause: cause}
}

// said turns an answer that is no success into a misuse with what the API says.
func said(status int, text []byte) error {
	var e *Error
	if err := answerError(status, text, nil); errors.As(err, &e) && e.Field != "" {
		return misused(e.Field+": "+e.Message, e)
	}
	return misused(e.Message, e)
}

func (g *guard) attempt() time.Duration {
	if g.o.Attempt > 0 {
		return g.o.Attempt
	}
	return 5 * time.Second
}

// repeat asks one question, again while it is the server's or the network's fault:
// no connection, a time-out, 429, 5xx. Every attempt carries the same
// Idempotency-Key, so a repetition is not a second question. The answer's text is
// JSON. Errors: *GuardError of kind unreachable, the cause of ctx.
func (g *guard) repeat(ctx context.Context, method, path string, q url.Values, body json.RawMessage, limit time.Duration) (status int, text []byte, err error) {
	retries := g.o.Retries
	if retries == 0 {
		retries = 2
	}
	key := rand.Text()
	for n := 0; ; n++ {
		wait := time.Duration((0.5 + mathrand.Float64()/2) * float64(min(2*time.Second, 100*time.Millisecond<<min(n, 10))))
		status, text, after, err := g.once(ctx, method, path, q, body, key, limit)
		var problem string
		switch {
		case err != nil && ctx.Err() != nil:
			return 0, nil, context.Cause(ctx)
		case errors.Is(err, context.DeadlineExceeded):
			problem = fmt.Sprintf("no answer within %v", limit)
		case errors.Is(err, errOther):
			problem = errOther.Error()
		case err != nil:
			problem = "no connection"
		case status != http.StatusTooManyRequests && status < 500:
			if !json.Valid(text) { // which nil is not
				return 0, nil, unreachable(fmt.Sprintf("what answers there is not ActPass (HTTP %d, no JSON)", status), nil)
			}
			return status, text, nil
		default:
			problem = fmt.Sprintf("it answered %d", status)
			if after > 0 {
				wait = min(after, 5*time.Second)
			}
		}
		if n >= retries {
			return 0, nil, unreachable(problem, err)
		}
		select {
		case <-ctx.Done():
			return 0, nil, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

var errOther = errors.New("its answer was to another question")

func (g *guard) once(ctx context.Context, method, path string, q url.Values, body json.RawMessage, key string, limit time.Duration) (int, []byte, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var in any
	if body != nil {
		in = body
	}
	req, err := g.request(ctx, method, path, q, in)
	if err != nil {
		return 0, nil, 0, err
	}
	if method == http.MethodPost {
		req.Header.Set("Idempotency-Key", key)
	}
	// Its id comes back in the answer: one that was meant for another question, on a
	// connection that somebody mixed up, is none.
	id := rand.Text()
	req.Header.Set("X-Request-Id", id)
	resp, err := g.roundTrip(req)
	if err != nil {
		return 0, nil, 0, err
	}
	defer resp.Body.Close()
	if of := resp.Header.Get("X-Request-Id"); of != "" && of != id {
		return 0, nil, 0, errOther
	}
	text, err := readAnswer(resp)
	if err != nil {
		return 0, nil, 0, fmt.Errorf("read the answer of %s %s: %w", method, path, err)
	}
	if t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || t != "application/json" {
		text = nil // a page of somebody else's, whatever is on it
	}
	// Whoever answers: what is secret in the question is in no error.
	for _, secret := range []string{g.key, g.ask.Passport} {
		if secret != "" {
			text = bytes.ReplaceAll(text, []byte(secret), []byte("***"))
		}
	}
	after, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	return resp.StatusCode, text, time.Duration(min(max(after, 0), 60)) * time.Second, nil
}
