package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
)

// h1Doors are the ways in for HTTP/1 bytes, each with how it names the upstream.
var h1Doors = []struct {
	name, prefix, host string
	open               func(t testing.TB, sc *sidecar) *h1
}{
	{"forward", "http://api.stripe.com", "api.stripe.com", func(t testing.TB, sc *sidecar) *h1 { return dialH1(t, sc.proxy) }},
	{"connect", "", "api.stripe.com", func(t testing.TB, sc *sidecar) *h1 { return newH1(sc.insideTLS(t, "api.stripe.com", "http/1.1")) }},
	{"plain", "", "api.stripe.com", func(t testing.TB, sc *sidecar) *h1 { return sc.connectTo(t, "api.stripe.com:80") }},
	{"reverse", "/stripe", "sidecar.example", func(t testing.TB, sc *sidecar) *h1 { return dialH1(t, sc.revers) }},
}

// Connection may nominate headers for removal (RFC 9110 section 7.6.1): who
// obeys and who does not read two requests.
func TestNominatedHeadersAreNotRemoved(t *testing.T) {
	sc, u := enforcing(t)
	for _, d := range h1Doors {
		for _, name := range []string{"Content-Type", "content-length", "Host", "Authorization", "Idempotency-Key", "Stripe-Account", "X-Custom", "ActPass-Passport", "Cookie", "close, Stripe-Account"} {
			u.refuses(t, d.name+" "+name, []int{400}, func() (reply, error) {
				return d.open(t, sc).ask(request("POST", d.prefix+wickedURI, d.host, modest, "Authorization: Bearer sk_test",
					"Idempotency-Key: k", "Stripe-Account: acct_1", "X-Custom: 1", "Cookie: a=b", "ActPass-Passport: p", "Connection: "+name), "POST")
			})
		}
		// What belongs to the connection may be named, and goes no further.
		before := len(u.requestsSeen())
		r, err := d.open(t, sc).ask(request("POST", d.prefix+wickedURI, d.host, modest, "Connection: keep-alive, Proxy-Connection, TE, X-Absent",
			"Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "TE: deflate"), "POST")
		seen := u.requestsSeen()[before:]
		if err != nil || r.status != 200 || len(seen) != 1 {
			t.Errorf("%s: the control: %s %v", d.name, r, err)
			continue
		}
		for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Te"} {
			if v := seen[0].Header[name]; v != nil {
				t.Errorf("%s: %s: %q went on", d.name, name, v)
			}
		}
	}
}

// What an agent says about itself is a claim: it gains nothing and goes nowhere.
func TestClaimsAreNotAuthority(t *testing.T) {
	sc, u := enforcing(t)
	claims := []string{
		"ActPass-User: user_1", "ActPass-Goal: resolve_refund_request", "ActPass-Mode: monitor", "ActPass-Decision: allow", "ActPass-Agent: admin", "ActPass-Tenant: other",
		"ActPass-Evidence: ev_1", "ActPass-Approval: apr_1", "actpass-anything: 1", "ACTPASS-USER: user_2",
		"X-Forwarded-Host: evil.example", "X-Forwarded-For: 127.0.0.1", "Forwarded: host=evil.example", "X-Original-URL: /v1/charges",
	}
	for _, d := range h1Doors {
		n := len(sc.events())
		r := u.refuses(t, d.name, []int{400, 403}, func() (reply, error) {
			return d.open(t, sc).ask(request("POST", d.prefix+wickedURI, d.host, wicked, claims[:10]...), "POST")
		})
		events := sc.since(n)
		if len(events) != 1 || events[0].AgentID != "support_agent" || events[0].Mode != "enforce" || events[0].UserID != "user_1" || events[0].ID != r.header.Get("ActPass-Evidence") {
			t.Errorf("%s: %+v", d.name, events)
		}
		for _, passport := range []string{"x", "eyJhbGciOiJub25lIn0.eyJqdGkiOiJhcF8xIn0.", strings.Repeat("a", 5000)} {
			u.refuses(t, d.name+" passport", []int{403}, func() (reply, error) {
				return d.open(t, sc).ask(request("POST", d.prefix+wickedURI, d.host, modest, "ActPass-Passport: "+passport), "POST")
			})
		}
		before := len(u.requestsSeen())
		ok, err := d.open(t, sc).ask(request("POST", d.prefix+wickedURI, d.host, modest, claims[:9]...), "POST") // all but the second user, which is a contradiction
		seen := u.requestsSeen()[before:]
		if err != nil || ok.status != 200 || len(seen) != 1 {
			t.Errorf("%s: the control: %s %v", d.name, ok, err)
			continue
		}
		for name := range seen[0].Header {
			if strings.HasPrefix(strings.ToLower(name), "actpass") {
				t.Errorf("%s: %s went on to the upstream", d.name, name)
			}
		}
	}
}

// Credentials for the proxy end at the proxy, right or wrong.
func TestProxyCredentialsDoNotLeak(t *testing.T) {
	sc, u := enforcing(t)
	key := sc.key("--name", "gw", "--role", "gateway", "--agent", "billing_agent")
	basic := func(user, pass string) string {
		return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+pass))
	}
	for _, d := range h1Doors {
		before := len(u.requestsSeen())
		r, err := d.open(t, sc).ask(request("GET", d.prefix+goodPath, d.host, "", basic("billing_agent", key)), "GET")
		seen := u.requestsSeen()[before:]
		if err != nil || r.status != 200 || len(seen) != 1 || seen[0].Header["Proxy-Authorization"] != nil {
			t.Errorf("%s: %s %v, upstream %+v", d.name, r, err, seen)
		}
	}
	for what, header := range map[string][]string{
		"wrong key": {basic("billing_agent", "sk_live_wrong")}, "other agent": {basic("support_agent", key)}, "no key": {basic("billing_agent", "")},
		"twice": {basic("billing_agent", key), basic("billing_agent", key)}, "bearer": {"Proxy-Authorization: Bearer " + key}, "not base64": {"Proxy-Authorization: Basic ###"},
	} {
		raw := request("GET", "http://api.stripe.com"+goodPath, "api.stripe.com", "", header...)
		u.refuses(t, what, []int{407}, func() (reply, error) { return dialH1(t, sc.proxy).ask(raw, "GET") })
		raw = []byte("CONNECT api.stripe.com:443 HTTP/1.1\r\nHost: api.stripe.com:443\r\n" + strings.Join(header, "\r\n") + "\r\n\r\n")
		u.refuses(t, "CONNECT, "+what, []int{407}, func() (reply, error) { return dialH1(t, sc.proxy).ask(raw, "CONNECT") })
	}
	for _, line := range sc.log() {
		if strings.Contains(line, key) {
			t.Errorf("the key is in the log: %s", line)
		}
	}
}

// Trailers come after the judgement, so nothing of them may go on.
func TestTrailersDoNotPass(t *testing.T) {
	sc, u := enforcing(t)
	trailers := [][2]string{
		{"amount", "600000"},
		{"authorization", "Bearer sk_other"},
		{"x-http-method-override", "DELETE"},
		{"stripe-account", "acct_other"},
		{"idempotency-key", "other"},
		{"content-type", "application/json"},
		{"actpass-user", "x"},
		{"host", "evil.example"},
	}
	check := func(what string, r reply, err error, seen []seen) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if len(seen) == 0 {
			if r.status != 400 && r.reset == "" {
				t.Errorf("%s: not refused: %s", what, r)
			}
			return
		}
		if len(seen) != 1 || string(seen[0].Body) != modest || len(seen[0].Trailer) > 0 {
			t.Errorf("%s: the upstream saw %+v", what, seen)
		}
		for _, tr := range trailers[:5] {
			if v := seen[0].Header.Get(tr[0]); v != "" {
				t.Errorf("%s: %s: %s became a header", what, tr[0], v)
			}
		}
	}
	for _, d := range h1Doors {
		for _, tr := range trailers {
			before := len(u.requestsSeen())
			raw := request("POST", d.prefix+wickedURI, d.host, "", "Content-Type: "+form, "Transfer-Encoding: chunked", "Trailer: "+tr[0], "TE: trailers")
			raw = append(raw, "26\r\n"+modest+"\r\n0\r\n"+tr[0]+": "+tr[1]+"\r\n\r\n"...)
			r, err := d.open(t, sc).ask(raw, "POST")
			check(d.name+" "+tr[0], r, err, u.requestsSeen()[before:])
		}
	}
	for _, tr := range trailers {
		before := len(u.requestsSeen())
		c := newH2(t, sc.insideTLS(t, "api.stripe.com", "h2"))
		fields := append(pseudo("POST", "api.stripe.com", wickedURI), [2]string{"content-type", form}, [2]string{"te", "trailers"}, [2]string{"trailer", tr[0]})
		r, err := c.ask(fields, []byte(modest), tr)
		check("h2 "+tr[0], r, err, u.requestsSeen()[before:])
		_ = c.Close()
	}
}

// A client that asks first is told no before it sends, and what it then sends
// is not the next request.
func TestRefusedBeforeTheBody(t *testing.T) {
	sc, u := enforcing(t)
	for _, d := range h1Doors {
		hidden := request("GET", d.prefix+goodPath, d.host, "")
		for what, head := range map[string]string{
			"denied":    "POST " + d.prefix + "/v1/nosuch HTTP/1.1\r\nHost: " + d.host + "\r\nContent-Type: text/plain\r\nContent-Length: " + itoa(len(hidden)),
			"too large": "POST " + d.prefix + wickedURI + " HTTP/1.1\r\nHost: " + d.host + "\r\nContent-Type: " + form + "\r\nContent-Length: 5000000",
		} {
			u.quiet(t, d.name+" "+what, func() {
				c := d.open(t, sc)
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				_, _ = io.WriteString(c, head+"\r\nExpect: 100-continue\r\n\r\n")
				first, err := c.r.ReadString('\n')
				if err != nil || !strings.HasPrefix(first, "HTTP/1.1 4") {
					t.Errorf("%s %s: the first line is %q, %v", d.name, what, first, err)
				}
				_, _ = c.Write(hidden) // as if it were the body, or the next request
				rest, _ := io.ReadAll(c.r)
				if n := bytes.Count(rest, []byte("HTTP/1.1 ")); n > 0 {
					t.Errorf("%s %s: %d more answers: %.500q", d.name, what, n, rest)
				}
			})
		}
	}
}

// Each of several requests in one write is judged on its own, and a body is
// never a request.
func TestPipelinedRequestsAreJudgedEach(t *testing.T) {
	sc, u := enforcing(t)
	for _, d := range h1Doors {
		good := request("GET", d.prefix+goodPath, d.host, "")
		bad := request("POST", d.prefix+wickedURI, d.host, wicked)
		for what, c := range map[string]struct {
			raw   []byte
			want  []int
			reach int
		}{
			"good, bad":        {slices.Concat(good, bad), []int{200, 403}, 1},
			"bad, good":        {slices.Concat(bad, good), []int{403, 200}, 1},
			"bad, bad, bad":    {slices.Concat(bad, bad, bad), []int{403, 403, 403}, 0},
			"good, bad, good":  {slices.Concat(good, bad, good), []int{200, 403, 200}, 2},
			"blank line first": {slices.Concat(bad, []byte("\r\n"), good), []int{403, 200}, 1},
			"bad in a body":    {request("POST", d.prefix+"/v1/nosuch", d.host, string(good)), []int{403}, 0},
			"good in a chunk": {slices.Concat(request("POST", d.prefix+wickedURI, d.host, "", "Content-Type: "+form, "Transfer-Encoding: chunked"),
				[]byte("26\r\n"+wicked[:38]+"\r\n0\r\n\r\n"), good), []int{403, 200}, 1},
			"after bad chunks": {slices.Concat(request("POST", d.prefix+wickedURI, d.host, "", "Content-Type: "+form, "Transfer-Encoding: chunked"),
				[]byte("26;a=b\r\n"+modest+"\r\n0\r\n\r\n"), good), []int{400}, 0},
			"after two lengths": {slices.Concat(request("POST", d.prefix+wickedURI, d.host, modest, "Content-Length: 38"), good), []int{400}, 0},
			"after TE and CL":   {slices.Concat(request("POST", d.prefix+wickedURI, d.host, modest, "Transfer-Encoding: chunked"), good), []int{400}, 0},
			"after a long body": {slices.Concat(request("POST", d.prefix+wickedURI, d.host, strings.Repeat("a", 2<<20)), good), []int{413}, 0},
		} {
			n, before := len(sc.events()), len(u.requestsSeen())
			conns, size := u.conns.Load(), u.bytes.Load()
			conn := d.open(t, sc)
			go func() { _, _ = conn.Write(c.raw) }()
			_ = conn.SetDeadline(time.Now().Add(patience))
			var got []int
			for range c.want {
				r, err := conn.answer("GET")
				if err != nil {
					t.Errorf("%s %s: %v", d.name, what, err)
					break
				}
				got = append(got, r.status)
			}
			_ = conn.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
			if b, err := conn.r.Peek(1); err == nil {
				t.Errorf("%s %s: and then %q", d.name, what, b)
			}
			_ = conn.Close()
			if !slices.Equal(got, c.want) {
				t.Errorf("%s %s: %v, want %v", d.name, what, got, c.want)
			}
			if r := len(u.requestsSeen()) - before; r != c.reach {
				t.Errorf("%s %s: the upstream saw %d requests, want %d", d.name, what, r, c.reach)
			}
			if c.reach == 0 && (u.conns.Load() != conns || u.bytes.Load() != size) {
				t.Errorf("%s %s: the upstream saw bytes", d.name, what)
			}
			if e := len(sc.since(n)); e != len(c.want) {
				t.Errorf("%s %s: %d events, want %d", d.name, what, e, len(c.want))
			}
		}
	}
}

// A head that is too large is refused and recorded, in either HTTP.
func TestLargeHeads(t *testing.T) {
	sc, u := enforcing(t)
	for _, size := range []int{70 << 10, 200 << 10, 2 << 20} {
		for _, d := range h1Doors {
			u.refuses(t, d.name, []int{431}, func() (reply, error) {
				return d.open(t, sc).ask(request("GET", d.prefix+goodPath, d.host, "", "X-Large: "+strings.Repeat("a", size)), "GET")
			})
			u.refuses(t, d.name+", target", []int{431}, func() (reply, error) {
				return d.open(t, sc).ask(request("GET", d.prefix+goodPath+"?x="+strings.Repeat("a", size), d.host, ""), "GET")
			})
		}
		u.quiet(t, "h2", func() {
			c := newH2(t, sc.insideTLS(t, "api.stripe.com", "h2"))
			defer c.Close()
			r, err := c.ask(append(pseudo("GET", "api.stripe.com", goodPath), [2]string{"x-large", strings.Repeat("a", size)}), nil)
			if err != nil || r.status != 431 && !r.gone && r.reset == "" {
				t.Errorf("h2, %d: %s %v", size, r, err)
			}
		})
	}
	// CONTINUATION without an end (CVE-2023-45288).
	u.quiet(t, "continuations", func() {
		c := newH2(t, sc.insideTLS(t, "api.stripe.com", "h2"))
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		var err error
		for i := 0; i < 4000 && err == nil; i++ {
			if i == 0 {
				err = c.framer.WriteRawFrame(1, 0, 1, []byte{0x82})
				continue
			}
			err = c.framer.WriteContinuation(1, false, bytes.Repeat([]byte{0x00, 0x01, 'a', 0x7f, 0x00}, 20))
		}
		var ne net.Error
		if _, err := io.Copy(io.Discard, c); errors.As(err, &ne) && ne.Timeout() {
			t.Errorf("continuations without end are still read")
		}
	})
	if r, err := dialH1(t, sc.proxy).ask(request("GET", "http://api.stripe.com"+goodPath, "api.stripe.com", ""), http.MethodGet); err != nil || r.status != 200 {
		t.Errorf("the good call after all that: %s %v", r, err)
	}
}

// A key that is revoked stops working in the tunnels that it opened, too.
func TestRevokedKeyEndsInsideItsTunnels(t *testing.T) {
	sc, u := enforcing(t)
	made, err := sc.client().CreateKey(t.Context(), api.NewKey{Name: "gw", Role: "gateway", AgentID: "billing_agent"})
	must(t, err)
	auth := "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("billing_agent:"+made.Key))
	open := func(proto string) *tls.Conn {
		conn := tls.Client(sc.connectTo(t, "api.stripe.com:443", auth), &tls.Config{RootCAs: sc.caPool(t), ServerName: "api.stripe.com", NextProtos: []string{proto}})
		must(t, conn.Handshake())
		return conn
	}
	one, two, plain := newH1(open("http/1.1")), newH2(t, open("h2")), sc.connectTo(t, "api.stripe.com:80", auth)
	asks := map[string]func() (reply, error){
		"h1":    func() (reply, error) { return one.ask(request("GET", goodPath, "api.stripe.com", ""), "GET") },
		"h2":    func() (reply, error) { return two.ask(pseudo("GET", "api.stripe.com", goodPath), nil) },
		"plain": func() (reply, error) { return plain.ask(request("GET", goodPath, "api.stripe.com", ""), "GET") },
	}
	for name, ask := range asks {
		if r, err := ask(); err != nil || r.status != 200 {
			t.Fatalf("%s, with the key: %s %v", name, r, err)
		}
	}
	for _, e := range sc.events() {
		if e.AgentID != "billing_agent" || e.Source != "api_key" {
			t.Errorf("event %+v", e)
		}
	}
	must(t, sc.client().RevokeKey(t.Context(), made.ID))
	for name, ask := range asks {
		u.refuses(t, name+", after the key was revoked", []int{407}, ask)
	}
}
