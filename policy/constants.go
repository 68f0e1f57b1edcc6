package policy

import (
	"slices"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// Field is one field of an action that conditions name, and the literals that
// they hold it against.
type Field struct {
	Root string   // args, path, query, header, passport, or agent_id, resource ...
	Path []string // below the root
	// Values are string, int64, float64, bool; empty where it is only read.
	Values []any
}

// Fields are those that the rules and limits on a tool name, each once, in the
// order in which they are met.
func (s *Set) Fields(tool string) []Field {
	var out []Field
	add := func(f Field) {
		i := slices.IndexFunc(out, func(o Field) bool { return o.Root == f.Root && slices.Equal(o.Path, f.Path) })
		if i < 0 {
			out = append(out, Field{Root: f.Root, Path: f.Path})
			i = len(out) - 1
		}
		for _, v := range f.Values {
			if !slices.Contains(out[i].Values, v) {
				out[i].Values = append(out[i].Values, v)
			}
		}
	}
	condition := func(c *condition) {
		if c == nil {
			return
		}
		for _, r := range c.reads {
			add(Field{Root: r.root, Path: r.path})
		}
		for _, f := range c.constants {
			add(f)
		}
	}
	for _, i := range s.under(tool) {
		for _, r := range s.policies[i].rules {
			condition(r.when)
		}
		for _, l := range s.policies[i].limits {
			condition(l.sum)
			for _, k := range l.keys {
				if k.variable == "" {
					add(Field{Root: k.read.root, Path: k.read.path})
				}
			}
		}
	}
	return out
}

// Patterns are the tool globs of all policies, braces written out, each once:
// `*` is any run of characters, `?` is one.
func (s *Set) Patterns() []string {
	var out []string
	for _, p := range s.policies {
		for _, g := range p.globs {
			for _, a := range g.alternatives {
				if !slices.Contains(out, a) {
					out = append(out, a)
				}
			}
		}
	}
	return out
}

// literals notes the literals that a call holds a field against.
func (c *reader) literals(call ast.CallExpr) {
	args := call.Args()
	switch call.FunctionName() {
	case operators.In:
		if args[1].Kind() == ast.ListKind {
			for _, e := range args[1].AsList().Elements() {
				c.literal(args[0], e)
			}
		}
	case operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		c.literal(args[0], args[1])
		c.literal(args[1], args[0])
	case "startsWith", "endsWith", "contains":
		if call.IsMemberFunction() && len(args) == 1 {
			c.literal(call.Target(), args[0])
		}
	}
}

func (c *reader) literal(field, value ast.Expr) {
	if value.Kind() != ast.LiteralKind {
		return
	}
	var v any
	switch l := value.AsLiteral().(type) {
	case types.String:
		v = string(l)
	case types.Int:
		v = int64(l)
	case types.Double:
		v = float64(l)
	case types.Bool:
		v = bool(l)
	default:
		return
	}
	for field.Kind() == ast.CallKind && len(field.AsCall().Args()) == 1 && !field.AsCall().IsMemberFunction() {
		field = field.AsCall().Args()[0] // int(args.n), size(args.s)
	}
	f := Field{Values: []any{v}}
	if r, ok := fieldOf(field); ok {
		f.Root, f.Path = r.root, r.path
	} else if field.Kind() == ast.IdentKind && isVariable(field.AsIdent()) {
		f.Root = field.AsIdent()
	} else {
		return
	}
	c.constants = append(c.constants, f)
}
