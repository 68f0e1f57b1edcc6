package gate

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/passport"
	"github.com/actpass/sidecar/policy"
)

// retryAfter is what a client is told to wait before it comes back to a hold
// that goes on.
const retryAfter = 5 * time.Second

// fullAfter is what a client is told to wait when no more may be held: longer,
// because people make room, not machines.
const fullAfter = 30 * time.Second

// hold asks a human about a call. It answers with the call itself, when it has to
// wait, or as Check does. No upstream connection exists meanwhile.
//
// If we crash while it waits, nothing was sent: the approval stands as a record
// and the client's own retry attaches to it.
func (g *Gate) hold(ctx context.Context, c *call) (held *Waiting, permit *Permit, refusal *Refusal) {
	if err := c.readBody(c.rules.MaxInspect); err != nil {
		c.verdict.refuse = closedBy([]mapping.Ambiguity{malformedBody(err)})
		return nil, nil, g.block(ctx, c)
	}
	if c.Body != nil && !c.out.Whole {
		c.verdict.refuse = &closed{413, ReasonTooLarge, "a call that waits for a human must be readable as a whole, and the body is larger than limits.max_inspect_bytes"}
		return nil, nil, g.block(ctx, c)
	}
	c.describeBody()
	// What asked, before limits add their own question to it.
	c.asked = c.verdict.policy.RuleHash
	if ref := g.limitHeld(ctx, c); ref != nil {
		return nil, nil, ref
	}
	if g.granted(ctx, c, func() string { return askedBy(fingerprint(c), c.asked) }, true) {
		permit, refusal = g.permit(ctx, c)
		return nil, permit, refusal
	}
	if c.verdict.do(c.mode) == enforceBlock {
		return nil, nil, g.block(ctx, c)
	}
	a := g.approvalOf(c)
	got, ref, err := g.open(ctx, c, a)
	switch {
	case ref != nil:
		return nil, nil, ref
	case errors.Is(err, ErrTooMany):
		return nil, nil, g.tooMany(ctx, c, err)
	case err != nil:
		return nil, nil, g.storeDown(ctx, c, err)
	}
	if ref := g.reserveHeld(ctx, c, got); ref != nil {
		return nil, nil, ref
	}
	d := c.rules.render(&c.verdict, c.mode, c.id)
	d.ApprovalRequestID = got.ID
	c.event.Decision = d
	c.event.Approval = &evidence.Approval{ID: got.ID, State: got.State}
	c.event.Outcome = &evidence.Outcome{State: evidence.StateHeld}
	if err := g.record(ctx, &c.event); err != nil {
		return nil, nil, g.unrecordable(c, err)
	}
	g.decided(&d, &c.event)
	return &Waiting{g: g, c: c}, nil, nil
}

// room is how many may wait for a human.
func (r *Rules) room() Room { return Room{Tenant: r.MaxHolds, Agent: r.MaxHoldsPerAgent} }

// tooMany refuses a call for whose question there is no room. It was not asked:
// coming back is right, once some of those that wait are decided.
func (g *Gate) tooMany(ctx context.Context, c *call, err error) *Refusal {
	c.verdict.refuse = &closed{429, ReasonTooMany, "too many calls wait for a human already"}
	if errors.Is(err, ErrTooManyOfAgent) {
		c.verdict.refuse = &closed{429, ReasonTooManyOfAgent, "too many calls of this agent wait for a human already"}
	}
	r := g.block(ctx, c)
	r.RetryAfter = fullAfter
	return r
}

// open finds the open approval of a call or opens one, unless the question was
// answered already: then the refusal, or the recorded answer, is given.
func (g *Gate) open(ctx context.Context, c *call, a Approval) (Approval, *Refusal, error) {
	for {
		last, err := g.store.LatestApproval(ctx, a.TenantID, a.Fingerprint)
		switch {
		case err == nil:
			if ref := g.settled(ctx, c, last); ref != nil {
				return Approval{}, ref, nil
			}
			a.Seen = seen(last)
		case errors.Is(err, ErrNotFound):
			a.Seen = SeenNone
		default:
			return Approval{}, nil, err
		}
		got, opened, err := g.store.OpenApproval(ctx, a, c.rules.room())
		if err != nil || opened || got.State == ApprovalPending || got.State == ApprovalApproved {
			return got, nil, err
		}
		// Answered between the two: look again.
	}
}

// seen is last as OpenApproval is told of it. One that was still open when it was
// looked at does not count as seen: it may have been used since, and the call must
// then be answered by it and not ask again.
func seen(last Approval) string {
	if last.State == ApprovalPending || last.State == ApprovalApproved {
		return SeenNone
	}
	return last.ID
}

// stillHeld tells the client to come back: its retry attaches to the same hold.
func (g *Gate) stillHeld(ctx context.Context, c *call, approval, why string) *Refusal {
	_ = g.recordOutcome(ctx, c.id, evidence.Outcome{State: evidence.StateHeld, Status: 503, DurationMS: g.since(c.started), Error: why})
	d := c.event.Decision
	r := c.refusal(503, d)
	r.Retry, r.RetryAfter, r.Approval = true, retryAfter, approval
	r.Sentence = fmt.Sprintf("ActPass holds this call for a human: %s on %s. %s It was not sent. Approval request %s is open; send the same call again%s to wait for it. Evidence: %s.",
		d.Tool, d.Resource, d.Explain.Summary, approval, sameKey(c), c.id)
	return r
}

var plainKey = regexp.MustCompile(`^[A-Za-z0-9._~-]{1,255}$`)

// sameKey names the idempotency key that the call had: it is part of what is
// asked, and SDKs make a new one for each call that their caller makes.
func sameKey(c *call) string {
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		switch key := first(c.Head.Header[name]); {
		case key == "":
		case plainKey.MatchString(key):
			return ", with " + name + " " + key
		default:
			return ", with the same " + name
		}
	}
	return ""
}

// settled answers a call whose approval has been decided against, or used,
// already; nil when a new hold may be opened.
func (g *Gate) settled(ctx context.Context, c *call, a Approval) *Refusal {
	switch a.State {
	case ApprovalDenied:
		if g.now().After(a.AnswersUntil()) {
			return nil
		}
		return g.refuseApproval(ctx, c, a, 403, ReasonDenied, "a human denied this call"+reasonOf(a), false)
	case ApprovalConsumed:
		until := a.AnswersUntil()
		if !hasKey(c) {
			until = lastMove(a).Add(consumedFor)
		}
		if g.now().After(until) || g.anotherMessage(ctx, c, a) {
			return nil
		}
		return g.replay(ctx, c, a, false)
	case ApprovalExpired:
		// As it would have heard had it waited: a client that was told to come back is
		// answered by what it asked, and asks anew when it comes later.
		if !g.now().After(a.AnswersUntil()) {
			return g.refuseApproval(ctx, c, a, 403, ReasonExpired, notInTime(a), false)
		}
	case ApprovalCancelled:
		// Also for a client that was told to come back a moment before.
		if byHand(a) && !g.now().After(a.AnswersUntil()) {
			return g.refuseApproval(ctx, c, a, 403, ReasonCancelled, cancelled(a), false)
		}
	}
	return nil
}

// cancelledFor is how long a cancelled request answers for retries of its call:
// those that a client makes by itself come sooner, and asking anew comes later.
const cancelledFor = time.Minute

// expiredFor is how long one that expired does, for the same reason.
const expiredFor = time.Minute

// notInTime says which of its two times a has let pass.
func notInTime(a Approval) string {
	if a.UseBefore.IsZero() {
		return "nobody decided in time"
	}
	return "it was approved, and not used in time"
}

// byHand says that somebody cancelled a, and not the sidecar for want of room in a
// limit, which the next attempt may find.
func byHand(a Approval) bool {
	return len(a.Votes) > 0 && a.Votes[len(a.Votes)-1].KeyID != systemActor
}

func cancelled(a Approval) string {
	what := "the approval request was cancelled"
	if n := len(a.Votes); n > 0 && a.Votes[n-1].Decision == Cancel && a.Votes[n-1].Reason != "" {
		what += ": " + clip(a.Votes[n-1].Reason)
	}
	return what
}

// AnswersUntil is the moment until which a, once it is closed, answers for other
// attempts at its call: a store keeps it until then, whatever else it forgets.
func (a *Approval) AnswersUntil() time.Time {
	switch a.State {
	case ApprovalDenied:
		return lastMove(*a).Add(settledFor(*a))
	case ApprovalConsumed:
		return lastMove(*a).Add(consumedForWithKey)
	case ApprovalCancelled:
		return lastMove(*a).Add(cancelledFor)
	case ApprovalExpired:
		end := a.ExpiresAt
		if !a.UseBefore.IsZero() {
			end = a.UseBefore
		}
		return end.Add(expiredFor)
	}
	return lastMove(*a)
}

// settledFor is how long a settled approval answers for retries of its call.
func settledFor(a Approval) time.Duration {
	if a.UseWithin > 0 {
		return a.UseWithin
	}
	return 15 * time.Minute
}

// hasKey says that the caller marks its attempts at one call as such.
func hasKey(c *call) bool {
	return first(c.Head.Header["Idempotency-Key"]) != "" || first(c.Head.Header["X-Idempotency-Key"]) != ""
}

func lastMove(a Approval) time.Time {
	if !a.DecidedAt.IsZero() {
		return a.DecidedAt
	}
	return a.CreatedAt
}

func reasonOf(a Approval) string {
	for i := len(a.Votes) - 1; i >= 0; i-- {
		if r := a.Votes[i].Reason; r != "" {
			return ": " + clip(r)
		}
	}
	return ""
}

// noPassportNow is how an approved call is refused whose passport has become useless.
func noPassportNow(e *passport.Error) (status int, detail string) {
	if e.Code == ReasonStore {
		return 503, e.Detail
	}
	return 403, "the passport is not valid any more: " + e.Detail
}

// refuseApproval refuses for what became of an approval. held says that the
// event of this call stands already and only its outcome is missing.
func (g *Gate) refuseApproval(ctx context.Context, c *call, a Approval, status int, code, what string, held bool) *Refusal {
	d := c.rules.render(&c.verdict, c.mode, c.id)
	d.Decision, d.ReasonCode, d.Enforcement = policy.Deny.String(), code, enforceBlock
	d.ApprovalRequestID = a.ID
	d.Explain.Summary = sentence(what)
	d.Explain.NextSteps = []string{"Do not retry it unchanged."}
	if code == ReasonExpired {
		d.Explain.NextSteps = []string{"Send it again in a minute to ask again."}
	}
	state := evidence.StateBlocked
	if held {
		_ = g.recordOutcome(ctx, c.id, evidence.Outcome{State: state, Status: status, DurationMS: g.since(c.started), Error: code})
	} else {
		c.event.Decision = d
		c.event.Approval = &evidence.Approval{ID: a.ID, State: a.State}
		c.event.Outcome = &evidence.Outcome{State: state, Status: status}
		if err := g.record(ctx, &c.event); err != nil {
			return g.unrecordable(c, err)
		}
		g.decided(&d, &c.event)
	}
	r := c.refusal(status, d)
	r.Approval = a.ID
	return r
}

// decidedHold goes on with a call whose approval is not pending any more.
func (g *Gate) decidedHold(ctx context.Context, c *call, a Approval) (*Permit, *Refusal) {
	switch a.State {
	case ApprovalApproved:
		return g.useApproval(ctx, c, a)
	case ApprovalDenied:
		return nil, g.refuseApproval(ctx, c, a, 403, ReasonDenied, "a human denied this call"+reasonOf(a), true)
	case ApprovalExpired:
		return nil, g.refuseApproval(ctx, c, a, 403, ReasonExpired, notInTime(a), true)
	case ApprovalConsumed:
		return nil, g.replay(ctx, c, a, true)
	}
	return nil, g.refuseApproval(ctx, c, a, 403, ReasonCancelled, cancelled(a), true)
}

// useApproval uses an approval for this one call.
//
// The order matters. The policy now in force judges again; then the release is
// on record, durably; then the approval is consumed, durably; only then does the
// permit exist. If we crash after the release, the event stays without an outcome
// and becomes ambiguous: the record claims more than happened, never less. Was the
// approval not consumed yet, it can be used still; was it, the call may be lost, on
// record, and is never doubled. The other way round a crash between the two would
// use the approval up for a call that the record has as held.
func (g *Gate) useApproval(ctx context.Context, c *call, a Approval) (*Permit, *Refusal) {
	rules := g.rules.Load()
	again := rules.decide(c.reading.Calls, c.Identity, c.UserID, c.Goal, c.claims.Map(), g.now())
	switch {
	case again.effect == policy.Deny:
		c.rules, c.verdict.policy, c.verdict.effect = rules, again.policy, again.effect
		return nil, g.refuseApproval(ctx, c, a, 403, again.policy.ReasonCode,
			"it was approved, but the policy now in force denies it: "+again.policy.Summary, true)
	case again.effect == policy.RequireApproval && askedBy(callOf(a.Fingerprint), again.policy.RuleHash) != a.Fingerprint:
		return nil, g.refuseApproval(ctx, c, a, 403, again.policy.ReasonCode,
			"it was approved under a rule that has changed since; send it again to ask under the new rule", true)
	}
	if c.claims != nil && !g.now().Before(c.claims.ExpiresAt.Add(passport.Leeway)) {
		return nil, g.refuseApproval(ctx, c, a, 403, passport.ReasonExpired, "the passport expired while the call waited; call again with a new one", true)
	}
	if c.claims != nil {
		// Its key may have been dropped meanwhile. Use and revocation are claim's.
		var e *passport.Error
		if _, err := g.verify(c.token, ""); errors.As(err, &e) {
			status, detail := noPassportNow(e)
			return nil, g.refuseApproval(ctx, c, a, status, e.Code, detail, true)
		}
	}
	if ref := g.reserveApproved(ctx, c, a, again.policy); ref != nil {
		return nil, ref
	}
	if err := g.recordOutcome(ctx, c.id, evidence.Outcome{State: evidence.StatePending}); err != nil {
		return nil, g.refuseApproval(ctx, c, a, 503, ReasonEvidence, "the release could not be put on record, so nothing was sent", true)
	}
	used, err := g.store.Consume(ctx, a.TenantID, a.ID, c.id, g.now())
	switch {
	case errors.Is(err, ErrIllegalState):
		now, err := g.store.GetApproval(ctx, a.TenantID, a.ID)
		if err == nil && now.State != ApprovalApproved {
			return g.decidedHold(ctx, c, now)
		}
		return nil, g.refuseApproval(ctx, c, a, 403, ReasonExpired, "the approval was not used in time", true)
	case err != nil:
		return nil, g.refuseApproval(ctx, c, a, 503, ReasonStore, "the approval could not be used, because the store did not answer", true)
	}
	c.consumed = true
	g.flying.start(a.ID)
	g.recordTransitions(ctx)
	g.waits.wake(a.ID)
	c.out.Once, c.out.Counted = true, true
	if err := g.claim(ctx, c); err != nil {
		var e *passport.Error
		if errors.As(err, &e) {
			g.flying.land(a.ID)
			g.unreserve(c)
			status, detail := noPassportNow(e)
			g.keepOutcome(a.TenantID, a.ID, evidence.Outcome{State: evidence.StateBlocked, Status: status, Error: clipTo(e.Code+": "+e.Detail, 512)}, false)
			return nil, g.refuseApproval(ctx, c, used, status, e.Code, detail, true)
		}
	}
	return &Permit{
		gate: g, out: c.out, decision: c.event.Decision, started: c.started, tenant: c.Identity.TenantID,
		recorded: true, reservation: c.reservation, passport: c.claimed, approval: a.ID, rpcID: c.rpcID(),
	}, nil
}

func (g *Gate) storeDown(ctx context.Context, c *call, err error) *Refusal {
	g.Fault("store", fmt.Errorf("open an approval: %w", err))
	c.fault("the store did not answer, so no approval could be asked for")
	c.verdict.refuse = &closed{503, ReasonStore, "this call needs a human, and no approval could be asked for, because the store did not answer"}
	return g.block(ctx, c)
}
