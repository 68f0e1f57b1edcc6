package policy

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func calendarLimit(t testing.TB, calendar, zone string) *Limit {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	return &Limit{Name: "l", Max: 10, Window: longest[calendar], Calendar: calendar, Zone: loc}
}

func TestBounds(t *testing.T) {
	for _, tt := range []struct{ calendar, zone, at, since, until string }{
		{"day", "UTC", "2026-03-01T12:00:00Z", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"},
		{"day", "UTC", "2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"},
		{"day", "UTC", "2026-03-01T23:59:59.999999999Z", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"},
		{"day", "Europe/Berlin", "2026-07-01T22:30:00Z", "2026-07-02T00:00:00+02:00", "2026-07-03T00:00:00+02:00"},
		// The days on which clocks are set are 23 and 25 hours long.
		{"day", "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"},
		{"day", "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"},
		// Clocks go forward at midnight: the day begins at one o'clock.
		{"day", "America/Santiago", "2026-09-06T12:00:00Z", "2026-09-06T01:00:00-03:00", "2026-09-07T00:00:00-03:00"},
		// Clocks go back to midnight: it comes twice, and the first begins the day.
		{"day", "America/Havana", "2026-11-01T12:00:00Z", "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"},
		{"day", "America/Havana", "2026-11-01T04:30:00Z", "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"},
		{"day", "America/Havana", "2026-11-01T05:30:00Z", "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"},
		// Samoa left out the 30th of December 2011.
		{"day", "Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00"},
		{"week", "Europe/Berlin", "2026-11-22T22:00:00Z", "2026-11-16T00:00:00+01:00", "2026-11-23T00:00:00+01:00"}, // a Sunday
		{"week", "Europe/Berlin", "2026-11-23T00:00:00Z", "2026-11-23T00:00:00+01:00", "2026-11-30T00:00:00+01:00"},
		{"month", "Europe/Berlin", "2026-02-28T22:59:59Z", "2026-02-01T00:00:00+01:00", "2026-03-01T00:00:00+01:00"},
		{"month", "UTC", "2026-12-31T23:00:00Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
	} {
		at, err := time.Parse(time.RFC3339, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		since, until := calendarLimit(t, tt.calendar, tt.zone).Bounds(at)
		if since.Format(time.RFC3339) != tt.since || until.Format(time.RFC3339) != tt.until {
			t.Errorf("%s of %s at %s: from %s to %s, want %s to %s", tt.calendar, tt.zone, tt.at, since.Format(time.RFC3339), until.Format(time.RFC3339), tt.since, tt.until)
		}
	}
	sliding := &Limit{Window: time.Hour}
	if since, until := sliding.Bounds(time.Now()); !since.IsZero() || !until.IsZero() {
		t.Errorf("a sliding window has bounds: %s to %s", since, until)
	}
}

// TestBoundsTile: whatever the zone does, every moment lies in exactly one
// window, windows follow each other without a gap, and none is longer than what
// uses are kept for.
func TestBoundsTile(t *testing.T) {
	zones := []string{
		"UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "America/Havana", "Asia/Beirut", "Africa/Cairo", "Asia/Tehran",
		"Pacific/Apia", "Pacific/Kwajalein", "Pacific/Kiritimati", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kathmandu", "Antarctica/Troll",
		"America/Sao_Paulo", "Africa/Casablanca", "Asia/Gaza",
	}
	rapid.Check(t, func(t *rapid.T) {
		calendar := rapid.SampledFrom([]string{CalendarDay, CalendarWeek, CalendarMonth}).Draw(t, "calendar")
		loc, err := time.LoadLocation(rapid.SampledFrom(zones).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		l := &Limit{Calendar: calendar, Zone: loc, Window: longest[calendar]}
		// Near a change of the zone's offset where there is one, else anywhere.
		at := time.Unix(rapid.Int64Range(0, 2_200_000_000).Draw(t, "at"), 0)
		if _, change := at.In(loc).ZoneBounds(); !change.IsZero() && rapid.Bool().Draw(t, "near a change") {
			at = change.Add(time.Duration(rapid.Int64Range(-90_000, 90_000).Draw(t, "offset")) * time.Second)
		}
		since, until := l.Bounds(at)
		if at.Before(since) || !at.Before(until) {
			t.Fatalf("%s is not from %s to %s", at.In(loc), since, until)
		}
		if d := until.Sub(since); d > l.Window {
			t.Fatalf("from %s to %s are %s", since, until, d)
		}
		if next, _ := l.Bounds(until); !next.Equal(until) {
			t.Fatalf("the window after the one that ends at %s begins at %s", until, next)
		}
		if s, u := l.Bounds(until.Add(-time.Nanosecond)); !s.Equal(since) || !u.Equal(until) {
			t.Fatalf("the last moment before %s lies from %s to %s, not from %s", until, s, u, since)
		}
	})
}

// TestMidnightTwice: in Newfoundland clocks went back at 00:01, so that the last hour
// of a day came after the first minute of the next.
func TestMidnightTwice(t *testing.T) {
	loc, err := time.LoadLocation("America/St_Johns")
	if err != nil {
		t.Fatal(err)
	}
	l := &Limit{Calendar: CalendarDay, Zone: loc}
	at := time.Date(1987, 10, 25, 2, 31, 0, 0, time.UTC) // 1987-10-24 23:01:00 -0330
	since, until := l.Bounds(at)
	if since.Format(time.RFC3339) != "1987-10-25T00:00:00-02:30" || until.Format(time.RFC3339) != "1987-10-26T00:00:00-03:30" {
		t.Errorf("%s lies from %s to %s", at.In(loc), since, until)
	}
}

func TestWindowFaults(t *testing.T) {
	const base = "      - { name: ok, decision: allow }\n    limits:\n      - { name: l, key: [agent_id], max: 10, decision: deny, reason_code: x.l, "
	for _, tt := range []struct{ window, fault string }{
		{"window: fortnight", `"fortnight" is not a duration`},
		{"window: day, zone: Local", "`zone` must be the IANA name"},
		{"window: day, zone: ''", "`zone` must be the IANA name"},
		{"window: day, zone: Europe/Berlyn", `unknown time zone "Europe/Berlyn"`},
		{"window: day, zone: ../../etc/passwd", `unknown time zone`},
		{"window: 24h, zone: UTC", "`zone` belongs to a window of day, week or month"},
	} {
		_, err := Compile([]Source{{Name: "p.yaml", Data: []byte(policyWith(base + tt.window + " }\n"))}}, Options{})
		if err == nil || !strings.Contains(err.Error(), tt.fault) {
			t.Errorf("%s: %v", tt.window, err)
		}
	}
	s := compile(t, Options{}, policyWith(base+"window: month }\n"))
	if l := s.Limits()[0]; l.Zone != time.UTC || l.Calendar != CalendarMonth || l.Per() != "one month (UTC)" || l.ID() != "p/l" {
		t.Errorf("%+v", l)
	}
	hash := func(window string) string {
		return compile(t, Options{}, policyWith(base+window+" }\n")).Limits()[0].Hash
	}
	if a, b, c := hash("window: day"), hash("window: day, zone: Europe/Berlin"), hash("window: week"); a == b || a == c || a != hash("window: day, zone: UTC") {
		t.Error("the hash does not tell windows apart")
	}
}
