package openapi

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// segment is one segment of a path: a text, a name with perhaps something
// around it, or several names.
type segment struct {
	prefix, suffix string // prefix alone: a text
	name           string // of the one name
	glob           string // two names or more: a pattern in which each is *
}

func (s segment) literal() bool { return s.name == "" && s.glob == "" }

// whole says that the segment is a name and nothing else.
func (s segment) whole() bool { return s.name != "" && s.prefix == "" && s.suffix == "" }

func (s segment) pattern() string {
	switch {
	case s.glob != "":
		return s.glob
	case s.name != "":
		return escapeGlob(s.prefix) + "{" + s.name + "}" + escapeGlob(s.suffix)
	}
	return escapeGlob(s.prefix)
}

// rank orders what matches less before what matches more.
func (s segment) rank() int {
	switch {
	case s.literal():
		return 0
	case s.whole():
		return 3
	case s.glob != "":
		return 2
	}
	return 1
}

func (s segment) shape() string {
	switch {
	case s.glob != "":
		return "\x02" + s.glob
	case s.whole():
		return "*"
	case s.name != "":
		return "\x01" + s.prefix + "\x00" + s.suffix
	}
	return "\x03" + s.prefix
}

// sampleValue stands for a value in a sample. It must be no text of any path.
const sampleValue = "q0q0q"

func (s segment) sample() string {
	switch {
	case s.glob != "":
		plain := strings.NewReplacer("[*]", "*", "[?]", "?", "[[]", "[", "*", sampleValue).Replace(s.glob)
		return escapeSegment(plain)
	case s.name != "":
		return escapeSegment(s.prefix) + sampleValue + escapeSegment(s.suffix)
	}
	return escapeSegment(s.prefix)
}

// escapeSegment writes a decoded segment as it is sent: pchar of RFC 3986
// section 3.3 as it is, the rest escaped.
func escapeSegment(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~!$&'()*+,=:@", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}

// escapeGlob writes text so that no glob is read in it.
func escapeGlob(text string) string {
	if !strings.ContainsAny(text, "*?[") {
		return text
	}
	return strings.NewReplacer("*", "[*]", "?", "[?]", "[", "[[]").Replace(text)
}

// parsePath reads a path template of OpenAPI (/pets/{pet-id}), or an observed
// path where template is false.
func parsePath(path string, template bool) ([]segment, error) {
	switch {
	case !strings.HasPrefix(path, "/"):
		return nil, errors.New("the path does not begin with a slash")
	case strings.Contains(path, "#"):
		return nil, errors.New("the path has a fragment, which is never sent")
	case strings.Contains(path, "?"):
		return nil, errors.New("the path has a query: rules match paths")
	case strings.Count(path, "/") > 64:
		return nil, errors.New("the path has more than 64 segments")
	}
	parts := strings.Split(path[1:], "/")
	segs := make([]segment, len(parts))
	taken := make(map[string]bool)
	for i, p := range parts {
		if p == "" && i < len(parts)-1 {
			return nil, errors.New("the path has an empty segment")
		}
		s, err := parseSegment(p, template, taken)
		if err != nil {
			return nil, err
		}
		segs[i] = s
	}
	return segs, nil
}

func parseSegment(text string, template bool, taken map[string]bool) (segment, error) {
	var texts, names []string
	rest := text
	for template {
		open := strings.IndexByte(rest, '{')
		if open < 0 {
			break
		}
		end := strings.IndexByte(rest, '}')
		if end < open {
			return segment{}, fmt.Errorf("the segment %q has an unbalanced brace", text)
		}
		texts, names = append(texts, rest[:open]), append(names, rest[open+1:end])
		rest = rest[end+1:]
	}
	texts = append(texts, rest)
	for i, t := range texts {
		decoded, err := url.PathUnescape(t)
		if err != nil {
			return segment{}, fmt.Errorf("the segment %q has a broken escape", text)
		}
		if strings.ContainsAny(decoded, "/\\;#{}") || !utf8.ValidString(decoded) || strings.IndexFunc(decoded, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0 {
			return segment{}, fmt.Errorf("the segment %q has a character that no pattern can match", text)
		}
		texts[i] = decoded
	}
	switch len(names) {
	case 0:
		if texts[0] == "." || texts[0] == ".." {
			return segment{}, errors.New("the path has a dot segment")
		}
		return segment{prefix: texts[0]}, nil
	case 1:
		s := segment{prefix: texts[0], suffix: texts[1], name: unused(identifier(names[0]), taken)}
		if strings.ContainsAny(s.prefix+s.suffix, "*?[]") {
			s = segment{glob: escapeGlob(texts[0]) + "*" + escapeGlob(texts[1])}
		}
		return s, nil
	}
	var b strings.Builder
	for i, t := range texts {
		if i > 0 && !strings.HasSuffix(b.String(), "*") {
			b.WriteByte('*')
		}
		b.WriteString(escapeGlob(t))
	}
	return segment{glob: b.String()}, nil
}

// identifier makes a name for a segment of what the document calls it.
func identifier(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', r == '_', '0' <= r && r <= '9' && b.Len() > 0:
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "_"):
			b.WriteByte('_')
		}
	}
	name := strings.TrimRight(b.String(), "_")
	if name == "" {
		return "id"
	}
	return name[:min(len(name), 48)]
}

func unused(name string, taken map[string]bool) string {
	out := name
	for n := 2; taken[out]; n++ {
		out = name + "_" + strconv.Itoa(n)
	}
	taken[out] = true
	return out
}

func pathOf(segs []segment) string {
	var b strings.Builder
	for _, s := range segs {
		b.WriteByte('/')
		b.WriteString(s.pattern())
	}
	return b.String()
}

func shapeOf(segs []segment) string {
	var b strings.Builder
	for _, s := range segs {
		b.WriteByte('/')
		b.WriteString(s.shape())
	}
	return b.String()
}

// compareOperations puts operations in an order in which the first that matches
// is the one that is meant: at the first segment that differs, texts come before
// names (OpenAPI 3.1 section 4.8.8.2, "concrete definitions are matched first").
func compareOperations(a, b Operation) int {
	if c := strings.Compare(a.Host, b.Host); c != 0 {
		return c
	}
	for i := 0; i < len(a.segs) && i < len(b.segs); i++ {
		x, y := a.segs[i], b.segs[i]
		// Of two that have something around the name, the longer is the narrower.
		if c := cmp.Or(cmp.Compare(x.rank(), y.rank()), cmp.Compare(affix(y), affix(x)), strings.Compare(x.shape(), y.shape())); c != 0 {
			return c
		}
	}
	return cmp.Or(cmp.Compare(len(a.segs), len(b.segs)), cmp.Compare(methodRank(a.Method), methodRank(b.Method)), strings.Compare(a.Method, b.Method))
}

// affix is how much text stands beside the names of a segment.
func affix(s segment) int {
	if s.literal() {
		return 0
	}
	return len(s.prefix) + len(s.suffix) + len(strings.ReplaceAll(s.glob, "*", ""))
}
