package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestOwnCA: intercepted hosts are signed for by a CA that was made elsewhere, and by
// its successor soon after the files have changed; what other containers trust
// follows. A key that does not fit changes nothing.
func TestOwnCA(t *testing.T) {
	u := newUpstream(t)
	dir := t.TempDir()
	crt, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	put := func(serial int64, files ...string) *x509.CertPool {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		c := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "our CA", SerialNumber: big.NewInt(serial).String()},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
		must(t, err)
		pk, err := x509.MarshalPKCS8PrivateKey(k)
		must(t, err)
		text := map[string][]byte{
			crt: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}),
		}
		for _, f := range files {
			must(t, os.WriteFile(f+".new", text[f], 0o644))
			must(t, os.Rename(f+".new", f))
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(text[crt])
		return pool
	}
	first := put(1, crt, key)
	sc := &sidecar{t: t, dir: t.TempDir()}
	sc.config = settings{front: u, extra: "ca: { cert_file: " + crt + ", key_file: " + key + " }"}.write(t, sc.dir)
	trust := filepath.Join(t.TempDir(), "trust")
	sc.launch(exec.Command(binary, "serve", "--trust-dir", trust, "--config", sc.config))
	t.Cleanup(sc.stop)
	trusts := func(pool *x509.CertPool) bool {
		tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: sc.proxy}), TLSClientConfig: &tls.Config{RootCAs: pool}}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get("https://echo.example.test/")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return true
	}
	if !trusts(first) {
		t.Fatal("a client that trusts our CA does not get through")
	}
	if _, err := os.Stat(filepath.Join(sc.dir, "data", "ca")); !os.IsNotExist(err) {
		t.Errorf("there is another CA: %v", err)
	}
	put(2, crt) // with the key of before
	time.Sleep(2500 * time.Millisecond)
	if !trusts(first) {
		t.Error("half of a change took the CA away")
	}
	second := put(3, crt, key)
	becomes(t, 30*time.Second, "the next CA signs", func() bool { return trusts(second) })
	if trusts(first) {
		t.Error("the CA of before signs too")
	}
	becomes(t, 10*time.Second, "the trust files follow", func() bool {
		want, err := os.ReadFile(crt)
		must(t, err)
		got, _ := os.ReadFile(filepath.Join(trust, "ca.pem"))
		return string(got) == string(want)
	})
	if out, code := sc.cli("ca", "export"); code != 0 {
		t.Errorf("ca export: %d %s", code, out)
	} else if want, _ := os.ReadFile(crt); out != string(want) {
		t.Errorf("ca export gives another one: %s", out)
	}
}
