package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/policy"
)

// allowTunnels replaces the policy by one that allows http.connect too.
func allowTunnels(t *testing.T) worldOption {
	return func(w *world, _ *Options) {
		pol, err := policy.Compile([]policy.Source{{Name: "p.yaml", Data: []byte(testPolicy + `
  - name: tunnels
    version: 1
    tools: ["http.connect"]
    rules: [{ name: open, decision: allow, reason_code: tunnel.open }]
`)}}, policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w.rules.Policy = pol
	}
}

func TestBadConnectTargets(t *testing.T) {
	w := newWorld(t, withMode(gate.ModeMonitor))
	for _, target := range []string{
		"api.test", "api.test:", "api.test:0443", "api.test:+443", "api.test:443:443", "API.TEST..:443", "api.test:99999",
		"user@api.test:443", "/api.test:443", "http://api.test:443", "0x7f.1:443", "127.1:443", "[::1%25lo]:443", "api%2etest:443", ":443", "api.test:443/x",
		"api.test:443?x", "api.test:443#x", "api。test:443", "a\\b:443",
	} {
		got := w.raw(w.front, "CONNECT "+target+" HTTP/1.1\r\nHost: api.test:443\r\n\r\n")
		if got.status != 400 || got.header.Get("ActPass-Decision") != "deny" {
			t.Errorf("CONNECT %s: %d %s", target, got.status, got.body)
		}
		if e := w.trail.last(t); e.Outcome == nil || e.Outcome.State != evidence.StateRefused || e.Outcome.Status != 400 {
			t.Errorf("CONNECT %s: outcome %+v", target, e.Outcome)
		}
	}
	w.untouched()
}

// A host with the dot of the DNS root is ambiguous, and no reason to break an
// agent that is only watched.
func TestRootedConnectTarget(t *testing.T) {
	for mode, want := range map[string]int{gate.ModeMonitor: 200, gate.ModeWarn: 200, gate.ModeEnforce: 400, gate.ModeStrict: 400} {
		w := newWorld(t, withMode(mode))
		conn, err := net.Dial("tcp", w.front)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(conn, "CONNECT api.test.:443 HTTP/1.1\r\nHost: api.test.:443\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect})
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != want {
			t.Errorf("%s: %d", mode, resp.StatusCode)
		}
		_ = conn.Close()
		w.untouched()
	}
}

func TestServerNameMustBeTheTarget(t *testing.T) {
	for _, mode := range []string{gate.ModeMonitor, gate.ModeEnforce} {
		w := newWorld(t, withMode(mode))
		ours := x509.NewCertPool()
		ours.AddCert(w.ca.Certificate())
		for _, sni := range []string{"evil.test", "test", "www.api.test"} {
			recorded := func(n int) {
				waitFor(t, func() bool { return len(w.trail.events(t)) == n })
				if e := w.trail.last(t); e.ReasonCode != ReasonMisdirected || e.Outcome.Status != 421 {
					t.Errorf("%s: event %+v %+v", mode, e.Decision, e.Outcome)
				}
			}
			// A client that looks at the certificate ends it there; it is not one that
			// does not trust the CA.
			before := len(w.trail.events(t))
			conn, _ := w.tunnelTo("api.test:443")
			if err := tls.Client(conn, &tls.Config{ServerName: sni, RootCAs: ours}).Handshake(); err == nil {
				t.Errorf("%s: SNI %s got a certificate of its name", mode, sni)
			}
			_ = conn.Close()
			recorded(before + 1)
			if w.server.distrust.has("127.0.0.1", "api.test", "443") {
				t.Errorf("%s: SNI %s opened a way past inspection", mode, sni)
			}
			// One that does not is told by each request, whatever Host it names.
			for i, host := range []string{"api.test", sni} {
				conn, _ = w.tunnelTo("api.test:443")
				c := tls.Client(conn, &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
				_, err := io.WriteString(c, "GET /x HTTP/1.1\r\nHost: "+host+"\r\n\r\nGET /y HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
				if err != nil {
					t.Fatal(err)
				}
				r := bufio.NewReader(c)
				if got := readReply(t, r); got.status != 421 || !strings.Contains(got.body, "TLS server name") {
					t.Errorf("%s: SNI %s, Host %s: %d %s", mode, sni, host, got.status, got.body)
				}
				if b, err := r.ReadByte(); err != io.EOF {
					t.Errorf("%s: after it came %q %v", mode, b, err)
				}
				recorded(before + 2 + i)
			}
			tr := &http.Transport{
				Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: w.front}), ForceAttemptHTTP2: true,
				TLSClientConfig: &tls.Config{ServerName: sni, InsecureSkipVerify: true},
			}
			if got := w.do(&http.Client{Transport: tr}, "GET", "https://api.test/x", ""); got.status != 421 || got.proto != "HTTP/2.0" {
				t.Errorf("%s: SNI %s over HTTP/2: %s %d", mode, sni, got.proto, got.status)
			}
			tr.CloseIdleConnections()
			recorded(before + 4)
		}
		w.untouched()
	}
}

func TestConnectWithoutServerName(t *testing.T) {
	w := newWorld(t)
	conn, _ := w.tunnelTo("api.test:443")
	c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := c.ConnectionState().PeerCertificates[0].VerifyHostname("api.test"); err != nil {
		t.Error(err)
	}
}

func TestInnerAuthorityIsTheConnectTarget(t *testing.T) {
	hosts := []string{"evil.test", "api.test@evil.test", "evil.test:443", "api.test:444"}
	for _, host := range hosts {
		w := newWorld(t)
		c := w.inside("api.test:443", "api.test")
		_, _ = io.WriteString(c, "GET /x HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		got := readReply(t, bufio.NewReader(c))
		if got.status != 421 && got.status != 400 {
			t.Errorf("Host %s: %d %s", host, got.status, got.body)
		}
		w.untouched()

		w = newWorld(t, withMode(gate.ModeMonitor))
		c = w.inside("api.test:443", "api.test")
		_, _ = io.WriteString(c, "GET /x HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		got = readReply(t, bufio.NewReader(c))
		// Whatever the inner Host says, the CONNECT target is the one dialled.
		if strings.Contains(host, "@") {
			continue // net/http refuses it itself
		}
		if got.status != 200 || w.originReqs.Load() != 1 {
			t.Errorf("monitored Host %s: %d %s", host, got.status, got.body)
		}
		if e := w.trail.last(t); !contains(e.Flags, "request.ambiguous") {
			t.Errorf("monitored Host %s: not flagged: %v", host, e.Flags)
		}
	}
	t.Run("absolute form inside", func(t *testing.T) {
		for _, target := range []string{"https://evil.test/x", "http://api.test/x", "https://api.test:444/x"} {
			w := newWorld(t)
			c := w.inside("api.test:443", "api.test")
			_, _ = io.WriteString(c, "GET "+target+" HTTP/1.1\r\nHost: api.test\r\n\r\n")
			if got := readReply(t, bufio.NewReader(c)); got.status != 421 {
				t.Errorf("%s: %d %s", target, got.status, got.body)
			}
			w.untouched()
		}
	})
	t.Run("second stream", func(t *testing.T) {
		w := newWorld(t)
		c := w.inside("api.test:443", "api.test", "h2")
		cc := h2On(t, c)
		for i, host := range []string{"api.test", "evil.test", "api.test"} {
			req, _ := http.NewRequest("GET", "https://api.test/x", nil)
			req.Host = host
			resp, err := cc.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if want := map[string]int{"api.test": 200, "evil.test": 421}[host]; resp.StatusCode != want {
				t.Errorf("stream %d: %d, want %d", i, resp.StatusCode, want)
			}
		}
		if n := w.originReqs.Load(); n != 2 {
			t.Errorf("the upstream saw %d requests, want 2", n)
		}
	})
	t.Run("connect inside", func(t *testing.T) {
		w := newWorld(t, withMode(gate.ModeMonitor))
		c := w.inside("api.test:443", "api.test")
		_, _ = io.WriteString(c, "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n")
		if got := readReply(t, bufio.NewReader(c)); got.status != 400 || got.json(t)["reason_code"] != ReasonConnectInside {
			t.Errorf("%d %s", got.status, got.body)
		}
		w.untouched()
	})
}

// Bytes that came together with the CONNECT are the start of the tunnel.
func TestEagerClientHello(t *testing.T) {
	w := newWorld(t)
	conn, err := net.Dial("tcp", w.front)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	e := &eager{Conn: conn, head: "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n", r: bufio.NewReader(conn)}
	roots := x509.NewCertPool()
	roots.AddCert(w.ca.Certificate())
	c := tls.Client(e, &tls.Config{ServerName: "api.test", RootCAs: roots})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n")
	if got := readReply(t, bufio.NewReader(c)); got.status != 200 {
		t.Errorf("%d", got.status)
	}
}

// eager writes its head in front of the first write, and skips the answer to it.
type eager struct {
	net.Conn
	head string
	r    *bufio.Reader
	seen bool
}

func (e *eager) Write(p []byte) (int, error) {
	_, err := e.Conn.Write(append([]byte(e.head), p...))
	e.head = ""
	return len(p), err
}

func (e *eager) Read(p []byte) (int, error) {
	if !e.seen {
		e.seen = true
		for {
			line, err := e.r.ReadString('\n')
			if err != nil || line == "\r\n" {
				break
			}
		}
	}
	return e.r.Read(p)
}

func TestPlainHTTPInsideConnect(t *testing.T) {
	w := newWorld(t)
	conn, r := w.tunnelTo("plain.test:80")
	body := "amount=90000&charge=ch_1"
	_, _ = io.WriteString(conn, "POST /v1/refunds HTTP/1.1\r\nHost: plain.test\r\nContent-Type: "+formType+"\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body)
	if got := readReply(t, r); got.status != 403 {
		t.Errorf("%d %s", got.status, got.body)
	}
	w.untouched()
	_, _ = io.WriteString(conn, "GET /x HTTP/1.1\r\nHost: plain.test\r\n\r\n")
	if got := readReply(t, r); got.status != 200 || got.json(t)["uri"] != "/x" {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestClientThatDoesNotTrustTheCA(t *testing.T) {
	distrusting := func(w *world) error {
		roots := x509.NewCertPool()
		roots.AddCert(originCA.cert) // knows the origin, not us
		conn, err := net.Dial("tcp", w.front)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(conn, "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n")
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
		if err != nil {
			return err
		}
		if resp.StatusCode != 200 {
			return errors.New(resp.Status)
		}
		c := tls.Client(conn, &tls.Config{ServerName: "api.test", RootCAs: roots})
		if err := c.Handshake(); err != nil {
			return err
		}
		_, _ = io.WriteString(c, "GET /x HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n")
		_, err = http.ReadResponse(bufio.NewReader(c), nil)
		return err
	}
	for _, mode := range []string{gate.ModeMonitor, gate.ModeWarn} {
		w := newWorld(t, withMode(mode))
		counted := &panicky{Gate: w.gate}
		w.server.gate = counted
		if err := distrusting(w); err == nil {
			t.Fatalf("%s: the first handshake succeeded", mode)
		}
		w.untouched()
		waitFor(t, func() bool { return w.server.distrust.has("127.0.0.1", "api.test", "443") })
		if err := distrusting(w); err != nil {
			t.Errorf("%s: the second connection was not let through: %v", mode, err)
		}
		if e := w.trail.last(t); !contains(e.Flags, "opaque") || !strings.Contains(strings.Join(e.Notes, " "), "does not trust the CA") {
			t.Errorf("%s: event %+v", mode, e)
		}
		if w.logs.FilterMessageSnippet("does not trust the CA").Len() == 0 {
			t.Errorf("%s: no log line", mode)
		}
		if n := counted.faults.Load(); n != 1 {
			t.Errorf("%s: %d faults counted, want 1", mode, n)
		}
		// A client that does trust goes on being inspected elsewhere.
		if got := w.do(w.client(), "GET", "http://api.test/x", ""); got.status != 200 {
			t.Errorf("%s: %d", mode, got.status)
		}
	}
	for _, mode := range []string{gate.ModeEnforce, gate.ModeStrict} {
		w := newWorld(t, withMode(mode), allowTunnels(t))
		for range 3 {
			if err := distrusting(w); err == nil {
				t.Fatalf("%s: let through", mode)
			}
		}
		w.untouched()
	}
}

// Distrust that was noted under monitor ends when the mode does.
func TestDistrustDoesNotOutliveMonitor(t *testing.T) {
	w := newWorld(t, allowTunnels(t), withMode(gate.ModeMonitor))
	w.server.distrust.note("127.0.0.1", "api.test", "443")
	w.signedBy(t, originCA.cert)
	strict := w.rules
	strict.Mode = gate.ModeEnforce
	w.gate.Load(&strict)
	w.signedBy(t, w.ca.Certificate())
}

// signedBy asserts who signed the certificate that a client sees.
func (w *world) signedBy(t *testing.T, signer *x509.Certificate) {
	t.Helper()
	conn, _ := w.tunnelTo("api.test:443")
	roots := x509.NewCertPool()
	roots.AddCert(signer)
	if err := tls.Client(conn, &tls.Config{ServerName: "api.test", RootCAs: roots}).Handshake(); err != nil {
		t.Error(err)
	}
	_ = conn.Close()
}

func TestDistrustIsBounded(t *testing.T) {
	now := time.Unix(0, 0)
	d := newDistrust(time.Minute, func() time.Time { return now })
	for i := range 3 * maxDistrust {
		d.note("c", strconv.Itoa(i), "443")
	}
	if len(d.until) > maxDistrust {
		t.Errorf("%d entries", len(d.until))
	}
	d.note("c", "h", "443")
	if !d.has("c", "h", "443") || d.has("other", "h", "443") || d.has("c", "h", "444") {
		t.Error("it is not by client, host and port")
	}
	now = now.Add(time.Minute)
	if d.has("c", "h", "443") {
		t.Error("it does not end")
	}
}

func TestProxyAuthorization(t *testing.T) {
	key := func(w *world) string {
		_, secret, err := w.gate.CreateKey(context.Background(), gate.Identity{TenantID: "acme", Role: gate.RoleAdmin}, gate.NewKey{Name: "k", Role: gate.RoleGateway})
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	auth := func(user, secret string) string {
		return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+secret)) + "\r\n"
	}
	get := "GET http://api.test/x HTTP/1.1\r\nHost: api.test\r\n"
	t.Run("good", func(t *testing.T) {
		w := newWorld(t)
		got := w.raw(w.front, get+auth("billing", key(w))+"\r\n")
		if got.status != 200 || strings.Contains(got.body, "Proxy-Authorization") {
			t.Errorf("%d %s", got.status, got.body)
		}
		if e := w.trail.last(t); e.AgentID != "billing" || e.IdentitySource != "api_key" {
			t.Errorf("event %+v", e)
		}
	})
	t.Run("good on CONNECT", func(t *testing.T) {
		w := newWorld(t)
		conn, _ := w.tunnelTo("plain.test:80", auth("billing", key(w)))
		_, _ = io.WriteString(conn, "GET /x HTTP/1.1\r\nHost: plain.test\r\n"+auth("evil", "sk_live_x")+"\r\n")
		got := readReply(t, bufio.NewReader(conn))
		if got.status != 200 || strings.Contains(got.body, "Authorization") {
			t.Errorf("%d %s", got.status, got.body)
		}
		if e := w.trail.last(t); e.AgentID != "billing" || e.IdentitySource != "api_key" {
			t.Errorf("event %+v", e)
		}
	})
	bad := []string{auth("billing", "sk_live_wrong"), "Proxy-Authorization: Basic !!!\r\n", "Proxy-Authorization: Bearer x\r\n", auth("a", "b") + auth("c", "d")}
	t.Run("bad", func(t *testing.T) {
		w := newWorld(t)
		for _, line := range bad {
			for _, head := range []string{get, "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n"} {
				got := w.raw(w.front, head+line+"\r\n")
				if got.status != 407 || got.header.Get("Proxy-Authenticate") == "" || got.json(t)["reason_code"] != ReasonUnauthenticated || !strings.Contains(got.body, "ask the operator for a key of this agent") {
					t.Errorf("%q: %d %v %s", line, got.status, got.header, got.body)
				}
			}
		}
		w.untouched()
	})
	t.Run("bad but monitored", func(t *testing.T) {
		w := newWorld(t, withMode(gate.ModeMonitor))
		for _, line := range bad {
			if got := w.raw(w.front, get+line+"\r\n"); got.status != 200 {
				t.Errorf("%q: %d", line, got.status)
			}
			if e := w.trail.last(t); e.IdentitySource != "config" || len(e.Flags) == 0 {
				t.Errorf("%q: event %+v", line, e)
			}
		}
	})
}

func contains(list []string, want string) bool {
	for _, s := range list {
		if s == want {
			return true
		}
	}
	return false
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("waited in vain")
}
