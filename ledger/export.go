package ledger

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// Selection is what of a log goes into a bundle: the events of one tenant and
// their outcomes, by the time of each record.
type Selection struct {
	Tenant string
	Since  time.Time // inclusive; zero: no bound
	Until  time.Time // exclusive; zero: no bound

	// Owns says whether the event id is one of Tenant's. An outcome does not name
	// its tenant, so Export keeps in mind whose the open events are; Owns is asked
	// for the rest: events before the oldest record left, or too many to keep. An
	// error ends the export. It must be set.
	Owns func(id string) (bool, error)

	remember int // open events to keep in mind; 0: rememberOpen
}

// rememberOpen bounds the events that Export keeps in mind until their outcome
// comes, about 100 bytes each.
const rememberOpen = 100_000

// ExportSelected is Export of what s selects. It reads the log from its
// beginning and holds little of it. When it fails, w may have a part of a bundle;
// with ctx it stops within some hundred records.
func (l *Log) ExportSelected(ctx context.Context, w io.Writer, s Selection) (int, error) {
	e, err := l.exporter()
	if err != nil {
		return 0, err
	}
	return e.selected(ctx, w, l.keys.public, s)
}

func (e *exporter) selected(ctx context.Context, w io.Writer, vkey string, s Selection) (int, error) {
	p := &picker{Selection: s, ctx: ctx, w: w, mine: map[string]bool{}}
	if p.remember == 0 {
		p.remember = rememberOpen
	}
	n, err := e.export(p, vkey, 0, e.to.check.Size, p.keep)
	if p.err != nil { // also where nothing was to be written after it
		err = p.err
	}
	return n, err
}

// picker is one pass over a log.
type picker struct {
	Selection
	ctx  context.Context
	w    io.Writer
	mine map[string]bool // open events, and whether they are the tenant's
	err  error
}

// Write ends the pass, which writes after each portion that it read, when the
// caller left or a record could not be told.
func (p *picker) Write(b []byte) (int, error) {
	if p.err == nil {
		p.err = p.ctx.Err()
	}
	if p.err != nil {
		return 0, p.err
	}
	if len(b) == 0 {
		return 0, nil
	}
	return p.w.Write(b)
}

// keep leaves out what cannot be read: nobody can say whose it is.
func (p *picker) keep(entry evidence.Entry) bool {
	if p.err != nil {
		return false
	}
	event, outcome, err := evidence.DecodeRecord(entry.Record)
	switch {
	case err != nil:
		return false
	case event != nil:
		mine := event.TenantID == p.Tenant
		if event.Outcome != nil && mayEnd(event.Outcome.State) && len(p.mine) < p.remember {
			p.mine[event.ID] = mine
		}
		return mine && p.within(event.Time.Time)
	}
	mine, known := p.mine[outcome.EventID]
	if !mayEnd(outcome.Outcome.State) {
		delete(p.mine, outcome.EventID)
	}
	if !p.within(outcome.Time.Time) {
		return false
	}
	if !known {
		if mine, err = p.Owns(outcome.EventID); err != nil {
			p.err = fmt.Errorf("ledger: export: whose is the event %s: %w", outcome.EventID, err)
			return false
		}
	}
	return mine
}

// mayEnd says whether another outcome may come after this state.
func mayEnd(state string) bool { return state == evidence.StatePending || state == evidence.StateHeld }

func (p *picker) within(at time.Time) bool {
	return (p.Since.IsZero() || !at.Before(p.Since)) && (p.Until.IsZero() || at.Before(p.Until))
}
