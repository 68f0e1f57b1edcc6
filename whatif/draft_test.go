package whatif_test

import (
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/whatif"
)

const twoPolicies = `policies:
  - name: refunds
    version: 1
    tools: ["stripe.**"]
    rules:
      - { name: euros, when: args.currency == "eur", decision: require_approval, reason_code: refund.euros }
      - { name: rest, decision: allow }
    limits:
      - { name: day, key: [agent_id], sum: args.amount, max: 20000, window: 24h, decision: deny, reason_code: refund.day }
  - name: guard
    version: 1
    tools: ["stripe.refund.create"]
    rules:
      # Nobody did this yet.
      - { name: foreign, when: args.currency != "usd", decision: deny, reason_code: guard.foreign }
      - { name: usd, decision: allow }
`

func walked(t *testing.T, w *world, rules *gate.Rules) []whatif.Stopped {
	t.Helper()
	enforced := *rules
	enforced.Mode = "enforce"
	r, err := whatif.NewReview(whatif.Options{Rules: &enforced})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range w.records {
		if err := r.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	list, more := r.Stopped()
	if more != 0 {
		t.Errorf("%d beyond", more)
	}
	return list
}

func compileAll(sources []policy.Source) (*policy.Set, error) {
	return policy.Compile(sources, policy.Options{})
}

// sixRefunds are five in euros, of two agents, and a large one in dollars.
func (w *world) sixRefunds(t *testing.T) {
	t.Helper()
	at := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	for i, amount := range []string{"100", "200", "150", "100"} {
		w.take(t, step{at: at.Add(time.Duration(i) * time.Minute), n: i, agent: "a", amount: amount, currency: "eur", status: 200})
	}
	w.take(t, step{at: at.Add(time.Hour), n: 7, agent: "b", amount: "100", currency: "eur", status: 200})
	w.take(t, step{at: at.Add(2 * time.Hour), n: 8, agent: "b", amount: "30000", currency: "usd", status: 200})
}

// TestWalk: a group that two policies stop goes after two accepts, of the right
// calls only; a limit is none that a rule lifts.
func TestWalk(t *testing.T) {
	rules := rulesFor(t, twoPolicies, "monitor")
	w := newWorld(t, rules)
	w.sixRefunds(t)
	walk, err := whatif.NewWalk(rules, compileAll, nil)
	if err != nil {
		t.Fatal(err)
	}
	list := walked(t, w, walk.Rules())
	if len(list) != 3 || list[0].AgentID != "a" || list[0].Count != 4 || list[0].To.Rule != "foreign" || list[0].Pos.Line != 15 {
		t.Fatalf("%+v", list)
	}
	for i := range list {
		if list[i].Limit {
			if _, err := walk.Accept(&list[i]); err == nil || !strings.Contains(err.Error(), "the limit day at p.yaml:9") {
				t.Errorf("a limit is lifted: %v", err)
			}
		}
	}
	if _, err := walk.Accept(&list[0]); err != nil {
		t.Fatal(err)
	}
	list = walked(t, w, walk.Rules())
	if list[0].AgentID != "a" || list[0].Count != 4 || list[0].To.Rule != "euros" {
		t.Fatalf("%+v", list)
	}
	if f, notes := walk.Fixtures(); strings.Contains(f, "accepted as") || len(notes) != 1 {
		t.Errorf("what does not go yet has a fixture, or no note: %v\n%s", notes, f)
	}
	if _, err := walk.Accept(&list[0]); err != nil {
		t.Fatal(err)
	}
	list = walked(t, w, walk.Rules())
	for i := range list {
		if list[i].AgentID != "b" {
			t.Errorf("%+v", list[i])
		}
		walk.Blocked(&list[i])
	}
	text, notes := walk.Fixtures()
	fixtures, err := whatif.ReadFixtures([]whatif.Source{{Name: "f.yaml", Data: []byte(text)}}, time.Now())
	if err != nil || len(notes) != 1 || !strings.Contains(notes[0], "limits are not counted") {
		t.Fatalf("%v %v\n%s", err, notes, text)
	}
	for want, r := range map[string]*gate.Rules{"": walk.Rules(), "3 of the first": rules} {
		results, _, err := whatif.RunFixtures(r, fixtures)
		if err != nil {
			t.Fatal(err)
		}
		failed := 0
		for _, res := range results {
			if !res.Passed {
				failed++
				if want == "" {
					t.Errorf("%s: %+v", res.Name, res.Differences)
				}
			}
		}
		if want != "" && failed < 6 {
			t.Errorf("only %d of %d fixtures see that the rules are gone\n%s", failed, len(results), text)
		}
	}
	if n := len(walk.Texts()); n != 1 {
		t.Errorf("%d texts", n)
	}
}

// TestNothingIsAccepted: no rule is drafted where none would help, and an error
// changes nothing.
func TestNothingIsAccepted(t *testing.T) {
	rules := rulesFor(t, twoPolicies, "monitor")
	walk, err := whatif.NewWalk(rules, compileAll, nil)
	if err != nil {
		t.Fatal(err)
	}
	for reason, want := range map[string]string{
		gate.ReasonUnmapped: "mapping suggest", gate.ReasonArgMissing: "declares", gate.ReasonPassport: "passport",
		gate.ReasonEvidence: gate.ReasonEvidence, "request.ambiguous": "request.ambiguous", policy.ReasonDefault: "does not cover",
	} {
		g := whatif.Stopped{Tool: "stripe.refund.create", AgentID: "a", To: whatif.Verdict{Decision: "deny", ReasonCode: reason, Enforcement: "block"}}
		g.Samples = []whatif.Sample{{EventID: "ev_1", Tool: "other", AgentID: "a"}}
		if _, err := walk.Accept(&g); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", reason, err)
		}
	}
	if len(walk.Drafts()) != 0 || len(walk.Texts()) != 0 {
		t.Error("something changed")
	}
	if f, _ := walk.Fixtures(); f != "" {
		t.Errorf("%s", f)
	}
}
