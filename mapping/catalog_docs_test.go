package mapping_test

import (
	"fmt"
	"os"
	"regexp"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/actpass/sidecar/mapping"
)

// TestMappingPage holds docs/mapping.md to the code: every rule file in it
// compiles, and every kind, quirk, type and class of ambiguity is explained.
func TestMappingPage(t *testing.T) {
	data, err := os.ReadFile("../docs/mapping.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	blocks := strings.Split(page, "```yaml rules\n")[1:]
	if len(blocks) < 4 {
		t.Errorf("%d rule files in the page, want at least 4", len(blocks))
	}
	for i, b := range blocks {
		text, _, _ := strings.Cut(b, "```")
		src := mapping.Source{Name: fmt.Sprintf("docs/mapping.md#%d", i+1), Data: []byte(text)}
		if _, err := mapping.Compile([]mapping.Source{src}, mapping.Options{}); err != nil {
			t.Errorf("rule file %d of the page: %v", i+1, err)
		}
	}
	for _, class := range []string{
		mapping.ClassMethod, mapping.ClassAuthority, mapping.ClassPath, mapping.ClassQuery, mapping.ClassHeader, mapping.ClassBody,
		mapping.ClassDuplicate, mapping.ClassContentType, mapping.ClassEncoding, mapping.ClassSource, mapping.ClassBatch,
	} {
		if !strings.Contains(page, "| `"+class+"` |") {
			t.Errorf("the class %s is not explained", class)
		}
	}
	// What a file may say is asked of the compiler, which lists it when it refuses.
	for key, rule := range map[string]string{
		"args":   "args: nonsense",
		"quirk":  "args: form\n    quirks: [nonsense]",
		"type":   "args: form\n    optional: [{ name: a, type: nonsense }]",
		"errors": "errors: nonsense",
	} {
		text := "rules:\n  - match: { host: a.example, path: /x }\n    tool: a.b\n    " + rule + "\n"
		_, err := mapping.Compile([]mapping.Source{{Name: "x.yaml", Data: []byte(text)}}, mapping.Options{})
		if err == nil {
			t.Errorf("%s: nonsense is accepted", key)
			continue
		}
		_, list, ok := strings.Cut(err.Error(), "known here are ")
		if !ok {
			t.Errorf("%s: the fault %q does not list what is known", key, err)
			continue
		}
		list, _, _ = strings.Cut(list, "\n")
		for _, word := range regexp.MustCompile(`[a-z_][a-z_-]*`).FindAllString(list, -1) {
			if !strings.Contains(page, "`"+word+"`") && !strings.Contains(page, "| "+word+" ") {
				t.Errorf("%s: %s is not explained", key, word)
			}
		}
	}
}

// TestCatalogPage keeps docs/catalog.md what the packs say; -update rewrites it.
func TestCatalogPage(t *testing.T) {
	set := stripePack(t)
	got := catalogPage(t, set)
	const file = "../docs/catalog.md"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("docs/catalog.md is not what the pack says; run go test ./mapping -run TestCatalogPage -update\n%s", diff)
	}
}

var (
	ruleLine = regexp.MustCompile(`^  - \{ match: \{(?: host: (\[[^\]]*\]|"[^"]*"|[^,]*),)?(?: methods: \[([^\]]*)\],)? path: "?([^" ]*)"? \}`)
	toolName = regexp.MustCompile(`\btool: (\S+),`)
)

func catalogPage(t *testing.T, set *mapping.Set) string {
	t.Helper()
	src, err := mapping.Pack("stripe")
	if err != nil {
		t.Fatal(err)
	}
	calls, order, section := map[string][]string{}, []string{}, ""
	var sections []string
	perSection := map[string][]string{}
	rules := 0
	lines := strings.Split(string(src.Data), "\n")
	for i, l := range lines {
		if s, ok := strings.CutPrefix(l, "  # --- "); ok {
			section = strings.TrimRight(s, " -")
			sections = append(sections, section)
		}
		m := ruleLine.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		rules++
		name := toolName.FindStringSubmatch(l)
		if name == nil {
			name = toolName.FindStringSubmatch(lines[i+1])
		}
		tool := name[1]
		if calls[tool] == nil {
			order = append(order, tool)
			perSection[section] = append(perSection[section], tool)
		}
		method, host := m[2], strings.Trim(m[1], `[]"`)
		if method == "" {
			method = "any"
		}
		call := strings.ReplaceAll(method, ", ", "/") + " "
		if host != "" && !strings.Contains(host, "api.stripe.com") {
			call += host
		}
		calls[tool] = append(calls[tool], "`"+call+m[3]+"`")
	}
	if rules != set.Len() {
		t.Fatalf("the page shows %d rules, the pack has %d", rules, set.Len())
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# The provider catalogue\n\n"+
		"Generated from `mapping/catalog/*.yaml` by `go test ./mapping -run TestCatalogPage -update`; how to write such a file is in\n"+
		"[mapping.md](mapping.md). Declared arguments are typed before a policy sees them; the others are there as they were sent.\n\n"+
		"## Pack `stripe`\n\n%d tools over %d rules. Switch it on with `mapping: { packs: [stripe] }`.\n\n", len(order), rules)
	counts := map[string]int{}
	for _, tool := range order {
		info, ok := set.Tool(tool)
		if !ok {
			t.Fatalf("the pack does not know %s", tool)
		}
		counts[info.Risk]++
	}
	fmt.Fprintf(&b, "| risk | tools | what |\n|---|---|---|\n"+
		"| `critical` | %d | money or access leaves for good: payouts, transfers, payout destinations, keys, webhooks; deletion of accounts and people |\n"+
		"| `high` | %d | money moves; something is deleted, granted, sent or published; a read can show a secret in clear |\n"+
		"| `medium` | %d | other writes; reads that show people in bulk |\n"+
		"| `low` | %d | the other reads |\n", counts["critical"], counts["high"], counts["medium"], counts["low"])
	for _, s := range sections {
		if len(perSection[s]) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### %s\n\n| tool | risk | calls | declared arguments |\n|---|---|---|---|\n", s)
		for _, tool := range perSection[s] {
			info, _ := set.Tool(tool)
			var args []string
			for _, a := range info.Args {
				text := a.Name
				if a.Type != "" && a.Type != "string" {
					text += " " + a.Type
				}
				if a.Required {
					text += " (required)"
				}
				if a.Secret {
					text += " (secret)"
				}
				args = append(args, text)
			}
			sort.Strings(args)
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", tool, info.Risk, strings.Join(calls[tool], ", "), strings.ReplaceAll(strings.Join(args, ", "), "*", `\*`))
		}
	}
	return b.String()
}
