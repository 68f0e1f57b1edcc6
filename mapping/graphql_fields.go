package mapping

import (
	"fmt"

	"github.com/vektah/gqlparser/v2/ast"
)

// rootCalls makes each root field a call of its own, by the case of the rule that
// is about it: a document with two mutations is two acts. The field's arguments,
// whether they stand in the text or in variables, are args.arguments.
func (in *input) rootCalls(w rootFields, args map[string]any) {
	vars, _ := args["variables"].(map[string]any)
	v := fieldValues{vars: vars, left: maxValues}
	v.defaults(w.op)
	shared := countValues(vars)
	for i, f := range w.fields {
		if f.Name == "__typename" && len(w.fields) > 1 {
			continue // the name of the operation's type, which says and does nothing
		}
		if len(in.calls) >= maxCalls {
			in.amb = append(in.amb, tooLarge(ClassBatch, "the request has more than %d root fields", maxCalls))
			return
		}
		one := map[string]any{
			"operation": args["operation"], "type": args["type"], "fields": args["fields"], "variables": args["variables"],
			"field": f.Name, "arguments": v.arguments(f.Arguments),
		}
		if i > 0 {
			v.left -= shared // the variables are typed once a call
		}
		if v.left < 0 {
			in.amb = append(in.amb, tooLarge(ClassBody, "the GraphQL request has more than %d values, once its variables are written out", maxValues))
			one["arguments"] = map[string]any{}
		}
		if v.fault != nil {
			in.flag(ClassBody, "the GraphQL request cannot be judged: %v", v.fault)
			v.fault = nil
		}
		in.rule = in.m.Rule.caseOf(string(w.op.Operation) + "." + f.Name)
		in.add(one, false)
		in.rule = in.m.Rule
		if v.left < 0 {
			return
		}
	}
}

// wholeCalls is for a rule without cases, to which a document is one call. But what
// it does is counted: each root field of a mutation, under whatever alias, is one
// more of the same call, so that no limit takes a hundred acts for one.
func (in *input) wholeCalls(w rootFields, args map[string]any) {
	acts := 0
	if w.op.Operation == ast.Mutation {
		for _, f := range w.fields {
			if f.Name != "__typename" {
				acts++
			}
		}
	}
	in.add(args, false)
	for range acts - 1 {
		if len(in.calls) >= maxCalls {
			in.amb = append(in.amb, tooLarge(ClassBatch, "the request has more than %d root fields", maxCalls))
			return
		}
		in.calls = append(in.calls, in.calls[len(in.calls)-1])
	}
}

// fieldValues turns the values of a GraphQL document into JSON values.
type fieldValues struct {
	vars  map[string]any
	deflt map[string]*ast.Value
	left  int // how many more values may be written out
	fault error
}

func (v *fieldValues) defaults(op *ast.OperationDefinition) {
	v.deflt = make(map[string]*ast.Value, len(op.VariableDefinitions))
	for _, d := range op.VariableDefinitions {
		if _, twice := v.deflt[d.Variable]; twice {
			v.fault = fmt.Errorf("it declares the variable %s twice", show(d.Variable))
		}
		v.deflt[d.Variable] = d.DefaultValue
	}
}

func (v *fieldValues) arguments(list ast.ArgumentList) map[string]any {
	out := make(map[string]any, len(list))
	for _, a := range list {
		if _, twice := out[a.Name]; twice {
			v.fault = fmt.Errorf("a field has the argument %s twice", show(a.Name))
		}
		if value, given := v.value(a.Value, 0); given {
			out[a.Name] = value
		}
	}
	return out
}

// value gives a value; given is false for a variable that has none.
func (v *fieldValues) value(x *ast.Value, depth int) (value any, given bool) {
	if v.left--; v.left < 0 {
		return nil, false
	}
	if depth > maxDepth {
		v.fault = fmt.Errorf("its values nest too deep")
		return nil, false
	}
	switch x.Kind {
	case ast.Variable:
		if value, given = v.vars[x.Raw]; given {
			return v.copied(value, depth), true
		}
		if d := v.deflt[x.Raw]; d != nil {
			return v.value(d, depth+1) // a default holds no variables; depth bounds one that does
		}
		return nil, false
	case ast.IntValue, ast.FloatValue:
		if n, ok := strictInt(x.Raw); ok {
			return n, true
		}
		return rawNumber(x.Raw), true
	case ast.BooleanValue:
		return x.Raw == "true", true
	case ast.NullValue:
		return nil, true
	case ast.ListValue:
		list := make([]any, 0, len(x.Children))
		for _, c := range x.Children {
			e, _ := v.value(c.Value, depth+1)
			list = append(list, e)
		}
		return list, true
	case ast.ObjectValue:
		obj := make(map[string]any, len(x.Children))
		for _, c := range x.Children {
			if _, twice := obj[c.Name]; twice {
				v.fault = fmt.Errorf("a value has the member %s twice", show(c.Name))
			}
			if e, ok := v.value(c.Value, depth+1); ok {
				obj[c.Name] = e
			}
		}
		return obj, true
	}
	return x.Raw, true // texts and names of enums
}

// copied copies what came as JSON: typing works in place, and a variable may be
// used more than once.
func (v *fieldValues) copied(x any, depth int) any {
	if depth > maxDepth {
		v.fault = fmt.Errorf("its values nest too deep")
		return nil
	}
	switch x := x.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, e := range x {
			if v.left--; v.left < 0 {
				return nil
			}
			out[k] = v.copied(e, depth+1)
		}
		return out
	case []any:
		out := make([]any, 0, len(x))
		for _, e := range x {
			if v.left--; v.left < 0 {
				return nil
			}
			out = append(out, v.copied(e, depth+1))
		}
		return out
	}
	return x
}

func countValues(x any) int {
	n := 1
	switch x := x.(type) {
	case map[string]any:
		for _, e := range x {
			n += countValues(e)
		}
	case []any:
		for _, e := range x {
			n += countValues(e)
		}
	}
	return n
}
