package whatif_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/whatif"
)

var monday = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// recorded is an event as some gate wrote it: a refund that refund_policy allowed
// under monitor, unless change says otherwise.
func recorded(id string, change func(e *evidence.Event)) evidence.Event {
	e := evidence.Event{
		ID: id, Kind: evidence.KindAction, Time: evidence.Time{Time: monday}, TenantID: "acme", AgentID: "a", Door: "forward",
		Args: map[string]any{"amount": int64(100), "currency": "usd"}, Outcome: &evidence.Outcome{State: evidence.StatePending},
	}
	e.Decision = evidence.Decision{
		Decision: "allow", ReasonCode: "refund.small", RiskTier: "high", Mode: "monitor", Enforcement: "none", EvidenceEventID: id,
		Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", PolicyHash: "sha256:then",
	}
	if change != nil {
		change(&e)
	}
	return e
}

func replay(t *testing.T, o whatif.Options, events ...evidence.Event) whatif.Report {
	t.Helper()
	sim, err := whatif.New(o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range events {
		b, err := events[i].Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := sim.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	return sim.Report()
}

// TestOneAction says for one action on record what becomes of it.
func TestOneAction(t *testing.T) {
	const same = "same"
	deny := func(code string, flags ...string) func(*evidence.Event) {
		return func(e *evidence.Event) {
			e.Mode, e.Decision.Decision, e.ReasonCode, e.Enforcement, e.Flags = "enforce", "deny", code, "block", flags
		}
	}
	for _, c := range []struct {
		name   string
		policy int
		mode   string
		change func(*evidence.Event)
		want   string // same, unknown NAME, or decision reason enforcement rule
	}{
		{"allowed as before", 0, "", nil, same},
		{"no passport", 0, "strict", nil, "deny passport.required block "},
		{"a passport", 0, "strict", func(e *evidence.Event) { e.PassportJTI = "ap_1" }, same},
		{"a bad passport", 0, "enforce", func(e *evidence.Event) { e.Flags = []string{gate.FlagPassport} }, "deny passport.invalid block "},
		{"its own reason", 0, "enforce", deny("passport.expired", gate.FlagPassport), same},
		{"low risk needs none", 1, "strict", func(e *evidence.Event) { e.RiskTier, e.ReasonCode = "low", "policy.everything" }, same},
		{"ambiguous", 0, "enforce", func(e *evidence.Event) { e.Flags = []string{gate.FlagAmbiguous} }, "deny request.ambiguous block "},
		{"ambiguous, let go", 0, "monitor", deny("request.ambiguous", gate.FlagAmbiguous), "allow refund.small none small"},
		{"ambiguous keeps its own code", 1, "strict", deny("request.too_large", gate.FlagAmbiguous), same},
		{"never was a call", 1, "monitor", deny("request.malformed"), same},
		{"a store that failed", 1, "enforce", deny("store.unavailable", gate.FlagFault), same},
		{"a store that failed, monitored", 0, "enforce", func(e *evidence.Event) { e.Flags = []string{gate.FlagFault} }, "deny store.unavailable block "},
		{"no mapping rule", 1, "", deny("mapping.unmapped"), same},
		{"an argument that is broken", 1, "", func(e *evidence.Event) {
			deny("policy.error")(e)
			e.Args, e.Unusable = map[string]any{"currency": "usd"}, map[string]string{"amount": "invalid"}
		}, same}, // the limit that has() it cannot be counted
		{"a broken argument that nobody asks for", 1, "enforce", func(e *evidence.Event) {
			e.Unusable = map[string]string{"refund_application_fee": "invalid"}
		}, "deny mapping.argument_invalid block "},
		{"an argument that is not there", 1, "enforce", func(e *evidence.Event) {
			e.Args, e.Unusable = nil, map[string]string{"amount": "missing"}
		}, "deny mapping.argument_missing block "},
		{"has() of a broken argument", 2, "enforce", func(e *evidence.Event) {
			e.Args, e.Unusable = map[string]any{"currency": "usd"}, map[string]string{"amount": "invalid"}
		}, "deny policy.error block no_amount"},
		{"has() of an argument that was not sent", 2, "enforce", func(e *evidence.Event) { e.Args = nil }, "allow policy.no_amount none no_amount"},
		{"warn", 2, "warn", func(e *evidence.Event) { e.Args["currency"] = "eur" }, "warn refund.euros warn euros"},
		{"a redacted argument", 0, "", func(e *evidence.Event) { e.Args["currency"] = map[string]any{"redacted": "hmac:0011"} }, "unknown args.currency"},
		{"a redacted argument that nobody reads", 0, "", func(e *evidence.Event) { e.Args["card"] = map[string]any{"redacted": "hmac:0011"} }, same},
		{"a text that was cut", 2, "", func(e *evidence.Event) {
			e.Args["currency"] = map[string]any{"truncated": "us", "bytes": int64(2000), "hash": "hmac:0011"}
		}, "unknown args.currency"},
		{"arguments that were left out", 2, "", func(e *evidence.Event) { e.Args = map[string]any{"_omitted": int64(3)} }, "unknown args.amount"},
		{"left out, and not asked for", 0, "", func(e *evidence.Event) { e.Args["_omitted"] = int64(3) }, same},
		{"hidden, but refused anyway", 0, "enforce", func(e *evidence.Event) {
			deny("request.ambiguous", gate.FlagAmbiguous)(e)
			e.Args["currency"] = map[string]any{"redacted": "hmac:0011"}
		}, same},
		{"an object of the agent's that looks like it", 0, "", func(e *evidence.Event) {
			e.Args["currency"] = map[string]any{"redacted": "hmac:0011", "more": true}
		}, "deny policy.error none small"},
		{"a human denied it", 0, "enforce", func(e *evidence.Event) {
			deny("approval.denied")(e)
			e.Args["amount"], e.Approval = int64(6000), &evidence.Approval{ID: "apr_1", State: "denied"}
			e.PolicyHash = compilePolicy(t, policies[0]).Hash()
		}, same},
		{"a human denied it under another rule", 0, "enforce", func(e *evidence.Event) {
			deny("approval.denied")(e)
			e.Args["amount"], e.Approval = int64(6000), &evidence.Approval{ID: "apr_1", State: "denied"}
		}, "require_approval refund.medium hold medium"},
	} {
		e := recorded("ev_1", c.change)
		r := replay(t, whatif.Options{Rules: &gate.Rules{Policy: compilePolicy(t, policies[c.policy]), Mode: c.mode}}, e)
		got := same
		switch {
		case len(r.Unknown) == 1:
			got = "unknown " + r.Unknown[0].Argument
		case len(r.Data) == 1:
			v := r.Data[0].To
			got = strings.Join([]string{v.Decision, v.ReasonCode, v.Enforcement, v.Rule}, " ")
		}
		if got != c.want || r.Totals.Events != 1 || r.Totals.Changed+r.Totals.Unchanged+r.Totals.Unknown != 1 {
			t.Errorf("%s: %s, want %s (%+v)", c.name, got, c.want, r.Totals)
		}
	}
}

// TestAnApprovalForTheSameRuleStands: the policy that judged is known, and
// the candidate has that rule, word for word, among others.
func TestAnApprovalForTheSameRuleStands(t *testing.T) {
	then := compilePolicy(t, policies[0])
	e := recorded("ev_1", func(e *evidence.Event) {
		e.Args["amount"], e.PassportJTI, e.PolicyHash = int64(6000), "ap_1", then.Hash()
		e.Mode, e.ReasonCode = "enforce", "refund.medium"
	})
	for text, changed := range map[string]int{
		strings.Replace(policies[0], "<= 5000", "<= 4000", 1):                     0,
		strings.Replace(policies[0], "<= 50000", "<= 40000", 1):                   1,
		strings.Replace(policies[0], "name: medium", "name: other", 1):            1,
		strings.Replace(policies[0], "version: 3", "version: 4", 1):               0,
		strings.Replace(policies[0], "args.amount <= 50000", "args.amount>=0", 1): 1,
	} {
		rules := &gate.Rules{Policy: compilePolicy(t, text)}
		if r := replay(t, whatif.Options{Rules: rules, InForce: then}, e); r.Totals.Changed != changed {
			t.Errorf("%d changed, want %d: %s", r.Totals.Changed, changed, text)
		}
		if r := replay(t, whatif.Options{Rules: rules}, e); r.Totals.Changed != 1 {
			t.Errorf("without the policy that judged: %+v", r.Totals)
		}
	}
}

func TestHeaderRulesAreUnknownExceptAtThePreflight(t *testing.T) {
	rules := &gate.Rules{Policy: compilePolicy(t, `
policies:
  - name: p
    version: 1
    tools: ["*"]
    rules:
      - { name: team, when: '"x-team" in header', decision: deny, reason_code: a.team }
      - { name: goal, when: 'has(passport.goal) && passport.goal == "x"', decision: deny, reason_code: a.goal }
      - { name: all, decision: allow, reason_code: refund.small }
`)}
	r := replay(t, whatif.Options{Rules: rules},
		recorded("ev_1", nil), recorded("ev_2", func(e *evidence.Event) { e.Door = "api" }),
		recorded("ev_3", func(e *evidence.Event) { e.Door, e.PassportJTI = "api", "ap_1" }))
	if got := fmt.Sprint(r.Unknown); !strings.Contains(got, "header.x-team") || !strings.Contains(got, "passport.goal") || r.Totals.Unknown != 2 || r.Totals.Unchanged != 1 {
		t.Errorf("%+v %s", r.Totals, got)
	}
}

func TestLimitsGiveBack(t *testing.T) {
	rules := &gate.Rules{Policy: compilePolicy(t, `
policies:
  - name: p
    version: 1
    tools: ["*"]
    rules:
      - { name: all, decision: allow, reason_code: refund.small }
    limits:
      - { name: two, key: [agent_id], max: 2, window: 1h, decision: deny, reason_code: a.two }
`), Mode: "enforce"}
	for _, c := range []struct {
		name    string
		outcome evidence.Outcome
		change  func(e *evidence.Event)
		changed int // of five calls a minute apart
	}{
		{"sent", evidence.Outcome{State: evidence.StateForwarded, Status: 200}, nil, 3},
		{"an error of the upstream", evidence.Outcome{State: evidence.StateForwarded, Status: 503}, nil, 3},
		{"lost", evidence.Outcome{State: evidence.StateAmbiguous}, nil, 3},
		{"not wanted", evidence.Outcome{State: evidence.StateForwarded, Status: 402}, nil, 0},
		{"never sent", evidence.Outcome{State: evidence.StateRefused}, nil, 0},
		{"attempts at one held call", evidence.Outcome{State: evidence.StateHeld, Status: 503}, func(e *evidence.Event) { e.Approval = &evidence.Approval{ID: "apr_1", State: "pending"} }, 0},
		{"questions", evidence.Outcome{State: evidence.StateForwarded}, func(e *evidence.Event) { e.Door, e.Outcome = "api", nil }, 0},
		{"another tenant", evidence.Outcome{State: evidence.StateForwarded}, func(e *evidence.Event) { e.TenantID = e.ID }, 0},
	} {
		sim, err := whatif.New(whatif.Options{Rules: rules})
		if err != nil {
			t.Fatal(err)
		}
		add := func(b []byte, err error) {
			t.Helper()
			if err == nil {
				err = sim.Add(b)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for i := range 5 {
			e := recorded(fmt.Sprintf("ev_%d", i), c.change)
			e.Time.Time = monday.Add(time.Duration(i) * time.Minute)
			add(e.Encode())
			o := evidence.OutcomeRecord{EventID: e.ID, Time: e.Time, Outcome: c.outcome}
			add(o.Encode())
			add(o.Encode()) // again: nothing is given back twice
		}
		if r := sim.Report(); r.Totals.Changed != c.changed {
			t.Errorf("%s: %d changed, want %d", c.name, r.Totals.Changed, c.changed)
		}
	}
}

// TestLimitsAreWarm: uses before the asked time count, and are not reported.
func TestLimitsAreWarm(t *testing.T) {
	rules := rulesFor(t, policies[1], "enforce") // three calls in six hours
	o := whatif.Options{Rules: &gate.Rules{Policy: rules.Policy, Mode: "enforce"}, Since: monday.Add(3 * time.Hour)}
	var events []evidence.Event
	for i := range 6 {
		events = append(events, recorded(fmt.Sprintf("ev_%d", i), func(e *evidence.Event) {
			e.Time.Time, e.ReasonCode = monday.Add(time.Duration(i)*time.Hour), "policy.everything"
		}))
	}
	sim, err := whatif.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if want := o.Since.Add(-(24 + 48) * time.Hour); !sim.From().Equal(want) { // a day may be that long
		t.Errorf("from %s, want %s", sim.From(), want)
	}
	r := replay(t, o, events...)
	if r.Totals.Events != 3 || r.Totals.Changed != 3 || r.Data[0].To.Rule != "calls" {
		t.Errorf("%+v", r)
	}
	o.Until = monday.Add(4 * time.Hour)
	if r := replay(t, o, events...); r.Totals.Events != 1 || !r.To.Equal(o.Until) {
		t.Errorf("%+v", r)
	}
}

func TestGroups(t *testing.T) {
	rules := &gate.Rules{Policy: compilePolicy(t, policies[2]), Mode: "enforce", Overrides: []gate.Override{{Agent: "b*", Mode: "strict"}}}
	var events []evidence.Event
	for i, amount := range []any{int64(200_000), int64(math.MaxInt64), int64(300_000), "x"} {
		events = append(events, recorded(fmt.Sprintf("ev_%d", i), func(e *evidence.Event) {
			e.Args["amount"], e.Time.Time = amount, monday.Add(-time.Duration(i)*time.Minute)
		}))
	}
	for i := range 7 {
		events = append(events, recorded(fmt.Sprintf("ev_b%d", i), func(e *evidence.Event) {
			e.AgentID, e.Args["currency"] = "bill", []any{"USD", "weird currency", int64(5)}[i%3]
		}))
	}
	r := replay(t, whatif.Options{Rules: rules, Limit: 2}, events...)
	if len(r.Data) != 2 || r.Totals.Groups < 3 || r.Totals.Events != 11 || r.Next != "" || r.Mode != "enforce" || r.PolicyHash != rules.Policy.Hash() {
		t.Fatalf("%+v", r)
	}
	for i := 1; i < len(r.Data); i++ {
		if r.Data[i].Count > r.Data[i-1].Count {
			t.Errorf("not the largest first: %+v", r.Data)
		}
	}
	if b := r.Data[0]; b.AgentID != "bill" || b.To.ReasonCode != "passport.required" || b.To.Rule != "" || b.Count != 7 || len(b.Samples) != 5 || fmt.Sprint(b.Amounts) != "map[unspecified:400 usd:300]" {
		t.Errorf("%+v", b)
	}
	if a := r.Data[1]; a.Count != 3 || fmt.Sprint(a.Amounts) != fmt.Sprint(map[string]int64{"usd": math.MaxInt64}) || !a.FirstSeen.Equal(monday.Add(-2*time.Minute)) || !a.LastSeen.Equal(monday) {
		t.Errorf("%+v", a)
	}
	all := whatif.Options{Rules: rules}
	for _, o := range []struct {
		tool, agent, tenant string
		events              int
	}{{"stripe.*", "", "acme", 11}, {"stripe.refund.create", "bill", "", 7}, {"http.*", "", "", 0}, {"", "", "other", 0}} {
		all.Tool, all.Agent, all.Tenant = o.tool, o.agent, o.tenant
		if got := replay(t, all, events...).Totals.Events; got != o.events {
			t.Errorf("%+v: %d events", o, got)
		}
	}
}

// TestGroupsAreBounded: agents choose their names.
func TestGroupsAreBounded(t *testing.T) {
	rules := &gate.Rules{Policy: compilePolicy(t, policies[2]), Mode: "strict"}
	sim, err := whatif.New(whatif.Options{Rules: rules, Limit: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10_100 {
		e := recorded(fmt.Sprintf("ev_%d", i), func(e *evidence.Event) { e.AgentID = fmt.Sprintf("agent_%d", i) })
		b, err := e.Encode()
		if err == nil {
			err = sim.Add(b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	r := sim.Report()
	if r.Totals.Changed != 10_100 || r.Totals.Groups != 10_001 || r.Data[0].AgentID != "(others)" || r.Data[0].Count != 100 {
		t.Errorf("%+v %+v", r.Totals, r.Data[0])
	}
}

func TestWhatIsNoRecord(t *testing.T) {
	sim, err := whatif.New(whatif.Options{Rules: rulesFor(t, policies[0], "enforce")})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{`{}x`, `not`, `{"kind":"action"}`, `{"kind":"action","id":"ev_1","time":"yesterday"}`, `{"kind":"action","id":"ev_1","time":"2026-01-31T09:00:00.000000Z","args":[1]}`} {
		if err := sim.Add([]byte(bad)); err == nil {
			t.Errorf("%s passes", bad)
		}
	}
	if err := sim.Add([]byte(`{"kind":"approval","id":"ev_1","more":{"x":[1]}}`)); err != nil {
		t.Error(err)
	}
	if got := sim.Report().Totals; got != (whatif.Totals{}) {
		t.Errorf("%+v", got)
	}
	for _, o := range []whatif.Options{{}, {Rules: &gate.Rules{}}, {Rules: rulesFor(t, policies[0], "lenient")}, {Rules: rulesFor(t, policies[0], ""), Since: monday, Until: monday}} {
		if _, err := whatif.New(o); err == nil {
			t.Errorf("%+v passes", o)
		}
	}
}

// TestWindowsMoveOn: what was given back does not count a second time when its
// window ends, and a calendar window ends at its midnight.
func TestWindowsMoveOn(t *testing.T) {
	for _, c := range []struct {
		window string
		steps  []time.Duration // after the call before
		status []int
		want   string // a letter a call: . sent, x over the limit
	}{
		{"1h", []time.Duration{0, time.Minute, 2 * time.Hour, 0, 0}, []int{404, 200, 200, 200, 200}, "....x"},
		{"1h", []time.Duration{0, 0, 0, time.Hour - 1000, 1000}, []int{200, 200, 200, 200, 200}, "..xx."},
		{"day, zone: Europe/Berlin", []time.Duration{0, 0, 0, 11*time.Hour - time.Second, time.Second}, []int{200, 200, 200, 200, 200}, "..xx."},
	} {
		rules := &gate.Rules{Policy: compilePolicy(t, `
policies:
  - name: p
    version: 1
    tools: ["*"]
    rules:
      - { name: all, decision: allow, reason_code: refund.small }
    limits:
      - { name: two, key: [agent_id], max: 2, window: `+c.window+`, decision: deny, reason_code: a.two }
`), Mode: "enforce"}
		sim, err := whatif.New(whatif.Options{Rules: rules})
		if err != nil {
			t.Fatal(err)
		}
		got, at := "", monday
		for i, step := range c.steps {
			at = at.Add(step)
			e := recorded(fmt.Sprintf("ev_%d", i), func(e *evidence.Event) { e.Time.Time = at })
			o := evidence.OutcomeRecord{EventID: e.ID, Time: e.Time, Outcome: evidence.Outcome{State: evidence.StateForwarded, Status: c.status[i]}}
			before := sim.Report().Totals.Changed
			for _, encode := range []func() ([]byte, error){e.Encode, o.Encode} {
				b, err := encode()
				if err == nil {
					err = sim.Add(b)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			got += map[bool]string{true: ".", false: "x"}[sim.Report().Totals.Changed == before]
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.window, got, c.want)
		}
	}
}

// TestGrantedActionsStay: what a human let go ahead of the calls is no hold that
// people would face.
func TestGrantedActionsStay(t *testing.T) {
	const asks = `policies:
  - name: refunds
    version: 1
    tools: ["stripe.refund.create"]
    rules:
      - { name: all, decision: require_approval, reason_code: refund.asked }
`
	rules := rulesFor(t, asks, "enforce")
	w := newWorld(t, rules)
	at := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	w.now = at
	_, err := w.CreateGrant(t.Context(), gate.Identity{TenantID: "acme", Role: gate.RoleAdmin, KeyID: "key_1"}, gate.NewGrant{
		AgentID: "a", Tool: "stripe.refund.create", Resource: "stripe:charge:*", Policy: "refunds", Rule: "all", FreeArgs: []string{"amount", "currency", "charge"}, Count: 1, TTL: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 2 { // the second finds the grant used up
		w.take(t, step{at: at.Add(time.Minute), n: n, agent: "a", amount: "100", currency: "usd", api: true, status: 200})
	}
	list := walked(t, w, rules)
	if len(list) != 1 || list[0].Count != 1 || list[0].Samples[0].Resource != "stripe:charge:ch_1" {
		t.Errorf("%+v", list)
	}
	// By another rule it would be asked about.
	other := rulesFor(t, strings.Replace(asks, "name: all", "name: every", 1), "enforce")
	if list := walked(t, w, other); len(list) != 1 || list[0].Count != 2 {
		t.Errorf("%+v", list)
	}
}
