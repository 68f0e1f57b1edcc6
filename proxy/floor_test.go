package proxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

// strictRefunds is monitor with one tool tightened.
func strictRefunds(w *world, _ *Options) {
	w.rules.Mode = gate.ModeMonitor
	w.rules.Overrides = []gate.Override{{Tool: "stripe.refund.*", Mode: gate.ModeStrict}}
}

// pierce opens a CONNECT, waits, and shakes hands with whoever presents the
// origin's own certificate.
func (w *world) pierce(wait time.Duration) error {
	conn, err := net.Dial("tcp", w.front)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.WriteString(conn, "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return &net.AddrError{Err: resp.Status}
	}
	time.Sleep(wait)
	roots := x509.NewCertPool()
	roots.AddCert(originCA.cert)
	return tls.Client(conn, &tls.Config{ServerName: "api.test", RootCAs: roots}).Handshake()
}

// A tool that an override tightens does not leave through a tunnel that nobody
// can look into, however the client brings such a tunnel about.
func TestTightenedToolDoesNotLeaveThroughATunnel(t *testing.T) {
	t.Run("distrust", func(t *testing.T) {
		w := newWorld(t, strictRefunds)
		for range 3 {
			if w.pierce(0) == nil {
				t.Fatal("the client reached the origin uninspected")
			}
		}
		waitFor(t, func() bool { return w.logs.FilterMessageSnippet("do not leave").Len() == 3 })
		w.untouched()
	})
	t.Run("noted distrust", func(t *testing.T) {
		w := newWorld(t, strictRefunds)
		w.server.distrust.note("127.0.0.1", "api.test", "443")
		w.signedBy(t, w.ca.Certificate())
	})
	t.Run("silence", func(t *testing.T) {
		w := newWorld(t, strictRefunds, allowTunnels(t))
		if w.pierce(500*time.Millisecond) == nil {
			t.Fatal("the client reached the origin uninspected")
		}
		w.untouched()
		if e := w.trail.last(t); e.Tool != "http.connect" || e.Mode != gate.ModeStrict || e.Enforcement != "block" {
			t.Errorf("event: %s under %s: %s", e.Tool, e.Mode, e.Enforcement)
		}
	})
	t.Run("what the override does not reach stays monitored", func(t *testing.T) {
		for name, reach := range map[string]worldOption{
			"another agent": func(w *world, _ *Options) { w.rules.Overrides[0].Agent = "other" },
			"a host without rules": func(_ *world, o *Options) {
				o.Intercept.Maps = func(host, _ string) bool { return host != "api.test" }
			},
			"passthrough": func(_ *world, o *Options) { o.Intercept.Passthrough = []string{"api.test"} },
		} {
			w := newWorld(t, strictRefunds, reach)
			if err := w.pierce(500 * time.Millisecond); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if e := w.trail.last(t); e.Tool != "http.connect" || e.Mode != gate.ModeMonitor {
				t.Errorf("%s: %s under %s", name, e.Tool, e.Mode)
			}
		}
	})
	t.Run("an override of unmapped traffic reaches a host without rules", func(t *testing.T) {
		w := newWorld(t, strictRefunds, func(w *world, o *Options) {
			w.rules.Overrides[0].Tool = "http.post"
			o.Intercept.Maps = func(string, string) bool { return false }
		})
		if w.pierce(500*time.Millisecond) == nil {
			t.Error("the client reached the origin uninspected")
		}
		w.untouched()
	})
}
