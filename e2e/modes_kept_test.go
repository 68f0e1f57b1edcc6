package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/store/pgtest"
)

// TestModesWithoutDatabase: what was tightened while running holds at a start without
// the database, until it can be asked again. What was known of it and cannot be read
// any more is no reason to be looser: nothing starts.
func TestModesWithoutDatabase(t *testing.T) {
	pg := pgtest.Start(t)
	u := newUpstream(t)
	u.handle(refunded)
	sc := fleet(t, 1, pg.Database(t), settings{front: u, mode: "monitor", policies: map[string]string{"p.yaml": `policies:
  - { name: p, version: 1, tools: ["stripe.refund.*"], rules: [{ name: never, decision: deny, reason_code: t.never }] }
`}})[0]
	ctx := context.Background()
	refund := func() int {
		a, err := refundOf(sc, "ch_1", 100)
		must(t, err)
		return a.status
	}
	if got := refund(); got != 200 {
		t.Fatalf("under monitor: %d", got)
	}
	m, err := sc.client().SetMode(ctx, api.NewMode{Tool: "stripe.refund.create", Mode: "enforce", Reason: "now"})
	must(t, err)
	kept := filepath.Join(sc.dir, "data", "modes.json")
	becomes(t, 30*time.Second, "the mode is kept on disk", func() bool {
		b, _ := os.ReadFile(kept)
		return strings.Contains(string(b), m.ID)
	})
	must(t, pg.Stop())
	sc.kill()
	sc.run()
	if got := refund(); got != 403 {
		t.Errorf("started without the database: %d", got)
	}
	sc.kill()
	whole, err := os.ReadFile(kept)
	must(t, err)
	must(t, os.WriteFile(kept, whole[:len(whole)/2], 0o600))
	if out, err := exec.Command(binary, "serve", "--config", sc.config).CombinedOutput(); err == nil || !strings.Contains(string(out), "wait for the database, or remove the file") {
		t.Errorf("half of the modes: %v %s", err, out)
	}
	must(t, os.WriteFile(kept, whole, 0o600))

	must(t, pg.Restart())
	sc.run()
	if got := refund(); got != 403 {
		t.Errorf("with the database again: %d", got)
	}
	must(t, sc.client().ClearMode(ctx, m.ID, "enough"))
	if got := refund(); got != 200 {
		t.Errorf("cleared: %d", got)
	}
}
