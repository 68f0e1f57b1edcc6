package api

import (
	"context"
	"math"
	"net/http"
	"net/url"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// NewGrant is the body of POST /api/v1/grants: a shape of calls that may go
// without a question, so many times, until a moment. With ApprovalID, what is
// empty is taken from that approval.
type NewGrant struct {
	ApprovalID          string      `json:"approval_id,omitempty"`
	AgentID             string      `json:"agent_id,omitempty"` // or "*"
	Tool                string      `json:"tool,omitempty"`
	Resource            string      `json:"resource,omitempty"` // glob
	Policy              string      `json:"policy,omitempty"`
	Rule                string      `json:"rule,omitempty"`
	ResourceConstraints Constraints `json:"resource_constraints,omitempty"`
	FreeArgs            []string    `json:"free_args,omitempty"` // arguments that may be anything
	Count               int64       `json:"count"`
	Sum                 *GrantSum   `json:"sum,omitempty"`
	TTL                 int64       `json:"ttl"` // seconds
	Reason              string      `json:"reason,omitempty"`
}

// GrantSum bounds what the uses of a grant come to together.
type GrantSum struct {
	Arg string `json:"arg"`
	Max int64  `json:"max"`
}

// Grant is a grant as the API shows it.
type Grant struct {
	ID                  string         `json:"id"`
	State               string         `json:"state"` // live, used_up, expired, revoked
	AgentID             string         `json:"agent_id"`
	Tool                string         `json:"tool"`
	Resource            string         `json:"resource"`
	ResourceConstraints Constraints    `json:"resource_constraints"` // never null
	FreeArgs            []string       `json:"free_args"`            // never null
	Policy              string         `json:"policy"`
	Rule                string         `json:"rule"`
	Count               int64          `json:"count"`
	Used                int64          `json:"used"`
	Sum                 *GrantSum      `json:"sum"` // null without one
	Summed              int64          `json:"summed"`
	KeyID               string         `json:"key_id"` // who granted
	Name                string         `json:"name"`   // of that key
	Reason              string         `json:"reason"`
	ApprovalID          string         `json:"approval_id"`
	CreatedAt           evidence.Time  `json:"created_at"`
	ExpiresAt           evidence.Time  `json:"expires_at"`
	RevokedAt           *evidence.Time `json:"revoked_at"`
	RevokedBy           string         `json:"revoked_by"` // key id
}

// GrantOf renders g as it is at now.
func GrantOf(g gate.Grant, now time.Time) Grant {
	out := Grant{
		ID: g.ID, State: g.State(now), AgentID: g.AgentID, Tool: g.Tool, Resource: g.Resource,
		ResourceConstraints: g.Constraints, FreeArgs: list(g.FreeArgs), Policy: g.Policy, Rule: g.Rule, Count: g.Count, Used: g.Used, Summed: g.Summed,
		KeyID: g.KeyID, Name: g.KeyName, Reason: g.Reason, ApprovalID: g.ApprovalID,
		CreatedAt: evidence.Time{Time: g.CreatedAt}, ExpiresAt: evidence.Time{Time: g.ExpiresAt}, RevokedAt: moment(g.RevokedAt), RevokedBy: g.RevokedBy,
	}
	if out.ResourceConstraints == nil {
		out.ResourceConstraints = Constraints{}
	}
	if g.SumArg != "" {
		out.Sum = &GrantSum{Arg: g.SumArg, Max: g.SumMax}
	}
	return out
}

func (n *NewGrant) wish() (gate.NewGrant, error) {
	w := gate.NewGrant{
		ApprovalID: n.ApprovalID, AgentID: n.AgentID, Tool: n.Tool, Resource: n.Resource, Policy: n.Policy, Rule: n.Rule,
		Constraints: n.ResourceConstraints, FreeArgs: n.FreeArgs, Count: n.Count, Reason: n.Reason,
	}
	switch {
	case n.TTL < 0 || n.TTL > math.MaxInt64/int64(time.Second):
		return w, invalid("ttl", "must be a number of seconds")
	case len(n.Reason) > 4096:
		return w, invalid("reason", "is longer than 4096 bytes")
	}
	w.TTL = time.Duration(n.TTL) * time.Second
	if n.Sum != nil {
		if n.Sum.Arg == "" {
			return w, invalid("sum.arg", "is required: the argument that is added up")
		}
		w.SumArg, w.SumMax = n.Sum.Arg, n.Sum.Max
	}
	return w, nil
}

func (s *server) createGrant(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	var b NewGrant
	if err := decode(w, r, &b); err != nil {
		return err
	}
	g, err := s.grant(r.Context(), id, &b)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, GrantOf(g, s.Now()))
}

func (s *server) grant(ctx context.Context, id gate.Identity, b *NewGrant) (gate.Grant, error) {
	wish, err := b.wish()
	if err != nil {
		return gate.Grant{}, err
	}
	g, err := s.Gate.CreateGrant(ctx, id, wish)
	return g, about("grant", storeDown, err)
}

// decideWithGrant approves one call and grants those like it. The grant comes
// first: what is wrong with it leaves the call undecided. Where the word on the
// call is refused, the grant is taken back.
func (s *server) decideWithGrant(ctx context.Context, id gate.Identity, key string, v *Verdict) (gate.Approval, *Grant, error) {
	n := *v.Grant
	if n.ApprovalID != "" && n.ApprovalID != key {
		return gate.Approval{}, nil, invalid("grant.approval_id", "is another approval than the one that is decided")
	}
	n.ApprovalID = key
	if n.Reason == "" {
		n.Reason = v.Reason
	}
	g, err := s.grant(ctx, id, &n)
	if err != nil {
		return gate.Approval{}, nil, err
	}
	a, err := s.Gate.Decide(ctx, id, key, v.Decision, v.Reason, v.To)
	if err != nil {
		if _, back := s.Gate.RevokeGrant(context.WithoutCancel(ctx), id, g.ID, "the approval that it came with could not be decided"); back != nil {
			s.Logger.Error("a grant could not be taken back", zap.String("grant", g.ID), zap.Error(back))
		}
		return gate.Approval{}, nil, about("approval", storeDown, err)
	}
	out := GrantOf(g, s.Now())
	return a, &out, nil
}

func (s *server) listGrants(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	q, err := readQuery(r, "state", "limit", "cursor")
	if err != nil {
		return err
	}
	n, err := q.limit()
	if err != nil {
		return err
	}
	state, err := q.oneOf("state", gate.GrantLive)
	if err != nil {
		return err
	}
	found, next, err := s.Gate.Grants(r.Context(), id, gate.GrantQuery{Live: state != "", Cursor: q["cursor"], Limit: n})
	if err != nil {
		return about("grant", storeDown, err)
	}
	p := Page[Grant]{Data: []Grant{}, Next: next}
	for _, g := range found {
		p.Data = append(p.Data, GrantOf(g, s.Now()))
	}
	return writeJSON(w, http.StatusOK, p)
}

func (s *server) getGrant(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	key, err := pathID(r, "grt_", "grant")
	if err != nil {
		return err
	}
	g, err := s.Gate.Grant(r.Context(), id, key)
	if err != nil {
		return about("grant", storeDown, err)
	}
	return writeJSON(w, http.StatusOK, GrantOf(g, s.Now()))
}

func (s *server) revokeGrant(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	key, err := pathID(r, "grt_", "grant")
	if err != nil {
		return err
	}
	q, err := readQuery(r, "reason")
	if err != nil {
		return err
	}
	g, err := s.Gate.RevokeGrant(r.Context(), id, key, q["reason"])
	if err != nil {
		return about("grant", storeDown, err)
	}
	return writeJSON(w, http.StatusOK, GrantOf(g, s.Now()))
}

// CreateGrant makes a grant.
func (c *Client) CreateGrant(ctx context.Context, n NewGrant) (g Grant, err error) {
	err = c.call(ctx, http.MethodPost, "/api/v1/grants", nil, n, &g)
	return g, err
}

// Grants lists grants, newest first; live ones only, where it is asked so.
func (c *Client) Grants(ctx context.Context, live bool, cursor string, limit int) (p Page[Grant], err error) {
	q := paging(cursor, limit)
	if live {
		q.Set("state", gate.GrantLive)
	}
	err = c.call(ctx, http.MethodGet, "/api/v1/grants", q, nil, &p)
	return p, err
}

// Grant gets one.
func (c *Client) Grant(ctx context.Context, id string) (g Grant, err error) {
	err = c.call(ctx, http.MethodGet, "/api/v1/grants/"+url.PathEscape(id), nil, nil, &g)
	return g, err
}

// RevokeGrant ends a grant at once.
func (c *Client) RevokeGrant(ctx context.Context, id, reason string) (g Grant, err error) {
	q := url.Values{}
	set(q, "reason", reason)
	err = c.call(ctx, http.MethodDelete, "/api/v1/grants/"+url.PathEscape(id), q, nil, &g)
	return g, err
}
