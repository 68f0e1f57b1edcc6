package main

import (
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/store"
)

// TestSharesWithoutARecord: a share that no event stands for is given back at the
// start, where a record cannot get lost; with durability async it can, and with it
// the trace of a call that was sent.
func TestSharesWithoutARecord(t *testing.T) {
	for durability, want := range map[string]int64{"sync": 0, "async": 5} {
		trail, err := ledger.Open(t.TempDir(), ledger.Options{Async: durability == "async"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = trail.Close() })
		db := &clocked{Memory: store.NewMemory()}
		g, err := gate.New(gate.Options{Store: db, Recorder: trail, RedactKey: make([]byte, 32)})
		if err != nil {
			t.Fatal(err)
		}
		use := []gate.Use{{Limit: "p/day", Key: "k", Amount: 5, Max: 10, Window: time.Hour}}
		if _, _, err := db.Reserve(t.Context(), "acme", "ev_cut_off", use, time.Now()); err != nil {
			t.Fatal(err)
		}
		p := &program{store: db, gate: g, trail: trail, cfg: &config.Config{Evidence: config.Evidence{Durability: durability}}, log: zap.NewNop()}
		if err := p.recoverLimits(t.Context()); err != nil {
			t.Fatal(err)
		}
		used, err := db.Usage(t.Context(), "acme", use, time.Now())
		if err != nil || used[0] != want {
			t.Errorf("%s: %d are used, %v, want %d", durability, used[0], err, want)
		}
	}
}
