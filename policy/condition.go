package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"github.com/actpass/sidecar/strictyaml"
)

// Bounds of a condition. Cost is in CEL's units: one is about 50 ns.
const (
	maxCondition  = 4096    // characters
	assumedSize   = 1000    // elements of a list or characters of a text, when estimating at load
	maxEstimate   = 200_000 // estimated at load; more is a fault
	freeEstimate  = 2_000   // below it, a condition without a loop runs without a meter
	costLimit     = 200_000 // spent at a decision; more is an error
	maxExprFaults = 5       // shown per condition
)

// variables are what a condition may name.
var variables = []struct {
	name string
	kind *cel.Type
}{
	{"tool", cel.StringType},
	{"resource", cel.StringType},
	{"args", fieldsType},
	{"path", fieldsType},
	{"query", fieldsType},
	{"header", fieldsType},
	{"agent_id", cel.StringType},
	{"user_id", cel.StringType},
	{"goal", cel.StringType},
	{"risk_tier", cel.StringType},
	{"passport", fieldsType},
	{"now", cel.TimestampType},
}

var fieldsType = cel.MapType(cel.StringType, cel.DynType)

func isVariable(name string) bool {
	for _, v := range variables {
		if v.name == name {
			return true
		}
	}
	return false
}

func isMap(name string) bool {
	for _, v := range variables {
		if v.name == name {
			return v.kind == fieldsType
		}
	}
	return false
}

func variableNames() []string {
	names := make([]string, len(variables))
	for i, v := range variables {
		names[i] = v.name
	}
	return names
}

// refused functions make large texts out of small ones before their cost can be
// known, or read the machine.
var refused = map[string]string{
	"replace": "it can build a text of any size",
	"join":    "it can build a text of any size",
	"format":  "it can build a text of any size",
	"uint":    "use int()",
}

// environment is the language of conditions: CEL's standard library, the string
// functions, and the strict ones that only rewrite uses. Built once.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	opts := []cel.EnvOption{
		ext.Strings(),
		cel.ParserExpressionSizeLimit(maxCondition),
		cel.ParserRecursionLimit(64),
		cel.ExpressionNodeLimit(2000),
		cel.RegexProgramSizeLimit(1000),
		cel.DefaultUTCTimeZone(true),
	}
	for _, v := range variables {
		opts = append(opts, cel.Variable(v.name, v.kind))
	}
	return cel.NewEnv(append(opts, strictFunctions()...)...)
})

// condition is one compiled expression. Immutable.
type condition struct {
	text        string
	program     cel.Program
	reads       []read
	comparisons []comparison
	constants   []Field
	constant    ref.Val // of an expression that is a literal, else nil
}

// exprFault is a fault inside an expression: line from 1, column in characters
// from 0.
type exprFault struct {
	line, col int
	message   string
}

// compileCondition compiles text to a program that gives want: cel.BoolType or
// cel.IntType.
func compileCondition(text string, want *cel.Type) (*condition, []exprFault) {
	env, err := environment()
	if err != nil {
		return nil, []exprFault{{1, 0, "the expression language cannot be set up: " + err.Error()}}
	}
	if strings.TrimSpace(text) == "" {
		return nil, []exprFault{{1, 0, "the expression is empty: leave the key out, or write a condition"}}
	}
	checked, issues := env.Compile(text)
	if issues.Err() != nil {
		var faults []exprFault
		for _, e := range issues.Errors() {
			if len(faults) == maxExprFaults {
				break
			}
			faults = append(faults, exprFault{max(e.Location.Line(), 1), max(e.Location.Column(), 0), explainIssue(e.Message)})
		}
		return nil, faults
	}
	native := checked.NativeRep()
	place := func(id int64) (int, int) {
		l := native.SourceInfo().GetStartLocation(id)
		return max(l.Line(), 1), max(l.Column(), 0)
	}
	if out := checked.OutputType(); !out.IsExactType(want) && !out.IsExactType(cel.DynType) {
		line, col := place(native.Expr().ID())
		if want == cel.BoolType {
			return nil, []exprFault{{line, col, fmt.Sprintf("a condition must be true or false; this gives %s", out)}}
		}
		return nil, []exprFault{{line, col, fmt.Sprintf("a sum must be a whole number; this gives %s", out)}}
	}
	faults := misuse(native, place)
	fields := collectReads(native.Expr())
	if fields.shadowed != "" {
		faults = append(faults, exprFault{1, 0, fmt.Sprintf("a loop variable may not be called %s: that is the action's", fields.shadowed)})
	}
	estimate, err := env.EstimateCost(checked, estimator{})
	if err != nil {
		faults = append(faults, exprFault{1, 0, "its cost cannot be estimated: " + clean(err.Error())})
	} else if estimate.Max > maxEstimate {
		faults = append(faults, exprFault{1, 0, fmt.Sprintf("the expression can cost more than %d steps on lists of %d elements: do less for each element, and put no loop over arguments inside another", maxEstimate, assumedSize)})
	}
	if faults != nil {
		return nil, faults
	}

	c := &condition{text: text, reads: fields.reads, comparisons: fields.comparisons, constants: fields.constants}
	if native.Expr().Kind() == ast.LiteralKind {
		c.constant = native.Expr().AsLiteral()
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if estimate.Max > freeEstimate || loops(native.Expr()) {
		options = append(options, cel.CostLimit(costLimit), cel.CostTrackerOptions(meters()...))
	}
	rewrite(native)
	strict, issues := env.Check(checked)
	if issues.Err() != nil {
		return nil, []exprFault{{1, 0, "the expression cannot be made strict: " + clean(issues.Err().Error())}}
	}
	if c.program, err = env.Program(strict, options...); err != nil {
		return nil, []exprFault{{1, 0, clean(err.Error())}}
	}
	return c, nil
}

var undeclared = regexp.MustCompile(`^undeclared reference to '([A-Za-z_][A-Za-z0-9_]*)'`)

// explainIssue words what the checker said; an unknown name gets our own
// suggestion, which knows the variables of an action.
func explainIssue(message string) string {
	if m := undeclared.FindStringSubmatch(message); m != nil {
		return m[0] + strictyaml.Suggest(m[1], variableNames())
	}
	if rest, ok := strings.CutPrefix(message, "Syntax error: "); ok {
		// The parser lists every token that could follow, which helps nobody.
		rest, _, _ = strings.Cut(rest, " expecting ")
		rest = strings.NewReplacer("mismatched input '<EOF>'", "the condition ends where a value should follow",
			"mismatched input", "unexpected", "extraneous input", "unexpected", "no viable alternative at input", "cannot be read:",
			"token recognition error at:", "a character that has no meaning here:").Replace(rest)
		return "not a CEL expression: " + clean(rest)
	}
	return clean(message)
}

// loops says whether an expression iterates.
func loops(e ast.Expr) bool {
	found := false
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		found = found || e.Kind() == ast.ComprehensionKind
	}))
	return found
}

// zones are the time zones that are known without reading the machine's files.
var zones = regexp.MustCompile(`^(UTC|[+-]\d\d:\d\d)$`)

// misuse finds calls that are well typed and yet not wanted.
func misuse(checked *ast.AST, place func(int64) (int, int)) []exprFault {
	var faults []exprFault
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind {
			return
		}
		call := e.AsCall()
		name, args := call.FunctionName(), call.Args()
		fault := func(format string, a ...any) {
			line, col := place(e.ID())
			faults = append(faults, exprFault{line, col, fmt.Sprintf(format, a...)})
		}
		if why, no := refused[name]; no {
			fault("%s() is not used in conditions: %s", name, why)
		}
		switch {
		case name == overloads.Matches:
			if _, ok := stringLiteral(args[len(args)-1]); !ok {
				fault("the pattern of matches() must be written out in quotes, so that it is compiled at load")
			}
		case call.IsMemberFunction() && strings.HasPrefix(name, "get") && len(args) == 1:
			if zone, ok := stringLiteral(args[0]); !ok || !zones.MatchString(zone) {
				fault(`the time zone of %s() must be "UTC" or an offset such as "+02:00": names depend on the machine`, name)
			}
		}
	}))
	return faults
}

// estimator assumes sizes for what is not known at load.
type estimator struct{}

func (estimator) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	if n.ComputedSize() != nil || (n.Expr() != nil && n.Expr().Kind() == ast.LiteralKind) {
		return nil
	}
	unknown := cost.SizeEstimate{Max: assumedSize}
	return &cost.SizeEstimate{Max: assumedSize, Key: &unknown, Elem: &unknown}
}

func (estimator) EstimateCallCost(function, overload string, target *cost.AstNode, args []cost.AstNode) *cost.CallEstimate {
	return nil
}

// truth evaluates a condition. Anything but a clean true or false is an error.
func (c *condition) truth(a *activation) (bool, error) {
	out, err := c.eval(a)
	if err != nil {
		return false, err
	}
	b, ok := out.(types.Bool)
	if !ok {
		return false, errors.New("the condition is neither true nor false")
	}
	return bool(b), nil
}

// sum evaluates a sum to a whole number that is not negative.
func (c *condition) sum(a *activation) (int64, error) {
	out, err := c.eval(a)
	if err != nil {
		return 0, err
	}
	n, ok := out.(types.Int)
	switch {
	case !ok:
		return 0, fmt.Errorf("the sum %s must be a whole number, not %s", clean(c.text), classOf(out))
	case n < 0:
		return 0, fmt.Errorf("the sum %s is negative", clean(c.text))
	}
	return int64(n), nil
}

func (c *condition) eval(a *activation) (ref.Val, error) {
	if why := unreadable(c.reads, a.in); why != "" {
		return nil, errors.New(why)
	}
	out, _, err := c.program.Eval(a)
	if err != nil {
		return nil, errors.New(c.blame(a.in, clean(err.Error())))
	}
	if out == nil {
		return nil, errors.New("the evaluation gave no value")
	}
	return out, nil
}

// clean makes a sentence of ours out of foreign text: one line, nothing that a
// terminal or a log would obey, not longer than 300 bytes.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == unicode.ReplacementChar, r == '\u2028', r == '\u2029':
			return '?'
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, strings.TrimSpace(s))
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "..."
	}
	return s
}
