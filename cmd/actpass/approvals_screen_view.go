package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/actpass/sidecar/gate"
)

// Nothing that an agent chose gets onto the screen but through plain, on one line,
// and behind the gutter or in a column that is marked as the agent's.

var (
	titleStyle  = lipgloss.NewStyle().Bold(true)
	headStyle   = lipgloss.NewStyle().Faint(true)
	cursorStyle = lipgloss.NewStyle().Reverse(true)
	badStyle    = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Red)
	agentStyle  = lipgloss.NewStyle().Foreground(lipgloss.Yellow)
)

// View draws the whole screen.
func (m *screen) View() tea.View {
	v := tea.NewView(m.draw())
	v.AltScreen = true
	v.WindowTitle = fmt.Sprintf("ActPass: %d pending", m.waiting)
	return v
}

func (m *screen) draw() string {
	w, h := max(m.width, 40), max(m.height, 8) // a smaller terminal shows a part of it
	var out []string
	title := fmt.Sprintf("ActPass approvals   %d pending   ", m.waiting)
	if n := len(m.list) - m.waiting; n > 0 {
		title += fmt.Sprintf("%d used and unclear   ", n)
	}
	title += plain(m.where)
	out = append(out, titleStyle.Render(cut(title, w)))
	if m.away != "" {
		out = append(out, badStyle.Render(cut("no answer, trying again: "+plain(m.away), w)))
	} else {
		out = append(out, "")
	}
	foot := m.foot(w)
	room := h - len(out) - len(foot)
	rows := min(len(m.list), max(1, room/3))
	out = append(out, m.table(w, rows)...)
	detail := m.details(w)
	space := h - len(out) - len(foot) - 1
	if space > 0 && len(m.list) > 0 {
		out = append(out, headStyle.Render(strings.Repeat("─", w)))
		m.scroll = max(0, min(m.scroll, len(detail)-space))
		end := min(len(detail), m.scroll+space)
		shown := detail[m.scroll:end]
		if end < len(detail) && len(shown) > 0 {
			shown = append(shown[:len(shown)-1:len(shown)-1], headStyle.Render("more: page down"))
		}
		out = append(out, shown...)
	}
	for len(out) < h-len(foot) {
		out = append(out, "")
	}
	return strings.Join(append(out[:h-len(foot)], foot...), "\n")
}

// table is the list, with as many rows as there is room for, the cursor's among
// them.
func (m *screen) table(w, rows int) []string {
	if len(m.list) == 0 {
		if !m.listed {
			return []string{"asking the sidecar ..."}
		}
		return []string{"Nothing waits for a human."}
	}
	out := []string{headStyle.Render(cut("  "+row("AGE", "LEFT", "AGENT", "TOOL", "AS THE AGENT SENT IT"), w))}
	i := max(0, m.at())
	from := max(0, min(i-rows/2, len(m.list)-rows))
	for n := from; n < from+rows; n++ {
		a := &m.list[n]
		end := left(a.ExpiresAt.Sub(m.now()))
		if n >= m.waiting {
			end = "used " + unclearMark
		}
		line := row(short(m.now().Sub(a.CreatedAt.Time)), end, plain(a.AgentID), plain(a.Tool), cut(plain(a.Resource), 60)+"  "+plain(brief(a.Args)))
		mark := "  "
		if a.ID == m.selected {
			mark = "> "
		}
		line = cut(mark+line, w)
		if a.ID == m.selected {
			line = cursorStyle.Render(pad(line, w))
		}
		out = append(out, line)
	}
	if more := len(m.list) - rows; more > 0 {
		out = append(out, headStyle.Render(fmt.Sprintf("  and %d more", more)))
	}
	return out
}

func row(age, left, agent, tool, rest string) string {
	return pad(age, 6) + pad(left, 7) + pad(cut(agent, 18), 19) + pad(cut(tool, 28), 29) + rest
}

// details is the selected approval in plain words.
func (m *screen) details(w int) (out []string) {
	a := &m.detail
	if a.ID == "" {
		return nil
	}
	add := func(label, text string) {
		if strings.TrimSpace(text) == "" {
			return
		}
		for i, line := range wrap(text, w-13) {
			if i > 0 {
				label = ""
			}
			out = append(out, titleStyle.Render(pad(label, 12))+" "+line)
		}
	}
	add("Wants to", fmt.Sprintf("%s wants to call %s, a %s risk tool.", plain(a.AgentID), plain(a.Tool), plain(a.RiskTier)))
	add("Asked by", plain(a.Policy+" / "+a.Rule)+": "+plain(a.Summary)+" ("+plain(a.ReasonCode)+")")
	for _, b := range a.Beside {
		what := strings.Join(b.Misses, "; ")
		if what == "" {
			what = "its condition does not hold: " + b.When
		}
		add("Goes alone", "under "+plain(b.Rule)+", but for this: "+plain(what))
	}
	need := fmt.Sprintf("%d of %s", a.Required, plain(cmp.Or(strings.Join(a.Approvers, ", "), "any approver")))
	add("Approvers", need)
	for _, v := range a.Votes {
		said := v.Decision
		if said == gate.Approve && !v.Counts {
			said += " (before the escalation; does not count)"
		}
		add("Said", plain(fmt.Sprintf("%s: %s %s", v.Name, said, v.Reason)))
	}
	asked := short(m.now().Sub(a.CreatedAt.Time)) + " ago"
	if a.State == gate.ApprovalPending {
		asked += ", " + left(a.ExpiresAt.Sub(m.now())) + " left to decide"
	}
	add("Asked", asked)
	if o := a.Outcome; o != nil {
		add("Outcome", plain(outcomeOf(a)+": "+o.Summary))
		add("To check", plain(o.Check))
	}
	add("Approval", plain(a.ID)+"   evidence "+plain(a.EventID))

	out = append(out, "", agentStyle.Render(cut("As the agent sent it: nobody has checked this.", w)))
	said := func(label, text string) {
		if text == "" {
			return
		}
		for i, line := range wrap(plain(text), w-17) {
			if i > 0 {
				label = ""
			}
			out = append(out, agentStyle.Render("│ ")+pad(cut(label, 13), 14)+line)
		}
	}
	said("resource", a.Resource)
	names := make([]string, 0, len(a.Args))
	for name := range a.Args {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		b, err := json.Marshal(a.Args[name])
		if err != nil {
			b = []byte("?")
		}
		said(plain(name), string(b))
	}
	if r := a.Request; r != nil {
		said("request", r.Method+" "+r.Authority+r.Path)
	}
	said("user", a.UserID)
	said("goal", a.Goal)
	return out
}

// foot is the prompt or the keys, and the last thing that happened.
func (m *screen) foot(w int) []string {
	note := cut(m.note, w)
	if m.bad {
		note = badStyle.Render(note)
	}
	if q := m.ask; q != nil {
		line := q.text
		if width := lipgloss.Width(line); width > w-3 {
			line = "…" + last(line, w-4)
		}
		return []string{
			note, titleStyle.Render(cut(fmt.Sprintf("%s %s", strings.ToUpper(q.word), q.what), w)),
			cut(q.stages[0]+" (enter to go on, esc to leave it):", w), "> " + line + "█",
		}
	}
	if m.busy != "" {
		note = "sending the word on " + plain(m.busy) + " ..."
	}
	return []string{cut(note, w), headStyle.Render(cut("↑↓ choose  a approve  d deny  e escalate  c cancel  g approve and grant more  page up/down  q leave", w))}
}

// short is a time span in its two largest units.
func short(d time.Duration) string {
	d = max(0, d)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02d", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02d", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func left(d time.Duration) string {
	if d <= 0 {
		return "over"
	}
	return short(d)
}

// cut is s in at most w cells.
func cut(s string, w int) string { return ansi.Truncate(s, max(0, w), "…") }

// last is the end of s in at most w cells.
func last(s string, w int) string {
	return ansi.TruncateLeft(s, max(0, lipgloss.Width(s)-w), "")
}

func pad(s string, w int) string {
	return s + strings.Repeat(" ", max(0, w-lipgloss.Width(s)))
}

// wrap breaks s into lines of at most w cells, at spaces where there are any.
func wrap(s string, w int) []string {
	return strings.Split(ansi.Wrap(s, max(w, 8), ""), "\n")
}
