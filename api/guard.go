package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	strict "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// GuardOptions say how Guard asks. The zero value is good.
type GuardOptions struct {
	Wait    bool          // a held action waits for the human; false: it returns a GuardError of kind held
	WaitFor time.Duration // how long Wait waits at most; 0: until the approval expires
	Attempt time.Duration // of one attempt at a question; 0: 5 s
	Retries int           // further attempts of a question that got no answer; 0: 2, below 0: none

	// ErrorStatus gives the provider's HTTP status of an error of execute's, 0 for
	// none. nil: what the error, or one that it wraps, has as a method or field
	// StatusCode or HTTPStatusCode, or as a field Status.
	ErrorStatus func(error) int
}

// Guarded is what came of Guard.
type Guarded[T any] struct {
	Decision *evidence.Decision // nil when ActPass was out of reach
	Result   T                  // of execute
	Executed bool               // whether execute was called
	Warning  string             // under warn, what policy says against it; or that ActPass was out of reach
	Reported bool               // whether the outcome reached the record; see the API's reportOutcome
}

// Guard asks about a and runs execute when the decision lets it, at most once,
// and reports what came of it. a.Intent is set here.
//
// execute runs where the decision's enforcement is none or warn, whatever its
// word is. Where ActPass is out of reach it runs only if a.Mode is monitor or
// warn, with a nil decision: without a mode, the operator's is not known here,
// and it may be enforce.
//
// The error is a *GuardError where execute was not run, the cause of ctx where
// that ended before, and what execute gave otherwise; r.Executed tells them apart.
// A panic of execute is reported as an unknown outcome, and goes on.
func Guard[T any](ctx context.Context, c *Client, a Action, o GuardOptions, execute func(context.Context, *evidence.Decision) (T, error)) (r Guarded[T], err error) {
	a.Intent = gate.IntentExecute
	g := &guard{Client: c, ask: a, o: o}
	r.Decision, err = g.decide(ctx)
	var fault *GuardError
	switch {
	case err == nil:
	case errors.As(err, &fault) && fault.Kind == GuardUnreachable && fault.Decision == nil && (a.Mode == gate.ModeMonitor || a.Mode == gate.ModeWarn):
		r.Warning = fault.Error()
	default:
		return r, err
	}
	if d := r.Decision; d != nil {
		switch d.Enforcement {
		case enforcementBlock:
			return r, refused(d)
		case enforcementHold:
			return r, held(d)
		case enforcementWarn:
			r.Warning = d.Explain.Summary
			if r.Warning == "" {
				r.Warning = fmt.Sprintf("ActPass warns of %s: %s.", d.Tool, d.ReasonCode)
			}
		}
	}
	if ctx.Err() != nil {
		if r.Decision != nil {
			g.report(ctx, r.Decision, outcomeBody{State: "failed", Status: 499, Error: "aborted before it was run"})
		}
		return r, context.Cause(ctx)
	}
	r.Executed = true
	said := outcomeBody{State: "unknown", Error: "panic"}
	defer func() {
		if r.Decision != nil {
			r.Reported = g.report(ctx, r.Decision, said)
		}
	}()
	r.Result, err = execute(ctx, r.Decision)
	said = g.came(err)
	return r, err
}

const (
	enforcementNone  = "none"
	enforcementWarn  = "warn"
	enforcementBlock = "block"
	enforcementHold  = "hold"
)

// guard is one call of Guard.
type guard struct {
	*Client
	ask Action
	o   GuardOptions
}

// decide asks, and where the action is held and the caller wants it, waits for the
// human and asks again. After a fault the decision is the one that held it.
func (g *guard) decide(ctx context.Context) (*evidence.Decision, error) {
	switch {
	case g.ask.Tool == "":
		return nil, misused("tool is required, as in stripe.refund.create", nil)
	case g.ask.AgentID == "":
		return nil, misused("agent_id is required: the agent that acts", nil)
	case checkMode(g.ask.Mode) != nil:
		return nil, misused("mode must be monitor, warn, enforce or strict; without it the operator's holds", nil)
	}
	// Encoded once: what is asked again after a wait is what was asked first,
	// whatever became of the arguments in the meantime.
	body, err := json.Marshal(g.ask)
	if err != nil {
		return nil, misused("the action cannot be written as JSON: "+err.Error(), err)
	}
	d, err := g.question(ctx, body)
	if err != nil || d.Enforcement != enforcementHold || !g.o.Wait || d.ApprovalRequestID == "" {
		return d, err
	}
	again, err := g.waited(ctx, body, d)
	var fault *GuardError
	if errors.As(err, &fault) {
		// It was held: whatever mode was asked for, nothing runs unasked now.
		fault.Decision = d
	}
	if err != nil {
		return d, err
	}
	return again, nil
}

func (g *guard) waited(ctx context.Context, body json.RawMessage, d *evidence.Decision) (*evidence.Decision, error) {
	var end time.Time
	if g.o.WaitFor > 0 {
		end = time.Now().Add(g.o.WaitFor)
	}
	id := d.ApprovalRequestID
	for {
		wait := MaxWait / 2
		if !end.IsZero() {
			wait = max(0, min(wait, time.Until(end)))
		}
		began := time.Now()
		q := url.Values{"wait": {fmt.Sprintf("%dms", wait.Milliseconds())}}
		status, text, err := g.repeat(ctx, http.MethodGet, "/api/v1/approvals/"+url.PathEscape(id), q, nil, wait+g.attempt())
		if err != nil {
			return nil, err
		}
		var a struct {
			ID    string `json:"id"`
			State string `json:"state"`
		}
		switch {
		case status != http.StatusOK:
			return nil, said(status, text)
		case strict.Unmarshal(text, &a) != nil || a.State == "" || a.ID != id:
			return nil, unreachable("its answer is not the approval", nil)
		case a.State == gate.ApprovalExpired:
			return nil, &GuardError{Kind: GuardExpired, message: fmt.Sprintf("approval %s expired, and %s was not run; call Guard again to ask anew", id, d.Tool)}
		case a.State != gate.ApprovalPending:
			// Judged again: the approval is used here, once, whoever else waits for it.
			return g.question(ctx, body)
		case !end.IsZero() && !time.Now().Before(end):
			return nil, &GuardError{Kind: GuardExpired, message: fmt.Sprintf("nobody decided approval %s in time, and %s was not run; call Guard again, unchanged, to wait for it", id, d.Tool)}
		}
		// It answers when something is decided, or when the wait is over: one that
		// answers at once is asked no faster for it.
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(min(200*time.Millisecond, wait-time.Since(began))):
		}
	}
}

// question asks for the decision. What is not wholly one is none, nor is one about
// another action, or of a looser mode than was asked for.
func (g *guard) question(ctx context.Context, body json.RawMessage) (*evidence.Decision, error) {
	status, text, err := g.repeat(ctx, http.MethodPost, "/api/v1/actions/preflight", nil, body, g.attempt())
	if err != nil {
		return nil, err
	}
	// Strictly, unlike encoding/json, to which ENFORCEMENT is as good as enforcement.
	var has struct {
		Decision *jsontext.Value `json:"decision"`
	}
	decided := strict.Unmarshal(text, &has) == nil && has.Decision != nil && (status == http.StatusOK || status == http.StatusForbidden)
	if !decided && (status < 200 || status > 299) {
		return nil, said(status, text)
	}
	var d evidence.Decision
	if !decided || strict.Unmarshal(text, &d) != nil || !whole(&d) {
		return nil, unreachable("its answer is no decision", nil)
	}
	switch {
	case d.Tool != g.ask.Tool || d.Resource != g.ask.Resource:
		return nil, unreachable("its answer is about another action", nil)
	case slices.Index(modes, d.Mode) < slices.Index(modes, g.ask.Mode):
		return nil, unreachable(fmt.Sprintf("its answer is of mode %s, and %s was asked for", d.Mode, g.ask.Mode), nil)
	}
	blocks := d.Mode == gate.ModeEnforce || d.Mode == gate.ModeStrict
	if d.Enforcement != enforcementHold && (status == http.StatusForbidden || blocks && d.Decision != "allow") {
		d.Enforcement = enforcementBlock
	}
	return &d, nil
}

// modes, the looser first.
var modes = []string{gate.ModeMonitor, gate.ModeWarn, gate.ModeEnforce, gate.ModeStrict}

func whole(d *evidence.Decision) bool {
	switch d.Enforcement {
	case enforcementNone, enforcementWarn, enforcementBlock, enforcementHold:
		return d.Decision != "" && d.ReasonCode != "" && d.Tool != "" && slices.Contains(modes, d.Mode) && d.Explain.MatchedRules != nil && d.Explain.NextSteps != nil &&
			isID(d.EvidenceEventID) && (d.ApprovalRequestID == "" || isID(d.ApprovalRequestID))
	}
	return false
}

// isID says that s may stand in a path as it is.
func isID(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

// came says what to report of what execute gave. Without an answer of the
// provider's it may have happened. The error's text may hold secrets: its type
// alone is reported.
func (g *guard) came(err error) outcomeBody {
	if err == nil {
		return outcomeBody{State: "succeeded"}
	}
	status := g.o.ErrorStatus
	if status == nil {
		status = statusOf
	}
	o := outcomeBody{State: "unknown", Error: fmt.Sprintf("%.100T", err)}
	if n := status(err); n >= 100 && n <= 599 {
		o.State, o.Status = "failed", n
	}
	return o
}

func statusOf(err error) int {
	for ; err != nil; err = errors.Unwrap(err) {
		v := reflect.ValueOf(err)
		if v.Kind() == reflect.Pointer && v.IsNil() {
			return 0
		}
		switch e := err.(type) {
		case interface{ StatusCode() int }:
			return e.StatusCode()
		case interface{ HTTPStatusCode() int }:
			return e.HTTPStatusCode()
		}
		s := reflect.Indirect(v)
		if s.Kind() != reflect.Struct {
			continue
		}
		for _, name := range []string{"StatusCode", "HTTPStatusCode", "Status"} {
			at, ok := s.Type().FieldByName(name)
			if !ok {
				continue
			}
			if f, err := s.FieldByIndexErr(at.Index); err == nil && f.CanInt() {
				return int(f.Int())
			}
		}
	}
	return 0
}

// report gives the caller's word, also when ctx has ended: the action was taken.
func (g *guard) report(ctx context.Context, d *evidence.Decision, o outcomeBody) bool {
	body, err := json.Marshal(o)
	if err != nil {
		return false
	}
	status, _, err := g.repeat(context.WithoutCancel(ctx), http.MethodPost, "/api/v1/actions/"+url.PathEscape(d.EvidenceEventID)+"/outcome", nil, body, g.attempt())
	return err == nil && status == http.StatusOK
}
