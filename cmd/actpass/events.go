package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/store"
)

// events is the API's view of the evidence: the index for queries, the log
// itself for verification.
type events struct {
	index *store.Index
	log   records
	own   *ledger.Log // this process's; nil where log is of several
	dir   string      // of own

	gate     *gate.Gate            // for its rules
	studies  studies               // readiness, kept between questions
	settings func() *config.Config // in force
}

var _ api.EventSource = (*events)(nil)

func (e *events) Event(ctx context.Context, tenant, id string) ([]byte, error) {
	v, err := e.index.Event(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func (e *events) Events(ctx context.Context, q api.EventQuery) (items []json.RawMessage, next string, err error) {
	list, next, err := e.index.Events(ctx, store.Query{
		Tenant: q.Tenant, Since: q.Since, Until: q.Until, Tool: q.Tool, Agent: q.Agent, Decision: q.Decision,
		Kind: q.Kind, State: q.State, Reason: q.Reason, Cursor: q.Cursor, Limit: q.Limit,
	})
	if err != nil {
		return nil, "", err
	}
	items = make([]json.RawMessage, len(list))
	for i, v := range list {
		if items[i], err = json.Marshal(v); err != nil {
			return nil, "", fmt.Errorf("render event %s: %w", v.ID, err)
		}
	}
	return items, next, nil
}

func (e *events) Counts(ctx context.Context, tenant string, since time.Time, minutes bool) ([]api.Count, error) {
	list, err := e.index.Counts(ctx, tenant, since, minutes)
	if err != nil {
		return nil, err
	}
	out := make([]api.Count, len(list))
	for i, c := range list {
		out[i] = api.Count{
			Start: evidence.Time{Time: c.Start}, Tool: c.Tool, AgentID: c.Agent, Mode: c.Mode, Decision: c.Decision, Enforcement: c.Enforcement,
			Would: api.CountWould{Enforce: c.WouldEnforce, Strict: c.WouldStrict}, Mapping: c.Mapping, Count: c.N,
		}
	}
	return out, nil
}

// Decided implements api.EventSource.
func (e *events) Decided(ctx context.Context, q api.DecidedQuery) (api.Decided, error) {
	list, _, err := e.index.Events(ctx, store.Query{Tenant: q.Tenant, Kind: evidence.KindAction, Limit: q.Last, Bare: true})
	if err != nil {
		return api.Decided{}, err
	}
	actions := make([]evidence.Event, len(list))
	for i := range list {
		actions[i] = list[i].Event
	}
	return api.CountDecided(actions), nil
}

// CatchUp waits until everything recorded so far, outcomes that are still queued
// included, can be found.
func (e *events) CatchUp(ctx context.Context) error {
	if err := e.log.Flush(ctx); err != nil {
		return err
	}
	return e.index.CatchUp(ctx, e.log.Size())
}

func (e *events) Verify(ctx context.Context) (api.VerifyReport, error) {
	if err := e.log.Flush(ctx); err != nil {
		return api.VerifyReport{}, err
	}
	if e.own == nil {
		return e.log.(*sharedRecords).verify(ctx)
	}
	return verifyLog(e.dir, e.own.PublicKey())
}

// errManyLogs is why a control exports nothing that is not named: a bundle is of one
// log.
var errManyLogs = &api.Error{Status: http.StatusConflict, Code: "evidence.many_logs", Message: "a bundle is of one log, and this is a control, which shows those of many: name one with ?log=, as an event's log.origin has it"}

// Export writes the tenant's records of one log, each with its proof.
func (e *events) Export(ctx context.Context, w io.Writer, q api.ExportQuery) error {
	if err := e.log.Flush(ctx); err != nil {
		return err
	}
	s := ledger.Selection{
		Tenant: q.Tenant, Since: q.Since, Until: q.Until,
		Owns: func(id string) (bool, error) {
			_, err := e.index.Event(ctx, q.Tenant, id)
			if errors.Is(err, gate.ErrNotFound) {
				return false, nil
			}
			return err == nil, err
		},
	}
	if e.own == nil {
		if q.Log == "" {
			return errManyLogs
		}
		return e.log.(*sharedRecords).export(ctx, w, q.Log, s)
	}
	if q.Log != "" {
		v, err := note.NewVerifier(e.own.PublicKey())
		if err != nil {
			return err
		}
		if v.Name() != q.Log {
			return errNoLog
		}
	}
	_, err := e.own.ExportSelected(ctx, w, s)
	return err
}

// errNoLog is said of a log that this process does not have.
var errNoLog = &api.Error{Status: http.StatusNotFound, Code: "not_found", Message: "there is no such log here; an event's log.origin names its log, at the control of the sidecars that share a database"}
