package api

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/actpass/sidecar/gate"
)

func TestKeys(t *testing.T) {
	now := time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)
	a := newAPI(t, func(o *Options) { o.Now = func() time.Time { return now } })
	got := a.call("POST", "/api/v1/keys", adminKey, `{"name":"ann","role":"approver","group":"finance","groups":["support-leads"],"ttl":"24h"}`)
	got.want(t, 201, "", "")
	if got.at("key") != "sk_live_abcdefgh" || got.header.Get("Location") != "/api/v1/keys/key_new" {
		t.Errorf("%s, Location %q", got.body, got.header.Get("Location"))
	}
	if d := cmp.Diff([]any{"support-leads", "finance"}, got.at("groups")); d != "" {
		t.Error(d)
	}
	if got.at("expires_at") == nil || got.at("revoked_at") != nil {
		t.Error(got.body)
	}
	for body, field := range map[string]string{
		`{}`:                                                              "name",
		`{"name":"n"}`:                                                    "role",
		`{"name":"n","role":"root"}`:                                      "role",
		`{"name":"n","role":"admin","mode":"x"}`:                          "mode",
		`{"name":"n","role":"admin","ttl":"24"}`:                          "ttl",
		`{"name":"n","role":"admin","ttl":"-1h"}`:                         "ttl",
		`{"name":"n","role":"admin","ttl":24}`:                            "ttl",
		`{"name":"n","role":"admin","expires_at":"tomorrow"}`:             "expires_at",
		`{"name":"n","role":"admin","expires_at":"2026-01-31T08:00:00Z"}`: "expires_at",
		`{"name":"n","role":"admin","ttl":"1h","expires_at":"2027-01-31T08:00:00Z"}`: "expires_at",
		`{"name":"n","role":"admin","groups":"g"}`:                                   "groups",
		`{"name":"n","role":"admin","groups":["g",5]}`:                               "groups.1",
		`{"name":"n","role":"admin","groups":[""]}`:                                  "groups",
		`{"name":"n","role":"admin","key":"sk_live_mine"}`:                           "key",
	} {
		a.call("POST", "/api/v1/keys", adminKey, body).want(t, 400, "invalid_request", field)
	}
	first := a.call("GET", "/api/v1/keys?limit=1", adminKey, "")
	if first.at("next_cursor") != "end" {
		t.Error(first.body)
	}
	last := a.call("GET", "/api/v1/keys?cursor=end", adminKey, "")
	if last.at("next_cursor") != "" || len(last.at("data").([]any)) != 0 {
		t.Error(last.body)
	}
	a.call("DELETE", "/api/v1/keys/key_1", adminKey, "").want(t, 204, "", "")
	a.call("DELETE", "/api/v1/keys/key_2", adminKey, "").want(t, 404, "not_found", "")
	a.call("DELETE", "/api/v1/keys/apr_1", adminKey, "").want(t, 404, "not_found", "")
	a.gate.err = errors.New("database is locked")
	a.call("POST", "/api/v1/keys", adminKey, `{"name":"n","role":"admin"}`).want(t, 503, "store.unavailable", "")
	a.call("GET", "/api/v1/keys", adminKey, "").want(t, 503, "store.unavailable", "")
}

func TestListParameters(t *testing.T) {
	a := newAPI(t)
	for path, field := range map[string]string{
		"/api/v1/keys?limit=0":                       "limit",
		"/api/v1/keys?limit=-1":                      "limit",
		"/api/v1/keys?limit=ten":                     "limit",
		"/api/v1/keys?limit=":                        "limit",
		"/api/v1/keys?limit=1&limit=2":               "limit",
		"/api/v1/keys?offset=1":                      "offset",
		"/api/v1/keys?a;b":                           "",
		"/api/v1/approvals?state=open":               "state",
		"/api/v1/approvals?state=":                   "state",
		"/api/v1/approvals/apr_support?wait=30":      "wait",
		"/api/v1/approvals/apr_support?wait=-1s":     "wait",
		"/api/v1/approvals/apr_support?wait=2m":      "wait",
		"/api/v1/passports?state=lost":               "state",
		"/api/v1/passports?agent=a":                  "agent",
		"/api/v1/passports?limit=-1":                 "limit",
		"/api/v1/evidence/events?limit=-1":           "limit",
		"/api/v1/evidence/events?since=yesterday":    "since",
		"/api/v1/evidence/events?since=":             "since",
		"/api/v1/evidence/events?until=1":            "until",
		"/api/v1/evidence/events?decision=maybe":     "decision",
		"/api/v1/evidence/events?kind=outcome":       "kind",
		"/api/v1/evidence/events?state=done":         "state",
		"/api/v1/evidence/events?tools=x":            "tools",
		"/api/v1/evidence/events?agent=a&agent_id=b": "agent",
		"/api/v1/evidence/events/ev_pending?full=1":  "full",
		"/api/v1/evidence/verify?deep=1":             "deep",
		"/api/v1/evidence/decided?last=1001":         "last",
		"/api/v1/evidence/decided?limit=1":           "limit",
		"/api/v1/evidence/counts?cursor=x":           "cursor",
		"/api/v1/evidence/counts?limit=0":            "limit",
		"/api/v1/approvals/proposals?cursor=-1":      "cursor",
		"/api/v1/approvals/proposals?limit=-1":       "limit",
		"/api/v1/readiness?cursor=01":                "cursor",
		"/api/v1/evidence/events?since=2026-02-01T00:00:00Z&until=2026-01-01T00:00:00Z": "until",
	} {
		a.call("GET", path, adminKey, "").want(t, 400, "invalid_request", field)
	}
}

// TestLongPages: more than a page holds is a full page, not an error.
func TestLongPages(t *testing.T) {
	for text, want := range map[string]int{"1": 1, "201": 201, "1000": 1000, "1001": 1000, "100000": 1000, "99999999999999999999": 1000} {
		if got, err := (query{"limit": text}).limit(); err != nil || got != want {
			t.Errorf("limit=%s: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1", "-99999999999999999999", "1.5", "ten", " 1"} {
		if got, err := (query{"limit": text}).limit(); err == nil {
			t.Errorf("limit=%s: %d, want an error", text, got)
		}
	}
}

func ids(t *testing.T, got answer) []string {
	t.Helper()
	got.want(t, 200, "", "")
	list := []string{}
	for _, v := range got.at("data").([]any) {
		list = append(list, v.(map[string]any)["id"].(string))
	}
	slices.Sort(list)
	return list
}

func TestWhoSeesWhichApprovals(t *testing.T) {
	a := newAPI(t)
	every := []string{"apr_billing", "apr_support", "apr_unbound"}
	for key, want := range map[string][]string{
		gatewayKey: {"apr_support"}, unboundKey: {"apr_unbound"}, approverKey: every, adminKey: every,
	} {
		if d := cmp.Diff(want, ids(t, a.call("GET", "/api/v1/approvals", key, ""))); d != "" {
			t.Errorf("%s lists: %s", key, d)
		}
		for _, id := range every {
			got := a.call("GET", "/api/v1/approvals/"+id, key, "")
			if slices.Contains(want, id) {
				got.want(t, 200, "", "")
			} else {
				got.want(t, 404, "not_found", "")
			}
		}
	}
	a.call("GET", "/api/v1/approvals?agent_id=billing_agent", gatewayKey, "").want(t, 403, "forbidden", "")
	if d := cmp.Diff([]string{"apr_billing"}, ids(t, a.call("GET", "/api/v1/approvals?agent_id=billing_agent", adminKey, ""))); d != "" {
		t.Error(d)
	}
	q := a.gate.queries[len(a.gate.queries)-1]
	if d := cmp.Diff(gate.ApprovalQuery{TenantID: "acme", AgentID: "billing_agent", Limit: DefaultLimit}, q); d != "" {
		t.Error(d)
	}
}

func TestApprovalNumbersAreExact(t *testing.T) {
	got := newAPI(t).call("GET", "/api/v1/approvals/apr_support", adminKey, "")
	if want := `"args":{"amount":9007199254740993}`; !strings.Contains(got.body, want) {
		t.Errorf("%s is not in %s", want, got.body)
	}
}

func TestLongPoll(t *testing.T) {
	a := newAPI(t)
	started := time.Now()
	done := make(chan answer)
	go func() { done <- a.call("GET", "/api/v1/approvals/apr_support?wait=30s", gatewayKey, "") }()
	time.Sleep(50 * time.Millisecond)
	a.call("POST", "/api/v1/approvals/apr_support/decide", approverKey, `{"decision":"approve","reason":"fine"}`).want(t, 200, "", "")
	if got := <-done; got.at("state") != gate.ApprovalApproved {
		t.Error(got.body)
	}
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("the decision took %s to be seen", took)
	}
	a = newAPI(t)
	if got := a.call("GET", "/api/v1/approvals/apr_support?wait=30ms", gatewayKey, ""); got.at("state") != gate.ApprovalPending {
		t.Error(got.body)
	}
	// Another agent's approval is not found at once, not after the wait.
	started = time.Now()
	a.call("GET", "/api/v1/approvals/apr_billing?wait=30s", gatewayKey, "").want(t, 404, "not_found", "")
	if time.Since(started) > 5*time.Second {
		t.Error("the wait tells that there is something")
	}
}

func TestDecide(t *testing.T) {
	a := newAPI(t)
	path := "/api/v1/approvals/apr_support/decide"
	for body, field := range map[string]string{
		`{}`:                                          "decision",
		`{"decision":"yes"}`:                          "decision",
		`{"decision":"escalate","to":[]}`:             "to",
		`{"decision":"escalate","to":[""]}`:           "to",
		`{"decision":"approve","to":["g"]}`:           "to",
		`{"decision":"approve","state":"approved"}`:   "state",
		`{"decision":"approve","reason":["because"]}`: "reason",
	} {
		a.call("POST", path, approverKey, body).want(t, 400, "invalid_request", field)
	}
	got := a.call("POST", path, approverKey, `{"decision":"approve","reason":"checked"}`)
	got.want(t, 200, "", "")
	if got.at("state") != "approved" {
		t.Error(got.body)
	}
	a.call("POST", "/api/v1/approvals/apr_none/decide", approverKey, `{"decision":"approve"}`).want(t, 404, "not_found", "")
	for err, c := range map[error]struct {
		status int
		code   string
	}{
		gate.ErrIllegalState: {409, "approval.illegal_state"}, gate.ErrNotAllowed: {403, "approval.not_allowed"}, errors.New("locked"): {503, "store.unavailable"},
	} {
		a.gate.err = err
		a.call("POST", path, approverKey, `{"decision":"deny"}`).want(t, c.status, c.code, "")
	}
}

func TestEvents(t *testing.T) {
	a := newAPI(t)
	got := a.call("GET", "/api/v1/evidence/events?since=2026-01-01T00:00:00%2B01:00&until=2026-02-01T00:00:00Z&tool=stripe.*&agent=support_agent&decision=deny&kind=all&state=blocked&reason_code=policy.default&limit=7&cursor=c", approverKey, "")
	got.want(t, 200, "", "")
	want := EventQuery{
		Tenant: "acme", Tool: "stripe.*", Agent: "support_agent", Decision: "deny", Kind: "all", State: "blocked", Reason: "policy.default",
		Since: time.Date(2025, 12, 31, 23, 0, 0, 0, time.UTC), Until: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC), Cursor: "c", Limit: 7,
	}
	if d := cmp.Diff(want, a.events.asked[0]); d != "" {
		t.Error(d)
	}
	if got := a.call("GET", "/api/v1/evidence/events?cursor=end", approverKey, ""); got.at("next_cursor") != "" || len(got.at("data").([]any)) != 0 {
		t.Error(got.body)
	}
	a.call("GET", "/api/v1/evidence/events/ev_pending", approverKey, "").want(t, 200, "", "")
	a.call("GET", "/api/v1/evidence/events/ev_none", approverKey, "").want(t, 404, "not_found", "")
	a.events.err = &gate.FieldError{Field: "cursor", Message: "is not one of this list"}
	a.call("GET", "/api/v1/evidence/events?cursor=x", approverKey, "").want(t, 400, "invalid_request", "cursor")
	a.events.err = errors.New("index is gone")
	a.call("GET", "/api/v1/evidence/events", approverKey, "").want(t, 503, "evidence.unavailable", "")
	a.call("GET", "/api/v1/evidence/events/ev_pending", approverKey, "").want(t, 503, "evidence.unavailable", "")
}

func TestAnIndexThatIsBehind(t *testing.T) {
	a := newAPI(t)
	a.events.behind = context.DeadlineExceeded
	a.call("GET", "/api/v1/evidence/events", approverKey, "").want(t, 200, "", "")
	a.call("GET", "/api/v1/evidence/events/ev_pending", approverKey, "").want(t, 200, "", "")
	// It cannot say that there is no such event.
	a.call("GET", "/api/v1/evidence/events/ev_none", approverKey, "").want(t, 503, "evidence.unavailable", "")
	a.call("POST", outcomePath("ev_none"), gatewayKey, `{"state":"succeeded"}`).want(t, 503, "evidence.unavailable", "")
}

func TestVerify(t *testing.T) {
	a := newAPI(t)
	got := a.call("GET", "/api/v1/evidence/verify", approverKey, "")
	if got.at("ok") != true || got.at("finding") != nil {
		t.Error(got.body)
	}
	a.events.report = VerifyReport{Records: 3, TreeSize: 7, Finding: &LogFinding{Index: 3, EventID: "ev_4", Problem: "the record was altered"}}
	got = a.call("GET", "/api/v1/evidence/verify", approverKey, "")
	if got.at("ok") != false || got.at("finding.event_id") != "ev_4" {
		t.Error(got.body)
	}
	a.events.err = errors.New("permission denied")
	a.call("GET", "/api/v1/evidence/verify", approverKey, "").want(t, 503, "evidence.unavailable", "")
}
