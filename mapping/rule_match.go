package mapping

import (
	"maps"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// What a rule matches: hosts, methods, paths, headers and query parameters.

type headerMatch struct {
	name    string
	pattern string
	literal bool
}

// match compiles and indexes what the rule matches, and gives its methods.
func (c *compiler) match(f *ruleFile, d *ruleDecl, r *Rule, seen map[string]map[string]int, before int) []string {
	if d.Match == nil || d.Match.At.Line == 0 {
		if !c.partial {
			c.faults.Addf(d.At, "the rule has no `match`")
		}
		return nil
	}
	m := d.Match
	for _, v := range m.Methods {
		if !token(v.V) || v.V != strings.ToUpper(v.V) {
			c.faults.Addf(v.Pos, "the method %s: write it in upper case, GET or POST", show(v.V))
			continue
		}
		if slices.Contains(r.methods, v.V) {
			c.faults.Addf(v.Pos, "the method %s stands twice", v.V)
			continue
		}
		r.methods = append(r.methods, v.V)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		if !token(name) || canonicalHeader(name) == "Host" {
			c.faults.Addf(m.At, "`headers`: %s cannot be matched", show(name))
			continue
		}
		r.headers = c.valueGlob(m, r.headers, "headers", canonicalHeader(name), m.Headers[name])
	}
	for _, name := range slices.Sorted(maps.Keys(m.Query)) {
		if name == "" || len(name) > 256 {
			c.faults.Addf(m.At, "`query`: %s cannot be matched", show(name))
			continue
		}
		r.query = c.valueGlob(m, r.query, "query", name, m.Query[name])
	}

	hosts := m.Host
	if len(hosts) == 0 {
		hosts = f.Hosts
	}
	if len(hosts) == 0 && !c.partial {
		c.faults.Addf(m.At, "the match names no `host`, and the file no `hosts`")
	}
	var hostPatterns []hostPattern
	for _, h := range hosts {
		p, err := compileHost(h.V)
		if err != nil {
			c.faults.Addf(h.Pos, "the host %s %v", show(h.V), err)
			continue
		}
		hostPatterns = append(hostPatterns, p)
	}
	if !m.Path.Set() {
		if !c.partial {
			c.faults.Addf(m.At, "the match has no `path`: write `/**` for every path")
		}
		return r.methods
	}
	paths, err := compilePath(m.Path.V)
	if err != nil {
		c.faults.Addf(m.Path.Pos, "the path %s %v", show(m.Path.V), err)
		return r.methods
	}
	for _, p := range paths {
		for _, g := range p {
			if g.name != "" && !slices.Contains(r.names, g.name) {
				r.names = append(r.names, g.name)
			}
			if g.name != "" && g.kind == segDeep && !slices.Contains(r.deep, g.name) {
				r.deep = append(r.deep, g.name)
			}
		}
	}
	ofPath := len(r.names)
	for i, h := range hostPatterns {
		for _, name := range h.names {
			if slices.Contains(r.names[:ofPath], name) {
				c.faults.Addf(hosts[i].Pos, "names the label {%s}, and so does the path name a segment", name)
			} else if !slices.Contains(r.names, name) {
				r.names = append(r.names, name)
			}
		}
	}
	if first := c.shadowed(r, hostPatterns, paths, seen); first > 0 {
		c.faults.Addf(m.At, "this rule is never reached: the rule on line %d matches the same before it", first)
	}
	if len(c.faults) > before {
		return r.methods // not indexed: the set is refused anyway
	}
	r.reach = reach{d.At, hostPatterns, paths}
	for _, h := range hostPatterns {
		s := c.set.index.site(h)
		named := &h
		if len(h.names) == 0 {
			named = nil
		}
		for _, p := range paths {
			s.add(r, p, named)
		}
	}
	return r.methods
}

// shadowed gives the line of the rule that matches all that r does, for matches
// that are written alike, and notes r's own.
func (c *compiler) shadowed(r *Rule, hosts []hostPattern, paths [][]segment, seen map[string]map[string]int) int {
	methods := r.methods
	if len(methods) == 0 {
		methods = []string{""}
	}
	first, free := 0, false
	for _, h := range hosts {
		for _, p := range paths {
			var b strings.Builder
			b.WriteString(h.key())
			for i := range p {
				b.WriteByte('/')
				b.WriteString(p[i].shape())
			}
			for _, hm := range r.headers {
				b.WriteString("\n" + hm.name + ":" + hm.pattern)
			}
			for _, qm := range r.query {
				b.WriteString("\n?" + qm.name + "=" + qm.pattern)
			}
			taken := seen[b.String()]
			if taken == nil {
				taken = make(map[string]int)
				seen[b.String()] = taken
			}
			for _, method := range methods {
				line, dup := taken[method]
				if anyLine, all := taken[""]; all {
					line, dup = anyLine, true
				}
				if dup {
					first = line
					continue
				}
				free = true
				taken[method] = r.Line
			}
		}
	}
	if free {
		return 0
	}
	return first
}

func (r *Rule) acceptsMethod(method string) bool {
	return len(r.methods) == 0 || slices.Contains(r.methods, method)
}

// acceptsHeaders takes any one of several values for a match: the stricter
// reading of a header that stands twice. The duplicate itself is reported.
func (r *Rule) acceptsHeaders(header map[string][]string) bool {
	for i := range r.headers {
		h := &r.headers[i]
		if !slices.ContainsFunc(header[h.name], func(v string) bool {
			return v == h.pattern || !h.literal && doublestar.MatchUnvalidated(h.pattern, v)
		}) {
			return false
		}
	}
	return true
}

// acceptsQuery takes any one of several values, as acceptsHeaders does; `*`
// alone also takes none.
func (r *Rule) acceptsQuery(query map[string]any) bool {
	for i := range r.query {
		q := &r.query[i]
		accepts := func(v any) bool {
			s, _ := v.(string)
			return q.pattern == "*" || s == q.pattern || !q.literal && doublestar.MatchUnvalidated(q.pattern, s)
		}
		switch v := query[q.name].(type) {
		case string:
			if !accepts(v) {
				return false
			}
		case []any:
			if !slices.ContainsFunc(v, accepts) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// valueGlob adds a condition on a header or a query parameter.
func (c *compiler) valueGlob(m *matchDecl, into []headerMatch, key, name, glob string) []headerMatch {
	alternatives, err := expandBraces(glob)
	if err != nil || glob == "" || len(glob) > maxPattern || strings.Contains(glob, "**") || !doublestar.ValidatePattern(glob) || len(alternatives) > maxAlternatives {
		c.faults.Addf(m.At, "`%s.%s`: the glob %s is not valid", key, name, show(glob))
		return into
	}
	return append(into, headerMatch{name, glob, !strings.ContainsAny(glob, "*?[]{}\\")})
}
