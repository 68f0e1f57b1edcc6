// Package strictyaml decodes the project's YAML files without mercy: an
// unknown key, a duplicate key, a wrong type, an empty file, a second document,
// an anchor or an alias is a fault, and *every* fault of a file is reported with
// its line and column, so that an operator mends a file in one go.
//
// It exists because the underlying parser stops at its first error, and
// because a setting that is silently ignored is, in this product, a guard that
// is silently off.
package strictyaml

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"sort"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxSize is the largest file that Decode reads, in bytes.
const MaxSize = 32 << 20

// maxDepth bounds the nesting of a file.
const maxDepth = 64

// Pos is a place in a file. The zero Pos is "nowhere".
type Pos struct {
	File string
	Line int // from 1
	Col  int // from 1
}

// String gives "file:line:col", or just the file where the line is not known.
func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// Fault is one thing wrong in one file. Message says what is wrong and what to
// write instead.
type Fault struct {
	Pos
	Message string
}

func (f Fault) Error() string { return f.Pos.String() + ": " + f.Message }

// Faults is the list of everything that is wrong, in order of place. It is an
// error; an empty list is not returned as one (see Err).
type Faults []Fault

func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Err returns fs sorted by place, or nil when there is none.
func (fs Faults) Err() error {
	if len(fs) == 0 {
		return nil
	}
	sort.SliceStable(fs, func(i, j int) bool {
		a, b := fs[i], fs[j]
		if a.File != b.File {
			return a.File < b.File
		}
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Col < b.Col
	})
	return fs
}

// Addf appends a fault.
func (fs *Faults) Addf(at Pos, format string, args ...any) {
	*fs = append(*fs, Fault{Pos: at, Message: fmt.Sprintf(format, args...)})
}

// Add appends what err holds: its faults, or one fault at the given place.
func (fs *Faults) Add(at Pos, err error) {
	if err == nil {
		return
	}
	var list Faults
	if errors.As(err, &list) {
		*fs = append(*fs, list...)
		return
	}
	var one Fault
	if errors.As(err, &one) {
		*fs = append(*fs, one)
		return
	}
	*fs = append(*fs, Fault{Pos: at, Message: err.Error()})
}

// Val is a scalar together with the place where it stands.
type Val[T string | bool | int | int64 | float64] struct {
	V T
	Pos
}

// Set reports whether the file gave the value.
func (v Val[T]) Set() bool { return v.Line != 0 }

func (v Val[T]) MarshalYAML() (any, error) { return v.V, nil }

// Decode reads one YAML document into the struct that dst points to.
//
// Fields are named by their `yaml:"name"` tag. Allowed field types: string,
// bool, int, int64, float64, Val of those, structs and pointers to structs,
// slices of all these, map[string]string, map[string]T for struct T, and any.
// A field `At Pos` with the tag `yaml:"-"` receives the place of its mapping.
// A slice of strings also takes one bare string. A type with UnmarshalText takes
// any scalar as it is written. The returned error is Faults.
func Decode(file string, data []byte, dst any) error {
	_, err := DecodePlaces(file, data, dst)
	return err
}

// Places tells where each key of a file stands, by path: "listen.proxy",
// "routes[0].upstream".
type Places map[string]Pos

// DecodePlaces is Decode, and tells where everything stands.
func DecodePlaces(file string, data []byte, dst any) (Places, error) {
	places := make(Places)
	return places, decode(file, data, dst, places)
}

func decode(file string, data []byte, dst any, places Places) error {
	var faults Faults
	top := Pos{File: file}
	if len(data) > MaxSize {
		faults.Addf(top, "the file is %d bytes; at most %d are read", len(data), MaxSize)
		return faults.Err()
	}
	if line := tooNested(data); line > 0 {
		faults.Addf(Pos{File: file, Line: line, Col: 1}, "nested deeper than %d brackets or dashes", maxNested)
		return faults.Err()
	}
	// The parser counts the line end of Windows as two.
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	parsed, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var se yaml.Error
		if errors.As(err, &se) {
			faults.Addf(posOf(file, se.GetToken()), "not valid YAML: %s", se.GetMessage())
		} else {
			faults.Addf(top, "not valid YAML: %v", err)
		}
		return faults.Err()
	}
	var body ast.Node
	for _, doc := range parsed.Docs {
		if doc.Body == nil {
			continue
		}
		if _, comment := doc.Body.(*ast.CommentGroupNode); comment {
			continue
		}
		if body != nil {
			faults.Addf(posOf(file, doc.Body.GetToken()), "a second YAML document: one file holds one document; move it to its own file")
			return faults.Err()
		}
		body = doc.Body
	}
	if body == nil {
		faults.Addf(Pos{File: file, Line: 1, Col: 1}, "the file is empty")
		return faults.Err()
	}
	d := decoder{file: file, faults: &faults, places: places}
	d.value(body, reflect.ValueOf(dst).Elem(), "", 0)
	return faults.Err()
}

func posOf(file string, t *token.Token) Pos {
	if t == nil || t.Position == nil {
		return Pos{File: file, Line: 1, Col: 1}
	}
	return Pos{File: file, Line: t.Position.Line, Col: t.Position.Column}
}

type decoder struct {
	file   string
	faults *Faults
	places Places
}

func (d *decoder) at(n ast.Node) Pos {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return posOf(d.file, m.Values[0].Key.GetToken())
	}
	if m, ok := n.(*ast.MappingValueNode); ok {
		return posOf(d.file, m.Key.GetToken())
	}
	return posOf(d.file, n.GetToken())
}

func (d *decoder) wrong(n ast.Node, path, want string) {
	what := "this value"
	if path != "" {
		what = "`" + path + "`"
	}
	d.faults.Addf(d.at(n), "%s must be %s, not %s", what, want, kindName(n))
}

func kindName(n ast.Node) string {
	switch v := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode:
		return fmt.Sprintf("the text %q", v.Value)
	case *ast.LiteralNode:
		return "a block of text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "the number " + n.GetToken().Value
	case *ast.BoolNode:
		return "the truth value " + n.GetToken().Value
	case *ast.NullNode:
		return "nothing"
	}
	return "a " + strings.ToLower(n.Type().String())
}

var posType = reflect.TypeFor[Pos]()

func (d *decoder) value(n ast.Node, dst reflect.Value, path string, depth int) {
	if depth > maxDepth {
		d.faults.Addf(d.at(n), "nested deeper than %d levels", maxDepth)
		return
	}
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode, *ast.TagNode, *ast.DirectiveNode:
		d.faults.Addf(d.at(n), "anchors, aliases and tags are not used here: write the value out")
		return
	}
	d.places[path] = d.at(n)
	if t, ok := dst.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(n, t, path)
		return
	}
	switch dst.Kind() {
	case reflect.Pointer:
		dst.Set(reflect.New(dst.Type().Elem()))
		d.value(n, dst.Elem(), path, depth)
	case reflect.Struct:
		if v := dst.FieldByName("V"); v.IsValid() && dst.NumField() == 2 && dst.Field(1).Type() == posType {
			before := len(*d.faults)
			d.value(n, v, path, depth)
			if len(*d.faults) == before {
				dst.Field(1).Set(reflect.ValueOf(d.at(n)))
			}
			return
		}
		d.structure(n, dst, path, depth)
	case reflect.Slice:
		d.slice(n, dst, path, depth)
	case reflect.Map:
		d.mapping(n, dst, path, depth)
	case reflect.Interface:
		if v := d.any(n, path, depth); v != nil {
			dst.Set(reflect.ValueOf(v))
		}
	default:
		d.scalar(n, dst, path)
	}
}

func (d *decoder) text(n ast.Node, t encoding.TextUnmarshaler, path string) {
	var s string
	switch v := n.(type) {
	case *ast.StringNode:
		s = v.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		s = n.GetToken().Value
	default:
		d.wrong(n, path, "a plain value")
		return
	}
	if err := t.UnmarshalText([]byte(s)); err != nil {
		d.faults.Addf(d.at(n), "`%s`: %v", path, err)
	}
}

func (d *decoder) scalar(n ast.Node, dst reflect.Value, path string) {
	switch dst.Kind() {
	case reflect.String:
		switch v := n.(type) {
		case *ast.StringNode:
			dst.SetString(v.Value)
		case *ast.LiteralNode:
			dst.SetString(v.Value.Value)
		case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
			d.faults.Addf(d.at(n), "`%s` must be text: write it in quotes, %q", path, n.GetToken().Value)
		default:
			d.wrong(n, path, "text")
		}
	case reflect.Bool:
		if v, ok := n.(*ast.BoolNode); ok {
			dst.SetBool(v.Value)
			return
		}
		d.wrong(n, path, "true or false")
	case reflect.Int, reflect.Int64:
		if v, ok := n.(*ast.IntegerNode); ok {
			switch i := v.Value.(type) {
			case int64:
				dst.SetInt(i)
				return
			case uint64:
				if i <= 1<<63-1 {
					dst.SetInt(int64(i))
					return
				}
			}
		}
		d.wrong(n, path, "a whole number")
	case reflect.Float64:
		switch v := n.(type) {
		case *ast.IntegerNode:
			switch i := v.Value.(type) {
			case int64:
				dst.SetFloat(float64(i))
				return
			case uint64:
				dst.SetFloat(float64(i))
				return
			}
		case *ast.FloatNode:
			dst.SetFloat(v.Value)
			return
		}
		d.wrong(n, path, "a number")
	default:
		panic("strictyaml: field type " + dst.Type().String() + " is not supported")
	}
}

func (d *decoder) slice(n ast.Node, dst reflect.Value, path string, depth int) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		if s, text := n.(*ast.StringNode); text && elemIsText(dst.Type().Elem()) {
			out := reflect.MakeSlice(dst.Type(), 1, 1)
			d.value(s, out.Index(0), path, depth+1)
			dst.Set(out)
			return
		}
		d.wrong(n, path, "a list")
		return
	}
	out := reflect.MakeSlice(dst.Type(), len(seq.Values), len(seq.Values))
	for i, v := range seq.Values {
		if v == nil {
			d.faults.Addf(d.at(n), "`%s[%d]` is empty", path, i)
			continue
		}
		d.value(v, out.Index(i), fmt.Sprintf("%s[%d]", path, i), depth+1)
	}
	dst.Set(out)
}

func elemIsText(t reflect.Type) bool {
	return t.Kind() == reflect.String || t == reflect.TypeFor[Val[string]]()
}

// entries gives the members of a mapping node, with a fault for each key that
// is not plain text or stands twice.
func (d *decoder) entries(n ast.Node, path string) ([]*ast.MappingValueNode, []string, bool) {
	var list []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		list = m.Values
	case *ast.MappingValueNode:
		list = []*ast.MappingValueNode{m}
	default:
		d.wrong(n, path, "a mapping")
		return nil, nil, false
	}
	var kept []*ast.MappingValueNode
	var keys []string
	seen := make(map[string]int, len(list))
	for _, e := range list {
		at := posOf(d.file, e.Key.GetToken())
		var key string
		switch k := e.Key.(type) {
		case *ast.StringNode:
			key = k.Value
		case *ast.IntegerNode, *ast.BoolNode, *ast.FloatNode, *ast.NullNode:
			key = k.GetToken().Value
		default:
			d.faults.Addf(at, "a key must be plain text")
			continue
		}
		if first, dup := seen[key]; dup {
			d.faults.Addf(at, "duplicate key `%s`: it stands on line %d already", join(path, key), first)
			continue
		}
		seen[key] = at.Line
		kept = append(kept, e)
		keys = append(keys, key)
	}
	return kept, keys, true
}

func (d *decoder) structure(n ast.Node, dst reflect.Value, path string, depth int) {
	entries, keys, ok := d.entries(n, path)
	if !ok {
		return
	}
	fields := make(map[string]int)
	var names []string
	t := dst.Type()
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if name == "-" {
			if t.Field(i).Type == posType {
				dst.Field(i).Set(reflect.ValueOf(d.at(n)))
			}
			continue
		}
		if name == "" || !t.Field(i).IsExported() {
			continue
		}
		fields[name] = i
		names = append(names, name)
	}
	for i, e := range entries {
		f, known := fields[keys[i]]
		if !known {
			d.faults.Addf(posOf(d.file, e.Key.GetToken()), "unknown key `%s`%s", join(path, keys[i]), Suggest(keys[i], names))
			continue
		}
		if _, null := e.Value.(*ast.NullNode); null || e.Value == nil {
			d.faults.Addf(posOf(d.file, e.Key.GetToken()), "`%s` has no value: give one, or remove the key", join(path, keys[i]))
			continue
		}
		d.value(e.Value, dst.Field(f), join(path, keys[i]), depth+1)
	}
}

func (d *decoder) mapping(n ast.Node, dst reflect.Value, path string, depth int) {
	entries, keys, ok := d.entries(n, path)
	if !ok {
		return
	}
	out := reflect.MakeMapWithSize(dst.Type(), len(entries))
	for i, e := range entries {
		v := reflect.New(dst.Type().Elem()).Elem()
		d.value(e.Value, v, join(path, keys[i]), depth+1)
		out.SetMapIndex(reflect.ValueOf(keys[i]), v)
	}
	dst.Set(out)
}

func (d *decoder) any(n ast.Node, path string, depth int) any {
	switch v := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		entries, keys, _ := d.entries(n, path)
		out := make(map[string]any, len(entries))
		for i, e := range entries {
			var x any
			d.value(e.Value, reflect.ValueOf(&x).Elem(), join(path, keys[i]), depth+1)
			out[keys[i]] = x
		}
		return out
	case *ast.SequenceNode:
		out := make([]any, len(v.Values))
		for i, e := range v.Values {
			d.value(e, reflect.ValueOf(&out[i]).Elem(), fmt.Sprintf("%s[%d]", path, i), depth+1)
		}
		return out
	case *ast.StringNode:
		return v.Value
	case *ast.LiteralNode:
		return v.Value.Value
	case *ast.BoolNode:
		return v.Value
	case *ast.IntegerNode:
		if u, big := v.Value.(uint64); big && u <= 1<<63-1 {
			return int64(u)
		}
		return v.Value
	case *ast.FloatNode:
		return v.Value
	case *ast.NullNode:
		return nil
	}
	d.wrong(n, path, "a value")
	return nil
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
