package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// Limit is what one limit of a policy holds under one key, now.
type Limit struct {
	Limit      string          `json:"limit"` // policy/name
	Policy     string          `json:"policy"`
	Name       string          `json:"name"`
	KeyNames   []string        `json:"key_names"` // as the policy writes them
	Key        json.RawMessage `json:"key"`       // their values, an array; null for a limit that holds nothing
	Used       int64           `json:"used"`
	Left       int64           `json:"left"`
	Max        int64           `json:"max"`
	Unit       string          `json:"unit"` // a currency (of whose minor unit the numbers are), "calls", or ""
	Summary    string          `json:"summary"`
	Window     string          `json:"window"`       // 24h; day, week, month
	Zone       string          `json:"zone"`         // of a calendar window, else ""
	Since      *evidence.Time  `json:"since"`        // of a calendar window
	ResetsAt   *evidence.Time  `json:"resets_at"`    // when all of it is free, if nothing is used until then; null when it is
	NextFreeAt *evidence.Time  `json:"next_free_at"` // when the oldest use leaves; null when nothing is held
	Decision   string          `json:"decision"`     // what a call that does not fit gets: deny or require_approval
	ReasonCode string          `json:"reason_code"`
	File       string          `json:"file"`
	Line       int             `json:"line"`
}

// LimitOf renders u.
func LimitOf(u gate.LimitUse) Limit {
	l := u.Limit
	out := Limit{
		Limit: l.ID(), Policy: l.Policy, Name: l.Name, KeyNames: list(l.Keys), Key: json.RawMessage("null"),
		Used: u.Used, Left: u.Left, Max: l.Max, Unit: l.Unit(u.Key), Summary: l.Used(u.Key, u.Used),
		Window: l.WindowName(), Since: moment(u.Since), ResetsAt: moment(u.Empty()),
		Decision: l.Effect.String(), ReasonCode: l.ReasonCode, File: l.Pos.File, Line: l.Pos.Line,
	}
	if u.Key != "" {
		out.Key = json.RawMessage(u.Key)
		out.NextFreeAt = moment(u.First.Add(l.Window))
	}
	if l.Zone != nil {
		out.Zone, out.NextFreeAt = l.Zone.String(), out.ResetsAt
	}
	return out
}

func limitsOf(uses []gate.LimitUse) []Limit {
	out := make([]Limit, 0, len(uses))
	for _, u := range uses {
		out = append(out, LimitOf(u))
	}
	return out
}

func (s *server) listLimits(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	q, err := readQuery(r, "name", "key", "limit", "cursor")
	if err != nil {
		return err
	}
	n, err := q.limit()
	if err != nil {
		return err
	}
	uses, next, err := s.Gate.Limits(r.Context(), id, gate.LimitQuery{Limit: q["name"], Key: q["key"], Cursor: q["cursor"], Count: n})
	if err != nil {
		return about("limit", storeDown, err)
	}
	return writeJSON(w, http.StatusOK, Page[Limit]{Data: limitsOf(uses), Next: next})
}

// LimitReset is the body of POST /api/v1/limits/reset. One of Key and All must be
// there.
type LimitReset struct {
	Limit  string         `json:"limit"`         // policy/name
	Key    jsontext.Value `json:"key,omitempty"` // array, as Limit has it
	All    bool           `json:"all,omitempty"` // every key
	Reason string         `json:"reason,omitempty"`
}

// LimitsReset answers a reset: what was held.
type LimitsReset struct {
	Reset []Limit `json:"reset"` // never null
}

func (s *server) resetLimit(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	var b LimitReset
	if err := decode(w, r, &b); err != nil {
		return err
	}
	keyed := len(b.Key) > 0 && b.Key.Kind() != 'n'
	switch {
	case b.Limit == "":
		return invalid("limit", "is required: the limit to reset, as policy/limit")
	case keyed == b.All:
		return invalid("key", "give one key, or \"all\": true to forget what is held under every key")
	case len(b.Key) > 16<<10:
		return invalid("key", "is longer than 16 KiB")
	case len(b.Reason) > 1024:
		return invalid("reason", "is longer than 1024 bytes")
	}
	key := ""
	if keyed {
		key = string(b.Key)
	}
	gone, err := s.Gate.ResetLimit(r.Context(), id, b.Limit, key, b.Reason)
	if err != nil {
		return about("limit", storeDown, err)
	}
	return writeJSON(w, http.StatusOK, LimitsReset{Reset: limitsOf(gone)})
}

// Limits lists what limits hold; name and key (a JSON array) "" are all.
func (c *Client) Limits(ctx context.Context, name, key, cursor string, limit int) (p Page[Limit], err error) {
	q := paging(cursor, limit)
	set(q, "name", name)
	set(q, "key", key)
	err = c.call(ctx, http.MethodGet, "/api/v1/limits", q, nil, &p)
	return p, err
}

// ResetLimit forgets what a limit holds.
func (c *Client) ResetLimit(ctx context.Context, b LimitReset) (out LimitsReset, err error) {
	in := struct {
		Limit  string          `json:"limit"`
		Key    json.RawMessage `json:"key,omitempty"`
		All    bool            `json:"all,omitempty"`
		Reason string          `json:"reason,omitempty"`
	}{b.Limit, json.RawMessage(b.Key), b.All, b.Reason}
	err = c.call(ctx, http.MethodPost, "/api/v1/limits/reset", url.Values{}, in, &out)
	return out, err
}
