package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// TestGuardShowsNoSecret: also where whoever answers repeats what it was sent.
func TestGuardShowsNoSecret(t *testing.T) {
	const key, passport, card = "sk_live_topsecret1", "eyJ.topsecret2.sig", "topsecret3"
	echo := key + " " + passport
	decision := func(enforcement string) string {
		b, _ := json.Marshal(evidence.Decision{
			Decision: "deny", ReasonCode: echo, EvidenceEventID: "ev_1", Mode: "enforce", Enforcement: enforcement, Tool: "t",
			Explain: evidence.Explain{Summary: echo, MatchedRules: []string{echo}, NextSteps: []string{echo}},
		})
		return string(b)
	}
	for what, answer := range map[string]struct {
		status int
		body   string
	}{
		"no connection": {0, ""}, "misuse": {401, fmt.Sprintf(`{"error":{"code":%q,"message":%q,"field":%q}}`, echo, echo, echo)}, "a page": {200, echo}, "a fault": {500, echo},
		"refused": {403, decision("block")}, "held": {200, decision("hold")},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if answer.status == 0 {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(answer.status)
			w.Write([]byte(answer.body))
		}))
		c := NewClient(server.URL, key, nil)
		r, err := Guard(t.Context(), c, Action{Tool: "t", AgentID: "a", Passport: passport, Args: map[string]any{"card": card}}, GuardOptions{Retries: -1, Attempt: time.Second},
			func(context.Context, *evidence.Decision) (int, error) { t.Error("run"); return 0, nil })
		if err == nil || r.Executed {
			t.Errorf("%s: %+v", what, r)
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			if text := fmt.Sprintf("%v %+v %#v %+v %v %+v %#v", e, e, e, r.Decision, c, c, c); strings.Contains(text, "topsecret") {
				t.Errorf("%s: %s", what, text)
			}
		}
		server.Close()
	}
}
