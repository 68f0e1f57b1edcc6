package api

import (
	"context"
	"net/http"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/whatif"
)

// NewExplanation is the body of POST /api/v1/explain: a request or an action,
// and who would be behind it.
type NewExplanation struct {
	Request *ExplainedRequest `json:"request,omitempty"`
	Action  *ExplainedAction  `json:"action,omitempty"`
	AgentID string            `json:"agent_id,omitempty"` // "": the configured one
	UserID  string            `json:"user_id,omitempty"`
	Goal    string            `json:"goal,omitempty"`
}

// ExplainedRequest is a request that is thought of.
type ExplainedRequest struct {
	Method  string   `json:"method"`
	URL     string   `json:"url"`               // absolute
	Headers []string `json:"headers,omitempty"` // "Name: value"
	Body    string   `json:"body,omitempty"`
}

// ExplainedAction is an action that is thought of.
type ExplainedAction struct {
	Tool     string    `json:"tool"`
	Resource string    `json:"resource,omitempty"`
	Args     arguments `json:"args,omitempty"`
}

// explain judges what is thought of, step by step. Nothing is sent, recorded or
// reserved.
func (s *server) explain(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	var b NewExplanation
	if err := decode(w, r, &b); err != nil {
		return err
	}
	inForce := s.Gate.Rules()
	switch {
	case (b.Request == nil) == (b.Action == nil):
		return invalid("request", "is required, or action, and not both")
	case len(b.AgentID) > 256:
		return invalid("agent_id", "is longer than 256 bytes")
	case inForce == nil || inForce.Policy == nil || inForce.Mapping == nil:
		return &Error{Status: http.StatusServiceUnavailable, Code: "unavailable", Message: "no policy is loaded yet"}
	}
	rules := inForce.With(inForce.Policy, inForce.Mode, id.TenantID)
	if b.AgentID != "" {
		rules.Identity.AgentID = b.AgentID
	}
	usage := func(uses []gate.Use) ([]int64, error) {
		used := make([]int64, len(uses))
		for i, u := range uses {
			held, _, err := s.Gate.Limits(r.Context(), id, gate.LimitQuery{Limit: u.Limit, Key: u.Key, Count: 1})
			if err != nil {
				return nil, err
			}
			for _, l := range held {
				used[i] = l.Used
			}
		}
		return used, nil
	}
	var x gate.Explanation
	if a := b.Action; a != nil {
		var err error
		x, err = rules.ExplainAction(gate.Preflight{Tool: a.Tool, Resource: a.Resource, Args: a.Args, AgentID: rules.Identity.AgentID, UserID: b.UserID, Goal: b.Goal}, s.Now(), usage)
		if err != nil {
			return about("action", storeDown, err)
		}
	} else {
		body := []byte(b.Request.Body)
		head, err := whatif.RequestOf(b.Request.Method, b.Request.URL, body, b.Request.Headers)
		if err != nil {
			return invalid("request", err.Error())
		}
		x = rules.Explain(head, body, b.UserID, b.Goal, s.Now(), usage)
	}
	x.Decision = complete(x.Decision)
	return writeJSON(w, http.StatusOK, x)
}

// Explain asks for every step of a judgement.
func (c *Client) Explain(ctx context.Context, b NewExplanation) (x gate.Explanation, err error) {
	err = c.call(ctx, http.MethodPost, "/api/v1/explain", nil, b, &x)
	return x, err
}
