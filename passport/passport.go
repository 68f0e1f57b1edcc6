// Package passport is the short-lived, signed statement of who may do what: a
// JWS (RFC 7515) with an Ed25519 signature (RFC 8037) over JWT claims (RFC 7519).
//
// The package is pure: keys and time are passed in. What needs a memory, the
// single use of a jti and its revocation, is the gate's and the store's.
//
// # Format
//
//	header   {"alg":"EdDSA","kid":"<key id>","typ":"actpass+jwt"}
//	claims   iss aud exp iat jti tenant_id agent_id user_id goal allowed_tools
//	         allowed_resources resource_constraints risk_tier approval_hash
//
// alg is EdDSA and nothing else; kid is a name of 1 to 64 letters, digits, '-'
// and '_', never a path or a URL; a header member that is not one of the three is
// refused. Times are whole seconds. Tools and resources are globs in which '*'
// stands for any run of characters; an empty list allows nothing.
package passport

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"
)

// Type is the typ of the header.
const Type = "actpass+jwt"

// Leeway is how far two clocks may be apart.
const Leeway = 5 * time.Second

// MaxTTL is the longest life of a passport: they are short-lived.
const MaxTTL = time.Hour

// maxToken bounds what is parsed, in bytes.
const maxToken = 16 << 10

// Claims of a passport.
type Claims struct {
	Issuer    string    `json:"iss"`
	Audience  string    `json:"aud"`
	ExpiresAt time.Time `json:"-"` // exp
	IssuedAt  time.Time `json:"-"` // iat
	ID        string    `json:"jti"`

	TenantID            string         `json:"tenant_id"`
	AgentID             string         `json:"agent_id"`
	UserID              string         `json:"user_id,omitempty"`
	Goal                string         `json:"goal,omitempty"`
	AllowedTools        []string       `json:"allowed_tools"`
	AllowedResources    []string       `json:"allowed_resources"`
	ResourceConstraints map[string]any `json:"resource_constraints,omitempty"`
	RiskTier            string         `json:"risk_tier,omitempty"`     // the highest that it allows, "" for any
	ApprovalHash        string         `json:"approval_hash,omitempty"` // of the one request that it is for
}

// wire is Claims with the times as JWT has them.
type wire struct {
	Exp int64 `json:"exp"`
	Iat int64 `json:"iat"`
	Claims
}

// Reason codes of what can be wrong.
const (
	ReasonMalformed  = "passport.malformed"
	ReasonAlgorithm  = "passport.algorithm"
	ReasonKey        = "passport.key"
	ReasonSignature  = "passport.signature"
	ReasonExpired    = "passport.expired"
	ReasonNotYet     = "passport.not_yet_valid"
	ReasonIssuer     = "passport.issuer"
	ReasonAudience   = "passport.audience"
	ReasonTenant     = "passport.tenant"
	ReasonAgent      = "passport.agent"
	ReasonTool       = "passport.tool"
	ReasonResource   = "passport.resource"
	ReasonConstraint = "passport.constraint"
	ReasonRisk       = "passport.risk"
	ReasonRequest    = "passport.request"
	ReasonReplayed   = "passport.replayed"
	ReasonRevoked    = "passport.revoked"
)

// Error says what is wrong with a passport: a stable code, and which value
// failed against which.
type Error struct {
	Code   string
	Detail string
}

func (e *Error) Error() string { return e.Code + ": " + e.Detail }

func fail(code, format string, args ...any) error {
	return &Error{code, fmt.Sprintf(format, args...)}
}

// Key signs. ID is the kid.
type Key struct {
	ID      string
	Private ed25519.PrivateKey
}

var kidForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Sign makes the token. Times are cut to whole seconds.
func Sign(c *Claims, k Key) (string, error) {
	if !kidForm.MatchString(k.ID) || len(k.Private) != ed25519.PrivateKeySize {
		return "", errors.New("sign passport: the key has no usable id or private part")
	}
	if err := c.check(); err != nil {
		return "", fmt.Errorf("sign passport: %w", err)
	}
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, toMap(c))
	t.Header["kid"] = k.ID
	t.Header["typ"] = Type
	token, err := t.SignedString(k.Private)
	if err != nil {
		return "", fmt.Errorf("sign passport: %w", err)
	}
	return token, nil
}

// check is what every passport must have, whoever signed it.
func (c *Claims) check() error {
	switch {
	case !strings.HasPrefix(c.ID, "ap_") || len(c.ID) > 128:
		return fail(ReasonMalformed, "jti must begin with ap_")
	case c.TenantID == "":
		return fail(ReasonMalformed, "tenant_id is missing")
	case c.AgentID == "":
		return fail(ReasonMalformed, "agent_id is missing")
	case c.ExpiresAt.IsZero() || c.IssuedAt.IsZero():
		return fail(ReasonMalformed, "exp and iat are needed")
	case c.ExpiresAt.Sub(c.IssuedAt) > MaxTTL:
		return fail(ReasonMalformed, "it lives for %s, and %s is the most", c.ExpiresAt.Sub(c.IssuedAt), MaxTTL)
	case !c.ExpiresAt.After(c.IssuedAt):
		return fail(ReasonMalformed, "it expires before it is issued")
	}
	for name, v := range c.ResourceConstraints {
		if err := checkConstraint(name, v); err != nil {
			return err
		}
	}
	return nil
}

func toMap(c *Claims) jwt.MapClaims {
	m := jwt.MapClaims{
		"iss": c.Issuer, "aud": c.Audience, "exp": c.ExpiresAt.Unix(), "iat": c.IssuedAt.Unix(), "jti": c.ID,
		"tenant_id": c.TenantID, "agent_id": c.AgentID,
		"allowed_tools": orEmpty(c.AllowedTools), "allowed_resources": orEmpty(c.AllowedResources),
	}
	for k, v := range map[string]string{"user_id": c.UserID, "goal": c.Goal, "risk_tier": c.RiskTier, "approval_hash": c.ApprovalHash} {
		if v != "" {
			m[k] = v
		}
	}
	if len(c.ResourceConstraints) > 0 {
		m["resource_constraints"] = maps.Clone(c.ResourceConstraints)
	}
	return m
}

// Map gives the claims as policy conditions see them; nil for a nil c.
func (c *Claims) Map() map[string]any {
	if c == nil {
		return nil
	}
	tools, resources := make([]any, len(c.AllowedTools)), make([]any, len(c.AllowedResources))
	for i, s := range c.AllowedTools {
		tools[i] = s
	}
	for i, s := range c.AllowedResources {
		resources[i] = s
	}
	m := map[string]any{
		"jti": c.ID, "iss": c.Issuer, "aud": c.Audience, "tenant_id": c.TenantID, "agent_id": c.AgentID,
		"user_id": c.UserID, "goal": c.Goal, "risk_tier": c.RiskTier, "approval_hash": c.ApprovalHash,
		"allowed_tools": tools, "allowed_resources": resources, "resource_constraints": map[string]any{},
	}
	if c.ResourceConstraints != nil {
		m["resource_constraints"] = c.ResourceConstraints
	}
	return m
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return slices.Clone(list)
}

// Keys finds a public key by kid.
type Keys func(kid string) (ed25519.PublicKey, bool)

// Expect is what a verifier demands besides the signature.
type Expect struct {
	Issuer   string
	Audience string
	Now      time.Time
}

// Verify checks form, signature, issuer, audience and times, and gives the
// claims. The error is an *Error.
func Verify(token string, keys Keys, want Expect) (*Claims, error) {
	if len(token) > maxToken {
		return nil, fail(ReasonMalformed, "the token has %d bytes, and at most %d are read", len(token), maxToken)
	}
	c, err := parse(token, keys)
	if err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return c, c.Current(want)
}

// Current checks what changes with time and verifier: issuer, audience, expiry.
// A token whose signature was verified before needs only this.
func (c *Claims) Current(want Expect) error {
	switch {
	case c.Issuer != want.Issuer:
		return fail(ReasonIssuer, "it was issued by %q, and %q is trusted here", c.Issuer, want.Issuer)
	case c.Audience != want.Audience:
		return fail(ReasonAudience, "it is for %q, and this is %q", c.Audience, want.Audience)
	case !want.Now.Before(c.ExpiresAt.Add(Leeway)):
		return fail(ReasonExpired, "it expired at %s", c.ExpiresAt.UTC().Format(time.RFC3339))
	case want.Now.Add(Leeway).Before(c.IssuedAt):
		return fail(ReasonNotYet, "it is issued at %s, which is in the future", c.IssuedAt.UTC().Format(time.RFC3339))
	}
	return nil
}

// parse reads the three parts itself: a general library would read header and
// claims twice over, at the price of another half of a verification. What it has
// to hold on to is little: one algorithm, one form, no leniency.
func parse(token string, keys Keys) (*Claims, error) {
	head, rest, ok := strings.Cut(token, ".")
	body, sig, more := strings.Cut(rest, ".")
	if !ok || !more || strings.Contains(sig, ".") {
		return nil, fail(ReasonMalformed, "it is not a token of this form: three parts with a dot between them")
	}
	header, err := segment(head)
	if err != nil {
		return nil, fail(ReasonMalformed, "the header is not base64url")
	}
	payload, err := segment(body)
	if err != nil {
		return nil, fail(ReasonMalformed, "the claims are not base64url")
	}
	signature, err := segment(sig)
	if err != nil {
		return nil, fail(ReasonMalformed, "the signature is not base64url")
	}
	key, err := signer(header, keys)
	if err != nil {
		return nil, err
	}
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, []byte(token[:len(token)-len(sig)-1]), signature) {
		return nil, fail(ReasonSignature, "the signature does not fit")
	}
	var w wire
	if err := json.Unmarshal(payload, &w, strict); err != nil {
		return nil, fail(ReasonMalformed, "the claims do not have this form: %v", err)
	}
	w.ExpiresAt, w.IssuedAt = time.Unix(w.Exp, 0).UTC(), time.Unix(w.Iat, 0).UTC()
	return &w.Claims, nil
}

// signer finds the key that a header names, once all else in it is as it must be.
func signer(header []byte, keys Keys) (ed25519.PublicKey, error) {
	var h map[string]any
	if err := json.Unmarshal(header, &h); err != nil {
		return nil, fail(ReasonMalformed, "the header is not one JSON object")
	}
	if h["alg"] != "EdDSA" {
		return nil, fail(ReasonAlgorithm, "alg is %q, and only EdDSA is accepted", clip(fmt.Sprint(h["alg"])))
	}
	for _, name := range sortedKeys(h) {
		if name != "alg" && name != "kid" && name != "typ" {
			return nil, fail(ReasonMalformed, "the header member %q is not used here", clip(name))
		}
	}
	if h["typ"] != Type {
		return nil, fail(ReasonMalformed, "typ is %q, and must be %s", clip(fmt.Sprint(h["typ"])), Type)
	}
	kid, _ := h["kid"].(string)
	if !kidForm.MatchString(kid) {
		return nil, fail(ReasonKey, "the kid %q is not a key's name", clip(kid))
	}
	key, ok := keys(kid)
	if !ok {
		return nil, fail(ReasonKey, "the key %q is not known, or no longer used", kid)
	}
	return key, nil
}

// segment is base64url without padding, of which every byte counts: the decoder
// would skip line breaks, and one token would have many spellings.
func segment(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("it has line breaks")
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

// strict takes the claims of the package comment and no others, each once, with
// numbers in constraints kept exactly.
var strict = json.JoinOptions(json.RejectUnknownMembers(true), json.WithUnmarshalers(json.UnmarshalFromFunc(exact)))

// exact reads whole JSON numbers of a constraint as int64.
func exact(dec *jsontext.Decoder, v *any) error {
	if dec.PeekKind() != '0' {
		return errors.ErrUnsupported
	}
	n, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
		*v = i
		return nil
	}
	f, err := strconv.ParseFloat(n.String(), 64)
	if err != nil {
		return fmt.Errorf("the number %s cannot be compared", clip(n.String()))
	}
	*v = f
	return nil
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
