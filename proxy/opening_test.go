package proxy

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

func TestOpeningOf(t *testing.T) {
	for text, want := range map[string]opening{
		"": beginsUnsure, "\x16": beginsTLS, "\x16\x03\x01": beginsTLS,
		"GET / HTTP/1.1\r\n": beginsHTTP, "get /": beginsHTTP, "M-SEARCH *": beginsHTTP, "PRI * HTTP/2.0\r\n": beginsHTTP,
		"POST": beginsUnsure, "POST ": beginsUnsure, "POST  \t/v1": beginsHTTP, "POST\t/": beginsHTTP,
		"\r": beginsUnsure, "\n\r\n": beginsUnsure, "\r\nPOST /": beginsHTTP, "\n\n\nPOST /": beginsHTTP,
		"GET h": beginsUnsure, "GET http:": beginsUnsure, "GET http:/": beginsUnsure, "GET http://x": beginsHTTP, "GET HTTPS://x": beginsHTTP, "GET ws://x": beginsHTTP,
		"EHLO host.example\r\n": beginsOther, "EHLO http\r\n": beginsOther, "GET http:x": beginsOther, "PING\r\n": beginsOther, "SSH-2.0-OpenSSH_9.2": beginsUnsure,
		"SSH-2.0-OpenSSH_9.2\r\n": beginsOther, "SSH-2.0-OpenSSH_9.2 Debian-2\r\n": beginsOther,
		"GE(T / HTTP/1.1": beginsOther, "\x00\x01": beginsOther, " GET /": beginsOther, "\r\n\x00": beginsOther,
		strings.Repeat("A", maxMethod) + " /":     beginsHTTP,
		strings.Repeat("A", maxMethod+1):          beginsOther,
		strings.Repeat("\r\n", maxBlank/2):        beginsUnsure,
		strings.Repeat("\r\n", maxBlank/2+1):      beginsHTTP,
		"GET" + strings.Repeat(" ", maxBlank+1):   beginsHTTP,
		"GET " + strings.Repeat("a", maxScheme+1): beginsOther,
	} {
		if got := openingOf([]byte(text)); got != want {
			t.Errorf("%.40q: %d, want %d", text, got, want)
		}
	}
}

// Once it is sure what begins, more bytes do not change it.
func FuzzOpeningIsSettled(f *testing.F) {
	f.Add("\r\nPOST  /v1/refunds HTTP/1.1\r\n")
	f.Add("EHLO host.example\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		settled := beginsUnsure
		for i := range min(len(text), 1024) {
			o := openingOf([]byte(text[:i+1]))
			if settled != beginsUnsure && o != settled {
				t.Fatalf("%q: %d, then %d", text[:i+1], settled, o)
			}
			settled = o
		}
		if len(text) >= 1024 && settled == beginsUnsure {
			t.Fatalf("%q is never settled", text)
		}
	})
}

const hiddenRefund = "POST /v1/refunds HTTP/1.1\r\nHost: api.test\r\nContent-Type: " + formType + "\r\nContent-Length: 24\r\nConnection: close\r\n\r\namount=90000&charge=ch_1"

// Leading empty lines and blanks do not turn a request into another protocol.
func TestHTTPInOddDressIsNoTunnel(t *testing.T) {
	for _, text := range []string{"\r\n" + hiddenRefund, "\n" + hiddenRefund, "\r\n\r\n\n" + hiddenRefund, strings.Replace(hiddenRefund, " ", "  ", 1)} {
		w := newWorld(t, allowTunnels(t))
		conn, r := w.tunnelTo("api.test:80")
		_, _ = io.WriteString(conn, text)
		if got := readReply(t, r); got.status != 400 && got.status != 403 {
			t.Errorf("%.20q: %d %s", text, got.status, got.body)
		}
		w.untouched()
		if e := w.trail.last(t); e.Tool == "http.connect" {
			t.Errorf("%.20q: judged as %s", text, e.Tool)
		}
	}
}

// A client that stalls until the tunnel is taken for an opaque one does not get
// its calls through it.
func TestLateOpening(t *testing.T) {
	stall := 450 * time.Millisecond // more than the peek timeout
	stopped := func(t *testing.T, w *world) {
		t.Helper()
		waitFor(t, func() bool {
			return len(w.trail.events(t)) > 0 && w.trail.last(t).Outcome.State == evidence.StateRefused
		})
		if e := w.trail.last(t); e.Tool != "http.connect" || !strings.Contains(e.Outcome.Error, "TLS or HTTP") {
			t.Errorf("event %s: %+v", e.Tool, e.Outcome)
		}
		if n := w.originBytes.Load(); n != 0 {
			t.Errorf("the origin got %d bytes", n)
		}
	}
	t.Run("TLS", func(t *testing.T) {
		w := newWorld(t, allowTunnels(t))
		if w.pierce(stall) == nil {
			t.Fatal("the client reached the origin uninspected")
		}
		stopped(t, w)
	})
	for name, parts := range map[string][2]string{
		"HTTP": {"", hiddenRefund}, "empty line": {"\r\n", hiddenRefund}, "half a method": {"PO", hiddenRefund[2:]}, "method": {"POST ", hiddenRefund[5:]},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, allowTunnels(t))
			conn, r := w.tunnelTo("api.test:80")
			_, _ = io.WriteString(conn, parts[0])
			time.Sleep(stall)
			_, _ = io.WriteString(conn, parts[1])
			if b, _ := io.ReadAll(r); len(b) > 0 {
				t.Errorf("answered %q", b)
			}
			stopped(t, w)
		})
	}
	t.Run("monitored", func(t *testing.T) {
		w := newWorld(t, withMode(gate.ModeMonitor))
		if err := w.pierce(stall); err != nil {
			t.Error(err)
		}
	})
	t.Run("another protocol", func(t *testing.T) {
		w := newWorld(t, allowTunnels(t))
		conn, r := w.tunnelTo("api.test:443")
		time.Sleep(stall)
		_, _ = io.WriteString(conn, "\x00no TLS at all, says the origin")
		// The origin's TLS alert: the bytes went through, both ways.
		b := make([]byte, 1)
		if _, err := io.ReadFull(r, b); err != nil && !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		waitFor(t, func() bool { return w.originBytes.Load() > 0 })
		_ = conn.Close()
	})
}
