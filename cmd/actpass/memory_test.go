package main

import (
	"testing"
	"testing/fstest"
	"time"
)

func TestMemoryLimit(t *testing.T) {
	for _, c := range []struct {
		file, content string
		want          int64
	}{
		{"none", "", softLimit},
		{"memory.max", "max\n", softLimit},
		{"memory.max", "100000000\n", 80_000_000},
		{"memory.max", "107374182400\n", softLimit},
		{"memory/memory.limit_in_bytes", "50000000\n", 40_000_000},
		{"memory/memory.limit_in_bytes", "9223372036854771712\n", softLimit}, // v1's way to say none
		{"memory.max", "-5\n", softLimit},
	} {
		if got := memoryLimit(fstest.MapFS{c.file: {Data: []byte(c.content)}}, softLimit); got != c.want {
			t.Errorf("%s of %q: %d, want %d", c.file, c.content, got, c.want)
		}
	}
}

// TestHoldMemory: the pace follows the held calls in steps, and memory is given back
// once for each wave of them, when it is over.
func TestHoldMemory(t *testing.T) {
	if got := holdPace(0, false); got != growth {
		t.Errorf("%d percent without held calls, not %d", got, growth)
	}
	for n := holdStep; n <= 20_000; n += holdStep {
		if now, before := holdPace(n, false), holdPace(n-holdStep, false); now > before || now < 100*holdRoom/perHold {
			t.Fatalf("%d percent with %d, %d with fewer", now, n, before)
		}
		if wave, calm := holdPace(n, true), holdPace(n, false); wave > calm/2 || wave < 100*wavePerHold/perHold {
			t.Fatalf("%d percent with %d in a wave, %d without", wave, n, calm)
		}
	}
	var paces []int
	var wave bool // at the last of them
	var released int
	var timer func()
	m := &holdMemory{
		pace: func(n int, w bool) { paces, wave = append(paces, n), w }, release: func() { released++ },
		after: func(_ time.Duration, f func()) {
			if timer != nil {
				t.Fatal("two timers at once")
			}
			timer = f
		},
	}
	fire := func() { f := timer; timer = nil; f() }
	hold := func(from, to int) {
		for step := 1 - 2*min(1, max(0, from-to)); from != to; {
			from += step
			m.held(from)
		}
	}
	hold(0, holdStep-1)
	if len(paces) != 0 || timer != nil {
		t.Fatal("a few calls change the pace")
	}
	hold(holdStep-1, 1000)
	if len(paces) != 1000/holdStep {
		t.Errorf("paces %v", paces)
	}
	hold(1000, 2000)
	fire()
	if released != 0 || timer == nil {
		t.Fatal("given back while more came")
	}
	if !wave {
		t.Error("the pace is not that of a wave")
	}
	fire()
	if wave || paces[len(paces)-1] != 2000 {
		t.Error("the pace is that of a wave after it")
	}
	if released != 1 || timer != nil {
		t.Fatalf("given back %d times after the wave", released)
	}
	hold(2000, 2100)
	if timer != nil {
		t.Error("a few more are a wave")
	}
	hold(2100, 0)
	if last := paces[len(paces)-1]; last > holdStep {
		t.Errorf("the pace is that of %d when none is held", last)
	}
	hold(0, 600)
	fire()
	fire()
	if released != 2 {
		t.Errorf("given back %d times after two waves", released)
	}
}
