package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxDuration bounds every duration of a policy file.
const maxDuration = 366 * 24 * time.Hour

// parseDuration reads a duration of whole seconds: Go's notation (1h30m, 15m)
// and days (7d). A bare number is refused: nobody can tell its unit.
func parseDuration(s string) (time.Duration, error) {
	fault := fmt.Errorf("%q is not a duration: write a whole number and a unit, such as 30s, 15m, 24h or 7d", s)
	var d time.Duration
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fault
		}
		d = time.Duration(n) * 24 * time.Hour
	} else {
		var err error
		if d, err = time.ParseDuration(s); err != nil {
			return 0, fault
		}
	}
	switch {
	case d < time.Second:
		return 0, fmt.Errorf("the duration %s is too short: at least 1s", s)
	case d > maxDuration:
		return 0, fmt.Errorf("the duration %s is too long: at most 366d", s)
	case d%time.Second != 0:
		return 0, fmt.Errorf("the duration %s is not a whole number of seconds", s)
	}
	return d, nil
}

// formatDuration writes a duration the way an author would: 24h, 7d, 90m.
func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d > day && d%day == 0:
		return strconv.FormatInt(int64(d/day), 10) + "d"
	case d%time.Hour == 0:
		return strconv.FormatInt(int64(d/time.Hour), 10) + "h"
	case d%time.Minute == 0:
		return strconv.FormatInt(int64(d/time.Minute), 10) + "m"
	}
	return strconv.FormatInt(int64(d/time.Second), 10) + "s"
}
