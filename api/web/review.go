package web

import (
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/whatif"
)

// reviewPage is a review as far as it was answered. All of it stands in the
// address: nothing is kept here, and nothing changed by looking.
type reviewPage struct {
	Filter   map[string]string
	Spans    []span
	Answers  []whatif.Answer
	Report   *whatif.ReviewReport // nil when it could not be asked for, or is not there yet
	Judging  *judging             // while it is not there yet
	Groups   []reviewGroup
	Answered []reviewAnswer
	Accepted int
	Done     int    // groups that an answer settled
	Download string // address of the patch, "" for none
	Again    string // the same review without answers
	Total    int    // groups answered and left
	at       *url.URL
}

type reviewGroup struct {
	whatif.ReviewGroup
	Source *excerpt
}

type reviewAnswer struct {
	whatif.ReviewAnswer
	Undo string // the address without it
}

// answerParam is the part of the address that an answer stands in, once for each.
const answerParam = "a"

// answersOf reads the answers in an address, in their order. What is no answer is
// left out: the API would refuse the whole for it.
func answersOf(q url.Values) (out []whatif.Answer) {
	given := map[string]bool{}
	for _, text := range q[answerParam] {
		word, id, ok := strings.Cut(text, ".")
		if !ok || given[id] || len(id) != 16 || strings.Trim(id, "0123456789abcdef") != "" {
			continue
		}
		switch word {
		case whatif.AnswerAccept, whatif.AnswerBlocked, whatif.AnswerIgnore:
			given[id] = true
			out = append(out, whatif.Answer{Group: id, Answer: word})
		}
	}
	return out[:min(len(out), whatif.MaxAnswers)]
}

func answerText(a whatif.Answer) string { return a.Answer + "." + a.Group }

// Say is the address of the review with one more answer.
func (b *reviewPage) Say(word, group string) string {
	q := b.at.Query()
	q.Add(answerParam, word+"."+group)
	return b.at.Path + "?" + q.Encode()
}

// without is the address of the review without an answer, "" for none of them.
func (b *reviewPage) without(a whatif.Answer) string {
	q := b.at.Query()
	q.Del(answerParam)
	for _, other := range b.Answers {
		if other != a && a.Group != "" {
			q.Add(answerParam, answerText(other))
		}
	}
	return b.at.Path + "?" + q.Encode()
}

// Texts are the answers as the form has to carry them on.
func (b *reviewPage) Texts() (out []string) {
	for _, a := range b.Answers {
		out = append(out, answerText(a))
	}
	return out
}

// Switch is the address of readiness for the same traffic.
func (b *reviewPage) Switch() string {
	q := url.Values{}
	for _, name := range []string{"tool", "agent_id", "mode", "last"} {
		if b.Filter[name] != "" {
			q.Set(name, b.Filter[name])
		}
	}
	return "/ui/readiness?" + q.Encode()
}

// reviewOf reads the address and asks the API. With whole it waits for the report,
// however long that takes.
func (d *Dashboard) reviewOf(r *http.Request, v *visit, whole bool) (*reviewPage, error) {
	q := r.URL.Query()
	b := &reviewPage{Filter: map[string]string{}, Spans: readinessSpans, Answers: answersOf(q), at: &url.URL{Path: "/ui/review", RawQuery: r.URL.RawQuery}}
	for _, name := range []string{"tool", "agent_id", "mode", "last", "since", "until"} {
		b.Filter[name] = strings.TrimSpace(strings.Map(seen, q.Get(name)))
	}
	if b.Filter["mode"] != gate.ModeStrict {
		b.Filter["mode"] = gate.ModeEnforce
	}
	b.Again = b.without(whatif.Answer{})
	ask := api.NewReview{Mode: b.Filter["mode"], Tool: b.Filter["tool"], AgentID: b.Filter["agent_id"], Since: b.Filter["since"], Until: b.Filter["until"], Answers: b.Answers}
	last, err := time.ParseDuration(b.Filter["last"])
	if err != nil || last <= 0 {
		b.Filter["last"], last = "168h", api.SimulationSpan
	}
	if ask.Since == "" {
		ask.Since = d.Now().Add(-last).UTC().Format(time.RFC3339)
	}
	var report *whatif.ReviewReport
	if whole {
		report = new(whatif.ReviewReport)
		*report, err = v.api.Review(r.Context(), ask)
	} else {
		report, b.Judging, err = d.judge(r, v, ask)
	}
	if err != nil || b.Judging != nil {
		return b, err
	}
	b.Report, b.Total = report, report.Totals.Groups
	policies := d.Gate.Rules()
	for _, g := range report.Data {
		one := reviewGroup{ReviewGroup: g}
		// The lines that stand in the file now: those of drafts are shown with them.
		if g.Rule != nil && policies != nil && policies.Policy != nil && policies.Policy.Hash() == report.PolicyHash {
			if rule, _, ok := policies.Policy.Rule(g.Policy, g.Rule.Name, g.Tool); ok {
				one.Source = excerptOf(policies, rule.Pos.File, rule.Pos.Line)
			} else if len(b.Answers) == 0 { // a limit
				one.Source = excerptOf(policies, g.Rule.File, g.Rule.Line)
			}
		}
		b.Groups = append(b.Groups, one)
	}
	for _, a := range report.Answers {
		b.Answered = append(b.Answered, reviewAnswer{a, b.without(a.Answer)})
		if a.Draft != nil {
			b.Accepted++
		}
		if a.Stopped != nil && a.Stopped.Problem == "" {
			b.Done++
		}
	}
	b.Total += b.Done
	if report.Patch != "" {
		b.Download = "/ui/review/patch?" + r.URL.RawQuery
	}
	return b, nil
}

func (d *Dashboard) review(w http.ResponseWriter, r *http.Request, v *visit) error {
	p := &page{Title: "Review", Nav: "review"}
	b, err := d.reviewOf(r, v, false)
	if err != nil {
		if p.Problem, err = problemOf(err); err != nil {
			return err
		}
	}
	p.Body, p.Again = b, b.Judging != nil
	return d.show(w, r, v, "review", p)
}

// reviewPatch hands out the patch of a review.
func (d *Dashboard) reviewPatch(w http.ResponseWriter, r *http.Request, v *visit) error {
	b, err := d.reviewOf(r, v, true)
	if err != nil {
		return err
	}
	if b.Report.Patch == "" {
		return &api.Error{Status: http.StatusNotFound, Code: "not_found", Message: "Nothing was accepted or found rightly blocked in this review, so there is no patch."}
	}
	attach(w, "text/x-patch", "review.patch", []byte(b.Report.Patch))
	return nil
}

// code is a text with lines that may hold what an agent supplied: escaped, and
// what cannot be seen made visible.
func code(s string) template.HTML {
	var b strings.Builder
	for i, line := range strings.Split(strings.TrimRight(s, "\n"), "\n") {
		if i > 0 {
			b.WriteByte('\n')
		}
		visible(&b, line)
	}
	return template.HTML(b.String())
}

// amounts are sums by currency as people read them.
func amounts(m map[string]int64) string {
	list := make([]string, 0, len(m))
	for _, currency := range sortedKeys(m) {
		list = append(list, fmt.Sprintf("%s %s", thousands(m[currency]), currency))
	}
	return strings.Join(list, ", ")
}
