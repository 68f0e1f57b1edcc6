package policy

import (
	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
)

// activation shows an Input to CEL. One serves all conditions of a decision.
type activation struct{ in *Input }

var _ cel.Activation = (*activation)(nil)

func (a *activation) Parent() cel.Activation { return nil }

func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "tool":
		return types.String(a.in.Tool), true
	case "resource":
		return types.String(a.in.Resource), true
	case "agent_id":
		return types.String(a.in.AgentID), true
	case "user_id":
		return types.String(a.in.UserID), true
	case "goal":
		return types.String(a.in.Goal), true
	case "risk_tier":
		return types.String(a.in.Risk), true
	case "now":
		return types.Timestamp{Time: a.in.Now.UTC()}, true
	}
	if m := a.in.field(name); m != nil {
		return m, true
	}
	return nil, false
}

var noFields = map[string]any{}

// field is one of the maps of an Input; nil for a name that is none.
func (in *Input) field(name string) map[string]any {
	var m map[string]any
	switch name {
	case "args":
		m = in.Args
	case "path":
		m = in.Path
	case "query":
		m = in.Query
	case "header":
		if in.Header == nil && in.HeaderOf != nil {
			in.Header = in.HeaderOf()
		}
		m = in.Header
	case "passport":
		m = in.Passport
	default:
		return nil
	}
	if m == nil {
		return noFields
	}
	return m
}
