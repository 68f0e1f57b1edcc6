package gate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/policy"
)

// maxRecord bounds one record, in bytes, below what the log takes.
const maxRecord = 256 << 10

// settleTimeout bounds the store's part in ending a call.
const settleTimeout = 5 * time.Second

// record makes an event durable. It does not end with the caller's context: a
// client that goes away must not take the evidence with it.
func (g *Gate) record(ctx context.Context, e *evidence.Event) error {
	r, err := e.Record()
	if err == nil && len(r.Bytes()) > maxRecord {
		// However large an agent makes its call, there is a record of it.
		slim := *e
		slim.Args, slim.Notes, slim.Data = nil, nil, nil
		slim.Flags = append(slices.Clone(e.Flags), FlagCut)
		r, err = slim.Record()
	}
	if err == nil {
		_, err = g.recorder.Append(context.WithoutCancel(ctx), r)
	}
	if err != nil {
		err = fmt.Errorf("record event %s: %w", e.ID, err)
		g.observer.Fault("evidence")
		g.log.Error("evidence could not be written", zap.Error(err))
	}
	return err
}

// recordOutcome completes an event, durably.
func (g *Gate) recordOutcome(ctx context.Context, eventID string, o evidence.Outcome) error {
	return g.outcomeBy(eventID, o, func(r evidence.Record) error {
		_, err := g.recorder.Append(context.WithoutCancel(ctx), r)
		return err
	})
}

// outcomeBy completes an event by one of the recorder's ways.
func (g *Gate) outcomeBy(eventID string, o evidence.Outcome, write func(evidence.Record) error) error {
	r, err := g.outcomeRecord(eventID, o)
	if err == nil {
		err = write(r)
	}
	if err != nil {
		err = fmt.Errorf("record outcome of %s: %w", eventID, err)
		g.observer.Fault("evidence")
		g.log.Error("evidence could not be written", zap.Error(err))
	}
	return err
}

func (g *Gate) outcomeRecord(eventID string, o evidence.Outcome) (evidence.Record, error) {
	rec := evidence.OutcomeRecord{
		Kind: evidence.KindOutcome, EventID: eventID,
		Time: evidence.Time{Time: g.now()}, Outcome: o,
	}
	return rec.Record()
}

// Done reports the outcome, once; later calls do nothing. It does not wait for
// the log. A limit's share is given back when the upstream refused the call
// with a 4xx or when it never got it; it is kept by a success, a 5xx and a lost
// answer, which may have happened.
func (p *Permit) Done(o Outcome) {
	if p.gate == nil || p.done.Swap(true) {
		return
	}
	g := p.gate
	if p.approval != "" {
		g.flying.land(p.approval)
		if o.State != evidence.StateForwarded {
			g.keepOutcome(p.tenant, p.approval, evidence.Outcome{State: o.State, Status: o.Status, Error: clipTo(o.Error, 512)}, false)
		}
	}
	declined := o.State == evidence.StateForwarded && o.Status >= 400 && o.Status < 500
	if p.reservation != "" && (o.State == evidence.StateRefused || declined) {
		g.release(p.tenant, p.reservation)
	}
	if o.State == evidence.StateRefused {
		g.unclaim(p.tenant, p.passport, p.decision.EvidenceEventID)
		g.releaseGrant(p.tenant, p.grant, p.decision.EvidenceEventID)
	}
	if !p.recorded {
		return
	}
	r, err := g.outcomeRecord(p.decision.EvidenceEventID, evidence.Outcome{
		State: o.State, Status: o.Status, Bytes: o.Bytes, DurationMS: g.since(p.started), Error: clipTo(o.Error, 512),
	})
	if err != nil || !g.recorder.Later(r) {
		g.Fault("evidence", fmt.Errorf("queue outcome of %s: dropped (%v)", p.decision.EvidenceEventID, err))
	}
}

func (g *Gate) release(tenant, eventID string) {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if err := g.store.Release(ctx, tenant, eventID); err != nil {
		// The share stays taken until its window ends: the safe side.
		g.Fault("store", fmt.Errorf("release limits of %s: %w", eventID, err))
	}
}

// Note records a config or system event.
func (g *Gate) Note(ctx context.Context, kind, message string, data map[string]string) error {
	return g.noteFor(ctx, g.ConfigIdentity(), kind, message, data)
}

func (g *Gate) noteFor(ctx context.Context, actor Identity, kind, message string, data map[string]string) error {
	_, err := g.noted(ctx, actor, kind, message, data)
	return err
}

// noted is noteFor that also gives the event's id.
func (g *Gate) noted(ctx context.Context, actor Identity, kind, message string, data map[string]string) (string, error) {
	now := g.now()
	e := evidence.Event{
		ID: newID("ev_"), Kind: kind, Time: evidence.Time{Time: now},
		TenantID: actor.TenantID, AgentID: actor.AgentID, KeyID: actor.KeyID, IdentitySource: actor.Source,
		Message: message, Data: data,
	}
	e.Decision = evidence.Decision{
		Decision: policy.Allow.String(), EvidenceEventID: e.ID, Enforcement: enforceNone,
		Explain: evidence.Explain{Summary: sentence(message), MatchedRules: []string{}, NextSteps: []string{}},
		Would:   map[string]string{},
	}
	g.rules.Load().stamp(&e.Decision)
	return e.ID, g.record(ctx, &e)
}

// MarkAmbiguous gives events that a crash left without an outcome the outcome
// that is known: that nothing is known. They are never sent again by us.
func (g *Gate) MarkAmbiguous(ctx context.Context, eventIDs []string) error {
	for _, id := range eventIDs {
		o := evidence.Outcome{State: evidence.StateAmbiguous, Error: "the sidecar stopped before the outcome was known"}
		if err := g.recordOutcome(ctx, id, o); err != nil {
			return err
		}
	}
	return nil
}

const clipLen = 256

func clip(s string) string { return clipTo(s, clipLen) }

// clipTo bounds agent-supplied text in an event.
func clipTo(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func lower(s string) string { return strings.ToLower(s) }

func cutTarget(target string) (path, query string, found bool) { return strings.Cut(target, "?") }
