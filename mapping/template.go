package mapping

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// template is a compiled resource template: literals and references by turns.
type template []part

type part struct {
	literal string
	space   string   // "": literal; args, path, query, header, host
	path    []string // below the space
	deep    bool     // a `{name...}` of the path
}

func compileTemplate(s string, r *Rule) (template, error) {
	if s == "" || len(s) > maxPattern {
		return nil, fmt.Errorf("has no text, or more than %d bytes", maxPattern)
	}
	var t template
	for s != "" {
		head, rest, found := strings.Cut(s, "{")
		if strings.ContainsRune(head, '}') {
			return nil, errors.New("has an unbalanced brace")
		}
		if strings.IndexFunc(head, func(r rune) bool { return r <= ' ' || r == 0x7f }) >= 0 {
			return nil, errors.New("has a space or control character")
		}
		if head != "" {
			t = append(t, part{literal: head})
		}
		if !found {
			break
		}
		ref, after, closed := strings.Cut(rest, "}")
		if !closed {
			return nil, errors.New("has an unbalanced brace")
		}
		p, err := reference(ref, r)
		if err != nil {
			return nil, err
		}
		t = append(t, p)
		s = after
	}
	return t, nil
}

func reference(ref string, r *Rule) (part, error) {
	space, name, dotted := strings.Cut(ref, ".")
	if dotted == (space == "host") || dotted && name == "" {
		return part{}, fmt.Errorf("refers to {%s}: write {args.a.b}, {path.x}, {query.x}, {header.X-Y} or {host}", ref)
	}
	switch space {
	case "host":
		return part{space: space}, nil
	case "args":
		if !r.kind.reads() {
			return part{}, fmt.Errorf("refers to {%s}, and the rule reads no arguments: say where they are with `args`", ref)
		}
		if !argName(name) || strings.Contains(name, "*") {
			return part{}, fmt.Errorf("refers to {%s}, which is no dotted path to one value", ref)
		}
		if r.closed && !slices.ContainsFunc(r.args, func(a Arg) bool { return a.Name == name }) {
			return part{}, fmt.Errorf("refers to {%s}, which the closed rule does not declare", ref)
		}
		return part{space: space, path: strings.Split(name, ".")}, nil
	case "path":
		if !slices.Contains(r.names, name) {
			return part{}, fmt.Errorf("refers to {%s}, and the path names no {%s}", ref, name)
		}
		return part{space: space, path: []string{name}, deep: slices.Contains(r.deep, name)}, nil
	case "query":
		return part{space: space, path: []string{name}}, nil
	case "header":
		if !token(name) || hiddenHeader(canonicalHeader(name)) {
			return part{}, fmt.Errorf("refers to {%s}, which is no header that may be shown", ref)
		}
		return part{space: space, path: []string{canonicalHeader(name)}}, nil
	}
	return part{}, fmt.Errorf("refers to {%s}: write {args.a.b}, {path.x}, {query.x}, {header.X-Y} or {host}", ref)
}

// render gives the resource, and whether every reference had a value.
func (t template) render(m *Match, c *Call) (string, bool) {
	var b strings.Builder
	b.Grow(64)
	complete := true
	for i := range t {
		p := &t[i]
		if p.space == "" {
			b.WriteString(p.literal)
			continue
		}
		v := ""
		switch p.space {
		case "host":
			v = m.Host
		case "args":
			v = lookup(c.Args, p.path)
		case "path":
			v = m.params[p.path[0]]
		case "query":
			v = lookup(c.Query, p.path)
		case "header":
			v = lookup(m.header(), p.path)
		}
		if v == "" {
			complete = false
			b.WriteByte('-')
			continue
		}
		if p.deep {
			// What `{name...}` stands for is a path again: /a%2Fb and /a/b name one
			// thing to the servers that have such paths.
			for i, seg := range strings.Split(v, "/") {
				if i > 0 {
					b.WriteByte('/')
				}
				escapeValue(&b, seg)
			}
			continue
		}
		escapeValue(&b, v)
	}
	return b.String(), complete
}

func lookup(m map[string]any, path []string) string {
	for _, name := range path[:len(path)-1] {
		m, _ = m[name].(map[string]any)
	}
	return scalarText(m[path[len(path)-1]])
}

// escapeValue writes a value such that it is one part of a resource and nothing
// else.
func escapeValue(b *strings.Builder, v string) {
	if v == "-" {
		b.WriteString("%2D")
		return
	}
	start := 0
	for i := 0; i < len(v); i++ {
		c := v[i]
		if resourceByte[c] {
			continue
		}
		const hex = "0123456789ABCDEF"
		b.WriteString(v[start:i])
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
		start = i + 1
	}
	b.WriteString(v[start:])
}

// resourceByte marks the bytes that stand for themselves in a resource.
var resourceByte = func() (t [256]bool) {
	for c := range len(t) {
		t[c] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c < utf8.RuneSelf && strings.IndexByte("-._~@+=,!$", byte(c)) >= 0
	}
	return t
}()

// resourceOf renders the first complete template of a rule, else its first.
func (m *Match) resourceOf(r *Rule, c *Call) string {
	first := ""
	for i, t := range r.resource {
		s, complete := t.render(m, c)
		if complete {
			return s
		}
		if i == 0 {
			first = s
		}
	}
	if first != "" {
		return first
	}
	return m.URL()
}
