package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPolicyOfOtherCase: a policy that names a repository as no call can have it
// is refused, with its place and what to write.
func TestPolicyOfOtherCase(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "config.yaml")
	for file, text := range map[string]string{
		name: "mapping: { packs: [github] }\npolicy: { files: [./p.yaml] }\n",
		filepath.Join(dir, "p.yaml"): "policies:\n  - name: repos\n    version: 1\n    tools: [\"github.*\"]\n    rules:\n" +
			"      - { name: production, when: 'resource == \"github:repo:ACME/Prod\"', decision: deny, reason_code: repo.production }\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(Source{File: name})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Compile(nil)
	if want := `p.yaml:6:35: resource of github.`; err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `write "github:repo:acme/prod"`) {
		t.Errorf("%v, want %q", err, want)
	}
}
