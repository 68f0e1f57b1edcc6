package policy

import (
	"fmt"
	"strings"
	"testing"
)

// manyPolicies makes n policies of five rules each, of which one covers
// tool.0.create, over and above the shipped example.
func manyPolicies(t testing.TB, n int) *Set {
	t.Helper()
	var b strings.Builder
	b.WriteString("policies:\n")
	for i := range n {
		fmt.Fprintf(&b, `
  - name: policy_%[1]d
    version: 1
    tools: ["tool%[1]d.*", "other.tool%[1]d"]
    rules:
      - { name: a, when: 'args.amount <= 100 && args.currency == "usd"', decision: allow }
      - { name: b, when: 'args.amount <= 200 && args.currency in ["usd", "eur"]', decision: allow }
      - { name: c, when: 'agent_id.startsWith("ops-") && args.amount <= 1000', decision: allow }
      - { name: d, when: 'args.amount <= 50000', decision: require_approval }
      - { name: e, decision: deny, reason_code: bench.over }
`, i)
	}
	s, err := Compile([]Source{{Name: "bench.yaml", Data: []byte(b.String())}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 200, 10_000} {
		s := manyPolicies(b, n)
		in := refund(int64(4900), "usd")
		in.Tool = "tool7.create"
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := s.Decide(in); d.Rule != "d" {
					b.Fatal(d.Summary)
				}
			}
		})
	}
	b.Run("example", func(b *testing.B) {
		s := example(b)
		in := refund(int64(4900), "usd")
		b.ReportAllocs()
		for b.Loop() {
			if d := s.Decide(in); d.Effect != Allow {
				b.Fatal(d.Summary)
			}
		}
	})
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		manyPolicies(b, 200)
	}
}

// TestAllocations: a decision is on the path of every call.
func TestAllocations(t *testing.T) {
	s := example(t)
	in := refund(int64(4900), "usd")
	if n := testing.AllocsPerRun(200, func() { s.Decide(in) }); n > 20 {
		t.Errorf("%v allocations for one decision", n)
	}
}
