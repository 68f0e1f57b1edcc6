package passport

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// JWK is a public key as RFC 8037 writes it.
type JWK struct {
	KeyType string `json:"kty"` // OKP
	Curve   string `json:"crv"` // Ed25519
	X       string `json:"x"`   // base64url
	KeyID   string `json:"kid"`
	Use     string `json:"use"` // sig
	Alg     string `json:"alg"` // EdDSA
}

// JWKS is a set of public keys (RFC 7517).
type JWKS struct {
	Keys []JWK `json:"keys"`
}

// PublicJWK gives the public half of a key.
func PublicJWK(kid string, pub ed25519.PublicKey) JWK {
	return JWK{KeyType: "OKP", Curve: "Ed25519", X: base64.RawURLEncoding.EncodeToString(pub), KeyID: kid, Use: "sig", Alg: "EdDSA"}
}

// ParseJWKS reads a set; a key of another kind is refused.
func ParseJWKS(data []byte) (Keys, error) {
	var set JWKS
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("read JWKS: %w", err)
	}
	byID := make(map[string]ed25519.PublicKey, len(set.Keys))
	for _, k := range set.Keys {
		x, err := base64.RawURLEncoding.DecodeString(k.X)
		if err != nil || k.KeyType != "OKP" || k.Curve != "Ed25519" || len(x) != ed25519.PublicKeySize || !kidForm.MatchString(k.KeyID) {
			return nil, fmt.Errorf("read JWKS: the key %q is not an Ed25519 key of this form", clip(k.KeyID))
		}
		byID[k.KeyID] = x
	}
	return func(kid string) (ed25519.PublicKey, bool) {
		pub, ok := byID[kid]
		return pub, ok
	}, nil
}
