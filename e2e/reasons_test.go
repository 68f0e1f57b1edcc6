package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryReasonIsDocumented compares docs/reasons.md with the codes that stand
// in the sources, both ways.
func TestEveryReasonIsDocumented(t *testing.T) {
	code := regexp.MustCompile(`"((?:policy|mapping|passport|approval|evidence|request|limit)\.[a-z_.]+)"`)
	skip := map[string]bool{"config": true, "e2e": true, "bench": true, "testdata": true, "node_modules": true, ".git": true}
	notReasons := map[string]bool{
		"passport.keys": true, // a file of the data directory
		"policy.yaml":   true, // a file's name
	}
	used := map[string]string{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != ".." && skip[d.Name()]:
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range code.FindAllStringSubmatch(string(text), -1) {
			if !notReasons[m[1]] {
				used[m[1]] = path
			}
		}
		return nil
	})
	must(t, err)
	if len(used) < 40 {
		t.Fatalf("only %d codes were found in the sources", len(used))
	}
	// Composed from the states of an approval.
	for _, state := range []string{"pending", "approved", "denied", "expired", "cancelled", "consumed"} {
		used["approval."+state] = "gate/approvals.go"
	}
	doc, err := os.ReadFile("../docs/reasons.md")
	must(t, err)
	documented := map[string]bool{}
	shown := regexp.MustCompile("`((?:policy|mapping|passport|approval|evidence|request|limit)\\.[a-z_.]+)`")
	for line := range strings.Lines(string(doc)) {
		first, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		if !strings.HasPrefix(line, "|") {
			first = line
		}
		for _, m := range shown.FindAllStringSubmatch(first, -1) {
			documented[m[1]] = true
			if used[m[1]] == "" {
				t.Errorf("docs/reasons.md explains %s, which no source has", m[1])
			}
		}
	}
	for c, path := range used {
		if !documented[c] {
			t.Errorf("%s (%s) is not explained in docs/reasons.md", c, path)
		}
	}
}

// TestEveryMetricIsDocumented compares the table of docs/operations.md with the
// names, labels and kinds of fault that stand in the sources.
func TestEveryMetricIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/operations.md")
	must(t, err)
	var sources string
	for _, file := range []string{"../cmd/actpass/metrics.go", "../proxy/metrics.go"} {
		text, err := os.ReadFile(file)
		must(t, err)
		sources += string(text)
	}
	names := regexp.MustCompile(`"(actpass_[a-z_]+)"`).FindAllStringSubmatch(sources, -1)
	if len(names) < 6 {
		t.Fatalf("only %d metrics were found in the sources", len(names))
	}
	for _, m := range names {
		if !strings.Contains(string(doc), "| `"+m[1]+"` |") {
			t.Errorf("docs/operations.md has no row for %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(actpass_[a-z_]+)` \\|").FindAllStringSubmatch(string(doc), -1) {
		if !strings.Contains(sources, `"`+m[1]+`"`) {
			t.Errorf("docs/operations.md has a row for %s, which no source has", m[1])
		}
	}
	kinds := regexp.MustCompile(`Fault\("([a-z_]+)"`)
	for _, dir := range []string{"../gate", "../proxy", "../cmd/actpass"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		must(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			must(t, err)
			for _, m := range kinds.FindAllStringSubmatch(string(text), -1) {
				if !strings.Contains(string(doc), "`"+m[1]+"`") || !strings.Contains(sources, `"`+m[1]+`"`) {
					t.Errorf("%s counts faults of kind %s, which the documents or cmd/actpass/metrics.go do not name", file, m[1])
				}
			}
		}
	}
}
