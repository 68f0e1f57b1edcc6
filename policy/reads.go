package policy

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// read is one field of an action that a condition names, such as args.amount.
type read struct {
	root string   // one of the maps: args, path, query, header, passport
	path []string // below the root; empty for the whole map
	// test: the condition only asks whether the field is there.
	test bool
	// guarded: somewhere the condition asks whether the field, or one above it, is
	// there; it may be absent.
	guarded bool
}

func (r read) String() string { return r.root + dotted(r.path) }

func dotted(path []string) string {
	var b strings.Builder
	for _, p := range path {
		b.WriteByte('.')
		b.WriteString(p)
	}
	return b.String()
}

// comparison is a field that a condition compares with a literal: its class is
// what the field should have. It serves to explain a failure.
type comparison struct {
	read
	class string
}

// reader collects what a checked condition reads.
type reader struct {
	reads       []read
	comparisons []comparison
	constants   []Field
	shadowed    string // a loop variable that hides a map
}

func collectReads(e ast.Expr) *reader {
	c := new(reader)
	c.expr(e)
	for i := range c.reads {
		r := &c.reads[i]
		r.guarded = !r.test && slices.ContainsFunc(c.reads, func(t read) bool {
			return t.test && t.root == r.root && isPrefix(t.path, r.path)
		})
	}
	return c
}

func (c *reader) add(r read) {
	if !slices.ContainsFunc(c.reads, func(o read) bool {
		return o.root == r.root && o.test == r.test && slices.Equal(o.path, r.path)
	}) {
		c.reads = append(c.reads, r)
	}
}

func (c *reader) expr(e ast.Expr) {
	if r, ok := fieldOf(e); ok {
		c.field(r)
		return
	}
	switch e.Kind() {
	case ast.SelectKind:
		c.expr(e.AsSelect().Operand())
	case ast.ListKind:
		for _, el := range e.AsList().Elements() {
			c.expr(el)
		}
	case ast.MapKind:
		for _, en := range e.AsMap().Entries() {
			c.expr(en.AsMapEntry().Key())
			c.expr(en.AsMapEntry().Value())
		}
	case ast.ComprehensionKind:
		l := e.AsComprehension()
		for _, v := range []string{l.IterVar(), l.IterVar2()} {
			if isVariable(v) {
				c.shadowed = v
			}
		}
		c.expr(l.IterRange())
		c.expr(l.AccuInit())
		c.expr(l.LoopCondition())
		c.expr(l.LoopStep())
		c.expr(l.Result())
	case ast.CallKind:
		c.call(e.AsCall())
	}
}

func (c *reader) call(call ast.CallExpr) {
	args := call.Args()
	c.literals(call)
	switch call.FunctionName() {
	case operators.In:
		// "name" in header asks whether a field is there, as has() does.
		if key, ok := stringLiteral(args[0]); ok {
			if r, ok := fieldOf(args[1]); ok {
				c.field(read{root: r.root, path: append(slices.Clone(r.path), key), test: true})
				return
			}
		}
		if f := listClass(args[1]); f != "" {
			c.compare(args[0], classOf(args[1].AsList().Elements()[0].AsLiteral()))
		}
	case operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		for i := range args {
			if other := args[1-i]; other.Kind() == ast.LiteralKind {
				c.compare(args[i], classOf(other.AsLiteral()))
			}
		}
	}
	if call.IsMemberFunction() {
		c.expr(call.Target())
	}
	for _, a := range args {
		c.expr(a)
	}
}

func (c *reader) compare(e ast.Expr, class string) {
	if r, ok := fieldOf(e); ok && len(r.path) > 0 && class != classNull {
		c.comparisons = append(c.comparisons, comparison{read: r, class: class})
	}
}

// field notes a read; asking for a.b.c also reads a.b.
func (c *reader) field(r read) {
	if r.test && len(r.path) > 1 {
		c.add(read{root: r.root, path: r.path[:len(r.path)-1]})
	}
	c.add(r)
}

// fieldOf reads a chain such as args.a["b"][0].c as a field.
func fieldOf(e ast.Expr) (read, bool) {
	switch e.Kind() {
	case ast.IdentKind:
		if isMap(e.AsIdent()) {
			return read{root: e.AsIdent()}, true
		}
	case ast.SelectKind:
		s := e.AsSelect()
		if r, ok := fieldOf(s.Operand()); ok {
			r.path = append(r.path, s.FieldName())
			r.test = s.IsTestOnly()
			return r, true
		}
	case ast.CallKind:
		call := e.AsCall()
		if call.FunctionName() != operators.Index {
			return read{}, false
		}
		key, ok := stringLiteral(call.Args()[1])
		if !ok {
			i, isInt := intLiteral(call.Args()[1])
			if !isInt {
				return read{}, false
			}
			key = strconv.FormatInt(i, 10)
		}
		if r, ok := fieldOf(call.Args()[0]); ok {
			r.path = append(r.path, key)
			return r, true
		}
	}
	return read{}, false
}

func stringLiteral(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

func intLiteral(e ast.Expr) (int64, bool) {
	if e.Kind() != ast.LiteralKind {
		return 0, false
	}
	i, ok := e.AsLiteral().(types.Int)
	return int64(i), ok
}

func isPrefix(a, b []string) bool {
	return len(a) <= len(b) && slices.Equal(a, b[:len(a)])
}

// lookup finds a field.
func lookup(v any, path []string) (any, bool) {
	for _, key := range path {
		switch m := v.(type) {
		case map[string]any:
			next, ok := m[key]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(m) {
				return nil, false
			}
			v = m[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// Missing is the value in Input.Unusable for an argument that was not sent. Any
// other value says what is wrong with one that was, but for mapping's own word
// for a required argument, which means the same.
const Missing = "missing"

func notSent(why string) bool { return why == Missing || why == "is required" }

// unreadable says why a condition cannot be judged on this input before it is
// evaluated: "" or a clause that names the field. CEL alone would not notice
// when the field stands behind a short circuit.
//
// An argument that was sent but is not usable counts even where the condition
// only asks has(): it was sent, so "no" would be a lie that the upstream does
// not share.
func unreadable(reads []read, in *Input) string {
	for i := range reads {
		r := &reads[i]
		if len(in.Unusable) > 0 && r.root == "args" {
			if why := unusable(r, in.Unusable); why != "" {
				return why
			}
		}
		if r.test || r.guarded || len(r.path) == 0 {
			continue
		}
		v, ok := lookup(in.field(r.root), r.path)
		if !ok {
			return r.String() + " is missing"
		}
		if f, isFloat := v.(float64); isFloat && (math.IsNaN(f) || math.IsInf(f, 0)) {
			return r.String() + " is not a finite number"
		}
	}
	return ""
}

func unusable(r *read, list map[string]string) string {
	path := strings.Join(r.path, ".")
	worst := ""
	for arg, why := range list {
		absent := notSent(why)
		if absent && (r.test || r.guarded) || !related(arg, path) {
			continue
		}
		if absent {
			why = "is missing"
		}
		clause := "args." + arg + " " + why
		if arg == "" { // about the arguments as a whole
			clause = why
		}
		// The first by name, so that equal inputs get equal sentences.
		if worst == "" || clause < worst {
			worst = clause
		}
	}
	return clean(worst)
}

// related says whether one dotted path is the other or stands above it. The
// empty path stands above all.
func related(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	return a == "" || a == b || strings.HasPrefix(b, a+".")
}

// blame explains a failed evaluation by the fields of a condition: the one of
// the wrong type if it can be found, else what CEL said.
func (c *condition) blame(in *Input, cause string) string {
	for _, cmp := range c.comparisons {
		if v, ok := lookup(in.field(cmp.root), cmp.path); ok {
			if class := classOfGo(v); class != cmp.class {
				return fmt.Sprintf("%s is %s, and is compared with %s", cmp.read, class, cmp.class)
			}
		}
	}
	var names []string
	for _, r := range c.reads {
		if n := r.String(); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return cause
	}
	return cause + " (it reads " + strings.Join(names, ", ") + ")"
}

func classOfGo(v any) string {
	switch v.(type) {
	case int64, float64, int, uint64:
		return classNumber
	case string:
		return classText
	case bool:
		return classTruth
	case nil:
		return classNull
	case []any:
		return classList
	case map[string]any:
		return classObject
	}
	return fmt.Sprintf("a %T", v)
}
