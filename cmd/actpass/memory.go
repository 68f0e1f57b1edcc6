package main

import (
	"io/fs"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

const (
	// growth is how much the heap may grow between two collections, in percent of
	// what lives: a sidecar keeps some 12 MB alive and makes 30 KB of garbage a
	// call, so that Go's own 100 would collect after every few hundred calls.
	growth = 400
	// softLimit makes collections more frequent instead of the heap larger, where
	// nothing else bounds it. It is not a bound on what must live.
	softLimit = 512 << 20
	// limitShare of a container's memory is for Go's heap; the rest is for what Go
	// does not know of, such as SQLite's caches.
	limitShare = 0.8
)

// tuneMemory sets the pace of garbage collection, save where GOGC or GOMEMLIMIT
// say otherwise. It comes before the catalogue is read, which Go's own pace would
// collect seven times.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(growth)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit(os.DirFS("/sys/fs/cgroup"), softLimit))
	}
}

// memoryLimit is limit, or less where the container has less: memory.max of cgroup
// v2, memory.limit_in_bytes of v1.
func memoryLimit(cgroup fs.FS, limit int64) int64 {
	for _, name := range []string{"memory.max", "memory/memory.limit_in_bytes"} {
		b, err := fs.ReadFile(cgroup, name)
		if err != nil {
			continue
		}
		// "max" is no number, and means none.
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 && n < math.MaxInt64/2 {
			limit = min(limit, int64(float64(n)*limitShare))
		}
	}
	return limit
}

// releaseMemory gives back what reading configuration, rules and policies took:
// many times what the compiled form needs. Twice, because pools keep what they
// hold for one collection more.
func releaseMemory() {
	runtime.GC()
	debug.FreeOSMemory()
	releaseProgram()
}
