package api

import (
	"errors"
	"net/http"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// preflightBody is the body of POST /api/v1/actions/preflight.
type preflightBody struct {
	Tool           string    `json:"tool"`
	Resource       string    `json:"resource"`
	Args           arguments `json:"args"`
	AgentID        string    `json:"agent_id"`
	UserID         string    `json:"user_id"`
	Goal           string    `json:"goal"`
	Mode           string    `json:"mode"`
	Passport       string    `json:"passport"`
	IdempotencyKey string    `json:"idempotency_key"`
	Intent         string    `json:"intent"`
}

// preflight judges without sending. 200 is a rendered decision, 403 the same
// object when the action must not be taken.
func (s *server) preflight(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	var b preflightBody
	if err := decode(w, r, &b); err != nil {
		return err
	}
	switch {
	case b.Tool == "":
		return invalid("tool", "is required: the name of the tool that is to be called, as in stripe.refund.create")
	case b.AgentID == "":
		return invalid("agent_id", "is required: the agent that is about to call the tool")
	case b.Intent != "" && b.Intent != "execute":
		return invalid("intent", `must be absent or "execute"`)
	}
	if err := checkMode(b.Mode); err != nil {
		return err
	}
	d, refused, err := s.Gate.Preflight(r.Context(), id, gate.Preflight{
		Tool: b.Tool, Resource: b.Resource, Args: b.Args, AgentID: b.AgentID, UserID: b.UserID, Goal: b.Goal,
		Mode: b.Mode, Passport: b.Passport, IdempotencyKey: b.IdempotencyKey, Intent: b.Intent,
	})
	if err != nil {
		return about("action", evidenceDown, err)
	}
	if d.Decision == "" {
		return errors.New("the gate gave no decision")
	}
	status := http.StatusOK
	if refused {
		status = http.StatusForbidden
	}
	return writeJSON(w, status, complete(d))
}

// complete makes the lists that are never null in JSON never null.
func complete(d evidence.Decision) evidence.Decision {
	if d.Explain.MatchedRules == nil {
		d.Explain.MatchedRules = []string{}
	}
	if d.Explain.NextSteps == nil {
		d.Explain.NextSteps = []string{}
	}
	if d.Would == nil {
		d.Would = map[string]string{}
	}
	return d
}

func checkMode(mode string) error {
	switch mode {
	case "", gate.ModeMonitor, gate.ModeWarn, gate.ModeEnforce, gate.ModeStrict:
		return nil
	}
	return invalid("mode", "must be monitor, warn, enforce or strict")
}

// outcomeBody is the body of POST /api/v1/actions/{id}/outcome.
type outcomeBody struct {
	State  string `json:"state"`
	Status int    `json:"status"`
	Error  string `json:"error"`
}

// reported answers an outcome.
type reported struct {
	EventID string `json:"evidence_event_id"`
	State   string `json:"state"`
}

// outcome takes the caller's word on what came of an action that it executed
// itself.
func (s *server) outcome(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	event, err := pathID(r, "ev_", "action")
	if err != nil {
		return err
	}
	var b outcomeBody
	if err := decode(w, r, &b); err != nil {
		return err
	}
	switch b.State {
	case "succeeded", "failed", "unknown":
	default:
		return invalid("state", "must be succeeded, failed or unknown")
	}
	if b.Status != 0 && (b.Status < 100 || b.Status > 599) {
		return invalid("status", "must be an HTTP status, 100 to 599")
	}
	if err := s.Gate.ReportOutcome(r.Context(), id, event, b.State, b.Status, b.Error); err != nil {
		return about("action", evidenceDown, err)
	}
	return writeJSON(w, http.StatusOK, reported{EventID: event, State: b.State})
}
