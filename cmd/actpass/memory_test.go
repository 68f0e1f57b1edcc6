package main

import (
	"testing"
	"testing/fstest"
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
		if got := memoryLimit(fstest.MapFS{c.file: {Data: []byte(c.content)}}); got != c.want {
			t.Errorf("%s of %q: %d, want %d", c.file, c.content, got, c.want)
		}
	}
}
