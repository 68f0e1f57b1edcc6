package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// Count is how many actions of one kind were recorded in one span of time.
type Count struct {
	Start       evidence.Time `json:"start"` // of a minute or an hour
	Tool        string        `json:"tool"`
	AgentID     string        `json:"agent_id"`
	Mode        string        `json:"mode"`
	Decision    string        `json:"decision"`
	Enforcement string        `json:"enforcement"`
	Would       CountWould    `json:"would"`
	// Mapping says how the action got its name: rule (a mapping rule), none (no rule
	// fits), or caller (preflight, whose caller names the tool).
	Mapping string `json:"mapping"`
	Count   int64  `json:"count"`
}

// CountWould is what stricter modes would have done; "" for a mode that is not
// stricter than the one in force.
type CountWould struct {
	Enforce string `json:"enforce,omitempty"`
	Strict  string `json:"strict,omitempty"`
}

// Steps of the counts. Minutes go back three hours.
const (
	StepMinute = "minute"
	StepHour   = "hour"
)

// countsBack is how far counts go back when since is not given, and how far they
// go at most.
const (
	countsBack    = 24 * time.Hour
	countsAtMost  = 92 * 24 * time.Hour
	minutesAtMost = 3 * time.Hour
)

// listCounts gives the recorded actions, counted, in the order of time: one page
// unless a limit is given. Who pages gives since, too: without it, it moves.
func (s *server) listCounts(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	q, err := readQuery(r, "since", "step", "limit", "cursor")
	if err != nil {
		return err
	}
	step, err := q.oneOf("step", StepMinute, StepHour)
	if err != nil {
		return err
	}
	since, _, err := q.between()
	if err != nil {
		return err
	}
	now := time.Now()
	switch {
	case since.IsZero() && step == StepMinute:
		since = now.Add(-minutesAtMost)
	case since.IsZero():
		since = now.Add(-countsBack)
	case step == StepMinute && now.Sub(since) > minutesAtMost+time.Minute:
		return invalid("since", "minutes are counted for the last three hours; ask for step=hour")
	case now.Sub(since) > countsAtMost:
		return invalid("since", "is more than 92 days ago")
	}
	_ = s.catchUp(r) // logged there
	list, err := s.Events.Counts(r.Context(), id.TenantID, since, step == StepMinute)
	if err != nil {
		return about("count", evidenceDown, err)
	}
	p, err := cut(q, list)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, p)
}

// Counts gives the actions since a time, counted by minute or hour.
func (c *Client) Counts(ctx context.Context, since time.Time, step string) ([]Count, error) {
	q := url.Values{}
	if !since.IsZero() {
		q.Set("since", since.UTC().Format(time.RFC3339Nano))
	}
	set(q, "step", step)
	var p Page[Count]
	err := c.call(ctx, http.MethodGet, "/api/v1/evidence/counts", q, nil, &p)
	return p.Data, err
}
