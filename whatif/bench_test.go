package whatif_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/whatif"
)

// benchRecords are actions as the proxy records them, with their outcomes.
func benchRecords(tb testing.TB, n int) [][]byte {
	tb.Helper()
	var out [][]byte
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range n {
		e := evidence.Event{
			ID: fmt.Sprintf("ev_0199a5c0-7d2e-7c3b-9f10-%012d", i), Kind: evidence.KindAction, Time: evidence.Time{Time: start.Add(time.Duration(i) * time.Second)},
			TenantID: "acme", AgentID: fmt.Sprintf("agent_%d", i%50), UserID: "user_456", Goal: "resolve_refund_request", IdentitySource: "config", Door: "connect",
			Request:     &evidence.Request{Method: "POST", Authority: "api.stripe.com", Path: "/v1/refunds", ContentType: "application/x-www-form-urlencoded", BodySHA256: fmt.Sprintf("%064d", i), Bytes: 44},
			Args:        map[string]any{"amount": int64(100 + i%90000), "currency": "usd", "charge": fmt.Sprintf("ch_%d", i), "metadata": map[string]any{"order": "6735"}},
			Rule:        &evidence.Position{File: "policies/refund_policy.yaml", Line: 10, Name: "small_refund_auto_approve"},
			MappingRule: &evidence.Position{File: "stripe.yaml", Line: 20},
			Outcome:     &evidence.Outcome{State: evidence.StatePending},
		}
		e.Decision = evidence.Decision{
			Decision: "allow", ReasonCode: "refund.small", RiskTier: "high",
			Explain:         evidence.Explain{Summary: "Policy refund_policy v3: allow.", MatchedRules: []string{"small"}, NextSteps: []string{}},
			EvidenceEventID: e.ID, Mode: "monitor", Enforcement: "none", Would: map[string]string{"warn": "warn", "enforce": "none", "strict": "block"},
			PolicyHash: fmt.Sprintf("sha256:%064d", 1), MappingHash: fmt.Sprintf("sha256:%064d", 2), Tool: "stripe.refund.create", Resource: fmt.Sprintf("stripe:charge:ch_%d", i),
		}
		b, err := e.Encode()
		if err != nil {
			tb.Fatal(err)
		}
		o := evidence.OutcomeRecord{EventID: e.ID, Time: e.Time, Outcome: evidence.Outcome{State: evidence.StateForwarded, Status: 200, Bytes: 1000, DurationMS: 12.5}}
		ob, err := o.Encode()
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, b, ob)
	}
	return out
}

// BenchmarkSimulate is one action with its outcome: decoded, judged, counted.
func BenchmarkSimulate(b *testing.B) {
	records := benchRecords(b, 20_000)
	for i, name := range []string{"sums", "calls", "no_limits"} {
		b.Run(name, func(b *testing.B) {
			rules := rulesFor(b, policies[i], "enforce")
			b.ReportAllocs()
			for n := 0; n < b.N; {
				sim, err := whatif.New(whatif.Options{Rules: rules})
				if err != nil {
					b.Fatal(err)
				}
				for j := 0; j < len(records) && n < b.N; j += 2 {
					if err := sim.Add(records[j]); err != nil {
						b.Fatal(err)
					}
					if err := sim.Add(records[j+1]); err != nil {
						b.Fatal(err)
					}
					n++
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkReadiness is one action with its outcome, judged and counted by day.
func BenchmarkReadiness(b *testing.B) {
	records := benchRecords(b, 20_000)
	rules := rulesFor(b, policies[0], "monitor")
	b.ReportAllocs()
	for n := 0; n < b.N; {
		study, err := whatif.NewReadiness(whatif.ReadinessOptions{Rules: rules, Since: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Now: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)})
		if err != nil {
			b.Fatal(err)
		}
		for j := 0; j < len(records) && n < b.N; j += 2 {
			for _, r := range records[j : j+2] {
				if err := study.Add(r); err != nil {
					b.Fatal(err)
				}
			}
			n++
		}
		_ = study.Report()
	}
}
