package mapping

import (
	"bytes"
	"compress/gzip"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cpuTime is what the thread has used of a CPU: how long something takes when
// nothing else runs, as far as that can be seen when something does.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	const thread = 1 // RUSAGE_THREAD
	if err := syscall.Getrusage(thread, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestHostileBodies holds each to 64 MiB of garbage in all, and to CPU time that
// a busy machine keeps too; docs/performance.md has the figures.
func TestHostileBodies(t *testing.T) {
	s := mustCompile(t, kindRules)
	var bomb bytes.Buffer
	zw := gzip.NewWriter(&bomb)
	for range 64 {
		_, _ = zw.Write(make([]byte, 1<<20))
	}
	_ = zw.Close()
	var keys strings.Builder
	for i := range 1_000_000 {
		keys.WriteString(`,"k` + strconv.Itoa(i) + `":1`)
	}
	for _, c := range []struct{ name, body, encoding, want string }{
		{"depth 10,000", strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000), "", "body/400"},
		{"a million keys", "{" + keys.String()[1:] + "}", "", "body/413"},
		{"gzip bomb", bomb.String(), "gzip", "encoding/413"},
		{"lists that promise much", `{"a":[` + strings.Repeat("["+strings.Repeat("1,", 80)+"1],", 1200) + `"` + strings.Repeat("x", 900<<10) + `"]}`, "", ""},
		{"as many values as may be", `{"a":[` + strings.Repeat(`{"a":1},`, maxValues/2-2) + `1]}`, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := kindRequest("POST", "/json", "application/json", c.body)
			if c.encoding != "" {
				req.Header["Content-Encoding"] = []string{c.encoding}
			}
			body := []byte(c.body)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			var before, after runtime.MemStats
			const rounds = 5
			used, took := uint64(0), time.Duration(0)
			for range rounds {
				runtime.ReadMemStats(&before)
				start := cpuTime(t)
				r := s.Match(req).Read(body, true)
				took += (cpuTime(t) - start) / rounds
				runtime.ReadMemStats(&after)
				used = max(used, after.TotalAlloc-before.TotalAlloc)
				if got := classes(r.Ambiguous); got != c.want {
					t.Fatalf("refused with %q, want %q", got, c.want)
				}
			}
			t.Logf("%v of CPU, %.1f MiB", took, float64(used)/(1<<20))
			if used > 64<<20 {
				t.Errorf("took %d MiB", used>>20)
			}
			if took > 100*time.Millisecond { // 50 ms on a quiet machine
				t.Errorf("took %v", took)
			}
		})
	}
}

func BenchmarkJSONMiB(b *testing.B) {
	atSidecarsPace(b)
	s := mustCompile(b, kindRules)
	body := []byte(`{"rows":[{"n":0}`)
	for i := 1; len(body) < 1<<20-100; i++ {
		body = append(body, `,{"n":`+strconv.Itoa(i)+`,"name":"some text of a row","amount":12.5}`...)
	}
	body = append(body, "]}"...)
	req := kindRequest("POST", "/json", "application/json", string(body))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if r := s.Match(req).Read(body, true); len(r.Ambiguous) > 0 {
			b.Fatal(r.Ambiguous)
		}
	}
}
