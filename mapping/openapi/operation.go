package openapi

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/actpass/sidecar/mapping"
)

// Read drafts a pack from an OpenAPI 3.0 or 3.1 document in JSON or YAML.
// Whatever cannot be mapped is in Left, with the reason; the error is about the
// document as a whole.
func Read(data []byte, opt Options) (*Pack, error) {
	if !validName(opt.Name) {
		return nil, fmt.Errorf("the name %q: write letters, digits, _ and -, at most 32, as in stripe", opt.Name)
	}
	doc, err := decode(data)
	if err != nil {
		return nil, err
	}
	info, _ := doc.root["info"].(map[string]any)
	p := &Pack{Name: opt.Name, Host: strings.ToLower(opt.Host), Description: text(info["title"])}
	r := reader{doc: doc, pack: p}
	all := servers(doc.root["servers"])
	for _, s := range all {
		if p.Host == "" && s.host != "" {
			p.Host = s.host
		}
	}
	if p.Host == "" {
		return nil, errors.New("the document names no server with a host: say which it is")
	}
	if len(all) > 0 {
		r.base = all[0].base
	}
	for _, s := range all {
		if s.host == p.Host {
			r.base = s.base
			break
		}
	}
	if err := r.gather(); err != nil {
		return nil, err
	}
	for i, f := range r.found {
		r.draft(f)
		if opt.Progress != nil {
			opt.Progress(i+1, len(r.found))
		}
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p, nil
}

func validName(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

type reader struct {
	doc   *document
	pack  *Pack
	base  string
	usual string // the kind that most bodies of the document have
	found []found
}

// found is one operation of the document.
type found struct {
	method, path string
	item, op     map[string]any
}

func (r *reader) leave(what string, err error) {
	r.pack.Left = append(r.pack.Left, Left{what, err.Error()})
}

// gather lists the operations, in an order that does not depend on the
// document's.
func (r *reader) gather() error {
	paths, _ := r.doc.root["paths"].(map[string]any)
	count := make(map[string]int)
	for _, path := range sorted(paths) {
		if strings.HasPrefix(path, "x-") {
			continue
		}
		item, err := r.doc.object(paths[path])
		if err != nil {
			r.leave(path, err)
			continue
		}
		for _, method := range methodOrder {
			v, there := item[strings.ToLower(method)]
			if !there {
				continue
			}
			op, err := r.doc.object(v)
			if err != nil {
				r.leave(method+" "+path, err)
				continue
			}
			r.found = append(r.found, found{method, path, item, op})
			for _, m := range r.media(op) {
				count[m.kind]++
			}
		}
	}
	if len(r.found) == 0 && len(r.pack.Left) == 0 {
		return errors.New("the document has no operations")
	}
	r.usual = "json"
	if count["form"] > count["json"] {
		r.usual = "form"
	}
	return nil
}

func sorted(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (r *reader) draft(f found) {
	o := Operation{Method: f.method, Summary: summary(f.op), from: f.method + " " + f.path}
	base := r.base
	for _, v := range []any{f.op["servers"], f.item["servers"]} {
		if own := servers(v); len(own) > 0 {
			base = own[0].base
			if own[0].host != "" && own[0].host != r.pack.Host {
				o.Host = own[0].host
			}
			break
		}
	}
	segs, err := parsePath(f.path, true)
	if err != nil {
		r.leave(o.from, err)
		return
	}
	prefix, err := parsePath(base+"/", false)
	if err != nil {
		r.leave(o.from, fmt.Errorf("its server: %w", err))
		return
	}
	// The server's path is no part of the name: it is the same for all.
	n := &naming{provider: r.pack.Name, segs: segs, method: f.method, id: text(f.op["operationId"]), held: f.item["get"] != nil}
	o.segs = append(prefix[:len(prefix)-1:len(prefix)-1], segs...)
	o.Path = pathOf(o.segs)
	n.describe(&o)
	o.Bodies = r.bodies(f)
	r.pack.Operations = append(r.pack.Operations, o)
}

func summary(op map[string]any) string {
	s := text(op["summary"])
	if s == "" {
		s = text(op["operationId"])
	}
	return oneLine(s)
}

// media is one content type of a body.
type media struct {
	kind, glob string
	schema     any
	encoding   map[string]any
}

// media lists what an operation takes as its body and a rule can read, the
// preferred one last.
func (r *reader) media(op map[string]any) []media {
	body, err := r.doc.object(op["requestBody"])
	if err != nil {
		return nil
	}
	content, _ := body["content"].(map[string]any)
	var out []media
	for _, name := range sorted(content) {
		m, _ := content[name].(map[string]any)
		e := media{schema: m["schema"]}
		e.encoding, _ = m["encoding"].(map[string]any)
		essence, _, _ := strings.Cut(strings.ToLower(name), ";")
		essence = strings.TrimSpace(essence)
		switch {
		case essence == "application/x-www-form-urlencoded":
			e.kind, e.glob = "form", essence+"*"
		case essence == "application/json" || strings.HasSuffix(essence, "+json"):
			e.kind, e.glob = "json", essence+"*"
		case essence == "multipart/form-data":
			e.kind, e.glob = "multipart", essence+"*"
		default:
			continue
		}
		same := func(o media) bool { return o.kind == e.kind }
		if i := slices.IndexFunc(out, same); i >= 0 {
			if essence == "application/json" { // rather than one of its dialects
				out[i] = e
			}
			continue
		}
		out = append(out, e)
	}
	order := []string{"multipart", "form", "json"}
	slices.SortStableFunc(out, func(a, b media) int { return slices.Index(order, a.kind) - slices.Index(order, b.kind) })
	return out
}

// bodies says where the arguments of an operation are, and which it declares.
func (r *reader) bodies(f found) []Body {
	query, required, brackets := r.queryParameters(f)
	fromQuery := func() []Body {
		c := collector{doc: r.doc, kind: "query", brackets: brackets}
		return []Body{{Kind: "query", Args: c.collect(map[string]any{"type": "object", "properties": query, "required": required})}}
	}
	switch f.method {
	case "GET", "HEAD", "OPTIONS":
		return fromQuery()
	case "TRACE":
		return []Body{{Kind: "none"}}
	}
	known := r.media(f.op)
	if len(known) == 0 {
		if _, given := f.op["requestBody"]; given {
			return []Body{{Kind: "none"}} // a file, a text: nothing to read arguments from
		}
		if f.method == "DELETE" || len(query) > 0 {
			return fromQuery()
		}
		return []Body{{Kind: r.usual}}
	}
	out := make([]Body, 0, len(known))
	for i, m := range known {
		c := collector{doc: r.doc, kind: m.kind, brackets: make(map[string]bool)}
		for name, e := range m.encoding {
			e, _ := e.(map[string]any)
			c.brackets[name] = e["style"] == "deepObject"
		}
		b := Body{Kind: m.kind, Args: c.collect(m.schema)}
		if i < len(known)-1 {
			b.ContentType = m.glob
		}
		if m.kind == "form" && (len(query) > 0 || f.method == "DELETE") {
			b.Quirks = []string{"query_with_form"}
		}
		out = append(out, b)
	}
	return out
}

// queryParameters gives the query parameters as the properties of an object.
func (r *reader) queryParameters(f found) (props map[string]any, required []any, brackets map[string]bool) {
	props, brackets = make(map[string]any), make(map[string]bool)
	must := make(map[string]bool)
	for _, v := range append(list(f.item["parameters"]), list(f.op["parameters"])...) { // the operation's own override
		m, err := r.doc.object(v)
		if err != nil || m["in"] != "query" {
			continue
		}
		name := text(m["name"])
		if inner, ok := strings.CutSuffix(name, "[]"); ok {
			name = inner
			brackets[name] = true
		}
		if props[name] = m["schema"]; m["schema"] == nil {
			props[name] = true // described by content: some text
		}
		brackets[name] = brackets[name] || m["style"] == "deepObject"
		must[name] = m["required"] == true
	}
	for name := range must {
		if must[name] {
			required = append(required, name)
		}
	}
	return props, required, brackets
}

func declared(args []mapping.Arg, required bool) []mapping.Arg {
	var out []mapping.Arg
	for _, a := range args {
		if a.Required == required {
			out = append(out, a)
		}
	}
	return out
}

// oneLine makes a text fit for a comment: one line, no control characters, at
// most 100 bytes or so.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 || r == 0xfeff
	}), " ")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x80 && r < 0xa0 || r == 0xfffd || r >= 0xd800 && r < 0xe000 || r == 0xfffe || r == 0xffff {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if len(s) > 100 {
		cut := strings.LastIndexByte(s[:97], ' ')
		if cut < 60 {
			cut = 97
		}
		s = strings.ToValidUTF8(s[:cut], "") + "..."
	}
	return s
}
