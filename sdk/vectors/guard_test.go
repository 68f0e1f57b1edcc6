package vectors

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestGuardCoversEveryModeAndAnswer: a mode or an answer that no case has could be
// treated differently by each client.
func TestGuardCoversEveryModeAndAnswer(t *testing.T) {
	text, err := os.ReadFile("guard.json")
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		Status                    int
		Body                      any
		Unreachable, Timeout, Cut bool
	}
	var all struct {
		Cases []struct {
			Name, Mode, OnApproval string
			Preflight, Approval    []answer
		}
	}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	kind := func(a answer) string {
		body, _ := a.Body.(map[string]any)
		name, _ := body["$d"].(string)
		switch {
		case a.Unreachable:
			return "unreachable"
		case a.Timeout:
			return "timeout"
		case a.Cut:
			return "cut"
		case a.Status == 429:
			return "429"
		case a.Status >= 500:
			return "5xx"
		}
		return name
	}
	seen, states, names := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, c := range all.Cases {
		if names[c.Name] {
			t.Errorf("two cases are called %q", c.Name)
		}
		names[c.Name] = true
		if len(c.Preflight) == 1 {
			seen[c.Mode+" "+kind(c.Preflight[0])] = true
		}
		for _, a := range c.Approval {
			body, _ := a.Body.(map[string]any)
			state, _ := body["state"].(string)
			states[state] = true
		}
	}
	for _, mode := range []string{"", "monitor", "warn", "enforce", "strict"} {
		for _, what := range strings.Fields("allow deny hold 429 5xx unreachable timeout cut") {
			if !seen[mode+" "+what] {
				t.Errorf("no case under mode %q with %s", mode, what)
			}
		}
	}
	for _, state := range strings.Fields("pending approved denied expired cancelled consumed") {
		if !states[state] {
			t.Errorf("no case whose approval is %s", state)
		}
	}
}
