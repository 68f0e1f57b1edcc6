package openapi

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/actpass/sidecar/mapping"
)

const (
	maxArgs    = 100    // declared in one rule
	maxEnum    = 12     // values; a longer list is one that grows
	maxNesting = 5      // names in the dotted path of an argument
	maxSteps   = 50_000 // schemas looked at for one body: references may multiply
)

// collector declares the arguments that a schema describes.
type collector struct {
	doc  *document
	kind string
	// brackets are the fields whose nesting is written in brackets (deepObject);
	// in a form, others nest in no way that is read.
	brackets map[string]bool

	steps int
	args  []mapping.Arg
}

// flat is a schema with its references and combinations resolved, as far as
// arguments need it.
type flat struct {
	types    map[string]bool // nil: not known. "null" is not among them
	nullable bool
	props    map[string]any
	required map[string]bool
	items    any
	enum     []string
	closed   bool // enum holds all values
	format   string
	about    string
	readOnly bool
}

// only is the type, where there is exactly one.
func (f *flat) only() string {
	if len(f.types) == 2 && f.types["integer"] && f.types["number"] {
		return "number"
	}
	if len(f.types) == 1 {
		for t := range f.types {
			return t
		}
	}
	return ""
}

func (c *collector) flatten(v any, seen []string) flat {
	c.steps++
	m, ok := v.(map[string]any)
	if !ok || c.steps > maxSteps || len(seen) > 24 {
		return flat{}
	}
	f := keywords(m)
	if ref := text(m["$ref"]); ref != "" {
		if slices.Contains(seen, ref) {
			return flat{} // it contains itself: nothing more to learn
		}
		if to, err := c.doc.at(ref); err == nil {
			f = both(f, c.flatten(to, append(seen[:len(seen):len(seen)], ref)))
		}
	}
	for _, s := range list(m["allOf"]) {
		f = both(f, c.flatten(s, append(seen[:len(seen):len(seen)], "")))
	}
	for _, key := range []string{"anyOf", "oneOf"} {
		if variants := list(m[key]); len(variants) > 0 {
			all := make([]flat, len(variants))
			for i, s := range variants {
				all[i] = c.flatten(s, append(seen[:len(seen):len(seen)], ""))
			}
			f = both(f, either(all))
		}
	}
	return f
}

// keywords reads what the schema itself says.
func keywords(m map[string]any) flat {
	f := flat{format: text(m["format"]), about: text(m["description"]), readOnly: m["readOnly"] == true, nullable: m["nullable"] == true}
	add := func(t string) {
		if t == "null" {
			f.nullable = true
		} else {
			f.types[t] = true
		}
	}
	switch t := m["type"].(type) {
	case string:
		f.types = make(map[string]bool, 1)
		add(t)
	case []any:
		f.types = make(map[string]bool, len(t))
		for _, e := range t {
			add(text(e))
		}
	}
	f.props, _ = m["properties"].(map[string]any)
	if f.types == nil && f.props != nil {
		f.types = map[string]bool{"object": true}
	}
	if f.items = m["items"]; f.types == nil && f.items != nil {
		f.types = map[string]bool{"array": true}
	}
	for _, e := range list(m["required"]) {
		if f.required == nil {
			f.required = make(map[string]bool)
		}
		f.required[text(e)] = true
	}
	values := list(m["enum"])
	if v, is := m["const"]; is {
		values = []any{v}
	}
	if len(values) > 0 {
		f.closed = true
		for _, e := range values {
			switch e := e.(type) {
			case string:
				f.enum = append(f.enum, e)
			case nil:
				f.nullable = true
			default:
				f.closed = false
			}
		}
		if f.types == nil && f.closed && len(f.enum) > 0 {
			f.types = map[string]bool{"string": true}
		}
	}
	return f
}

// both is what satisfies a and b (allOf).
func both(a, b flat) flat {
	out := flat{
		nullable: a.nullable || b.nullable, format: cmp.Or(a.format, b.format), about: cmp.Or(a.about, b.about),
		readOnly: a.readOnly || b.readOnly, items: a.items, types: a.types, enum: a.enum, closed: a.closed,
		props: join(a.props, b.props, "allOf"),
	}
	if out.items == nil {
		out.items = b.items
	}
	switch {
	case a.types == nil:
		out.types = b.types
	case b.types != nil:
		out.types = make(map[string]bool)
		for t := range a.types {
			if b.types[t] || t == "integer" && b.types["number"] {
				out.types[t] = true
			}
		}
		if a.types["number"] && b.types["integer"] {
			out.types["integer"] = true
		}
	}
	switch {
	case !a.closed:
		out.enum, out.closed = b.enum, b.closed
	case b.closed:
		out.enum = slices.DeleteFunc(slices.Clone(a.enum), func(s string) bool { return !slices.Contains(b.enum, s) })
	}
	if len(a.required)+len(b.required) > 0 {
		out.required = make(map[string]bool)
		maps.Copy(out.required, a.required)
		maps.Copy(out.required, b.required)
	}
	return out
}

// either is what satisfies one of the variants (anyOf, oneOf): it promises only
// what all of them promise.
func either(variants []flat) flat {
	out := flat{types: make(map[string]bool), closed: true}
	first := true
	for _, v := range variants {
		if v.types != nil && len(v.types) == 0 && v.nullable { // null and nothing else
			out.nullable = true
			continue
		}
		out.nullable = out.nullable || v.nullable
		if v.types == nil {
			out.types = nil
		}
		for t := range v.types {
			if out.types != nil {
				out.types[t] = true
			}
		}
		out.props = join(out.props, v.props, "anyOf")
		if out.items == nil {
			out.items = v.items
		}
		if out.closed = out.closed && v.closed; out.closed {
			out.enum = append(out.enum, v.enum...)
		}
		if first {
			out.required, out.format, out.about = maps.Clone(v.required), v.format, v.about
		} else {
			maps.DeleteFunc(out.required, func(k string, _ bool) bool { return !v.required[k] })
			if out.format != v.format {
				out.format = ""
			}
		}
		first = false
	}
	if !out.closed {
		out.enum = nil
	}
	return out
}

// join merges properties; one that stands on both sides is a combination.
func join(a, b map[string]any, how string) map[string]any {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	out := maps.Clone(a)
	for k, v := range b {
		if old, there := out[k]; there {
			v = map[string]any{how: []any{old, v}}
		}
		out[k] = v
	}
	return out
}

// collect gives the declarations for a body of this schema: the required ones
// first, each group by name.
func (c *collector) collect(schema any) []mapping.Arg {
	f := c.flatten(schema, nil)
	c.members(f, nil, true, false)
	byName := func(a, b mapping.Arg) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(c.args, byName)
	c.args = slices.CompactFunc(c.args, func(a, b mapping.Arg) bool { return a.Name == b.Name })
	weight := func(a mapping.Arg) int {
		switch {
		case a.Required:
			return 0
		case a.Secret:
			return 1
		}
		return 2 + strings.Count(a.Name, ".")
	}
	if len(c.args) > maxArgs {
		slices.SortStableFunc(c.args, func(a, b mapping.Arg) int { return weight(a) - weight(b) })
		c.args = c.args[:maxArgs]
		slices.SortFunc(c.args, byName)
	}
	return append(declared(c.args, true), declared(c.args, false)...)
}

// members declares the properties of f below at. certain says that all that f is
// in must be there; hidden, that only secrets are to be declared. Schemas that
// contain themselves end at maxNesting.
func (c *collector) members(f flat, at []string, certain, hidden bool) {
	if len(at) >= maxNesting {
		return
	}
	for _, key := range sorted(f.props) {
		path, ok := argPath(key)
		if !ok {
			continue
		}
		p := c.flatten(f.props[key], nil)
		if p.readOnly {
			continue
		}
		path = append(at[:len(at):len(at)], path...)
		must := certain && f.required[key]
		if !hidden || secretArg(path, p.format) {
			c.declare(p, path, must && !hidden)
		}
		// How a field nests is not said: it may be in brackets all the same, and a
		// secret in it must not be recorded then.
		hidden := hidden || c.kind != "json" && !c.brackets[path[0]]
		if len(p.props) > 0 && (p.types == nil || p.types["object"]) {
			c.members(p, path, must && p.only() == "object" && !p.nullable, hidden)
		}
		if p.items != nil {
			item := c.flatten(p.items, nil)
			c.members(item, append(path[:len(path):len(path)], "*"), false, hidden)
		}
	}
}

// argPath is the dotted path of a field: filter[status] is filter.status. A name
// with a dot of its own cannot be said.
func argPath(key string) ([]string, bool) {
	key = strings.TrimSuffix(key, "[]")
	parts := strings.FieldsFunc(key, func(r rune) bool { return r == '[' || r == ']' })
	joined := strings.Join(parts, "")
	if len(parts) == 0 || len(key) > 128 || strings.ContainsAny(joined, ".*{} ") || strings.IndexFunc(joined, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) >= 0 {
		return nil, false
	}
	want := parts[0]
	for _, p := range parts[1:] {
		want += "[" + p + "]"
	}
	if want != key {
		return nil, false // brackets that do not fit
	}
	return parts, true
}

func (c *collector) declare(p flat, path []string, must bool) {
	a := mapping.Arg{Name: strings.Join(path, "."), Required: must, Secret: secretArg(path, p.format)}
	if strings.Count(a.Name, ".") > 15 || len(a.Name) > 250 {
		return
	}
	a.Type = c.argType(&p, path, must)
	switch {
	case a.Type == "" && a.Secret && (p.types == nil || p.types["string"]):
		a.Type = "string"
	case a.Type == "":
		return
	case c.kind == "json" && p.nullable:
		// null is none of the types that can be declared: a call that sends it must
		// not be refused for it.
		if !a.Secret {
			return
		}
		a.Required = false
	}
	if len(path) > 1 && !a.Required && !a.Secret {
		switch a.Type {
		case "integer", "number", "boolean", "currency":
		default:
			return
		}
	}
	if len(path) == 1 && a.Type == "string" && p.closed && len(p.enum) > 0 && len(p.enum) <= maxEnum && !slices.ContainsFunc(p.enum, unfitEnum) {
		a.Enum = slices.Compact(slices.Sorted(slices.Values(p.enum)))
	}
	c.args = append(c.args, a)
}

func unfitEnum(s string) bool {
	return s == "" || len(s) > 100 || oneLine(s) != s
}

// argType is the type to declare, "" for none.
func (c *collector) argType(p *flat, path []string, must bool) string {
	switch t := p.only(); t {
	case "integer", "number", "boolean":
		return t
	case "string":
		if p.format == "binary" && c.kind == "multipart" {
			if must {
				return "object" // a file
			}
			return ""
		}
		if name := path[len(path)-1]; (name == "currency" || strings.HasSuffix(name, "_currency")) && lowerCurrency(p) {
			return "currency"
		}
		return t
	case "array", "object":
		if c.kind == "json" || c.brackets[path[0]] {
			return t
		}
	}
	return ""
}

// lowerCurrency says whether the document wants three lower-case letters.
func lowerCurrency(p *flat) bool {
	if p.closed {
		return !slices.ContainsFunc(p.enum, func(s string) bool {
			return len(s) != 3 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz") != ""
		})
	}
	about := strings.ToLower(p.about)
	return p.format == "currency" || strings.Contains(about, "lowercase") || strings.Contains(about, "lower case") || strings.Contains(about, "lower-case")
}

// secretNames are arguments that must not be recorded, whole or as the end of a
// longer name.
var secretNames = []string{
	"password", "passwd", "passphrase", "secret", "private_key", "api_key", "apikey", "secret_key", "access_key",
	"access_token", "refresh_token", "auth_token", "id_token", "session_token", "bearer_token",
	"cvc", "cvv", "cvv2", "cryptogram", "iban", "ssn", "account_number", "card_number", "id_number",
}

func secretArg(path []string, format string) bool {
	if format == "password" {
		return true
	}
	name := strings.Join(words(path[len(path)-1]), "_")
	for _, s := range secretNames {
		if name == s || strings.HasSuffix(name, "_"+s) {
			return true
		}
	}
	if name == "token" {
		return true
	}
	return name == "number" && len(path) > 1 && strings.Contains(strings.Join(words(path[len(path)-2]), "_"), "card")
}

// describeArg is a declaration as flow YAML.
func describeArg(a mapping.Arg) string {
	var b strings.Builder
	fmt.Fprintf(&b, "{ name: %s", scalar(a.Name))
	if a.Type != "string" {
		b.WriteString(", type: " + a.Type)
	}
	if len(a.Enum) > 0 {
		quoted := make([]string, len(a.Enum))
		for i, e := range a.Enum {
			quoted[i] = scalar(e)
		}
		b.WriteString(", enum: [" + strings.Join(quoted, ", ") + "]")
	}
	if a.Secret {
		b.WriteString(", secret: true")
	}
	b.WriteString(" }")
	return b.String()
}
