package policy

import (
	"strings"
	"testing"
)

// A condition over a value that is judged in lower case is refused where no call
// can have what it says: a deny over it would deny nothing.
func TestSpellingOfLiterals(t *testing.T) {
	opt := Options{
		Tools: []string{"forge.repo.delete", "forge.repo.list"},
		Spelling: func(tool, root string, path []string, value string) string {
			if tool == "forge.repo.delete" && (root == "resource" || root == "path" && path[0] == "repo") {
				return strings.ToLower(value)
			}
			return value
		},
	}
	for when, bad := range map[string]string{
		`resource == "forge:repo:ACME/prod"`:                  `write "forge:repo:acme/prod"`,
		`resource.startsWith("forge:repo:ACME/")`:             `write "forge:repo:acme/"`,
		`resource in ["forge:repo:a/b", "forge:repo:ACME/b"]`: `write "forge:repo:acme/b"`,
		`path.repo == "Prod"`:                                 `path.repo of forge.repo.delete`,
		`resource == "forge:repo:acme/prod"`:                  "",
		`path.owner == "ACME"`:                                "",
		`agent_id == "Bot"`:                                   "",
	} {
		text := "policies:\n  - name: p\n    version: 1\n    tools: [\"forge.repo.*\"]\n    rules:\n      - { name: r, when: '" + when + "', decision: deny, reason_code: a.b }\n"
		_, err := Compile([]Source{{"p.yaml", []byte(text)}}, opt)
		switch {
		case bad == "" && err != nil:
			t.Errorf("%s: %v", when, err)
		case bad != "" && (err == nil || !strings.Contains(err.Error(), bad)):
			t.Errorf("%s: %v, want %s", when, err, bad)
		}
	}
}
