package api

import (
	"testing"
	"time"
)

func TestWhen(t *testing.T) {
	now := time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"":                          "0001-01-01T00:00:00Z",
		"30m":                       "2026-02-01T11:30:00Z",
		"24h":                       "2026-01-31T12:00:00Z",
		"7d":                        "2026-01-25T12:00:00Z",
		"0d":                        "2026-02-01T12:00:00Z",
		"2026-01-31":                "2026-01-31T00:00:00Z",
		"2026-01-31T09:00:00Z":      "2026-01-31T09:00:00Z",
		"2026-01-31T09:00:00+02:00": "2026-01-31T07:00:00Z",
	} {
		got, err := When(text, now)
		if err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("%q: %v, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "7", "-1h", "-7d", "99999999d", "d", "2026-13-01", "1764000000", "2026-01-31T09:00:00 02:00", "9999999999999999999d"} {
		if got, err := When(text, now); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}
