package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
)

// answer is what a client sees.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// door sends one call to api.stripe.com (or another upstream host) its way.
type door struct {
	name string // as events call it
	send func(t testing.TB, sc *sidecar, method, host, target, contentType, body string, header http.Header) answer
}

func (sc *sidecar) caPool(t testing.TB) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(sc.dir, "data", "ca", "ca.pem"))
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

// proxied is a client that goes through the forward door.
func (sc *sidecar) proxied(t testing.TB, http2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{
		Proxy:             http.ProxyURL(&url.URL{Scheme: "http", Host: sc.proxy}),
		TLSClientConfig:   &tls.Config{RootCAs: sc.caPool(t)},
		ForceAttemptHTTP2: http2,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 60 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func send(t testing.TB, c *http.Client, method, rawURL, contentType, body string, header http.Header) answer {
	t.Helper()
	a, err := trySend(c, method, rawURL, contentType, body, header)
	must(t, err)
	return a
}

func trySend(c *http.Client, method, rawURL, contentType, body string, header http.Header) (answer, error) {
	var rd io.Reader
	if body != "" {
		rd = bytes.NewReader([]byte(body))
	}
	req, err := http.NewRequestWithContext(context.Background(), method, rawURL, rd)
	if err != nil {
		return answer{}, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, b}, err
}

var doors = []door{
	{"forward", func(t testing.TB, sc *sidecar, method, host, target, ct, body string, h http.Header) answer {
		return send(t, sc.proxied(t, false), method, "http://"+host+target, ct, body, h)
	}},
	{"connect", func(t testing.TB, sc *sidecar, method, host, target, ct, body string, h http.Header) answer {
		return send(t, sc.proxied(t, false), method, "https://"+host+target, ct, body, h)
	}},
	{"connect", func(t testing.TB, sc *sidecar, method, host, target, ct, body string, h http.Header) answer {
		return send(t, sc.proxied(t, true), method, "https://"+host+target, ct, body, h)
	}},
	{"reverse", func(t testing.TB, sc *sidecar, method, host, target, ct, body string, h http.Header) answer {
		return send(t, &http.Client{}, method, "http://"+sc.revers+"/"+routeOf(host)+target, ct, body, h)
	}},
	{"reverse", func(t testing.TB, sc *sidecar, method, host, target, ct, body string, h http.Header) answer {
		_, port, _ := strings.Cut(sc.revers, ":")
		h = h.Clone()
		req, err := http.NewRequest(method, "http://"+sc.revers+target, strings.NewReader(body))
		must(t, err)
		if h != nil {
			req.Header = h
		}
		if ct != "" {
			req.Header.Set("Content-Type", ct)
		}
		req.Host = routeOf(host) + ".localhost:" + port
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		must(t, err)
		return answer{resp.StatusCode, resp.Header, b}
	}},
}

func routeOf(host string) string {
	if host == "api.stripe.com" {
		return "stripe"
	}
	return strings.TrimSuffix(host, ".example.test")
}

const form = "application/x-www-form-urlencoded"

func refund(amount string) string { return "charge=ch_123&currency=usd&amount=" + amount }

// TestSameDecisionThroughEveryDoor is the promise that no door is softer: the
// same call, through each, in each mode.
func TestSameDecisionThroughEveryDoor(t *testing.T) {
	needStripeMock(t)
	calls := []struct {
		name, method, target, body string
		tool                       string
		args                       map[string]any // for preflight
		policy                     string         // the policy's own word
		reason                     string
	}{
		{"small refund", "POST", "/v1/refunds", refund("4900"), "stripe.refund.create", map[string]any{"amount": 4900, "currency": "usd", "charge": "ch_123"}, "allow", "refund.small_in_scope"},
		{"too large refund", "POST", "/v1/refunds", refund("75000"), "stripe.refund.create", map[string]any{"amount": 75000, "currency": "usd", "charge": "ch_123"}, "deny", "refund.over_limit"},
		{"medium refund", "POST", "/v1/refunds", refund("25000"), "stripe.refund.create", map[string]any{"amount": 25000, "currency": "usd", "charge": "ch_123"}, "require_approval", "refund.medium_needs_approval"},
		{"read", "GET", "/v1/charges/ch_123", "", "stripe.charge.retrieve", nil, "allow", "read.low_risk"},
	}
	for _, mode := range []string{"monitor", "warn", "enforce", "strict"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			sc := start(t, settings{mode: mode, hold: "150ms", front: u})
			for _, c := range calls {
				want := expect(mode, c.policy, c.reason, c.tool)
				for i, d := range doors {
					ct := ""
					if c.body != "" {
						ct = form
					}
					before := len(sc.events())
					var a answer
					ask := func() {
						a = d.send(t, sc, c.method, "api.stripe.com", c.target, ct, c.body, http.Header{"Authorization": {"Bearer sk_test_123"}})
					}
					if want.forward {
						seen := len(u.requestsSeen())
						ask()
						if got := len(u.requestsSeen()) - seen; got != 1 {
							t.Errorf("%s/%s %d: the upstream saw %d requests", c.name, d.name, i, got)
						}
					} else {
						u.quiet(t, c.name+"/"+d.name, ask)
					}
					if a.status != want.status {
						t.Errorf("%s/%s %d: status %d, want %d: %s", c.name, d.name, i, a.status, want.status, a.body)
					}
					if got := a.header.Get("ActPass-Decision"); got != want.decision || a.header.Get("ActPass-Reason") != want.reason || a.header.Get("ActPass-Evidence") == "" {
						t.Errorf("%s/%s %d: headers %v, want %+v", c.name, d.name, i, a.header, want)
					}
					events := sc.since(before)
					if len(events) != 1 {
						t.Fatalf("%s/%s %d: %d events, want one", c.name, d.name, i, len(events))
					}
					e := events[0]
					if e.Decision != want.decision || e.ReasonCode != want.reason || e.Tool != c.tool || e.Door != d.name || e.Mode != mode ||
						e.Enforcement != want.enforcement || e.Outcome.State != want.state || e.ID != a.header.Get("ActPass-Evidence") {
						t.Errorf("%s/%s %d: event %+v, want %+v", c.name, d.name, i, e, want)
					}
				}
				// The preflight door decides the same, and sends nothing.
				u.quiet(t, c.name+"/preflight", func() {
					dec, refused, err := sc.client().Preflight(t.Context(), api.Action{Tool: c.tool, Resource: "stripe:charge:ch_123", Args: c.args, AgentID: "support_agent"})
					must(t, err)
					if dec.Decision != want.decision || dec.ReasonCode != want.reason || dec.Enforcement != want.enforcement || refused != (want.enforcement == "block") {
						t.Errorf("%s/preflight: %+v, want %+v", c.name, dec, want)
					}
				})
			}
		})
	}
}

type expected struct {
	forward                              bool
	status                               int
	decision, reason, enforcement, state string
}

// expect is the contract's table of modes.
func expect(mode, word, reason, tool string) expected {
	pass := expected{true, 200, word, reason, "none", "forwarded"}
	risky := tool == "stripe.refund.create"
	switch mode {
	case "monitor":
		return pass
	case "warn":
		if word != "allow" {
			pass.decision = "warn"
		}
		if word != "allow" || risky {
			pass.enforcement = "warn"
		}
		return pass
	case "strict":
		if risky {
			return expected{false, 403, "deny", "passport.required", "block", "blocked"}
		}
	}
	switch word {
	case "deny":
		return expected{false, 403, word, reason, "block", "blocked"}
	case "require_approval":
		return expected{false, 503, word, reason, "hold", "held"}
	}
	return pass
}
