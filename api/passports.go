package api

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/passport"
)

// NewPassport is the body of POST /api/v1/passports/issue: the claims, and how
// long they hold.
type NewPassport struct {
	AgentID             string      `json:"agent_id"`
	UserID              string      `json:"user_id,omitempty"`
	Goal                string      `json:"goal,omitempty"`
	AllowedTools        []string    `json:"allowed_tools"`
	AllowedResources    []string    `json:"allowed_resources"`
	ResourceConstraints Constraints `json:"resource_constraints,omitempty"`
	RiskTier            string      `json:"risk_tier,omitempty"`
	ApprovalHash        string      `json:"approval_hash,omitempty"`
	Audience            string      `json:"audience,omitempty"` // "": the sidecar's own
	Aud                 string      `json:"aud,omitempty"`      // the claim's name, for Audience
	Issuer              string      `json:"iss,omitempty"`      // "": the sidecar's own; there is no other
	TenantID            string      `json:"tenant_id,omitempty"`
	TTL                 int64       `json:"ttl,omitempty"` // seconds; 0: 5 minutes
}

// Constraints are resource_constraints, with every number exact: int64 where the
// literal is an integer, else float64.
type Constraints map[string]any

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (c *Constraints) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	const field = "resource_constraints"
	m, err := exactObject(dec, field)
	if err != nil || m == nil {
		return err
	}
	v, err := numbers(m)
	if err != nil {
		return invalid(field, err.Error())
	}
	*c = v.(map[string]any)
	return nil
}

// UnmarshalJSON implements json.Unmarshaler, for encoding/json.
func (c *Constraints) UnmarshalJSON(b []byte) error {
	dec := stdjson.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return err
	}
	if m == nil {
		return nil
	}
	v, err := numbers(m)
	if err != nil {
		return err
	}
	*c = v.(map[string]any)
	return nil
}

// numbers replaces literals by int64 where they are integers, and by float64
// elsewhere. An integer that does not fit is refused: rounding a bound would move
// it.
func numbers(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case stdjson.Number:
		if integer.MatchString(v.String()) {
			n, err := v.Int64()
			if err != nil {
				return nil, errors.New("the number " + clip(v.String(), 40) + " does not fit into 64 bits")
			}
			return n, nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, errors.New("the number " + clip(v.String(), 40) + " is too large")
		}
		return f, nil
	case []any:
		for i := range v {
			if v[i], err = numbers(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for k := range v {
			if v[k], err = numbers(v[k]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// IssuedPassport answers an issue. The token is in this answer and nowhere else.
type IssuedPassport struct {
	Token     string        `json:"token"`
	ID        string        `json:"jti"`
	ExpiresAt evidence.Time `json:"expires_at"`
}

// issuePassport makes one. Who may, and how far, is the gate's to say.
func (s *server) issuePassport(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	var b NewPassport
	if err := decode(w, r, &b); err != nil {
		return err
	}
	switch {
	case b.TenantID != "" && b.TenantID != id.TenantID:
		return invalid("tenant_id", "the tenant is the key's, "+id.TenantID+": leave it out")
	case b.Audience != "" && b.Aud != "" && b.Audience != b.Aud:
		return invalid("aud", "is another name for audience; give one of them")
	case b.TTL < 0 || b.TTL > int64(passport.MaxTTL/time.Second):
		return invalid("ttl", "must be from 1 to "+strconv.Itoa(int(passport.MaxTTL/time.Second))+" seconds; without it, 300")
	}
	if b.Audience == "" {
		b.Audience = b.Aud
	}
	for _, text := range []struct{ field, value string }{
		{"agent_id", b.AgentID}, {"user_id", b.UserID}, {"goal", b.Goal}, {"audience", b.Audience}, {"iss", b.Issuer}, {"approval_hash", b.ApprovalHash},
	} {
		if len(text.value) > 256 {
			return invalid(text.field, "is longer than 256 bytes")
		}
	}
	for _, l := range []struct {
		field string
		list  []string
	}{{"allowed_tools", b.AllowedTools}, {"allowed_resources", b.AllowedResources}} {
		if err := checkGlobs(l.field, l.list); err != nil {
			return err
		}
	}
	p, err := s.Gate.IssuePassport(r.Context(), id, gate.NewPassport{
		Issuer: b.Issuer, AgentID: b.AgentID, UserID: b.UserID, Goal: b.Goal, Audience: b.Audience, AllowedTools: b.AllowedTools, AllowedResources: b.AllowedResources,
		ResourceConstraints: b.ResourceConstraints, RiskTier: b.RiskTier, ApprovalHash: b.ApprovalHash, TTL: time.Duration(b.TTL) * time.Second,
	})
	if err != nil {
		return about("passport", storeDown, err)
	}
	return writeJSON(w, http.StatusCreated, IssuedPassport{Token: p.Token, ID: p.ID, ExpiresAt: evidence.Time{Time: p.ExpiresAt}})
}

func checkGlobs(field string, list []string) error {
	if len(list) > 64 {
		return invalid(field, "has more than 64 entries")
	}
	for _, p := range list {
		if p == "" || len(p) > 512 {
			return invalid(field, "an entry is a name or glob of 1 to 512 bytes")
		}
	}
	return nil
}

// PassportClaims are the claims of a token, as the token has them (RFC 7519).
type PassportClaims struct {
	passport.Claims
	ResourceConstraints Constraints `json:"resource_constraints,omitempty"`
	ExpiresAt           int64       `json:"exp"` // seconds since 1970
	IssuedAt            int64       `json:"iat"`
}

// PassportVerdict answers a verify.
type PassportVerdict struct {
	Valid      bool            `json:"valid"`
	Claims     *PassportClaims `json:"claims,omitempty"`      // of a valid one
	ReasonCode string          `json:"reason_code,omitempty"` // of one that is not: passport.expired
	Message    string          `json:"message,omitempty"`
}

// verifyPassport checks a token as a call would be checked, without using it. A
// bad one is an answer, not an error.
func (s *server) verifyPassport(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	var b struct {
		Token    string `json:"token"`
		Audience string `json:"audience"`
	}
	if err := decode(w, r, &b); err != nil {
		return err
	}
	if b.Token == "" {
		return invalid("token", "is required: the passport to look at")
	}
	c, err := s.Gate.VerifyPassport(r.Context(), id, b.Token, b.Audience)
	var bad *passport.Error
	switch {
	case errors.As(err, &bad):
		return writeJSON(w, http.StatusOK, PassportVerdict{ReasonCode: bad.Code, Message: "The passport is not valid: " + bad.Detail + "."})
	case err != nil:
		return about("passport", storeDown, err)
	}
	return writeJSON(w, http.StatusOK, PassportVerdict{Valid: true, Claims: &PassportClaims{*c, c.ResourceConstraints, c.ExpiresAt.Unix(), c.IssuedAt.Unix()}})
}

// RevokedPassport answers a revoke.
type RevokedPassport struct {
	ID        string        `json:"jti"`
	RevokedAt evidence.Time `json:"revoked_at"` // from then on, at the latest, nothing accepts it
}

func (s *server) revokePassport(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	var b struct {
		ID     string `json:"jti"`
		Reason string `json:"reason"`
	}
	if err := decode(w, r, &b); err != nil {
		return err
	}
	switch {
	case b.ID == "":
		return invalid("jti", "is required: the id of the passport, which begins with ap_")
	case len(b.Reason) > 1024:
		return invalid("reason", "is longer than 1024 bytes")
	}
	if err := s.Gate.RevokePassport(r.Context(), id, b.ID, b.Reason); err != nil {
		return about("passport", storeDown, err)
	}
	return writeJSON(w, http.StatusOK, RevokedPassport{b.ID, evidence.Time{Time: s.Now()}})
}

// jwks gives the public keys, for who verifies without asking (RFC 7517).
func (s *server) jwks(w http.ResponseWriter, r *http.Request, _ gate.Identity) error {
	if _, err := readQuery(r); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, s.Gate.JWKS())
}
