package main

import (
	"context"
	"fmt"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/whatif"
)

// Review implements api.EventSource: the walk of `actpass review`, by answers
// that were given elsewhere.
func (e *events) Review(ctx context.Context, q api.ReviewQuery) (whatif.ReviewReport, error) {
	inForce := e.gate.Rules()
	if inForce == nil || inForce.Policy == nil {
		return whatif.ReviewReport{}, fmt.Errorf("%w: no policy is loaded yet", gate.ErrUnavailable)
	}
	cfg := e.settings()
	embedded := cfg.File == ""
	walk, err := newWalk(cfg, inForce.With(inForce.Policy, q.Mode, q.Tenant), embedded, time.Now())
	if err != nil {
		return whatif.ReviewReport{}, &gate.FieldError{Field: "answers", Message: err.Error()}
	}
	if err := e.log.Flush(ctx); err != nil {
		return whatif.ReviewReport{}, err
	}
	size := e.log.Size() // each round is to see the same record
	r, err := walk.Retrace(q.Answers, q.Limit, func(rules *gate.Rules) (*whatif.Review, error) {
		sim, err := whatif.NewReview(whatif.Options{
			Rules: rules, InForce: inForce.Policy, Tenant: q.Tenant, Since: q.Since, Until: q.Until, Tool: q.Tool, Agent: q.Agent, Limit: q.Limit,
		})
		if err == nil {
			err = replayLog(ctx, e.log.Read, size, sim)
		}
		return sim, err
	})
	if err != nil {
		return r, err
	}
	addPatch(&r, walk, cfg, embedded, "")
	return r, nil
}
