package mapping

import (
	"slices"
	"strings"

	"github.com/actpass/sidecar/strictyaml"
)

// Some APIs have one address for everything, and what is done stands in the
// body: the Action of AWS, the method of JSON-RPC, the root fields of GraphQL.
// The cases of a rule give each its own tool, so that merging a pull request is
// the same tool through REST and through GraphQL.

type caseDecl struct {
	At       strictyaml.Pos           `yaml:"-"`
	On       []strictyaml.Val[string] `yaml:"on"`
	Tool     strictyaml.Val[string]   `yaml:"tool"`
	Risk     strictyaml.Val[string]   `yaml:"risk"`
	Require  []argDecl                `yaml:"require"`
	Optional []argDecl                `yaml:"optional"`
	Closed   bool                     `yaml:"closed"`
	Resource []strictyaml.Val[string] `yaml:"resource"`
}

// ruleCase is one compiled case. Its rule matches nothing by itself; it takes the
// place of the rule that it belongs to once the body is read.
type ruleCase struct {
	on   []string
	rule *Rule
}

// casesBy says what the cases of each kind go by, for those that have any.
var casesBy = map[string]string{
	"aws-query": "action", "aws-json": "action", "jsonrpc": "method", "graphql": "type.field",
}

func (c *compiler) cases(r *Rule, d *ruleDecl, kind string, shared []Arg) {
	if len(d.Cases) == 0 {
		return
	}
	if casesBy[kind] == "" || r.mcp != "" {
		c.faults.Addf(d.At, "`cases` belong to `args: aws-query`, `aws-json`, `graphql`, and `jsonrpc` without `mcp`")
		return
	}
	seen := make(map[string]bool)
	for i := range d.Cases {
		k := &d.Cases[i]
		if k.At.Line == 0 {
			continue // was no mapping: said already
		}
		one := &Rule{
			Pos: Pos{File: k.At.File, Line: k.At.Line}, Tool: k.Tool.V, Risk: r.Risk, order: r.order,
			names: r.names, deep: r.deep, kind: r.kind, shape: r.shape, quirks: r.quirks, resource: r.resource, caseless: r.caseless,
		}
		switch {
		case k.Tool.V == "" && !c.partial:
			c.faults.Addf(k.At, "the case has no `tool`")
		case k.Tool.V != "" && !toolName(k.Tool.V):
			c.faults.Addf(k.Tool.Pos, "`tool` %s: a name has letters, digits and `_ . - /`, at most 128", show(k.Tool.V))
		}
		if k.Risk.Set() && c.oneOf(k.Risk, "risk", risks) {
			one.Risk = k.Risk.V
		}
		c.args(one, &ruleDecl{At: k.At, Require: k.Require, Optional: k.Optional, Closed: k.Closed}, shared)
		if kind == "graphql" && slices.ContainsFunc(one.args, func(a Arg) bool { return a.Secret }) {
			// The same value may stand in a variable of any name.
			one.secret = append(one.secret, "variables")
		}
		if len(k.Resource) > 0 {
			one.resource = nil
		}
		for _, t := range k.Resource {
			tpl, err := compileTemplate(t.V, one)
			if err != nil {
				c.faults.Addf(t.Pos, "`resource` %s: %v", show(t.V), err)
				continue
			}
			one.resource = append(one.resource, tpl)
		}
		entry := ruleCase{rule: one}
		if len(k.On) == 0 && !c.partial {
			c.faults.Addf(k.At, "the case has no `on`: name the %s that it is about", casesBy[kind])
		}
		for _, on := range k.On {
			switch {
			case on.V == "" || len(on.V) > 256 || strings.Contains(on.V, "**"):
				c.faults.Addf(on.Pos, "`on` %s: write a name, or a part of one with `*`", show(on.V))
			case kind == "graphql" && !operationPattern(on.V):
				c.faults.Addf(on.Pos, "`on` %s: write the type and the root field, as in mutation.mergePullRequest or query.*", show(on.V))
			case seen[on.V]:
				c.faults.Addf(on.Pos, "`on` %s stands in a case before", show(on.V))
			}
			seen[on.V] = true
			entry.on = append(entry.on, on.V)
		}
		r.cases = append(r.cases, entry)
	}
}

func operationPattern(s string) bool {
	typ, field, ok := strings.Cut(s, ".")
	return ok && field != "" && slices.Contains([]string{"query", "mutation", "subscription"}, typ)
}

// caseOf gives the rule of the first case about name, or r itself.
func (r *Rule) caseOf(name string) *Rule {
	for i := range r.cases {
		for _, on := range r.cases[i].on {
			if starMatch(on, name) {
				return r.cases[i].rule
			}
		}
	}
	return r
}

// starMatch compares with a pattern in which `*` is any text, also none.
func starMatch(pattern, s string) bool {
	head, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == s
	}
	if !strings.HasPrefix(s, head) {
		return false
	}
	s = s[len(head):]
	for {
		part, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], after
	}
}

// withCases lists the rules, each followed by its cases.
func withCases(rules []*Rule) []*Rule {
	out := make([]*Rule, 0, len(rules))
	for _, r := range rules {
		out = append(out, r)
		for i := range r.cases {
			out = append(out, r.cases[i].rule)
		}
	}
	return out
}
