package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// upstreamHosts are the names that the tests' upstream answers for.
var upstreamHosts = []string{"api.stripe.com", "echo.example.test", "other.example.test"}

// upstream stands in for the providers: TLS with a CA of its own in front of
// stripe-mock for api.stripe.com, and an echo for the rest. It counts
// everything that reaches it, connections and bytes too.
type upstream struct {
	tls, plain string // addresses
	caFile     string
	conns      atomic.Int64
	bytes      atomic.Int64
	heard      atomic.Int64 // when the last of them came, Unix nanoseconds

	mu       sync.Mutex
	requests []seen
	handler  http.HandlerFunc // overrides the echo when set
}

type seen struct {
	Method, Host, Target, Proto string
	Header                      http.Header
	Body                        []byte
	Trailer                     http.Header
}

type countedListener struct {
	net.Listener
	u *upstream
}

func (l countedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.u.conns.Add(1)
		c = countedConn{c, l.u}
	}
	return c, err
}

type countedConn struct {
	net.Conn
	u *upstream
}

func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.u.bytes.Add(int64(n))
	c.u.heard.Store(time.Now().UnixNano())
	return n, err
}

// requestsSeen is how many requests arrived.
func (u *upstream) requestsSeen() []seen {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]seen(nil), u.requests...)
}

// quiet runs f and fails if the upstream saw a single byte or connection of it.
func (u *upstream) quiet(t testing.TB, what string, f func()) {
	t.Helper()
	u.rest()
	conns, bytes := u.conns.Load(), u.bytes.Load()
	f()
	if c, b := u.conns.Load()-conns, u.bytes.Load()-bytes; c != 0 || b != 0 {
		t.Errorf("%s: the upstream saw %d connections and %d bytes", what, c, b)
	}
}

// rest waits until what earlier calls leave behind has come: a connection's
// close_notify, an HTTP/2 acknowledgement of SETTINGS. It is nothing of the next call.
func (u *upstream) rest() {
	const still = 60 * time.Millisecond
	for range 100 { // bytes that never end are for quiet to find
		since := time.Since(time.Unix(0, u.heard.Load()))
		if since >= still {
			return
		}
		time.Sleep(still - since)
	}
}

func (u *upstream) handle(h http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.handler = h
}

func newUpstream(t testing.TB) *upstream {
	t.Helper()
	u := &upstream{}
	cert, ca := testCertificate(t, upstreamHosts)
	u.caFile = filepath.Join(t.TempDir(), "upstream-ca.pem")
	must(t, os.WriteFile(u.caFile, ca, 0o644))
	srv := &http.Server{
		Handler:   u,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		return countedListener{ln, u}
	}
	secure, plain := listen(), listen()
	u.tls, u.plain = secure.Addr().String(), plain.Addr().String()
	go func() { _ = srv.ServeTLS(secure, "", "") }()
	go func() { _ = srv.Serve(plain) }()
	t.Cleanup(func() { _ = srv.Close() })
	return u
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	handler := u.handler
	u.mu.Unlock()
	if handler != nil {
		u.record(r, nil)
		handler(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	u.record(r, body)
	if strings.HasPrefix(r.Host, "api.stripe.com") && stripeMock != "" {
		target, _ := url.Parse(stripeMock)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		p := httputil.NewSingleHostReverseProxy(target)
		p.ErrorLog = log.New(io.Discard, "", 0)
		p.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"method": r.Method, "host": r.Host, "target": r.RequestURI, "proto": r.Proto, "header": r.Header, "body": string(body),
	})
}

func (u *upstream) record(r *http.Request, body []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests = append(u.requests, seen{r.Method, r.Host, r.RequestURI, r.Proto, r.Header.Clone(), body, r.Trailer})
}

// testCertificate makes a CA and a certificate for names.
func testCertificate(t testing.TB, names []string) (tls.Certificate, []byte) {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	caTemplate := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "upstream test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, caTemplate, caTemplate, &caKey.PublicKey, caKey)
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, caTemplate, &key.PublicKey, caKey)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
}
