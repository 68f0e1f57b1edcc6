package gate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
)

// Preflight is the body of the preflight call, decoded.
type Preflight struct {
	Tool           string
	Resource       string
	Args           map[string]any // JSON; json.Number or float64 or int64 for numbers
	AgentID        string
	UserID         string
	Goal           string
	Mode           string // "" or one that tightens
	Passport       string
	IdempotencyKey string
	Intent         string // "" or "execute"
}

// IntentExecute says that the caller will run the action itself if it may.
const IntentExecute = "execute"

func (p *Preflight) check() error {
	switch {
	case p.Tool == "":
		return &FieldError{"tool", "is required, for example \"stripe.refund.create\""}
	case len(p.Tool) > clipLen || !printable(p.Tool):
		return &FieldError{"tool", "must be a name of at most 256 printable characters"}
	case strings.IndexFunc(p.Tool, func(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) }) >= 0:
		// No call has such a tool: globs would cover it, and a policy that names the
		// tool would not.
		return &FieldError{"tool", "must be a name without spaces; in the name of an MCP tool a space is %20"}
	case p.AgentID == "":
		return &FieldError{"agent_id", "is required: which agent would act"}
	case len(p.AgentID) > clipLen || !printable(p.AgentID):
		return &FieldError{"agent_id", "must be a name of at most 256 printable characters"}
	case len(p.Resource) > 2048:
		return &FieldError{"resource", "must be at most 2048 characters"}
	case p.Mode != "" && !ValidMode(p.Mode):
		return &FieldError{"mode", "must be monitor, warn, enforce or strict"}
	case p.Intent != "" && p.Intent != IntentExecute:
		return &FieldError{"intent", "must be absent or \"execute\""}
	case len(p.IdempotencyKey) > clipLen:
		return &FieldError{"idempotency_key", "must be at most 256 characters"}
	}
	return nil
}

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) < 0
}

// Preflight judges without sending. refused says that the answer is a deny
// under enforce or strict (HTTP 403). Errors: *FieldError, ErrNotAllowed (the key
// speaks for another agent), ErrUnavailable under enforce and strict when store
// or ledger fail.
func (g *Gate) Preflight(ctx context.Context, id Identity, p Preflight) (d evidence.Decision, refused bool, err error) {
	if err := p.check(); err != nil {
		return evidence.Decision{}, false, err
	}
	if id.BoundAgent != "" && id.BoundAgent != p.AgentID {
		return evidence.Decision{}, false, fmt.Errorf("%w: the key speaks for agent %q, not %q", ErrNotAllowed, id.BoundAgent, clip(p.AgentID))
	}
	id.AgentID = p.AgentID
	rules := g.rules.Load()
	if rules == nil {
		return evidence.Decision{}, false, fmt.Errorf("%w: no policy is loaded yet", ErrUnavailable)
	}
	c := &call{
		Request: &Request{Door: DoorAPI, Identity: id, UserID: p.UserID, Goal: p.Goal, Passport: p.Passport},
		rules:   rules, started: g.now(), id: newID("ev_"), match: &mapping.Match{},
	}
	c.reading.Calls = []mapping.Call{rules.action(&p)}
	c.idempotency = p.IdempotencyKey
	c.judgePreflight(ctx, g, p.Mode)
	v := &c.verdict
	// What comes after it writes to the store only where a passport, an approval or a
	// grant is used, which wait for this share with their own.
	c.soon = p.Intent == IntentExecute && c.claims == nil
	g.limit(ctx, c, p.Intent == IntentExecute)
	c.soon = false
	if p.Intent == IntentExecute && v.do(c.mode) == enforceHold && g.approvedAlready(ctx, c, &p) && c.limited() {
		g.share(ctx, c, c.approval, true)
	}
	g.grantPreflight(ctx, c, &p)
	do := v.do(c.mode)
	acts := p.Intent == IntentExecute && do != enforceBlock && do != enforceHold
	if acts && !c.usesApproval() {
		// The caller acts on this answer: what is good for one use is used now.
		if err := g.claim(ctx, c); err != nil {
			v.passport, v.passportErr = passportInvalid, err
			c.event.Flags = append(c.event.Flags, FlagPassport)
			c.event.Notes = append(c.event.Notes, err.Error())
			if v.do(c.mode) == enforceBlock {
				g.unreserve(c)
			}
		}
		g.flying.land(c.approval)
	}
	d = rules.render(v, c.mode, c.id)
	if d.Enforcement == enforceHold {
		got, answer, err := g.openPreflight(ctx, c, p)
		switch {
		case errors.Is(err, ErrTooMany):
			return evidence.Decision{}, false, err
		case err != nil:
			return evidence.Decision{}, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
		case answer != nil:
			d.Decision, d.ReasonCode, d.Enforcement = policy.Deny.String(), answer.code, enforceBlock
			d.Explain.Summary = sentence(answer.what)
			d.Explain.NextSteps = []string{answer.next}
		}
		d.ApprovalRequestID = got.ID
		c.event.Approval = &evidence.Approval{ID: got.ID, State: got.State}
	} else if c.approval != "" {
		d.ApprovalRequestID = c.approval
		c.event.Approval = &evidence.Approval{ID: c.approval, State: ApprovalApproved}
	}
	c.event.Decision = d
	c.event.Outcome = preflightOutcome(&d, p.Intent)
	err = g.record(ctx, &c.event)
	if c.settled != nil {
		if lost := c.settled(); lost != nil {
			return g.unsettled(ctx, c, p.Intent, err == nil, lost)
		}
	}
	if err != nil && blocking(c.mode) {
		g.unreserve(c)
		g.unclaim(id.TenantID, c.claimed, c.id)
		return evidence.Decision{}, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if acts && c.usesApproval() {
		// On record first, as at the proxy's doors.
		err := g.claim(ctx, c)
		if err != nil {
			return g.outrun(ctx, c, err), true, nil
		}
		g.flying.land(c.approval)
	}
	g.decided(&d, &c.event)
	return d, d.Enforcement == enforceBlock, nil
}

// unsettled judges an action again whose share of a limit was counted and could
// then not be stored, under an id of its own. The event that let it go is ended:
// nobody was told of it.
func (g *Gate) unsettled(ctx context.Context, c *call, intent string, recorded bool, cause error) (d evidence.Decision, refused bool, err error) {
	g.unreserve(c) // it may be stored all the same
	first := c.id
	c.id, c.settled = newID("ev_"), nil
	c.event.ID = c.id
	g.uncounted(c, cause)
	if recorded {
		o := evidence.Outcome{State: evidence.StateRefused, Error: "its share of a limit could not be stored, so nobody was told of it: judged again as " + c.id}
		_ = g.recordOutcome(ctx, first, o) // counted and logged there; without it the event becomes ambiguous
	}
	d = c.rules.render(&c.verdict, c.mode, c.id)
	c.event.Decision, c.event.Outcome = d, preflightOutcome(&d, intent)
	if err := g.record(ctx, &c.event); err != nil && blocking(c.mode) {
		return evidence.Decision{}, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	g.decided(&d, &c.event)
	return d, d.Enforcement == enforceBlock, nil
}

// ErrUnavailable means that a decision could not be made or recorded, and that
// the mode does not let anything pass without one.
var ErrUnavailable = errors.New(ReasonEvidence)

func (c *call) judgePreflight(ctx context.Context, g *Gate, asked string) {
	g.present(ctx, c)
	v := c.rules.decide(c.reading.Calls, c.Identity, c.UserID, c.Goal, c.claims.Map(), c.started)
	c.mode = c.rules.modeFor(v.call.Tool, c.Identity, asked)
	c.holdPassport(&v, "")
	g.approvedBy(ctx, c, &v)
	c.verdict = v
	c.describe(g, nil)
	c.event.Request = nil // there is none
}

// approvedAlready lets an action go on that its caller asked about before and
// that was approved since, by exactly the rule that asks now. The caller needs no
// passport for it, as a held call's own retry needs none; the approval is used by
// claim, once. An error of the store changes nothing here: the question stays.
func (g *Gate) approvedAlready(ctx context.Context, c *call, p *Preflight) bool {
	v := &c.verdict
	name, err := fingerprintPreflight(c.Identity, p.Tool, p.Resource, c.reading.Calls[0].Args, p.IdempotencyKey)
	if err != nil {
		return false
	}
	last, err := g.store.LatestApproval(ctx, c.Identity.TenantID, askedBy(name, v.policy.RuleHash))
	if err != nil || last.State != ApprovalApproved || !g.now().Before(last.UseBefore) {
		return false
	}
	v.effect, c.approval = policy.Allow, last.ID
	v.policy.Summary = fmt.Sprintf("%s Approved as %s.", v.policy.Summary, last.ID)
	v.policy.NextSteps = nil
	return true
}

// preflightOutcome: a pure question is over when it is answered; an action that
// the caller runs itself waits for the caller's word.
func preflightOutcome(d *evidence.Decision, intent string) *evidence.Outcome {
	switch {
	case d.Enforcement == enforceBlock:
		return &evidence.Outcome{State: evidence.StateBlocked}
	case d.Enforcement == enforceHold:
		return &evidence.Outcome{State: evidence.StateHeld}
	case intent == IntentExecute:
		return &evidence.Outcome{State: evidence.StatePending}
	}
	return nil
}

// ReportOutcome takes the caller's word on an action that it executed itself
// after a preflight with intent execute. state: succeeded, failed, unknown.
// pending is the event's own tenant and agent, looked up by the door, and so is
// approval, the one that let the action go, "" for none.
func (g *Gate) ReportOutcome(ctx context.Context, id Identity, eventID, approval, state string, status int, message string) error {
	o := evidence.Outcome{Status: status, Error: clipTo(message, 512)}
	switch state {
	case "succeeded":
		o.State = evidence.StateForwarded
	case "failed":
		o.State = evidence.StateForwarded
		if o.Error == "" {
			o.Error = "failed"
		}
		if status >= 400 && status < 500 {
			g.release(id.TenantID, eventID)
			g.releaseApproved(ctx, id.TenantID, approval, eventID)
		}
	case "unknown":
		o.State = evidence.StateAmbiguous
	default:
		return &FieldError{"state", "must be succeeded, failed or unknown"}
	}
	// Not waiting for the disk: an action whose outcome a machine that loses its power
	// takes along becomes ambiguous, as one whose caller never came back.
	err := g.outcomeBy(eventID, o, g.recorder.Soon)
	if err == nil {
		g.keepOutcome(id.TenantID, approval, o, true)
	}
	return err
}

// releaseApproved gives back the shares that stand under an approval's id, if
// the approval was used for this very event.
func (g *Gate) releaseApproved(ctx context.Context, tenant, approval, eventID string) {
	if approval == "" {
		return
	}
	a, err := g.store.GetApproval(ctx, tenant, approval)
	switch {
	case errors.Is(err, ErrNotFound): // a report so late that the approval was forgotten
	case err != nil:
		// The share stays taken until its window ends: the safe side.
		g.Fault("store", fmt.Errorf("release limits of %s: %w", approval, err))
	case a.ConsumedBy == eventID:
		g.release(tenant, approval)
	}
}
