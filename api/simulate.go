package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/whatif"
)

// Simulation is the body of POST /api/v1/simulate.
type Simulation struct {
	// Policies are all files of the candidate; without them, the policy in force.
	Policies []SimulationPolicy `json:"policies,omitempty"`
	Policy   string             `json:"policy,omitempty"` // the text of one file, in place of Policies
	Mode     string             `json:"mode,omitempty"`   // "": each action in the mode that it was judged in
	Since    string             `json:"since,omitempty"`  // RFC 3339; "": SimulationSpan ago
	Until    string             `json:"until,omitempty"`  // RFC 3339, exclusive
	Tool     string             `json:"tool,omitempty"`   // name or glob
	AgentID  string             `json:"agent_id,omitempty"`
	Limit    int                `json:"limit,omitempty"` // of groups, at most MaxLimit
}

// SimulationPolicy is one policy file.
type SimulationPolicy struct {
	Name string `json:"name"`
	YAML string `json:"yaml"`
}

// SimulationQuery is a Simulation that was checked.
type SimulationQuery struct {
	Tenant       string
	Policies     []SimulationPolicy
	Mode         string
	Since, Until time.Time
	Tool, Agent  string
	Limit        int
}

// SimulationSpan is how far back a simulation looks unless it is told.
const SimulationSpan = 7 * 24 * time.Hour

// simulationTime bounds one simulation.
const simulationTime = MaxWait

// maxPolicies bounds the files of a candidate.
const maxPolicies = 64

// Query checks the body. Errors are *Error and name the field.
func (b *Simulation) Query(tenant string, now time.Time) (SimulationQuery, error) {
	q := SimulationQuery{
		Tenant: tenant, Policies: b.Policies, Mode: b.Mode, Since: now.Add(-SimulationSpan), Tool: b.Tool, Agent: b.AgentID, Limit: b.Limit,
	}
	if err := checkMode(b.Mode); err != nil {
		return q, err
	}
	if b.Policy != "" {
		if b.Policies != nil {
			return q, invalid("policy", "give policy or policies, not both")
		}
		q.Policies = []SimulationPolicy{{Name: "policy.yaml", YAML: b.Policy}}
	}
	if len(b.Policies) > maxPolicies {
		return q, invalid("policies", fmt.Sprintf("has more than %d files", maxPolicies))
	}
	if b.Policies != nil && len(b.Policies) == 0 {
		return q, invalid("policies", "is empty: leave it out to judge by the policy in force")
	}
	for i, p := range b.Policies {
		if p.Name == "" || len(p.Name) > 256 {
			return q, invalid(fmt.Sprintf("policies[%d].name", i), "is required: what faults call the file, at most 256 bytes")
		}
	}
	var err error
	if b.Since != "" {
		if q.Since, err = When(b.Since, now); err != nil {
			return q, invalid("since", err.Error())
		}
	}
	if b.Until != "" {
		if q.Until, err = When(b.Until, now); err != nil {
			return q, invalid("until", err.Error())
		}
		if !q.Since.Before(q.Until) {
			return q, invalid("until", "must be later than since, which is seven days ago unless it is given")
		}
	}
	for _, f := range []struct{ name, value string }{{"tool", b.Tool}, {"agent_id", b.AgentID}} {
		if len(f.value) > 256 {
			return q, invalid(f.name, "is longer than 256 bytes")
		}
	}
	switch {
	case b.Limit < 0 || b.Limit > MaxLimit:
		return q, invalid("limit", fmt.Sprintf("must be from 1 to %d", MaxLimit))
	case b.Limit == 0:
		q.Limit = DefaultLimit
	}
	return q, nil
}

// simulate asks the record what a candidate would change. Nothing is changed by
// it, and nothing recorded.
func (s *server) simulate(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	var b Simulation
	if err := decode(w, r, &b); err != nil {
		return err
	}
	q, err := b.Query(id.TenantID, s.Now())
	if err != nil {
		return err
	}
	return s.judgeAgain(w, r, "simulate", func(ctx context.Context) (any, error) { return s.Events.Simulate(ctx, q) })
}

// judgeAgain answers with a report over the record. One such report is made at a
// time, and not for longer than simulationTime; command has no such bound.
func (s *server) judgeAgain(w http.ResponseWriter, r *http.Request, command string, report func(context.Context) (any, error)) error {
	select {
	case s.verify <- struct{}{}:
		defer func() { <-s.verify }()
	case <-r.Context().Done():
		return r.Context().Err()
	}
	ctx, cancel := context.WithTimeout(r.Context(), simulationTime)
	defer cancel()
	made, err := report(ctx)
	if errors.Is(err, context.DeadlineExceeded) && r.Context().Err() == nil {
		return invalid("since", "there is more on record than can be judged in a minute: ask for less at a time, or run `actpass "+command+"` beside the data directory")
	}
	if err != nil {
		return about("event", evidenceDown, err)
	}
	return writeJSON(w, http.StatusOK, made)
}

// Simulate asks the record what a candidate would change.
func (c *Client) Simulate(ctx context.Context, b Simulation) (r whatif.Report, err error) {
	err = c.call(ctx, http.MethodPost, "/api/v1/simulate", nil, b, &r)
	return r, err
}
