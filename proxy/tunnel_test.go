package proxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/policy"
)

func TestTunnelIsJudged(t *testing.T) {
	pass := func(_ *world, o *Options) { o.Intercept.Passthrough = []string{"*.test:443"} }
	t.Run("refused", func(t *testing.T) {
		w := newWorld(t, pass)
		got := w.raw(w.front, "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n")
		if got.status != 403 || got.json(t)["tool"] != "http.connect" || got.json(t)["resource"] != "api.test:443" {
			t.Errorf("%d %s", got.status, got.body)
		}
		w.untouched()
	})
	t.Run("allowed", func(t *testing.T) {
		w := newWorld(t, pass, allowTunnels(t))
		roots := x509.NewCertPool()
		roots.AddCert(originCA.cert)
		conn, _ := w.tunnelTo("api.test:443")
		c := tls.Client(conn, &tls.Config{ServerName: "api.test", RootCAs: roots})
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "GET /x HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n")
		if got := readReply(t, bufio.NewReader(c)); got.status != 200 {
			t.Errorf("%d", got.status)
		}
		_ = c.Close()
		waitFor(t, func() bool { return w.trail.last(t).Outcome.State == evidence.StateForwarded })
		if e := w.trail.last(t); e.Tool != "http.connect" || e.Outcome.Bytes == 0 || !contains(e.Flags, "opaque") || e.Door != "connect" {
			t.Errorf("event %+v", e)
		}
	})
	t.Run("mapped scope", func(t *testing.T) {
		w := newWorld(t, func(w *world, o *Options) {
			o.Intercept = Intercept{Scope: ScopeMapped, Maps: func(host, port string) bool { return host == "api.test" && port == "443" }}
		})
		if got := w.do(w.client(), "GET", "https://api.test/x", ""); got.status != 200 {
			t.Errorf("mapped host: %d", got.status)
		}
		if got := w.raw(w.front, "CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n"); got.status != 403 {
			t.Errorf("unmapped host: %d", got.status)
		}
	})
}

func TestPassthroughPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, host, port string
		want                bool
	}{
		{"a.test", "a.test", "443", true},
		{"A.test", "a.test", "8443", true},
		{"a.test:443", "a.test", "8443", false},
		{"a.test", "b.a.test", "443", false},
		{"*.a.test", "b.a.test", "443", true},
		{"*.a.test", "c.b.a.test", "443", false},
		{"*.a.test", "a.test", "443", false},
		{"*.a.test", ".a.test", "443", false},
		{"*.a.test:8443", "b.a.test", "8443", true},
		{"a.*.test", "a.b.test", "443", true},
		{"*", "localhost", "443", true},
		{"*", "a.test", "443", false},
		{"10.0.0.1", "10.0.0.1", "443", true},
		{"[2001:db8::1]:443", "2001:db8::1", "443", true},
	} {
		g, err := parseHostGlob(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		if got := g.matches(c.host, c.port); got != c.want {
			t.Errorf("%s matches %s:%s: %v", c.pattern, c.host, c.port, got)
		}
	}
	for _, bad := range []string{"", "a..test", "a*.test", "**", "{a,b}.test", "user@a.test", "a.test:99999", "a.test:0443", "https://a.test"} {
		if _, err := parseHostGlob(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestOpaqueInsideConnect(t *testing.T) {
	for name, first := range map[string]string{
		"ssh": "SSH-2.0-OpenSSH_9.2\r\n", "silence": "", "binary": "\x00\x01\x02", "preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "no method": "GE(T / HTTP/1.1\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			conn, r := w.tunnelTo("api.test:80")
			_, _ = io.WriteString(conn, first)
			b, _ := io.ReadAll(r)
			if name != "preface" && len(b) > 0 {
				t.Errorf("answered %q", b)
			}
			waitFor(t, func() bool { return len(w.trail.events(t)) > 0 })
			w.untouched()
		})
	}
	t.Run("monitored", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
		w := newWorld(t, withMode(gate.ModeMonitor), func(_ *world, o *Options) {
			o.Upstream.ConnectTo = append(o.Upstream.ConnectTo, ConnectTo{"ssh.test", 22, l.Addr().String()})
		})
		conn, r := w.tunnelTo("ssh.test:22")
		_, _ = io.WriteString(conn, "SSH-2.0-x\r\n")
		if line, err := r.ReadString('\n'); err != nil || line != "SSH-2.0-x\r\n" {
			t.Errorf("echo %q %v", line, err)
		}
		if e := w.trail.last(t); e.Tool != "http.connect" || !contains(e.Flags, "opaque") {
			t.Errorf("event %+v", e)
		}
		_ = conn.Close()
	})
}

// A tunnel may be held too; a client that gives up takes the question back.
func TestHeldTunnel(t *testing.T) {
	pol, err := policy.Compile([]policy.Source{{Name: "p.yaml", Data: []byte(`
policies:
  - name: tunnels
    version: 1
    tools: ["http.connect"]
    rules: [{ name: ask, decision: require_approval, reason_code: tunnel.ask }]
`)}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(w *world, o *Options) {
		w.rules.Policy, w.rules.Hold = pol, time.Minute
		o.Intercept.Passthrough = []string{"plain.test"}
	})
	conn, err := net.Dial("tcp", w.front)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "CONNECT plain.test:80 HTTP/1.1\r\nHost: plain.test:80\r\n\r\n")
	waitFor(t, func() bool { return len(w.trail.events(t)) > 0 })
	_ = conn.Close()
	waitFor(t, func() bool { return strings.Contains(w.trail.last(t).Outcome.Error, "went away") })
	w.untouched()
}

// The 200 of a tunnel says what every judged answer says.
func TestTunnelThatIsWarnedOf(t *testing.T) {
	w := newWorld(t, withMode(gate.ModeWarn), func(_ *world, o *Options) { o.Intercept.Passthrough = []string{"api.test"} })
	conn, err := net.Dial("tcp", w.front)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
	_, _ = io.WriteString(conn, "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.Header.Get("ActPass-Warning"); resp.StatusCode != 200 || !strings.Contains(got, "enforce would block") {
		t.Errorf("%d, warning %q", resp.StatusCode, got)
	}
}
