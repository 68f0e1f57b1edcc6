package mapping

import (
	"strings"
	"unicode/utf8"
)

// The ordinary form is read in one pass, and its arguments are typed on the way.
// It is one about which no two servers differ: names of lower-case letters, digits
// and underscores, at most one pair of brackets behind each, nothing twice. All
// others are for form, which says what is the matter with them; on what both read,
// both agree (FuzzPlainForm).

const maxPlain = 32 // fields

// plainField is one field: the name before its brackets and what is in them.
type plainField struct {
	root  uint8 // of plainForm.roots
	inner string
}

// plainRoot is one argument.
type plainRoot struct {
	name   string
	kind   rootKind
	fields int
	list   []any
	object map[string]any
}

type rootKind uint8

const (
	rootText rootKind = iota
	rootList
	rootObject
)

type plainForm struct {
	texts  [maxPlain]string
	fields [maxPlain]plainField
	roots  [maxPlain]plainRoot
	n      int // fields
	args   int // roots
}

// parse takes s apart. It is false where s is no ordinary form.
func (f *plainForm) parse(s string) bool {
	for s != "" {
		n, kc := fieldName(s)
		if n == 0 || n == len(s) || s[n] != '=' || s[0] == '_' || kc&^fieldBracket != 0 || f.n == maxPlain {
			return false
		}
		key := s[:n]
		s = s[n+1:]
		n, vc := fieldValue(s)
		value := s[:n]
		if s = s[n:]; s != "" {
			s = s[1:] // the ampersand
		}
		if vc&^(fieldPercent|fieldPlus) != 0 {
			return false
		}
		if vc != 0 {
			var ok bool
			if value, ok = plainValue(value); !ok {
				return false
			}
		}
		f.texts[f.n] = value
		kind, inner := rootText, ""
		if kc != 0 {
			open := strings.IndexByte(key, '[')
			if open <= 0 || key[len(key)-1] != ']' {
				return false
			}
			key, inner = key[:open], key[open+1:len(key)-1]
			if strings.IndexByte(key, ']') >= 0 || strings.IndexByte(inner, '[') >= 0 || strings.IndexByte(inner, ']') >= 0 {
				return false
			}
			kind = rootObject
			if inner == "" {
				kind = rootList
			} else if c := inner[0]; c <= '9' || c == '_' { // perhaps the index of a list, or __proto__
				return false
			}
		}
		root := f.args
		if kind != rootText {
			root = f.find(key)
		}
		r := &f.roots[root]
		if root == f.args {
			r.name, r.kind = key, kind
			f.args++
		}
		if r.kind != kind {
			return false
		}
		r.fields++
		f.fields[f.n] = plainField{uint8(root), inner}
		f.n++
	}
	return true
}

// find gives the root of that name, the last one first: fields of one root stand
// together. Where there is none, it is the next one. Two roots that are texts are
// told apart when they come together in args.
func (f *plainForm) find(name string) int {
	for i := f.args - 1; i >= 0; i-- {
		if f.roots[i].name == name {
			return i
		}
	}
	return f.args
}

// values makes the values of the roots. It is false where two fields are one.
func (f *plainForm) values(out *[maxPlain]any) bool {
	var boxed [maxPlain]any
	boxTexts(boxed[:f.n], f.texts[:f.n])
	for i := range f.fields[:f.n] {
		field := &f.fields[i]
		r := &f.roots[field.root]
		switch r.kind {
		case rootText:
			out[field.root] = boxed[i]
		case rootList:
			if r.list == nil {
				r.list = make([]any, 0, r.fields)
			}
			r.list = append(r.list, boxed[i])
			if len(r.list) == r.fields {
				out[field.root] = r.list
			}
		case rootObject:
			if r.object == nil {
				r.object = make(map[string]any, r.fields)
				out[field.root] = r.object
			}
			before := len(r.object)
			r.object[field.inner] = boxed[i]
			if len(r.object) == before {
				return false
			}
		}
	}
	return true
}

// plain reads s as an ordinary form and adds its call. It is false, and has done
// nothing, where s is none.
func (in *input) plain(s string) bool {
	var f plainForm
	var values [maxPlain]any
	if !f.parse(s) || !f.values(&values) {
		return false
	}
	args := make(map[string]any, f.args)
	for i := range f.args {
		args[f.roots[i].name] = values[i]
	}
	if len(args) != f.args {
		return false
	}
	t := in.typing(true)
	t.roots(args, &f, &values, in.rule.spec)
	in.call(args, &t)
	return true
}

// roots types what plainForm read, as finish does: its texts, and the lists and
// objects of texts, are settled as they stand.
func (t *typing) roots(args map[string]any, f *plainForm, values *[maxPlain]any, spec *argSpec) {
	if spec == nil || len(spec.children) == 0 && spec.star == nil {
		return
	}
	for i := range f.args {
		t.member(args, f.roots[i].name, values[i], spec)
	}
	t.requireds(args, spec)
	t.sort()
}

// plainValue decodes a value. It is false where an escape is broken, or what comes
// out is not UTF-8 or has a NUL.
func plainValue(s string) (string, bool) {
	if strings.IndexByte(s, '%') < 0 {
		return strings.ReplaceAll(s, "+", " "), true
	}
	b := make([]byte, 0, len(s))
	beyond := byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return "", false
			}
			c = unhex(s[i+1])<<4 | unhex(s[i+2])
			if c == 0 {
				return "", false
			}
			beyond |= c
			i += 2
		}
		b = append(b, c)
	}
	return string(b), beyond < utf8.RuneSelf || utf8.Valid(b)
}
