package main

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
)

// fakeDesk is a sidecar whose answers are set, and that keeps the words.
type fakeDesk struct {
	list  []api.Approval // newest first, as the API gives them
	used  []api.Approval // and unclear
	err   error
	words []string
	said  []api.Verdict
}

func (d *fakeDesk) pending() ([]api.Approval, error) { return d.list, d.err }

func (d *fakeDesk) unclear() ([]api.Approval, error) { return d.used, d.err }

func (d *fakeDesk) look(id string, _ time.Duration) (api.Approval, error) {
	for _, a := range d.used {
		if a.ID == id {
			return a, d.err
		}
	}
	for _, a := range d.list {
		if a.ID == id {
			a.Beside = []api.RuleBeside{{Rule: "small", Decision: "allow", When: "args.amount <= 5000", Misses: []string{"amount is 25000, which is 20000 over 5000"}}}
			return a, d.err
		}
	}
	return api.Approval{ID: id, State: "denied"}, d.err
}

func (d *fakeDesk) decide(id string, v api.Verdict) (api.Approval, error) {
	d.words, d.said = append(d.words, id), append(d.said, v)
	return api.Approval{ID: id, State: "approved"}, d.err
}

var screenNoon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func waiting(id string, age time.Duration) api.Approval {
	return api.Approval{
		ID: id, State: "pending", Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", RiskTier: "high", AgentID: "support_agent",
		Args: map[string]any{"amount": 25000, "currency": "usd"}, Policy: "refund_policy", Rule: "medium", Summary: "Policy refund_policy v3: require_approval.",
		ReasonCode: "refund.medium", Approvers: []string{"support-leads"}, Required: 1, EventID: "ev_1",
		CreatedAt: evidence.Time{Time: screenNoon.Add(-age)}, ExpiresAt: evidence.Time{Time: screenNoon.Add(time.Hour - age)},
	}
}

func newScreen(d *fakeDesk) *screen {
	m := &screen{desk: d, now: func() time.Time { return screenNoon }, where: "http://127.0.0.1:8090"}
	feed(m, tea.WindowSizeMsg{Width: 110, Height: 34})
	feed(m, m.fetch()())
	return m
}

// feed gives the screen a message and runs what it asks for once, but for time.
func feed(m *screen, msg tea.Msg) tea.Cmd {
	_, cmd := m.Update(msg)
	return cmd
}

func press(m *screen, keys ...string) (cmd tea.Cmd) {
	for _, k := range keys {
		p := tea.KeyPressMsg{Text: k, Code: []rune(k)[0]}
		switch k {
		case "enter":
			p = tea.KeyPressMsg{Code: tea.KeyEnter}
		case "esc":
			p = tea.KeyPressMsg{Code: tea.KeyEscape}
		case "down":
			p = tea.KeyPressMsg{Code: tea.KeyDown}
		case "up":
			p = tea.KeyPressMsg{Code: tea.KeyUp}
		case "backspace":
			p = tea.KeyPressMsg{Code: tea.KeyBackspace}
		}
		cmd = feed(m, p)
	}
	return cmd
}

func shown(m *screen) string { return ansi.Strip(m.draw()) }

func TestScreenShowsWhatWaits(t *testing.T) {
	d := &fakeDesk{list: []api.Approval{waiting("apr_2", time.Minute), waiting("apr_1", 5*time.Minute)}}
	m := newScreen(d)
	if m.selected != "apr_1" {
		t.Errorf("the oldest is not chosen first: %s", m.selected)
	}
	feed(m, m.look(0)())
	text := shown(m)
	for _, want := range []string{
		"2 pending", "5m00", "55m00", "AS THE AGENT SENT IT", "support_agent wants to call stripe.refund.create, a high risk tool",
		"refund_policy / medium: Policy refund_policy v3: require_approval. (refund.medium)", "under small, but for this: amount is 25000, which is 20000 over 5000",
		"1 of support-leads", "nobody has checked this", "│ amount        25000", "│ currency      \"usd\"", "a approve",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the screen has no %q:\n%s", want, text)
		}
	}
	for i, line := range strings.Split(text, "\n") {
		if ansi.StringWidth(line) > 110 {
			t.Errorf("line %d is %d wide", i, ansi.StringWidth(line))
		}
	}
	if n := strings.Count(text, "\n") + 1; n != 34 {
		t.Errorf("%d lines on a screen of 34", n)
	}
}

// TestScreenFitsEveryWindow: no window makes it panic or draw past its edge.
func TestScreenFitsEveryWindow(t *testing.T) {
	d := &fakeDesk{}
	for range 50 {
		a := waiting("apr_"+strings.Repeat("x", 3)+string(rune('A'+len(d.list))), time.Minute)
		a.Goal = strings.Repeat("漢字 and so on ", 60)
		d.list = append(d.list, a)
	}
	m := newScreen(d)
	for _, w := range []int{40, 80, 200} {
		for _, h := range []int{8, 12, 24, 60} {
			feed(m, tea.WindowSizeMsg{Width: w, Height: h})
			for _, keys := range [][]string{{"down"}, {"a", "x"}, {"esc"}} {
				press(m, keys...)
				lines := strings.Split(shown(m), "\n")
				if len(lines) != h {
					t.Errorf("%dx%d: %d lines", w, h, len(lines))
				}
				for _, line := range lines {
					if ansi.StringWidth(line) > w {
						t.Errorf("%dx%d: %q", w, h, line)
					}
				}
			}
		}
	}
}

// TestScreenCannotBeForged: what an agent sends can neither move the reader's
// terminal nor look like something of ours.
func TestScreenCannotBeForged(t *testing.T) {
	a := waiting("apr_1", time.Minute)
	evil := "x\x1b[2J\x1b]0;t\x07\r\nApprovers    0 of nobody\u202e\u2066\u200b\u0085\x9b31m"
	a.Goal, a.Resource, a.UserID, a.AgentID, a.Tool = evil, evil, evil, evil, evil
	a.Args = map[string]any{"note\x1b[2J": evil, "n": map[string]any{evil: evil}}
	a.Request = &evidence.Request{Method: "POST", Authority: evil, Path: evil}
	m := newScreen(&fakeDesk{list: []api.Approval{a}})
	m.now = func() time.Time { return screenNoon }
	raw := m.draw()
	if stray := regexp.MustCompile(`\x1b(\[[0-9;]*m)?`).ReplaceAllString(raw, ""); strings.ContainsAny(stray, "\x1b\x07\r\u202e\u2066\u200b\u0085") || strings.Contains(stray, "\x9b") {
		t.Errorf("%q", stray)
	}
	if strings.Contains(raw, "\x1b[2J") || strings.Contains(raw, "\x1b[31m") && !strings.Contains(raw, "no answer") {
		t.Errorf("%q", raw)
	}
	for line := range strings.SplitSeq(ansi.Strip(raw), "\n") {
		if strings.HasPrefix(line, "Approvers    0 of nobody") {
			t.Errorf("a line of the agent's looks like ours: %q", line)
		}
	}
}

func TestScreenDecides(t *testing.T) {
	for name, c := range map[string]struct {
		keys []string
		want api.Verdict
	}{
		"approve":       {[]string{"a", "o", "k", "enter"}, api.Verdict{Decision: "approve", Reason: "ok"}},
		"deny":          {[]string{"d", "n", "x", "backspace", "o", "enter"}, api.Verdict{Decision: "deny", Reason: "no"}},
		"escalate":      {[]string{"e", "f", " ", "g", "enter", "w", "enter"}, api.Verdict{Decision: "escalate", Reason: "w", To: []string{"f", "g"}}},
		"grant":         {[]string{"g", "3", " ", "1", "h", "enter", "enter"}, api.Verdict{Decision: "approve", Grant: &api.NewGrant{Count: 3, TTL: 3600}}},
		"cancel":        {[]string{"c", "x", "enter"}, api.Verdict{Decision: "cancel", Reason: "x"}},
		"q is a letter": {[]string{"a", "q", "enter"}, api.Verdict{Decision: "approve", Reason: "q"}},
	} {
		d := &fakeDesk{list: []api.Approval{waiting("apr_2", time.Minute), waiting("apr_1", 5*time.Minute)}}
		m := newScreen(d)
		press(m, "down", "up")
		cmd := press(m, c.keys...)
		if cmd == nil {
			t.Fatalf("%s: nothing was sent", name)
		}
		if len(d.words) != 0 {
			t.Fatalf("%s: Update acted itself", name)
		}
		// While it is on its way a second word is not possible.
		if m.busy != "apr_1" || press(m, "a") != nil || m.ask != nil {
			t.Errorf("%s: busy %q", name, m.busy)
		}
		feed(m, cmd())
		got := d.said[0]
		if len(d.words) != 1 || d.words[0] != "apr_1" || got.Decision != c.want.Decision || got.Reason != c.want.Reason || strings.Join(got.To, " ") != strings.Join(c.want.To, " ") ||
			(got.Grant == nil) != (c.want.Grant == nil) || got.Grant != nil && (got.Grant.Count != c.want.Grant.Count || got.Grant.TTL != c.want.Grant.TTL) {
			t.Errorf("%s: %v %+v", name, d.words, got)
		}
		if m.busy != "" || !strings.Contains(shown(m), "apr_1 is approved") {
			t.Errorf("%s:\n%s", name, shown(m))
		}
	}
}

// TestScreenKeepsItsTarget: a list that changes while a word is typed does not
// change what it is about, and one that was decided elsewhere takes no word.
func TestScreenKeepsItsTarget(t *testing.T) {
	d := &fakeDesk{list: []api.Approval{waiting("apr_2", time.Minute), waiting("apr_1", 5*time.Minute)}}
	m := newScreen(d)
	press(m, "a", "o")
	d.list = []api.Approval{waiting("apr_4", 0), waiting("apr_3", time.Second), waiting("apr_2", time.Minute)}
	feed(m, m.fetch()())
	if m.selected == "apr_1" || m.ask == nil || m.ask.id != "apr_1" {
		t.Fatalf("%s %+v", m.selected, m.ask)
	}
	feed(m, press(m, "k", "enter")())
	if d.words[0] != "apr_1" {
		t.Errorf("the word went to %s", d.words[0])
	}
	press(m, "d", "x")
	at := m.selected
	feed(m, lookMsg{at, api.Approval{ID: at, State: "approved", Tool: "t"}, nil})
	if m.ask != nil || !strings.Contains(shown(m), at+" is approved") {
		t.Errorf("decided elsewhere:\n%s", shown(m))
	}
	// What is pasted sends nothing.
	press(m, "a")
	feed(m, tea.PasteMsg{Content: "fine\r\nq\x1b[2J"})
	if m.ask == nil || m.ask.text != "fine  q[2J" {
		t.Errorf("%+v", m.ask)
	}
	if press(m, "esc"); m.ask != nil || len(d.words) != 1 {
		t.Error("esc is no way out")
	}
	press(m, "g", "x", "enter")
	if m.ask == nil || !m.bad {
		t.Error("a grant without bounds was taken")
	}
	press(m, "esc", "e", "enter")
	if m.ask == nil || !m.bad {
		t.Error("escalated to nobody")
	}
}

func TestScreenOutlivesTheSidecar(t *testing.T) {
	d := &fakeDesk{list: []api.Approval{waiting("apr_1", time.Minute)}}
	m := newScreen(d)
	d.err = api.ErrUnreachable
	if cmd := feed(m, m.fetch()()); cmd != nil || !strings.Contains(shown(m), "no answer, trying again") || len(m.list) != 1 {
		t.Errorf("%s", shown(m))
	}
	d.err = nil
	if feed(m, m.fetch()()); !strings.Contains(shown(m), "the sidecar answers again") {
		t.Errorf("%s", shown(m))
	}
	d.err = &api.Error{Status: 503, Message: "store"}
	if feed(m, m.fetch()()); m.fatal != nil {
		t.Error("a 503 ends the screen")
	}
	d.err = &api.Error{Status: 401, Message: "revoked"}
	if cmd := feed(m, m.fetch()()); cmd == nil || m.fatal == nil {
		t.Error("a key that is not good goes on")
	}
	early := &screen{desk: &fakeDesk{err: errors.New("nobody there")}, now: time.Now}
	if cmd := feed(early, early.fetch()()); cmd == nil || early.fatal == nil {
		t.Error("a wrong address goes on")
	}
	// A word that the sidecar refuses is told, and the approval stays.
	d.err = nil
	m = newScreen(d)
	feed(m, wordMsg{"apr_1", "approve", api.Approval{}, errors.New("the rule names the groups\x1b[2J")})
	if text := shown(m); !strings.Contains(text, `not done: the rule names the groups\x1b[2J`) || m.at() != 0 {
		t.Errorf("%s", text)
	}
}

// TestScreenShowsWhatIsUnclear: a call that was let go and of which nobody knows
// whether it took effect stands below those that wait, says what to find out, and
// takes no word.
func TestScreenShowsWhatIsUnclear(t *testing.T) {
	used := waiting("apr_u", 30*time.Minute)
	used.State = "consumed"
	used.Outcome = &api.ApprovalOutcome{State: "ambiguous", EventID: "ev_9", Host: "api.stripe.com", Summary: "It was sent, or may have been, and no answer was recorded.\x1b[2J", Check: "Find out at api.stripe.com whether it took effect."}
	d := &fakeDesk{list: []api.Approval{waiting("apr_1", time.Minute)}, used: []api.Approval{used}}
	m := newScreen(d)
	if text := shown(m); m.selected != "apr_1" || !strings.Contains(text, "1 pending   1 used and unclear") || !strings.Contains(text, "30m00 used ?") {
		t.Fatalf("%s\n%s", m.selected, text)
	}
	feed(m, press(m, "down")())
	text := shown(m)
	for _, want := range []string{"Outcome      ambiguous ?: It was sent, or may have been, and no answer was recorded.", "To check     Find out at api.stripe.com whether it took effect."} {
		if !strings.Contains(text, want) {
			t.Errorf("the screen has no %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "left to decide") || strings.Contains(m.draw(), "\x1b[2J") {
		t.Errorf("%q", m.draw())
	}
	for _, key := range []string{"a", "d", "e", "g", "c"} {
		if press(m, key); m.ask != nil || !strings.Contains(shown(m), "it was decided and used already") {
			t.Errorf("%s: %+v", key, m.ask)
		}
	}
	// When it is known after all, it goes.
	d.used = nil
	if feed(m, m.fetch()()); len(m.list) != 1 || m.selected != "apr_1" || strings.Contains(shown(m), "unclear") {
		t.Errorf("%v:\n%s", m.selected, shown(m))
	}
}
