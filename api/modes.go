package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// NewMode is the body of POST /api/v1/modes: a stricter mode for a part of the
// tenant's traffic. Tool and AgentID are globs, "" for all.
type NewMode struct {
	Tool    string `json:"tool,omitempty"`
	AgentID string `json:"agent_id,omitempty"`
	Mode    string `json:"mode"`
	Reason  string `json:"reason,omitempty"`
}

// ModeOverride is a mode override as the API shows it.
type ModeOverride struct {
	ID        string        `json:"id"`
	Tool      string        `json:"tool"`     // glob, "" for every tool
	AgentID   string        `json:"agent_id"` // glob, "" for every agent
	Mode      string        `json:"mode"`
	Reason    string        `json:"reason"`
	KeyID     string        `json:"key_id"` // who set it
	Name      string        `json:"name"`   // of that key
	CreatedAt evidence.Time `json:"created_at"`
}

func modeOf(o gate.ModeOverride) ModeOverride {
	return ModeOverride{ID: o.ID, Tool: o.Tool, AgentID: o.AgentID, Mode: o.Mode, Reason: o.Reason, KeyID: o.KeyID, Name: o.KeyName, CreatedAt: evidence.Time{Time: o.CreatedAt}}
}

func (s *server) setMode(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	var b NewMode
	if err := decode(w, r, &b); err != nil {
		return err
	}
	o, err := s.Gate.SetMode(r.Context(), id, gate.NewMode{Tool: b.Tool, AgentID: b.AgentID, Mode: b.Mode, Reason: b.Reason})
	if err != nil {
		return about("mode_override", storeDown, err)
	}
	return writeJSON(w, http.StatusCreated, modeOf(o))
}

func (s *server) listModes(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	q, err := readQuery(r, "limit", "cursor")
	if err != nil {
		return err
	}
	n, err := q.limit()
	if err != nil {
		return err
	}
	found, err := s.Gate.Modes(r.Context(), id)
	if err != nil {
		return about("mode_override", storeDown, err)
	}
	if after := q["cursor"]; after != "" {
		at := slices.IndexFunc(found, func(o gate.ModeOverride) bool { return o.ID == after })
		if at < 0 {
			return invalid("cursor", "is none that this list gave, or its override was cleared since: begin anew")
		}
		found = found[at+1:]
	}
	p := Page[ModeOverride]{Data: []ModeOverride{}}
	for i, o := range found {
		if i == n {
			p.Next = p.Data[n-1].ID
			break
		}
		p.Data = append(p.Data, modeOf(o))
	}
	return writeJSON(w, http.StatusOK, p)
}

func (s *server) clearMode(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	key, err := pathID(r, "mod_", "mode override")
	if err != nil {
		return err
	}
	q, err := readQuery(r, "reason")
	if err != nil {
		return err
	}
	if _, err := s.Gate.ClearMode(r.Context(), id, key, q["reason"]); err != nil {
		return about("mode_override", storeDown, err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// SetMode tightens the mode of part of the traffic.
func (c *Client) SetMode(ctx context.Context, n NewMode) (m ModeOverride, err error) {
	err = c.call(ctx, http.MethodPost, "/api/v1/modes", nil, n, &m)
	return m, err
}

// Modes lists the mode overrides in force, newest first.
func (c *Client) Modes(ctx context.Context, cursor string, limit int) (p Page[ModeOverride], err error) {
	err = c.call(ctx, http.MethodGet, "/api/v1/modes", paging(cursor, limit), nil, &p)
	return p, err
}

// ClearMode ends a mode override.
func (c *Client) ClearMode(ctx context.Context, id, reason string) error {
	q := url.Values{}
	set(q, "reason", reason)
	return c.call(ctx, http.MethodDelete, "/api/v1/modes/"+url.PathEscape(id), q, nil, nil)
}
