package mapping

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// looserPath is a path as a server reads it that drops a part of some segments.
type looserPath struct {
	segs  []string
	drops string
}

// looserPaths gives the looser readings of a path, none for an ordinary one.
func looserPaths(segs []string) (out []looserPath) {
	trimmed := trimmedSegments(segs)
	if trimmed != nil {
		out = append(out, looserPath{trimmed, "spaces, or full stops at the end of a segment"})
		segs = trimmed
	}
	if last := len(segs) - 1; last >= 0 {
		if name, format, found := cutLast(segs[last], '.'); found && name != "" && slices.Contains(formats, lowered(format)) {
			bare := append(make([]string, 0, len(segs)), segs...)
			bare[last] = name
			out = append(out, looserPath{bare, "the format behind its last full stop"})
		}
	}
	return out
}

// formats are the suffixes by which Rails, Django REST framework, Symfony and
// Jersey let a client say what it wants to read; the call is the same.
var formats = []string{"json", "xml", "html", "htm", "js", "csv", "yaml", "yml", "txt", "api", "rss", "atom", "pdf", "jsonld"}

func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// trimmedSegments gives segs without the spaces around each and the full stops
// behind, as Windows and what is written for it has them; nil where there are none.
func trimmedSegments(segs []string) []string {
	var out []string
	for i, s := range segs {
		if s == "" || s[0] > ' ' && s[0] < utf8.RuneSelf && s[len(s)-1] > '.' && s[len(s)-1] < utf8.RuneSelf {
			continue
		}
		t := strings.TrimRightFunc(strings.TrimLeftFunc(s, unicode.IsSpace), func(r rune) bool { return r == '.' || unicode.IsSpace(r) })
		if t == s || t == "" {
			continue
		}
		if out == nil {
			out = append(make([]string, 0, len(segs)), segs...)
		}
		out[i] = t
	}
	return out
}
