package store

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/actpass/sidecar/gate"
)

// limitKey joins name and key so that no two pairs give the same text.
func limitKey(u gate.Use) string {
	return strconv.Itoa(len(u.Limit)) + ":" + u.Limit + u.Key
}

// splitLimitKey undoes limitKey.
func splitLimitKey(text string) (limit, key string) {
	length, rest, _ := strings.Cut(text, ":")
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 || n > len(rest) {
		return "", text
	}
	return rest[:n], rest[n:]
}

// fits says whether u may be taken where total is held. What is forced need not
// fit the limit, but must fit the sum.
func fits(u gate.Use, total int64) bool {
	if u.Force {
		return u.Amount <= math.MaxInt64-total
	}
	return u.Max >= 0 && u.Amount <= u.Max-total
}

// clockSlack is how far the time of one caller may lie behind that of another
// before it counts as a clock that was set back, in microseconds.
const clockSlack = int64(time.Second / time.Microsecond)

func slack(u gate.Use) int64 { return min(clockSlack, u.Window.Microseconds()/2) }

// windowStart is the time that u's uses must be later than to count at now.
func windowStart(u gate.Use, now int64) int64 {
	if u.Since.IsZero() {
		return now - u.Window.Microseconds()
	}
	return micros(u.Since) - 1
}

// setBack is by how much the clock was set back since seen, the time of a key's
// last reservation; 0 when it was not.
func setBack(u gate.Use, now, seen int64) int64 {
	if now >= seen-slack(u) {
		return 0
	}
	return seen - now
}

// readStart is windowStart for a reader, who does not move the uses of a clock
// that was set back: those of a sliding window count as old as they were, those
// of a calendar window that lie in the future count as of now.
func readStart(u gate.Use, now, seen int64) int64 {
	if u.Since.IsZero() {
		return windowStart(u, max(now, seen))
	}
	return windowStart(u, now)
}

// sweptSlack is more than the times of reservations that run side by side differ.
const sweptSlack = int64(time.Minute / time.Microsecond)

// swept says that uses which a sum from since on still holds may be gone: those of
// other keys are swept away by age, whether their sums have moved on or not.
func swept(since int64, u gate.Use, now int64) bool {
	return since < now-u.Window.Microseconds()-sweepGrace+sweptSlack
}
