package e2e

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
)

// TestReportedOutlivesAKill: what a caller was told is reported is on record,
// although the sidecar is killed in the same moment, and its share still counts; an
// action that nothing was reported about is ambiguous.
func TestReportedOutlivesAKill(t *testing.T) {
	t.Parallel()
	sc := start(t, settings{mode: "enforce"})
	ctx, key := context.Background(), sc.key("--name", "a", "--role", "gateway", "--agent", "support_agent")
	for round := range 4 {
		agent := api.NewClient("http://"+sc.api, key, nil)
		ask := func(execute func()) (string, bool) {
			action := api.Action{
				Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", Args: map[string]any{"amount": 100, "currency": "usd"},
				AgentID: "support_agent", UserID: "user_456", Goal: "resolve_refund_request",
			}
			r, err := api.Guard(ctx, agent, action, api.GuardOptions{Retries: -1}, func(context.Context, *evidence.Decision) (int, error) {
				execute()
				return 0, nil
			})
			if err != nil || !r.Executed {
				t.Fatalf("round %d: %+v %v", round, r, err)
			}
			return r.Decision.EvidenceEventID, r.Reported
		}
		state := func(id string) string {
			b, err := sc.client().Event(ctx, id)
			var e evidence.Event
			if err == nil {
				err = json.Unmarshal(b, &e)
			}
			if err != nil || e.Outcome == nil {
				t.Fatalf("%s: %s %v", id, b, err)
			}
			return e.Outcome.State
		}
		told, cut := []string{}, ""
		for range 5 {
			id, reported := ask(func() {})
			if !reported {
				t.Fatal("not reported")
			}
			told = append(told, id)
		}
		if round%2 == 1 { // in the middle of an action instead
			var reported bool
			if cut, reported = ask(sc.kill); reported {
				t.Errorf("%s was reported to nobody", cut)
			}
		} else {
			sc.kill()
		}
		sc.run()
		for _, id := range told {
			if got := state(id); got != "forwarded" {
				t.Errorf("%s was reported, and is on record as %s", id, got)
			}
		}
		if cut != "" && state(cut) != "ambiguous" {
			t.Errorf("%s, of which nothing was reported, is on record as %s", cut, state(cut))
		}
	}
}
