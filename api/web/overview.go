package web

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
)

// overviewSpan is one choice of how far back the overview looks.
type overviewSpan struct {
	Name, Value string
	back, bar   time.Duration
	step        string
}

var overviewSpans = []overviewSpan{
	{"3 hours", "3h", 3 * time.Hour, 5 * time.Minute, api.StepMinute},
	{"24 hours", "24h", 24 * time.Hour, time.Hour, api.StepHour},
	{"7 days", "168h", 7 * 24 * time.Hour, 6 * time.Hour, api.StepHour},
	{"30 days", "720h", 30 * 24 * time.Hour, 24 * time.Hour, api.StepHour},
}

type overviewPage struct {
	Span      overviewSpan
	Spans     []overviewSpan
	Total     int64
	Kinds     []tally // by what was done, in the chart's order
	Charts    []chart // the same, for a screen and for a phone
	Mapped    int64   // actions of traffic that a rule named
	Traffic   int64   // actions of traffic at all
	Tools     []ranked
	Agents    []ranked
	Would     []wouldRow
	Unmapped  []ranked
	Mode      string
	Waiting   []api.Approval
	Health    healthView
	Addresses Addresses
}

type tally struct {
	Name, Class string
	N           int64
}

// ranked is one line of a ranking.
type ranked struct {
	Name     string
	N        int64
	Stopped  int64 // blocked or held
	Percent  int   // of the first
	Filter   string
	Unmapped bool
}

// wouldRow is what a stricter mode would have stopped, of what was let through.
type wouldRow struct {
	Tool, Agent  string
	Block, Hold  int64 // under enforce
	StrictBlocks int64
	Filter       string
}

// chart is a bar chart, computed here and drawn as SVG in the template.
type chart struct {
	Class         string
	Bars          []bar
	Ticks         []tick
	Lines         []gridLine
	Width, Height int
	Label         string
}

type bar struct {
	X, W  int
	Parts []part
	Title string
}

type part struct {
	Y, H  int
	Class string
}

type tick struct {
	X      int
	Anchor string
	Text   string
}

type gridLine struct {
	Y    int
	Text string
}

// What a chart stacks, from below.
var chartKinds = []tally{{"allowed", "good", 0}, {"warned", "warn", 0}, {"let through though denied", "pass", 0}, {"held", "wait", 0}, {"blocked", "bad", 0}}

func chartKind(c *api.Count) int {
	switch {
	case c.Enforcement == "block":
		return 4
	case c.Enforcement == "hold":
		return 3
	case c.Decision == "allow":
		return 0
	case c.Enforcement == "warn":
		return 1
	}
	return 2
}

func (d *Dashboard) overview(w http.ResponseWriter, r *http.Request, v *visit) error {
	b := overviewPage{Spans: overviewSpans, Span: overviewSpans[1], Addresses: d.Addresses()}
	for _, s := range overviewSpans {
		if s.Value == r.URL.Query().Get("last") {
			b.Span = s
		}
	}
	now := d.Now().UTC()
	counts, err := v.api.Counts(r.Context(), now.Add(-b.Span.back), b.Span.step)
	if err != nil {
		return err
	}
	waiting, err := v.api.Approvals(r.Context(), gate.ApprovalPending, "", "", 5)
	if err != nil {
		return err
	}
	b.Waiting = waiting.Data
	if rules := d.Gate.Rules(); rules != nil {
		b.Mode = rules.Mode
	}
	if b.Health, err = d.health(r, v); err != nil {
		return err
	}
	b.count(counts, now)
	return d.show(w, r, v, "overview", &page{Title: "Overview", Nav: "overview", Live: true, Body: b})
}

// count makes the page out of the counts.
func (b *overviewPage) count(counts []api.Count, now time.Time) {
	b.Kinds = slices.Clone(chartKinds)
	tools, agents, unmapped := map[string]*ranked{}, map[string]*ranked{}, map[string]*ranked{}
	would := map[[2]string]*wouldRow{}
	add := func(m map[string]*ranked, name, param string, c *api.Count) {
		r := m[name]
		if r == nil {
			r = &ranked{Name: name, Filter: "/ui/events?" + url.Values{"kind": {"action"}, param: {name}, "last": {b.Span.Value}}.Encode()}
			m[name] = r
		}
		r.N += c.Count
		if c.Enforcement == "block" || c.Enforcement == "hold" {
			r.Stopped += c.Count
		}
	}
	for i := range counts {
		c := &counts[i]
		b.Total += c.Count
		b.Kinds[chartKind(c)].N += c.Count
		add(tools, c.Tool, "tool", c)
		add(agents, c.AgentID, "agent_id", c)
		if c.Mapping != "caller" {
			b.Traffic += c.Count
			if c.Mapping == "rule" {
				b.Mapped += c.Count
			} else {
				add(unmapped, c.Tool, "tool", c)
			}
		}
		if c.Enforcement == "block" || c.Enforcement == "hold" {
			continue // it was not let through
		}
		if c.Would.Enforce == "block" || c.Would.Enforce == "hold" || c.Would.Strict == "block" {
			k := [2]string{c.Tool, c.AgentID}
			row := would[k]
			if row == nil {
				row = &wouldRow{Tool: c.Tool, Agent: c.AgentID, Filter: "/ui/events?" + url.Values{"kind": {"action"}, "tool": {c.Tool}, "agent_id": {c.AgentID}, "last": {b.Span.Value}}.Encode()}
				would[k] = row
			}
			switch c.Would.Enforce {
			case "block":
				row.Block += c.Count
			case "hold":
				row.Hold += c.Count
			}
			if c.Would.Strict == "block" {
				row.StrictBlocks += c.Count
			}
		}
	}
	b.Tools, b.Agents, b.Unmapped = top(tools, 8), top(agents, 8), top(unmapped, 5)
	for _, row := range would {
		b.Would = append(b.Would, *row)
	}
	slices.SortFunc(b.Would, func(x, y wouldRow) int {
		return cmp.Or(cmp.Compare(y.Block+y.Hold, x.Block+x.Hold), cmp.Compare(y.StrictBlocks, x.StrictBlocks), strings.Compare(x.Tool+x.Agent, y.Tool+y.Agent))
	})
	b.Would = b.Would[:min(len(b.Would), 10)]
	b.Charts = []chart{draw(counts, b.Span, now, chartWidth, 8), draw(counts, b.Span, now, chartNarrow, 3)}
	b.Charts[0].Class, b.Charts[1].Class = "wide", "narrow"
}

func top(m map[string]*ranked, n int) []ranked {
	out := make([]ranked, 0, len(m))
	for _, r := range m {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(x, y ranked) int { return cmp.Or(cmp.Compare(y.N, x.N), strings.Compare(x.Name, y.Name)) })
	out = out[:min(len(out), n)]
	for i := range out {
		out[i].Percent = max(1, int(out[i].N*100/out[0].N))
	}
	return out
}

const (
	chartWidth, chartHeight = 1000, 200
	chartNarrow             = 420
	chartLeft, chartTop     = 56, 8
	chartBottom             = chartHeight - 24
)

// draw stacks the counts into bars of span.bar each, the last one begun, over some
// ticks.
func draw(counts []api.Count, span overviewSpan, now time.Time, width, ticks int) chart {
	c := chart{Width: width, Height: chartHeight}
	n := int(span.back/span.bar) + 1
	first := now.Truncate(span.bar).Add(-time.Duration(n-1) * span.bar)
	sums := make([][]int64, n)
	for i := range sums {
		sums[i] = make([]int64, len(chartKinds))
	}
	for i := range counts {
		if at := int(counts[i].Start.Sub(first) / span.bar); at >= 0 && at < n && !counts[i].Start.Before(first) {
			sums[at][chartKind(&counts[i])] += counts[i].Count
		}
	}
	var most, total int64
	for _, s := range sums {
		var sum int64
		for _, k := range s {
			sum += k
		}
		most, total = max(most, sum), total+sum
	}
	scale := nice(most)
	y := func(v int64) int { return chartBottom - int(v*int64(chartBottom-chartTop)/scale) }
	for _, v := range []int64{0, scale / 2, scale} {
		if v == 0 || scale > 1 {
			c.Lines = append(c.Lines, gridLine{y(v), thousands(v)})
		}
	}
	slot := float64(width-chartLeft) / float64(n)
	layout := "15:04"
	if span.bar >= 6*time.Hour {
		layout = "Jan 2"
	}
	every := max(1, n/ticks)
	for i, s := range sums {
		start := first.Add(time.Duration(i) * span.bar)
		x := chartLeft + int(float64(i)*slot)
		bb := bar{X: x + 1, W: max(1, int(slot)-2)}
		var below int64
		var words []string
		for k, v := range s {
			if v == 0 {
				continue
			}
			from, to := y(below), y(below+v)
			bb.Parts = append(bb.Parts, part{Y: to, H: max(1, from-to), Class: chartKinds[k].Class})
			words = append(words, thousands(v)+" "+chartKinds[k].Name)
			below += v
		}
		if len(words) > 0 {
			bb.Title = start.Format("Jan 2 15:04") + " UTC: " + strings.Join(words, ", ")
			c.Bars = append(c.Bars, bb)
		}
		if (n-1-i)%every == 0 {
			t := tick{x + int(slot/2), "middle", start.Format(layout)}
			if i == n-1 {
				t.X, t.Anchor = width, "end" // nothing of it leaves the picture
			}
			c.Ticks = append(c.Ticks, t)
		}
	}
	c.Label = fmt.Sprintf("Calls over the last %s by what was done with them: %s in all, at most %s in one bar.", span.Name, thousands(total), thousands(most))
	return c
}

// nice is a round number not below v.
func nice(v int64) int64 {
	for scale := int64(1); ; scale *= 10 {
		for _, k := range []int64{1, 2, 5} {
			if k*scale >= v && (k*scale)%2 == 0 || k*scale >= v && v <= 1 {
				return k * scale
			}
		}
	}
}

// thousands writes a count with separators.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// share is a part in percent, as a reader would say it.
func share(part, whole int64) string {
	switch {
	case whole == 0:
		return "–"
	case part == whole:
		return "100 %"
	case part == 0:
		return "0 %"
	}
	p := float64(part) * 100 / float64(whole)
	return fmt.Sprintf("%.*f %%", map[bool]int{true: 1, false: 0}[p > 99 || p < 1], min(max(p, 0.1), 99.9))
}
