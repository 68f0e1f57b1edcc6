package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/inject"
)

// writePair writes a certificate with the serial number, older or newer by age.
func writePair(t *testing.T, dir string, serial int64, at time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)},
		&x509.Certificate{SerialNumber: big.NewInt(serial)}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: pk}} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWebhookCertificate: it is read again when the files change, and a pair that
// does not fit, as in the middle of a rotation, takes nothing down.
func TestWebhookCertificate(t *testing.T) {
	dir := t.TempDir()
	began := time.Now().Add(-time.Hour)
	writePair(t, dir, 1, began)
	k := &keyPair{cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key"), log: zap.NewNop()}
	server := httptest.NewUnstartedServer(injectHandler(inject.Options{Image: "i", UID: 1}, zap.NewNop()))
	server.TLS = &tls.Config{GetCertificate: k.get}
	server.StartTLS()
	defer server.Close()
	serial := func() int64 {
		t.Helper()
		k.mu.Lock()
		k.looked = time.Time{}
		k.mu.Unlock()
		// Without a name httptest's own certificate would not be asked for either.
		c, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, ServerName: "webhook.test"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Fatalf("serial %d", got)
	}
	writePair(t, dir, 2, began.Add(time.Minute))
	if got := serial(); got != 2 {
		t.Errorf("after a rotation: serial %d", got)
	}
	if err := os.WriteFile(k.key, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("in the middle of a rotation: serial %d", got)
	}
	writePair(t, dir, 3, began.Add(2*time.Minute))
	if got := serial(); got != 3 {
		t.Errorf("after it: serial %d", got)
	}
}

func TestWebhookHandler(t *testing.T) {
	h := injectHandler(inject.Options{Image: "i", UID: 1}, zap.NewNop())
	pod := `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","kind":{"version":"v1","kind":"Pod"},"operation":"CREATE","object":{"metadata":{},"spec":{"containers":[{"name":"a"}]}}}}`
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/inject", pod, 200, `"allowed":true}`},
		{"POST", "/inject/namespace", pod, 200, `"patchType":"JSONPatch"`},
		{"POST", "/inject", "{", 400, "read the admission review"},
		{"POST", "/inject", strings.Repeat(" ", maxReview+1), 413, ""},
		{"GET", "/inject", "", 405, ""},
		{"GET", "/healthz", "", 200, "ok"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		b, _ := io.ReadAll(w.Result().Body)
		if w.Code != c.status || !strings.Contains(string(b), c.want) {
			t.Errorf("%s %s: %d %.200s, want %d %s", c.method, c.path, w.Code, b, c.status, c.want)
		}
		if c.status == 200 && c.path != "/healthz" && w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: %v", c.path, http.Header(w.Header()))
		}
	}
}
