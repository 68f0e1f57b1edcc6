package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/whatif"
)

// Bounds of proposals: how many of the latest approvals are looked at, and how
// many like ones make a proposal.
const (
	proposalWindow  = 2000
	DefaultLikeness = 3
	maxLikeness     = 1000
)

// Proposal is a policy rule that would have covered approvals which were given
// again and again.
type Proposal struct {
	Name      string        `json:"name"` // of the rule
	Tool      string        `json:"tool"`
	AgentID   string        `json:"agent_id"`
	Policy    string        `json:"policy"`
	Rule      string        `json:"rule"` // that asked; the proposed one goes before it
	File      string        `json:"file"`
	Line      int           `json:"line"`
	Count     int           `json:"count"` // approvals that it covers
	Approvals []string      `json:"approvals"`
	FirstAt   evidence.Time `json:"first_at"`
	LastAt    evidence.Time `json:"last_at"`
	RuleYAML  string        `json:"rule_yaml"`     // one item of the policy's rules
	Fixtures  string        `json:"fixtures_yaml"` // a file for `actpass test`
}

func (s *server) listProposals(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	q, err := readQuery(r, "min", "limit", "cursor")
	if err != nil {
		return err
	}
	least := DefaultLikeness
	if text, given := q["min"]; given {
		if least, err = strconv.Atoi(text); err != nil || least < 1 || least > maxLikeness {
			return invalid("min", "must be an integer from 1 to "+strconv.Itoa(maxLikeness))
		}
	}
	var list []gate.Approval
	for cursor := ""; len(list) < proposalWindow; {
		found, next, err := s.Gate.Approvals(r.Context(), id, gate.ApprovalQuery{TenantID: id.TenantID, Cursor: cursor, Limit: MaxLimit})
		if err != nil {
			return about("approval", storeDown, err)
		}
		list = append(list, found...)
		if cursor = next; next == "" {
			break
		}
	}
	var all []Proposal
	for _, one := range whatif.Propose(s.Gate.Rules(), list, least) {
		all = append(all, Proposal{
			Name: one.Name, Tool: one.Tool, AgentID: one.AgentID, Policy: one.Policy, Rule: one.Rule, File: one.Pos.File, Line: one.Pos.Line,
			Count: one.Count, Approvals: one.Approvals, FirstAt: evidence.Time{Time: one.First}, LastAt: evidence.Time{Time: one.Last},
			RuleYAML: one.RuleYAML, Fixtures: one.Fixtures,
		})
	}
	p, err := cut(q, all)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, p)
}

// Proposals asks which rules would have covered what people approved again and
// again: at least least times; 0 is DefaultLikeness.
func (c *Client) Proposals(ctx context.Context, least int) (p Page[Proposal], err error) {
	q := url.Values{}
	if least != 0 {
		q.Set("min", strconv.Itoa(least))
	}
	err = c.call(ctx, http.MethodGet, "/api/v1/approvals/proposals", q, nil, &p)
	return p, err
}
