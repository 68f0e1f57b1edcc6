package ledger

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// cpu is the processor time of this process so far.
func cpu() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// benchRecord has the size of an ordinary event, about 1 KiB.
func benchRecord(i int) []byte {
	e := &evidence.Event{
		ID: fmt.Sprintf("ev_0190c7a2-7b1e-7c3e-9d10-%012d", i), Kind: evidence.KindAction, Time: evidence.Time{Time: time.Unix(1_700_000_000, 0)},
		TenantID: "acme", AgentID: "support_agent", UserID: "user_456", Goal: "resolve_refund_request", IdentitySource: "api_key", Door: "connect",
		Decision: evidence.Decision{
			Decision: "allow", ReasonCode: "refund.small_in_scope", RiskTier: "high", Tool: "stripe.refund.create", Resource: "stripe:charge:ch_123",
			Explain: evidence.Explain{Summary: "Policy refund_policy v3: allow.", MatchedRules: []string{"small_refund_auto_approve"}},
			Mode:    "monitor", Enforcement: "none", Would: map[string]string{"warn": "none", "enforce": "none", "strict": "block"},
		},
		Request: &evidence.Request{Method: "POST", Authority: "api.stripe.com", Path: "/v1/refunds", ContentType: "application/x-www-form-urlencoded", Bytes: 44},
		Args:    map[string]any{"amount": int64(4900), "charge": "ch_123", "currency": "usd"},
		Rule:    &evidence.Position{File: "policies/refund.yaml", Line: 7, Name: "small_refund_auto_approve"},
		Outcome: &evidence.Outcome{State: evidence.StatePending},
	}
	b, err := e.Encode()
	if err != nil {
		panic(err)
	}
	return b
}

func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			l := open(b, b.TempDir(), Options{})
			rec := benchRecord(1)
			b.SetBytes(int64(len(rec)))
			b.SetParallelism(max(writers/2, 1))
			var n atomic.Int64
			start, began := cpu(), time.Now()
			b.ResetTimer()
			if writers == 1 {
				for range b.N {
					mustAppend(b, l, rec)
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := l.Append(context.Background(), asRecord(rec)); err != nil {
							b.Error(err)
							return
						}
						n.Add(1)
					}
				})
			}
			b.StopTimer()
			b.ReportMetric(float64(cpu()-start)/float64(b.N)/1000, "cpu-µs/op")
			b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "records/s")
			b.ReportAllocs()
		})
	}
}

func BenchmarkLater(b *testing.B) {
	l := open(b, b.TempDir(), Options{})
	rec := outcome("ev_0190c7a2-7b1e-7c3e-9d10-2b8a5b6f0001")
	start := cpu()
	for b.Loop() {
		for !l.Later(asRecord(rec)) {
			if err := l.Flush(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := l.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(cpu()-start)/float64(b.N)/1000, "cpu-µs/op")
}

func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("records=%d", n), func(b *testing.B) {
			dir := b.TempDir()
			fill(b, dir, n)
			for b.Loop() {
				l, err := Open(dir, Options{})
				if err != nil {
					b.Fatal(err)
				}
				if l.Size() != uint64(n) || l.Recovered().Rescanned != 0 {
					b.Fatalf("%+v", l.Recovered())
				}
				b.StopTimer()
				closeLog(b, l)
				b.StartTimer()
			}
		})
	}
}

func BenchmarkVerifyDir(b *testing.B) {
	dir := b.TempDir()
	fill(b, dir, 20_000)
	for b.Loop() {
		rep, err := VerifyDir(dir)
		if err != nil || rep.Fault != nil {
			b.Fatal(rep.Fault, err)
		}
		b.SetBytes(rep.Bytes)
	}
}

func BenchmarkRead(b *testing.B) {
	dir := b.TempDir()
	fill(b, dir, 20_000)
	l := open(b, dir, Options{})
	b.Run("one", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if es, err := l.Read(uint64(i*7919%20_000), 1); err != nil || len(es) != 1 {
				b.Fatal(err)
			}
		}
	})
	b.Run("page of 100", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if es, err := l.Read(uint64(i*100%19_900), 100); err != nil || len(es) != 100 {
				b.Fatal(err)
			}
		}
	})
}

func fill(b *testing.B, dir string, n int) {
	b.Helper()
	l := open(b, dir, Options{})
	for i := range n {
		rec := benchRecord(i)
		o := outcome(fmt.Sprintf("ev_0190c7a2-7b1e-7c3e-9d10-%012d", i-1))
		if i%2 == 1 {
			rec = o
		}
		for !l.Later(asRecord(rec)) {
			if err := l.Flush(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := l.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
	closeLog(b, l)
}
