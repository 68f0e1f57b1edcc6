package api

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// When reads a time as people and programs give it, in the API, on the command
// line and in the dashboard's addresses alike: a duration back from now (30m, 24h,
// 7d), a date (its midnight in UTC), or a time in RFC 3339. "" is the zero time.
func When(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	span, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		if n, err = strconv.Atoi(days); n > 36500 {
			n = -1
		}
		span = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || span < 0 {
		return time.Time{}, fmt.Errorf("%.64q is no duration back from now (24h, 7d), date (2026-01-31) or time in RFC 3339 (2026-01-31T09:00:00Z)", text)
	}
	return now.Add(-span).UTC(), nil
}
