package mapping

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// argTypes are the types that an argument can be declared with.
var argTypes = []string{"string", "integer", "number", "boolean", "currency", "timestamp", "array", "object"}

// argSpec is the tree of declared arguments, so that typing costs what the
// arguments cost and not what was declared.
type argSpec struct {
	arg      *Arg // nil: only a way to deeper ones
	children map[string]*argSpec
	fold     map[string]string // lower-case name: the declared one
	mixed    bool              // some declared name is not its own lower case
	dotted   map[string]bool   // at the top: lower-case dotted names, as one key
	star     *argSpec
	order    []namedSpec // the children
	required []string    // children that must be there, or have something that must
}

type namedSpec struct {
	name string
	spec *argSpec
}

func compileSpec(args []Arg) *argSpec {
	top := &argSpec{dotted: make(map[string]bool)}
	for i := range args {
		a := &args[i]
		at, certain := top, true
		if strings.Contains(a.Name, ".") {
			top.dotted[strings.ToLower(a.Name)] = true
		}
		for part := range strings.SplitSeq(a.Name, ".") {
			if part == "*" {
				if at.star == nil {
					at.star = &argSpec{}
				}
				at, certain = at.star, true
				continue
			}
			if at.children == nil {
				at.children = make(map[string]*argSpec)
				at.fold = make(map[string]string)
			}
			if at.children[part] == nil {
				at.children[part] = &argSpec{}
				at.order = append(at.order, namedSpec{part, at.children[part]})
				low := strings.ToLower(part)
				at.fold[low] = part
				at.mixed = at.mixed || low != part
			}
			// Before a star nothing is certain to be there: what is required below it
			// is required of each element only.
			_, after, _ := strings.Cut(a.Name, part)
			if a.Required && certain && !strings.Contains(after, "*") && !slices.Contains(at.required, part) {
				at.required = append(at.required, part)
			}
			at = at.children[part]
		}
		at.arg = a
	}
	return top
}

// typing is one pass over the arguments of one call.
type typing struct {
	// text says that values come as text (form, query) or may do so (preflight),
	// so that "4900" is an integer.
	text      bool
	at        []step // the path to the value in hand
	problems  []Problem
	ambiguous []Ambiguity
	secret    []byte   // the paths of secrets that are known by their place, side by side
	secretEnd []int    // where each ends
	unsettled []string // members of the arguments that are no plain values
	facts     jsonFacts
}

// step is one part of a path: a name, or the number of an element from 1 on, which
// is only written when the path is.
type step struct {
	name    string
	element int
}

func (t *typing) down(name string) { t.at = append(t.at, step{name: name}) }
func (t *typing) downTo(i int)     { t.at = append(t.at, step{element: i + 1}) }
func (t *typing) up()              { t.at = t.at[:len(t.at)-1] }

func (t *typing) path() string { return string(t.appendPath(make([]byte, 0, 64))) }

func (t *typing) appendPath(b []byte) []byte {
	for i := range t.at {
		if i > 0 {
			b = append(b, '.')
		}
		if s := &t.at[i]; s.element > 0 {
			b = strconv.AppendInt(b, int64(s.element-1), 10)
		} else {
			b = append(b, s.name...)
		}
	}
	return b
}

// secrets gives those that are known before, and those that were found. There can
// be one a row.
func (t *typing) secrets(before []string) []string {
	before = before[:len(before):len(before)]
	if len(t.secretEnd) == 0 {
		return before
	}
	out, all, from := slices.Grow(before, len(t.secretEnd)), string(t.secret), 0
	for _, to := range t.secretEnd {
		out = append(out, all[from:to])
		from = to
	}
	return out
}

func (t *typing) invalid(format string, args ...any) {
	t.problems = append(t.problems, Problem{t.path(), fmt.Sprintf(format, args...), "invalid"})
}

// object types the members of m in place.
func (t *typing) object(m map[string]any, spec *argSpec) {
	if t.facts == plainJSON && !spec.mixed && len(spec.dotted) == 0 && spec.star == nil && len(spec.order) <= len(m) {
		// No name is a variant of another, and nothing undeclared is looked at.
		for _, c := range spec.order {
			if v, there := m[c.name]; there {
				t.declared(m, c.name, v, c.spec)
			}
		}
		t.requireds(m, spec)
		return
	}
	for k, v := range m {
		typed := t.member(m, k, v, spec)
		if len(t.at) == 0 && !plain(typed) {
			t.unsettled = append(t.unsettled, k)
		}
	}
	t.requireds(m, spec)
}

// member types the member k of m, whose value is v, and gives what it now is: nil
// where it was taken out.
func (t *typing) member(m map[string]any, k string, v any, spec *argSpec) any {
	c := spec.children[k]
	if c == nil {
		t.variant(k, spec)
		if c = spec.star; c == nil {
			return v
		}
	}
	return t.declared(m, k, v, c)
}

// declared is member where c is what declares it.
func (t *typing) declared(m map[string]any, k string, v any, c *argSpec) any {
	t.down(k)
	typed, ok := t.value(v, c)
	t.up()
	if !ok {
		delete(m, k)
		return nil
	}
	switch v.(type) {
	case int64, float64, bool: // stay as they are
	default:
		if c.arg == nil || c.arg.Type != "string" && c.arg.Type != "currency" { // and so does a text
			m[k] = typed
		}
	}
	return typed
}

func (t *typing) requireds(m map[string]any, spec *argSpec) {
	for _, k := range spec.required {
		if _, there := m[k]; !there {
			t.down(k)
			t.missing(spec.children[k])
			t.up()
		}
	}
}

// variant reports an undeclared key that another parser could take for a
// declared one.
func (t *typing) variant(k string, spec *argSpec) {
	low := looseName(k)
	name, same := "", false
	if spec.mixed || low != k { // else it would be the declared one itself
		name, same = spec.fold[low]
	}
	if !same && len(spec.dotted) > 0 && strings.IndexByte(low, '.') >= 0 && spec.dotted[low] {
		name, same = low, true
	}
	if !same && t.text && len(t.at) == 0 {
		if mangled := mangledName(low); mangled != low {
			name, same = spec.fold[mangled]
		}
	}
	if same {
		t.ambiguous = append(t.ambiguous, ambiguity(ClassDuplicate, "the argument %s is spelt %s: servers differ on whether they are the same", show(name), show(t.pathTo(k))))
	}
}

func (t *typing) pathTo(k string) string {
	t.down(k)
	defer t.up()
	return t.path()
}

func (t *typing) missing(spec *argSpec) {
	at := t.path()
	if slices.ContainsFunc(t.problems, func(p Problem) bool { return p.Arg == at }) {
		return // invalid, and said so
	}
	if spec.arg != nil && spec.arg.Required {
		t.problems = append(t.problems, Problem{at, "is required", "missing"})
		return
	}
	for _, k := range spec.required {
		t.down(k)
		t.missing(spec.children[k])
		t.up()
	}
}

func (t *typing) value(v any, spec *argSpec) (any, bool) {
	if spec.arg != nil {
		if spec.arg.Secret && strings.Contains(spec.arg.Name, "*") {
			t.secret = t.appendPath(t.secret)
			t.secretEnd = append(t.secretEnd, len(t.secret))
		}
		typed, want := typeValue(v, spec.arg.Type, t.text)
		if want != "" {
			if spec.arg.Secret {
				t.invalid("must be %s", want)
			} else {
				t.invalid("must be %s, not %s", want, describe(v))
			}
			return nil, false
		}
		if len(spec.arg.Enum) > 0 && !slices.Contains(spec.arg.Enum, scalarText(typed)) {
			t.invalid("must be one of %s", strings.Join(spec.arg.Enum, ", "))
			return nil, false
		}
		v = typed
	}
	if spec.children == nil && spec.star == nil {
		return v, true
	}
	if l, ok := v.(indexedList); ok {
		v = []any(l)
	}
	switch x := v.(type) {
	case map[string]any:
		t.object(x, spec)
	case []any:
		if spec.star != nil {
			for i, e := range x {
				t.downTo(i)
				typed, ok := t.value(e, spec.star)
				t.up()
				if !ok {
					// Without this element the list would lie about the others.
					return nil, false
				}
				x[i] = typed
			}
		}
	default:
		for _, k := range spec.required {
			t.down(k)
			t.missing(spec.children[k])
			t.up()
		}
	}
	return v, true
}

// settle gives plain values: numbers that no declaration typed, and lists made
// of brackets. A number that cannot be held exactly is a problem, and absent.
func (t *typing) settle(v any) (any, bool) {
	switch x := v.(type) {
	case rawNumber:
		if f, ok := x.value(); ok {
			return f, true
		}
		t.invalid("is a number that cannot be held exactly: %s", show(string(x)))
		return nil, false
	case tooDeep:
		t.invalid("nests deeper than %d levels", maxDepth)
		return nil, false
	case json.Number:
		return t.settle(rawNumber(x))
	case indexedList:
		return t.settle([]any(x))
	case map[string]any:
		for k, e := range x {
			if !plain(e) {
				t.settleMember(x, k, e)
			}
		}
	case []any:
		for i, e := range x {
			if plain(e) {
				continue
			}
			t.downTo(i)
			s, ok := t.settle(e)
			t.up()
			if !ok {
				return nil, false
			}
			x[i] = s
		}
	}
	return v, true
}

// settleMember settles a member of m.
func (t *typing) settleMember(m map[string]any, k string, v any) {
	t.down(k)
	settled, ok := t.settle(v)
	t.up()
	switch v.(type) {
	case map[string]any: // settled in place
		return
	}
	if ok {
		m[k] = settled
	} else {
		delete(m, k)
	}
}

// plain says whether a value is settled as it stands.
func plain(v any) bool {
	switch v.(type) {
	case string, int64, float64, bool, nil:
		return true
	}
	return false
}

// describe says what a value is, for a sentence.
func describe(v any) string {
	switch x := v.(type) {
	case string:
		return show(x)
	case rawNumber:
		return show(string(x))
	case json.Number:
		return show(string(x))
	case nil:
		return "null"
	case []any, indexedList:
		return "a list"
	case map[string]any:
		return "an object"
	case bool:
		return strconv.FormatBool(x)
	}
	return show(scalarText(v))
}

// scalarText writes a scalar, "" for anything else.
func scalarText(v any) string {
	switch x := v.(type) {
	case string:
		return x
	case int64:
		return strconv.FormatInt(x, 10)
	case float64:
		return strconv.FormatFloat(x, 'g', -1, 64)
	case bool:
		return strconv.FormatBool(x)
	}
	return ""
}

// finish types args by a rule's declarations and settles the rest.
func (t *typing) finish(args map[string]any, spec *argSpec) {
	if spec != nil && (len(spec.children) > 0 || spec.star != nil) {
		t.object(args, spec)
		if !t.facts.settled {
			for _, k := range t.unsettled {
				t.settleMember(args, k, args[k])
			}
		}
	} else if !t.facts.settled {
		t.settle(args)
	}
	t.sort()
}

// sort gives what was found an order that does not hang on that of a map.
func (t *typing) sort() {
	if len(t.problems) > 1 {
		slices.SortFunc(t.problems, func(a, b Problem) int { return strings.Compare(a.Arg, b.Arg) })
	}
	if len(t.ambiguous) > 1 {
		slices.SortFunc(t.ambiguous, func(a, b Ambiguity) int { return strings.Compare(a.Detail, b.Detail) })
	}
}
