package proxy

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// Where each provider's SDKs look for the sentence, and where the decision stands.
func TestRefusalShapes(t *testing.T) {
	const sentence = "ActPass blocked this call."
	for _, c := range []struct {
		shape, contentType string
		sentence, decision []string // members on the way
	}{
		{"stripe", "application/json", []string{"error", "message"}, []string{"error", "actpass"}},
		{"openai", "application/json", []string{"error", "message"}, []string{"error", "actpass"}},
		{"anthropic", "application/json", []string{"error", "message"}, []string{"error", "actpass"}},
		{"github", "application/json", []string{"message"}, []string{"actpass"}},
		{"jsonrpc", "application/json", []string{"error", "message"}, []string{"error", "data"}},
		{"", "application/problem+json", []string{"detail"}, nil},
		{"", "application/problem+json", []string{"error", "message"}, nil},
		{"not known", "application/problem+json", []string{"detail"}, nil},
	} {
		a := render(&gate.Refusal{
			Status: http.StatusForbidden, Shape: c.shape, Sentence: sentence, Decision: evidence.Decision{ReasonCode: "a.reason"},
		})
		at := func(way []string) any {
			var v any
			if err := json.Unmarshal(a.body, &v); err != nil {
				t.Fatalf("%s: %v", c.shape, err)
			}
			for _, name := range way {
				m, _ := v.(map[string]any)
				v = m[name]
			}
			return v
		}
		if a.status != http.StatusForbidden || a.header.Get("Content-Type") != c.contentType {
			t.Errorf("%s: %d %s", c.shape, a.status, a.header.Get("Content-Type"))
		}
		if got := at(c.sentence); got != sentence {
			t.Errorf("%s: %v is %v in %s", c.shape, c.sentence, got, a.body)
		}
		if got := at(append(c.decision[:len(c.decision):len(c.decision)], "reason_code")); got != "a.reason" {
			t.Errorf("%s: the reason in %v is %v in %s", c.shape, c.decision, got, a.body)
		}
		if got := at(append(c.decision[:len(c.decision):len(c.decision)], "decision")); got != "deny" {
			t.Errorf("%s: the decision in %v is %v in %s", c.shape, c.decision, got, a.body)
		}
	}
}
