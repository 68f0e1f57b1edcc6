package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// calls is one call of every route that needs a key, with the roles that may.
var calls = []struct {
	method, path, body string
	roles              string
}{
	{"POST", "/api/v1/actions/preflight", `{"tool":"t","agent_id":"a"}`, "gateway admin"},
	{"POST", "/api/v1/actions/ev_pending/outcome", `{"state":"succeeded"}`, "gateway admin"},
	{"POST", "/api/v1/keys", `{"name":"n","role":"gateway"}`, "admin"},
	{"GET", "/api/v1/keys", "", "admin"},
	{"DELETE", "/api/v1/keys/key_1", "", "admin"},
	{"GET", "/api/v1/approvals", "", "gateway approver admin"},
	{"GET", "/api/v1/approvals/apr_support", "", "gateway approver admin"},
	{"POST", "/api/v1/approvals/apr_support/decide", `{"decision":"approve"}`, "approver admin"},
	{"GET", "/api/v1/deliveries", "", "approver admin"},
	{"POST", "/api/v1/deliveries/dlv_1/retry", "", "admin"},
	{"GET", "/api/v1/approvals/proposals?min=2", "", "approver admin"},
	{"POST", grantsPath, `{"count":1,"ttl":60}`, "approver admin"},
	{"GET", grantsPath, "", "approver admin"},
	{"GET", grantsPath + "/grt_1", "", "approver admin"},
	{"DELETE", grantsPath + "/grt_1", "", "approver admin"},
	{"GET", "/api/v1/passports", "", "approver admin"},
	{"POST", "/api/v1/passports/issue", `{"agent_id":"a","allowed_tools":["t"],"allowed_resources":["*"]}`, "gateway approver admin"},
	{"POST", "/api/v1/passports/verify", `{"token":"t"}`, "gateway approver admin"},
	{"POST", "/api/v1/passports/revoke", `{"jti":"ap_1"}`, "admin"},
	{"GET", "/api/v1/passports/jwks", "", "gateway approver admin"},
	{"POST", doctorPath, `{"verdict":"open","paths":[{"path":"tcp","target":"","verdict":"open","certain":true,"detail":""}]}`, "gateway admin"},
	{"GET", limitsPath, "", "approver admin"},
	{"GET", "/api/v1/evidence/counts", "", "approver admin"},
	{"GET", "/api/v1/evidence/decided", "", "approver admin"},
	{"POST", resetPath, `{"limit":"p/l","all":true}`, "admin"},
	{"POST", modesPath, `{"mode":"enforce"}`, "admin"},
	{"GET", modesPath, "", "approver admin"},
	{"DELETE", modesPath + "/mod_1", "", "admin"},
	{"GET", "/api/v1/evidence/events", "", "approver admin"},
	{"GET", "/api/v1/evidence/events/ev_pending", "", "approver admin"},
	{"GET", "/api/v1/evidence/verify", "", "approver admin"},
	{"GET", exportPath, "", "approver admin"},
	{"GET", "/api/v1/openapi.yaml", "", "gateway approver admin"},
	{"GET", "/metrics", "", "gateway approver admin"},
}

func withMetrics(o *Options) {
	o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprintln(w, "actpass_decisions_total 1")
	})
}

func TestRoles(t *testing.T) {
	keys := map[string]string{"gateway": gatewayKey, "approver": approverKey, "admin": adminKey}
	for _, c := range calls {
		for role, key := range keys {
			a := newAPI(t, withMetrics, func(o *Options) { o.Channels = &fakeChannels{} })
			got := a.call(c.method, c.path, key, c.body)
			if strings.Contains(c.roles, role) {
				if got.status >= 400 {
					t.Errorf("%s %s with role %s: %d %s", c.method, c.path, role, got.status, got.body)
				}
				continue
			}
			got.want(t, 403, "forbidden", "")
			if m, _ := got.at("error.message").(string); !strings.Contains(m, strings.ReplaceAll(c.roles, " ", " or ")) {
				t.Errorf("%s %s: the message does not name the role: %s", c.method, c.path, m)
			}
		}
		if got := newAPI(t, withMetrics).call(c.method, c.path, "", c.body); got.status != 401 {
			t.Errorf("%s %s without a key: %d", c.method, c.path, got.status)
		}
	}
	if want := len((&server{Options: Options{Metrics: http.NotFoundHandler()}}).table()) - 4; len(calls) != want {
		t.Errorf("%d calls are tried, %d need a key", len(calls), want)
	}
}

func TestARouteWithoutRolesRefuses(t *testing.T) {
	a := newAPI(t)
	s := &server{Options: a.opt, limiter: newLimiter()}
	s.Logger, s.Now = nil, time.Now
	r := httptest.NewRequest("GET", "/x", nil)
	r.Header.Set("Authorization", "Bearer "+adminKey)
	r = r.WithContext(context.WithValue(r.Context(), callKey{}, &call{}))
	err := s.dispatch(httptest.NewRecorder(), r, map[string]route{"GET": {do: s.healthz}})
	var e *Error
	if !errors.As(err, &e) || e.Status != 403 {
		t.Errorf("a route without roles answers %v", err)
	}
}

func TestCredentials(t *testing.T) {
	a := newAPI(t)
	for _, c := range []struct {
		headers []string
		status  int
	}{
		{nil, 401},
		{[]string{"Authorization", "Bearer " + adminKey}, 200},
		{[]string{"Authorization", "bearer " + adminKey}, 200},
		{[]string{"Authorization", "Bearer sk_live_other"}, 401},
		{[]string{"Authorization", "Bearer "}, 401},
		{[]string{"Authorization", adminKey}, 401},
		{[]string{"Authorization", "Basic c2s6c2s="}, 401},
		{[]string{"Authorization", "Bearer " + adminKey + ", Bearer x"}, 401},
		{[]string{"Authorization", "Bearer " + adminKey, "Authorization", "Bearer " + adminKey}, 401},
		{[]string{"Authorization", "Bearer sk_" + strings.Repeat("x", 300)}, 401},
		{[]string{"X-Api-Key", adminKey}, 401},
		{[]string{"Cookie", "key=" + adminKey}, 401},
	} {
		got := a.call("GET", "/api/v1/keys", "", "", c.headers...)
		if got.status != c.status {
			t.Errorf("%v: %d, want %d", c.headers, got.status, c.status)
		}
		if c.status == 401 && !strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%v: WWW-Authenticate is %q", c.headers, got.header.Get("WWW-Authenticate"))
		}
	}
	if got := a.call("GET", "/api/v1/keys?key="+adminKey, "", ""); got.status != 401 {
		t.Errorf("a key in the URL: %d", got.status)
	}
}

func TestAStoreThatCannotAnswerIsNotABadKey(t *testing.T) {
	a := newAPI(t)
	a.gate.authErr = errors.New("database is locked")
	a.call("GET", "/api/v1/keys", adminKey, "").want(t, 503, "store.unavailable", "")
}

func TestFailedKeysAreLimitedAndGoodOnesPass(t *testing.T) {
	now := time.Now()
	a := newAPI(t, func(o *Options) { o.Now = func() time.Time { return now } })
	for range failuresPerWindow {
		a.call("GET", "/api/v1/keys", "sk_live_guess", "").want(t, 401, "unauthenticated", "")
	}
	got := a.call("GET", "/api/v1/keys", "sk_live_guess", "")
	got.want(t, 429, "too_many_requests", "")
	if got.header.Get("Retry-After") != "60" {
		t.Errorf("Retry-After is %q", got.header.Get("Retry-After"))
	}
	a.call("GET", "/api/v1/keys", "", "").want(t, 429, "too_many_requests", "")
	a.call("GET", "/api/v1/keys", adminKey, "").want(t, 200, "", "")
	a.call("GET", "/healthz", "", "").want(t, 200, "", "")
	now = now.Add(failureWindow)
	a.call("GET", "/api/v1/keys", "sk_live_guess", "").want(t, 401, "unauthenticated", "")
}

func TestTheLimiterIsBounded(t *testing.T) {
	l, now := newLimiter(), time.Now()
	for i := range 3 * maxAddresses {
		l.failed(fmt.Sprint(i), now)
	}
	if len(l.seen) > maxAddresses+1 {
		t.Errorf("%d addresses are remembered", len(l.seen))
	}
	if l.failed("one more", now) == 0 {
		t.Error("addresses beyond the bound are not limited")
	}
	if l.failed("later", now.Add(failureWindow)) != 0 {
		t.Error("the bound does not end")
	}
}

func TestAnAddressIsWhatOneHostCommands(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7:1234": "192.0.2.7", "[::ffff:192.0.2.7]:1": "192.0.2.7", "[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::/64",
		"[2001:db8:1:2::1%eth0]:1": "2001:db8:1:2::/64", "@": "@",
	} {
		if got := remote(&http.Request{RemoteAddr: in}); got != want {
			t.Errorf("%s is %s, want %s", in, got, want)
		}
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	a := newAPI(t)
	for _, path := range []string{
		"/", "/x", "/api", "/api/v1", "/api/v1/", "/api/v1/nope", "/api/v1/keys/", "/api/v1//keys", "/api/v1/./keys", "/api/v1/x/../keys", "/api/v1/keys/a/b",
		"/api/v1/passports/nope", "/api/v1/evidence/exports", "/api/v1/simulate/x", "/metrics", "/api/v1/keys/%2e%2e",
	} {
		if got := a.call("GET", path, adminKey, ""); got.status != 404 && path != "/api/v1/keys/%2e%2e" {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		} else if path == "/api/v1/keys/%2e%2e" && got.status < 400 {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
	for path, allow := range map[string]string{
		"/api/v1/keys": "GET, HEAD, POST", "/api/v1/keys/key_1": "DELETE", "/api/v1/actions/preflight": "POST", "/healthz": "GET, HEAD",
	} {
		for _, method := range []string{"PUT", "PATCH", "OPTIONS", "TRACE"} {
			got := a.call(method, path, adminKey, "")
			got.want(t, 405, "method_not_allowed", "")
			if got.header.Get("Allow") != allow {
				t.Errorf("%s %s: Allow is %q, want %q", method, path, got.header.Get("Allow"), allow)
			}
		}
	}
	if got := a.call("HEAD", "/api/v1/keys", adminKey, ""); got.status != 200 || got.body != "" {
		t.Errorf("HEAD: %d %q", got.status, got.body)
	}
}

func TestRequestIDs(t *testing.T) {
	a := newAPI(t)
	if got := a.call("GET", "/healthz", "", "", "X-Request-Id", "trace-1.a_B").header.Get("X-Request-Id"); got != "trace-1.a_B" {
		t.Errorf("a harmless id became %q", got)
	}
	for _, bad := range []string{"a b", "<x>", strings.Repeat("x", 65), "ü"} {
		if got := a.call("GET", "/healthz", "", "", "X-Request-Id", bad).header.Get("X-Request-Id"); !strings.HasPrefix(got, "req_") {
			t.Errorf("%q was taken: %q", bad, got)
		}
	}
}

func TestHealth(t *testing.T) {
	var failing error
	a := newAPI(t, func(o *Options) {
		o.Ready = func() []Check { return []Check{{Name: "ledger", Err: failing}, {Name: "store"}} }
	})
	got := a.call("GET", "/healthz", "", "")
	got.want(t, 200, "", "")
	if got.at("status") != "ok" || got.at("version") != "v0.0.0-test" {
		t.Error(got.body)
	}
	a.call("GET", "/readyz", "", "").want(t, 200, "", "")
	failing = errors.New("write /var/lib/actpass: no space left on device")
	got = a.call("GET", "/readyz", "", "")
	got.want(t, 503, "", "")
	if got.at("checks.ledger") != "failing" || got.at("checks.store") != "ok" || strings.Contains(got.body, "/var/lib") {
		t.Error(got.body)
	}
}

func TestTheDocumentIsServed(t *testing.T) {
	if got := newAPI(t).call("GET", "/api/v1/openapi.yaml", gatewayKey, ""); !strings.HasPrefix(got.body, "openapi: 3.1.0\n") || got.status != 200 {
		t.Errorf("%d %.40s", got.status, got.body)
	}
}
