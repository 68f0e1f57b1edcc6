package whatif_test

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/store"
	"github.com/actpass/sidecar/whatif"
)

const mappingRules = `
rules:
  - match: { host: api.stripe.com, methods: [POST], path: /v1/refunds }
    tool: stripe.refund.create
    risk: high
    args: form
    require: [{ name: amount, type: integer }]
    resource: "stripe:charge:{args.charge}"
`

var policies = []string{`
policies:
  - name: refund_policy
    version: 3
    tools: ["stripe.refund.*"]
    rules:
      - name: small
        when: args.amount <= 5000 && args.currency == "usd"
        decision: allow
        reason_code: refund.small
      - name: medium
        when: args.amount <= 50000
        decision: require_approval
        reason_code: refund.medium
      - name: large
        decision: deny
        reason_code: refund.large
    limits:
      - { name: per_day, key: [agent_id, args.currency], sum: args.amount, max: 12000, window: 24h, decision: require_approval, reason_code: refund.daily }
`, `
policies:
  - name: all
    version: 1
    tools: ["*"]
    rules:
      - { name: everything, decision: allow }
    limits:
      - { name: calls, key: [agent_id], max: 3, window: 6h, decision: deny, reason_code: calls.six_hours }
      - { name: day, key: [agent_id], sum: "has(args.amount) ? args.amount : 0", max: 20000, window: day, zone: Europe/Berlin, decision: require_approval, reason_code: calls.day }
`, `
policies:
  - name: guarded
    version: 1
    tools: ["stripe.*"]
    rules:
      - { name: no_amount, when: "!has(args.amount)", decision: allow }
      - { name: euros, when: args.currency == "eur", decision: require_approval, reason_code: refund.euros }
      - { name: rest, when: args.amount < 100000, decision: allow }
`}

func compilePolicy(t testing.TB, text string) *policy.Set {
	t.Helper()
	set, err := policy.Compile([]policy.Source{{Name: "p.yaml", Data: []byte(text)}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func rulesFor(t testing.TB, text, mode string) *gate.Rules {
	t.Helper()
	m, err := mapping.Compile([]mapping.Source{{Name: "m.yaml", Data: []byte(mappingRules)}}, mapping.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &gate.Rules{
		Mapping: m, Policy: compilePolicy(t, text), Mode: mode, MaxInspect: 1 << 20, Hold: time.Nanosecond, MaxHolds: 10000, MaxHoldsPerAgent: 10000,
		Identity: gate.Identity{TenantID: "acme", AgentID: "a", Source: gate.SourceConfig},
	}
}

// recorder keeps the records of a gate.
type recorder struct{ records [][]byte }

func (r *recorder) Append(_ context.Context, rec evidence.Record) (evidence.Entry, error) {
	r.records = append(r.records, bytes.Clone(rec.Bytes()))
	return evidence.Entry{}, nil
}

func (r *recorder) Later(rec evidence.Record) bool {
	_, _ = r.Append(context.Background(), rec)
	return true
}

func (r *recorder) Soon(rec evidence.Record) error {
	_, err := r.Append(context.Background(), rec)
	return err
}

// world is a gate with what it needs, and a clock that is set.
type world struct {
	*gate.Gate
	recorder
	now time.Time
}

func newWorld(t testing.TB, r *gate.Rules) *world {
	w := &world{}
	g, err := gate.New(gate.Options{Store: store.NewMemory(), Recorder: &w.recorder, RedactKey: make([]byte, 32), Now: func() time.Time { return w.now }})
	if err != nil {
		t.Fatal(err)
	}
	g.Load(r)
	w.Gate = g
	return w
}

// step is one call that some agent makes at some time.
type step struct {
	at       time.Time
	n        int // makes it unlike every other
	agent    string
	amount   string // "" for none
	currency string
	api      bool // asked at the preflight, to be executed
	status   int  // of the upstream, should it come to that
}

type body []byte

func (b body) Peek(int64) ([]byte, bool, error) { return b, true, nil }

// take makes the call and says what was made of it.
func (w *world) take(t testing.TB, s step) {
	ctx := context.Background()
	w.now = s.at
	id := gate.Identity{TenantID: "acme", AgentID: s.agent, Source: gate.SourceKey}
	if s.api {
		args := map[string]any{"charge": "ch_" + strconv.Itoa(s.n)}
		if s.amount != "" {
			args["amount"] = s.amount
		}
		if s.currency != "" {
			args["currency"] = s.currency
		}
		d, refused, err := w.Preflight(ctx, id, gate.Preflight{
			Tool: "stripe.refund.create", Resource: fmt.Sprintf("stripe:charge:ch_%d", s.n), AgentID: s.agent, Args: args, Intent: gate.IntentExecute,
		})
		if err != nil {
			t.Fatal(err)
		}
		if !refused && d.Enforcement != "hold" {
			if err := w.ReportOutcome(ctx, id, d.EvidenceEventID, d.ApprovalRequestID, map[bool]string{true: "succeeded", false: "failed"}[s.status < 400], s.status, ""); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	form := url.Values{"charge": {"ch_" + strconv.Itoa(s.n)}}
	if s.amount != "" {
		form.Set("amount", s.amount)
	}
	if s.currency != "" {
		form.Set("currency", s.currency)
	}
	permit, _ := w.Check(ctx, &gate.Request{Door: gate.DoorForward, Identity: id, Head: mapping.Request{
		Method: "POST", Scheme: "https", Authority: "api.stripe.com", Host: "api.stripe.com", Target: "/v1/refunds",
		Header: map[string][]string{"Content-Type": {"application/x-www-form-urlencoded"}}, ContentLength: int64(len(form.Encode())),
	}, Body: body(form.Encode())})
	if permit != nil {
		permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: s.status})
	}
}

func (w *world) verdicts(t testing.TB) (list []whatif.Verdict, ids []string) {
	for _, b := range w.records {
		e, _, err := evidence.DecodeRecord(b)
		if err != nil {
			t.Fatal(err)
		}
		if e != nil && e.Kind == evidence.KindAction {
			list = append(list, whatif.Verdict{Decision: e.Decision.Decision, ReasonCode: e.ReasonCode, Enforcement: e.Enforcement})
			ids = append(ids, e.ID)
		}
	}
	return list, ids
}

// TestTheSimulationSaysWhatTheGateWouldHaveSaid holds it against a second gate
// that was given the candidate and saw the same calls.
func TestTheSimulationSaysWhatTheGateWouldHaveSaid(t *testing.T) {
	all := map[string]*gate.Rules{}
	for i, p := range policies {
		for _, m := range []string{"monitor", "warn", "enforce", "strict"} {
			all[fmt.Sprint(i, m)] = rulesFor(t, p, m)
		}
	}
	var names []string
	for i := range policies {
		names = append(names, fmt.Sprint(i, "monitor"), fmt.Sprint(i, "warn"), fmt.Sprint(i, "enforce"), fmt.Sprint(i, "strict"))
	}
	rapid.Check(t, func(rt *rapid.T) {
		was := all[rapid.SampledFrom(names).Draw(rt, "was")]
		candidate := all[rapid.SampledFrom(names).Draw(rt, "candidate")]
		now := time.Date(2026, 3, 27, 20, 0, 0, 0, time.UTC)
		recorded, other := newWorld(t, was), newWorld(t, candidate)
		n := rapid.IntRange(1, 25).Draw(rt, "calls")
		for i := range n {
			now = now.Add(time.Duration(rapid.IntRange(1, 5*3600).Draw(rt, "later")) * time.Second)
			s := step{
				at: now, n: i, agent: rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "agent"),
				amount:   rapid.SampledFrom([]string{"", "100", "4900", "6000", "60000", "1e3"}).Draw(rt, "amount"),
				currency: rapid.SampledFrom([]string{"usd", "eur", "EUR", ""}).Draw(rt, "currency"),
				api:      rapid.Bool().Draw(rt, "api"), status: 200,
			}
			recorded.take(t, s)
			other.take(t, s)
		}
		sim, err := whatif.New(whatif.Options{Rules: candidate, Tenant: "acme", Limit: 1000})
		if err != nil {
			rt.Fatal(err)
		}
		for _, b := range recorded.records {
			if err := sim.Add(b); err != nil {
				rt.Fatal(err)
			}
		}
		from, ids := recorded.verdicts(t)
		want, _ := other.verdicts(t)
		if len(from) != n || len(want) != n {
			rt.Fatalf("%d calls, %d and %d events", n, len(from), len(want))
		}
		report := sim.Report()
		got := map[string]whatif.Verdict{}
		for _, g := range report.Data {
			for _, id := range g.Samples {
				g.To.Rule = ""
				got[id] = g.To
			}
		}
		changed := 0
		for i := range from {
			same := from[i] == want[i]
			if !same {
				changed++
			}
			to, listed := got[ids[i]]
			if listed && to != want[i] {
				rt.Errorf("call %d: the record says %+v, the simulation %+v, the gate %+v", i, from[i], to, want[i])
			}
			if listed && same {
				rt.Errorf("call %d: the gate says %+v again", i, from[i])
			}
		}
		if report.Totals.Unknown != 0 || report.Totals.Events != n || report.Totals.Changed != changed {
			rt.Errorf("totals %+v, want %d changed of %d", report.Totals, changed, n)
		}
	})
}
