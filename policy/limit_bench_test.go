package policy

import (
	"testing"
	"time"
)

// BenchmarkLimit is what a limit costs in memory: reading its key and sum, and
// finding the calendar window that it is in.
func BenchmarkLimit(b *testing.B) {
	for _, window := range []string{"24h", "month, zone: Europe/Berlin"} {
		b.Run(window[:3], func(b *testing.B) {
			s := compile(b, Options{}, policyWith("      - { name: r, decision: allow }\n    limits:\n      - { name: l, key: [agent_id, args.currency], sum: args.n, max: 10, window: "+window+", decision: deny, reason_code: a.b }\n"))
			in := &Input{Tool: "t", AgentID: "support_agent", Args: m{"n": int64(1), "currency": "usd"}, Now: time.Now()}
			l := s.policies[0].limits[0]
			act := &activation{in: in}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.reserve(act); err != nil {
					b.Fatal(err)
				}
				l.Bounds(in.Now)
			}
		})
	}
}
