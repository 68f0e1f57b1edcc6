package gate_test

import (
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
)

// TestRetryOfAnExpiredHold: a client that comes back after the time is told what it
// would have been told had it waited; one that comes later asks anew.
func TestRetryOfAnExpiredHold(t *testing.T) {
	for name, c := range map[string]struct {
		approve bool
		after   time.Duration
		says    string
	}{
		"not decided in time": {false, time.Hour, "Nobody decided in time"},
		"not used in time":    {true, 15 * time.Minute, "It was approved, and not used in time"},
	} {
		f := newGate(t, "enforce", nil)
		_, held := f.Check(t.Context(), f.refund("25000"))
		if held == nil || held.Status != 503 {
			t.Fatalf("%s: %+v", name, held)
		}
		if c.approve {
			if _, err := f.Decide(t.Context(), approver, held.Approval, gate.Approve, "", nil); err != nil {
				t.Fatal(err)
			}
		}
		f.later(c.after + time.Second)
		for range 2 {
			permit, ref := f.Check(t.Context(), f.refund("25000"))
			if permit != nil || ref.Status != 403 || ref.Retry || ref.Decision.ReasonCode != gate.ReasonExpired || ref.Approval != held.Approval || !strings.Contains(ref.Sentence, c.says) {
				t.Fatalf("%s: %+v", name, ref)
			}
			f.later(29 * time.Second)
		}
		f.later(2 * time.Second)
		permit, ref := f.Check(t.Context(), f.refund("25000"))
		if permit != nil || ref.Status != 503 || ref.Approval == "" || ref.Approval == held.Approval {
			t.Errorf("%s: a minute later: %+v, want a new hold", name, ref)
		}
	}
}
