package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/actpass/sidecar/gate"
)

const preflightPath = "/api/v1/actions/preflight"

func TestPreflight(t *testing.T) {
	a := newAPI(t)
	got := a.call("POST", preflightPath, gatewayKey, `{"tool":"stripe.refund.create","resource":"stripe:charge:ch_123","args":{"amount":4900,"currency":"usd"},"agent_id":"support_agent","user_id":"user_456","goal":"resolve_refund_request","mode":"monitor"}`)
	got.want(t, 200, "", "")
	if steps := got.at("explain.next_steps"); fmt.Sprint(steps) != "[]" || steps == nil {
		t.Errorf("next_steps is %v, want an empty list", steps)
	}
	want := gate.Preflight{
		Tool: "stripe.refund.create", Resource: "stripe:charge:ch_123", Args: map[string]any{"amount": int64(4900), "currency": "usd"},
		AgentID: "support_agent", UserID: "user_456", Goal: "resolve_refund_request", Mode: "monitor",
	}
	if d := cmp.Diff(want, a.gate.asked[0]); d != "" {
		t.Error(d)
	}
	a.gate.decision.Decision, a.gate.refused = "deny", true
	refused := a.call("POST", preflightPath, gatewayKey, `{"tool":"t","agent_id":"support_agent"}`)
	refused.want(t, 403, "", "")
	if refused.at("decision") != "deny" {
		t.Errorf("a refusal answers %s", refused.body)
	}
}

func TestPreflightKeepsNumbersExact(t *testing.T) {
	a := newAPI(t)
	a.call("POST", preflightPath, adminKey, `{"tool":"t","agent_id":"a","args":{"big":9007199254740993,"huge":9223372036854775808,"frac":10.10,"exp":1e6,"neg":-5,"zero":-0,"deep":[{"n":1}]}}`).want(t, 200, "", "")
	want := map[string]any{
		"big": int64(9007199254740993), "huge": json.Number("9223372036854775808"), "frac": json.Number("10.10"), "exp": json.Number("1e6"),
		"neg": int64(-5), "zero": json.Number("-0"), "deep": []any{map[string]any{"n": int64(1)}},
	}
	if d := cmp.Diff(want, a.gate.asked[0].Args); d != "" {
		t.Error(d)
	}
}

func TestPreflightRefusesWhatItCannotRead(t *testing.T) {
	a := newAPI(t)
	nested := strings.Repeat(`{"a":`, maxDepth+2) + "1" + strings.Repeat("}", maxDepth+2)
	for body, field := range map[string]string{
		``:                                       "",
		`null`:                                   "",
		`[]`:                                     "",
		`"x"`:                                    "",
		`{`:                                      "",
		`{"tool":"t","agent_id":"a"} {}`:         "",
		`{"tool":"t","agent_id":"a"}x`:           "",
		"\xef\xbb\xbf{\"tool\":\"t\"}":           "",
		`{"agent_id":"a"}`:                       "tool",
		`{"tool":"t"}`:                           "agent_id",
		`{"tool":null,"agent_id":"a"}`:           "tool",
		`{"tool":"","agent_id":"a"}`:             "tool",
		`{"tool":5,"agent_id":"a"}`:              "tool",
		`{"tool":["t"],"agent_id":"a"}`:          "tool",
		`{"tool":"t","agent_id":{"a":1}}`:        "agent_id",
		`{"tool":"t","agent_id":"a","x":1}`:      "x",
		`{"Tool":"t","agent_id":"a"}`:            "Tool",
		`{"tool":"t","tool":"u"}`:                "tool",
		`{"tool":"t","\u0074ool":"u"}`:           "tool",
		"{\"tool\":\"\xff\"}":                    "tool",
		`{"tool":"t","agent_id":"\ud800"}`:       "agent_id",
		`{"tool":"t","agent_id":"a","args":[]}`:  "args",
		`{"tool":"t","agent_id":"a","args":"x"}`: "args",
		`{"tool":"t","agent_id":"a","args":{"b":1,"b":2}}`:    "args.b",
		`{"tool":"t","agent_id":"a","args":{"b":[{"c":01}]}}`: "args.b.0",
		`{"tool":"t","agent_id":"a","args":` + nested + `}`:   "args",
		`{"tool":"t","agent_id":"a","mode":"off"}`:            "mode",
		`{"tool":"t","agent_id":"a","mode":"Monitor"}`:        "mode",
		`{"tool":"t","agent_id":"a","intent":"maybe"}`:        "intent",
	} {
		t.Run(clip(body, 60), func(t *testing.T) {
			a.call("POST", preflightPath, gatewayKey, body).want(t, 400, "invalid_request", field)
		})
	}
	if len(a.gate.asked) != 0 {
		t.Errorf("the gate was asked all the same: %v", a.gate.asked)
	}
}

func TestPreflightSize(t *testing.T) {
	a := newAPI(t)
	body := func(n int) string {
		frame := `{"tool":"t","agent_id":"a","goal":""}`
		return strings.Replace(frame, `""`, `"`+strings.Repeat("x", n-len(frame))+`"`, 1)
	}
	a.call("POST", preflightPath, gatewayKey, body(MaxBody)).want(t, 200, "", "")
	a.call("POST", preflightPath, gatewayKey, body(MaxBody+1)).want(t, 413, "payload_too_large", "")
}

func TestPreflightContentType(t *testing.T) {
	a := newAPI(t)
	for value, status := range map[string]int{
		"application/json": 200, "application/json; charset=utf-8": 200, "Application/JSON; Charset=UTF-8": 200,
		"text/plain": 415, "application/x-www-form-urlencoded": 200, "multipart/form-data; boundary=x": 415, "application/json; charset=utf-16": 415, "application/json-patch+json": 415, ";": 415,
	} {
		req, _ := http.NewRequest("POST", a.server.URL+preflightPath, strings.NewReader(`{"tool":"t","agent_id":"a"}`))
		req.Header.Set("Authorization", "Bearer "+gatewayKey)
		req.Header.Set("Content-Type", value)
		if got := a.send(req); got.status != status {
			t.Errorf("%q: %d, want %d", value, got.status, status)
		}
	}
	req, _ := http.NewRequest("POST", a.server.URL+"/api/v1/keys", strings.NewReader(`{"name":"n","role":"gateway"}`))
	req.Header.Set("Authorization", "Bearer "+adminKey)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	a.send(req).want(t, 415, "unsupported_media_type", "") // the concession is the preflight's
	req, _ = http.NewRequest("POST", a.server.URL+preflightPath, strings.NewReader(`tool=t&agent_id=a`))
	req.Header.Set("Authorization", "Bearer "+gatewayKey)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	a.send(req).want(t, 400, "invalid_request", "")
	body := `{"tool":"t","agent_id":"a"}`
	a.call("POST", preflightPath, gatewayKey, body, "Content-Type", "text/plain").want(t, 415, "unsupported_media_type", "")
	a.call("POST", preflightPath, gatewayKey, body, "Content-Encoding", "gzip").want(t, 415, "unsupported_media_type", "")
}

func TestErrorsOfTheGate(t *testing.T) {
	body := `{"tool":"t","agent_id":"support_agent"}`
	for name, c := range map[string]struct {
		err    error
		status int
		code   string
		field  string
	}{
		"field":    {fmt.Errorf("check: %w", &gate.FieldError{Field: "mode", Message: "must be stricter"}), 400, "invalid_request", "mode"},
		"agent":    {fmt.Errorf("%w: the key speaks for another agent", gate.ErrNotAllowed), 403, "action.not_allowed", ""},
		"too many": {gate.ErrTooMany, 429, "action.too_many", ""},
		"of agent": {gate.ErrTooManyOfAgent, 429, "action.too_many_of_agent", ""},
		"disk":     {errors.New("no space left on device"), 503, "evidence.unavailable", ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPI(t)
			a.gate.err = c.err
			got := a.call("POST", preflightPath, gatewayKey, body)
			got.want(t, c.status, c.code, c.field)
			if strings.Contains(got.body, "no space") {
				t.Errorf("the cause is shown to the caller: %s", got.body)
			}
			if (c.status == 503 || c.status == 429) && got.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		})
	}
}

func TestAnEmptyDecisionIsNotAnAnswer(t *testing.T) {
	a := newAPI(t)
	a.gate.decision.Decision = ""
	a.call("POST", preflightPath, gatewayKey, `{"tool":"t","agent_id":"a"}`).want(t, 500, "internal", "")
}

func TestAPanicCostsOneCall(t *testing.T) {
	a := newAPI(t)
	a.gate.panics = true
	got := a.call("POST", preflightPath, gatewayKey, `{"tool":"t","agent_id":"a"}`)
	got.want(t, 500, "internal", "")
	if strings.Contains(got.body, "a fault in the gate") {
		t.Errorf("the panic is shown to the caller: %s", got.body)
	}
	if d := cmp.Diff([]string{"api"}, a.gate.faults); d != "" {
		t.Errorf("faults: %s", d)
	}
	a.gate.panics = false
	a.call("POST", preflightPath, gatewayKey, `{"tool":"t","agent_id":"a"}`).want(t, 200, "", "")
}

func outcomePath(id string) string { return "/api/v1/actions/" + id + "/outcome" }

func TestOutcome(t *testing.T) {
	a := newAPI(t)
	for _, c := range []struct {
		id, key, body string
		status        int
		code, field   string
	}{
		{"ev_pending", approverKey, `{"state":"succeeded"}`, 403, "forbidden", ""},
		{"ev_pending", gatewayKey, `{"state":"done"}`, 400, "invalid_request", "state"},
		{"ev_pending", gatewayKey, `{}`, 400, "invalid_request", "state"},
		{"ev_pending", gatewayKey, `{"state":"failed","status":1000}`, 400, "invalid_request", "status"},
		{"ev_pending", gatewayKey, `{"state":"failed","status":"404"}`, 400, "invalid_request", "status"},
		{"ev_pending", gatewayKey, `{"state":"failed","status":404.5}`, 400, "invalid_request", "status"},
		{"ev_none", gatewayKey, `{"state":"succeeded"}`, 404, "not_found", ""},
		{"key_1", gatewayKey, `{"state":"succeeded"}`, 404, "not_found", ""},
		{"ev_other", gatewayKey, `{"state":"succeeded"}`, 404, "not_found", ""},
		{"ev_pending", unboundKey, `{"state":"succeeded"}`, 404, "not_found", ""},
		{"ev_question", gatewayKey, `{"state":"succeeded"}`, 409, "action.illegal_state", ""},
		{"ev_carried", gatewayKey, `{"state":"succeeded"}`, 409, "action.illegal_state", ""},
		{"ev_blocked", gatewayKey, `{"state":"succeeded"}`, 409, "action.illegal_state", ""},
		{"ev_done", gatewayKey, `{"state":"failed"}`, 409, "action.illegal_state", ""},
		{"ev_done", gatewayKey, `{"state":"succeeded"}`, 200, "", ""},
		{"ev_failed", gatewayKey, `{"state":"failed"}`, 200, "", ""},
		{"ev_unknown", gatewayKey, `{"state":"unknown"}`, 200, "", ""},
	} {
		a.call("POST", outcomePath(c.id), c.key, c.body).want(t, c.status, c.code, c.field)
	}
	if len(a.gate.outcomes) != 0 {
		t.Errorf("recorded: %v", a.gate.outcomes)
	}
	a.call("POST", outcomePath("ev_other"), adminKey, `{"state":"unknown"}`).want(t, 200, "", "")
	a.call("POST", outcomePath("ev_pending"), gatewayKey, `{"state":"failed","status":402,"error":"card declined"}`).want(t, 200, "", "")
	a.call("POST", outcomePath("ev_pending"), gatewayKey, `{"state":"failed","status":402,"error":"card declined"}`).want(t, 200, "", "")
	a.call("POST", outcomePath("ev_pending"), gatewayKey, `{"state":"succeeded"}`).want(t, 409, "action.illegal_state", "")
	if d := cmp.Diff([]string{"ev_other unknown 0 ", "ev_pending failed 402 card declined"}, a.gate.outcomes); d != "" {
		t.Error(d)
	}
}

func TestAnOutcomeThatWasNotRecordedCanBeReportedAgain(t *testing.T) {
	a := newAPI(t)
	a.gate.err = errors.New("disk full")
	a.call("POST", outcomePath("ev_pending"), gatewayKey, `{"state":"succeeded"}`).want(t, 503, "evidence.unavailable", "")
	a.gate.err = nil
	a.call("POST", outcomePath("ev_pending"), gatewayKey, `{"state":"failed"}`).want(t, 200, "", "")
}

func TestOneOutcomeOfManyReports(t *testing.T) {
	a := newAPI(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	count := map[int]int{}
	for i := range 32 {
		wg.Go(func() {
			state := []string{"succeeded", "failed"}[i%2]
			got := a.call("POST", outcomePath("ev_pending"), gatewayKey, `{"state":"`+state+`"}`)
			mu.Lock()
			count[got.status]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(a.gate.outcomes) != 1 || count[200] != 16 || count[409] != 16 {
		t.Errorf("recorded %v, answers %v", a.gate.outcomes, count)
	}
}

// TestAnOutcomeDoesNotWaitForTheIndex: what was let go here a moment ago may be
// reported by its caller, and by nobody else, while the index knows nothing of it.
func TestAnOutcomeDoesNotWaitForTheIndex(t *testing.T) {
	a := newAPI(t)
	a.events.behind = errors.New("the index is being rebuilt")
	ask := func(id, intent string) {
		a.gate.decision.EvidenceEventID = id
		a.call("POST", preflightPath, gatewayKey, `{"tool":"t","agent_id":"support_agent"`+intent+`}`).want(t, 200, "", "")
	}
	const execute = `,"intent":"execute"`
	ask("ev_asked", "")
	ask("ev_let", execute)
	a.gate.decision.Enforcement = "hold"
	ask("ev_held", execute)
	for _, id := range []string{"ev_asked", "ev_held"} {
		a.call("POST", outcomePath(id), gatewayKey, `{"state":"succeeded"}`).want(t, 503, "evidence.unavailable", "")
	}
	a.gate.keys["sk_live_foreign"] = gate.Identity{TenantID: "globex", AgentID: "support_agent", KeyID: "key_gateway", Role: gate.RoleAdmin, Source: "api_key"}
	a.call("POST", outcomePath("ev_let"), unboundKey, `{"state":"failed","status":402}`).want(t, 404, "not_found", "")
	a.call("POST", outcomePath("ev_let"), "sk_live_foreign", `{"state":"failed","status":402}`).want(t, 503, "evidence.unavailable", "")
	a.call("POST", outcomePath("ev_let"), gatewayKey, `{"state":"succeeded"}`).want(t, 200, "", "")
	a.call("POST", outcomePath("ev_let"), gatewayKey, `{"state":"unknown"}`).want(t, 409, "action.illegal_state", "")
	if d := cmp.Diff([]string{"ev_let succeeded 0 "}, a.gate.outcomes); d != "" {
		t.Error(d)
	}
}

func TestRememberedOutcomesAreBounded(t *testing.T) {
	var l reports
	for i := range maxReports + 10 {
		if known, err := l.report(fmt.Sprint(i), "succeeded", func() error { return nil }); known != "succeeded" || err != nil {
			t.Fatal(known, err)
		}
	}
	if len(l.byEvent) != maxReports || len(l.order) != maxReports {
		t.Errorf("%d and %d remembered", len(l.byEvent), len(l.order))
	}
}
