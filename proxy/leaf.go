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
	"sync/atomic"
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
	key *ecdsa.PrivateKey // one for all leaves: this process holds the CA's key anyway
	now func() time.Time
	of  atomic.Pointer[issued]
}

// issued is what one CA has signed. It goes with the CA, so that none of it is handed
// out under the next.
type issued struct {
	ca    *CA
	cache *otter.Cache[string, *tls.Certificate]
}

func newLeaves(ca *CA, now func() time.Time) (*leaves, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of leaf certificates: %w", err)
	}
	l := &leaves{key: key, now: now}
	return l, l.use(ca)
}

// use signs with ca from now on.
func (l *leaves) use(ca *CA) error {
	cache, err := otter.New(&otter.Options[string, *tls.Certificate]{MaximumSize: maxLeaves})
	if err != nil {
		return fmt.Errorf("make the cache of leaf certificates: %w", err)
	}
	l.of.Store(&issued{ca: ca, cache: cache})
	return nil
}

// get returns the certificate for a canonical host. Callers that ask for the
// same host at the same time share one signature.
func (l *leaves) get(ctx context.Context, host string) (*tls.Certificate, error) {
	by := l.of.Load()
	cert, ok := by.cache.GetIfPresent(host)
	if ok {
		if l.now().Add(leafRenew).Before(cert.Leaf.NotAfter) {
			return cert, nil
		}
		by.cache.Invalidate(host)
	}
	return by.cache.Get(ctx, host, otter.LoaderFunc[string, *tls.Certificate](func(_ context.Context, host string) (*tls.Certificate, error) {
		return l.sign(by.ca, host)
	}))
}

func (l *leaves) sign(ca *CA, host string) (*tls.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", host, err)
	}
	now := l.now()
	notAfter := now.Add(leafLifetime)
	if notAfter.After(ca.cert.NotAfter) {
		notAfter = ca.cert.NotAfter
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
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &l.key.PublicKey, ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", host, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", host, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: l.key, Leaf: leaf}, nil
}
