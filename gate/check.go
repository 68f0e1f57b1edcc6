package gate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/passport"
	"github.com/actpass/sidecar/policy"
)

// call is one Request on its way through Check.
type call struct {
	*Request
	rules   *Rules
	match   *mapping.Match
	reading mapping.Reading
	out     Outbound
	mode    string
	id      string // of the event
	started time.Time
	verdict verdict
	event   evidence.Event
	// reservation is the id under which shares of limits are taken, "" for none.
	reservation string
	soon        bool         // a share may still be on its way to the disk while the event is
	settled     func() error // waits for a share that was taken so, nil for none

	claims      *passport.Claims // of a passport that is good so far
	token       string           // that they are from
	passportErr error            // what is wrong with the one presented
	approval    string           // id of the approval whose passport satisfies the rule
	asked       string           // hash of the rule that asks for one
	idempotency string           // key of a preflight
	claimed     string           // jti whose use was taken
	consumed    bool             // the approval of its passport was used for this call
	grant       string           // id of the grant of which it has a use, "" for none
}

// Check judges one call. Exactly one of permit and refusal is not nil; should
// both be nil, that is a refusal. It blocks while the call is held, up to the
// hold budget or until ctx ends.
func (g *Gate) Check(ctx context.Context, r *Request) (*Permit, *Refusal) {
	held, permit, refusal := g.Begin(ctx, r)
	if held != nil {
		return held.Wait(ctx)
	}
	return permit, refusal
}

// Begin is Check up to where a call begins to wait for a human: then held is that
// call, on record and with its question open, and its caller may let go of all that
// it does not need while it waits. Exactly one of the three is not nil; should all
// be nil, that is a refusal.
func (g *Gate) Begin(ctx context.Context, r *Request) (held *Waiting, permit *Permit, refusal *Refusal) {
	defer func() {
		if p := recover(); p != nil {
			held, permit, refusal = nil, nil, g.panicked(ctx, r, p)
		}
	}()
	return g.check(ctx, r)
}

// panicked is the refusal of a call whose judgement panicked; nil, which is one too,
// where recording it panics as well.
func (g *Gate) panicked(ctx context.Context, r *Request, p any) (refusal *Refusal) {
	defer func() {
		if again := recover(); again != nil {
			g.log.Error("panic while recording a panic", zap.Any("panic", again))
		}
	}()
	g.observer.Fault("panic")
	g.log.Error("panic while judging a call", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
	return g.Reject(ctx, r, 500, ReasonInternal, "the call could not be judged: an internal fault, which was logged")
}

// check is Begin, which answers for its panics.
func (g *Gate) check(ctx context.Context, r *Request) (held *Waiting, permit *Permit, refusal *Refusal) {
	rules := g.rules.Load()
	if rules == nil {
		return nil, nil, g.Reject(ctx, r, 503, ReasonInternal, "the sidecar has no policy loaded yet")
	}
	c := &call{Request: r, rules: rules, started: g.now(), id: newID("ev_")}
	clock := time.Now()
	c.read(rules.MaxInspect)
	g.judge(ctx, c)
	switch c.verdict.do(c.mode) {
	case enforceHold:
		onFreshStack(func() { held, permit, refusal = g.hold(ctx, c) })
		return held, permit, refusal
	case enforceBlock:
		return nil, nil, g.block(ctx, c)
	}
	permit, refusal = g.permit(ctx, c)
	g.observer.Overhead(time.Since(clock))
	return nil, permit, refusal
}

func (v *verdict) do(mode string) string { return enforcement(mode, v) }

// read maps the request, and reads its body where the rule wants it.
func (c *call) read(max int64) {
	c.out = Outbound{Head: c.Head}
	c.match = c.rules.Mapping.Match(&c.Head)
	if c.Tunnel {
		tool := "http.connect"
		if c.Bare {
			tool = "tcp.connect"
		}
		c.reading = mapping.Reading{Calls: []mapping.Call{{
			Tool: tool, Resource: c.match.Authority(), Risk: mapping.RiskHigh,
		}}}
		for _, a := range c.match.Ambiguous {
			if a.Class == mapping.ClassAuthority {
				c.reading.Ambiguous = append(c.reading.Ambiguous, a)
			}
		}
		return
	}
	var fault error
	if c.match.NeedBody {
		fault = c.readBody(max)
	}
	c.reading = c.match.Read(c.out.Body, c.Body == nil || c.out.Read && c.out.Whole)
	c.boundNames()
	if !c.match.PlainNames() {
		asked := ""
		for i := range c.reading.Calls {
			if tool := c.reading.Calls[i].Tool; tool != asked {
				asked = tool
				c.reading.Ambiguous = append(c.reading.Ambiguous, c.match.Unsure(c.rules.Policy.ReadsOnce(tool))...)
			}
		}
	}
	if fault != nil {
		c.reading.Ambiguous = append([]mapping.Ambiguity{malformedBody(fault)}, c.reading.Ambiguous...)
	}
}

// Bounds of what a call may be called, in bytes. Real names are far shorter; what
// is longer would fill the record with one argument.
const (
	maxTool     = 256
	maxResource = 2048
)

// boundNames cuts names that no call has, and counts them as ambiguous.
func (c *call) boundNames() {
	for i := range c.reading.Calls {
		one := &c.reading.Calls[i]
		if len(one.Tool) <= maxTool && len(one.Resource) <= maxResource {
			continue
		}
		c.reading.Ambiguous = append(c.reading.Ambiguous, mapping.Ambiguity{
			Class: mapping.ClassBody, Status: 400,
			Detail: fmt.Sprintf("the resource that the call would have is %d bytes long, and %d are the most", len(one.Resource), maxResource),
		})
		one.Tool, one.Resource = clipTo(one.Tool, maxTool), clipTo(one.Resource, maxResource)
	}
}

func malformedBody(err error) mapping.Ambiguity {
	return mapping.Ambiguity{Class: mapping.ClassBody, Detail: "the body could not be read: " + err.Error(), Status: 400}
}

func (c *call) readBody(max int64) error {
	if c.Body == nil || c.out.Read {
		return nil
	}
	data, whole, err := c.Body.Peek(max)
	c.out.Body, c.out.Whole, c.out.Read = data, whole && err == nil, true
	return err
}

// judge fills verdict, mode and event.
func (g *Gate) judge(ctx context.Context, c *call) {
	g.present(ctx, c)
	v := c.rules.decide(c.reading.Calls, c.Identity, c.UserID, c.Goal, c.claims.Map(), c.started)
	if v.call == nil {
		v.call, v.risk = &mapping.Call{Tool: "http.unknown"}, mapping.RiskHigh
		v.refuse = &closed{400, ReasonMalformed, "the request names no call"}
	}
	c.mode = c.rules.modeFor(v.call.Tool, c.Identity, "")
	for i := range c.reading.Calls {
		c.mode = stricter(c.mode, c.rules.modeFor(c.reading.Calls[i].Tool, c.Identity, ""))
	}
	c.mode = stricter(c.mode, c.Floor)
	ambiguous := append(c.Findings, c.reading.Ambiguous...)
	if v.refuse == nil {
		v.refuse = closedBy(ambiguous)
	}
	if v.refuse == nil && c.match.Rule == nil && !c.Tunnel && c.match.UnmappedDenied() && v.effect != policy.Deny {
		v.effect, v.policy = policy.Deny, c.unmapped()
	}
	c.holdPassport(&v, c.requestHash())
	g.approvedBy(ctx, c, &v)
	c.verdict = v
	c.describe(g, ambiguous)
	g.limit(ctx, c, true)
}

func (c *call) unmapped() policy.Decision {
	return policy.Decision{
		ReasonCode: ReasonUnmapped,
		Summary:    "No mapping rule names this call, and mapping.unmapped is deny.",
		NextSteps:  []string{"Ask the operator to map " + c.match.Method + " " + c.match.URL() + "."},
	}
}

// describe fills the event, all but the decision.
func (c *call) describe(g *Gate, ambiguous []mapping.Ambiguity) {
	v := &c.verdict
	e := &c.event
	e.ID, e.Kind, e.Time = c.id, evidence.KindAction, evidence.Time{Time: c.started}
	e.TenantID, e.AgentID = c.Identity.TenantID, c.Identity.AgentID
	e.UserID, e.Goal = clip(c.UserID), clip(c.Goal)
	e.IdentitySource, e.KeyID, e.Door = c.Identity.Source, c.Identity.KeyID, string(c.Door)
	path, _, _ := cutTarget(c.Head.Target)
	e.Request = &evidence.Request{
		Method: clip(c.Head.Method), Authority: clip(c.match.Authority()), Path: clipTo(path, 2048),
		ContentType: clip(first(c.Head.Header["Content-Type"])), Bytes: c.Head.ContentLength,
	}
	if c.Head.Upgrade != "" {
		e.Flags = append(e.Flags, FlagUpgrade)
		e.Notes = append(e.Notes, "asks to become "+clip(c.Head.Upgrade))
	}
	if c.Tunnel {
		e.Request.Path = ""
		e.Flags = append(e.Flags, FlagOpaque)
		if c.Opaque != "" {
			e.Notes = append(e.Notes, c.Opaque)
		}
	}
	if c.Dialled != "" {
		e.Notes = append(e.Notes, "the client dialled "+clip(c.Dialled))
	}
	if c.Body == nil && e.Request.Bytes < 0 {
		e.Request.Bytes = 0
	}
	if c.out.Read {
		c.describeBody()
	}
	if len(v.call.Args) > 0 {
		e.Args = evidence.Redact(v.call.Args, v.call.Secret, g.redactKey)
	}
	e.Notes = append(e.Notes, c.each(g.redactKey)...)
	e.Unusable = unusable(v.call.Problems)
	if v.policy.Rule != "" || v.policy.Pos.File != "" {
		e.Rule = &evidence.Position{File: v.policy.Pos.File, Line: v.policy.Pos.Line, Name: v.policy.Rule}
	}
	if v.call.Rule.File != "" {
		e.MappingRule = &evidence.Position{File: v.call.Rule.File, Line: v.call.Rule.Line}
	}
	if len(ambiguous) > 0 {
		e.Flags = append(e.Flags, FlagAmbiguous)
		for i, a := range ambiguous {
			if i == 8 {
				e.Notes = append(e.Notes, fmt.Sprintf("and %d more", len(ambiguous)-i))
				break
			}
			e.Notes = append(e.Notes, a.Class+": "+clipTo(a.Detail, 512))
		}
	}
	if v.passport == passportInvalid {
		e.Flags = append(e.Flags, FlagPassport)
		code, summary := v.passportFault()
		e.Notes = append(e.Notes, code+": "+clipTo(summary, 512))
	}
	if c.claims != nil {
		e.PassportJTI = c.claims.ID
	}
}

func (c *call) describeBody() {
	if c.out.Whole {
		sum := sha256.Sum256(c.out.Body)
		c.event.Request.BodySHA256 = hex.EncodeToString(sum[:])
		c.event.Request.Bytes = int64(len(c.out.Body))
	}
}

func (c *call) fault(note string) {
	c.event.Flags = append(c.event.Flags, FlagFault)
	c.event.Notes = append(c.event.Notes, note)
}

// permit records the intent and hands out the permit.
func (g *Gate) permit(ctx context.Context, c *call) (*Permit, *Refusal) {
	if c.usesApproval() {
		return g.permitApproved(ctx, c)
	}
	if err := g.claim(ctx, c); err != nil {
		c.verdict.passport, c.verdict.passportErr = passportInvalid, err
		c.event.Flags = append(c.event.Flags, FlagPassport)
		c.event.Notes = append(c.event.Notes, err.Error())
		if c.verdict.do(c.mode) == enforceBlock {
			g.flying.land(c.approval)
			g.unreserve(c)
			return nil, g.block(ctx, c)
		}
	}
	g.intend(c, ApprovalConsumed)
	// If we crash before this is durable, nothing was sent. If we crash after it,
	// the event has no outcome and the next start marks it ambiguous.
	recorded := true
	if err := g.record(ctx, &c.event); err != nil {
		if blocking(c.mode) {
			return nil, g.unrecordable(c, err)
		}
		recorded = false
	}
	return g.handOut(c, recorded), nil
}

// intend makes c's event that of a call which goes out.
func (g *Gate) intend(c *call, approval string) {
	c.event.Decision = c.rules.render(&c.verdict, c.mode, c.id)
	if c.approval != "" {
		c.event.Decision.ApprovalRequestID = c.approval
		c.event.Approval = &evidence.Approval{ID: c.approval, State: approval}
	}
	c.event.Outcome = &evidence.Outcome{State: evidence.StatePending}
}

func (g *Gate) handOut(c *call, recorded bool) *Permit {
	g.decided(&c.event.Decision, &c.event)
	c.out.Counted = c.claimed != "" || c.reservation != "" || c.out.Once
	p := &Permit{
		gate: g, out: c.out, decision: c.event.Decision, started: c.started, tenant: c.Identity.TenantID,
		recorded: recorded, reservation: c.reservation, passport: c.claimed, approval: c.approval, grant: c.grant,
	}
	if p.decision.Enforcement == enforceWarn {
		p.warning = warningText(&c.verdict, &p.decision)
	}
	return p
}

func warningText(v *verdict, d *evidence.Decision) string {
	switch {
	case v.refuse != nil:
		return "enforce would refuse this call: " + v.refuse.detail
	case v.effect != policy.Allow:
		return fmt.Sprintf("enforce would %s this call: %s (%s)", d.Would[ModeEnforce], d.Explain.Summary, d.ReasonCode)
	case v.passport == passportInvalid:
		return "enforce would block this call: the passport that was presented is not valid here"
	}
	return "strict would block this call: " + d.Tool + " needs a passport"
}

// block records a refusal and renders it. The block stands even if it cannot
// be recorded; the fault is then counted.
func (g *Gate) block(ctx context.Context, c *call) *Refusal {
	d := c.rules.render(&c.verdict, c.mode, c.id)
	status, state := 403, evidence.StateBlocked
	switch {
	case c.verdict.refuse != nil:
		status, state = c.verdict.refuse.status, evidence.StateRefused
	case d.ReasonCode == ReasonStore: // a passport could not be checked
		status, state = 503, evidence.StateRefused
	}
	c.event.Decision = d
	c.event.Outcome = &evidence.Outcome{State: state, Status: status, DurationMS: g.since(c.started)}
	if err := g.record(ctx, &c.event); err != nil && c.verdict.refuse == nil {
		return g.unrecordable(c, err)
	}
	g.decided(&d, &c.event)
	return c.refusal(status, d)
}

func (c *call) refusal(status int, d evidence.Decision) *Refusal {
	r := &Refusal{Status: status, Decision: d, Shape: c.match.ErrorShape}
	rule := ""
	if c.verdict.refuse == nil {
		rule = c.verdict.policy.Rule
	}
	if c.verdict.call != nil {
		r.RPCID = c.verdict.call.RPCID
	}
	r.Sentence = tell(&d, rule)
	return r
}

// unrecordable is the refusal of what cannot be put on record.
func (g *Gate) unrecordable(c *call, cause error) *Refusal {
	c.verdict.refuse = &closed{503, ReasonEvidence, "the decision could not be put on record, so nothing was sent"}
	d := c.rules.render(&c.verdict, c.mode, c.id)
	g.decided(&d, &c.event)
	g.log.Error("call refused: evidence cannot be written", zap.String("event", c.id), zap.Error(cause))
	g.unreserve(c)
	g.unclaim(c.Identity.TenantID, c.claimed, c.id)
	g.flying.land(c.approval)
	return c.refusal(503, d)
}

// Reject records and renders a refusal of something that never became a
// request: a malformed head, a bad CONNECT, an oversize header. status is the
// HTTP status, code a reason code under request.*, detail a sentence. Used where
// no mode lets the call through, because there is no call.
func (g *Gate) Reject(ctx context.Context, r *Request, status int, code, detail string) *Refusal {
	rules := g.rules.Load()
	c := &call{Request: r, rules: rules, started: g.now(), id: newID("ev_"), mode: ModeStrict, match: &mapping.Match{}}
	if rules != nil {
		c.mode = rules.modeFor("", r.Identity, "")
		c.match = rules.Mapping.Match(&r.Head)
	}
	c.verdict = verdict{
		call: &mapping.Call{Tool: methodTool(r.Head.Method)}, risk: mapping.RiskHigh, passport: passportUnneeded,
		refuse: &closed{status, code, detail},
	}
	if rules != nil && r.Head.Authority != "" && !r.Tunnel {
		c.verdict.call.Resource = c.match.URL()
	}
	c.describe(g, r.Findings)
	c.event.Notes = append(c.event.Notes, clipTo(detail, 512))
	d := rules.render(&c.verdict, ModeEnforce, c.id) // there is nothing to let through in any mode
	d.Mode, d.Would = c.mode, would(c.mode, &c.verdict)
	d.Enforcement = enforceBlock
	c.event.Decision = d
	c.event.Outcome = &evidence.Outcome{State: evidence.StateRefused, Status: status}
	_ = g.record(ctx, &c.event)
	g.decided(&d, &c.event)
	return c.refusal(status, d)
}

func methodTool(method string) string {
	if method == "" || len(method) > 16 {
		return "http.unknown"
	}
	for i := range len(method) {
		if ch := method[i] | 0x20; ch < 'a' || ch > 'z' {
			return "http.unknown"
		}
	}
	return "http." + lower(method)
}

// decided counts a decision, and beside it what kept the call from being judged as
// its rules say: a body that cannot be read, an argument that is not what the
// mapping declares, a condition that cannot be evaluated. They are faults in every
// mode; only enforce and strict stop the call for them.
func (g *Gate) decided(d *evidence.Decision, e *evidence.Event) {
	g.observer.Decided(d.Decision, d.Mode, d.Enforcement, d.Tool)
	switch {
	case slices.Contains(e.Flags, FlagAmbiguous), d.ReasonCode == ReasonArgMissing, d.ReasonCode == ReasonArgInvalid:
		g.observer.Fault("request")
	case d.ReasonCode == policy.ReasonError:
		g.observer.Fault("policy")
	}
}

func (g *Gate) since(t time.Time) float64 {
	return float64(g.now().Sub(t).Microseconds()) / 1000
}

func newID(prefix string) string {
	return prefix + uuid.Must(uuid.NewV7()).String()
}
