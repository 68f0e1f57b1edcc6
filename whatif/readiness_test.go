package whatif_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/whatif"
)

func study(t *testing.T, o whatif.ReadinessOptions, events ...evidence.Event) whatif.Readiness {
	t.Helper()
	s, err := whatif.NewReadiness(o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range events {
		b, err := events[i].Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	return s.Report()
}

// calls makes one call a day, for so many days from monday on.
func calls(days int, change func(e *evidence.Event)) (list []evidence.Event) {
	for i := range days {
		list = append(list, recorded(fmt.Sprintf("ev_%d", i), func(e *evidence.Event) {
			e.Time.Time = monday.Add(time.Duration(i) * 24 * time.Hour)
			e.MappingRule = &evidence.Position{File: "stripe.yaml", Line: 1}
			if change != nil {
				change(e)
			}
		}))
	}
	return list
}

func amount(n int64) func(e *evidence.Event) {
	return func(e *evidence.Event) { e.Args = map[string]any{"amount": n, "currency": "usd"} }
}

func tool(name string) func(e *evidence.Event) {
	return func(e *evidence.Event) { e.Tool, e.MappingRule = name, nil }
}

func TestReadiness(t *testing.T) {
	week := monday.Add(7 * 24 * time.Hour)
	allows := func() *gate.Rules {
		r := rulesFor(t, policies[0], gate.ModeMonitor)
		set, err := policy.Compile([]policy.Source{{Name: "p.yaml", Data: []byte(policies[0])}}, policy.Options{Default: "allow"})
		if err != nil {
			t.Fatal(err)
		}
		r.Policy = set
		return r
	}
	for _, tt := range []struct {
		name    string
		change  func(o *whatif.ReadinessOptions)
		events  []evidence.Event
		verdict string
		missing string // part of the only sentence, "" for none
		check   func(r whatif.ReadinessRow) bool
	}{
		{
			name: "three quiet days", events: calls(3, nil), verdict: whatif.Ready,
			check: func(r whatif.ReadinessRow) bool {
				return r.Calls == 3 && r.Days == 3 && r.Mapped == 1 && r.Mode == gate.ModeMonitor
			},
		},
		{name: "two days", events: calls(2, nil), verdict: whatif.NotReady, missing: "seen on 2 of the 3 days"},
		{name: "two days will do", events: calls(2, nil), change: func(o *whatif.ReadinessOptions) { o.MinDays = 2 }, verdict: whatif.Ready},
		{
			name: "a rule that denies explains", events: calls(3, amount(90000)), verdict: whatif.Ready,
			check: func(r whatif.ReadinessRow) bool { return r.WouldBlock == 3 && r.Unexplained == 0 },
		},
		{
			name: "no rule speaks", events: calls(3, tool("slack.message.post")), verdict: whatif.NotReady, missing: "3 calls would be blocked though no rule says so (policy.default)",
			check: func(r whatif.ReadinessRow) bool {
				return r.Unexplained == 3 && r.Reasons["policy.default"] == 3 && len(r.Samples) == 3 && r.Mapped == 1
			},
		},
		{name: "a rule that cannot be evaluated", events: calls(3, func(e *evidence.Event) { e.Args = map[string]any{"currency": "usd"} }), verdict: whatif.NotReady, missing: "policy.error"},
		{name: "not on record", events: calls(3, func(e *evidence.Event) {
			e.Args = map[string]any{"amount": map[string]any{evidence.RedactedKey: "hmac:0"}, "currency": "usd"}
		}), verdict: whatif.NotReady, missing: "for 3 calls the verdict hangs on a value that is not on record"},
		{
			name: "holds", events: calls(3, amount(6000)), verdict: whatif.Ready,
			check: func(r whatif.ReadinessRow) bool { return r.Holds == 3 && r.HoldsADay == 1 && r.MostHolds == 1 },
		},
		{
			name: "unread", events: calls(3, tool("http.get")), change: func(o *whatif.ReadinessOptions) { o.Rules = allows() }, verdict: whatif.NotReady,
			missing: "3 calls are neither mapped nor named by a rule", check: func(r whatif.ReadinessRow) bool { return r.Mapped == 0 },
		},
		{name: "in force", events: calls(1, nil), change: func(o *whatif.ReadinessOptions) {
			o.Rules.Overrides = []gate.Override{{Tool: "stripe.*", Mode: gate.ModeEnforce}}
		}, verdict: whatif.InForce, missing: "seen on 1"},
		{name: "without a passport under strict", events: calls(3, nil), change: func(o *whatif.ReadinessOptions) { o.Mode = gate.ModeStrict }, verdict: whatif.NotReady, missing: "3 calls would be blocked for want of a good passport (passport.required)"},
		{name: "retries of one question", events: calls(3, func(e *evidence.Event) {
			amount(6000)(e)
			e.Approval = &evidence.Approval{ID: "apr_1"}
		}), verdict: whatif.Ready, check: func(r whatif.ReadinessRow) bool { return r.Holds == 1 }},
		{
			name: "another tenant", events: append(calls(3, nil), calls(1, func(e *evidence.Event) { e.TenantID = "rival" })...), verdict: whatif.Ready,
			check: func(r whatif.ReadinessRow) bool { return r.Calls == 3 },
		},
		{
			name: "a rare tool of a busy agent", events: append(calls(3, tool("other.tool")), calls(1, nil)...), change: func(o *whatif.ReadinessOptions) { o.Tool = "stripe.*" }, verdict: whatif.Ready,
			check: func(r whatif.ReadinessRow) bool { return r.Calls == 1 && r.Days == 3 },
		},
		{
			name: "refused at the wire", events: calls(3, func(e *evidence.Event) {
				e.Decision.ReasonCode, e.Decision.Enforcement, e.Decision.Decision = "request.malformed", "block", "deny"
			}), verdict: whatif.Ready,
			check: func(r whatif.ReadinessRow) bool { return r.WouldBlock == 0 },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := whatif.ReadinessOptions{Rules: rulesFor(t, policies[0], gate.ModeMonitor), Tenant: "acme", Since: monday, Now: week}
			if tt.change != nil {
				tt.change(&o)
			}
			got := study(t, o, tt.events...)
			if len(got.Data) != 1 || got.Rows != 1 {
				t.Fatalf("%d rows: %+v", got.Rows, got.Data)
			}
			r := got.Data[0]
			if r.Verdict != tt.verdict || got.Ready != (tt.verdict != whatif.NotReady) {
				t.Errorf("the verdict is %s (%v), want %s", r.Verdict, got.Ready, tt.verdict)
			}
			if said := strings.Join(r.Missing, "\n"); tt.missing == "" && said != "" || !strings.Contains(said, tt.missing) || len(r.Missing) > 1 {
				t.Errorf("missing: %q, want %q", r.Missing, tt.missing)
			}
			if tt.check != nil && !tt.check(r) {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestReadinessOfTooManyHolds(t *testing.T) {
	var events []evidence.Event
	for i := range 7 {
		for _, e := range calls(3, amount(50000)) {
			e.ID += fmt.Sprint("_", i)
			if e.Time.Day() == monday.Day() || i == 0 {
				events = append(events, e)
			}
		}
	}
	r := study(t, whatif.ReadinessOptions{Rules: rulesFor(t, policies[0], gate.ModeMonitor), Since: monday, Now: monday.Add(96 * time.Hour), MaxHolds: 2}, events...).Data[0]
	if r.Holds != 9 || r.HoldsADay != 3 || r.MostHolds != 7 || r.Verdict != whatif.NotReady || !strings.Contains(r.Missing[0], "people would face 3.0 holds a day") {
		t.Errorf("%+v", r)
	}
}

func TestReadinessTellsWhenThePolicyChanged(t *testing.T) {
	rules := rulesFor(t, policies[0], gate.ModeMonitor)
	o := whatif.ReadinessOptions{Rules: rules, Since: monday, Now: monday.Add(7 * 24 * time.Hour)}
	at := func(hash string, hours int) evidence.Event {
		return recorded(fmt.Sprint("ev_", hours), func(e *evidence.Event) {
			e.PolicyHash, e.Time.Time = hash, monday.Add(time.Duration(hours)*time.Hour)
		})
	}
	reload := at(rules.Policy.Hash(), 3)
	reload.Kind, reload.Tool, reload.Outcome, reload.Args = evidence.KindConfig, "", nil, nil
	for _, tt := range []struct {
		events []evidence.Event
		want   time.Time
	}{
		{[]evidence.Event{at(rules.Policy.Hash(), 1), at(rules.Policy.Hash(), 2)}, time.Time{}},
		{[]evidence.Event{at("sha256:old", 1), at(rules.Policy.Hash(), 2), at(rules.Policy.Hash(), 4)}, monday.Add(2 * time.Hour)},
		{[]evidence.Event{at("sha256:old", 1), reload, at(rules.Policy.Hash(), 4)}, monday.Add(3 * time.Hour)},
		{[]evidence.Event{at("sha256:old", 1)}, o.Now},
	} {
		got := study(t, o, tt.events...).PolicyChanged
		if got == nil && !tt.want.IsZero() || got != nil && !got.Equal(tt.want) {
			t.Errorf("changed at %v, want %v", got, tt.want)
		}
	}
}

func TestReadinessOfNothing(t *testing.T) {
	o := whatif.ReadinessOptions{Rules: rulesFor(t, policies[0], gate.ModeMonitor), Since: monday, Now: monday.Add(time.Hour)}
	if got := study(t, o); got.Ready || len(got.Data) != 0 || len(got.Missing) != 1 {
		t.Errorf("%+v", got)
	}
	o.Mode = gate.ModeWarn
	if _, err := whatif.NewReadiness(o); err == nil {
		t.Error("readiness for warn")
	}
}

func TestReadinessByPages(t *testing.T) {
	var events []evidence.Event
	for i := range 5 {
		events = append(events, calls(1, tool(fmt.Sprintf("other.tool%d", i)))...)
	}
	o := whatif.ReadinessOptions{Rules: rulesFor(t, policies[0], gate.ModeMonitor), Since: monday, Now: monday.Add(7 * 24 * time.Hour)}
	whole := study(t, o, events...)
	if whole.Next != "" || len(whole.Data) != 5 {
		t.Fatalf("%d rows, next %q", len(whole.Data), whole.Next)
	}
	o.Limit = 2
	var paged []string
	for _, next := range []string{"2", "4", ""} {
		got := study(t, o, events...)
		if got.Next != next || got.Rows != 5 {
			t.Errorf("after %d comes %q, want %q; %d rows", o.Skip, got.Next, next, got.Rows)
		}
		for _, r := range got.Data {
			paged = append(paged, r.Tool)
		}
		o.Skip += 2
	}
	for i, r := range whole.Data {
		if paged[i] != r.Tool {
			t.Fatalf("by pages %v", paged)
		}
	}
	if o.Skip = 9; len(study(t, o, events...).Data) != 0 {
		t.Error("there is something behind the end")
	}
}
