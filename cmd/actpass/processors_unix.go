//go:build unix

package main

import (
	"syscall"
	"time"
)

// processorTime is the CPU time of this process so far, its own and the system's
// for it.
func processorTime() (time.Duration, bool) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, false
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), true
}
