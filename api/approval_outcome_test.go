package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// TestApprovalAgeAndTimeLeft: what a list shows of time is told by the sidecar's
// clock, and ends at zero.
func TestApprovalAgeAndTimeLeft(t *testing.T) {
	opened := time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		state string
		after time.Duration
		left  any
	}{
		"pending":            {gate.ApprovalPending, 10 * time.Minute, float64(3000)},
		"pending, past":      {gate.ApprovalPending, 2 * time.Hour, float64(0)},
		"approved":           {gate.ApprovalApproved, 20 * time.Minute, float64(600)},
		"denied":             {gate.ApprovalDenied, 20 * time.Minute, nil},
		"the clock set back": {gate.ApprovalDenied, -time.Minute, nil},
	} {
		a := newAPI(t, func(o *Options) { o.Now = func() time.Time { return opened.Add(c.after) } })
		one := approval("apr_support", "support_agent", "key_gateway")
		one.State, one.UseBefore = c.state, opened.Add(30*time.Minute)
		a.gate.approvals = map[string]gate.Approval{one.ID: one}
		got := a.call("GET", "/api/v1/approvals/apr_support", approverKey, "")
		if got.at("age_seconds") != max(0, c.after.Seconds()) || got.at("expires_in_seconds") != c.left || got.at("outcome") != nil {
			t.Errorf("%s: %s", name, got.body)
		}
		list := a.call("GET", "/api/v1/approvals", approverKey, "").at("data").([]any)[0].(map[string]any)
		if list["age_seconds"] != max(0, c.after.Seconds()) || list["expires_in_seconds"] != c.left {
			t.Errorf("%s, listed: %v", name, list)
		}
	}
}

// TestApprovalOutcome: what became of a used approval, in words, and what a human
// has to find out.
func TestApprovalOutcome(t *testing.T) {
	used := time.Date(2026, 1, 31, 9, 30, 0, 0, time.UTC)
	const atTheAgent = "Find out, with the agent or where it acts, whether the action took effect"
	const atStripe = "Find out at api.stripe.com whether the call took effect before it is asked for again: it may have happened."
	for name, c := range map[string]struct {
		door, outcome  string // of the event; "" for none
		after          time.Duration
		state, summary string
		check          string // the beginning
	}{
		"sent":              {"connect", `{"state":"forwarded","status":200,"bytes":5}`, 0, "forwarded", "It was used at 2026-01-31 09:30:00 UTC and sent once, to api.stripe.com, which answered with status 200.", ""},
		"cut off":           {"connect", `{"state":"forwarded","status":200,"bytes":5,"error":"the answer broke off"}`, 0, "forwarded", "did not arrive whole: the answer broke off", ""},
		"under way":         {"connect", `{"state":"pending","bytes":0}`, time.Minute, "pending", "is under way to api.stripe.com", ""},
		"without an end":    {"connect", `{"state":"pending","bytes":0}`, time.Hour, "pending", "no outcome has been recorded since", atStripe},
		"ambiguous":         {"connect", `{"state":"ambiguous","bytes":0,"error":"the sidecar stopped before the outcome was known"}`, 0, "ambiguous", "It was used at 2026-01-31 09:30:00 UTC; the call was sent to api.stripe.com, or may have been, and no answer was recorded. On record is: the sidecar stopped before the outcome was known. It is not sent again.", atStripe},
		"never sent":        {"connect", `{"state":"refused","status":502,"bytes":0,"error":"no such host"}`, 0, "refused", "was not sent after all. On record is: no such host.", ""},
		"refused":           {"connect", `{"state":"blocked","status":403,"bytes":0}`, 0, "blocked", "was not sent after all.", ""},
		"still held":        {"connect", `{"state":"held","status":503,"bytes":0}`, 0, "unknown", "no word of what came of it", atStripe},
		"no outcome":        {"connect", ``, 0, "unknown", "no word of what came of it", atStripe},
		"not here":          {"", ``, time.Hour, "unknown", "another sidecar sent it, or old records were removed", atStripe},
		"not here yet":      {"", ``, time.Minute, "unknown", "at another sidecar, and no outcome is known here yet", ""},
		"told to go ahead":  {"api", `{"state":"pending","bytes":0}`, time.Minute, "pending", "the agent was told to go ahead, and has not said what came of it", ""},
		"never told":        {"api", `{"state":"pending","bytes":0}`, time.Hour, "pending", "has not said what came of it", atTheAgent},
		"done by the agent": {"api", `{"state":"forwarded","bytes":0}`, 0, "forwarded", "reports that it succeeded", ""},
		"failed there":      {"api", `{"state":"forwarded","bytes":0,"error":"no\nluck"}`, 0, "forwarded", `reports that it failed: "no\nluck"`, ""},
		"unknown there":     {"api", `{"state":"ambiguous","bytes":0}`, 0, "ambiguous", "what came of it is not known", atTheAgent},
	} {
		a := newAPI(t, func(o *Options) { o.Now = func() time.Time { return used.Add(c.after) } })
		one := approval("apr_support", "support_agent", "key_gateway")
		one.State, one.ConsumedBy, one.ClosedAt = gate.ApprovalConsumed, "ev_use", used
		a.gate.approvals = map[string]gate.Approval{one.ID: one}
		if c.door != "" {
			a.events.events["ev_use"] = fmt.Sprintf(`{"id":"ev_use","door":%q}`, c.door)
			if c.outcome != "" {
				a.events.events["ev_use"] = fmt.Sprintf(`{"id":"ev_use","door":%q,"outcome":%s}`, c.door, c.outcome)
			}
		}
		for _, key := range []string{approverKey, gatewayKey} {
			got := a.call("GET", "/api/v1/approvals/apr_support", key, "")
			said, _ := got.at("outcome.summary").(string)
			check, _ := got.at("outcome.check").(string)
			if got.at("outcome.state") != c.state || !strings.Contains(said, c.summary) || !strings.HasPrefix(check, c.check) || (check == "") != (c.check == "") {
				t.Errorf("%s: %s", name, got.body)
			}
			if got.at("outcome.event_id") != "ev_use" || got.at("outcome.used_at") != "2026-01-31T09:30:00.000000Z" || (got.at("outcome.host") == "api.stripe.com") != (c.door != "api") {
				t.Errorf("%s: %s", name, got.body)
			}
		}
		list := a.call("GET", "/api/v1/approvals", approverKey, "").at("data").([]any)[0].(map[string]any)
		if o, _ := list["outcome"].(map[string]any); o == nil || o["state"] != c.state {
			t.Errorf("%s, listed: %v", name, list)
		}
		var read Approval
		if err := json.Unmarshal([]byte(a.call("GET", "/api/v1/approvals/apr_support", approverKey, "").body), &read); err != nil || read.Unclear() != (c.check != "") {
			t.Errorf("%s: unclear %v, %v", name, read.Unclear(), err)
		}
	}
}

// TestApprovalOutcomeWithoutTheRecord: records that cannot be searched do not hide
// the approval.
func TestApprovalOutcomeWithoutTheRecord(t *testing.T) {
	a := newAPI(t)
	one := approval("apr_support", "support_agent", "key_gateway")
	one.State, one.ConsumedBy, one.ClosedAt = gate.ApprovalConsumed, "ev_use", time.Now()
	a.gate.approvals = map[string]gate.Approval{one.ID: one}
	a.events.err, a.events.behind = errors.New("the index is closed"), errors.New("behind")
	got := a.call("GET", "/api/v1/approvals/apr_support", approverKey, "")
	if s, _ := got.at("outcome.summary").(string); got.status != 200 || got.at("outcome.state") != "unknown" || !strings.Contains(s, "could not be searched") {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// TestApprovalOutcomeFromAnotherSidecar: what the sidecar that used it left in the
// store is shown as if the record were here.
func TestApprovalOutcomeFromAnotherSidecar(t *testing.T) {
	for name, c := range map[string]struct {
		came    evidence.Outcome
		byAgent bool
		err     error
		summary string
		check   bool
	}{
		"answered":     {came: evidence.Outcome{State: "forwarded", Status: 201}, summary: "to api.stripe.com, which answered with status 201."},
		"ambiguous":    {came: evidence.Outcome{State: "ambiguous", Error: "reset"}, summary: "On record is: reset.", check: true},
		"by the agent": {came: evidence.Outcome{State: "forwarded"}, byAgent: true, summary: "the agent ran the action itself and reports that it succeeded"},
		"no store":     {err: errors.New("away"), summary: "the store could not be searched just now", check: true},
	} {
		a := newAPI(t)
		one := approval("apr_support", "support_agent", "key_gateway")
		one.State, one.ConsumedBy, one.ClosedAt = gate.ApprovalConsumed, "ev_elsewhere", time.Now()
		a.gate.approvals = map[string]gate.Approval{one.ID: one}
		if a.gate.byAgent, a.gate.cameErr = c.byAgent, c.err; c.err == nil {
			a.gate.came = &c.came
		}
		got := a.call("GET", "/api/v1/approvals/apr_support", approverKey, "")
		if s, _ := got.at("outcome.summary").(string); !strings.Contains(s, c.summary) || (got.at("outcome.check") != "") != c.check {
			t.Errorf("%s: %s", name, got.body)
		}
	}
}
