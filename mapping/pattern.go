package mapping

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
)

const (
	maxPattern      = 1024 // bytes of one pattern
	maxAlternatives = 64   // paths that the braces of one path stand for
)

// segment is one compiled segment of a path pattern, or one label of a host.
type segment struct {
	kind   segmentKind
	text   string // literal or glob
	prefix string // of a named segment
	suffix string
	name   string
}

type segmentKind uint8

const (
	segLiteral segmentKind = iota
	segAny                 // * or {name}: one non-empty segment
	segAffix               // prefix{name}suffix
	segGlob                // a*, [ab]?
	segDeep                // ** or {name...}
)

// match says whether the segment matches s; segDeep is its caller's business.
func (g *segment) match(s string) bool {
	switch g.kind {
	case segLiteral:
		return s == g.text
	case segAny:
		return s != ""
	case segAffix:
		return len(s) > len(g.prefix)+len(g.suffix) && strings.HasPrefix(s, g.prefix) && strings.HasSuffix(s, g.suffix)
	case segGlob:
		// One segment holds no separator but what %2F left inside it; a glob does
		// not reach over that.
		return s != "" && doublestar.MatchUnvalidated(g.text, s)
	}
	return false
}

// shape identifies what a segment matches, whatever its name.
func (g *segment) shape() string {
	switch g.kind {
	case segAny:
		return "*"
	case segAffix:
		return "\x01" + g.prefix + "\x00" + g.suffix
	case segGlob:
		return "\x02" + g.text
	case segDeep:
		return "**"
	}
	return "\x03" + g.text
}

func (g segment) lower() segment {
	g.text, g.prefix, g.suffix = strings.ToLower(g.text), strings.ToLower(g.prefix), strings.ToLower(g.suffix)
	return g
}

// compilePath reads a path pattern into the patterns it stands for, one for
// each combination of its alternatives.
func compilePath(path string) ([][]segment, error) {
	switch {
	case path == "":
		return nil, errors.New("is empty: write a path that begins with a slash")
	case path[0] != '/':
		return nil, fmt.Errorf("must begin with a slash: write %q", "/"+path)
	case len(path) > maxPattern:
		return nil, fmt.Errorf("is longer than %d bytes", maxPattern)
	case !utf8.ValidString(path):
		return nil, errors.New("is not valid UTF-8")
	case strings.ContainsAny(path, "#\\;"):
		return nil, errors.New("must be a decoded path without \\, # and ;")
	case strings.IndexFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0:
		return nil, errors.New("has a control character")
	case strings.Count(path, "/") >= maxSegments:
		return nil, fmt.Errorf("has more than %d segments", maxSegments)
	}
	texts, err := expandBraces(path)
	if err != nil {
		return nil, err
	}
	patterns := make([][]segment, len(texts))
	for i, text := range texts {
		if patterns[i], err = compileSegments(text); err != nil {
			return nil, err
		}
	}
	return patterns, nil
}

func compileSegments(path string) ([]segment, error) {
	parts := strings.Split(path[1:], "/")
	out := make([]segment, 0, len(parts))
	names := make(map[string]bool)
	deep := 0
	for i, p := range parts {
		g, err := compileSegment(p)
		if err != nil {
			return nil, err
		}
		switch {
		case p == "" && i < len(parts)-1:
			return nil, errors.New("has an empty segment: no request matches it")
		case p == "." || p == "..":
			return nil, errors.New("has a dot segment: no request matches it")
		case g.kind == segDeep:
			if names[g.name] && g.name != "" {
				return nil, fmt.Errorf("names the segment {%s} twice", g.name)
			}
			names[g.name] = true
			if deep++; deep > 2 {
				return nil, errors.New("has more than two `**`")
			}
			if i > 0 && out[i-1].kind == segDeep {
				return nil, errors.New("has two `**` side by side: one means the same")
			}
		case g.name != "":
			if names[g.name] {
				return nil, fmt.Errorf("names the segment {%s} twice", g.name)
			}
			names[g.name] = true
		}
		out = append(out, g)
	}
	return out, nil
}

func compileSegment(p string) (segment, error) {
	if p == "**" {
		return segment{kind: segDeep}, nil
	}
	if strings.Contains(p, "**") {
		return segment{}, errors.New("has `**` inside a segment: it stands for whole segments only, `*` is a part of one")
	}
	if open := strings.IndexByte(p, '{'); open >= 0 {
		end := strings.IndexByte(p, '}')
		if end < open {
			return segment{}, errors.New("has an unbalanced brace")
		}
		g := segment{kind: segAffix, prefix: p[:open], suffix: p[end+1:], name: p[open+1 : end]}
		if name, deep := strings.CutSuffix(g.name, "..."); deep {
			if !identifier(name) || g.prefix != "" || g.suffix != "" {
				return segment{}, errors.New("has a `{name...}` that is no whole segment with a name")
			}
			return segment{kind: segDeep, name: name}, nil
		}
		if !identifier(g.name) {
			return segment{}, fmt.Errorf("names a segment {%s}: a name has letters, digits and _", g.name)
		}
		if strings.ContainsAny(g.prefix+g.suffix, "{}*?[]") {
			return segment{}, errors.New("mixes a named segment with a glob or a second name in one segment")
		}
		if g.prefix == "" && g.suffix == "" {
			g.kind = segAny
		}
		return g, nil
	}
	if strings.IndexByte(p, '}') >= 0 {
		return segment{}, errors.New("has an unbalanced brace")
	}
	if p == "*" {
		return segment{kind: segAny}, nil
	}
	if strings.ContainsAny(p, "*?[]") {
		if !doublestar.ValidatePattern(p) {
			return segment{}, fmt.Errorf("has a glob that is not valid: %s", show(p))
		}
		return segment{kind: segGlob, text: p}, nil
	}
	return segment{kind: segLiteral, text: p}, nil
}

// identifier is the form of a name in a path or a template.
func identifier(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if ('a' > c || c > 'z') && ('A' > c || c > 'Z') && c != '_' && ('0' > c || c > '9' || i == 0) {
			return false
		}
	}
	return true
}

// expandBraces writes {a,b} out; {name} stays. The count is taken before
// anything is built, so that a bomb costs nothing.
func expandBraces(s string) ([]string, error) {
	count, depth, commas := 1, 0, 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '{':
			if depth++; depth > 1 {
				return nil, errors.New("nests braces")
			}
			commas = 0
		case ',':
			if depth == 1 {
				commas++
			}
		case '}':
			if depth--; depth < 0 {
				return nil, errors.New("has an unbalanced brace")
			}
			if count *= commas + 1; count > maxAlternatives {
				return nil, fmt.Errorf("has braces that stand for more than %d alternatives: write several rules", maxAlternatives)
			}
		}
	}
	if depth != 0 {
		return nil, errors.New("has an unbalanced brace")
	}
	out := []string{""}
	for s != "" {
		open := strings.IndexByte(s, '{')
		if open < 0 {
			open = len(s)
		}
		head := s[:open]
		s = s[open:]
		choices := []string{""}
		if s != "" {
			end := strings.IndexByte(s, '}')
			if inner := s[1:end]; strings.Contains(inner, ",") {
				choices = strings.Split(inner, ",")
			} else {
				choices = []string{s[:end+1]}
			}
			s = s[end+1:]
		}
		next := make([]string, 0, len(out)*len(choices))
		for _, o := range out {
			for _, c := range choices {
				next = append(next, o+head+c)
			}
		}
		out = next
	}
	return out, nil
}

// capture gives the values of the named segments of a pattern that matches.
func capture(pattern []segment, segs []string, into map[string]string) bool {
	for i := range pattern {
		g := &pattern[i]
		if g.kind == segDeep {
			rest := pattern[i+1:]
			for n := len(segs); n >= i; n-- { // longest first; a name is in rest at a fixed distance from the end
				if capture(rest, segs[n:], into) {
					if g.name != "" {
						into[g.name] = strings.Join(segs[i:n], "/")
					}
					return true
				}
			}
			return false
		}
		if i >= len(segs) {
			return false
		}
		if !g.match(segs[i]) && (g.kind != segAny || segs[i] != "") {
			return false
		}
		if g.name != "" {
			into[g.name] = segs[i][len(g.prefix) : len(segs[i])-len(g.suffix)]
		}
	}
	return len(pattern) == len(segs)
}

// hostPattern is one compiled host of a rule.
type hostPattern struct {
	labels []segment // in the order of writing
	exact  string    // no wildcard: the canonical host
	port   string    // "": the scheme's own
	names  []string  // of labels
}

func (h *hostPattern) key() string {
	if h.exact != "" {
		return h.exact + ":" + h.port
	}
	var b strings.Builder
	for i := range h.labels {
		b.WriteString(h.labels[i].shape())
		b.WriteByte('.')
	}
	return b.String() + ":" + h.port
}

func compileHost(s string) (hostPattern, error) {
	if s == "" {
		return hostPattern{}, errors.New("is empty: name a host")
	}
	if !strings.ContainsAny(s, "*?{}") {
		host, port, err := Authority("https", s)
		if err != nil {
			return hostPattern{}, fmt.Errorf("cannot be used: %w", err)
		}
		p := hostPattern{exact: host}
		if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
			p.port = port
		}
		return p, nil
	}
	if len(s) > 253 || strings.ContainsAny(s, "[]\\/@%, ") || !ascii(s) {
		return hostPattern{}, errors.New("is not a host pattern: write labels, `*` for a label or a part of one, and at most a port")
	}
	var p hostPattern
	host, port, hasPort := strings.Cut(s, ":")
	if hasPort {
		if !plainPort(port) {
			return hostPattern{}, errors.New("has a port that is not a number from 1 to 65535")
		}
		p.port = port
	}
	if host != strings.ToLower(host) {
		return hostPattern{}, errors.New("must be in lower case")
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" {
			return hostPattern{}, errors.New("has an empty label")
		}
		g, err := compileSegment(label)
		if err != nil || g.kind == segDeep {
			return hostPattern{}, errors.New("matches label by label: `*` is one label or a part of one, `{name}` the same with a name, `**` is nothing")
		}
		if g.name != "" {
			if slices.Contains(p.names, g.name) {
				return hostPattern{}, fmt.Errorf("names the label {%s} twice", g.name)
			}
			p.names = append(p.names, g.name)
		}
		p.labels = append(p.labels, g)
	}
	return p, nil
}

// capture gives the values of the named labels of a host that matches.
func (h *hostPattern) capture(host string, into map[string]string) {
	for i := range h.labels {
		g := &h.labels[i]
		label, rest, _ := strings.Cut(host, ".")
		if n := len(g.prefix) + len(g.suffix); g.name != "" && len(label) >= n {
			into[g.name] = label[len(g.prefix) : len(label)-len(g.suffix)]
		}
		host = rest
	}
}
