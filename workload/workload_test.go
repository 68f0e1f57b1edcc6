package workload

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func ecKey(t *testing.T, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func b64(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }

func rsaJWK(kid string, k *rsa.PublicKey) map[string]string {
	return map[string]string{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": b64(k.N), "e": b64(big.NewInt(int64(k.E)))}
}

func ecJWK(kid, crv string, k *ecdsa.PublicKey) map[string]string {
	point, err := k.Bytes() // 4, X, Y
	if err != nil {
		panic(err)
	}
	half := len(point) / 2
	return map[string]string{
		"kty": "EC", "crv": crv, "kid": kid,
		"x": base64.RawURLEncoding.EncodeToString(point[1 : 1+half]), "y": base64.RawURLEncoding.EncodeToString(point[1+half:]),
	}
}

func jwks(t *testing.T, keys ...map[string]string) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func claims(change ...func(jwt.MapClaims)) jwt.MapClaims {
	c := jwt.MapClaims{
		"iss": "https://kubernetes.default.svc", "aud": []string{"actpass"}, "sub": "system:serviceaccount:agents:refunder",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func sign(t *testing.T, m jwt.SigningMethod, kid string, key any, c jwt.MapClaims, head ...string) string {
	t.Helper()
	tok := jwt.NewWithClaims(m, c)
	tok.Header["kid"] = kid
	for i := 0; i < len(head); i += 2 {
		tok.Header[head[i]] = head[i+1]
	}
	s, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func verifier(raw []byte) *Verifier {
	return &Verifier{Issuer: "https://kubernetes.default.svc", Audience: "actpass", Keys: &Keys{read: func(context.Context) ([]byte, error) { return raw, nil }}}
}

func TestVerify(t *testing.T) {
	r, e, e3, e5 := rsaKey(), ecKey(t, elliptic.P256()), ecKey(t, elliptic.P384()), ecKey(t, elliptic.P521())
	other := ecKey(t, elliptic.P256())
	v := verifier(jwks(t, rsaJWK("r", &r.PublicKey), ecJWK("e", "P-256", &e.PublicKey), ecJWK("e3", "P-384", &e3.PublicKey), ecJWK("e5", "P-521", &e5.PublicKey)))
	for name, token := range map[string]string{
		"RS256":                       sign(t, jwt.SigningMethodRS256, "r", r, claims()),
		"ES256":                       sign(t, jwt.SigningMethodES256, "e", e, claims()),
		"ES384":                       sign(t, jwt.SigningMethodES384, "e3", e3, claims()),
		"ES512":                       sign(t, jwt.SigningMethodES512, "e5", e5, claims()),
		"one of several audiences":    sign(t, jwt.SigningMethodES256, "e", e, claims(func(c jwt.MapClaims) { c["aud"] = []string{"other", "actpass"} })),
		"expired within the leeway":   sign(t, jwt.SigningMethodES256, "e", e, claims(func(c jwt.MapClaims) { c["exp"] = now.Add(-2 * time.Second).Unix() })),
		"a name with dots and dashes": sign(t, jwt.SigningMethodES256, "e", e, claims(func(c jwt.MapClaims) { c["sub"] = "system:serviceaccount:agents:refunder" })),
	} {
		a, err := v.Verify(context.Background(), token, now)
		if err != nil || a.AgentID() != "agents/refunder" || a.Expires.IsZero() {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}

	der, err := x509.MarshalPKIXPublicKey(&r.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	with := func(name string, value any) jwt.MapClaims {
		return claims(func(c jwt.MapClaims) {
			if c[name] = value; value == nil {
				delete(c, name)
			}
		})
	}
	good := sign(t, jwt.SigningMethodES256, "e", e, claims())
	parts := strings.Split(good, ".")
	flipped := []byte(parts[2])
	flipped[10] ^= 1
	for name, token := range map[string]string{
		"nothing":                   "",
		"no token":                  "a.b.c",
		"alg none":                  sign(t, jwt.SigningMethodNone, "r", jwt.UnsafeAllowNoneSignatureType, claims()),
		"alg none, no kid":          sign(t, jwt.SigningMethodNone, "", jwt.UnsafeAllowNoneSignatureType, claims()),
		"HS256 with the public key": sign(t, jwt.SigningMethodHS256, "r", publicPEM, claims()),
		"HS256 with the DER":        sign(t, jwt.SigningMethodHS256, "r", der, claims()),
		"HS256 with the modulus":    sign(t, jwt.SigningMethodHS256, "r", r.N.Bytes(), claims()),
		"PS256 with an RS256 key":   sign(t, jwt.SigningMethodPS256, "r", r, claims()),
		"RS512 with an RS256 key":   sign(t, jwt.SigningMethodRS512, "r", r, claims()),
		"RS256 under the kid of EC": sign(t, jwt.SigningMethodRS256, "e", r, claims()),
		"another key, same kid":     sign(t, jwt.SigningMethodES256, "e", other, claims()),
		"an unknown kid":            sign(t, jwt.SigningMethodES256, "x", e, claims()),
		"a kid that is a path":      sign(t, jwt.SigningMethodES256, "../../e", e, claims()),
		"no kid":                    sign(t, jwt.SigningMethodES256, "", e, claims()),
		"a key of its own":          sign(t, jwt.SigningMethodES256, "x", other, claims(), "jku", "https://evil.example/jwks"),
		"critical headers":          sign(t, jwt.SigningMethodES256, "e", e, claims(), "crit", "b64"),
		"another audience":          sign(t, jwt.SigningMethodES256, "e", e, with("aud", "https://kubernetes.default.svc")),
		"no audience":               sign(t, jwt.SigningMethodES256, "e", e, with("aud", nil)),
		"another issuer":            sign(t, jwt.SigningMethodES256, "e", e, with("iss", "https://kubernetes.default.svc.evil")),
		"no issuer":                 sign(t, jwt.SigningMethodES256, "e", e, with("iss", nil)),
		"expired":                   sign(t, jwt.SigningMethodES256, "e", e, with("exp", now.Add(-6*time.Second).Unix())),
		"no expiry":                 sign(t, jwt.SigningMethodES256, "e", e, with("exp", nil)),
		"not yet":                   sign(t, jwt.SigningMethodES256, "e", e, with("nbf", now.Add(time.Minute).Unix())),
		"of the future":             sign(t, jwt.SigningMethodES256, "e", e, with("iat", now.Add(time.Minute).Unix())),
		"a person":                  sign(t, jwt.SigningMethodES256, "e", e, with("sub", "jane")),
		"a node":                    sign(t, jwt.SigningMethodES256, "e", e, with("sub", "system:node:n1")),
		"no name":                   sign(t, jwt.SigningMethodES256, "e", e, with("sub", "system:serviceaccount:agents:")),
		"no namespace":              sign(t, jwt.SigningMethodES256, "e", e, with("sub", "system:serviceaccount::refunder")),
		"a slash in the namespace":  sign(t, jwt.SigningMethodES256, "e", e, with("sub", "system:serviceaccount:agents/refunder:x")),
		"three parts":               sign(t, jwt.SigningMethodES256, "e", e, with("sub", "system:serviceaccount:agents:a:b")),
		"a flipped bit":             parts[0] + "." + parts[1] + "." + string(flipped),
		"another's claims":          parts[0] + "." + strings.Split(sign(t, jwt.SigningMethodES256, "e", other, with("sub", "system:serviceaccount:agents:admin")), ".")[1] + "." + parts[2],
		"megabytes":                 good + strings.Repeat("A", maxToken),
	} {
		if a, err := v.Verify(context.Background(), token, now); err == nil {
			t.Errorf("%s is believed: %+v", name, a)
		}
	}
	// No algorithm of a token moves a key to another one.
	for kid, alg := range map[string]string{"r": "ES256", "e": "RS256", "e3": "ES256", "e5": "ES384"} {
		if _, err := v.Keys.key(context.Background(), kid, alg, now); err == nil {
			t.Errorf("the key %s is given for %s", kid, alg)
		}
	}
	if _, err := (&Verifier{Issuer: "i", Keys: v.Keys}).Verify(context.Background(), good, now); err == nil {
		t.Error("a verifier without an audience believes")
	}
}

// TestRotation: a new key is found, at most one question each ten seconds however
// many tokens come; one that the issuer took away is not believed five minutes later.
func TestRotation(t *testing.T) {
	old, next := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())
	set := jwks(t, ecJWK("old", "P-256", &old.PublicKey))
	var fail error
	asked := 0
	v := verifier(nil)
	v.Keys.read = func(context.Context) ([]byte, error) { asked++; return set, fail }
	try := func(kid string, key *ecdsa.PrivateKey, at time.Time) error {
		_, err := v.Verify(context.Background(), sign(t, jwt.SigningMethodES256, kid, key, claims()), at)
		return err
	}
	if err := try("old", old, now); err != nil || asked != 1 {
		t.Fatal(asked, err)
	}
	for range 50 {
		if try("new", next, now.Add(time.Second)) == nil {
			t.Fatal("a key that nobody published is believed")
		}
	}
	if asked != 1 {
		t.Errorf("%d questions within a second", asked)
	}
	set = jwks(t, ecJWK("new", "P-256", &next.PublicKey))
	if err := try("new", next, now.Add(11*time.Second)); err != nil || asked != 2 {
		t.Errorf("the new key: %d questions, %v", asked, err)
	}
	if try("old", old, now.Add(30*time.Second)) == nil {
		t.Error("the old key is believed after the new set was read")
	}
	// While the issuer is away what is known goes on, beyond its freshness too.
	fail = errors.New("away")
	if err := try("new", next, now.Add(20*time.Minute)); err != nil {
		t.Errorf("known, with the issuer away: %v", err)
	}
	if err := try("other", old, now.Add(21*time.Minute)); !errors.Is(err, ErrUnreachable) {
		t.Errorf("unknown, with the issuer away: %v", err)
	}
	fail, set = nil, jwks(t, ecJWK("third", "P-256", &old.PublicKey))
	if try("new", next, now.Add(30*time.Minute)) == nil {
		t.Error("a key that was taken away is believed")
	}
}

func TestJWKS(t *testing.T) {
	r, e := rsaKey(), ecKey(t, elliptic.P256())
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip(err) // this Go makes none
	}
	off := ecJWK("e", "P-256", &e.PublicKey)
	off["y"] = off["x"]
	enc := rsaJWK("r", &r.PublicKey)
	enc["use"] = "enc"
	alg := rsaJWK("r", &r.PublicKey)
	alg["alg"] = "HS256"
	for name, raw := range map[string][]byte{
		"none": jwks(t), "no JSON": []byte("<html>"), "a small RSA key": jwks(t, rsaJWK("r", &small.PublicKey)), "off the curve": jwks(t, off),
		"for encryption": jwks(t, enc), "an algorithm that does not fit": jwks(t, alg), "a secret": jwks(t, map[string]string{"kty": "oct", "kid": "k", "k": "AAAA"}),
		"one id twice": jwks(t, rsaJWK("k", &r.PublicKey), ecJWK("k", "P-256", &e.PublicKey)),
	} {
		if got, err := parseJWKS(raw); err == nil {
			t.Errorf("%s: %d keys", name, len(got))
		}
	}
}

// TestSources: a file and a URL, whose certificate is checked and whose redirects are
// not followed.
func TestSources(t *testing.T) {
	e := ecKey(t, elliptic.P256())
	set := jwks(t, ecJWK("e", "P-256", &e.PublicKey))
	token := sign(t, jwt.SigningMethodES256, "e", e, claims())
	dir := t.TempDir()
	file := filepath.Join(dir, "jwks")
	bearer := filepath.Join(dir, "bearer")
	ca := filepath.Join(dir, "ca")
	write := func(path string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file, set)
	write(bearer, []byte("secret\n"))
	var sent string
	mux := http.NewServeMux()
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header.Get("Authorization")
		_, _ = w.Write(set)
	})
	mux.Handle("/away", http.RedirectHandler("/jwks", http.StatusFound))
	mux.HandleFunc("/big", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(append(set, make([]byte, maxJWKS)...)) })
	srv := httptest.NewTLSServer(mux)
	defer srv.Close()
	write(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	url := func(path, ca string) *Keys {
		t.Helper()
		k, err := URLKeys(srv.URL+path, ca, bearer)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	for name, c := range map[string]struct {
		keys *Keys
		good bool
	}{
		"a file":               {FileKeys(file), true},
		"no file":              {FileKeys(file + "x"), false},
		"a URL":                {url("/jwks", ca), true},
		"an unknown authority": {url("/jwks", ""), false},
		"a redirect":           {url("/away", ca), false},
		"megabytes":            {url("/big", ca), false},
		"not found":            {url("/none", ca), false},
	} {
		v := &Verifier{Issuer: "https://kubernetes.default.svc", Audience: "actpass", Keys: c.keys}
		if _, err := v.Verify(context.Background(), token, now); (err == nil) != c.good || err != nil && !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if sent != "Bearer secret" {
		t.Errorf("asked with %q", sent)
	}
}
