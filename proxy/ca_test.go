package proxy

import (
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	now := time.Now()
	first, err := LoadOrCreateCA(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, CAKeyFile)
	if st, err := os.Stat(key); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key: %v %v", st.Mode(), err)
	}
	again, err := LoadOrCreateCA(dir, now)
	if err != nil || string(again.PEM()) != string(first.PEM()) {
		t.Errorf("the second start made another CA: %v", err)
	}
	if c := first.Certificate(); !c.IsCA || c.NotAfter.Sub(now) < 9*365*24*time.Hour || len(c.SubjectKeyId) == 0 {
		t.Errorf("certificate %+v", c)
	}
	if _, err := LoadOrCreateCA(dir, now.Add(11*365*24*time.Hour)); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired CA: %v", err)
	}
	for _, mode := range []os.FileMode{0o644, 0o640, 0o604, 0o660} {
		_ = os.Chmod(key, mode)
		if _, err := LoadOrCreateCA(dir, now); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("key with mode %o: %v", mode, err)
		}
	}
	_ = os.Chmod(key, 0o600)
	other := filepath.Join(t.TempDir(), "other")
	if _, err := LoadOrCreateCA(other, now); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(filepath.Join(other, CAKeyFile))
	_ = os.WriteFile(key, b, 0o600)
	if _, err := LoadOrCreateCA(dir, now); err == nil || !strings.Contains(err.Error(), "is not the key") {
		t.Errorf("another CA's key: %v", err)
	}
	for _, name := range []string{CAKeyFile, CACertFile} {
		half := t.TempDir()
		_ = os.WriteFile(filepath.Join(half, name), b, 0o600)
		if _, err := LoadOrCreateCA(half, now); err == nil {
			t.Errorf("%s alone was accepted", name)
		}
		_ = os.WriteFile(filepath.Join(other, name), []byte("junk"), 0o600)
		if _, err := LoadOrCreateCA(other, now); err == nil {
			t.Errorf("junk in %s was accepted", name)
		}
	}
}

func TestLeaves(t *testing.T) {
	ca, err := LoadOrCreateCA(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	l, err := newLeaves(ca, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate())
	for _, host := range []string{"api.stripe.com", "xn--bcher-kva.example", "10.1.2.3", "2001:db8::1", strings.Repeat("a", 60) + "." + strings.Repeat("b", 60) + ".test"} {
		c, err := l.get(context.Background(), host)
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		if c.Leaf.IsCA || len(c.Leaf.AuthorityKeyId) == 0 {
			t.Errorf("%s: %+v", host, c.Leaf)
		}
	}
	var wg sync.WaitGroup
	serials := make([]string, 20)
	for i := range serials {
		wg.Go(func() {
			if c, err := l.get(context.Background(), "same.test"); err == nil {
				serials[i] = c.Leaf.SerialNumber.String()
			}
		})
	}
	wg.Wait()
	for _, s := range serials {
		if s == "" || s != serials[0] {
			t.Fatalf("signed more than once: %v", serials)
		}
	}
	now = now.Add(leafLifetime - leafRenew + time.Minute)
	if c, err := l.get(context.Background(), "same.test"); err != nil || c.Leaf.SerialNumber.String() == serials[0] {
		t.Errorf("a certificate near its end is still handed out: %v", err)
	}
	for i := range 2 * maxLeaves {
		if _, err := l.get(context.Background(), "h"+strconv.Itoa(i)+".test"); err != nil {
			t.Fatal(err)
		}
	}
	l.of.Load().cache.CleanUp()
	if n := l.of.Load().cache.EstimatedSize(); n > maxLeaves {
		t.Errorf("%d certificates are kept, bound %d", n, maxLeaves)
	}
}
