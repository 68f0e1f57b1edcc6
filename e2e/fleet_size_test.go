package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/store/pgtest"
)

// TestFleetSize: many sidecars, each a process, on one PostgreSQL, asked for decisions
// as fast as two thousand a second; all that they recorded comes to the control, once.
// It takes minutes and gigabytes: ACTPASS_FLEET says how many.
func TestFleetSize(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("ACTPASS_FLEET"))
	if n == 0 {
		t.Skip("ACTPASS_FLEET=200 starts so many sidecars")
	}
	pg, remove, err := pgtest.New("-c max_connections=1000")
	must(t, err)
	t.Cleanup(remove)
	// The sidecars are on one disk here, which they are not in a cluster: its syncs are
	// not what is measured.
	ctl, _ := controlled(t, 0, pg.Database(t), settings{extra: "evidence: { durability: async }"})
	list := make([]*sidecar, n)
	began := time.Now()
	var wg sync.WaitGroup
	gate := make(chan struct{}, 8)
	raw, err := os.ReadFile(ctl.config)
	must(t, err)
	for i := range list {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			dir := t.TempDir()
			must(t, os.CopyFS(filepath.Join(dir, "policies"), os.DirFS(filepath.Join(ctl.dir, "policies"))))
			list[i] = &sidecar{t: t, dir: dir, config: filepath.Join(dir, "config.yaml"), admin: ctl.admin}
			must(t, os.WriteFile(list[i].config, raw, 0o600))
			list[i].run()
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, sc := range list {
			sc.kill()
		}
	})
	t.Logf("%d sidecars are ready after %s", n, time.Since(began).Round(time.Millisecond))

	const rate, lasts, clients = 2000, 15 * time.Second, 64
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	work := make(chan int, rate)
	var done, failed atomic.Int64
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1, MaxIdleConns: 2 * n}}
	for range clients {
		wg.Go(func() {
			for i := range work {
				c := api.NewClient("http://"+list[i%n].api, ctl.admin, client)
				_, _, err := c.Preflight(context.Background(), api.Action{Tool: "stripe.charge.retrieve", Resource: fmt.Sprintf("stripe:charge:ch_%d", i), AgentID: "support_agent"})
				if err != nil {
					if failed.Add(1) <= 3 {
						t.Log(err)
					}
					continue
				}
				done.Add(1)
			}
		})
	}
	began = time.Now()
	for i := 0; time.Since(began) < lasts; {
		<-tick.C
		for range rate / 100 {
			select {
			case work <- i:
				i++
			default: // they are behind
			}
		}
	}
	close(work)
	wg.Wait()
	took := time.Since(began)
	t.Logf("%d decisions in %s, %.0f a second, %d failed", done.Load(), took.Round(time.Millisecond), float64(done.Load())/took.Seconds(), failed.Load())
	ended := time.Now()
	count := func() (sum int64) {
		counts, err := ctl.client().Counts(context.Background(), time.Now().Add(-time.Hour), "hour")
		must(t, err)
		for _, c := range counts {
			if c.Tool == "stripe.charge.retrieve" {
				sum += int64(c.Count)
			}
		}
		return sum
	}
	becomes(t, 3*time.Minute, "the control has all decisions", func() bool { return count() >= done.Load() })
	t.Logf("the control shows all of them %s after the last", time.Since(ended).Round(time.Millisecond))
	if sum := count(); sum < done.Load() || sum > done.Load()+failed.Load() {
		t.Errorf("the control counts %d decisions, %d were given, %d failed", sum, done.Load(), failed.Load())
	}
	r, err := ctl.client().Verify(context.Background())
	must(t, err)
	if !r.OK || len(r.Logs) != n+1 {
		t.Errorf("%d logs, verified: %v %+v", len(r.Logs), r.OK, r.Finding)
	}
}
