package openapi

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/actpass/sidecar/mapping"
)

// Merged is a rule file with the operations of a pack that it lacked.
type Merged struct {
	Data  []byte
	Added []Operation // with the tools that they got
	Kept  int         // operations that the file has already
	// Gone are rules of the file whose operation the pack does not have. They stay.
	Gone []Gone
}

// Gone is a rule that stands for no operation.
type Gone struct {
	Line   int    `json:"line"` // in the merged file
	Method string `json:"method"`
	Path   string `json:"path"`
	Tool   string `json:"tool"`
}

// existing is one rule of an edited file.
type existing struct {
	line    int // of its dash
	tool    string
	methods []string // empty: any
	hosts   []string
	pattern string
	paths   []string // shapes, one for each alternative of the pattern
}

// Merge adds to an edited rule file the operations of p that it lacks. What
// stands in the file stays byte for byte; a rule and an operation are the same
// when host, method and path are, whatever the names of the segments. A new rule
// goes to the end, or before the first rule that would take its requests. The
// error is strictyaml.Faults where the file is not a valid rule file.
func (p *Pack) Merge(file mapping.Source) (*Merged, error) {
	before, err := mapping.Compile([]mapping.Source{file}, mapping.Options{})
	if err != nil {
		return nil, err
	}
	f, err := readFile(file)
	if err != nil {
		return nil, err
	}
	out := &Merged{}
	have := make(map[string]bool)
	taken := make(map[string]bool)
	for _, r := range f.rules {
		taken[r.tool] = true
		for _, host := range r.hosts {
			for _, path := range r.paths {
				for _, m := range r.methods {
					have[host+" "+m+" "+path] = true
				}
				if len(r.methods) == 0 {
					have[host+" "+path] = true
				}
			}
		}
	}
	fresh := &Pack{Name: p.Name, Host: p.Host}
	wanted := make(map[string]bool)
	for _, o := range p.Operations {
		if o.Host == "" {
			o.Host = p.Host
		}
		shape := shapeOf(o.segs)
		wanted[o.Host+" "+o.Method+" "+shape] = true
		if have[o.Host+" "+o.Method+" "+shape] || have[o.Host+" "+shape] {
			out.Kept++
			continue
		}
		fresh.Operations = append(fresh.Operations, o)
	}
	fresh.assignTools(taken)
	out.Added = fresh.Operations

	// Where each goes: before the rule that would take it, 0 the end.
	at := make(map[int][]Operation)
	for _, o := range fresh.Operations {
		line := 0
		if m := before.Match(request(&o, p.Host)); m.Rule != nil {
			line = f.dash(m.Rule.Line)
		}
		at[line] = append(at[line], o)
	}
	out.Data = f.insert(at)
	after, err := mapping.Compile([]mapping.Source{{Name: file.Name, Data: out.Data}}, mapping.Options{})
	if err != nil {
		return nil, fmt.Errorf("merge into %s: what comes of it does not compile (nothing was changed): %w", file.Name, err)
	}
	if err := p.unchanged(before, after, fresh); err != nil {
		return nil, fmt.Errorf("merge into %s: %w (nothing was changed)", file.Name, err)
	}
	g, err := readFile(mapping.Source{Name: file.Name, Data: out.Data})
	if err != nil {
		return nil, err
	}
	for _, r := range g.rules {
		if strings.Contains(r.pattern, "*") {
			continue // a net, no operation
		}
		for _, m := range r.methods {
			if !slices.ContainsFunc(r.hosts, func(h string) bool {
				return slices.ContainsFunc(r.paths, func(path string) bool { return wanted[h+" "+m+" "+path] })
			}) {
				out.Gone = append(out.Gone, Gone{r.line, m, r.pattern, r.tool})
			}
		}
	}
	return out, nil
}

// unchanged makes sure that each new operation has its own rule, and that every
// other is named as it was.
func (p *Pack) unchanged(before, after *mapping.Set, fresh *Pack) error {
	added := make(map[string]string)
	for i := range fresh.Operations {
		o := &fresh.Operations[i]
		added[o.key()] = o.Tool
	}
	for _, o := range p.Operations {
		if o.Host == "" {
			o.Host = p.Host
		}
		m := after.Match(request(&o, p.Host))
		if tool, is := added[o.key()]; is {
			if m.Rule == nil || m.Rule.Tool != tool {
				return fmt.Errorf("the new rule for %s would not be reached", o.label())
			}
			continue
		}
		old := before.Match(request(&o, p.Host))
		if old.Rule == nil || m.Rule == nil || old.Rule.Tool != m.Rule.Tool {
			return fmt.Errorf("a new rule would take %s from its rule", o.label())
		}
	}
	return nil
}

// request is a sample of o. A wildcard in a host stands for a label "sample".
func request(o *Operation, host string) *mapping.Request {
	if o.Host != "" {
		host = o.Host
	}
	host = strings.NewReplacer("*", "sample", "?", "s").Replace(host)
	return &mapping.Request{Method: o.Method, Scheme: "https", Authority: host, Host: host, Target: o.sample()}
}

// ruleFile is an edited rule file as text and as rules.
type ruleFile struct {
	lines  []string // with their ends
	eol    string
	indent string // of the dashes
	end    int    // the line before which a rule at the end goes
	hosts  []string
	rules  []existing
}

// readFile finds the rules of a file that compiles.
func readFile(file mapping.Source) (*ruleFile, error) {
	f := &ruleFile{lines: strings.SplitAfter(string(file.Data), "\n"), eol: "\n"}
	if bytes.Contains(file.Data, []byte("\r\n")) {
		f.eol = "\r\n"
	}
	if f.lines[len(f.lines)-1] == "" {
		f.lines = f.lines[:len(f.lines)-1]
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(file.Data, &doc); err != nil {
		return nil, fmt.Errorf("read %s: %w", file.Name, err)
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("read %s: not a rule file", file.Name)
	}
	top := doc.Content[0]
	var rules *yaml.Node
	f.end = len(f.lines) + 1
	for i := 0; i+1 < len(top.Content); i += 2 {
		switch key, value := top.Content[i], top.Content[i+1]; {
		case key.Value == "rules":
			rules = value
		case rules != nil && f.end > len(f.lines):
			f.end = f.above(key.Line)
		}
	}
	if rules == nil || rules.Kind != yaml.SequenceNode || rules.Style&yaml.FlowStyle != 0 || top.Style&yaml.FlowStyle != 0 {
		return nil, errors.New("rules can only be added where `rules` is a list with a dash for each")
	}
	if hosts := field(top, "hosts"); hosts != nil {
		f.hosts = texts(hosts)
	}
	f.indent = strings.Repeat(" ", rules.Column-1)
	for _, n := range rules.Content {
		r := existing{line: n.Line, hosts: f.hosts}
		if v := field(n, "tool"); v != nil {
			r.tool = v.Value
		}
		match := field(n, "match")
		if match == nil {
			continue
		}
		if v := field(match, "host"); v != nil {
			r.hosts = texts(v)
		}
		if v := field(match, "methods"); v != nil {
			r.methods = texts(v)
		}
		if v := field(match, "path"); v != nil {
			r.pattern, r.paths = v.Value, patternShapes(v.Value)
		}
		f.rules = append(f.rules, r)
	}
	return f, nil
}

func field(m *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

func texts(n *yaml.Node) []string {
	if n.Kind == yaml.ScalarNode {
		return []string{n.Value}
	}
	var out []string
	for _, e := range n.Content {
		out = append(out, e.Value)
	}
	return out
}

// dash is the line of the rule that the compiler places at line.
func (f *ruleFile) dash(line int) int {
	found := 0
	for _, r := range f.rules {
		if r.line <= line {
			found = r.line
		}
	}
	return found
}

// above is the first line of the comments that stand right before line.
func (f *ruleFile) above(line int) int {
	for line > 1 && strings.HasPrefix(strings.TrimSpace(f.lines[line-2]), "#") {
		line--
	}
	return line
}

// insert writes the operations before the lines that they are listed under.
func (f *ruleFile) insert(at map[int][]Operation) []byte {
	own := ""
	if len(f.hosts) == 1 {
		own = f.hosts[0]
	}
	var b strings.Builder
	put := func(ops []Operation) {
		w := writer{indent: f.indent}
		for i := range ops {
			o := ops[i]
			if o.Host == own {
				o.Host = ""
			}
			w.operation(&o, "")
		}
		b.WriteString(strings.ReplaceAll(w.b.String(), "\n", f.eol))
	}
	byLine := make(map[int][]Operation)
	for line, ops := range at {
		to := f.end
		if line > 0 {
			to = f.above(line)
		}
		byLine[to] = append(byLine[to], ops...)
	}
	for i, line := range f.lines {
		if ops := byLine[i+1]; len(ops) > 0 {
			put(ops)
		}
		b.WriteString(line)
	}
	if ops := byLine[len(f.lines)+1]; len(ops) > 0 {
		if !strings.HasSuffix(b.String(), "\n") {
			b.WriteString(f.eol)
		}
		put(ops)
	}
	return []byte(b.String())
}

// patternShapes is what a pattern matches, for each of its alternatives, in the
// form of shapeOf.
func patternShapes(pattern string) []string {
	var out []string
	for _, p := range alternatives(pattern) {
		var b strings.Builder
		for part := range strings.SplitSeq(strings.TrimPrefix(p, "/"), "/") {
			b.WriteByte('/')
			b.WriteString(patternShape(part))
		}
		out = append(out, b.String())
	}
	return out
}

func patternShape(part string) string {
	open, end := strings.IndexByte(part, '{'), strings.IndexByte(part, '}')
	switch {
	case part == "*" || part == "**":
		return part
	case open >= 0 && end > open:
		return segment{prefix: part[:open], name: "x", suffix: part[end+1:]}.shape()
	case strings.ContainsAny(part, "*?["):
		// A text with escaped characters is a pattern too; see escapeGlob.
		if plain := strings.NewReplacer("[*]", "*", "[?]", "?", "[[]", "[").Replace(part); escapeGlob(plain) == part {
			return segment{prefix: plain}.shape()
		}
		return segment{glob: part}.shape()
	}
	return segment{prefix: part}.shape()
}

// alternatives writes {a,b} out; a compiled pattern has few.
func alternatives(s string) []string {
	for from := 0; ; {
		open := strings.IndexByte(s[from:], '{')
		if open < 0 {
			return []string{s}
		}
		open += from
		end := open + strings.IndexByte(s[open:], '}')
		if end < open {
			return []string{s}
		}
		if inner := s[open+1 : end]; strings.Contains(inner, ",") {
			var out []string
			for choice := range strings.SplitSeq(inner, ",") {
				out = append(out, alternatives(s[:open]+choice+s[end+1:])...)
			}
			return out
		}
		from = end + 1
	}
}
