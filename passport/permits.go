package passport

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strings"
)

// Action is what a passport is held against.
type Action struct {
	TenantID    string
	AgentID     string
	Tool        string
	Resource    string
	Risk        string
	Args        map[string]any // string, int64, float64, bool, nil, map, slice
	RequestHash string         // hex; for passports that an approval minted
}

var tiers = []string{"low", "medium", "high", "critical"}

// Permits says whether the claims allow the action. The error is an *Error that
// names the value that failed, and against which.
func (c *Claims) Permits(a *Action) error {
	switch {
	case c.TenantID != a.TenantID:
		return fail(ReasonTenant, "it is for tenant %q, and the call is made for %q", c.TenantID, a.TenantID)
	case c.AgentID != a.AgentID:
		return fail(ReasonAgent, "it is for agent %q, and the call is made by %q", c.AgentID, a.AgentID)
	case !anyGlob(c.AllowedTools, a.Tool):
		return fail(ReasonTool, "it allows the tools %s, and the call is %s", quoteList(c.AllowedTools), a.Tool)
	case !anyGlob(c.AllowedResources, a.Resource):
		return fail(ReasonResource, "it allows the resources %s, and the call is on %s", quoteList(c.AllowedResources), a.Resource)
	case c.RiskTier != "" && tier(a.Risk) > tier(c.RiskTier):
		return fail(ReasonRisk, "it allows risk up to %s, and the tool is %s", c.RiskTier, a.Risk)
	case c.ApprovalHash != "" && c.ApprovalHash != a.RequestHash:
		return fail(ReasonRequest, "it was made for the one request %q, and this is %q", clip(c.ApprovalHash), clip(a.RequestHash))
	}
	names := make([]string, 0, len(c.ResourceConstraints))
	for name := range c.ResourceConstraints {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := holds(name, c.ResourceConstraints[name], a.Args); err != nil {
			return err
		}
	}
	return nil
}

// tier orders risks; an unknown one is above all in an action, and below all in
// a passport: -1 and len meet the refusing side.
func tier(risk string) int {
	if i := slices.Index(tiers, risk); i >= 0 {
		return i
	}
	return len(tiers)
}

func quoteList(list []string) string {
	if len(list) == 0 {
		return "(none)"
	}
	return strings.Join(list, ", ")
}

func anyGlob(patterns []string, s string) bool {
	for _, p := range patterns {
		if glob(p, s) {
			return true
		}
	}
	return false
}

// glob matches '*' against any run of characters.
func glob(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	last := parts[len(parts)-1]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, last)
}

// Constraints. A name is one of
//
//	max_amount, min_amount   bounds on args.amount; with max_amount it is not negative
//	currency                 args.currency equals it
//	one_of                   {"arg": [values]}: args.arg is one of them
//	equals                   {"arg": value}
//	prefix                   {"arg": "text"}: args.arg begins with it
//	max, min                 {"arg": number}
//
// An arg is a dotted path below args. Anything else is unknown, and refuses.
func checkConstraint(name string, v any) error {
	unknown := func() error {
		return fail(ReasonConstraint, "the constraint %q has no meaning here with the value %v", clip(name), v)
	}
	switch name {
	case "max_amount", "min_amount":
		if _, ok := number(v); !ok {
			return unknown()
		}
	case "currency":
		if _, ok := v.(string); !ok {
			return unknown()
		}
	case "one_of", "equals", "prefix", "max", "min":
		m, ok := v.(map[string]any)
		if !ok || len(m) == 0 {
			return unknown()
		}
		for _, x := range m {
			switch name {
			case "one_of":
				if list, ok := x.([]any); !ok || len(list) == 0 {
					return unknown()
				}
			case "prefix":
				if _, ok := x.(string); !ok {
					return unknown()
				}
			case "max", "min":
				if _, ok := number(x); !ok {
					return unknown()
				}
			}
		}
	default:
		return unknown()
	}
	return nil
}

// holds checks one constraint. An argument that is not there fails it: what is
// not said cannot be within bounds.
func holds(name string, v any, args map[string]any) error {
	if err := checkConstraint(name, v); err != nil {
		return err
	}
	switch name {
	case "max_amount":
		got, _ := lookup(args, "amount")
		if n, ok := number(got); ok && n < 0 {
			// Where a sign turns a payment around, the amount is bounded no more.
			return fail(ReasonConstraint, "args.amount is %v, and max_amount is for amounts from 0 on", got)
		}
		return bound(args, "amount", v, true)
	case "min_amount":
		return bound(args, "amount", v, false)
	case "currency":
		return equal(args, "currency", v)
	}
	m := v.(map[string]any)
	for _, arg := range sortedKeys(m) {
		var err error
		switch name {
		case "max":
			err = bound(args, arg, m[arg], true)
		case "min":
			err = bound(args, arg, m[arg], false)
		case "equals":
			err = equal(args, arg, m[arg])
		case "prefix":
			got, ok := lookup(args, arg)
			if s, text := got.(string); !ok || !text || !strings.HasPrefix(s, m[arg].(string)) {
				err = fail(ReasonConstraint, "args.%s is %s, and must begin with %q", arg, show(got, ok), m[arg])
			}
		case "one_of":
			got, ok := lookup(args, arg)
			if !ok || !slices.ContainsFunc(m[arg].([]any), func(x any) bool { return same(got, x) }) {
				err = fail(ReasonConstraint, "args.%s is %s, and must be one of %v", arg, show(got, ok), m[arg])
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func bound(args map[string]any, arg string, limit any, most bool) error {
	got, ok := lookup(args, arg)
	if !ok {
		return fail(ReasonConstraint, "args.%s is missing, and its bound is %v", arg, limit)
	}
	if _, isNumber := number(got); !isNumber {
		return fail(ReasonConstraint, "args.%s is %s, and must be a number", arg, show(got, true))
	}
	switch order := compare(got, limit); {
	case most && order > 0:
		return fail(ReasonConstraint, "args.%s is %v, and at most %v is allowed", arg, got, limit)
	case !most && order < 0:
		return fail(ReasonConstraint, "args.%s is %v, and at least %v is needed", arg, got, limit)
	}
	return nil
}

func equal(args map[string]any, arg string, want any) error {
	got, ok := lookup(args, arg)
	if !ok || !same(got, want) {
		return fail(ReasonConstraint, "args.%s is %s, and must be %v", arg, show(got, ok), want)
	}
	return nil
}

func show(v any, ok bool) string {
	if !ok {
		return "missing"
	}
	return clip(fmt.Sprintf("%v", v))
}

func lookup(args map[string]any, path string) (any, bool) {
	var v any = args
	for _, key := range strings.Split(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[key]; !ok {
			return nil, false
		}
	}
	return v, true
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case int:
		return float64(v), true
	case float64:
		return v, !math.IsNaN(v) && !math.IsInf(v, 0)
	}
	return 0, false
}

// compare is exact: two whole numbers as they are, and a whole number against a
// fraction without rounding either, which beyond 2^53 would let more through.
func compare(a, b any) int {
	i, aWhole := whole(a)
	j, bWhole := whole(b)
	if aWhole && bWhole {
		return cmp.Compare(i, j)
	}
	if aWhole == bWhole {
		x, _ := number(a)
		y, _ := number(b)
		return cmp.Compare(x, y)
	}
	return precise(a).Cmp(precise(b))
}

func precise(v any) *big.Float {
	if i, ok := whole(v); ok {
		return new(big.Float).SetInt64(i)
	}
	f, _ := number(v)
	return big.NewFloat(f)
}

func whole(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case int:
		return int64(v), true
	}
	return 0, false
}

func same(a, b any) bool {
	if _, ok := number(a); ok {
		if _, ok := number(b); ok {
			return compare(a, b) == 0
		}
		return false
	}
	return reflect.DeepEqual(a, b)
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
