package mapping

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"github.com/actpass/sidecar/strictyaml"
	"github.com/bmatcuk/doublestar/v4"
)

// The form of a rule file, as decoded. mapping/catalog/README.md is its manual.
type ruleFile struct {
	At          strictyaml.Pos           `yaml:"-"`
	Name        string                   `yaml:"name"`
	Description string                   `yaml:"description"`
	Errors      strictyaml.Val[string]   `yaml:"errors"`
	Hosts       []strictyaml.Val[string] `yaml:"hosts"`
	Optional    []argDecl                `yaml:"optional"`
	Rules       []ruleDecl               `yaml:"rules"`
}

type ruleDecl struct {
	At       strictyaml.Pos           `yaml:"-"`
	Match    *matchDecl               `yaml:"match"`
	Tool     strictyaml.Val[string]   `yaml:"tool"`
	Risk     strictyaml.Val[string]   `yaml:"risk"`
	Args     strictyaml.Val[string]   `yaml:"args"`
	Require  []argDecl                `yaml:"require"`
	Optional []argDecl                `yaml:"optional"`
	Closed   bool                     `yaml:"closed"`
	Resource []strictyaml.Val[string] `yaml:"resource"`
	Errors   strictyaml.Val[string]   `yaml:"errors"`
	MCP      strictyaml.Val[string]   `yaml:"mcp"`
	Quirks   []strictyaml.Val[string] `yaml:"quirks"`
	Cases    []caseDecl               `yaml:"cases"`
}

type matchDecl struct {
	At      strictyaml.Pos           `yaml:"-"`
	Host    []strictyaml.Val[string] `yaml:"host"`
	Methods []strictyaml.Val[string] `yaml:"methods"`
	Path    strictyaml.Val[string]   `yaml:"path"`
	Headers map[string]string        `yaml:"headers"`
	Query   map[string]string        `yaml:"query"`
}

type argDecl struct {
	At     strictyaml.Pos         `yaml:"-"`
	Name   strictyaml.Val[string] `yaml:"name"`
	Type   strictyaml.Val[string] `yaml:"type"`
	Enum   []string               `yaml:"enum"`
	Secret bool                   `yaml:"secret"`
}

var (
	risks       = []string{RiskLow, RiskMedium, RiskHigh, RiskCritical}
	errorShapes = []string{"stripe", "openai", "anthropic", "github", "jsonrpc", "problem"}
)

type headerMatch struct {
	name    string
	pattern string
	literal bool
}

const (
	// maxBrackets bounds what opens in a rule file before it is parsed: the YAML
	// parser recurses once for each.
	maxBrackets = 64
	maxRules    = 200_000
)

// compiler gathers the rules of all sources and every fault on the way.
type compiler struct {
	set    *Set
	faults strictyaml.Faults
	// partial says that the file did not decode as a whole: what is missing may
	// stand there and have been reported already.
	partial bool
}

func (c *compiler) source(src Source) {
	at := strictyaml.Pos{File: src.Name, Line: 1, Col: 1}
	if line := tooNested(src.Data); line > 0 {
		at.Line = line
		c.faults.Addf(at, "nested deeper than %d brackets", maxBrackets)
		return
	}
	var f ruleFile
	c.partial = false
	if err := strictyaml.Decode(src.Name, src.Data, &f); err != nil {
		c.faults.Add(at, err)
		c.partial = true
		if len(f.Rules) == 0 {
			return
		}
	} else if len(f.Rules) == 0 {
		c.faults.Addf(f.At, "the file has no rules: list them under `rules`")
	}
	if f.Errors.Set() {
		c.oneOf(f.Errors, "errors", errorShapes)
	}
	shared := c.declared(f.Optional, false, nil)
	seen := make(map[string]map[string]int)
	for i := range f.Rules {
		c.rule(&f, &f.Rules[i], shared, seen)
	}
}

// tooNested gives the line on which flow brackets nest too deep, or 0. Brackets
// inside quotes count too; no rule has that many.
func tooNested(data []byte) int {
	depth := 0
	for i, b := range data {
		switch b {
		case '[', '{':
			if depth++; depth > maxBrackets {
				return 1 + bytes.Count(data[:i], []byte("\n"))
			}
		case ']', '}':
			depth = max(depth-1, 0)
		}
	}
	return 0
}

func (c *compiler) oneOf(v strictyaml.Val[string], what string, known []string) bool {
	if slices.Contains(known, v.V) {
		return true
	}
	c.faults.Addf(v.Pos, "unknown %s %q%s", what, v.V, strictyaml.Suggest(v.V, known))
	return false
}

func (c *compiler) rule(f *ruleFile, d *ruleDecl, shared []Arg, seen map[string]map[string]int) {
	if d.At.Line == 0 {
		return // was no mapping: said already
	}
	r := &Rule{Pos: Pos{File: d.At.File, Line: d.At.Line}, order: len(c.set.rules)}
	if r.order >= maxRules {
		if r.order == maxRules {
			c.faults.Addf(d.At, "more than %d rules", maxRules)
		}
		return
	}
	c.set.rules = append(c.set.rules, r)
	before := len(c.faults)

	kindName := "none"
	if d.Args.Set() {
		kindName = d.Args.V
		c.oneOf(d.Args, "args", kindNames())
	}
	r.kind = kinds[kindName]
	c.mcp(r, d)
	if r.kind == nil {
		r.kind = kinds["none"]
	}

	if d.Tool.V == "" && r.mcp == "" && !c.partial {
		at := d.At
		if d.Tool.Set() {
			at = d.Tool.Pos
		}
		c.faults.Addf(at, "the rule has no `tool`: name it like stripe.refund.create")
	}
	if d.Tool.V != "" {
		r.Tool = d.Tool.V
		if !toolName(r.Tool) {
			c.faults.Addf(d.Tool.Pos, "`tool` %s: a name has letters, digits and `_ . - /`, at most 128", show(r.Tool))
		}
	}

	methods := c.match(f, d, r, seen, before)

	r.Risk = RiskHigh
	if len(methods) > 0 && !slices.ContainsFunc(methods, func(m string) bool { return methodRisk(m) != RiskLow }) {
		r.Risk = RiskLow
	}
	if d.Risk.Set() && c.oneOf(d.Risk, "risk", risks) {
		r.Risk = d.Risk.V
	}

	r.shape = f.Errors.V
	if d.Errors.Set() && c.oneOf(d.Errors, "errors", errorShapes) {
		r.shape = d.Errors.V
	}
	if r.shape == "" && r.mcp != "" {
		r.shape = "jsonrpc"
	}
	if r.shape == "problem" {
		r.shape = ""
	}

	c.args(r, d, shared)
	for _, q := range d.Quirks {
		if q.V == "query_with_form" {
			if kindName != "form" {
				c.faults.Addf(q.Pos, "the quirk query_with_form belongs to `args: form`")
			}
			r.queryWithForm = true
			continue
		}
		names := make([]string, 0, len(quirks)+1)
		for name := range quirks {
			names = append(names, name)
		}
		if c.oneOf(q, "quirk", append(names, "query_with_form")) {
			r.quirks |= quirks[q.V]
		}
	}
	for _, t := range d.Resource {
		tpl, err := compileTemplate(t.V, r)
		if err != nil {
			c.faults.Addf(t.Pos, "`resource` %s: %v", show(t.V), err)
			continue
		}
		r.resource = append(r.resource, tpl)
	}
	c.cases(r, d, kindName, shared)
}

func (c *compiler) mcp(r *Rule, d *ruleDecl) {
	if !d.MCP.Set() {
		return
	}
	switch {
	case d.Args.V != "jsonrpc":
		c.faults.Addf(d.MCP.Pos, "`mcp` belongs to `args: jsonrpc`")
	case !serverName(d.MCP.V):
		c.faults.Addf(d.MCP.Pos, "`mcp` %s: a server's name has letters, digits, `_` and `-`, at most 64", show(d.MCP.V))
	default:
		r.mcp = d.MCP.V
		r.Tool = "mcp." + r.mcp
	}
}

func serverName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

func toolName(s string) bool {
	return len(s) <= 128 && s[0] != '.' && s[len(s)-1] != '.' &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./") == ""
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

func (c *compiler) declared(decls []argDecl, required bool, into []Arg) []Arg {
	for _, d := range decls {
		if d.At.Line == 0 {
			continue
		}
		a := Arg{Name: d.Name.V, Type: "string", Required: required, Enum: d.Enum, Secret: d.Secret}
		at := d.At
		if d.Name.Set() {
			at = d.Name.Pos
		}
		if !argName(a.Name) {
			if c.partial {
				continue
			}
			c.faults.Addf(at, "the argument name %s is no dotted path: write amount, shipping.country or items.*.price", show(a.Name))
			continue
		}
		if d.Type.Set() {
			if !c.oneOf(d.Type, "type", argTypes) {
				continue
			}
			a.Type = d.Type.V
		}
		if len(a.Enum) > 0 && (a.Type == "array" || a.Type == "object") {
			c.faults.Addf(at, "`enum` is for scalar types, not for %s", a.Type)
		}
		if slices.ContainsFunc(into, func(b Arg) bool { return b.Name == a.Name }) {
			c.faults.Addf(at, "the argument `%s` is declared twice", a.Name)
			continue
		}
		into = append(into, a)
	}
	return into
}

func argName(s string) bool {
	if s == "" || len(s) > 256 || strings.Count(s, ".") > 16 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || part != "*" && strings.ContainsAny(part, "*[]{} ") || strings.IndexFunc(part, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0 {
			return false
		}
	}
	return s[0] != '*'
}

func (c *compiler) args(r *Rule, d *ruleDecl, shared []Arg) {
	own := c.declared(d.Require, true, nil)
	own = c.declared(d.Optional, false, own)
	if len(own) > 0 && !r.kind.reads() {
		c.faults.Addf(d.At, "the rule declares arguments and reads none: say where they are with `args`")
		return
	}
	if !r.kind.reads() {
		return
	}
	for _, a := range shared {
		if !slices.ContainsFunc(own, func(b Arg) bool { return b.Name == a.Name }) {
			own = append(own, a)
		}
	}
	r.args = own
	r.closed = d.Closed
	r.spec = compileSpec(own)
	for _, a := range own {
		if a.Secret && !strings.Contains(a.Name, "*") {
			r.secret = append(r.secret, a.Name)
		}
	}
}

func kindNames() []string {
	names := make([]string, 0, len(kinds))
	for name := range kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func methodRisk(method string) string {
	switch method {
	case "GET", "HEAD", "OPTIONS":
		return RiskLow
	}
	return RiskHigh
}

func token(s string) bool {
	if s == "" {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !tokenByte(s[i]) {
			return false
		}
	}
	return true
}

// tokenBytes are those of RFC 9110 section 5.6.2.
var tokenBytes = func() (t [256]bool) {
	for c := byte('!'); c < 0x7f; c++ {
		t[c] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
	}
	return t
}()

func tokenByte(c byte) bool { return tokenBytes[c] }

// canonicalHeader is the MIME form of a header name (net/textproto), without
// the import.
func canonicalHeader(name string) string {
	b := []byte(name)
	upper := true
	for i, c := range b {
		switch {
		case upper && 'a' <= c && c <= 'z':
			b[i] = c - 'a' + 'A'
		case !upper && 'A' <= c && c <= 'Z':
			b[i] = c - 'A' + 'a'
		}
		upper = c == '-'
	}
	return string(b)
}
