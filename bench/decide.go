package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
)

// decider is mapping and policy as the gate uses them, with nothing else.
type decider struct {
	rules    *mapping.Set
	policies *policy.Set
	req      mapping.Request
	body     []byte
}

// refundForm is a refund as an SDK sends it, about 550 bytes, with nested
// fields, lists and escapes.
var refundForm = "charge=ch_3OqYJ2LkdIwHu7ix0z9v1c2d&amount=4900&currency=usd&reason=requested_by_customer" +
	"&metadata[order_id]=6735&metadata[customer]=cus_NffrFeUfNV2Hib&metadata[agent]=support_agent" +
	"&expand[]=charge&expand[]=payment_intent&refund_application_fee=true&reverse_transfer=false" +
	"&instructions_email=jenny.rosen%40example.com&description=" + strings.Repeat("refund+of+order+6735.+", 10)

// newDecider compiles n mapping rules over 50 hosts, with Stripe's refund in
// their middle, and 200 policies, of which one covers the refund.
func newDecider(n int) (*decider, error) {
	var b strings.Builder
	b.WriteString("rules:\n")
	for i := range n - 1 {
		if i == n/2 {
			b.WriteString(`  - match: { host: api.stripe.com, methods: [POST], path: /v1/refunds }
    tool: stripe.refund.create
    risk: high
    args: form
    optional: [{ name: amount, type: integer }, { name: currency, type: currency }, { name: refund_application_fee, type: boolean }, { name: reverse_transfer, type: boolean }]
    resource: "stripe:charge:{args.charge}"
`)
		}
		fmt.Fprintf(&b, "  - { match: { host: api%d.example.com, methods: [POST], path: \"/v1/things%d/{id}\" }, tool: t.t%d, args: form, resource: \"t:{path.id}\" }\n", i%50, i/50, i)
	}
	rules, err := mapping.Compile([]mapping.Source{{Name: "rules.yaml", Data: []byte(b.String())}}, mapping.Options{})
	if err != nil {
		return nil, err
	}
	b.Reset()
	b.WriteString("policies:\n")
	for i := range 200 {
		tools := fmt.Sprintf("tool%d.*", i)
		if i == 100 {
			tools = "stripe.refund.*"
		}
		fmt.Fprintf(&b, `
  - name: policy_%d
    version: 1
    tools: [%q]
    rules:
      - { name: tiny, when: 'args.amount <= 100 && args.currency == "usd"', decision: allow }
      - { name: small, when: 'args.amount <= 5000 && args.currency in ["usd", "eur"]', decision: allow }
      - { name: medium, when: 'args.amount <= 50000', decision: require_approval }
      - { name: large, decision: deny, reason_code: bench.large }
`, i, tools)
	}
	policies, err := policy.Compile([]policy.Source{{Name: "policies.yaml", Data: []byte(b.String())}}, policy.Options{})
	if err != nil {
		return nil, err
	}
	return &decider{
		rules: rules, policies: policies, body: []byte(refundForm),
		req: mapping.Request{
			Method: "POST", Scheme: "https", Authority: "api.stripe.com:443", Host: "api.stripe.com", Target: "/v1/refunds",
			ContentLength: int64(len(refundForm)),
			Header:        refundHeader(len(refundForm)),
		},
	}, nil
}

func refundHeader(length int) map[string][]string {
	return map[string][]string{
		"Content-Type": {"application/x-www-form-urlencoded"}, "Authorization": {"Bearer sk_test_4eC39HqLyjWDarjtT1zdp7dc"},
		"Idempotency-Key": {"7f3a5e7c-6a6b-4a56-9c39-6f1c0f0d8d11"}, "User-Agent": {"Stripe/v1 PythonBindings/7.1.0"},
		"Stripe-Version": {"2024-06-20"}, "X-Stripe-Client-User-Agent": {`{"bindings_version":"7.1.0","lang":"python"}`},
		"Accept": {"*/*"}, "Accept-Encoding": {"gzip"}, "Content-Length": {fmt.Sprint(length)},
	}
}

// decide is what gate.Check does between reading the body and writing the
// record.
func (d *decider) decide(now time.Time) policy.Decision {
	m := d.rules.Match(&d.req)
	r := m.Read(d.body, true)
	c := &r.Calls[0]
	if len(r.Ambiguous) > 0 || len(r.Calls) != 1 {
		return policy.Decision{}
	}
	return d.policies.Decide(&policy.Input{
		Tool: c.Tool, Resource: c.Resource, Risk: c.Risk, Args: c.Args, Path: c.Path, Query: c.Query, HeaderOf: c.Header,
		AgentID: "support_agent", UserID: "user_456", Goal: "resolve_refund_request", Now: now,
	})
}

const (
	decideRounds = 400
	decideBatch  = 100
)

// measureDecide times small batches of each size by turns, so that whatever
// else the machine does falls on all of them alike.
func measureDecide() ([]figure, error) {
	sizes := []int{10, 1000, 10_000}
	deciders := make([]*decider, len(sizes))
	took := make([][]float64, len(sizes))
	now := time.Now()
	for i, n := range sizes {
		var err error
		if deciders[i], err = newDecider(n); err != nil {
			return nil, fmt.Errorf("compile %d rules: %w", n, err)
		}
		if got := deciders[i].decide(now); got.Rule != "small" || got.Effect != policy.Allow {
			return nil, fmt.Errorf("the measured call is decided by %q (%s), not by \"small\"", got.Rule, got.Summary)
		}
	}
	for range decideRounds {
		for i, d := range deciders {
			start := time.Now()
			for range decideBatch {
				d.decide(now)
			}
			took[i] = append(took[i], float64(time.Since(start).Nanoseconds())/decideBatch/1000)
		}
	}
	allocs := allocations(func() { deciders[1].decide(now) })
	mid := make([]float64, len(sizes))
	for i := range took {
		mid[i] = median(took[i])
	}
	growth := mid[2] / mid[0]
	return []figure{
		{name: "map + policy, 1,000 rules, 200 policies", value: fmt.Sprintf("%.1f µs", mid[1]), target: "< 10 µs", met: mid[1] < 10},
		{name: "  allocations", value: fmt.Sprintf("%.0f", allocs), target: "<= 40", met: allocs <= 40},
		{name: "  10 rules", value: fmt.Sprintf("%.1f µs", mid[0]), untargeted: true},
		{name: "  10,000 rules", value: fmt.Sprintf("%.1f µs", mid[2]), untargeted: true},
		{name: "  10,000 rules / 10 rules", value: fmt.Sprintf("%.2f", growth), target: "<= 2", met: growth <= 2},
	}, nil
}

// allocations counts the heap allocations of one call of f.
func allocations(f func()) float64 {
	const runs = 1000
	f()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64((after.Mallocs - before.Mallocs) / runs)
}

func median(v []float64) float64 { return quantile(v, 0.5) }

// quantile gives the value below which a share of q lies.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Clone(v)
	slices.Sort(s)
	if q == 0.5 && len(s)%2 == 0 {
		return (s[len(s)/2-1] + s[len(s)/2]) / 2
	}
	return s[min(int(q*float64(len(s))), len(s)-1)]
}
