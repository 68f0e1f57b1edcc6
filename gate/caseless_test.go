package gate_test

import (
	"errors"
	"testing"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
)

// The preflight door judges a resource in the spelling that traffic gets.
func TestPreflightOfAResourceInAnotherCase(t *testing.T) {
	f := newGate(t, "enforce", nil)
	r := rules(t, "enforce", `
policies:
  - name: p
    version: 1
    tools: ["*"]
    rules:
      - { name: production, when: 'resource == "forge:repo:acme/prod"', decision: deny, reason_code: repo.production }
      - { name: other, decision: allow, reason_code: repo.other }
`)
	set, err := mapping.Compile([]mapping.Source{{Name: "forge.yaml", Data: []byte(`
hosts: [api.forge.example]
caseless: [path.owner, path.repo]
rules:
  - { match: { methods: [DELETE], path: "/repos/{owner}/{repo}" }, tool: forge.repo.delete, risk: high, resource: "forge:repo:{path.owner}/{path.repo}" }
`)}}, mapping.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r.Mapping = set
	f.Load(r)
	for resource, want := range map[string]string{
		"forge:repo:acme/prod": "repo.production", "forge:repo:ACME/Prod": "repo.production", "forge:repo:ACME/Site": "repo.other",
	} {
		if d := f.ask(t, gate.Preflight{Tool: "forge.repo.delete", Resource: resource}); d.ReasonCode != want {
			t.Errorf("%s: %s, want %s", resource, d.ReasonCode, want)
		}
	}
}

// A tool with a space in its name is none that traffic can have.
func TestPreflightOfAToolWithASpace(t *testing.T) {
	f := newGate(t, "enforce", nil)
	for _, tool := range []string{"stripe.refund.create ", " stripe.refund.create", "stripe.refund.\u00a0create", "stripe.refund.cre\u00adate", "stripe.refund.create\u200b"} {
		var bad *gate.FieldError
		if _, _, err := f.Preflight(t.Context(), admin, gate.Preflight{Tool: tool, AgentID: "support_agent"}); !errors.As(err, &bad) || bad.Field != "tool" {
			t.Errorf("%q: %v", tool, err)
		}
	}
}
