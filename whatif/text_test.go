package whatif_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/whatif"
)

// policyFile draws a policy file with comments, blank lines and spellings of all
// sorts.
func policyFile(t *rapid.T) string {
	var b strings.Builder
	end := rapid.SampledFrom([]string{"\n", "\n", "\r\n"}).Draw(t, "end")
	write := func(s string) { b.WriteString(s + end) }
	margin := strings.Repeat(" ", rapid.IntRange(0, 4).Draw(t, "margin"))
	noise := func(at string) {
		for range rapid.IntRange(0, 2).Draw(t, "noise") {
			write(rapid.SampledFrom([]string{"", at + "# - name: not_a_rule", "# at the left", at + "      # deep", at + "#", "   "}).Draw(t, "line"))
		}
	}
	noise("")
	write("policies:  # all of them")
	for p := range rapid.IntRange(1, 3).Draw(t, "policies") {
		noise(margin)
		write(fmt.Sprintf("%s- name: p%d   # - here", margin, p))
		in := margin + "  "
		write(in + "version: 1")
		write(in + `tools: ["stripe.*"]`)
		write(in + "rules:")
		deep := in + strings.Repeat(" ", rapid.IntRange(0, 3).Draw(t, "deep"))
		for r := range rapid.IntRange(1, 4).Draw(t, "rules") {
			noise(deep)
			switch rapid.IntRange(0, 3).Draw(t, "form") {
			case 0:
				write(fmt.Sprintf("%s- { name: r%d, when: args.n == %d, decision: allow } # flow", deep, r, r))
			case 1:
				write(fmt.Sprintf("%s- name: r%d\n%s  when: |\n%s    args.n == %d &&\n\n%s    true\n%s  decision: deny\n%s  reason_code: a.b", deep, r, deep, deep, r, deep, deep, deep))
			case 2:
				write(fmt.Sprintf("%s-   decision: allow # first\n%s    name: r%d\n%s    when: args.m == %d", deep, deep, r, deep, r))
			default:
				write(fmt.Sprintf("%s- name: r%d\n%s  # inside\n%s  when: 'args.t == \"# no comment %d\"'\n%s  decision: allow", deep, r, deep, deep, r, deep))
			}
		}
	}
	noise("")
	if text := b.String(); rapid.Bool().Draw(t, "no last line end") {
		return strings.TrimRight(text, "\r\n")
	}
	return b.String()
}

// TestAnInsertionChangesNoOtherLine: every line of the file is there after it, in
// order, byte for byte; the rule stands in the policy right before the one that
// it was put above; and patch and git make the same of the diff.
func TestAnInsertionChangesNoOtherLine(t *testing.T) {
	dir := t.TempDir()
	tries := 0
	rapid.Check(t, func(rt *rapid.T) {
		file := policyFile(rt)
		set, err := policy.Compile([]policy.Source{{Name: "p.yaml", Data: []byte(file)}}, policy.Options{})
		if err != nil {
			rt.Fatalf("%v\n%s", err, file)
		}
		text := whatif.NewText([]byte(file))
		now := set
		for n := range rapid.IntRange(1, 3).Draw(rt, "insertions") {
			rules := now.Rules()
			at := rapid.IntRange(0, len(rules)-1).Draw(rt, "rule")
			was := rules[at]
			if err := text.Insert(was.Pos.Line, fmt.Sprintf("- name: new%d\n  when: 'args.x == \"it''s %d\"'\n  decision: allow\n", n, n)); err != nil {
				rt.Fatal(err)
			}
			if now, err = policy.Compile([]policy.Source{{Name: "p.yaml", Data: text.Bytes()}}, policy.Options{}); err != nil {
				rt.Fatalf("%v\n%s", err, text.Bytes())
			}
			got := now.Rules()
			if got[at].Name != fmt.Sprint("new", n) || got[at].Policy != was.Policy || got[at+1].Name != was.Name || len(got) != len(rules)+1 {
				rt.Fatalf("rule %d of %+v\n%s", at, got, text.Bytes())
			}
		}
		if string(text.Old()) != file {
			rt.Fatalf("%q\n%q", text.Old(), file)
		}
		// Not by the text's own account: the old lines are a subsequence.
		rest := strings.SplitAfter(string(text.Bytes()), "\n")
		for line := range strings.Lines(file) {
			i := slices.Index(rest, line)
			if i < 0 {
				rt.Fatalf("the line %q is gone or elsewhere", line)
			}
			rest = rest[i+1:]
		}
		tries++
		if tries > 25 { // processes are slow
			return
		}
		for tool, args := range map[string][]string{"patch": {"-p1", "--binary", "-s", "-i", "x.patch"}, "git": {"apply", "--whitespace=nowarn", "x.patch"}} {
			at := filepath.Join(dir, tool)
			must(rt, os.MkdirAll(at, 0o755))
			must(rt, os.WriteFile(filepath.Join(at, "p q.yaml"), []byte(file), 0o600))
			must(rt, os.WriteFile(filepath.Join(at, "x.patch"), []byte(text.Patch("p q.yaml")), 0o600))
			cmd := exec.Command(tool, args...)
			cmd.Dir, cmd.Env = at, append(os.Environ(), "GIT_CEILING_DIRECTORIES="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				rt.Fatalf("%s: %v %s\n%s", tool, err, out, text.Patch("p q.yaml"))
			}
			if got, err := os.ReadFile(filepath.Join(at, "p q.yaml")); err != nil || string(got) != string(text.Bytes()) {
				rt.Fatalf("%s made of it (%v)\n%q\nwant\n%q", tool, err, got, text.Bytes())
			}
		}
	})
}

func must(t *rapid.T, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhereNoItemBegins(t *testing.T) {
	text := whatif.NewText([]byte("policies:\n  - name: a\n    rules: [{ name: b }]\n"))
	for _, line := range []int{0, 1, 3, 4} {
		if err := text.Insert(line, "- name: x\n"); err == nil {
			t.Errorf("line %d takes an item", line)
		}
	}
	if p := text.Patch("x"); p != "" {
		t.Errorf("%s", p)
	}
}
