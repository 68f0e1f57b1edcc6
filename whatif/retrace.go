package whatif

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/policy"
)

// What a person says of a group of stopped actions.
const (
	AnswerAccept  = "accept"
	AnswerBlocked = "blocked"
	AnswerIgnore  = "ignore"
)

// Answer is one answer of a review.
type Answer struct {
	Group  string `json:"group"`  // Stopped.ID
	Answer string `json:"answer"` // accept, blocked, ignore
}

// ReviewReport is a review as far as it was answered: what came of the answers,
// and what is left.
type ReviewReport struct {
	// Data are the groups that are left to answer, the largest first, as many as
	// were asked for; Totals.Groups says how many there are.
	Data    []ReviewGroup  `json:"data"`
	Next    string         `json:"next_cursor"` // always "": the report is one page
	Answers []ReviewAnswer `json:"answers"`     // in their order
	// Unknown are the actions whose verdict hangs on what is not on record.
	Unknown    []Unknown     `json:"unknown"`
	Totals     ReviewTotals  `json:"totals"`
	From       evidence.Time `json:"from"`
	To         evidence.Time `json:"to"`
	PolicyHash string        `json:"policy_hash"` // that the review began with
	Mode       string        `json:"mode"`        // in question
	// Patch is a unified patch of policies and fixtures, for patch -p1 below
	// PatchDir; "" where nothing changes, or Problem says why there is none.
	Patch    string   `json:"patch"`
	PatchDir string   `json:"patch_dir"`
	Problem  string   `json:"problem"`
	Notes    []string `json:"notes"` // never null
}

// ReviewTotals counts the actions of the asked time, as they would be judged
// with all that was accepted.
type ReviewTotals struct {
	Events  int `json:"events"`
	Blocked int `json:"blocked"` // of what is left
	Held    int `json:"held"`
	Groups  int `json:"groups"` // that are left
	Unknown int `json:"unknown"`
}

// ReviewGroup is a Stopped group in the form of an answer.
type ReviewGroup struct {
	ID          string           `json:"id"`
	Tool        string           `json:"tool"`
	AgentID     string           `json:"agent_id"`
	Decision    string           `json:"decision"`
	ReasonCode  string           `json:"reason_code"`
	Enforcement string           `json:"enforcement"` // block, hold
	Policy      string           `json:"policy"`      // whose rule it is, "" for none
	Rule        *ReviewPosition  `json:"rule"`        // null where none decided
	Limit       bool             `json:"limit"`       // the rule is a limit, or stands over one
	Count       int              `json:"count"`
	Amounts     map[string]int64 `json:"amounts,omitempty"` // as in Group
	FirstSeen   evidence.Time    `json:"first_seen"`
	LastSeen    evidence.Time    `json:"last_seen"`
	// Resource is what the resources have in common, all of it where OneResource.
	Resource    string         `json:"resource"`
	OneResource bool           `json:"one_resource"`
	Arguments   []string       `json:"arguments"` // what each held, never null
	Samples     []ReviewSample `json:"samples"`
	// Impossible says why no rule would let these actions go, and what would; ""
	// where accept can be tried.
	Impossible string `json:"impossible"`
	Problem    string `json:"problem"` // why accept, which was answered, did nothing
}

// ReviewPosition is where a rule stands.
type ReviewPosition struct {
	Name string `json:"name"`
	File string `json:"file"`
	Line int    `json:"line"`
}

// ReviewSample is one action of a group.
type ReviewSample struct {
	EventID  string         `json:"event_id"`
	Time     evidence.Time  `json:"time"`
	Resource string         `json:"resource"`
	Args     map[string]any `json:"args"` // redacted
}

// ReviewAnswer is what came of an answer.
type ReviewAnswer struct {
	Answer
	// Stopped is the group as it was answered; null where the record has no such
	// group: it was answered of another time, or an earlier answer let it go.
	Stopped *ReviewGroup `json:"stopped"`
	Draft   *ReviewDraft `json:"draft"`   // of accept, null where it did nothing
	Fixture string       `json:"fixture"` // a fixture file of this answer, "" for none
}

// ReviewDraft is the rule of an accepted group.
type ReviewDraft struct {
	Name   string   `json:"name"`
	Policy string   `json:"policy"`
	YAML   string   `json:"yaml"`
	File   string   `json:"file"`
	Line   int      `json:"line"`  // of the item above which it goes
	Above  string   `json:"above"` // its name
	Open   []string `json:"open"`  // arguments that it lets have any value, never null
}

// reviewSamples is how many samples of a group a report has.
const reviewSamples = 5

// MaxAnswers bounds the answers of one review.
const MaxAnswers = 200

// ID names a group in an answer: a digest of Key.
func (g *Stopped) ID() string {
	sum := sha256.Sum256([]byte(g.Key()))
	return hex.EncodeToString(sum[:8])
}

// at moves a group to where its rule stands by now.
func (g *Stopped) at(set *policy.Set) *Stopped {
	if d, _, ok := set.Rule(g.Policy, g.To.Rule, g.Tool); ok && !g.Limit {
		g.Pos = d.Pos
	}
	return g
}

// Retrace goes a whole review again, by the answers that were given so far. judge
// goes over the record under rules, once and once more after what was accepted;
// further rounds are for answers about one tool of one agent, whose actions the
// rule before may have let go. Patch, PatchDir and Problem are left to the caller.
func (w *Walk) Retrace(answers []Answer, limit int, judge func(*gate.Rules) (*Review, error)) (ReviewReport, error) {
	if limit <= 0 {
		limit = DefaultLimit
	}
	out := ReviewReport{Data: []ReviewGroup{}, Answers: make([]ReviewAnswer, len(answers)), Notes: []string{}, PolicyHash: w.rules.Policy.Hash(), Mode: w.rules.Mode}
	open := make([]int, len(answers)) // that were not come to yet
	for i, a := range answers {
		out.Answers[i].Answer, open[i] = a, i
	}
	settled, problems := make(map[string]bool), make(map[string]string)
	kept := make(map[int]int) // answer to what fixtures are written of
	for {
		review, err := judge(&w.rules)
		if err != nil {
			return out, err
		}
		list, more := review.Stopped()
		set := w.rules.Policy // that judged them
		byID := make(map[string]*Stopped, len(list))
		for i := range list {
			byID[list[i].ID()] = &list[i]
		}
		let := make(map[[2]string]bool) // tools of agents whose actions a rule lets go now
		var later []int
		for _, i := range open {
			a := &out.Answers[i]
			g := byID[a.Group]
			if g == nil || let[[2]string{g.Tool, g.AgentID}] {
				later = append(later, i)
				continue
			}
			view := g.view(set)
			a.Stopped = &view
			switch a.Answer.Answer {
			case AnswerAccept:
				d, err := w.Accept(g.at(w.rules.Policy))
				if err != nil {
					problems[a.Group] = strings.TrimSuffix(err.Error(), ".")
					a.Stopped.Problem = problems[a.Group]
					continue
				}
				a.Draft = d.view()
				let[[2]string{g.Tool, g.AgentID}] = true
				kept[i] = len(w.kept) - 1
			case AnswerBlocked:
				w.Blocked(g)
				settled[a.Group] = true
				kept[i] = len(w.kept) - 1
			default:
				settled[a.Group] = true
			}
		}
		open = later
		if len(let) > 0 {
			continue
		}
		w.close(&out, review, list, more, limit, settled, problems)
		for i, k := range kept {
			if text, _ := w.fixturesOf(w.kept[k]); text != "" {
				out.Answers[i].Fixture = fixtureHead + text
			}
		}
		return out, nil
	}
}

// close fills in what is left after the last round.
func (w *Walk) close(out *ReviewReport, review *Review, list []Stopped, more, limit int, settled map[string]bool, problems map[string]string) {
	r := review.Report()
	out.Unknown, out.From, out.To = r.Unknown, r.From, r.To
	out.Totals = ReviewTotals{Events: r.Totals.Events, Unknown: r.Totals.Unknown}
	for i := range list {
		g := &list[i]
		if settled[g.ID()] {
			continue
		}
		out.Totals.Groups++
		if g.To.Enforcement == "hold" {
			out.Totals.Held += g.Count
		} else {
			out.Totals.Blocked += g.Count
		}
		if len(out.Data) == limit {
			continue
		}
		view := g.view(w.rules.Policy)
		view.Problem = problems[view.ID]
		out.Data = append(out.Data, view)
	}
	if more > 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("%d more actions are in groups beyond those that are kept apart: review less at a time", more))
	}
}

func (g *Stopped) view(set *policy.Set) ReviewGroup {
	v := ReviewGroup{
		ID: g.ID(), Tool: g.Tool, AgentID: g.AgentID, Decision: g.To.Decision, ReasonCode: g.To.ReasonCode, Enforcement: g.To.Enforcement,
		Policy: g.Policy, Limit: g.Limit, Count: g.Count, Amounts: g.Amounts, FirstSeen: evidence.Time{Time: g.First}, LastSeen: evidence.Time{Time: g.Last},
		Arguments: append([]string{}, g.Arguments()...), Samples: []ReviewSample{},
	}
	v.Resource, v.OneResource = g.Resource()
	if g.To.Rule != "" {
		v.Rule = &ReviewPosition{g.To.Rule, g.Pos.File, g.Pos.Line}
	}
	for _, s := range g.Samples[:min(len(g.Samples), reviewSamples)] {
		v.Samples = append(v.Samples, ReviewSample{s.EventID, evidence.Time{Time: s.Time}, s.Resource, s.Args})
	}
	if _, err := g.draft(set); err != nil {
		v.Impossible = err.Error()
	}
	return v
}

func (d *Draft) view() *ReviewDraft {
	return &ReviewDraft{Name: d.Name, Policy: d.Policy, YAML: d.YAML, File: d.Pos.File, Line: d.Pos.Line, Above: d.Above, Open: append([]string{}, d.Open...)}
}
