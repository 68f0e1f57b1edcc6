// Package workload says which Kubernetes service account a pod runs as, from the
// token that the kubelet projects into it: a JWT of the cluster's issuer (OpenID
// Connect), whose sub is system:serviceaccount:NAMESPACE:NAME.
//
// A token is believed when its signature is by a key that the issuer publishes (JWKS),
// with an algorithm that fits that key, and issuer, audience and time fit. Nothing in
// the token says where keys are found or how it is to be verified: its alg must be the
// key's, and its kid only picks among the keys that are known.
package workload

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Account is a service account.
type Account struct {
	Namespace, Name string
	Expires         time.Time // of the token
}

// AgentID is how policies, limits and the record name it.
func (a Account) AgentID() string { return a.Namespace + "/" + a.Name }

// Verifier believes tokens. All fields must be set.
type Verifier struct {
	Issuer, Audience string
	Keys             *Keys
}

const (
	leeway   = 5 * time.Second // as for passports
	maxToken = 16 << 10
	prefix   = "system:serviceaccount:"
)

// algorithms are those of keys that clusters sign with.
var algorithms = []string{"RS256", "ES256", "ES384", "ES512"}

// Verify says whose token it is. An error that wraps ErrUnreachable says nothing
// about the token: its key could not be asked for.
func (v *Verifier) Verify(ctx context.Context, token string, now time.Time) (Account, error) {
	if v.Issuer == "" || v.Audience == "" || v.Keys == nil {
		return Account{}, errors.New("verify a service account token: issuer, audience and keys must be given")
	}
	if len(token) > maxToken {
		return Account{}, fmt.Errorf("the service account token has more than %d bytes", maxToken)
	}
	parser := jwt.NewParser(
		jwt.WithValidMethods(algorithms), jwt.WithIssuer(v.Issuer), jwt.WithAudience(v.Audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(leeway), jwt.WithTimeFunc(func() time.Time { return now }), jwt.WithStrictDecoding(),
	)
	var claims jwt.RegisteredClaims
	_, err := parser.ParseWithClaims(token, &claims, func(t *jwt.Token) (any, error) {
		if _, critical := t.Header["crit"]; critical {
			return nil, errors.New("it has critical headers, of which none is known")
		}
		kid, _ := t.Header["kid"].(string)
		return v.Keys.key(ctx, kid, t.Method.Alg(), now)
	})
	if err != nil {
		return Account{}, fmt.Errorf("verify the service account token: %w", err)
	}
	rest, ok := strings.CutPrefix(claims.Subject, prefix)
	namespace, name, two := strings.Cut(rest, ":")
	if !ok || !two || !plainName(namespace) || !plainName(name) {
		return Account{}, fmt.Errorf("verify the service account token: its subject %q is no service account", clip(claims.Subject))
	}
	return Account{Namespace: namespace, Name: name, Expires: claims.ExpiresAt.Time}, nil
}

// plainName is a DNS name as Kubernetes names such things (RFC 1123).
func plainName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "..."
	}
	return s
}

// public is a key with the one algorithm that it may be used with.
type public struct {
	alg string
	key crypto.PublicKey
}
