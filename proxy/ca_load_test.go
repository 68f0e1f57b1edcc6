package proxy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLoadCA: what cert-manager and openssl write is taken, and leaves that it signs
// hold; what would not work for clients is refused, with the reason.
func TestLoadCA(t *testing.T) {
	now := time.Now()
	self := func(key crypto.Signer, by crypto.Signer, change func(*x509.Certificate)) []byte {
		t.Helper()
		c := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "our CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		change(c)
		parent := *c
		if by == nil {
			by = key
		} else {
			parent.Subject = pkix.Name{CommonName: "another"}
		}
		der, err := x509.CreateCertificate(rand.Reader, c, &parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	same := func(*x509.Certificate) {}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	pkcs8 := func(key any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	sec1, _ := x509.MarshalECPrivateKey(ec)
	for name, c := range map[string]struct {
		cert, key []byte
		want      string
	}{
		"ECDSA, PKCS #8":  {self(ec, nil, same), pkcs8(ec), ""},
		"ECDSA, SEC 1":    {self(ec, nil, same), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}), ""},
		"RSA, PKCS #1":    {self(rs, nil, same), pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rs)}), ""},
		"RSA, PKCS #8":    {self(rs, nil, same), pkcs8(rs), ""},
		"Ed25519":         {self(ed, nil, same), pkcs8(ed), "ECDSA or RSA"},
		"another's key":   {self(ec, nil, same), pkcs8(other), "is not the key"},
		"an RSA key":      {self(ec, nil, same), pkcs8(rs), "is not the key"},
		"no CA":           {self(ec, nil, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature }), pkcs8(ec), "not a CA"},
		"an intermediate": {self(ec, other, same), pkcs8(ec), "signed by another CA"},
		"expired":         {self(ec, nil, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }), pkcs8(ec), "expired"},
		"no certificate":  {[]byte("x"), pkcs8(ec), "no PEM certificate"},
		"no key":          {self(ec, nil, same), nil, "no PEM key"},
	} {
		dir := t.TempDir()
		cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
		_ = os.WriteFile(cert, c.cert, 0o644)
		_ = os.WriteFile(key, c.key, 0o644) // as a mounted Secret is
		ca, err := LoadCA(cert, key, now)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		l, err := newLeaves(ca, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := l.get(t.Context(), "api.example.com")
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca.PEM())
		if _, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "api.example.com"}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		next, err := MemoryCA(now)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.use(next); err != nil {
			t.Fatal(err)
		}
		if again, err := l.get(t.Context(), "api.example.com"); err != nil || again.Leaf.CheckSignatureFrom(next.Certificate()) != nil {
			t.Errorf("%s: after the change a leaf of the CA of before is handed out: %v", name, err)
		}
	}
}
