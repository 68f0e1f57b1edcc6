package web

import (
	"encoding/json"
	"fmt"
	"html"
	"html/template"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/actpass/sidecar/evidence"
)

// claim shows text that an agent supplied. Nothing in it acts: it is escaped,
// what cannot be seen is made visible (controls, direction marks, zero-width and
// unusual spaces, bytes that are no text, piles of accents), and its direction
// cannot spill over into what stands beside it.
func claim(s string) template.HTML {
	var b strings.Builder
	b.WriteString(`<bdi class="claim">`)
	visible(&b, s)
	b.WriteString(`</bdi>`)
	return template.HTML(b.String())
}

// visible writes text as HTML in which nothing acts and everything is seen.
func visible(b *strings.Builder, s string) {
	marks := 0
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if unicode.Is(unicode.Mn, r) {
			marks++
		} else {
			marks = 0
		}
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(b, `<span class="odd">\x%02X</span>`, s[i])
		case r == '\n':
			b.WriteString(`<span class="odd">\n</span><wbr>`)
		case hidden(r), marks > 3:
			fmt.Fprintf(b, `<span class="odd">U+%04X</span>`, r)
		default:
			b.WriteString(html.EscapeString(s[i : i+n]))
		}
		i += n
	}
}

// hidden says whether a character would change how others are read, or not be
// seen itself.
func hidden(r rune) bool {
	switch {
	case r == ' ':
		return false
	case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp, unicode.Zs):
		return true
	case r == 0x034F, r == 0x115F, r == 0x1160, r == 0x3164, r == 0xFFA0, r == 0x2800, r == utf8.RuneError:
		return true
	case r >= 0x180B && r <= 0x180F, r >= 0xFE00 && r <= 0xFE0E, r >= 0xE0100 && r <= 0xE01EF, r >= 0x17B4 && r <= 0x17B5:
		return true
	case r >= 0xFFF9 && r <= 0xFFFC, r&0xFFFE == 0xFFFE, r >= 0xFDD0 && r <= 0xFDEF:
		return true
	}
	return false
}

// veiled says that text in a field would hide some of itself.
func veiled(s string) bool { return strings.ContainsFunc(s, hidden) || !utf8.ValidString(s) }

// seen drops what cannot be seen, for text that goes into a field.
func seen(r rune) rune {
	if hidden(r) {
		return -1
	}
	return r
}

// clipped is the beginning of text that an agent supplied.
func clipped(n int, s string) template.HTML {
	if utf8.RuneCountInString(s) <= n {
		return claim(s)
	}
	return claim(string([]rune(s)[:n])) + "…"
}

func moment(v any) time.Time {
	switch t := v.(type) {
	case time.Time:
		return t
	case evidence.Time:
		return t.Time
	case *evidence.Time:
		if t != nil {
			return t.Time
		}
	}
	return time.Time{}
}

// when is a time as text for machines and people, in UTC.
func when(v any) template.HTML {
	t := moment(v).UTC()
	if t.IsZero() {
		return "–"
	}
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s UTC">%s</time>`, t.Format(time.RFC3339Nano), t.Format("2006-01-02 15:04:05.000000"), t.Format("2 Jan 15:04:05")))
}

// ago is how long before now a time was.
func ago(now time.Time, v any) string {
	t := moment(v)
	if t.IsZero() {
		return "never"
	}
	if d := now.Sub(t); d >= time.Second {
		return roughly(d) + " ago"
	}
	return "just now"
}

// until is how long after now a time is.
func until(now time.Time, v any) string {
	if d := moment(v).Sub(now); d > 0 {
		return "in " + roughly(d)
	}
	return "now"
}

func roughly(d time.Duration) string {
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(d/time.Second)) + " s"
	case d < time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + " min"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + " h"
	}
	return strconv.Itoa(int(d/(24*time.Hour))) + " days"
}

func seconds(d time.Duration) string { return strconv.Itoa(int((d + time.Second - 1) / time.Second)) }

// short is the end of an id, which is what differs between neighbours.
func short(id string) string {
	if len(id) <= 12 {
		return id
	}
	return "…" + id[len(id)-8:]
}

// mark is the class of what a decision or state looks like; words are beside it.
func mark(s string) string {
	switch s {
	case "allow", "approved", "consumed", "live", "enforced", "forwarded", "ok", "succeeded", "ready", "none":
		return "good"
	case "deny", "denied", "blocked", "refused", "block", "open":
		return "bad"
	case "require_approval", "require_tool_reapproval", "pending", "held", "hold":
		return "wait"
	case "warn", "not_ready", "advisory", "ambiguous", "expired", "cancelled":
		return "warn"
	}
	return "plain"
}

var spoken = map[string]string{
	"allow": "Allow", "deny": "Deny", "require_approval": "Needs approval", "warn": "Warn", "require_tool_reapproval": "Tool changed",
	"forward": "forward proxy", "connect": "intercepted connection", "reverse": "base URL", "transparent": "redirected connection", "api": "preflight API",
	"api_key": "an API key", "passport": "a passport", "config": "the sidecar's configuration",
	"not_ready": "not ready", "live": "in force", "used_up": "used up", "in_force": "in force",
	"none": "let it through", "block": "blocked it", "hold": "held it for a human",
}

// words is a word of the record as people say it.
func words(s string) string {
	if w := spoken[s]; w != "" {
		return w
	}
	return s
}

// portion rounds down: it never says 100 of what is not whole.
func portion(share float64) string { return strconv.Itoa(int(share*100)) + "%" }

func duration(ms float64) string {
	switch {
	case ms < 10:
		return strconv.FormatFloat(ms, 'f', 1, 64) + " ms"
	case ms < 1000:
		return strconv.FormatFloat(math.Round(ms), 'f', 0, 64) + " ms"
	}
	return strconv.FormatFloat(ms/1000, 'f', 1, 64) + " s"
}

func size(n int64) string {
	switch {
	case n < 0:
		return "unknown size"
	case n < 1<<10:
		return strconv.FormatInt(n, 10) + " bytes"
	case n < 1<<20:
		return strconv.FormatFloat(float64(n)/(1<<10), 'f', 1, 64) + " KiB"
	}
	return strconv.FormatFloat(float64(n)/(1<<20), 'f', 1, 64) + " MiB"
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}

// value is an argument's value: text as itself, the rest as JSON.
func value(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return jsonText(v)
}

// field is one argument by its dotted path.
type field struct {
	Path  string
	Value any
}

const maxFields = 100

// fields flattens args; more says that there were too many to show.
func fields(args map[string]any) (out []field, more bool) {
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		if len(out) >= maxFields {
			more = true
			return
		}
		if m, ok := v.(map[string]any); ok && len(m) > 0 {
			for _, k := range sortedKeys(m) {
				name := k
				if prefix != "" {
					name = prefix + "." + k
				}
				walk(name, m[k])
			}
			return
		}
		out = append(out, field{prefix, v})
	}
	if len(args) > 0 {
		walk("", args)
	}
	return out, more
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// brief is the first few arguments: amounts and the like stand at the top level.
func brief(args map[string]any) []field {
	list, _ := fields(args)
	return list[:min(len(list), 4)]
}
