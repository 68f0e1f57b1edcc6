package gate_test

import (
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/store"
)

// TestReplicasCountByOneClock: two sidecars on one store, whose machines' clocks are
// apart. Each call at the slow one looks like a clock that was set back, which would
// age all that is used; a fleet counts by the clock of its database.
func TestReplicasCountByOneClock(t *testing.T) {
	shared := store.NewMemory()
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var passed time.Duration
	r := rules(t, "enforce", freeRefunds+`    limits: [{ name: twenty, key: [agent_id], max: 20, window: 1h, decision: deny, reason_code: x.twenty }]
`)
	replica := func(off time.Duration) *fixture {
		t.Helper()
		rec := &recorder{}
		g, err := gate.New(gate.Options{
			Store: shared, Recorder: rec, RedactKey: make([]byte, 32),
			Now: func() time.Time { return began.Add(off + passed) }, Elapsed: func() time.Duration { return off/7 + passed },
		})
		if err != nil {
			t.Fatal(err)
		}
		g.CountLimitsFrom(began)
		g.Load(r)
		return &fixture{Gate: g, rec: rec, rules: r}
	}
	list := []*fixture{replica(0), replica(5 * time.Minute), replica(-7 * time.Minute)}
	let := 0
	for i := range 120 {
		f := list[i%len(list)]
		if permit, _ := f.Check(t.Context(), f.refund("1")); permit != nil {
			permit.Done(fine)
			let++
		}
		passed += 20 * time.Second
	}
	if let != 20 {
		t.Errorf("%d calls in forty minutes, and 20 an hour are the limit", let)
	}
	// Its end is everybody's.
	passed += 21 * time.Minute
	for i, f := range list {
		if permit, ref := f.Check(t.Context(), f.refund("1")); permit == nil {
			t.Errorf("replica %d after an hour: %+v", i, ref)
		}
	}
	// The database's clock is read again, for instance after a failover.
	list[0].CountLimitsFrom(began.Add(passed + 2*time.Hour))
	if permit, ref := list[0].Check(t.Context(), list[0].refund("1")); permit == nil {
		t.Errorf("%+v", ref)
	}
}
