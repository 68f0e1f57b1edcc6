package mapping

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// indexedList is a list that was made of bracket keys 0..n-1.
type indexedList []any

// appended is a list that grows by "name[]=".
type appended struct {
	items []any
	room  [4]any // for its first items
}

func readForm(in *input) {
	if in.m.RawQuery != "" && !in.rule.queryWithForm {
		in.flag(ClassSource, "there is a query string beside the form")
	}
	var args map[string]any
	if body, ok := in.decoded(); ok {
		in.body = body
		if _, ok := in.contentType(isForm, "application/x-www-form-urlencoded"); ok || len(body) > 0 {
			text := string(body)
			if in.m.RawQuery == "" && text != "" && in.plain(text) {
				return
			}
			args = in.form(text, ClassBody)
		}
	}
	in.askedMethod(args)
	in.charsetField(args)
	if in.m.RawQuery != "" && len(args) > 0 {
		in.clash(args)
	}
	if len(args) == 0 {
		args = in.form(in.m.RawQuery, ClassQuery) // what a lenient server would take
	}
	in.add(args, true)
}

// charsetField looks at the field by which a form names its own charset (RFC 7578
// section 4.6, and HTML's forms): a server that obeys it reads every other field
// anew, and in UTF-7 or UTF-16 another amount.
func (in *input) charsetField(args map[string]any) {
	v, there := args["_charset_"]
	if text, _ := v.(string); there && !strings.EqualFold(text, "utf-8") {
		in.amb = append(in.amb, Ambiguity{Class: ClassContentType, Detail: "the field _charset_ asks for the charset " + show(text) + ", which is not utf-8", Status: 400})
	}
}

func readQuery(in *input) {
	in.noBody()
	if in.plain(in.m.RawQuery) {
		return
	}
	in.add(in.form(in.m.RawQuery, ClassQuery), true)
}

// form reads URL-encoded fields with Stripe's (Rack's, PHP's, qs') brackets:
// a[b][c]=v nests, a[]=v appends, a[0][b]=v indexes. Where those four differ, it
// is ambiguous.
func (in *input) form(s, class string) map[string]any {
	args := make(map[string]any, min(strings.Count(s, "&")+1, 64))
	if s == "" {
		return args
	}
	whole, before := s, len(in.amb)
	fields, folded, mangled, broken := 0, false, false, false
	var all fieldClass
	in.roots = in.roots[:0]
	for s != "" {
		n, kc := fieldName(s)
		rawKey, rawValue := s[:n], ""
		s = s[n:]
		equals := s != "" && s[0] == '='
		var vc fieldClass
		if equals {
			n, vc = fieldValue(s[1:])
			rawValue = s[1 : 1+n]
			s = s[1+n:]
		}
		if s != "" {
			s = s[1:] // the ampersand
		}
		if rawKey == "" && !equals {
			continue
		}
		all |= kc | vc
		if (kc|vc)&fieldPercent != 0 {
			broken = broken || (scanEncoded(rawKey)|scanEncoded(rawValue))&encEscape != 0
		}
		if fields++; fields > maxFields {
			in.amb = append(in.amb, tooLarge(class, "there are more than %d fields", maxFields))
			broken = broken || scanEncoded(s)&encEscape != 0
			for i := range len(s) {
				all |= fieldClasses[s[i]]
			}
			break
		}
		if !equals {
			in.flag(class, "the field %s has no equals sign: it is empty to some servers and nothing to others", show(rawKey))
		}
		key, value := rawKey, rawValue
		if kc&(fieldPercent|fieldPlus) != 0 {
			key = decodeField(rawKey)
		}
		if vc&(fieldPercent|fieldPlus) != 0 {
			value = decodeField(rawValue)
		}
		if (kc|vc)&fieldPercent != 0 && (!utf8.ValidString(key) || !utf8.ValidString(value)) {
			in.flag(class, "the field %s is not valid UTF-8 once decoded", show(key))
			key, value = strings.ToValidUTF8(key, "\uFFFD"), strings.ToValidUTF8(value, "\uFFFD")
		}
		if key == "" {
			in.flag(class, "there is a field without a name")
		}
		if kc&(fieldPercent|fieldControl) != 0 && hasControl(key) || vc&(fieldPercent|fieldControl) != 0 && strings.IndexByte(value, 0) >= 0 {
			in.flag(class, "the field %s has a control character", show(key))
		}
		if kc&(fieldPercent|fieldPlus|fieldRaw) != 0 && key != "" && (key[0] == ' ' || key[len(key)-1] == ' ') {
			in.flag(class, "the field name %s begins or ends with a space, which some servers drop", show(key))
		}
		if kc&fieldPercent != 0 && strings.IndexByte(key, '=') >= 0 {
			in.flag(class, "the field name %s has an equals sign, which some servers decode before they part name and value", show(key))
		}
		folded = folded || kc&(fieldUpper|fieldPercent|fieldRaw|fieldPlus) != 0
		if strings.Contains(key, "__proto__") {
			in.flag(class, "the field %s names a prototype", show(key))
		}
		mangled = mangled || kc&(fieldDot|fieldPlus|fieldPercent|fieldRaw) != 0
		if kc&fieldBracket == 0 && (kc&fieldPercent == 0 || !strings.ContainsAny(key, "[]")) {
			if _, dup := args[key]; dup {
				in.duplicate(key)
				continue
			}
			args[key] = value
			continue
		}
		in.bracketed(args, key, value, class)
	}
	if class == ClassBody { // a query's bytes were looked at with the head
		in.amb = slices.Insert(in.amb, before, oddBytes(whole, class, all, broken)...)
	}
	if folded {
		in.foldClash(args)
	}
	if mangled {
		in.mangledClash(args)
	}
	for _, root := range in.roots {
		args[root] = in.unfold(args[root])
	}
	return args
}

// mangledName is the name of a field to PHP, which has no full stops and spaces
// in one.
func mangledName(k string) string {
	if strings.IndexByte(k, '.') < 0 && strings.IndexByte(k, ' ') < 0 {
		return k
	}
	return strings.Map(func(r rune) rune {
		if r == '.' || r == ' ' {
			return '_'
		}
		return r
	}, k)
}

// mangledClash reports fields that are one to PHP.
func (in *input) mangledClash(args map[string]any) {
	mangled := false
	for k := range args {
		mangled = mangled || strings.ContainsAny(k, ". ")
	}
	if !mangled {
		return
	}
	seen := make(map[string]bool, len(args))
	for k := range args {
		name := mangledName(k)
		if seen[name] {
			in.flag(ClassDuplicate, "two arguments have one name but for full stops and spaces, which some servers make underscores of")
			return
		}
		seen[name] = true
	}
}

// oddBytes says what is odd about the bytes of a form, by the classes of them
// all.
func oddBytes(s, class string, all fieldClass, broken bool) (found []Ambiguity) {
	if all&fieldSemicolon != 0 {
		found = append(found, ambiguity(class, "the form has a semicolon, which some servers take for a separator"))
	}
	if broken {
		found = append(found, ambiguity(class, "the form has a broken percent escape"))
	}
	if all&fieldControl != 0 {
		found = append(found, ambiguity(class, "the form has a control character"))
	}
	if all&fieldRaw != 0 && !utf8.ValidString(s) {
		found = append(found, ambiguity(class, "the form is not valid UTF-8"))
	}
	return found
}

// foldClash reports members whose names are the same to many servers: but for case,
// or to a looser reader still.
func (in *input) foldClash(m map[string]any) {
	folded := false
	for k := range m {
		if looseName(k) != k {
			folded = true
			break
		}
	}
	if !folded {
		return
	}
	seen := make(map[string]bool, len(m))
	for k := range m {
		low := looseName(k)
		if seen[low] {
			in.flag(ClassDuplicate, "two arguments have one name but for upper and lower case, spaces, or characters that look like others")
			return
		}
		seen[low] = true
	}
}

func (in *input) duplicate(key string) {
	in.flag(ClassDuplicate, "the argument %s stands twice", show(key))
}

// bracketed puts the value of one key with brackets into args.
func (in *input) bracketed(args map[string]any, key string, value any, class string) {
	open := strings.IndexByte(key, '[')
	if open <= 0 || key[len(key)-1] != ']' || strings.IndexByte(key[:max(open, 0)], ']') >= 0 {
		in.flag(class, "the brackets of the field %s do not fit", show(key))
		args[key] = value
		return
	}
	name, rest := key[:open], key[open:]
	at := args
	for depth := 1; ; depth++ {
		end := strings.IndexByte(rest, ']')
		if depth > maxFormDepth {
			in.flag(class, "the field %s nests deeper than %d brackets", show(key), maxFormDepth)
			return
		}
		if rest[0] != '[' || end < 0 || strings.IndexByte(rest[1:end], '[') >= 0 {
			in.flag(class, "the brackets of the field %s do not fit", show(key))
			args[key] = value
			return
		}
		inner := rest[1:end]
		rest = rest[end+1:]
		if inner == "" {
			if rest != "" {
				in.flag(class, "the field %s has empty brackets before others: servers group such fields differently", show(key))
			}
			if in.append(at, name, value, key) && depth == 1 {
				in.roots = append(in.roots, name)
			}
			return
		}
		held := at[name]
		next, isMap := held.(map[string]any)
		if !isMap {
			if held != nil {
				in.duplicate(key)
				return
			}
			next = make(map[string]any, 2)
			at[name] = next
			if depth == 1 {
				in.roots = append(in.roots, name)
			}
		}
		at, name = next, inner
		if rest == "" {
			if _, taken := at[name]; taken {
				in.duplicate(key)
				return
			}
			at[name] = value
			return
		}
	}
}

// append adds a value to the list of that name, and says whether it began the
// list.
func (in *input) append(at map[string]any, name string, value any, key string) (began bool) {
	held := at[name]
	list, isList := held.(*appended)
	if !isList {
		if held != nil {
			in.duplicate(key)
			return false
		}
		list = &appended{}
		list.items = list.room[:0]
		at[name] = list
		began = true
	}
	list.items = append(list.items, value)
	return began
}

// unfold makes lists of what brackets built: "[]" is one, and so are the keys
// 0..n-1.
func (in *input) unfold(v any) any {
	switch x := v.(type) {
	case *appended:
		for i, e := range x.items {
			if f, isFile := e.(file); isFile {
				x.items[i] = map[string]any(f)
			}
		}
		return x.items
	case file:
		return map[string]any(x)
	case map[string]any:
		folded, indexes := false, 0
		for k, e := range x {
			switch e.(type) {
			case *appended, map[string]any, file:
				x[k] = in.unfold(e)
			}
			folded = folded || looseName(k) != k
			if n, ok := strictInt(k); ok && n >= 0 && n < int64(len(x)) && k[0] != '-' {
				indexes++
			}
		}
		if folded {
			in.foldClash(x)
		}
		if indexes < len(x) {
			return x
		}
		list := make(indexedList, len(x))
		for k, e := range x {
			n, _ := strictInt(k)
			list[n] = e
		}
		return list
	}
	return v
}
