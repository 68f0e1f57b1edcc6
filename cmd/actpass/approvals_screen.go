package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
)

// desk is what the screen asks of the sidecar; *apiDesk is the API.
type desk interface {
	pending() ([]api.Approval, error)
	// unclear are those that were used and of whose call it is not known whether it
	// took effect, newest first.
	unclear() ([]api.Approval, error)
	// look gets one; with wait, when it is decided or wait is over.
	look(id string, wait time.Duration) (api.Approval, error)
	decide(id string, v api.Verdict) (api.Approval, error)
}

type apiDesk struct {
	ctx    context.Context
	client *api.Client
	mu     sync.Mutex
	doubts doubts
}

func (d *apiDesk) pending() ([]api.Approval, error) {
	return all(func(cursor string) ([]api.Approval, string, error) {
		p, err := d.client.Approvals(d.ctx, gate.ApprovalPending, "", cursor, api.MaxLimit)
		return p.Data, p.Next, err
	})
}

func (d *apiDesk) unclear() ([]api.Approval, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.doubts.look(d.ctx, d.client)
}

func (d *apiDesk) look(id string, wait time.Duration) (api.Approval, error) {
	return d.client.Approval(d.ctx, id, wait)
}

func (d *apiDesk) decide(id string, v api.Verdict) (api.Approval, error) {
	return d.client.Decide(d.ctx, id, v)
}

// screen is the whole state of `approvals watch` on a terminal. Update is pure:
// what it does to the world, it returns as commands.
type screen struct {
	desk   desk
	now    func() time.Time
	where  string // the sidecar's address
	width  int
	height int

	list     []api.Approval // pending, the oldest first, so that new ones move nothing; then the unclear
	waiting  int            // how many of them are pending
	listed   bool           // at least once
	selected string         // id; the cursor stays on its approval, not on its line
	detail   api.Approval   // of selected, as far as it was read
	scroll   int            // of the detail

	ask   *question // what is being typed; nil: keys are commands
	busy  string    // id of the approval whose word is on its way
	note  string    // the last thing that happened
	bad   bool      // that it is a fault
	away  string    // why the sidecar does not answer
	fatal error     // what no waiting mends
}

// question is a word on one approval that is being typed. It is about that
// approval whatever the list does meanwhile.
type question struct {
	id     string
	what   string // the tool and resource, for the prompt
	word   string // approve, deny, escalate, cancel
	stages []string
	given  []string
	text   string
}

// Names of the stages.
const (
	stageGroups = "groups to ask, by spaces"
	stageGrant  = "how many like it, and for how long (10 8h)"
	stageReason = "reason"
)

// Messages.
type (
	tickMsg time.Time
	listMsg struct {
		list    []api.Approval
		unclear []api.Approval
		err     error
	}
	lookMsg struct {
		id    string
		found api.Approval
		err   error
	}
	wordMsg struct {
		id    string
		word  string
		found api.Approval
		err   error
	}
	againMsg struct{ id string } // time to look at an approval once more
)

const lookWait = 20 * time.Second

func (m *screen) Init() tea.Cmd { return tea.Batch(m.fetch(), tick()) }

func tick() tea.Cmd { return tea.Tick(watchEvery, func(t time.Time) tea.Msg { return tickMsg(t) }) }

func (m *screen) fetch() tea.Cmd {
	d := m.desk
	return func() tea.Msg {
		list, err := d.pending()
		if err != nil {
			return listMsg{err: err}
		}
		unclear, err := d.unclear()
		return listMsg{list, unclear, err}
	}
}

func (m *screen) look(wait time.Duration) tea.Cmd {
	d, id := m.desk, m.selected
	if id == "" {
		return nil
	}
	return func() tea.Msg {
		a, err := d.look(id, wait)
		return lookMsg{id, a, err}
	}
}

// Update takes one message.
func (m *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tickMsg:
		return m, tea.Batch(m.fetch(), tick())
	case listMsg:
		return m, m.took(msg)
	case lookMsg:
		return m, m.looked(msg)
	case againMsg:
		if msg.id == m.selected {
			return m, m.look(lookWait)
		}
	case wordMsg:
		return m, m.told(msg)
	case tea.PasteMsg:
		if m.ask != nil {
			m.ask.add(msg.Content)
		}
	case tea.KeyPressMsg:
		if m.ask != nil {
			return m, m.typed(msg)
		}
		return m, m.pressed(msg)
	}
	return m, nil
}

// took takes a list. The first failure, and one that waiting does not mend, end
// the screen; others are shown until the sidecar answers again.
func (m *screen) took(msg listMsg) tea.Cmd {
	if msg.err != nil {
		var said *api.Error
		if !m.listed || errors.As(msg.err, &said) && said.Status < 500 && said.Status != 429 {
			m.fatal = msg.err
			return tea.Quit
		}
		m.away = msg.err.Error()
		return nil
	}
	if m.away != "" {
		m.away, m.note, m.bad = "", "the sidecar answers again", false
	}
	at := m.at()
	list := slices.Clone(msg.list)
	slices.Reverse(list)
	m.waiting = len(list)
	list = append(list, msg.unclear...)
	gone := m.selected != "" && !slices.ContainsFunc(list, func(a api.Approval) bool { return a.ID == m.selected })
	m.list, m.listed = list, true
	switch {
	case len(list) == 0:
		m.sel("")
		return nil
	case gone || m.selected == "":
		return m.sel(list[max(0, min(at, len(list)-1))].ID)
	}
	return nil
}

// at is the line of the selected one; -1 for none.
func (m *screen) at() int {
	return slices.IndexFunc(m.list, func(a api.Approval) bool { return a.ID == m.selected })
}

// sel moves the cursor. What is known of the list shows at once, and the rest
// when it has been read.
func (m *screen) sel(id string) tea.Cmd {
	if id == m.selected {
		return nil
	}
	m.selected, m.detail, m.scroll = id, api.Approval{}, 0
	if i := m.at(); i >= 0 {
		m.detail = m.list[i]
	}
	return m.look(0)
}

// looked takes one approval, and waits for the next thing that happens to it.
func (m *screen) looked(msg lookMsg) tea.Cmd {
	if msg.id != m.selected {
		return nil
	}
	if msg.err != nil {
		// The list says whether the sidecar is away; a look is repeated later.
		return tea.Tick(watchEvery, func(time.Time) tea.Msg { return againMsg{msg.id} })
	}
	m.detail = msg.found
	if i := m.at(); i >= m.waiting && msg.found.Unclear() {
		return nil // there is nothing more to wait for but an agent's late word, which the list tells
	}
	if msg.found.State != gate.ApprovalPending {
		if m.ask != nil && m.ask.id == msg.id {
			m.ask = nil
		}
		if m.busy != msg.id {
			m.note, m.bad = verdict(msg.found), false
		}
		return m.fetch()
	}
	return m.look(lookWait)
}

// told takes what became of a word.
func (m *screen) told(msg wordMsg) tea.Cmd {
	if m.busy == msg.id {
		m.busy = ""
	}
	if msg.err != nil {
		m.note, m.bad = "not done: "+plain(msg.err.Error()), true
		return m.fetch()
	}
	m.note, m.bad = verdict(msg.found), false
	if g := msg.found.Grant; g != nil {
		m.note += fmt.Sprintf("; granted %d like it, that come from now on, as %s", g.Count, plain(g.ID))
	}
	return m.fetch()
}

// pressed takes a key that is a command.
func (m *screen) pressed(k tea.KeyPressMsg) tea.Cmd {
	i := m.at()
	switch k.String() {
	case "q", "ctrl+c":
		return tea.Quit
	case "down", "j":
		if i+1 < len(m.list) {
			return m.sel(m.list[i+1].ID)
		}
	case "up", "k":
		if i > 0 {
			return m.sel(m.list[i-1].ID)
		}
	case "home":
		if len(m.list) > 0 {
			return m.sel(m.list[0].ID)
		}
	case "end":
		if len(m.list) > 0 {
			return m.sel(m.list[len(m.list)-1].ID)
		}
	case "pgdown", "space":
		m.scroll += 5
	case "pgup":
		m.scroll = max(0, m.scroll-5)
	case "a":
		m.begin("approve", stageReason)
	case "d":
		m.begin("deny", stageReason)
	case "e":
		m.begin("escalate", stageGroups, stageReason)
	case "g":
		m.begin("approve", stageGrant, stageReason)
	case "c":
		m.begin("cancel", stageReason)
	}
	return nil
}

func (m *screen) begin(word string, stages ...string) {
	i := m.at()
	if i < 0 || m.busy == m.selected {
		return
	}
	a := &m.list[i]
	if i >= m.waiting {
		m.note, m.bad = "it was decided and used already", false
		return
	}
	m.note = ""
	m.ask = &question{id: a.ID, what: plain(a.Tool) + " on " + plain(a.Resource), word: word, stages: stages}
}

// typed takes a key while a word is being typed.
func (m *screen) typed(k tea.KeyPressMsg) tea.Cmd {
	q := m.ask
	switch k.String() {
	case "esc", "ctrl+c":
		m.ask, m.note, m.bad = nil, "nothing was done", false
	case "ctrl+u":
		q.text = ""
	case "backspace":
		if r := []rune(q.text); len(r) > 0 {
			q.text = string(r[:len(r)-1])
		}
	case "enter":
		return m.enter()
	default:
		q.add(k.Text)
	}
	return nil
}

const maxTyped = 1000

// add appends what was typed or pasted; a pasted line end is a space, and sends
// nothing.
func (q *question) add(s string) {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	if r := []rune(q.text + s); len(r) <= maxTyped {
		q.text = string(r)
	}
}

func (m *screen) enter() tea.Cmd {
	q := m.ask
	text := strings.TrimSpace(q.text)
	switch q.stages[0] {
	case stageGroups:
		if text == "" {
			m.note, m.bad = "name at least one group", true
			return nil
		}
	case stageGrant:
		if _, err := grantLikeIt(text); err != nil {
			m.note, m.bad = err.Error(), true
			return nil
		}
	}
	q.given = append(q.given, text)
	q.stages, q.text, m.note = q.stages[1:], "", ""
	if len(q.stages) > 0 {
		return nil
	}
	v := api.Verdict{Decision: q.word, Reason: q.given[len(q.given)-1]}
	switch {
	case q.word == "escalate":
		v.To = strings.Fields(q.given[0])
	case len(q.given) == 2:
		v.Grant, _ = grantLikeIt(q.given[0])
	}
	m.ask, m.busy = nil, q.id
	d, id, word := m.desk, q.id, q.word
	return func() tea.Msg {
		a, err := d.decide(id, v)
		return wordMsg{id, word, a, err}
	}
}

// grantLikeIt reads "10 8h": so many calls within the bounds of this one, for so
// long.
func grantLikeIt(text string) (*api.NewGrant, error) {
	f := strings.Fields(text)
	if len(f) == 2 {
		n, err := strconv.ParseInt(f[0], 10, 64)
		d, err2 := time.ParseDuration(f[1])
		if err == nil && err2 == nil && n >= 1 && n <= gate.MaxGrantUses && d >= time.Second && d <= gate.MaxGrantTime {
			return &api.NewGrant{Count: n, TTL: int64(d / time.Second)}, nil
		}
	}
	return nil, fmt.Errorf("write a number from 1 to %d and a time of at most %d days in hours, as 10 8h", gate.MaxGrantUses, int(gate.MaxGrantTime.Hours()/24))
}

// watchScreen runs the screen until q or Ctrl-C.
func watchScreen(ctx context.Context, client *api.Client, where string) error {
	m := &screen{desk: &apiDesk{ctx: ctx, client: client}, now: time.Now, where: where}
	_, err := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(os.Stdin), tea.WithOutput(os.Stdout)).Run()
	switch {
	case m.fatal != nil:
		return m.fatal
	case err != nil && ctx.Err() == nil && !errors.Is(err, tea.ErrInterrupted):
		return fmt.Errorf("draw the screen: %w", err)
	}
	return nil
}
