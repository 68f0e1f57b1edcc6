package mapping

import (
	"fmt"
	"slices"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/parser"
)

const (
	maxTokens     = 10_000 // of one GraphQL document
	maxRootFields = 1000
)

// readGraphQL reads GraphQL over HTTP: one request or a batch as JSON, or a
// query in a GET. The root fields are named without their aliases and through
// their fragments; @skip and @include do not hide one.
func readGraphQL(in *input) {
	if in.m.Method == "GET" || in.m.Method == "HEAD" {
		in.noBody()
		msg := make(map[string]any, len(in.m.query))
		for k, v := range in.m.query {
			if k == "variables" || k == "extensions" {
				text, _ := v.(string)
				parsed, err := parseJSON([]byte(text), in)
				if err != nil {
					in.amb = append(in.amb, *err)
				}
				v = parsed
			}
			msg[k] = v
		}
		in.graphql(msg)
		return
	}
	in.clash(graphqlNames)
	v, ok := in.jsonBody()
	if !ok {
		return
	}
	switch x := v.(type) {
	case map[string]any:
		in.graphql(x)
	case []any:
		in.batch(x, in.graphql)
	default:
		in.flag(ClassBody, "the body is no GraphQL request")
	}
}

// graphqlNames are those that a request has in the query or in the body.
var graphqlNames = func() map[string]any {
	all := map[string]any{"query": nil, "operationName": nil, "variables": nil, "extensions": nil}
	for _, name := range documentNames {
		all[name] = nil
	}
	return all
}()

func (in *input) graphql(msg map[string]any) {
	for k := range msg {
		switch k {
		case "query", "variables", "operationName", "extensions":
		default:
			in.variantOf(k, "query", "variables", "operationName", "extensions")
		}
	}
	args := map[string]any{"operation": "", "type": "", "fields": []any{}, "variables": map[string]any{}}
	w, err := in.operation(msg, args)
	if err != nil {
		in.flag(ClassBody, "the GraphQL request cannot be judged: %v", err)
	}
	if in.m.Method != "POST" && args["type"] != "query" {
		in.flag(ClassMethod, "a %s request carries a GraphQL operation that is no query", in.m.Method)
	}
	switch {
	case err != nil || len(w.fields) == 0:
		in.add(args, false)
	case len(in.m.Rule.cases) > 0:
		in.rootCalls(w, args)
	default:
		in.wholeCalls(w, args)
	}
}

func (in *input) variantOf(k string, names ...string) {
	for _, name := range names {
		if k != name && looseName(k) == looseName(name) {
			in.flag(ClassDuplicate, "the member %s is spelt %s", name, show(k))
		}
	}
}

// operation fills args with what one request asks for.
func (in *input) operation(msg, args map[string]any) (w rootFields, err error) {
	switch vars := msg["variables"].(type) {
	case nil:
	case map[string]any:
		args["variables"] = vars
	default:
		return w, fmt.Errorf("its variables are no object")
	}
	text, err := in.document(msg)
	if err != nil {
		return w, err
	}
	doc, err := parser.ParseQueryWithTokenLimit(&ast.Source{Input: text}, maxTokens)
	if err != nil {
		return w, fmt.Errorf("its query does not parse within %d tokens", maxTokens)
	}
	name, named := msg["operationName"].(string)
	if msg["operationName"] != nil && !named {
		return w, fmt.Errorf("its operationName is no text")
	}
	var op *ast.OperationDefinition
	seen := make(map[string]bool)
	for _, o := range doc.Operations {
		if seen[o.Name] {
			return w, fmt.Errorf("it has two operations of one name")
		}
		seen[o.Name] = true
		if o.Name == name || name == "" && len(doc.Operations) == 1 {
			op = o
		}
	}
	switch {
	case op == nil && len(doc.Operations) > 1 && name == "":
		return w, fmt.Errorf("it has several operations and says not which to run")
	case op == nil:
		return w, fmt.Errorf("it has no operation %s", show(name))
	case name == "" && len(doc.Operations) > 1:
		return w, fmt.Errorf("it has several operations, one without a name, and says not which to run")
	}
	fragments := make(map[string]*ast.FragmentDefinition)
	for _, f := range doc.Fragments {
		if fragments[f.Name] != nil {
			return w, fmt.Errorf("it has two fragments of one name")
		}
		fragments[f.Name] = f
	}
	w = rootFields{op: op, fragments: fragments, spread: make(map[string]bool)}
	if err := w.walk(op.SelectionSet, 0); err != nil {
		return w, err
	}
	args["operation"], args["type"] = op.Name, string(op.Operation)
	list := make([]any, len(w.names))
	for i, n := range w.names {
		list[i] = n
	}
	args["fields"] = list
	return w, nil
}

type rootFields struct {
	op        *ast.OperationDefinition
	fragments map[string]*ast.FragmentDefinition
	spread    map[string]bool
	names     []string     // each once
	fields    []*ast.Field // each time that it stands there
}

func (w *rootFields) walk(set ast.SelectionSet, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("its fragments nest too deep")
	}
	for _, s := range set {
		switch x := s.(type) {
		case *ast.Field:
			if len(w.fields) == maxRootFields {
				return fmt.Errorf("it has more than %d root fields", maxRootFields)
			}
			w.fields = append(w.fields, x)
			if !slices.Contains(w.names, x.Name) {
				w.names = append(w.names, x.Name)
			}
		case *ast.InlineFragment:
			if err := w.walk(x.SelectionSet, depth+1); err != nil {
				return err
			}
		case *ast.FragmentSpread:
			f := w.fragments[x.Name]
			if f == nil {
				return fmt.Errorf("it spreads a fragment that it does not define")
			}
			if w.spread[x.Name] {
				continue
			}
			w.spread[x.Name] = true
			if err := w.walk(f.SelectionSet, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
