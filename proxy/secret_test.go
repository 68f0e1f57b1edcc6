package proxy

import (
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

// written is everything that the sidecar wrote down: its log and its evidence.
func (w *world) written(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, e := range w.logs.All() {
		fields, err := json.Marshal(e.ContextMap())
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(e.Message + " " + string(fields) + "\n")
	}
	w.trail.mu.Lock()
	defer w.trail.mu.Unlock()
	for _, r := range w.trail.records {
		b.WriteString(string(r) + "\n")
	}
	return b.String()
}

// A password in an authority, or a key in a query, is not written down.
func TestCredentialsInURLsAreNotWritten(t *testing.T) {
	long := strings.Repeat("x", 70<<10)
	for name, text := range map[string]string{
		"absolute form":       "GET http://bob:hunter2secret@api.test/x HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n",
		"CONNECT":             "CONNECT bob:hunter2secret@api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n",
		"Host":                "GET http://api.test/x HTTP/1.1\r\nHost: bob:hunter2secret@api.test\r\nConnection: close\r\n\r\n",
		"too large":           "GET http://bob:hunter2secret@api.test/x HTTP/1.1\r\nHost: api.test\r\nX: " + long + "\r\n\r\n",
		"too large CONNECT":   "CONNECT bob:hunter2secret@api.test:443 HTTP/1.1\r\nHost: api.test\r\nX: " + long + "\r\n\r\n",
		"malformed":           "GET http://bob:hunter2secret@api.test/x HTTP/1.1\r\nHost: api.test\r\n: x\r\n\r\n",
		"unwritable query":    "GET http://api.test//a%zz?api_key=hunter2secret HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n",
		"query of a bad head": "GET http://api.test/a?api_key=hunter2secret HTTP/1.1\r\nHost: api.test\r\n: x\r\n\r\n",
	} {
		for _, mode := range []string{gate.ModeMonitor, gate.ModeEnforce} {
			w := newWorld(t, withMode(mode))
			conn, err := net.Dial("tcp", w.front)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(700 * time.Millisecond))
			_, _ = io.WriteString(conn, text)
			_, _ = io.ReadAll(conn)
			_ = conn.Close()
			waitFor(t, func() bool { return len(w.trail.events(t)) > 0 })
			for line := range strings.Lines(w.written(t)) {
				if strings.Contains(line, "hunter2") {
					t.Errorf("%s under %s: %.400s", name, mode, line)
				}
			}
		}
	}
}

func TestWithoutUser(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a.test:443": "a.test:443", "u:p@a.test:443": "a.test:443", "u:p@q@a.test": "a.test", "/users/@me": "/users/@me",
		"http://u:p@a.test/@me": "http://a.test/@me", "http://a.test/@me": "http://a.test/@me", "HTTP://u@a.test": "HTTP://a.test", "*": "*",
	} {
		if got := withoutUser(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
