package mapping_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
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
	got := catalogPage(t)
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
		t.Errorf("docs/catalog.md is not what the packs say; run go test ./mapping -run TestCatalogPage -update\n%s", diff)
	}
}

// packFile is what the page shows of a pack. A host or resource may be one text or
// a list, and is read as either.
type packFile struct {
	Description string
	Hosts       []string
	Rules       []struct {
		Match struct {
			Host    any
			Methods []string
			Path    string
			Query   map[string]string
		}
		Tool  string
		MCP   string `yaml:"mcp"`
		Cases []struct {
			On   []string
			Tool string
		}
	}
}

func catalogPage(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("# The provider catalogue\n\n" +
		"Generated from `mapping/catalog/*.yaml` by `go test ./mapping -run TestCatalogPage -update`; how to write such a file is in\n" +
		"[mapping.md](mapping.md). Declared arguments are typed before a policy sees them; the others are there as they were sent.\n\n" +
		"Risk is the worst that the parameters can make of a call:\n\n" +
		"| risk | what |\n|---|---|\n" +
		"| `critical` | money or access leaves for good; people, keys, webhooks, rights; code runs in production; deletion that nothing undoes; what the pack does not know |\n" +
		"| `high` | money moves; something is deleted, sent to people, granted or published; a read can show a secret in clear |\n" +
		"| `medium` | other writes; reads that show people, mail or files in bulk |\n" +
		"| `low` | the other reads |\n\n" +
		"| pack | provider | tools | critical | high | medium | low |\n|---|---|---|---|---|---|---|\n")
	var sections strings.Builder
	for _, name := range mapping.Packs() {
		src, err := mapping.Pack(name)
		if err != nil {
			t.Fatal(err)
		}
		set, err := mapping.Compile([]mapping.Source{src}, mapping.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var file packFile
		if err := yaml.Unmarshal(src.Data, &file); err != nil {
			t.Fatal(err)
		}
		if len(file.Rules) != set.Len() {
			t.Fatalf("the page shows %d rules of %s, the pack has %d", len(file.Rules), name, set.Len())
		}
		counts := map[string]int{}
		for _, tool := range set.Tools() {
			info, _ := set.Tool(tool)
			counts[info.Risk]++
		}
		fmt.Fprintf(&b, "| [`%s`](#pack-%s) | %s | %d | %d | %d | %d | %d |\n", name, name, file.Description, len(set.Tools()),
			counts["critical"], counts["high"], counts["medium"], counts["low"])
		packSection(t, &sections, name, string(src.Data), &file, set)
	}
	return b.String() + sections.String()
}

// packSection writes the tools of one pack by the sections of its file.
func packSection(t *testing.T, b *strings.Builder, name, text string, file *packFile, set *mapping.Set) {
	fmt.Fprintf(b, "\n## Pack `%s`\n\n", name)
	lines := strings.Split(text, "\n")
	for _, l := range lines { // the comment on top
		if !strings.HasPrefix(l, "#") {
			break
		}
		b.WriteString(strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(l, "#"), " "), "*", `\*`) + "\n")
	}
	fmt.Fprintf(b, "\nSwitch it on with `mapping: { packs: [%s] }`.\n", name)
	calls, section, rule := map[string][]string{}, "", 0
	var sections []string
	perSection := map[string][]string{}
	add := func(tool, call string) {
		if calls[tool] == nil {
			perSection[section] = append(perSection[section], tool)
		}
		if !slices.Contains(calls[tool], call) {
			calls[tool] = append(calls[tool], call)
		}
	}
	for _, l := range lines {
		if s, ok := strings.CutPrefix(l, "  # --- "); ok {
			section = strings.TrimRight(s, " -")
			sections = append(sections, section)
		}
		if !strings.HasPrefix(l, "  - { match: {") {
			continue
		}
		r := &file.Rules[rule]
		rule++
		call := strings.Join(r.Match.Methods, "/")
		if call == "" {
			call = "any"
		}
		call += " " + shownHost(r.Match.Host, file.Hosts) + r.Match.Path
		for _, q := range slices.Sorted(maps.Keys(r.Match.Query)) {
			call += "?" + q
		}
		tool := r.Tool
		if r.MCP != "" {
			tool = "mcp." + r.MCP
		}
		add(tool, "`"+call+"`")
		for _, c := range r.Cases {
			add(c.Tool, "`"+call+"` "+strings.ReplaceAll(strings.Join(c.On, ", "), "*", `\*`))
		}
	}
	if rule != len(file.Rules) {
		t.Fatalf("%s: %d of %d rules begin with `  - { match: {`", name, rule, len(file.Rules))
	}
	for _, s := range sections {
		if len(perSection[s]) == 0 {
			continue
		}
		fmt.Fprintf(b, "\n### %s\n\n| tool | risk | calls | declared arguments |\n|---|---|---|---|\n", s)
		for _, tool := range perSection[s] {
			info, ok := set.Tool(tool)
			if !ok {
				t.Fatalf("the pack does not know %s", tool)
			}
			fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", tool, info.Risk, strings.Join(calls[tool], ", "), declaredArguments(info))
		}
	}
}

// shownHost is the host of a rule where it is not one of the file's own.
func shownHost(host any, own []string) string {
	var hosts []string
	switch h := host.(type) {
	case string:
		hosts = []string{h}
	case []any:
		for _, one := range h {
			hosts = append(hosts, fmt.Sprint(one))
		}
	}
	for _, h := range hosts {
		if slices.Contains(own, h) {
			return ""
		}
	}
	switch len(hosts) {
	case 0:
		return ""
	case 1:
		return hosts[0]
	}
	return hosts[0] + ",…"
}

func declaredArguments(info mapping.ToolInfo) string {
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
	slices.Sort(args)
	return strings.ReplaceAll(strings.Join(args, ", "), "*", `\*`)
}
