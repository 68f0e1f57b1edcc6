package workload

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// ErrUnreachable says that the keys could not be read.
var ErrUnreachable = errors.New("the keys of the issuer cannot be read")

// Bounds: a key that is not known is looked for once in so long, whatever comes in; a
// key that the issuer took away is believed for no longer than fresh.
const (
	again   = 10 * time.Second
	fresh   = 5 * time.Minute
	maxJWKS = 1 << 20
	maxKeys = 100
	minRSA  = 2048 // bits
)

// Keys are those that an issuer publishes, as they were last read.
type Keys struct {
	read func(ctx context.Context) ([]byte, error)

	mu    sync.Mutex
	known map[string]public
	at    time.Time // of the last reading
	tried time.Time // of the last attempt at one
}

// FileKeys reads a JWKS from a file, such as a mounted ConfigMap.
func FileKeys(path string) *Keys {
	return &Keys{read: func(context.Context) ([]byte, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, maxJWKS+1))
	}}
}

// URLKeys reads a JWKS from an https URL. caFile holds further roots, "" for none;
// bearerFile a token to ask with, read each time, "" for none.
func URLKeys(url, caFile, bearerFile string) (*Keys, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", caFile)
		}
	}
	client := &http.Client{
		Timeout: 5 * time.Second,
		// A token must not be carried to where an answer points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{Proxy: nil, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true},
	}
	return &Keys{read: func(ctx context.Context) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Accept", "application/jwk-set+json, application/json")
		if bearerFile != "" {
			token, err := os.ReadFile(bearerFile)
			if err != nil {
				return nil, err
			}
			req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s answers %s", url, resp.Status)
		}
		return io.ReadAll(io.LimitReader(resp.Body, maxJWKS+1))
	}}, nil
}

// key gives the key of an id for an algorithm. One that is not known may be new, and
// those that are known may have been taken away.
func (k *Keys) key(ctx context.Context, kid, alg string, now time.Time) (any, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p, ok := k.known[kid]
	// The clock may have been put back.
	if waited := now.Sub(k.tried); (!ok || now.Sub(k.at) > fresh || now.Before(k.at)) && (waited >= again || waited < 0) {
		k.tried = now
		list, err := k.load(ctx)
		switch {
		case err == nil:
			k.known, k.at = list, now
			p, ok = k.known[kid]
		case !ok:
			return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
	}
	switch {
	case k.known == nil:
		return nil, ErrUnreachable
	case !ok:
		return nil, fmt.Errorf("the issuer has no key %q", clip(kid))
	case p.alg != alg:
		return nil, fmt.Errorf("the key %q is for %s, and the token says %s", clip(kid), p.alg, alg)
	}
	return p.key, nil
}

func (k *Keys) load(ctx context.Context) (map[string]public, error) {
	raw, err := k.read(ctx)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxJWKS {
		return nil, fmt.Errorf("the JWKS has more than %d bytes", maxJWKS)
	}
	return parseJWKS(raw)
}

type jwk struct {
	Kty, Use, Kid, Alg, Crv, N, E, X, Y string
}

// parseJWKS takes the signing keys that it can use (RFC 7517 and 7518) and leaves out
// others; none is an error.
func parseJWKS(raw []byte) (map[string]public, error) {
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, fmt.Errorf("read the JWKS: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("the JWKS has %d keys, more than %d", len(set.Keys), maxKeys)
	}
	out := make(map[string]public)
	for _, j := range set.Keys {
		p, ok := j.public()
		if !ok || j.Use != "" && j.Use != "sig" || j.Alg != "" && j.Alg != p.alg {
			continue
		}
		if _, twice := out[j.Kid]; twice {
			return nil, fmt.Errorf("the JWKS has two keys with the id %q", clip(j.Kid))
		}
		out[j.Kid] = p
	}
	if len(out) == 0 {
		return nil, errors.New("the JWKS has no key for RS256, ES256, ES384 or ES512")
	}
	return out, nil
}

func (j *jwk) public() (public, bool) {
	number := func(s string) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil || len(b) == 0 || len(b) > 1024 {
			return nil
		}
		return new(big.Int).SetBytes(b)
	}
	switch j.Kty {
	case "RSA":
		n, e := number(j.N), number(j.E)
		if n == nil || e == nil || n.BitLen() < minRSA || !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 || e.Int64()%2 == 0 {
			return public{}, false
		}
		return public{"RS256", &rsa.PublicKey{N: n, E: int(e.Int64())}}, true
	case "EC":
		curves := map[string]struct {
			alg   string
			curve elliptic.Curve
		}{"P-256": {"ES256", elliptic.P256()}, "P-384": {"ES384", elliptic.P384()}, "P-521": {"ES512", elliptic.P521()}}
		c, ok := curves[j.Crv]
		x, y := number(j.X), number(j.Y)
		if !ok || x == nil || y == nil {
			return public{}, false
		}
		size := (c.curve.Params().BitSize + 7) / 8
		if x.BitLen() > 8*size || y.BitLen() > 8*size {
			return public{}, false
		}
		point := make([]byte, 1+2*size) // SEC 1, uncompressed
		point[0] = 4
		x.FillBytes(point[1 : 1+size])
		y.FillBytes(point[1+size:])
		key, err := ecdsa.ParseUncompressedPublicKey(c.curve, point)
		if err != nil { // not on the curve
			return public{}, false
		}
		return public{c.alg, key}, true
	}
	return public{}, false
}
