package api

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping/openapi"
)

// MaxDecided is how many of the newest actions Decided is counted over, at most and
// unless less is asked for.
const MaxDecided = 1000

// Decided says which rules decided the newest actions, and which of them had no
// mapping rule.
type Decided struct {
	Actions  int            `json:"actions"` // that were counted over
	Since    *evidence.Time `json:"since"`   // of the oldest of them; null for none
	Rules    []RuleHits     `json:"rules"`   // the most frequent first; never null
	Unmapped []UnmappedHits `json:"unmapped"`
}

// RuleHits is how many of the actions one rule decided, of one text of the policies.
type RuleHits struct {
	PolicyHash string `json:"policy_hash"`
	File       string `json:"file"`
	Line       int    `json:"line"`
	Name       string `json:"name"`
	Count      int    `json:"count"`
}

// UnmappedHits is how many calls of one kind no mapping rule named.
type UnmappedHits struct {
	Method      string `json:"method"`
	Authority   string `json:"authority"`
	Path        string `json:"path"`
	ContentType string `json:"content_type"`
	Count       int    `json:"count"`
}

// DecidedQuery asks for it.
type DecidedQuery struct {
	Tenant string
	Last   int // of how many of the newest actions, 1 to MaxDecided
}

// CountDecided counts over actions, whose outcomes it does not look at.
func CountDecided(actions []evidence.Event) Decided {
	out := Decided{Rules: []RuleHits{}, Unmapped: []UnmappedHits{}}
	rules, calls := map[RuleHits]int{}, map[UnmappedHits]int{}
	for i := range actions {
		e := &actions[i]
		out.Actions++
		if out.Since == nil || e.Time.Before(out.Since.Time) {
			out.Since = &e.Time
		}
		if e.Rule != nil {
			rules[RuleHits{PolicyHash: e.PolicyHash, File: e.Rule.File, Line: e.Rule.Line, Name: e.Rule.Name}]++
		}
		if q := e.Request; q != nil && e.MappingRule == nil && e.Tool != "http.connect" && q.Authority != "" {
			calls[UnmappedHits{Method: q.Method, Authority: q.Authority, Path: q.Path, ContentType: q.ContentType}]++
		}
	}
	for r, n := range rules {
		r.Count = n
		out.Rules = append(out.Rules, r)
	}
	for c, n := range calls {
		c.Count = n
		out.Unmapped = append(out.Unmapped, c)
	}
	slices.SortFunc(out.Rules, func(a, b RuleHits) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.PolicyHash, b.PolicyHash))
	})
	slices.SortFunc(out.Unmapped, func(a, b UnmappedHits) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Authority, b.Authority), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method), cmp.Compare(a.ContentType, b.ContentType))
	})
	return out
}

// Calls are the calls without a mapping rule, as openapi.Observe takes them.
func (d *Decided) Calls() map[openapi.Call]int {
	out := make(map[openapi.Call]int, len(d.Unmapped))
	for _, c := range d.Unmapped {
		out[openapi.Call{Method: c.Method, Authority: c.Authority, Path: c.Path, ContentType: c.ContentType}] = c.Count
	}
	return out
}

func (s *server) listDecided(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	q, err := readQuery(r, "last")
	if err != nil {
		return err
	}
	n, err := q.number("last", MaxDecided)
	if err != nil {
		return err
	}
	_ = s.catchUp(r) // logged there
	d, err := s.Events.Decided(r.Context(), DecidedQuery{Tenant: id.TenantID, Last: cmp.Or(n, MaxDecided)})
	if err != nil {
		return about("event", evidenceDown, err)
	}
	return writeJSON(w, http.StatusOK, d)
}

// Decided asks which rules decided the newest actions; last 0 is MaxDecided of them.
func (c *Client) Decided(ctx context.Context, last int) (d Decided, err error) {
	q := url.Values{}
	if last > 0 {
		q.Set("last", strconv.Itoa(last))
	}
	err = c.call(ctx, http.MethodGet, "/api/v1/evidence/decided", q, nil, &d)
	return d, err
}
