package whatif_test

import (
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/whatif"
)

// retraced gives a review of the world by answers, and how often the record was
// gone over.
func retraced(t *testing.T, w *world, rules *gate.Rules, answers ...whatif.Answer) (whatif.ReviewReport, *whatif.Walk, int) {
	t.Helper()
	enforced := *rules
	enforced.Mode = "enforce"
	walk, err := whatif.NewWalk(&enforced, compileAll, nil)
	if err != nil {
		t.Fatal(err)
	}
	passes := 0
	r, err := walk.Retrace(answers, 0, func(rules *gate.Rules) (*whatif.Review, error) {
		passes++
		review, err := whatif.NewReview(whatif.Options{Rules: rules})
		if err != nil {
			return nil, err
		}
		for _, b := range w.records {
			if err := review.Add(b); err != nil {
				return nil, err
			}
		}
		return review, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, walk, passes
}

// TestRetrace: answers come to the same as a walk by hand, whatever their order
// and wherever rules have moved to meanwhile.
func TestRetrace(t *testing.T) {
	rules := rulesFor(t, twoPolicies, "monitor")
	w := newWorld(t, rules)
	w.sixRefunds(t)

	first, _, passes := retraced(t, w, rules)
	if passes != 1 || first.Totals.Events != 6 || first.Totals.Groups != 3 || first.Totals.Blocked != 6 || first.Patch != "" {
		t.Fatalf("%d passes, %+v", passes, first.Totals)
	}
	a, b := first.Data[0], first.Data[1]
	var limit whatif.ReviewGroup
	for _, g := range first.Data[1:] {
		if g.Limit {
			limit = g
		} else {
			b = g
		}
	}
	if a.AgentID != "a" || a.Rule.Name != "foreign" || a.Amounts["eur"] != 550 || len(a.Samples) != 4 || a.Impossible != "" || a.Samples[0].Args["amount"] != int64(100) {
		t.Fatalf("%+v", a)
	}
	if !strings.Contains(limit.Impossible, "no rule lets calls past a limit") || len(a.ID) != 16 || a.ID == b.ID {
		t.Fatalf("%+v", limit)
	}

	// Both of one rule are accepted in one round, though the first moves the second.
	list := walked(t, w, rules)
	byHand, err := whatif.NewWalk(rules, compileAll, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for i := range list {
			if g := walked(t, w, byHand.Rules()); list[i].To.Rule == "foreign" {
				for j := range g {
					if g[j].Key() == list[i].Key() {
						if _, err := byHand.Accept(&g[j]); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
		}
	}
	got, walk, passes := retraced(t, w, rules, whatif.Answer{Group: a.ID, Answer: "accept"}, whatif.Answer{Group: b.ID, Answer: "accept"})
	if passes != 2 || len(walk.Drafts()) != 2 {
		t.Fatalf("%d passes, %d drafts, %+v", passes, len(walk.Drafts()), got.Answers)
	}
	for name, text := range byHand.Texts() {
		if now := walk.Texts()[name]; now == nil || string(now.Bytes()) != string(text.Bytes()) {
			t.Errorf("%s differs from what was made by hand:\n%s\n%s", name, now.Bytes(), text.Bytes())
		}
	}
	for _, x := range got.Answers {
		if x.Stopped == nil || x.Draft == nil || !strings.Contains(x.Draft.YAML, "decision: allow") || x.Draft.Above != "foreign" || x.Draft.File != "p.yaml" {
			t.Errorf("%+v", x)
		}
	}

	// The second policy stops them still, with another group: a third round.
	var euros whatif.ReviewGroup
	for _, g := range got.Data {
		if g.AgentID == "a" && g.Rule != nil && g.Rule.Name == "euros" {
			euros = g
		}
	}
	got, walk, passes = retraced(t, w, rules, whatif.Answer{Group: euros.ID, Answer: "accept"}, whatif.Answer{Group: a.ID, Answer: "accept"}, whatif.Answer{Group: b.ID, Answer: "blocked"},
		whatif.Answer{Group: limit.ID, Answer: "ignore"}, whatif.Answer{Group: "0123456789abcdef", Answer: "accept"})
	if passes != 3 || len(walk.Drafts()) != 2 || got.Totals.Groups != 0 || got.Totals.Blocked != 0 {
		t.Fatalf("%d passes, %+v", passes, got)
	}
	if x := got.Answers[0]; x.Draft == nil || !strings.Contains(x.Fixture, "accepted as") {
		t.Errorf("%+v", x)
	}
	if x := got.Answers[2]; x.Draft != nil || !strings.HasPrefix(x.Fixture, "fixtures:\n  - name: \"rightly blocked") {
		t.Errorf("%+v", x)
	}
	if x := got.Answers[4]; x.Stopped != nil || x.Draft != nil {
		t.Errorf("an answer about nothing came to %+v", x)
	}

	// What cannot be is said beside what is left.
	got, _, passes = retraced(t, w, rules, whatif.Answer{Group: limit.ID, Answer: "accept"})
	if passes != 1 || got.Totals.Groups != 3 || got.Answers[0].Stopped.Problem == "" {
		t.Errorf("%+v", got)
	}
	for _, g := range got.Data {
		if (g.Problem != "") != (g.ID == limit.ID) {
			t.Errorf("%+v", g)
		}
	}
}

// TestRetraceOneTool: a rule may let go what another group of the same tool and
// agent was stopped for; there is then nothing left to accept.
func TestRetraceOneTool(t *testing.T) {
	rules := rulesFor(t, `policies:
  - name: refunds
    version: 1
    tools: ["stripe.refund.create"]
    rules:
      - { name: early, when: args.charge.startsWith("ch_1"), decision: deny, reason_code: refund.early }
      - { name: rest, decision: deny, reason_code: refund.rest }
`, "monitor")
	w := newWorld(t, rules)
	at := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	for i, amount := range []string{"100", "110", "120", "130", "140", "150", "160"} {
		w.take(t, step{at: at.Add(time.Duration(i) * time.Minute), n: 10 + i, agent: "a", amount: amount, currency: "eur", status: 200})
	}
	w.take(t, step{at: at.Add(time.Hour), n: 20, agent: "a", amount: "130", currency: "eur", status: 200})
	first, _, _ := retraced(t, w, rules)
	if len(first.Data) != 2 || first.Data[1].ReasonCode != "refund.rest" {
		t.Fatalf("%+v", first.Data)
	}
	got, walk, passes := retraced(t, w, rules, whatif.Answer{Group: first.Data[0].ID, Answer: "accept"}, whatif.Answer{Group: first.Data[1].ID, Answer: "accept"})
	if passes != 2 || len(walk.Drafts()) != 1 || got.Answers[1].Stopped != nil || got.Totals.Groups != 0 {
		t.Errorf("%d passes, %d drafts, %+v", passes, len(walk.Drafts()), got.Answers)
	}
}
