package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/whatif"
)

// NewReview is the body of POST /api/v1/review: a review of what a mode would
// stop, by the answers that were given so far. Nothing of it is kept: who asks
// again sends all answers again.
type NewReview struct {
	Mode    string          `json:"mode,omitempty"`  // "": enforce
	Since   string          `json:"since,omitempty"` // RFC 3339; "": SimulationSpan ago
	Until   string          `json:"until,omitempty"` // RFC 3339, exclusive
	Tool    string          `json:"tool,omitempty"`  // name or glob
	AgentID string          `json:"agent_id,omitempty"`
	Answers []whatif.Answer `json:"answers,omitempty"`
	Limit   int             `json:"limit,omitempty"` // of groups, at most MaxLimit
}

// ReviewQuery is a NewReview that was checked.
type ReviewQuery struct {
	SimulationQuery // without Policies
	Answers         []whatif.Answer
}

var groupID = regexp.MustCompile(`^[0-9a-f]{16}$`)

// Query checks the body. Errors are *Error and name the field.
func (b *NewReview) Query(tenant string, now time.Time) (q ReviewQuery, err error) {
	as := Simulation{Mode: cmp.Or(b.Mode, gate.ModeEnforce), Since: b.Since, Until: b.Until, Tool: b.Tool, AgentID: b.AgentID, Limit: b.Limit}
	if q.SimulationQuery, err = as.Query(tenant, now); err != nil {
		return q, err
	}
	if len(b.Answers) > whatif.MaxAnswers {
		return q, invalid("answers", fmt.Sprintf("has more than %d members: review less at a time", whatif.MaxAnswers))
	}
	given := make(map[string]bool)
	for i, a := range b.Answers {
		at := fmt.Sprintf("answers[%d]", i)
		switch a.Answer {
		case whatif.AnswerAccept, whatif.AnswerBlocked, whatif.AnswerIgnore:
		default:
			return q, invalid(at+".answer", "must be accept, blocked or ignore")
		}
		if !groupID.MatchString(a.Group) || given[a.Group] {
			return q, invalid(at+".group", "must be the id of a group, which no other answer has")
		}
		given[a.Group] = true
	}
	q.Answers = b.Answers
	return q, nil
}

// review tells what a mode would stop, and what the answers make of it. Nothing
// is changed by it, and nothing recorded.
func (s *server) review(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	var b NewReview
	if err := decode(w, r, &b); err != nil {
		return err
	}
	q, err := b.Query(id.TenantID, s.Now())
	if err != nil {
		return err
	}
	return s.judgeAgain(w, r, "review", func(ctx context.Context) (any, error) { return s.Events.Review(ctx, q) })
}

// Review goes through what a mode would stop, by the answers given so far.
func (c *Client) Review(ctx context.Context, b NewReview) (r whatif.ReviewReport, err error) {
	err = c.call(ctx, http.MethodPost, "/api/v1/review", nil, b, &r)
	return r, err
}
