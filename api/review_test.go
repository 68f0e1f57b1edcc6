package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/whatif"
)

const reviewPath = "/api/v1/review"

func init() {
	calls = append(calls, struct{ method, path, body, roles string }{"POST", reviewPath, `{}`, "approver admin"})
}

func (e *fakeEvents) Review(_ context.Context, q ReviewQuery) (whatif.ReviewReport, error) {
	r := whatif.ReviewReport{Data: []whatif.ReviewGroup{}, Answers: []whatif.ReviewAnswer{}, Unknown: []whatif.Unknown{}, Notes: []string{fmt.Sprint(q.Tenant, " ", q.Mode, " ", q.Tool, " ", q.Agent, " ", q.Limit, " ", len(q.Answers))}}
	return r, e.err
}

func TestReviewIsAskedFor(t *testing.T) {
	a := newAPI(t)
	got := a.call("POST", reviewPath, approverKey, `{"mode":"strict","tool":"stripe.*","agent_id":"a","limit":7,"answers":[{"group":"0123456789abcdef","answer":"accept"}]}`)
	got.want(t, 200, "", "")
	if !strings.Contains(got.body, `"notes":["acme strict stripe.* a 7 1"]`) {
		t.Error(got.body)
	}
	if got := a.call("POST", reviewPath, adminKey, `{}`); !strings.Contains(got.body, `"acme enforce   50 0"`) {
		t.Error(got.body)
	}
	many := strings.Repeat(`{"group":"0123456789abcdef","answer":"accept"},`, whatif.MaxAnswers) + `{"group":"0123456789abcde0","answer":"accept"}`
	for body, field := range map[string]string{
		`{"mode":"lenient"}`:         "mode",
		`{"since":"soon"}`:           "since",
		`{"policies":[]}`:            "policies",
		`{"limit":201}`:              "limit",
		`{"answers":[` + many + `]}`: "answers",
		`{"answers":[{"group":"0123456789abcdef","answer":"yes"}]}`:                                                   "answers[0].answer",
		`{"answers":[{"group":"0123456789ABCDEF","answer":"ignore"}]}`:                                                "answers[0].group",
		`{"answers":[{"group":"0123456789abcdef","answer":"ignore"},{"group":"0123456789abcdef","answer":"accept"}]}`: "answers[1].group",
	} {
		a.call("POST", reviewPath, adminKey, body).want(t, 400, "invalid_request", field)
	}
	a.events.err = context.DeadlineExceeded
	a.call("POST", reviewPath, adminKey, `{}`).want(t, 400, "invalid_request", "since")
	a.events.err = fmt.Errorf("disk")
	a.call("POST", reviewPath, adminKey, `{}`).want(t, 503, "evidence.unavailable", "")
}

func (x index) Review(_ context.Context, q ReviewQuery) (r whatif.ReviewReport, err error) {
	compile := func(s []policy.Source) (*policy.Set, error) { return policy.Compile(s, policy.Options{}) }
	inForce := x.gate.Rules()
	walk, err := whatif.NewWalk(inForce.With(inForce.Policy, q.Mode, q.Tenant), compile, nil)
	if err != nil {
		return r, err
	}
	return walk.Retrace(q.Answers, q.Limit, func(rules *gate.Rules) (*whatif.Review, error) {
		sim, err := whatif.NewReview(whatif.Options{Rules: rules, Tenant: q.Tenant, Since: q.Since, Tool: q.Tool})
		if err != nil {
			return nil, err
		}
		entries, err := x.log.Read(0, 1000)
		for _, e := range entries {
			err = errors.Join(err, sim.Add(e.Record))
		}
		return sim, err
	})
}

// TestReviewTheRealRecord answers what a real gate recorded, with the client.
func TestReviewTheRealRecord(t *testing.T) {
	r := newReal(t, gate.ModeMonitor)
	for _, amount := range []string{"4900", "25000", "26000", "75000"} {
		r.call("POST", "/api/v1/actions/preflight", r.admin, `{"tool":"stripe.refund.create","resource":"stripe:charge:ch_1","args":{"amount":`+amount+`,"currency":"usd"},"agent_id":"a"}`).want(t, 200, "", "")
	}
	c := NewClient(r.server.URL, r.admin, nil)
	first, err := c.Review(context.Background(), NewReview{Tool: "stripe.*"})
	if err != nil || len(first.Data) != 2 || first.Totals.Events != 4 || first.Totals.Blocked != 1 || first.Totals.Held != 2 {
		t.Fatalf("%v %+v", err, first)
	}
	if g := first.Data[0]; g.Amounts["usd"] != 51000 || g.Rule == nil || g.Rule.Name != "medium_refund_needs_approval" || len(g.Samples) != 2 {
		t.Errorf("%+v", g)
	}
	got := r.call("POST", reviewPath, r.admin, `{"answers":[{"group":"`+first.Data[0].ID+`","answer":"accept"},{"group":"`+first.Data[1].ID+`","answer":"blocked"}]}`)
	got.want(t, 200, "", "")
	for _, want := range []string{`"groups":0`, `"above":"medium_refund_needs_approval"`, `args.amount \u003e= 25000`, `rightly blocked`} {
		if !strings.Contains(got.body, want) {
			t.Errorf("no %s in %s", want, got.body)
		}
	}
	_, other, err := r.gate.CreateKey(context.Background(), gate.Identity{TenantID: "other", Role: gate.RoleAdmin}, gate.NewKey{Name: "other", Role: gate.RoleAdmin})
	if err != nil {
		t.Fatal(err)
	}
	if other := r.call("POST", reviewPath, other, `{}`); !strings.Contains(other.body, `"events":0`) {
		t.Errorf("another tenant sees %s", other.body)
	}
}
