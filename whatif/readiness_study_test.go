package whatif_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/whatif"
)

// TestOneStudyAnswersForEveryTime: a study that is shown a record as it grows says
// at each moment what a new one says that reads it all, for any hour to begin at.
func TestOneStudyAnswersForEveryTime(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	reasons := []string{"refund.small", "policy.default", "request.malformed"}
	var events []evidence.Event
	at := monday
	for i := range 400 {
		at = at.Add(time.Duration(r.IntN(3600)) * time.Second)
		events = append(events, recorded(fmt.Sprintf("ev_%03d", i), func(e *evidence.Event) {
			e.Time.Time, e.AgentID = at, []string{"a", "b"}[r.IntN(2)]
			amount(int64(r.IntN(70_000)))(e)
			switch r.IntN(6) {
			case 0:
				tool("http.get")(e)
			case 1:
				e.Approval = &evidence.Approval{ID: fmt.Sprintf("apr_%d", i)}
			case 2:
				e.ReasonCode = reasons[r.IntN(3)]
			}
			e.PolicyHash = fmt.Sprintf("sha256:%d", i/150)
			if r.IntN(2) == 0 {
				e.MappingRule = &evidence.Position{File: "stripe.yaml", Line: 1}
			}
		}))
		if last := events[len(events)-1]; last.Approval != nil { // its retry
			last.ID += "r"
			events = append(events, last)
		}
	}
	rules := rulesFor(t, policies[2], gate.ModeMonitor)
	live, err := whatif.NewReadiness(whatif.ReadinessOptions{Rules: rules, Since: monday})
	if err != nil {
		t.Fatal(err)
	}
	forgotten := monday
	for i := range events {
		b, err := events[i].Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := live.Add(b); err != nil {
			t.Fatal(err)
		}
		if i%20 != 19 {
			continue
		}
		now := events[i].Time.Add(time.Second)
		if r.IntN(3) == 0 {
			forgotten = forgotten.Add(time.Duration(r.Int64N(int64(now.Sub(forgotten)))))
			live.Forget(forgotten)
		}
		o := whatif.ReadinessOptions{
			Rules: rules, Since: forgotten.Truncate(time.Hour).Add(time.Duration(r.IntN(48)) * time.Hour), Now: now,
			Tool: []string{"", "stripe.*"}[r.IntN(2)], Agent: []string{"", "a"}[r.IntN(2)], Limit: 3, MinDays: 2,
		}
		if !o.Since.Before(now) {
			continue
		}
		got, want := live.ReportOf(o), study(t, o, events[:i+1]...)
		// What lies before o.Since is not read for want.
		got.PolicyChanged, want.PolicyChanged = nil, nil
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("after %d events, from %s:\n%+v\nwant\n%+v", i+1, o.Since, got, want)
		}
	}
}

func TestAStudyIsBounded(t *testing.T) {
	live, err := whatif.NewReadiness(whatif.ReadinessOptions{Rules: rulesFor(t, policies[2], gate.ModeMonitor), Since: monday})
	if err != nil {
		t.Fatal(err)
	}
	e := recorded("ev_1", nil)
	for i := range 10_500 { // agents choose names
		e.Tool = fmt.Sprintf("t%d", i)
		b, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := live.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	o := whatif.ReadinessOptions{Rules: rulesFor(t, policies[2], gate.ModeMonitor), Since: monday, Now: monday.Add(time.Hour)}
	if got := live.ReportOf(o); got.Rows != 10_001 || got.Calls != 10_500 {
		t.Errorf("%d rows of %d calls", got.Rows, got.Calls)
	}
	live.Forget(monday.Add(2 * time.Hour))
	if got := live.ReportOf(o); got.Rows != 0 {
		t.Errorf("%d rows are left", got.Rows)
	}
}
