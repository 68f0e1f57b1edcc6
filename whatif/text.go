package whatif

import (
	"fmt"
	"slices"
	"strings"
)

// Text is a file to which lines are added, and from which none is taken: its
// comments, its order and its spelling stay.
type Text struct {
	lines []string // with their ends
	added []bool
}

// NewText makes a text of a file.
func NewText(file []byte) *Text {
	t := &Text{lines: strings.SplitAfter(string(file), "\n")}
	if n := len(t.lines); t.lines[n-1] == "" {
		t.lines = t.lines[:n-1]
	}
	t.added = make([]bool, len(t.lines))
	return t
}

// NewFile makes a text of a file that is not there yet.
func NewFile(file []byte) *Text {
	t := NewText(file)
	for i := range t.added {
		t.added[i] = true
	}
	return t
}

// Clone copies a text.
func (t *Text) Clone() *Text {
	return &Text{lines: slices.Clone(t.lines), added: slices.Clone(t.added)}
}

// Bytes are the text.
func (t *Text) Bytes() []byte { return []byte(strings.Join(t.lines, "")) }

// Old is the text without what was added.
func (t *Text) Old() []byte {
	var b strings.Builder
	for i, line := range t.lines {
		if !t.added[i] {
			b.WriteString(line)
		}
	}
	return []byte(b.String())
}

// Insert puts an item of a list before the one that begins at a line, counted
// from 1, and before the comment that stands right above that one. The item is
// YAML that is not indented. The line must begin an item of a list in block form.
func (t *Text) Insert(line int, item string) error {
	at := line - 1
	if at < 0 || at >= len(t.lines) {
		return fmt.Errorf("there is no line %d", line)
	}
	trimmed := strings.TrimLeft(t.lines[at], " ")
	if !strings.HasPrefix(trimmed, "- ") {
		return fmt.Errorf("line %d does not begin an item of a list, as `- name: ...` does", line)
	}
	margin := strings.Repeat(" ", len(t.lines[at])-len(trimmed))
	end := "\n"
	if strings.HasSuffix(t.lines[at], "\r\n") {
		end = "\r\n"
	}
	// A line of a block scalar that looks like a comment is indented more.
	for at > 0 && strings.HasPrefix(t.lines[at-1], margin+"#") {
		at--
	}
	var lines []string
	for l := range strings.Lines(item) {
		lines = append(lines, margin+strings.TrimSuffix(l, "\n")+end)
	}
	if at > 0 && strings.TrimSpace(t.lines[at-1]) == "" {
		lines = append(lines, end) // the file has its items apart
	}
	t.lines = slices.Insert(t.lines, at, lines...)
	marks := make([]bool, len(lines))
	for i := range marks {
		marks[i] = true
	}
	t.added = slices.Insert(t.added, at, marks...)
	return nil
}

// around is how many lines of context a patch has.
const around = 3

// Patch is what was added, as a unified diff of the file with that name, which
// `patch -p1` and `git apply` take; "" where nothing was added.
func (t *Text) Patch(name string) string {
	if !slices.Contains(t.added, true) {
		return ""
	}
	var b strings.Builder
	if slices.Contains(t.added, false) {
		fmt.Fprintf(&b, "--- %s\n+++ %s\n", patchName("a/"+name), patchName("b/"+name))
	} else {
		fmt.Fprintf(&b, "--- /dev/null\n+++ %s\n", patchName("b/"+name))
	}
	old, shown := 0, 0 // lines of the file as it was, and lines of the text, so far
	for shown < len(t.lines) {
		first := slices.Index(t.added[shown:], true)
		if first < 0 {
			break
		}
		first += shown
		from := max(shown, first-around)
		old += from - shown
		end := first
		for i := first; i < len(t.lines) && i <= end+2*around; i++ {
			if t.added[i] {
				end = i
			}
		}
		to := min(len(t.lines), end+1+around)
		kept := 0
		for _, added := range t.added[from:to] {
			if !added {
				kept++
			}
		}
		before := 0
		for _, added := range t.added[:from] {
			if added {
				before++
			}
		}
		fmt.Fprintf(&b, "@@ -%s +%s @@\n", extent(old, kept), extent(old+before, to-from))
		for i := from; i < to; i++ {
			sign := " "
			if t.added[i] {
				sign = "+"
			}
			b.WriteString(sign + t.lines[i])
			if !strings.HasSuffix(t.lines[i], "\n") {
				b.WriteString("\n\\ No newline at end of file\n")
			}
		}
		old += kept
		shown = to
	}
	return b.String()
}

// extent words how many lines a hunk has, after how many.
func extent(before, n int) string {
	if n == 0 {
		return fmt.Sprintf("%d,0", before)
	}
	return fmt.Sprintf("%d,%d", before+1, n)
}

// patchName ends a name with a tab where it holds a space, as diff does.
func patchName(name string) string {
	if strings.Contains(name, " ") {
		return name + "\t"
	}
	return name
}
