package policy

import (
	"fmt"
	"sync"
	"time"

	"github.com/actpass/sidecar/strictyaml"
)

// Calendar windows: they begin at midnight of their zone, a week on Monday
// (ISO 8601).
const (
	CalendarDay   = "day"
	CalendarWeek  = "week"
	CalendarMonth = "month"
)

// longest is the longest that a calendar window can be. Zones have skipped
// whole days, and moved by some hours, so two days are on top: it only says for
// how long uses have to be kept.
var longest = map[string]time.Duration{
	CalendarDay:   (1 + 2) * 24 * time.Hour,
	CalendarWeek:  (7 + 2) * 24 * time.Hour,
	CalendarMonth: (31 + 2) * 24 * time.Hour,
}

// window reads `window` and `zone`.
func (c *compiler) window(l *limit, y *limitYAML) {
	if !y.Window.Set() {
		c.missing(y.At, "limit %s has no `window`: write how far back uses count, such as 24h, or day, week or month", l.Name)
		return
	}
	span, calendar := longest[y.Window.V]
	if !calendar {
		l.Window = c.duration(y.Window)
		if y.Zone.Set() {
			c.faults.Addf(y.Zone.Pos, "`zone` belongs to a window of day, week or month: %s slides and begins at no hour", y.Window.V)
		}
		return
	}
	l.Window, l.Calendar, l.Zone = span, y.Window.V, time.UTC
	if y.Zone.Set() {
		l.Zone = c.zone(y.Zone)
	}
}

// zone finds a time zone by its IANA name. "Local" is refused: the same file
// would mean another day on another machine.
func (c *compiler) zone(v strictyaml.Val[string]) *time.Location {
	if v.V == "" || v.V == "Local" {
		c.faults.Addf(v.Pos, "`zone` must be the IANA name of a time zone, such as Europe/Berlin or UTC, not %q", v.V)
		return time.UTC
	}
	loc, err := time.LoadLocation(v.V)
	if err != nil {
		c.faults.Addf(v.Pos, "unknown time zone %q: write its IANA name, such as Europe/Berlin", v.V)
		return time.UTC
	}
	return loc
}

// Bounds gives the calendar window that t lies in: from since, inclusive, to
// until. Both are zero for a window that slides.
func (l *Limit) Bounds(t time.Time) (since, until time.Time) {
	if l.Calendar == "" {
		return time.Time{}, time.Time{}
	}
	key := calendar{l.Calendar, l.Zone.String()}
	if last, ok := lastBounds.Load(key); ok {
		if b := last.(bounds); !t.Before(b.since) && t.Before(b.until) {
			return b.since, b.until
		}
	}
	since, until = l.bounds(t.In(l.Zone))
	lastBounds.Store(key, bounds{since, until})
	return since, until
}

type (
	calendar struct{ window, zone string }
	bounds   struct{ since, until time.Time }
)

// lastBounds is the window found last of each calendar: nearly always the one of
// the next call, too, and dear to find.
var lastBounds sync.Map // calendar to bounds

func (l *Limit) bounds(t time.Time) (since, until time.Time) {
	year, month, day := t.Date()
	switch l.Calendar {
	case CalendarDay:
		since, until = midnight(year, month, day, l.Zone), midnight(year, month, day+1, l.Zone)
	case CalendarWeek:
		day -= (int(t.Weekday()) + 6) % 7
		since, until = midnight(year, month, day, l.Zone), midnight(year, month, day+7, l.Zone)
	default:
		since, until = midnight(year, month, 1, l.Zone), midnight(year, month+1, 1, l.Zone)
	}
	if !t.Before(until) {
		// Clocks were set back over midnight: the new day has begun, and its first
		// minutes were followed by the last hour of the old one once more.
		return l.bounds(until.In(l.Zone))
	}
	return since, until
}

// midnight is the first moment of a day. Where clocks are set forward at
// midnight that is one o'clock; where they are set back to it, the first of the
// two; and a day that a zone left out has no length.
func midnight(year int, month time.Month, day int, zone *time.Location) time.Time {
	t := time.Date(year, month, day, 0, 0, 0, 0, zone)
	// Noon of the same day in UTC, to compare dates with.
	want := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	if before(t, want) {
		// Date took the offset from after the gap that swallowed midnight.
		_, t = t.ZoneBounds()
		return t
	}
	start, _ := t.ZoneBounds()
	if start.IsZero() {
		return t
	}
	// The offset before the last transition, in case midnight comes twice.
	_, offset := start.Add(-time.Second).Zone()
	if first := time.Unix(want.Unix()-int64(offset), 0).In(zone); first.Before(t) && !before(first, want) && first.Before(start) {
		return first
	}
	return t
}

// before says whether t's date in its own zone lies before the day of want, a
// midnight in UTC.
func before(t, want time.Time) bool {
	y, m, d := t.Date()
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Before(want)
}

// WindowName is the window as an author writes it: 24h, day.
func (l *Limit) WindowName() string {
	if l.Calendar != "" {
		return l.Calendar
	}
	return formatDuration(l.Window)
}

// per is the window in an author's words: 24h, or day (Europe/Berlin).
func (l *Limit) per() string {
	if l.Calendar == "" {
		return l.WindowName()
	}
	return fmt.Sprintf("%s (%s)", l.Calendar, l.Zone)
}

// Per is the window as a phrase that follows "in": 24h, one day (Europe/Berlin).
func (l *Limit) Per() string {
	if l.Calendar == "" {
		return l.per()
	}
	return "one " + l.per()
}
