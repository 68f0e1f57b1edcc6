package mapping

import (
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"

	"github.com/actpass/sidecar/strictyaml"
)

// Some providers find a thing whatever the case of its name: GitHub's
// repositories, Jira's issues. Where a rule file says so (`caseless`), policy sees
// one spelling of each, the lower one, in path, args and resource; what is sent
// stays as it came. Else a policy about github:repo:acme/prod would not be asked
// about /repos/ACME/Prod.

// caseless is what a rule compares without case.
type caseless struct {
	path []string
	args [][]string // dotted paths below args; * is every element or member
}

func (c *caseless) empty() bool { return len(c.path) == 0 && len(c.args) == 0 }

// caseless reads the key of a rule, and of its file: those of the file concern
// the rules that have such a value. used notes which of the file's did.
func (c *compiler) caseless(r *Rule, own []strictyaml.Val[string], shared []strictyaml.Val[string], used map[string]bool) {
	seen := make(map[string]bool)
	for _, v := range own {
		space, name, _ := strings.Cut(v.V, ".")
		switch {
		case seen[v.V]:
			c.faults.Addf(v.Pos, "`caseless` %s stands twice", show(v.V))
		case space == "path" && name != "":
			if !slices.Contains(r.names, name) {
				c.faults.Addf(v.Pos, "`caseless` %s: the path names no {%s}", show(v.V), name)
			}
			r.caseless.path = append(r.caseless.path, name)
		case space == "args" && argName(name):
			if !r.kind.reads() {
				c.faults.Addf(v.Pos, "`caseless` %s: the rule reads no arguments, say where they are with `args`", show(v.V))
			}
			r.caseless.args = append(r.caseless.args, strings.Split(name, "."))
		default:
			c.faults.Addf(v.Pos, "`caseless` %s: write path.x or args.a.b", show(v.V))
		}
		seen[v.V] = true
	}
	for _, v := range shared {
		space, name, _ := strings.Cut(v.V, ".")
		switch {
		case space == "path" && slices.Contains(r.names, name):
			used[v.V] = true
			if !seen[v.V] {
				r.caseless.path = append(r.caseless.path, name)
			}
		case space == "args" && argName(name) && r.kind.reads():
			used[v.V] = true
			if !seen[v.V] {
				r.caseless.args = append(r.caseless.args, strings.Split(name, "."))
			}
		}
	}
}

// foldPath gives the named segments that the rule compares without case in lower
// case.
func (m *Match) foldPath() {
	for _, name := range m.Rule.caseless.path {
		if v, ok := m.params[name]; ok {
			m.params[name] = m.folded(v, "path."+name)
		}
	}
}

// folded is the lower case of a name. A letter that only some comparisons take
// for a plain one (the Kelvin sign, a full-width one) is ambiguous, and stays.
func (m *Match) folded(v, where string) string {
	if !ascii(v) && ascii(lowered(norm.NFKC.String(v))) {
		m.flag(ambiguity(ClassPath, "%s is compared without case, and has characters that look like others", where))
	}
	return lowerASCII(v)
}

func lowerASCII(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if c := b[i]; 'A' <= c && c <= 'Z' {
					b[i] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// foldArgs gives the arguments at each path in lower case, in place.
func foldArgs(args map[string]any, paths [][]string) {
	for _, p := range paths {
		foldAt(args, p)
	}
}

// foldAt gives v with the texts below path in lower case.
func foldAt(v any, path []string) any {
	if len(path) == 0 {
		if s, ok := v.(string); ok {
			return lowerText(s, v)
		}
		return v
	}
	switch x := v.(type) {
	case map[string]any:
		if path[0] != "*" {
			if e, ok := x[path[0]]; ok {
				x[path[0]] = foldAt(e, path[1:])
			}
			return v
		}
		for k, e := range x {
			x[k] = foldAt(e, path[1:])
		}
	case []any:
		if path[0] == "*" {
			for i, e := range x {
				x[i] = foldAt(e, path[1:])
			}
		}
	}
	return v
}

// lowerText gives v itself where nothing changes, which costs no allocation.
func lowerText(s string, v any) any {
	if low := lowerASCII(s); low != s {
		return low
	}
	return v
}

// foldingOf gives the rules of a tool that compare something without case; the
// tools of an MCP server have those of the server.
func (s *Set) foldingOf(tool string) []*Rule {
	if rules := s.folding[tool]; rules != nil {
		return rules
	}
	if rest, ok := strings.CutPrefix(tool, "mcp."); ok {
		server, _, _ := strings.Cut(rest, ".")
		return s.folding["mcp."+server]
	}
	return nil
}

// Spelling gives the text that calls of a tool have where a policy's condition
// holds value against root.path: root is args, path or resource. Of a resource,
// value may be the beginning.
func (s *Set) Spelling(tool, root string, path []string, value string) string {
	for _, r := range s.foldingOf(tool) {
		switch root {
		case "resource":
			for _, t := range r.resource {
				if folded, begins, _ := t.fold(value, &r.caseless); begins {
					return folded
				}
			}
		case "args", "path":
			if len(path) > 0 && r.caseless.has(&part{space: root, path: path}) {
				return lowerASCII(value)
			}
		}
	}
	return value
}

// FoldResource gives a resource that the caller wrote itself (the preflight door)
// in the spelling that traffic of that tool gets: what its rules compare without
// case is in lower case. A resource that is made by no template of the tool's
// rules comes back as it is.
func (s *Set) FoldResource(tool, resource string) string {
	for _, r := range s.foldingOf(tool) {
		for _, t := range r.resource {
			if folded, _, whole := t.fold(resource, &r.caseless); whole {
				return folded
			}
		}
	}
	return resource
}

// fold aligns a resource with the template and lowers the values that are
// compared without case. begins says that the resource is the beginning of what
// the template makes, at least; whole that it is all of it. A value has no colon,
// and no slash unless it stands for a path, so that what is between two literals
// is found by the one behind it.
func (t template) fold(resource string, by *caseless) (folded string, begins, whole bool) {
	var b strings.Builder
	rest := resource
	for i := range t {
		p := &t[i]
		if rest == "" {
			return b.String(), true, false
		}
		if p.space == "" {
			n := len(p.literal)
			if !strings.HasPrefix(rest, p.literal) {
				if !strings.HasPrefix(p.literal, rest) {
					return "", false, false
				}
				n = len(rest)
			}
			b.WriteString(rest[:n])
			rest = rest[n:]
			continue
		}
		value := rest
		if i+1 < len(t) && t[i+1].space == "" {
			if end := strings.Index(rest, t[i+1].literal); end >= 0 {
				value = rest[:end]
			}
		}
		if value == "" || !p.deep && strings.ContainsAny(value, ":/") {
			return "", false, false
		}
		rest = rest[len(value):]
		if by.has(p) {
			value = lowerASCII(value)
		}
		b.WriteString(value)
		if rest == "" {
			return b.String(), true, i+1 == len(t)
		}
	}
	return b.String(), rest == "", rest == ""
}

// has says whether what a part refers to is compared without case.
func (c *caseless) has(p *part) bool {
	switch p.space {
	case "path":
		return slices.Contains(c.path, p.path[0])
	case "args":
		return slices.ContainsFunc(c.args, func(path []string) bool { return slices.Equal(path, p.path) })
	}
	return false
}
