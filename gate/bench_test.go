package gate_test

import (
	"context"
	"testing"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
)

// nowhere takes records and forgets them.
type nowhere struct{}

func (nowhere) Append(context.Context, evidence.Record) (evidence.Entry, error) {
	return evidence.Entry{}, nil
}
func (nowhere) Later(evidence.Record) bool { return true }

func (nowhere) Soon(evidence.Record) error { return nil }

// BenchmarkCheck is a call from the request to its outcome, without network and
// disk: what the gate itself costs.
func BenchmarkCheck(b *testing.B) {
	f := newGate(b, "enforce", func(r *gate.Rules) {
		*r = *rules(b, "enforce", `policies:
  - name: refunds
    version: 1
    tools: ["stripe.refund.*"]
    rules:
      - { name: small, when: 'args.amount <= 5000 && args.currency == "usd"', decision: allow, reason_code: refund.small }
`)
	})
	g, err := gate.New(gate.Options{Store: f.store, Recorder: nowhere{}, RedactKey: make([]byte, 32)})
	if err != nil {
		b.Fatal(err)
	}
	g.Load(f.rules)
	const body = "amount=4900&charge=ch_1PbzIRLkdIwHu7ix0xkNyWmD&reason=requested_by_customer&currency=usd&metadata%5Border%5D=6735"
	b.ReportAllocs()
	for b.Loop() {
		permit, refusal := g.Check(context.Background(), &gate.Request{
			Door: gate.DoorConnect, Identity: g.ConfigIdentity(), Body: text(body),
			Head: mapping.Request{
				Method: "POST", Scheme: "https", Authority: "api.stripe.com", Host: "api.stripe.com", Target: "/v1/refunds", ContentLength: int64(len(body)),
				Header: map[string][]string{
					"Content-Type": {"application/x-www-form-urlencoded"}, "Authorization": {"Bearer sk_test_1234567890"}, "User-Agent": {"Stripe/v1 NodeBindings/17.0.0"},
					"Accept": {"application/json"}, "Idempotency-Key": {"stripe-node-retry-0e3c2a8d"}, "Stripe-Version": {"2025-06-30"},
				},
			},
		})
		if permit == nil {
			b.Fatal(refusal.Decision.Explain.Summary)
		}
		permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200, Bytes: 300})
	}
}
