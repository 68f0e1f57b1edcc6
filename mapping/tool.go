package mapping

import (
	"maps"
	"slices"
	"strings"
)

// tooDeep stands for what nests deeper than is judged.
type tooDeep struct{}

// copyJSON copies a JSON value deeply, turning int into int64.
func copyJSON(v any, depth int) any {
	if depth > maxDepth {
		return tooDeep{}
	}
	switch x := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, e := range x {
			out[k] = copyJSON(e, depth+1)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = copyJSON(e, depth+1)
		}
		return out
	case int:
		return int64(x)
	}
	return v
}

// Action is a call that its caller names itself (the preflight door, a fixture): with
// resource, risk and arguments as traffic of that tool gets them. Of a tool that no
// rule knows the risk is high.
func (s *Set) Action(tool, resource string, args map[string]any) Call {
	c := Call{Tool: tool, Resource: s.FoldResource(tool, resource), Risk: RiskHigh}
	if info, known := s.Tool(tool); known {
		c.Risk = info.Risk
	}
	c.Args, c.Secret, c.Problems = s.TypeArgs(tool, args)
	return c
}

// TypeArgs types arguments that came as JSON (the preflight door) the way the
// tool's rule types those of traffic: "4900" becomes int64 4900 for an integer.
// args is not modified. Tools that no rule knows keep their values: JSON
// integers as int64, other numbers as float64.
func (s *Set) TypeArgs(tool string, args map[string]any) (typed map[string]any, secret []string, problems []Problem) {
	typed, _ = copyJSON(args, 0).(map[string]any)
	t := typing{text: true}
	info := s.tools[tool]
	if rest, ok := strings.CutPrefix(tool, "mcp."); ok && info == nil {
		server, _, _ := strings.Cut(rest, ".")
		info = s.servers[server]
	}
	if info == nil {
		t.finish(typed, nil)
		return typed, nil, t.problems
	}
	t.finish(typed, info.spec)
	for _, r := range s.foldingOf(tool) {
		foldArgs(typed, r.caseless.args)
	}
	// A key that differs in case only is no second spelling here: nothing parses
	// it again. It is a mistake all the same.
	for _, a := range t.ambiguous {
		t.problems = append(t.problems, Problem{Detail: a.Detail, Kind: "invalid"})
	}
	return typed, t.secrets(info.secret), t.problems
}

// Tool looks a tool up by name.
func (s *Set) Tool(name string) (ToolInfo, bool) {
	if info := s.tools[name]; info != nil {
		return info.ToolInfo, true
	}
	// The tools of an MCP server are known by the server alone.
	if rest, ok := strings.CutPrefix(name, "mcp."); ok {
		server, tool, _ := strings.Cut(rest, ".")
		if info := s.servers[server]; info != nil && tool != "" {
			found := info.ToolInfo
			found.Name = name
			return found, true
		}
	}
	return ToolInfo{}, false
}

// Tools lists the tools that the rules name, sorted.
func (s *Set) Tools() []string { return slices.Sorted(maps.Keys(s.tools)) }

// toolInfo is what preflight needs of a tool.
type toolInfo struct {
	ToolInfo
	spec   *argSpec
	secret []string
}

// gatherTools joins what all rules of a tool declare. Where two disagree, an
// argument is required only if all require it, and keeps the type of the first.
// The tools of MCP servers are apart, by server.
func gatherTools(rules []*Rule) (tools, servers map[string]*toolInfo) {
	tools, servers = make(map[string]*toolInfo), make(map[string]*toolInfo)
	for _, r := range withCases(rules) {
		into, key := tools, r.Tool
		if r.mcp != "" {
			// The messages that call no tool go by the rule's own name; what is
			// declared belongs to the calls.
			tools[r.Tool] = &toolInfo{ToolInfo: ToolInfo{Name: r.Tool, Risk: r.Risk, OpenArgs: true}, spec: compileSpec(nil)}
			into, key = servers, r.mcp
		}
		info := into[key]
		first := info == nil
		if first {
			info = &toolInfo{ToolInfo: ToolInfo{Name: r.Tool, Risk: r.Risk}}
			into[key] = info
		}
		if riskRank(r.Risk) > riskRank(info.Risk) {
			info.Risk = r.Risk
		}
		info.OpenArgs = info.OpenArgs || r.kind.reads() && !r.closed
		for i := range info.Args {
			a := &info.Args[i]
			if !slices.ContainsFunc(r.args, func(b Arg) bool { return b.Name == a.Name && b.Required }) {
				a.Required = false
			}
		}
		for _, a := range r.args {
			if i := slices.IndexFunc(info.Args, func(b Arg) bool { return b.Name == a.Name }); i >= 0 {
				info.Args[i].Secret = info.Args[i].Secret || a.Secret
				continue
			}
			a.Required = a.Required && first
			info.Args = append(info.Args, a)
		}
	}
	for _, group := range []map[string]*toolInfo{tools, servers} {
		for _, info := range group {
			info.spec = compileSpec(info.Args)
			for _, a := range info.Args {
				if a.Secret && !strings.Contains(a.Name, "*") {
					info.secret = append(info.secret, a.Name)
				}
			}
		}
	}
	return tools, servers
}

func riskRank(risk string) int { return slices.Index(risks, risk) }
