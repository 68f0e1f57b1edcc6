package proxy

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// echoUpgrade switches to the protocol that is asked for and echoes.
func echoUpgrade(rw http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		rw.WriteHeader(http.StatusUpgradeRequired)
		return
	}
	c, brw, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\nX-Key: "+r.Header.Get("Sec-Websocket-Key")+"\r\n\r\n")
	_, _ = io.Copy(c, brw)
}

const upgradeHead = " HTTP/1.1\r\nHost: api.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n\r\n"

func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	w.on(echoUpgrade)
	c := w.inside("api.test:443", "api.test")
	_, _ = io.WriteString(c, "GET /ws"+upgradeHead)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("X-Key") != "k" || resp.Header.Get("ActPass-Evidence") == "" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	for _, word := range []string{"one", "two\n\n", strings.Repeat("three", 20000)} {
		go func() { _, _ = io.WriteString(c, word) }()
		buf := make([]byte, len(word))
		if _, err := io.ReadFull(r, buf); err != nil || string(buf) != word {
			t.Fatalf("%.20q %v", buf, err)
		}
	}
	_ = c.Close()
	waitFor(t, func() bool { return w.trail.last(t).Outcome.State == evidence.StateForwarded })
	if o := w.trail.last(t).Outcome; o.Status != 101 || o.Bytes != 3+5+100000 {
		t.Errorf("outcome %+v", o)
	}
}

func TestUpgradeIsJudged(t *testing.T) {
	w := newWorld(t, func(w *world, _ *Options) { w.rules.Mode = gate.ModeEnforce })
	w.on(echoUpgrade)
	c := w.inside("api.test:443", "api.test")
	_, _ = io.WriteString(c, "DELETE /ws"+upgradeHead)
	if got := readReply(t, newReader(c)); got.status != 403 {
		t.Errorf("%d", got.status)
	}
	w.untouched()
}

func TestUpgradeThatIsNotTaken(t *testing.T) {
	w := newWorld(t)
	w.on(func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(http.StatusForbidden)
		_, _ = rw.Write([]byte("no"))
	})
	c := w.inside("api.test:443", "api.test")
	r := newReader(c)
	for range 2 { // and the connection is as good as before
		_, _ = io.WriteString(c, "GET /ws"+upgradeHead)
		if got := readReply(t, r); got.status != 403 || got.body != "no" {
			t.Errorf("%d %q", got.status, got.body)
		}
	}
	_, _ = io.WriteString(c, "GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n")
	if got := readReply(t, r); got.status != 403 {
		t.Errorf("%d", got.status)
	}
}

// What is sent before the upstream has switched is a smuggled request, not a
// message: it reaches nobody.
func TestBytesBefore101(t *testing.T) {
	w := newWorld(t)
	got := make(chan string, 4)
	w.on(func(rw http.ResponseWriter, r *http.Request) {
		c, brw, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
		b, _ := io.ReadAll(brw)
		got <- string(b)
	})
	for _, early := range []string{"x", "POST /v1/refunds HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0\r\n\r\n"} {
		c := w.inside("api.test:443", "api.test")
		_, _ = io.WriteString(c, "GET /ws"+upgradeHead+early)
		b, _ := io.ReadAll(c)
		if strings.Contains(string(b), "101") {
			t.Errorf("%q: switched: %q", early, b)
		}
		if b := <-got; b != "" {
			t.Errorf("the upstream got %q", b)
		}
	}
	if n := w.originReqs.Load(); n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestUpgradeToAnotherProtocol(t *testing.T) {
	w := newWorld(t)
	w.on(func(rw http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
		_ = c.Close()
	})
	for _, head := range []string{upgradeHead, " HTTP/1.1\r\nHost: api.test\r\n\r\n"} {
		c, r := w.tunnelTo("api.test:80")
		_, _ = io.WriteString(c, "GET /ws"+head)
		if got := readReply(t, r); got.status != 502 {
			t.Errorf("%d", got.status)
		}
	}
}
