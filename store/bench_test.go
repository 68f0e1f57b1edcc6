package store

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// BenchmarkReserve shows what grouping is worth: one writer pays an fsync each,
// 64 share it.
func BenchmarkReserve(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := openTest(b, filepath.Join(b.TempDir(), "x.db"))
			var n atomic.Int64
			b.SetParallelism((writers + 1) / 2) // times GOMAXPROCS
			body := func() {
				i := n.Add(1)
				_, _, err := s.Reserve(context.Background(), "acme", fmt.Sprintf("ev_%d", i), []gate.Use{
					{Limit: "l", Key: "a", Amount: 1, Max: 1 << 40, Window: 24 * time.Hour},
				}, start.Add(time.Duration(i)*time.Millisecond))
				if err != nil {
					b.Error(err)
				}
			}
			b.ResetTimer()
			if writers == 1 {
				for range b.N {
					body()
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					body()
				}
			})
		})
	}
}

func BenchmarkKeyByHash(b *testing.B) {
	s := openTest(b, filepath.Join(b.TempDir(), "x.db"))
	k := gate.Key{ID: "key_1", TenantID: "acme", Role: gate.RoleGateway, CreatedAt: start, Groups: []string{"a"}}
	if err := s.CreateKey(context.Background(), k, [32]byte{1}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.KeyByHash(context.Background(), [32]byte{1}); err != nil {
			b.Fatal(err)
		}
	}
}

func processor() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkIndex is the cost of one call (intent and outcome) in batches as they
// come at that many calls per batch. far: the outcome comes in a later batch.
func BenchmarkIndex(b *testing.B) {
	for _, calls := range []int{1, 25, 1000} {
		for _, far := range []bool{false, true} {
			b.Run(fmt.Sprintf("calls=%d/far=%v", calls, far), func(b *testing.B) {
				ix := openIndex(b, filepath.Join(b.TempDir(), "index.db"))
				f := &follower{ix: ix, src: newSliceLog("k")}
				ctx := context.Background()
				if err := f.begin(ctx); err != nil {
					b.Fatal(err)
				}
				defer f.end()
				var batches [][]evidence.Entry
				next := uint64(0)
				add := func(batch []evidence.Entry, records ...[]byte) []evidence.Entry {
					for _, r := range records {
						batch = append(batch, evidence.Entry{Index: next, Record: r})
						next++
					}
					return batch
				}
				for i := 0; i < b.N; {
					var one, two []evidence.Entry
					from := i
					for ; i < b.N && i < from+calls; i++ {
						one = add(one, encode(b, action(i)))
						if !far {
							one = add(one, encode(b, outcomeOf(i, evidence.StateForwarded, 200)))
						}
					}
					for j := from; far && j < i; j++ {
						two = add(two, encode(b, outcomeOf(j, evidence.StateForwarded, 200)))
					}
					batches = append(batches, one)
					if far {
						batches = append(batches, two)
					}
				}
				b.ResetTimer()
				began := processor()
				for _, batch := range batches {
					if err := f.apply(ctx, batch); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(processor()-began)/float64(b.N), "cpu-ns/call")
			})
		}
	}
}

// BenchmarkEvents is a page with a filter that few events pass.
func BenchmarkEvents(b *testing.B) {
	ix := openIndex(b, filepath.Join(b.TempDir(), "index.db"))
	log := newSliceLog("k")
	const n = 100_000
	for i := range n {
		log.add(encode(b, action(i, func(e *evidence.Event) {
			if i%10_000 == 0 {
				e.Decision.Decision = "deny"
			}
		})))
	}
	follow(b, ix, log)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := ix.CatchUp(ctx, n); err != nil {
		b.Fatal(err)
	}
	for name, q := range map[string]Query{
		"newest": {Tenant: "acme"},
		"rare":   {Tenant: "acme", Decision: "deny"},
		"hour":   {Tenant: "acme", Since: indexStart.Add(5 * time.Hour), Until: indexStart.Add(6 * time.Hour)},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := ix.Events(context.Background(), q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
