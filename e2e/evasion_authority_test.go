package e2e

import (
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	goodPath  = "/v1/charges/ch_123"
	wickedURI = "/v1/refunds"
	wicked    = "charge=ch_123&amount=600000&currency=usd"
	modest    = "charge=ch_123&amount=4900&currency=usd"
)

// enforcing is a sidecar under the corpus' rules with its upstream, which
// answers for evil.example too: whatever gets out is counted there.
func enforcing(t *testing.T) (*sidecar, *upstream) {
	t.Helper()
	t.Parallel()
	u := newPlainUpstream(t, corpusHosts)
	return startCorpus(t, "enforce", u), u
}

// refuses asserts that f is answered by one of statuses with a decision, and
// that the upstream sees nothing of it.
func (u *upstream) refuses(t *testing.T, what string, statuses []int, f func() (reply, error)) reply {
	t.Helper()
	var r reply
	u.quiet(t, what, func() {
		var err error
		if r, err = f(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	})
	if !slices.Contains(statuses, r.status) {
		t.Errorf("%s: want one of %v: %s", what, statuses, r)
		return r
	}
	if d, err := r.decision(); err != nil || d.Decision != "deny" || d.ReasonCode == "" || d.Evidence == "" {
		t.Errorf("%s: decision %+v, %v: %s", what, d, err, r)
	}
	return r
}

func request(method, target, host, body string, header ...string) []byte {
	raw := method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\n"
	for _, h := range header {
		raw += h + "\r\n"
	}
	if body != "" {
		raw += "Content-Type: " + form + "\r\nContent-Length: " + itoa(len(body)) + "\r\n"
	}
	return []byte(raw + "\r\n" + body)
}

func itoa(n int) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return string(b[i:])
		}
	}
}

// One HTTP/2 connection may carry streams for many authorities (RFC 9113
// section 9.1.1). An intercepted one may not: it was opened for one.
func TestEveryStreamIsHeldToTheAuthority(t *testing.T) {
	sc, u := enforcing(t)
	c := newH2(t, sc.insideTLS(t, "api.stripe.com", "h2"))
	defer c.Close()
	good := func() {
		t.Helper()
		if r, err := c.ask(pseudo("GET", "api.stripe.com", goodPath), nil); err != nil || r.status != 200 {
			t.Fatalf("a good stream: %s %v", r, err)
		}
	}
	good()
	without := func(names ...string) [][2]string {
		return slices.DeleteFunc(pseudo("GET", "api.stripe.com", goodPath), func(f [2]string) bool { return slices.Contains(names, f[0]) })
	}
	for _, authority := range []string{
		"evil.example", "evil.example:443", "api.stripe.com:80", "api.stripe.com:8443", "api.stripe.com.", "mcp.example.com",
		"API.stripe.com:0443", "169.254.169.254", "localhost", "%61pi.stripe.com",
	} {
		u.refuses(t, authority, []int{400, 421}, func() (reply, error) {
			return c.ask(pseudo("GET", authority, goodPath), nil)
		})
		good()
	}
	for what, fields := range map[string][][2]string{
		"Host alone names another":   append(without(":authority"), [2]string{"host", "evil.example"}),
		"Host beside names another":  append(pseudo("GET", "api.stripe.com", goodPath), [2]string{"host", "evil.example"}),
		"absolute :path":             pseudo("GET", "api.stripe.com", "https://evil.example"+goodPath),
		":path of two slashes":       pseudo("GET", "api.stripe.com", "//evil.example"+goodPath),
		"a refund under another one": pseudo("POST", "evil.example", wickedURI),
		"userinfo":                   pseudo("GET", "user@api.stripe.com", goodPath),
		"userinfo before another":    pseudo("GET", "api.stripe.com@evil.example", goodPath),
	} {
		// A :path that does not begin with a slash, and userinfo, are stream errors
		// (RFC 9113 section 8.3.1).
		u.quiet(t, what, func() {
			r, err := c.ask(fields, nil)
			if err != nil || r.reset == "" && r.status != 400 && r.status != 421 {
				t.Errorf("%s: %s %v", what, r, err)
			}
		})
		good()
	}
}

// CONNECT target, server name and Host are one name, or nothing is sent.
func TestThreeNamesAreOne(t *testing.T) {
	sc, u := enforcing(t)
	names := []string{"api.stripe.com", "evil.example", "mcp.example.com", "127.0.0.1"}
	for _, target := range names {
		for _, sni := range names {
			for _, host := range names {
				if target == sni && sni == host || net.ParseIP(sni) != nil {
					continue // an address is never a server name (RFC 6066 section 3)
				}
				u.quiet(t, target+"/"+sni+"/"+host, func() {
					c := sc.connectTo(t, target+":443")
					defer c.Close()
					conn := tls.Client(c.Conn, &tls.Config{ServerName: sni, InsecureSkipVerify: true})
					_ = conn.SetDeadline(time.Now().Add(patience))
					if err := conn.Handshake(); err != nil {
						t.Errorf("CONNECT %s with server name %s: %v", target, sni, err)
						return
					}
					r, err := newH1(conn).ask(request("GET", goodPath, host, ""), "GET")
					if err != nil || r.status != 421 && r.status != 400 {
						t.Errorf("CONNECT %s, server name %s, Host %s: %s %v", target, sni, host, r, err)
					}
				})
			}
		}
	}
	misdirected := 0
	for _, e := range sc.events() {
		if e.ReasonCode == "request.misdirected" && e.Outcome.Status == 421 {
			misdirected++
		}
	}
	if misdirected < 20 {
		t.Errorf("%d misdirected attempts on record", misdirected)
	}
}

// A tunnel in a tunnel, whichever way it is asked for.
func TestNoTunnelInsideATunnel(t *testing.T) {
	sc, u := enforcing(t)
	for _, target := range []string{"evil.example:443", "api.stripe.com:443", "127.0.0.1:443", "/v1/refunds", "*", "https://evil.example:443"} {
		raw := []byte("CONNECT " + target + " HTTP/1.1\r\nHost: api.stripe.com\r\n\r\n")
		u.refuses(t, "inside TLS "+target, []int{400, 421}, func() (reply, error) {
			return newH1(sc.insideTLS(t, "api.stripe.com", "http/1.1")).ask(raw, "GET")
		})
		u.quiet(t, "inside plain "+target, func() {
			r, err := sc.connectTo(t, "api.stripe.com:80").ask(raw, "GET")
			// host:port does not look like the target of an HTTP request, so the tunnel
			// is judged as an opaque one, and closed.
			if err != nil || !r.gone && r.status != 400 && r.status != 421 {
				t.Errorf("inside plain %s: %s %v", target, r, err)
			}
		})
		u.refuses(t, "reverse "+target, []int{400, 404, 421}, func() (reply, error) {
			return dialH1(t, sc.revers).ask(raw, "GET")
		})
	}
	for what, header := range map[string]string{
		"a body": "Content-Length: 5\r\n\r\nhello", "a chunked body": "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "two Hosts": "Host: evil.example:443\r\n\r\n",
		"a folded line": "X-A: b\r\n c\r\n\r\n", "a bare LF": "X-A: b\n\r\n", "nominated": "X-A: b\r\nConnection: X-A\r\n\r\n", "an upgrade": "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
	} {
		u.refuses(t, "CONNECT with "+what, []int{400, 421}, func() (reply, error) {
			return dialH1(t, sc.proxy).ask([]byte("CONNECT api.stripe.com:443 HTTP/1.1\r\nHost: api.stripe.com:443\r\n"+header), "CONNECT")
		})
	}
	h2c := func() *h2 { return newH2(t, sc.insideTLS(t, "api.stripe.com", "h2")) }
	for what, fields := range map[string][][2]string{
		"CONNECT":          {{":method", "CONNECT"}, {":authority", "evil.example:443"}},
		"own CONNECT":      {{":method", "CONNECT"}, {":authority", "api.stripe.com:443"}},
		"CONNECT, a path":  {{":method", "CONNECT"}, {":scheme", "https"}, {":path", "/"}, {":authority", "api.stripe.com"}},
		"extended CONNECT": {{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":path", goodPath}, {":authority", "api.stripe.com"}},
		"protocol on GET":  append(pseudo("GET", "api.stripe.com", goodPath), [2]string{":protocol", "websocket"}),
		"unknown pseudo":   append(pseudo("GET", "api.stripe.com", goodPath), [2]string{":evil", "1"}),
		"two paths":        append(pseudo("GET", "api.stripe.com", goodPath), [2]string{":path", wickedURI}),
		"two authorities":  append(pseudo("GET", "api.stripe.com", goodPath), [2]string{":authority", "evil.example"}),
		"two methods":      append(pseudo("GET", "api.stripe.com", goodPath), [2]string{":method", "POST"}),
		"late pseudo":      append([][2]string{{"accept", "*/*"}}, pseudo("GET", "api.stripe.com", goodPath)...),
		"upper-case name":  append(pseudo("GET", "api.stripe.com", goodPath), [2]string{"X-Upper", "1"}),
	} {
		u.quiet(t, what, func() {
			c := h2c()
			defer c.Close()
			if r, err := c.ask(fields, nil); err != nil || r.reset == "" && !r.gone && r.status/100 != 4 {
				t.Errorf("%s: %s %v", what, r, err)
			}
		})
	}
}

// HTTP/2 in clear text, by upgrade and by prior knowledge.
func TestNoClearTextHTTP2(t *testing.T) {
	sc, u := enforcing(t)
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	upgrade := []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"}
	for what, f := range map[string]func() (reply, error){
		"forward, preface": func() (reply, error) { return dialH1(t, sc.proxy).ask([]byte(preface), "GET") },
		"reverse, preface": func() (reply, error) { return dialH1(t, sc.revers).ask([]byte(preface), "GET") },
		"plain, preface":   func() (reply, error) { return sc.connectTo(t, "api.stripe.com:80").ask([]byte(preface), "GET") },
		"h1 in TLS, preface": func() (reply, error) {
			return newH1(sc.insideTLS(t, "api.stripe.com", "http/1.1")).ask([]byte(preface), "GET")
		},
		"forward, upgrade": func() (reply, error) {
			return dialH1(t, sc.proxy).ask(request("GET", "http://api.stripe.com"+goodPath, "api.stripe.com", "", upgrade...), "GET")
		},
		"reverse, upgrade": func() (reply, error) {
			return dialH1(t, sc.revers).ask(request("GET", "/stripe"+goodPath, "x", "", upgrade...), "GET")
		},
		"TLS, upgrade": func() (reply, error) {
			return newH1(sc.insideTLS(t, "api.stripe.com", "http/1.1")).ask(request("GET", goodPath, "api.stripe.com", "", upgrade...), "GET")
		},
		"upgrade that Connection names twice": func() (reply, error) {
			return dialH1(t, sc.revers).ask(request("GET", "/stripe"+goodPath, "x", "", "Connection: upgrade, Upgrade", "Upgrade: websocket", "Upgrade: h2c"), "GET")
		},
	} {
		if r := u.refuses(t, what, []int{400, 403}, f); !r.closes {
			t.Errorf("%s: the connection stays open", what)
		}
	}
}

// The reverse door goes where its routes go, whoever the request says it is for.
func TestReverseDoorKeepsToItsRoutes(t *testing.T) {
	sc, u := enforcing(t)
	ask := func(raw []byte) (reply, error) { return dialH1(t, sc.revers).ask(raw, "GET") }
	for _, c := range []struct{ target, host string }{
		{goodPath, "evil.example"},
		{goodPath, "api.stripe.com"},
		{goodPath, "nosuch.localhost"},
		{goodPath, "stripe.localhost.evil.example"},
		{goodPath, "evil.stripe.localhost"},
		{goodPath, "localhost"},
		{goodPath, ".localhost"},
		{goodPath, "stripe.localhost."},
		{"/evil.example" + goodPath, "x"},
		{"/https://evil.example" + goodPath, "x"},
		{"//stripe" + goodPath, "x"},
		{"/%73tripe" + goodPath, "x"},
		{"/Stripe" + goodPath, "x"},
		{"/stripe@evil.example" + goodPath, "x"},
		{"/stripe%2f.." + goodPath, "x"},
		{"/stripe;x" + goodPath, "x"},
		{"/./stripe" + goodPath, "x"},
		{"/x/../stripe" + goodPath, "x"},
		{"\\stripe" + goodPath, "x"},
		{"/stripe/.." + goodPath, "x"},
		{"/stripe//evil.example" + goodPath, "x"},
		{"/stripe/%2e%2e" + goodPath, "x"},
		{"/stripe\\..\\" + goodPath, "x"},
		{"http://evil.example" + goodPath, "evil.example"},
		{"http://evil.example" + goodPath, "stripe.localhost"},
		{"https://evil.example/x", "x"},
		{"http://stripe.localhost" + goodPath, "evil.example"},
		{"ftp://stripe.localhost" + goodPath, "stripe.localhost"},
		{"*", "x"},
		{"*", "stripe.localhost"},
	} {
		u.refuses(t, c.target+" for "+c.host, []int{400, 403, 404, 421}, func() (reply, error) { return ask(request("GET", c.target, c.host, "")) })
	}
	// Under any other Host a route by path leads to its own upstream and no other.
	for _, host := range []string{"evil.example", "api.stripe.com", "mcp.example.com", "169.254.169.254", "localhost"} {
		before := len(u.requestsSeen())
		r, err := ask(request("GET", "/stripe"+goodPath, host, ""))
		if seen := u.requestsSeen()[before:]; err != nil || r.status != 200 || len(seen) != 1 || seen[0].Host != "api.stripe.com" || seen[0].Target != goodPath {
			t.Errorf("Host %s: %s %v, upstream %+v", host, r, err, seen)
		}
	}
}

// What an upstream answers is handed back: no redirect is followed, no header of
// ours believed, no other way in advertised.
func TestAnswersAreHandedBack(t *testing.T) {
	sc, u := enforcing(t)
	u.handle(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Location", "http://evil.example/v1/refunds")
		h.Set("Refresh", "0; url=http://evil.example/")
		h.Set("Alt-Svc", `h3=":443"; ma=86400`)
		h.Set("ActPass-Decision", "deny")
		h.Set("ActPass-Evidence", "ev_forged")
		h.Set("ActPass-Approval", "apr_forged")
		h.Set("ActPass_Decision", "allow")
		h.Set("Connection", "X-Secret")
		h.Set("X-Secret", "1")
		h.Set("Proxy-Authenticate", "Basic")
		h.Set("Trailer", "ActPass-Decision, X-Checksum")
		w.WriteHeader(http.StatusTemporaryRedirect)
		_, _ = w.Write([]byte("moved"))
		h.Set("ActPass-Decision", "deny")
		h.Set("X-Checksum", "1")
		h.Set(http.TrailerPrefix+"ActPass-Evidence", "ev_forged")
	})
	for name, f := range map[string]func() (reply, error){
		"forward": func() (reply, error) {
			return dialH1(t, sc.proxy).ask(request("GET", "http://api.stripe.com"+goodPath, "api.stripe.com", ""), "GET")
		},
		"connect": func() (reply, error) {
			return newH1(sc.insideTLS(t, "api.stripe.com", "http/1.1")).ask(request("GET", goodPath, "api.stripe.com", ""), "GET")
		},
		"h2": func() (reply, error) {
			return newH2(t, sc.insideTLS(t, "api.stripe.com", "h2")).ask(pseudo("GET", "api.stripe.com", goodPath), nil)
		},
		"reverse": func() (reply, error) {
			return dialH1(t, sc.revers).ask(request("GET", "/stripe"+goodPath, "x", ""), "GET")
		},
	} {
		before := len(u.requestsSeen())
		r, err := f()
		if err != nil || r.status != http.StatusTemporaryRedirect || r.header.Get("Location") != "http://evil.example/v1/refunds" {
			t.Errorf("%s: %s %v %v", name, r, err, r.header)
		}
		if n := len(u.requestsSeen()) - before; n != 1 {
			t.Errorf("%s: the upstream saw %d requests", name, n)
		}
		if d := r.header.Values("ActPass-Decision"); len(d) != 1 || d[0] != "allow" {
			t.Errorf("%s: decisions %q", name, d)
		}
		if e := r.header.Values("ActPass-Evidence"); len(e) != 1 || !strings.HasPrefix(e[0], "ev_0") {
			t.Errorf("%s: events %q", name, e)
		}
		if v := r.header.Get("Trailer"); strings.Contains(strings.ToLower(v), "actpass") {
			t.Errorf("%s: announces the trailer %s", name, v)
		}
		for _, tr := range r.trailer {
			if strings.HasPrefix(strings.ToLower(tr), "actpass") {
				t.Errorf("%s: the trailer %s is forged", name, tr)
			}
		}
		if !slices.Contains(r.trailer, "X-Checksum") {
			t.Errorf("%s: the upstream's own trailer is lost: %q", name, r.trailer)
		}
		for _, gone := range []string{"ActPass-Approval", "Alt-Svc", "X-Secret", "Proxy-Authenticate"} {
			if v := r.header.Get(gone); v != "" {
				t.Errorf("%s: the answer carries %s: %s", name, gone, v)
			}
		}
	}
}
