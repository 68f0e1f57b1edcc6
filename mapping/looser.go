package mapping

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// looserPath is a path as a server reads it that drops a part of some segments.
type looserPath struct {
	segs  []string
	drops string
}

// looserPaths gives the looser readings of a path, none for an ordinary one.
func looserPaths(segs []string) (out []looserPath) {
	if !slices.ContainsFunc(segs, loose) {
		return nil
	}
	trimmed := trimmedSegments(segs)
	if trimmed != nil {
		out = append(out, looserPath{trimmed, "spaces, or full stops at the end of a segment"})
		segs = trimmed
	}
	if cut := cutSegments(segs); cut != nil {
		out = append(out, looserPath{cut, "what stands behind an escaped semicolon, question mark or number sign"})
		segs = cut
	}
	if folded := normalSegments(segs); folded != nil {
		out = append(out, looserPath{folded, "characters that look like others, or like none"})
		segs = folded
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

// looseByte marks what a reading that drops something goes by.
var looseByte = func() (t [256]bool) {
	for c := range t {
		t[c] = c <= ' ' || c >= utf8.RuneSelf || strings.IndexByte(".;?#", byte(c)) >= 0
	}
	return t
}()

func loose(s string) bool {
	for i := 0; i < len(s); i++ {
		if looseByte[s[i]] {
			return true
		}
	}
	return false
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

// cutSegments is the reading of a server that decodes a path and takes it apart
// then: a semicolon ends a segment, a question mark or a number sign the path. It
// is nil where there are none; those that are not escaped have been reported.
func cutSegments(segs []string) []string {
	out := segs
	for i, s := range segs {
		at := strings.IndexAny(s, ";?#")
		if at < 0 {
			continue
		}
		if len(out) == len(segs) && &out[0] == &segs[0] {
			out = append(make([]string, 0, len(segs)), segs...)
		}
		out[i] = s[:at]
		if s[at] != ';' {
			out = out[:i+1]
			break
		}
	}
	if len(out) == len(segs) && &out[0] == &segs[0] {
		return nil
	}
	return out
}

// normalSegments is the reading of a server that normalises what it decodes
// (Unicode's NFKC) and drops what is not shown: a full-width letter is the letter,
// and a full-width slash the slash. It is nil where that changes nothing.
func normalSegments(segs []string) []string {
	if !slices.ContainsFunc(segs, func(s string) bool { return !ascii(s) }) {
		return nil
	}
	out := make([]string, 0, len(segs))
	for _, s := range segs {
		if ascii(s) {
			out = append(out, s)
			continue
		}
		s = strings.Map(func(r rune) rune {
			if unicode.Is(unicode.Cf, r) {
				return -1
			}
			return r
		}, norm.NFKC.String(s))
		out = append(out, strings.Split(s, "/")...)
	}
	if slices.Equal(out, segs) || len(out) > maxSegments {
		return nil
	}
	return out
}

// looseName is the name of a field to the most forgiving of readers: in lower case,
// without spaces around it, characters that look like others made those
// (Unicode's NFKC), and what is not shown left out.
func looseName(s string) string {
	plain := true
	for i := 0; i < len(s) && plain; i++ {
		plain = s[i] > ' ' && s[i] < utf8.RuneSelf && (s[i] < 'A' || s[i] > 'Z')
	}
	if plain {
		return s
	}
	if !ascii(s) {
		s = strings.Map(func(r rune) rune {
			if unicode.Is(unicode.Cf, r) {
				return -1
			}
			return r
		}, norm.NFKC.String(s))
	}
	return lowered(strings.TrimSpace(s))
}

// prototype says whether a name is the one by which a reader in JavaScript reaches
// what an object inherits: a value there is one of every name that is absent.
func prototype(name string) bool { return name == "__proto__" }
