package store

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
)

func counted(t *testing.T, ix *Index, tenant string, minutes bool) map[Dim]int64 {
	t.Helper()
	list, err := ix.Counts(context.Background(), tenant, indexStart.Add(-24*time.Hour), minutes)
	if err != nil {
		t.Fatal(err)
	}
	sum := map[Dim]int64{}
	for _, c := range list {
		sum[c.Dim] += c.N
	}
	return sum
}

// TestRollupCountsWhatTheLogHolds compares the counts with a plain count of the
// same events, over a restart of the follower in the middle, and for two tenants.
func TestRollupCountsWhatTheLogHolds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "index.db")
	log := newSliceLog("k")
	want := map[string]map[Dim]int64{"acme": {}, "other": {}}
	add := func(i int) {
		e := action(i, func(e *evidence.Event) {
			e.TenantID = []string{"acme", "other", "acme"}[i%3]
			e.Tool = fmt.Sprintf("tool.%d", i%4)
			e.Would = map[string]string{"enforce": []string{"none", "block"}[i%2], "strict": "block"}
			if i%5 == 0 {
				e.MappingRule = &evidence.Position{File: "x.yaml", Line: 1}
			} else {
				e.MappingRule, e.Door = nil, []string{"forward", "api"}[i%2]
			}
			e.Kind = evidence.KindAction
		})
		d := Dim{
			Tenant: e.TenantID, Agent: e.AgentID, Tool: e.Tool, Mode: e.Mode, Decision: e.Decision.Decision, Enforcement: e.Enforcement,
			WouldEnforce: e.Would["enforce"], WouldStrict: e.Would["strict"], Mapping: MappingNone,
		}
		if i%5 == 0 {
			d.Mapping = MappingRule
		} else if i%2 == 1 {
			d.Mapping = MappingCaller
		}
		want[e.TenantID][d]++
		log.add(encode(t, e))
	}
	for half := range 2 {
		ix := openIndex(t, path)
		stop := follow(t, ix, log)
		for i := half * 150; i < (half+1)*150; i++ {
			add(i)
			if i%40 == 0 {
				catchUp(t, ix, log.Size())
			}
		}
		catchUp(t, ix, log.Size())
		for _, minutes := range []bool{true, false} {
			for tenant := range want {
				got := counted(t, ix, tenant, minutes)
				if len(got) != len(want[tenant]) {
					t.Errorf("%s: %d combinations, want %d", tenant, len(got), len(want[tenant]))
				}
				for d, n := range want[tenant] {
					if got[d] != n {
						t.Errorf("%s minutes=%v: %+v counted %d times, want %d", tenant, minutes, d, got[d], n)
					}
				}
			}
		}
		_ = stop()
		if err := ix.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRollupIsBounded(t *testing.T) {
	r := &rollup{
		exec:  func(context.Context, string, ...any) error { return nil },
		known: map[Dim]int64{}, tenants: map[string]int{}, pending: map[pendingCount]int64{},
	}
	for i := range maxDims + 100 {
		b := newBlock(uint64(i))
		read := reading{id: []byte("ev")}
		read.cols[colKind], read.cols[colTenant], read.cols[colTool] = []byte(evidence.KindAction), []byte("acme"), []byte(fmt.Sprint(i))
		r.add(b, b.add(0, &read))
	}
	if err := r.flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := len(r.known); n != maxDims+1 {
		t.Errorf("%d combinations are known, want %d and one for the others", n, maxDims)
	}
}

// TestRollupAfterRetention: what the log drops is not counted any more, to the hour.
func TestRollupAfterRetention(t *testing.T) {
	log := newSliceLog("k")
	add := func(i int) {
		log.add(encode(t, action(i, func(e *evidence.Event) {
			e.Time = evidence.Time{Time: indexStart.Add(time.Duration(i) * 10 * time.Second)}
		})))
	}
	for i := range 3 * blockSize {
		add(i)
	}
	ix := openIndex(t, filepath.Join(t.TempDir(), "index.db"))
	follow(t, ix, log)
	catchUp(t, ix, log.Size())
	sum := func() (n int64) {
		for _, c := range counted(t, ix, "acme", false) {
			n += c
		}
		return n
	}
	if n := sum(); n != 3*blockSize {
		t.Errorf("%d are counted", n)
	}
	log.mu.Lock()
	log.first = 2 * blockSize
	log.mu.Unlock()
	add(3 * blockSize)
	catchUp(t, ix, log.Size())
	if n := sum(); n < blockSize || n > blockSize+360+2 {
		t.Errorf("%d are counted of %d that are left", n, blockSize+1)
	}
}
