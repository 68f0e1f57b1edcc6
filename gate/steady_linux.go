package gate

import (
	"time"

	"golang.org/x/sys/unix"
)

// sinceBoot counts on while the machine sleeps, which Go's monotonic clock does
// not; otherwise every sleep would make windows longer.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil { // before Linux 2.6.39, or forbidden
		return sinceStart()
	}
	return time.Duration(ts.Nano())
}
