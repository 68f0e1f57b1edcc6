package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testRules = `
rules:
  - match: { host: [api.test, "api.test:80", "plain.test:80"], methods: [POST], path: /v1/refunds }
    tool: stripe.refund.create
    risk: high
    args: form
    errors: stripe
    require: [{ name: amount, type: integer }]
    resource: "stripe:charge:{args.charge}"
  - match: { host: api.test, methods: [POST], path: /rpc }
    tool: rpc
    risk: high
    args: json
    errors: jsonrpc
    resource: "rpc:{host}"
`

const testPolicy = `
policies:
  - name: refunds
    version: 1
    tools: ["stripe.refund.*"]
    rules:
      - name: small
        when: args.amount <= 5000
        decision: allow
        reason_code: refund.small_in_scope
      - name: medium
        when: args.amount <= 50000
        decision: require_approval
        reason_code: refund.medium_needs_approval
      - name: large
        decision: deny
        reason_code: refund.over_limit
  - name: generic
    version: 1
    tools: ["http.get", "http.head", "http.options", "http.put", "http.post"]
    rules:
      - { name: open, decision: allow, reason_code: generic.open }
`

// trail is a gate.Recorder that can be read.
type trail struct {
	mu      sync.Mutex
	records [][]byte
}

func (l *trail) Append(_ context.Context, r evidence.Record) (evidence.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, r.Bytes())
	return evidence.Entry{Index: uint64(len(l.records) - 1), Record: r.Bytes()}, nil
}

func (l *trail) Later(r evidence.Record) bool {
	_, _ = l.Append(context.Background(), r)
	return true
}

func (l *trail) Soon(r evidence.Record) error {
	_, err := l.Append(context.Background(), r)
	return err
}

// events are the actions, each with the last outcome that is on record.
func (l *trail) events(t *testing.T) []*evidence.Event {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []*evidence.Event
	byID := map[string]*evidence.Event{}
	for _, b := range l.records {
		e, o, err := evidence.DecodeRecord(b)
		if err != nil {
			t.Fatalf("record: %v", err)
		}
		if e != nil && e.Kind == evidence.KindAction {
			list = append(list, e)
			byID[e.ID] = e
		}
		if o != nil && byID[o.EventID] != nil {
			byID[o.EventID].Outcome = &o.Outcome
		}
	}
	return list
}

func (l *trail) last(t *testing.T) *evidence.Event {
	t.Helper()
	list := l.events(t)
	if len(list) == 0 {
		t.Fatal("nothing is on record")
	}
	return list[len(list)-1]
}

// world is a sidecar between real listeners.
type world struct {
	t       testing.TB
	server  *Server
	gate    *gate.Gate
	store   *store.Memory
	trail   *trail
	ca      *CA
	front   string // address
	reverse string
	logs    *observer.ObservedLogs
	rules   gate.Rules

	origin      *httptest.Server // api.test:443 and plain.test:80
	plain       *httptest.Server
	originConns atomic.Int64
	originReqs  atomic.Int64
	originBytes atomic.Int64
	handle      atomic.Pointer[http.HandlerFunc]
	settings    Settings
}

type worldOption func(*world, *Options)

func withMode(mode string) worldOption {
	return func(w *world, _ *Options) { w.rules.Mode = mode }
}

// countConn counts what an origin receives.
type countConn struct {
	net.Conn
	n *atomic.Int64
}

func (c countConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

type countListener struct {
	net.Listener
	w *world
}

func (l countListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.w.originConns.Add(1)
	return countConn{c, &l.w.originBytes}, nil
}

func newWorld(t testing.TB, options ...worldOption) *world {
	t.Helper()
	w := &world{t: t, trail: &trail{}, store: store.NewMemory()}
	set, err := mapping.Compile([]mapping.Source{{Name: "test.yaml", Data: []byte(testRules)}}, mapping.Options{})
	if err != nil {
		t.Fatal(err)
	}
	pol, err := policy.Compile([]policy.Source{{Name: "policy.yaml", Data: []byte(testPolicy)}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.rules = gate.Rules{
		Mapping: set, Policy: pol, Mode: gate.ModeEnforce, MaxInspect: 1 << 20, Hold: 300 * time.Millisecond, MaxHolds: 100, MaxHoldsPerAgent: 100,
		Identity: gate.Identity{TenantID: "acme", AgentID: "agent", Source: "config"},
	}
	core, logs := observer.New(zap.InfoLevel)
	w.logs = logs
	w.gate, err = gate.New(gate.Options{Store: w.store, Recorder: w.trail, RedactKey: bytes.Repeat([]byte{7}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	w.startOrigins()
	if w.ca, err = LoadOrCreateCA(t.TempDir(), time.Now()); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(originCA.cert)
	up, _ := url.Parse("https://api.test")
	base, _ := url.Parse("https://api.test/base")
	w.settings = Settings{
		Routes: []Route{{"stripe", up}, {"based", base}},
		Upstream: Upstream{
			AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			RootCAs:      roots,
			ConnectTo: []ConnectTo{
				{"api.test", 443, w.origin.Listener.Addr().String()},
				{"plain.test", 80, w.plain.Listener.Addr().String()},
				{"api.test", 80, w.plain.Listener.Addr().String()},
			},
		},
	}
	o := Options{Gate: w.gate, CA: w.ca, Logger: zap.New(core), Settings: w.settings, PeekTimeout: 300 * time.Millisecond, DialTimeout: 2 * time.Second}
	for _, f := range options {
		f(w, &o)
	}
	w.gate.Load(&w.rules)
	if w.server, err = New(o); err != nil {
		t.Fatal(err)
	}
	w.front = w.serve(w.server.ServeFront)
	w.reverse = w.serve(w.server.ServeReverse)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		w.gate.Drain()
		if err := w.server.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return w
}

func (w *world) serve(f func(net.Listener) error) string {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f(l); err != nil {
			w.t.Errorf("serve: %v", err)
		}
	}()
	w.t.Cleanup(func() { <-done })
	return l.Addr().String()
}

func (w *world) on(h http.HandlerFunc) { w.handle.Store(&h) }

func (w *world) startOrigins() {
	h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.originReqs.Add(1)
		if f := w.handle.Load(); f != nil {
			(*f)(rw, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(map[string]any{
			"method": r.Method, "uri": r.RequestURI, "host": r.Host, "header": r.Header, "body": string(body),
			"length": r.ContentLength, "te": r.TransferEncoding, "proto": r.Proto,
		})
	})
	w.origin = httptest.NewUnstartedServer(h)
	w.origin.Listener = countListener{w.origin.Listener, w}
	w.origin.TLS = &tls.Config{Certificates: []tls.Certificate{originCA.leaf("api.test")}}
	w.origin.EnableHTTP2 = true
	w.origin.StartTLS()
	w.plain = httptest.NewUnstartedServer(h)
	w.plain.Listener = countListener{w.plain.Listener, w}
	w.plain.Config.DisableGeneralOptionsHandler = true
	w.plain.Start()
	w.t.Cleanup(func() { w.origin.Close(); w.plain.Close() })
}

// untouched asserts that nothing at all came to an origin.
func (w *world) untouched() {
	w.t.Helper()
	if c, b := w.originConns.Load(), w.originBytes.Load(); c != 0 || b != 0 {
		w.t.Errorf("the upstream saw %d connections and %d bytes, want none", c, b)
	}
}

// client is an agent behind the proxy variables that trusts the CA.
func (w *world) client(protos ...string) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(w.ca.Certificate())
	front := &url.URL{Scheme: "http", Host: w.front}
	t := &http.Transport{Proxy: http.ProxyURL(front), TLSClientConfig: &tls.Config{RootCAs: roots, NextProtos: protos}, DisableCompression: true}
	if len(protos) > 0 && protos[0] == "h2" {
		t.ForceAttemptHTTP2 = true
	}
	w.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

type reply struct {
	status int
	header http.Header
	body   string
	proto  string
}

func (r reply) json(t *testing.T) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(r.body), &m); err != nil {
		t.Fatalf("body %q: %v", r.body, err)
	}
	return m
}

func (w *world) do(c *http.Client, method, target, body string, headers ...string) reply {
	w.t.Helper()
	var b io.Reader
	if body != "" {
		b = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, target, b)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, target, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatalf("%s %s: body: %v", method, target, err)
	}
	return reply{resp.StatusCode, resp.Header, string(data), resp.Proto}
}

const formType = "application/x-www-form-urlencoded"

// raw speaks bytes to an address and returns the answer's first response.
func (w *world) raw(addr, text string) reply {
	w.t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		w.t.Fatal(err)
	}
	return readReply(w.t, bufio.NewReader(conn))
}

func readReply(t testing.TB, r *bufio.Reader) reply {
	t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("read answer's body: %v", err)
	}
	if resp.Close {
		resp.Header.Set("Connection", "close")
	}
	return reply{resp.StatusCode, resp.Header, string(b), resp.Proto}
}

// tunnelTo opens a CONNECT and returns the connection behind the 200.
func (w *world) tunnelTo(target string, headers ...string) (net.Conn, *bufio.Reader) {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.front)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.WriteString(conn, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n"+strings.Join(headers, "")+"\r\n")
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil || !strings.Contains(line, " 200 ") {
		w.t.Fatalf("CONNECT %s: %q %v", target, line, err)
	}
	for line != "\r\n" {
		if line, err = r.ReadString('\n'); err != nil {
			w.t.Fatal(err)
		}
	}
	return conn, r
}

// inside is a TLS connection to a host inside a CONNECT.
func (w *world) inside(target, sni string, protos ...string) *tls.Conn {
	w.t.Helper()
	conn, _ := w.tunnelTo(target)
	roots := x509.NewCertPool()
	roots.AddCert(w.ca.Certificate())
	c := tls.Client(conn, &tls.Config{ServerName: sni, RootCAs: roots, NextProtos: protos})
	if err := c.Handshake(); err != nil {
		w.t.Fatalf("handshake: %v", err)
	}
	return c
}

// originCA signs the certificates of origins.
var originCA = newOriginCA()

type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newOriginCA() *testCA {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return &testCA{cert, key}
}

func (c *testCA) leaf(names ...string) tls.Certificate {
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: names, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, &c.key.PublicKey, c.key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: c.key}
}

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReader(r) }

// h2On speaks HTTP/2 on one connection that was made before.
func h2On(t testing.TB, c *tls.Conn) http.RoundTripper {
	tr := &http.Transport{
		ForceAttemptHTTP2: true,
		DialTLSContext:    func(context.Context, string, string) (net.Conn, error) { return c, nil },
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}
