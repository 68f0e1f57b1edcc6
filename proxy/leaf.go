package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/netip"
	"time"

	"github.com/maypok86/otter/v2"
)

const (
	// leafLifetime is short: a leaf lives in memory only and is made anew.
	leafLifetime = 7 * 24 * time.Hour
	// leafRenew is how long before its end a leaf is no longer handed out.
	leafRenew = 24 * time.Hour
	// maxLeaves bounds the certificates kept, so that an agent that asks for
	// many names costs CPU but not memory.
	maxLeaves = 1024
)

// leaves makes and keeps the certificates of intercepted hosts.
type leaves struct {
	ca    *CA
	key   *ecdsa.PrivateKey // one for all leaves: this process holds the CA's key anyway
	now   func() time.Time
	cache *otter.Cache[string, *tls.Certificate]
}

func newLeaves(ca *CA, now func() time.Time) (*leaves, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of leaf certificates: %w", err)
	}
	cache, err := otter.New(&otter.Options[string, *tls.Certificate]{MaximumSize: maxLeaves})
	if err != nil {
		return nil, fmt.Errorf("make the cache of leaf certificates: %w", err)
	}
	return &leaves{ca: ca, key: key, now: now, cache: cache}, nil
}

// get returns the certificate for a canonical host. Callers that ask for the
// same host at the same time share one signature.
func (l *leaves) get(ctx context.Context, host string) (*tls.Certificate, error) {
	cert, ok := l.cache.GetIfPresent(host)
	if ok {
		if l.now().Add(leafRenew).Before(cert.Leaf.NotAfter) {
			return cert, nil
		}
		l.cache.Invalidate(host)
	}
	return l.cache.Get(ctx, host, otter.LoaderFunc[string, *tls.Certificate](func(_ context.Context, host string) (*tls.Certificate, error) {
		return l.sign(host)
	}))
}

func (l *leaves) sign(host string) (*tls.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", host, err)
	}
	now := l.now()
	notAfter := now.Add(leafLifetime)
	if notAfter.After(l.ca.cert.NotAfter) {
		notAfter = l.ca.cert.NotAfter
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(-time.Hour).UTC(),
		NotAfter:              notAfter.UTC(),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if len(host) <= 64 { // the upper bound of a common name (RFC 5280, appendix A)
		tmpl.Subject = pkix.Name{CommonName: host}
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		tmpl.IPAddresses = append(tmpl.IPAddresses, ip.AsSlice())
	} else {
		tmpl.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, l.ca.cert, &l.key.PublicKey, l.ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", host, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", host, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: l.key, Leaf: leaf}, nil
}
