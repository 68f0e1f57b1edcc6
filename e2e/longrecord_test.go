package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
)

// TestALongRecord asks the running sidecar about a week of a million calls
// (ACTPASS_LONG; else of 20,000): a list of events, whatever it is filtered by, and
// readiness that was asked for before, are each answered in a moment.
func TestALongRecord(t *testing.T) {
	n := 20_000
	if os.Getenv("ACTPASS_LONG") != "" {
		n = 1_000_000
	}
	sc := &sidecar{t: t, dir: t.TempDir()}
	sc.config = settings{mode: "monitor"}.write(t, sc.dir)
	begins := time.Now().Add(-8 * 24 * time.Hour)
	weekOfTraffic(t, filepath.Join(sc.dir, "data"), []byte(fenced(t, "../docs/review.md", "yaml", 0)), begins, n, 1)
	sc.run()
	t.Cleanup(sc.stop)
	sc.admin = sc.key("--name", "admin", "--role", "admin")
	ctx, client := context.Background(), sc.client()
	newest := begins.Add(time.Duration(n-1) * (7 * 24 * time.Hour / time.Duration(n)))
	becomes(t, 3*time.Minute, "the index is up to date", func() bool {
		p, err := client.Events(ctx, api.EventQuery{Kind: "action", Limit: 1})
		must(t, err)
		var e struct{ Time time.Time }
		return len(p.Data) == 1 && json.Unmarshal(p.Data[0], &e) == nil && !e.Time.Before(newest.Truncate(time.Microsecond))
	})
	quick := func(what string, most time.Duration, ask func()) {
		t.Helper()
		best := time.Hour
		for range 10 { // the machine may have other work
			began := time.Now()
			ask()
			best = min(best, time.Since(began))
		}
		if best > most {
			t.Errorf("%s of %d calls takes %s", what, n, best)
		}
		t.Logf("%s of %d calls: %s", what, n, best)
	}
	for _, c := range []struct {
		q    api.EventQuery
		some bool
	}{
		{api.EventQuery{}, true},
		{api.EventQuery{Decision: "deny"}, true},
		{api.EventQuery{Tool: "github.repo.*", Agent: "triage_agent"}, true},
		{api.EventQuery{Agent: "nobody"}, false},
		// Both are in every minute, and never together.
		{api.EventQuery{Agent: "triage_agent", Decision: "require_approval"}, false},
		{api.EventQuery{Tool: "github.*", Agent: "report_agent"}, false},
	} {
		quick("a list by "+c.q.Tool+" "+c.q.Agent+" "+c.q.Decision, 100*time.Millisecond, func() {
			p, err := client.Events(ctx, c.q)
			must(t, err)
			if len(p.Data) > 0 != c.some {
				t.Errorf("%+v: %d events", c.q, len(p.Data))
			}
		})
	}
	ask := api.ReadinessQuery{Since: begins.Add(-time.Hour)}
	for {
		_, err := client.Readiness(ctx, ask)
		if e, ok := err.(*api.Error); ok && e.Code == api.ReadingCode {
			continue // it goes on
		}
		must(t, err)
		break
	}
	quick("readiness, asked for again,", 100*time.Millisecond, func() {
		r, err := client.Readiness(ctx, ask)
		must(t, err)
		if r.Calls != n {
			t.Errorf("%d calls", r.Calls)
		}
	})
}
