package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/store/pgtest"
)

// TestFleetSize: many sidecars, each a process, on one PostgreSQL, asked for decisions
// as fast as two thousand a second; all that they recorded comes to the control, once.
// It takes minutes and gigabytes: ACTPASS_FLEET says how many, ACTPASS_FLEET_RATE how
// many decisions a second are asked for (2000).
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

	spent := func(what string, calls int64, since usage) {
		now := used(t, pg.Port, list)
		t.Logf("%s: processor seconds: %s", what, now.minus(since))
		if calls > 0 {
			t.Logf("%s: each call %.2f ms of the machine", what, 1000*(now.busy-since.busy)/float64(calls))
		}
	}
	idle := used(t, pg.Port, list)
	time.Sleep(10 * time.Second)
	spent("10 s without calls", 0, idle)

	rate := 2000
	if n, err := strconv.Atoi(os.Getenv("ACTPASS_FLEET_RATE")); err == nil {
		rate = n
	}
	const lasts, clients = 15 * time.Second, 64
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
	before := used(t, pg.Port, list)
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
	spent("the calls", done.Load(), before)
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

// usage is the processor time, in seconds, of all so far.
type usage struct{ sidecars, database, callers, busy, waiting float64 }

func (u usage) minus(o usage) string {
	return fmt.Sprintf("%.1f the sidecars, %.1f the database, %.1f the callers; the machine %.1f, and %.1f waited for the disk",
		u.sidecars-o.sidecars, u.database-o.database, u.callers-o.callers, u.busy-o.busy, u.waiting-o.waiting)
}

func used(t *testing.T, port int, list []*sidecar) (u usage) {
	t.Helper()
	for _, sc := range list {
		u.sidecars += sc.cpu()
	}
	var self syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &self))
	u.callers = time.Duration(self.Utime.Nano() + self.Stime.Nano()).Seconds()
	stat, err := os.ReadFile("/proc/stat")
	must(t, err)
	var ticks [7]float64 // user nice system idle iowait irq softirq
	_, err = fmt.Sscanf(string(stat), "cpu %g %g %g %g %g %g %g", &ticks[0], &ticks[1], &ticks[2], &ticks[3], &ticks[4], &ticks[5], &ticks[6])
	must(t, err)
	u.busy, u.waiting = (ticks[0]+ticks[1]+ticks[2]+ticks[5]+ticks[6])/100, ticks[4]/100
	// The server's own process and its children; what those of before used is its own.
	master := ""
	procs, err := filepath.Glob("/proc/[0-9]*")
	must(t, err)
	for range 2 {
		for _, dir := range procs {
			raw, err := os.ReadFile(dir + "/stat")
			if err != nil || !strings.Contains(string(raw), "(postgres)") {
				continue
			}
			f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
			switch {
			case master == "":
				line, _ := os.ReadFile(dir + "/cmdline")
				if strings.Contains(string(line), fmt.Sprintf("-p\x00%d\x00", port)) {
					master = filepath.Base(dir)
				}
			case f[1] == master || filepath.Base(dir) == master:
				for _, i := range []int{11, 12} {
					n, _ := strconv.ParseFloat(f[i], 64)
					u.database += n / 100
				}
				if filepath.Base(dir) == master {
					for _, i := range []int{13, 14} {
						n, _ := strconv.ParseFloat(f[i], 64)
						u.database += n / 100
					}
				}
			}
		}
	}
	return u
}
