package main

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/whatif"
)

// readLog gives up to max entries from an index on: Read of a Log or a Reader.
type readLog func(from uint64, max int) ([]evidence.Entry, error)

// outOfOrder is how much older than the record before it a record may be: what
// was spooled comes late, and clocks are set.
const outOfOrder = time.Hour

// listener is what a log is read for.
type listener interface {
	From() time.Time
	Add(record []byte) error
}

// replayLog shows a listener the records that it asks for, size of them at most.
func replayLog(ctx context.Context, read readLog, size uint64, asked listener) error {
	next, err := seek(read, size, asked.From())
	if err == nil {
		_, err = replayFrom(ctx, read, next, size, asked)
	}
	return err
}

// replayFrom is replayLog from a record on. It gives the first record that was not
// shown, also with the error of a context that ended.
func replayFrom(ctx context.Context, read readLog, next, size uint64, asked listener) (uint64, error) {
	for next < size {
		if err := ctx.Err(); err != nil {
			return next, err
		}
		list, err := read(next, 4096)
		if err != nil || len(list) == 0 {
			return next, err
		}
		for _, e := range list {
			if e.Index >= size {
				break
			}
			if err := asked.Add(e.Record); err != nil {
				return next, fmt.Errorf("record %d: %w", e.Index, err)
			}
			next = e.Index + 1
		}
	}
	return next, nil
}

// seek finds where to begin to see every record from a time on.
func seek(read readLog, size uint64, from time.Time) (uint64, error) {
	var fault error
	there := sort.Search(int(size), func(i int) bool {
		list, err := read(uint64(i), 1)
		switch {
		case errors.Is(err, ledger.ErrRemoved): // by retention
			return false
		case err != nil:
			fault = err
			return true
		case from.IsZero() || len(list) == 0:
			return true
		}
		at, err := recordTime(list[0].Record)
		if err != nil {
			fault = err
			return true
		}
		return !at.Before(from.Add(-outOfOrder))
	})
	return uint64(there), fault
}

// Simulate implements api.EventSource.
func (e *events) Simulate(ctx context.Context, q api.SimulationQuery) (whatif.Report, error) {
	inForce := e.gate.Rules()
	if inForce == nil {
		return whatif.Report{}, fmt.Errorf("%w: no policy is loaded yet", gate.ErrUnavailable)
	}
	rules := inForce.With(inForce.Policy, q.Mode, q.Tenant)
	if len(q.Policies) > 0 {
		sources := make([]policy.Source, len(q.Policies))
		for i, p := range q.Policies {
			sources[i] = policy.Source{Name: p.Name, Data: []byte(p.YAML)}
		}
		var err error
		if rules.Policy, err = policy.Compile(sources, e.settings().PolicyOptions(inForce.Mapping)); err != nil {
			return whatif.Report{}, &gate.FieldError{Field: "policies", Message: err.Error()}
		}
	}
	sim, err := whatif.New(whatif.Options{
		Rules: rules, InForce: inForce.Policy, Tenant: q.Tenant, Since: q.Since, Until: q.Until, Tool: q.Tool, Agent: q.Agent, Limit: q.Limit,
	})
	if err != nil {
		return whatif.Report{}, err
	}
	if err := e.log.Flush(ctx); err != nil {
		return whatif.Report{}, err
	}
	if err := replayLog(ctx, e.log.Read, e.log.Size(), sim); err != nil {
		return whatif.Report{}, err
	}
	return sim.Report(), nil
}
