package policy

import (
	"math"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// CEL is lenient in four places where a guard must not be. A checked condition
// is therefore rewritten before it is planned:
//
//   - `||` and `&&` absorb an error of one side when the other side decides.
//     They become conditionals, which evaluate from left to right and keep errors.
//   - `==` and `!=` of different types are false and true, so `args.s != 500` holds
//     for the text "500". Where a type is not known at load they become @same,
//     which refuses to compare a number with a text.
//   - `x in ["a", "b"]` is false for every x that is no text. x is held to the
//     type of the list.
//   - int() cuts fractions off and reads "5_00", double() reads "NaN". They become
//     exact.
//
// And in one where the meter is: it takes size() of a text and the comparison
// of a nested list for one step. @size, @same and @among are metered by what
// they touch.
//
// The names begin with @, which no author can write.
const (
	fnSame   = "@same"
	fnNumber = "@number"
	fnText   = "@text"
	fnTruth  = "@truth"
	fnInt    = "@int"
	fnDouble = "@double"
	fnShort  = "@short"
	fnSize   = "@size"
	fnAmong  = "@among"
)

// maxMatched is the longest text, in bytes, that a regular expression is run on.
const maxMatched = 64 << 10

func strictFunctions() []cel.EnvOption {
	unary := func(name string, in, out *cel.Type, f func(ref.Val) ref.Val) cel.EnvOption {
		return cel.Function(name, cel.Overload(name, []*cel.Type{in}, out, cel.UnaryBinding(f)))
	}
	typed := func(name, class string) cel.EnvOption {
		return unary(name, cel.DynType, cel.DynType, func(v ref.Val) ref.Val {
			if got := classOf(v); got != class && got != classNull {
				return types.NewErr("%s is compared with %s", got, class)
			}
			return v
		})
	}
	return []cel.EnvOption{
		cel.Function(fnSame, cel.Overload(fnSame, []*cel.Type{cel.DynType, cel.DynType}, cel.BoolType, cel.BinaryBinding(same))),
		typed(fnNumber, classNumber),
		typed(fnText, classText),
		typed(fnTruth, classTruth),
		cel.Function(fnAmong, cel.Overload(fnAmong, []*cel.Type{cel.DynType, cel.DynType}, cel.BoolType, cel.BinaryBinding(among))),
		unary(fnSize, cel.DynType, cel.IntType, func(v ref.Val) ref.Val {
			if s, ok := v.(traits.Sizer); ok {
				return s.Size()
			}
			return types.NewErr("size() of %s", classOf(v))
		}),
		unary(fnInt, cel.DynType, cel.IntType, exactInt),
		unary(fnDouble, cel.DynType, cel.DoubleType, exactDouble),
		unary(fnShort, cel.DynType, cel.DynType, func(v ref.Val) ref.Val {
			if s, ok := v.(types.String); ok && len(s) > maxMatched {
				return types.NewErr("a text of %d bytes is too long for a regular expression: at most %d", len(s), maxMatched)
			}
			return v
		}),
	}
}

// Classes of values: what may be compared with what.
const (
	classNumber = "a number"
	classText   = "a text"
	classTruth  = "a truth value"
	classList   = "a list"
	classObject = "an object"
	classNull   = "null"
)

func classOf(v ref.Val) string {
	switch v.(type) {
	case types.Int, types.Uint, types.Double:
		return classNumber
	case types.String:
		return classText
	case types.Bool:
		return classTruth
	case types.Null:
		return classNull
	case traits.Lister:
		return classList
	case traits.Mapper:
		return classObject
	}
	return v.Type().TypeName()
}

// same is equality that does not answer where the question makes no sense.
// Anything may be compared with null.
func same(l, r ref.Val) ref.Val {
	a, b := classOf(l), classOf(r)
	if a != b && a != classNull && b != classNull {
		return types.NewErr("%s is compared with %s", a, b)
	}
	if a == classList || a == classObject {
		if extent(l, maxCompared) > maxCompared {
			return types.NewErr("%s of more than %d values is compared", a, maxCompared)
		}
	}
	return types.Equal(l, r)
}

// maxCompared is the largest list or object that is compared whole, in values at
// all depths.
const maxCompared = 10_000

// extent counts the values of v at all depths; it stops past limit.
func extent(v ref.Val, limit int) int {
	n := 1
	switch c := v.(type) {
	case traits.Mapper:
		for it := c.Iterator(); it.HasNext() == types.True && n <= limit; {
			n += extent(c.Get(it.Next()), limit-n)
		}
	case traits.Lister:
		for it := c.Iterator(); it.HasNext() == types.True && n <= limit; {
			n += extent(it.Next(), limit-n)
		}
	}
	return n
}

// among is `in` for what is not written out: a value in a list, a key in an
// object. Only simple values are looked for, so that one look costs one step.
func among(v, in ref.Val) ref.Val {
	switch classOf(v) {
	case classText, classNumber, classTruth, classNull:
	default:
		return types.NewErr("%s cannot be looked for with in", classOf(v))
	}
	if c, ok := in.(traits.Container); ok {
		switch classOf(in) {
		case classList, classObject:
			return c.Contains(v)
		}
	}
	return types.NewErr("in looks into %s", classOf(in))
}

// meters are the costs of what the standard meter does not know.
func meters() []cost.TrackerOption {
	text := func(v ref.Val) uint64 {
		if s, ok := v.(types.String); ok {
			return uint64(len(s)) / 10
		}
		return 0
	}
	return []cost.TrackerOption{
		cost.OverloadTracker(fnSame, func(args []ref.Val, _ ref.Val) *uint64 {
			n := 1 + min(text(args[0]), text(args[1]))
			if c := classOf(args[0]); c == classList || c == classObject {
				n += uint64(extent(args[0], maxCompared))
			}
			return &n
		}),
		cost.OverloadTracker(fnSize, func(args []ref.Val, _ ref.Val) *uint64 {
			n := 1 + text(args[0])
			return &n
		}),
		cost.OverloadTracker(fnAmong, func(args []ref.Val, _ ref.Val) *uint64 {
			n := 1 + text(args[0])
			if l, ok := args[1].(traits.Lister); ok {
				if size, ok := l.Size().(types.Int); ok {
					n += uint64(size)
				}
			}
			return &n
		}),
	}
}

func exactInt(v ref.Val) ref.Val {
	switch n := v.(type) {
	case types.Int:
		return n
	case types.Double:
		f := float64(n)
		if f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			return types.NewErr("int() of %v, which is not a whole number", f)
		}
		return types.Int(int64(f))
	case types.String:
		i, ok := decimal(string(n))
		if !ok {
			return types.NewErr("int() of a text that is not a whole number")
		}
		return types.Int(i)
	case types.Timestamp:
		return types.Int(n.Unix())
	}
	return types.NewErr("int() of %s", classOf(v))
}

func exactDouble(v ref.Val) ref.Val {
	switch n := v.(type) {
	case types.Int:
		return types.Double(n)
	case types.Double:
		return n
	case types.String:
		s := string(n)
		if len(s) <= maxDigits && strings.Trim(s, "0123456789.-") == "" {
			if f, err := strconv.ParseFloat(s, 64); err == nil && !math.IsInf(f, 0) {
				return types.Double(f)
			}
		}
		return types.NewErr("double() of a text that is not a decimal number")
	}
	return types.NewErr("double() of %s", classOf(v))
}

// maxDigits is the longest text that is read as a number.
const maxDigits = 64

// decimal reads -?(0|[1-9][0-9]*) that fits.
func decimal(s string) (int64, bool) {
	if len(s) > maxDigits {
		return 0, false
	}
	digits := strings.TrimPrefix(s, "-")
	if digits == "" || (digits[0] == '0' && s != "0") || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// rewriter makes a checked expression strict, in place. The result has to be
// checked again.
type rewriter struct {
	ast.ExprFactory
	checked *ast.AST
	lastID  int64
}

func rewrite(checked *ast.AST) {
	r := &rewriter{ExprFactory: ast.NewExprFactory(), checked: checked, lastID: ast.MaxID(checked)}
	ast.PostOrderVisit(checked.Expr(), ast.NewExprVisitor(r.expr))
}

func (r *rewriter) id() int64 {
	r.lastID++
	return r.lastID
}

func (r *rewriter) expr(e ast.Expr) {
	if e.Kind() != ast.CallKind {
		return
	}
	call := e.AsCall()
	args := call.Args()
	switch call.FunctionName() {
	case operators.LogicalOr:
		e.SetKindCase(r.conditional(args[0], r.literal(types.True), r.truth(args[1])))
	case operators.LogicalAnd:
		e.SetKindCase(r.conditional(args[0], r.truth(args[1]), r.literal(types.False)))
	case operators.Equals:
		if !r.simple(args[0]) || !r.simple(args[1]) {
			e.SetKindCase(r.NewCall(r.id(), fnSame, args...))
		}
	case operators.NotEquals:
		if !r.simple(args[0]) || !r.simple(args[1]) {
			e.SetKindCase(r.NewCall(r.id(), operators.LogicalNot, r.NewCall(r.id(), fnSame, args...)))
		}
	case operators.In:
		f := listClass(args[1])
		switch {
		case f == "":
			e.SetKindCase(r.NewCall(r.id(), fnAmong, args...))
		case r.dynamic(args[0]):
			e.SetKindCase(r.NewCall(r.id(), operators.In, r.NewCall(r.id(), f, args[0]), args[1]))
		}
	case overloads.Size:
		if call.IsMemberFunction() {
			e.SetKindCase(r.NewCall(r.id(), fnSize, call.Target()))
		} else {
			e.SetKindCase(r.NewCall(r.id(), fnSize, args...))
		}
	case overloads.TypeConvertInt:
		e.SetKindCase(r.NewCall(r.id(), fnInt, args...))
	case overloads.TypeConvertDouble:
		e.SetKindCase(r.NewCall(r.id(), fnDouble, args...))
	case overloads.Matches:
		// The pattern stays a literal, so that it is compiled at load.
		if call.IsMemberFunction() {
			e.SetKindCase(r.NewMemberCall(r.id(), overloads.Matches, r.NewCall(r.id(), fnShort, call.Target()), args...))
		} else if len(args) == 2 {
			e.SetKindCase(r.NewCall(r.id(), overloads.Matches, r.NewCall(r.id(), fnShort, args[0]), args[1]))
		}
	}
}

func (r *rewriter) conditional(test, yes, no ast.Expr) ast.Expr {
	return r.NewCall(r.id(), operators.Conditional, test, yes, no)
}

func (r *rewriter) literal(v ref.Val) ast.Expr { return r.NewLiteral(r.id(), v) }

// truth wraps an operand that could turn out not to be a truth value, so that
// it fails as it would have under || and &&.
func (r *rewriter) truth(e ast.Expr) ast.Expr {
	if !r.dynamic(e) {
		return e
	}
	return r.conditional(e, r.literal(types.True), r.literal(types.False))
}

func (r *rewriter) dynamic(e ast.Expr) bool {
	switch r.checked.GetType(e.ID()).Kind() {
	case types.DynKind, types.AnyKind, types.TypeParamKind:
		return true
	}
	return false
}

// simple says that a value is known at load to be a text, number or truth
// value, or a time.
func (r *rewriter) simple(e ast.Expr) bool {
	switch r.checked.GetType(e.ID()).Kind() {
	case types.StringKind, types.IntKind, types.UintKind, types.DoubleKind, types.BoolKind, types.TimestampKind, types.DurationKind:
		return true
	}
	return false
}

// listClass names the function that holds a value to the one class of a list's
// literals, or "".
func listClass(e ast.Expr) string {
	if e.Kind() != ast.ListKind || e.AsList().Size() == 0 {
		return ""
	}
	class := ""
	for _, el := range e.AsList().Elements() {
		if el.Kind() != ast.LiteralKind {
			return ""
		}
		c := classOf(el.AsLiteral())
		if class != "" && c != class {
			return ""
		}
		class = c
	}
	switch class {
	case classNumber:
		return fnNumber
	case classText:
		return fnText
	case classTruth:
		return fnTruth
	}
	return ""
}
