package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

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
	// curl -d says form for whatever it sends. The key is in a header that no form
	// and no page of another origin can set, so to read JSON here opens nothing.
	read := decode
	if t := r.Header.Values("Content-Type"); len(t) == 1 && strings.EqualFold(t[0], "application/x-www-form-urlencoded") && r.Header.Get("Content-Encoding") == "" {
		read = decodeBody
	}
	if err := read(w, r, &b); err != nil {
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
	ask := gate.Preflight{
		Tool: b.Tool, Resource: b.Resource, Args: b.Args, AgentID: b.AgentID, UserID: b.UserID, Goal: b.Goal,
		Mode: b.Mode, Passport: b.Passport, IdempotencyKey: b.IdempotencyKey, Intent: b.Intent,
	}
	attempt := r.Header.Get("Idempotency-Key")
	if len(attempt) > 256 {
		return invalid("Idempotency-Key", "must be at most 256 bytes")
	}
	d, refused, err := s.answers.preflight(r.Context(), s.Gate, id, attempt, ask)
	var said *Error
	if errors.As(err, &said) {
		return err
	}
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
	if b.Intent == gate.IntentExecute && !refused && (d.Enforcement == enforcementNone || d.Enforcement == enforcementWarn) {
		s.reports.await(d.EvidenceEventID, awaited{tenant: id.TenantID, agent: b.AgentID, key: id.KeyID, approval: d.ApprovalRequestID})
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
	Status int    `json:"status,omitempty"`
	Error  string `json:"error,omitempty"`
}

// reported answers an outcome.
type reported struct {
	EventID string `json:"evidence_event_id"`
	State   string `json:"state"`
}

// outcome takes the caller's word on what came of an action that it executed
// itself. The gate records what it is told; whose action it is, and whether it
// still waits for a word, is looked up here.
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
	known, approval, err := s.awaited(r, id, event)
	if err != nil {
		return err
	}
	if known == "" {
		known, err = s.reports.report(event, b.State, func() error {
			return s.Gate.ReportOutcome(r.Context(), id, event, approval, b.State, b.Status, b.Error)
		})
		if err != nil {
			return about("action", evidenceDown, err)
		}
	}
	if known != b.State {
		return &Error{Status: http.StatusConflict, Code: "action.illegal_state", Message: "the outcome of this action is on record already, as " + known}
	}
	// Also where the caller says again what is on record: that is its own retry.
	return writeJSON(w, http.StatusOK, reported{EventID: event, State: b.State})
}

// awaited finds the action and says what was reported about it, "" while its
// outcome is awaited, and which approval let it go, "" for none. An action of somebody else does not exist for the caller.
func (s *server) awaited(r *http.Request, id gate.Identity, event string) (said, approval string, err error) {
	if a, ok := s.reports.awaited(event); ok && a.tenant == id.TenantID {
		// Let go here a moment ago, as nearly all are: the index need not know it yet,
		// and waiting for it is what took the longest.
		if !owns(id, a.agent, a.key) {
			return "", "", about("action", evidenceDown, gate.ErrNotFound)
		}
		return "", a.approval, nil
	}
	raw, err := s.findEvent(r, id.TenantID, event, "action")
	if err != nil {
		return "", "", err
	}
	var e struct {
		Kind     string `json:"kind"`
		Door     string `json:"door"`
		AgentID  string `json:"agent_id"`
		KeyID    string `json:"key_id"`
		Approval *struct {
			ID string `json:"id"`
		} `json:"approval"`
		Outcome *struct {
			State string `json:"state"`
			Error string `json:"error"`
		} `json:"outcome"`
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return "", "", fmt.Errorf("read event %s from the index: %w", event, err)
	}
	if e.Kind != evidence.KindAction || !owns(id, e.AgentID, e.KeyID) {
		return "", "", about("action", evidenceDown, gate.ErrNotFound)
	}
	illegal := func(why string) error {
		return &Error{Status: http.StatusConflict, Code: "action.illegal_state", Message: why}
	}
	switch {
	case e.Door != string(gate.DoorAPI):
		return "", "", illegal("the sidecar carried this action out itself, and has its outcome")
	case e.Outcome == nil:
		return "", "", illegal("no outcome is awaited: the preflight did not have the intent execute")
	}
	if e.Approval != nil {
		approval = e.Approval.ID
	}
	switch e.Outcome.State {
	case evidence.StatePending, evidence.StateHeld:
		return "", approval, nil
	case evidence.StateForwarded:
		if e.Outcome.Error == "" {
			return "succeeded", approval, nil
		}
		return "failed", approval, nil
	case evidence.StateAmbiguous:
		return "unknown", approval, nil
	}
	return "", "", illegal("this action was refused, so there is no outcome to report")
}

// owns says that the caller may speak for an action of that agent's, asked about with that key.
func owns(id gate.Identity, agent, key string) bool {
	return key == id.KeyID || id.AgentID != "" && agent == id.AgentID || id.Role == gate.RoleAdmin
}
