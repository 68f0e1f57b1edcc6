package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// catchUpWait is how long a read waits for the index to hold what was recorded
// before it: long against its usual lag of milliseconds.
const catchUpWait = 2 * time.Second

func (s *server) catchUp(r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), catchUpWait)
	defer cancel()
	err := s.Events.CatchUp(ctx)
	if err != nil && r.Context().Err() == nil {
		s.Logger.Warn("the event index is behind the log", zap.String("request_id", note(r).requestID), zap.Error(err))
	}
	return err
}

// listEvents lists what the index has. An index that is behind still answers:
// old events are better than none for who is looking for them.
func (s *server) listEvents(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	q, err := readQuery(r, "since", "until", "tool", "agent_id", "agent", "decision", "kind", "state", "reason_code", "limit", "cursor")
	if err != nil {
		return err
	}
	eq := EventQuery{Tenant: id.TenantID, Tool: q["tool"], Agent: q["agent_id"], Reason: q["reason_code"], Cursor: q["cursor"]}
	if other, given := q["agent"]; given {
		if eq.Agent != "" {
			return invalid("agent", "is the short form of agent_id; give one of them")
		}
		eq.Agent = other
	}
	if eq.Limit, err = q.limit(); err != nil {
		return err
	}
	if eq.Since, eq.Until, err = q.between(); err != nil {
		return err
	}
	if eq.Decision, err = q.oneOf("decision", "allow", "deny", "require_approval", "warn", "require_tool_reapproval"); err != nil {
		return err
	}
	if eq.Kind, err = q.oneOf("kind", "all", evidence.KindAction, evidence.KindApproval, evidence.KindConfig, evidence.KindGrant, evidence.KindPassport, evidence.KindDoctor, evidence.KindSystem); err != nil {
		return err
	}
	if eq.State, err = q.oneOf("state", evidence.StatePending, evidence.StateForwarded, evidence.StateBlocked, evidence.StateHeld, evidence.StateRefused, evidence.StateAmbiguous); err != nil {
		return err
	}
	_ = s.catchUp(r) // logged there
	items, next, err := s.Events.Events(r.Context(), eq)
	if err != nil {
		return about("event", evidenceDown, err)
	}
	if items == nil {
		items = []json.RawMessage{}
	}
	return writeJSON(w, http.StatusOK, Page[json.RawMessage]{Data: items, Next: next})
}

// getEvent gives one.
func (s *server) getEvent(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	event, err := pathID(r, "ev_", "event")
	if err != nil {
		return err
	}
	if _, err := readQuery(r); err != nil {
		return err
	}
	b, err := s.findEvent(r, id.TenantID, event, "event")
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, b)
}

// findEvent gives one event. "Not found" is said only when the index is not
// behind.
func (s *server) findEvent(r *http.Request, tenant, event, subject string) (json.RawMessage, error) {
	behind := s.catchUp(r)
	b, err := s.Events.Event(r.Context(), tenant, event)
	if errors.Is(err, gate.ErrNotFound) && behind != nil {
		if r.Context().Err() != nil {
			return nil, r.Context().Err()
		}
		return nil, unavailable(evidenceDown, behind)
	}
	return b, about(subject, evidenceDown, err)
}

// verifyLog reads the whole log. 200 says that it was read; ok, whether it is
// whole.
func (s *server) verifyLog(w http.ResponseWriter, r *http.Request, _ gate.Identity) error {
	if _, err := readQuery(r); err != nil {
		return err
	}
	select {
	case s.verify <- struct{}{}:
		defer func() { <-s.verify }()
	case <-r.Context().Done():
		return r.Context().Err()
	}
	report, err := s.Events.Verify(r.Context())
	if err != nil {
		return about("event", evidenceDown, err)
	}
	report.Notes = list(report.Notes)
	return writeJSON(w, http.StatusOK, report)
}
