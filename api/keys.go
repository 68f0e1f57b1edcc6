package api

import (
	"net/http"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// Key is a gateway key as the API shows it. The secret is there only in the
// answer that made it.
type Key struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Role       string         `json:"role"`
	AgentID    string         `json:"agent_id"` // "": speaks for any agent
	Groups     []string       `json:"groups"`   // never null
	Mode       string         `json:"mode"`     // "": the sidecar's own
	Prefix     string         `json:"prefix"`
	CreatedAt  evidence.Time  `json:"created_at"`
	ExpiresAt  *evidence.Time `json:"expires_at"`   // null: never
	LastUsedAt *evidence.Time `json:"last_used_at"` // null: never; kept to the minute
	RevokedAt  *evidence.Time `json:"revoked_at"`   // null: in force
	Ceiling    *Ceiling       `json:"ceiling,omitempty"`
	Key        string         `json:"key,omitempty"`
}

// Ceiling is the most that a key which is not admin's may put into a passport.
type Ceiling struct {
	AllowedTools        []string    `json:"allowed_tools"`
	AllowedResources    []string    `json:"allowed_resources"`
	ResourceConstraints Constraints `json:"resource_constraints,omitempty"`
	RiskTier            string      `json:"risk_tier,omitempty"`
}

// KeyOf renders k; secret is "" but at creation.
func KeyOf(k gate.Key, secret string) Key {
	var ceiling *Ceiling
	if c := k.Ceiling; c != nil {
		ceiling = &Ceiling{list(c.AllowedTools), list(c.AllowedResources), c.ResourceConstraints, c.RiskTier}
	}
	return Key{
		Ceiling: ceiling,
		ID:      k.ID, Name: k.Name, Role: k.Role, AgentID: k.AgentID, Groups: list(k.Groups), Mode: k.Mode, Prefix: k.Prefix,
		CreatedAt: evidence.Time{Time: k.CreatedAt}, ExpiresAt: moment(k.ExpiresAt), LastUsedAt: moment(k.LastUsedAt), RevokedAt: moment(k.RevokedAt), Key: secret,
	}
}

func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func moment(t time.Time) *evidence.Time {
	if t.IsZero() {
		return nil
	}
	return &evidence.Time{Time: t}
}

// NewKey is the body of POST /api/v1/keys. TTL and ExpiresAt exclude each
// other; without either the key does not expire.
type NewKey struct {
	Name      string   `json:"name"`
	Role      string   `json:"role"`
	AgentID   string   `json:"agent_id,omitempty"`
	Group     string   `json:"group,omitempty"` // one more of Groups
	Groups    []string `json:"groups,omitempty"`
	Mode      string   `json:"mode,omitempty"`
	TTL       string   `json:"ttl,omitempty"`        // Go duration: 720h
	ExpiresAt string   `json:"expires_at,omitempty"` // RFC 3339
	Ceiling   *Ceiling `json:"ceiling,omitempty"`    // of the passports that it may issue
}

// Wish checks n and turns it into the gate's form. Errors are *Error and name
// the field.
func (n NewKey) Wish(now time.Time) (gate.NewKey, error) {
	wish := gate.NewKey{Name: n.Name, Role: n.Role, AgentID: n.AgentID, Groups: n.Groups, Mode: n.Mode}
	switch {
	case n.Name == "":
		return wish, invalid("name", "is required: it tells people whose key this is")
	case len(n.Name) > 128:
		return wish, invalid("name", "is longer than 128 bytes")
	case n.Role == "":
		return wish, invalid("role", "is required: gateway, approver or admin")
	case n.Role != gate.RoleGateway && n.Role != gate.RoleApprover && n.Role != gate.RoleAdmin:
		return wish, invalid("role", "must be gateway, approver or admin")
	case n.Ceiling != nil && n.Role == gate.RoleAdmin:
		return wish, invalid("ceiling", "belongs to a key that is not admin's: an admin key may issue any passport")
	case n.TTL != "" && n.ExpiresAt != "":
		return wish, invalid("expires_at", "give ttl or expires_at, not both")
	}
	if err := checkMode(n.Mode); err != nil {
		return wish, err
	}
	if c := n.Ceiling; c != nil {
		for _, l := range []struct {
			field string
			list  []string
		}{{"ceiling.allowed_tools", c.AllowedTools}, {"ceiling.allowed_resources", c.AllowedResources}} {
			if err := checkGlobs(l.field, l.list); err != nil {
				return wish, err
			}
		}
		wish.Ceiling = &gate.Ceiling{
			AllowedTools: c.AllowedTools, AllowedResources: c.AllowedResources, ResourceConstraints: c.ResourceConstraints, RiskTier: c.RiskTier,
		}
	}
	if n.Group != "" {
		wish.Groups = append(append([]string(nil), n.Groups...), n.Group)
	}
	for _, g := range wish.Groups {
		if g == "" || len(g) > 200 {
			return wish, invalid("groups", "a group is a name of 1 to 200 bytes")
		}
	}
	if n.TTL != "" {
		ttl, err := time.ParseDuration(n.TTL)
		if err != nil || ttl <= 0 {
			return wish, invalid("ttl", "must be a duration greater than zero with its unit, as in 720h")
		}
		wish.TTL = ttl
	}
	if n.ExpiresAt != "" {
		at, err := time.Parse(time.RFC3339, n.ExpiresAt)
		if err != nil {
			return wish, invalid("expires_at", "must be a time in RFC 3339, as in 2026-01-31T09:00:00Z")
		}
		if !at.After(now) {
			return wish, invalid("expires_at", "is in the past")
		}
		wish.ExpiresAt = at.UTC()
	}
	return wish, nil
}

func (s *server) createKey(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	var b NewKey
	if err := decode(w, r, &b); err != nil {
		return err
	}
	wish, err := b.Wish(s.Now())
	if err != nil {
		return err
	}
	k, secret, err := s.Gate.CreateKey(r.Context(), id, wish)
	if err != nil {
		return about("key", storeDown, err)
	}
	w.Header().Set("Location", "/api/v1/keys/"+k.ID)
	return writeJSON(w, http.StatusCreated, KeyOf(k, secret))
}

func (s *server) listKeys(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	q, err := readQuery(r, "limit", "cursor")
	if err != nil {
		return err
	}
	limit, err := q.limit()
	if err != nil {
		return err
	}
	keys, next, err := s.Gate.Keys(r.Context(), id, q["cursor"], limit)
	if err != nil {
		return about("key", storeDown, err)
	}
	p := Page[Key]{Data: []Key{}, Next: next}
	for _, k := range keys {
		p.Data = append(p.Data, KeyOf(k, ""))
	}
	return writeJSON(w, http.StatusOK, p)
}

func (s *server) revokeKey(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	key, err := pathID(r, "key_", "key")
	if err != nil {
		return err
	}
	if _, err := s.Gate.RevokeKey(r.Context(), id, key); err != nil {
		return about("key", storeDown, err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
