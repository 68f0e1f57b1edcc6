package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/notify"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/store"
)

// clocked is a store with a clock of its own.
type clocked struct {
	*store.Memory
	notify.Outbox
	now time.Time
	err error
}

func (c *clocked) Ping(ctx context.Context) error { return c.Memory.Ping(ctx) }

func (c *clocked) Clock(context.Context) (time.Time, error) { return c.now, c.err }

type forgets struct{}

func (forgets) Append(context.Context, evidence.Record) (evidence.Entry, error) {
	return evidence.Entry{}, nil
}
func (forgets) Later(evidence.Record) bool { return true }
func (forgets) Soon(evidence.Record) error { return nil }

// TestLimitsCountByTheSharedClock: what a sidecar of a fleet counts, it counts at the
// database's time.
func TestLimitsCountByTheSharedClock(t *testing.T) {
	db := &clocked{Memory: store.NewMemory(), now: time.Now().UTC().AddDate(0, 0, -10)}
	g, err := gate.New(gate.Options{Store: db, Recorder: forgets{}, RedactKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	set, err := policy.Compile([]policy.Source{{Name: "p.yaml", Data: []byte(`policies:
  - name: p
    version: 1
    tools: ["*"]
    rules: [{ name: any, decision: allow }]
    limits: [{ name: day, key: [agent_id], max: 1, window: day, decision: deny, reason_code: x.day }]
`)}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g.Load(&gate.Rules{Policy: set, Mode: gate.ModeEnforce, Identity: gate.Identity{TenantID: "acme"}})
	p := &program{store: db, gate: g, log: zap.NewNop()}
	if err := p.countByStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, _, err := g.Limits(t.Context(), gate.Identity{TenantID: "acme", KeyID: "k", Role: gate.RoleAdmin}, gate.LimitQuery{})
	if want := db.now.Truncate(24 * time.Hour); err != nil || len(list) != 1 || !list[0].Since.Equal(want) {
		t.Errorf("%+v %v: the day began at %s where the database is", list, err, want)
	}
	db.err = store.ErrAway
	if err := p.countByStore(t.Context()); !errors.Is(err, store.ErrAway) {
		t.Errorf("%v", err)
	}
}
