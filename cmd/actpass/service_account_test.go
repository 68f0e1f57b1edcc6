package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"

	"github.com/actpass/sidecar/config"
)

// TestAccount: a start with a service account's token takes its name for the agent's,
// also after a reload, and one without a valid token is none.
func TestAccount(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	coordinate := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	set, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "kid": "k", "x": coordinate(point[1:33]), "y": coordinate(point[33:]),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	write("jwks", set)
	token := func(audience, sub string) {
		t.Helper()
		tok := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"iss": "i", "aud": audience, "sub": sub, "exp": time.Now().Add(time.Hour).Unix()})
		tok.Header["kid"] = "k"
		s, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		write("token", []byte(s+"\n"))
	}
	cfg := config.Default()
	cfg.Dir, cfg.DataDir = dir, "data"
	cfg.Listen = config.Listen{API: "off", Proxy: "off", Reverse: "off"}
	cfg.Identity.ServiceAccount = config.ServiceAccount{TokenFile: "token", Issuer: "i", Audience: "actpass", JWKSFile: "jwks"}
	compiled, err := cfg.Compile(nil)
	if err != nil {
		t.Fatal(err)
	}
	again := func() (*config.Config, *config.Compiled, error) { return cfg, compiled, nil }

	token("another", "system:serviceaccount:agents:refunder")
	if p, err := start(context.Background(), asSidecar, cfg, compiled, again, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "identity.service_account") {
		if err == nil {
			p.close()
		}
		t.Fatalf("another audience: %v", err)
	}
	token("actpass", "system:serviceaccount:agents:refunder")
	p, err := start(context.Background(), asSidecar, cfg, compiled, again, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	is := func(what string) {
		t.Helper()
		if got := p.gate.ConfigIdentity().AgentID; got != "agents/refunder" {
			t.Errorf("%s: the agent is %q", what, got)
		}
	}
	is("at the start")
	p.reload(context.Background(), "test")
	is("after a reload")
	token("actpass", "system:serviceaccount:agents:admin")
	time.Sleep(1500 * time.Millisecond) // it is looked at each second
	is("with another's token")
}
