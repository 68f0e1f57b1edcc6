package api

import (
	"strings"
	"sync"
	"testing"

	"github.com/actpass/sidecar/gate"
)

// ask sends a preflight under an Idempotency-Key, "" for none.
func (r *real) ask(key, attempt, body string) answer {
	if attempt == "" {
		return r.call("POST", preflightPath, key, body)
	}
	return r.call("POST", preflightPath, key, body, "Idempotency-Key", attempt)
}

// TestAnApprovedActionIsLetGoOnce asks as a caller does that has no passport:
// before, while and after a human decides.
func TestAnApprovedActionIsLetGoOnce(t *testing.T) {
	r := newReal(t, gate.ModeEnforce)
	agent, _ := r.key(t, `{"name":"agent","role":"gateway","agent_id":"support_agent"}`)
	lead, _ := r.key(t, `{"name":"Ann","role":"approver","group":"support-leads"}`)
	run := refund("20000", `,"intent":"execute"`)
	id, _ := r.ask(agent, "", run).at("approval_request_id").(string)
	if got := r.ask(agent, "", run); got.at("decision") != "require_approval" || got.at("approval_request_id") != id {
		t.Fatal(got.body)
	}
	r.call("POST", "/api/v1/approvals/"+id+"/decide", lead, `{"decision":"approve"}`).want(t, 200, "", "")
	if got := r.ask(agent, "", refund("20000", "")); got.at("decision") != "require_approval" {
		t.Errorf("a question without intent used the approval: %s", got.body)
	}
	if got := r.ask(agent, "", refund("20001", `,"intent":"execute"`)); got.at("decision") != "require_approval" {
		t.Errorf("another amount: %s", got.body)
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	allowed := 0
	for range 8 {
		all.Go(func() {
			got := r.ask(agent, "", run)
			mu.Lock()
			defer mu.Unlock()
			if got.status == 200 && got.at("enforcement") == "none" {
				allowed++
			}
		})
	}
	all.Wait()
	if allowed != 1 {
		t.Errorf("%d of 8 were let go by one approval", allowed)
	}
	if next := r.ask(agent, "", run); next.at("decision") != "require_approval" || next.at("approval_request_id") == id {
		t.Errorf("what was used is not a new question: %s", next.body)
	}
}

func TestARepeatedQuestionGetsItsAnswer(t *testing.T) {
	r := newReal(t, gate.ModeEnforce)
	agent, _ := r.key(t, `{"name":"agent","role":"gateway"}`)
	other, _ := r.key(t, `{"name":"other","role":"gateway"}`)
	run := refund("4900", `,"intent":"execute"`)
	event := r.ask(agent, "a-1", run).at("evidence_event_id")
	if again := r.ask(agent, "a-1", run); again.at("evidence_event_id") != event || again.at("enforcement") != "none" {
		t.Errorf("not the same answer: %s", again.body)
	}
	r.ask(agent, "a-1", refund("4901", `,"intent":"execute"`)).want(t, 409, "action.illegal_state", "")
	for _, fresh := range []answer{r.ask(agent, "a-2", run), r.ask(other, "a-1", run), r.ask(agent, "", run)} {
		if fresh.at("evidence_event_id") == event {
			t.Errorf("another question got this one's answer: %s", fresh.body)
		}
	}
	r.ask(agent, strings.Repeat("x", 257), run).want(t, 400, "invalid_request", "Idempotency-Key")
}
