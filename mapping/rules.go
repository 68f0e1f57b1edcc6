package mapping

import (
	"slices"
	"strings"

	"github.com/actpass/sidecar/strictyaml"
)

// The form of a rule file, as decoded. mapping/catalog/README.md is its manual.
type ruleFile struct {
	At          strictyaml.Pos           `yaml:"-"`
	Name        string                   `yaml:"name"`
	Description string                   `yaml:"description"`
	Errors      strictyaml.Val[string]   `yaml:"errors"`
	Hosts       []strictyaml.Val[string] `yaml:"hosts"`
	Optional    []argDecl                `yaml:"optional"`
	Caseless    []strictyaml.Val[string] `yaml:"caseless"`
	Rules       []ruleDecl               `yaml:"rules"`
}

type ruleDecl struct {
	At       strictyaml.Pos           `yaml:"-"`
	Match    *matchDecl               `yaml:"match"`
	Tool     strictyaml.Val[string]   `yaml:"tool"`
	Risk     strictyaml.Val[string]   `yaml:"risk"`
	Args     strictyaml.Val[string]   `yaml:"args"`
	Require  []argDecl                `yaml:"require"`
	Optional []argDecl                `yaml:"optional"`
	Closed   bool                     `yaml:"closed"`
	Resource []strictyaml.Val[string] `yaml:"resource"`
	Errors   strictyaml.Val[string]   `yaml:"errors"`
	MCP      strictyaml.Val[string]   `yaml:"mcp"`
	Quirks   []strictyaml.Val[string] `yaml:"quirks"`
	Caseless []strictyaml.Val[string] `yaml:"caseless"`
	Cases    []caseDecl               `yaml:"cases"`
	// Persisted are GraphQL documents that may be called by their hash.
	Persisted []strictyaml.Val[string] `yaml:"persisted"`
}

type matchDecl struct {
	At      strictyaml.Pos           `yaml:"-"`
	Host    []strictyaml.Val[string] `yaml:"host"`
	Methods []strictyaml.Val[string] `yaml:"methods"`
	Path    strictyaml.Val[string]   `yaml:"path"`
	Headers map[string]string        `yaml:"headers"`
	Query   map[string]string        `yaml:"query"`
}

type argDecl struct {
	At     strictyaml.Pos         `yaml:"-"`
	Name   strictyaml.Val[string] `yaml:"name"`
	Type   strictyaml.Val[string] `yaml:"type"`
	Enum   []string               `yaml:"enum"`
	Secret bool                   `yaml:"secret"`
}

var (
	risks       = []string{RiskLow, RiskMedium, RiskHigh, RiskCritical}
	errorShapes = []string{"stripe", "openai", "anthropic", "github", "aws", "jsonrpc", "problem"}
)

const maxRules = 200_000

// compiler gathers the rules of all sources and every fault on the way.
type compiler struct {
	set    *Set
	faults strictyaml.Faults
	// partial says that the file did not decode as a whole: what is missing may
	// stand there and have been reported already.
	partial bool
}

func (c *compiler) source(src Source) {
	at := strictyaml.Pos{File: src.Name, Line: 1, Col: 1}
	var f ruleFile
	c.partial = false
	if err := strictyaml.Decode(src.Name, src.Data, &f); err != nil {
		c.faults.Add(at, err)
		c.partial = true
		if len(f.Rules) == 0 {
			return
		}
	} else if len(f.Rules) == 0 {
		c.faults.Addf(f.At, "the file has no rules: list them under `rules`")
	}
	if f.Errors.Set() {
		c.oneOf(f.Errors, "errors", errorShapes)
	}
	shared := c.declared(f.Optional, false, nil)
	seen := make(map[string]map[string]int)
	folds := make(map[string]bool)
	for i := range f.Rules {
		c.rule(&f, &f.Rules[i], shared, seen, folds)
	}
	for _, v := range f.Caseless {
		if !folds[v.V] && !c.partial {
			c.faults.Addf(v.Pos, "`caseless` %s: no rule of the file has it; write path.x or args.a.b", show(v.V))
		}
	}
}

func (c *compiler) oneOf(v strictyaml.Val[string], what string, known []string) bool {
	if slices.Contains(known, v.V) {
		return true
	}
	c.faults.Addf(v.Pos, "unknown %s %q%s", what, v.V, strictyaml.Suggest(v.V, known))
	return false
}

func (c *compiler) rule(f *ruleFile, d *ruleDecl, shared []Arg, seen map[string]map[string]int, folds map[string]bool) {
	if d.At.Line == 0 {
		return // was no mapping: said already
	}
	r := &Rule{Pos: Pos{File: d.At.File, Line: d.At.Line}, order: len(c.set.rules)}
	if r.order >= maxRules {
		if r.order == maxRules {
			c.faults.Addf(d.At, "more than %d rules", maxRules)
		}
		return
	}
	c.set.rules = append(c.set.rules, r)
	before := len(c.faults)

	kindName := "none"
	if d.Args.Set() {
		kindName = d.Args.V
		c.oneOf(d.Args, "args", kindNames())
	}
	r.kind = kinds[kindName]
	c.mcp(r, d)
	if r.kind == nil {
		r.kind = kinds["none"]
	}

	if d.Tool.V == "" && r.mcp == "" && !c.partial {
		at := d.At
		if d.Tool.Set() {
			at = d.Tool.Pos
		}
		c.faults.Addf(at, "the rule has no `tool`: name it like stripe.refund.create")
	}
	if d.Tool.V != "" {
		r.Tool = d.Tool.V
		if !toolName(r.Tool) {
			c.faults.Addf(d.Tool.Pos, "`tool` %s: a name has letters, digits and `_ . - /`, at most 128", show(r.Tool))
		}
	}

	methods := c.match(f, d, r, seen, before)

	r.Risk = RiskHigh
	if len(methods) > 0 && !slices.ContainsFunc(methods, func(m string) bool { return methodRisk(m) != RiskLow }) {
		r.Risk = RiskLow
	}
	if d.Risk.Set() && c.oneOf(d.Risk, "risk", risks) {
		r.Risk = d.Risk.V
	}

	r.shape = f.Errors.V
	if d.Errors.Set() && c.oneOf(d.Errors, "errors", errorShapes) {
		r.shape = d.Errors.V
	}
	if r.shape == "" && r.mcp != "" {
		r.shape = "jsonrpc"
	}
	switch r.shape {
	case "problem":
		r.shape = ""
	case "aws":
		r.shape = awsShape(kindName)
	}

	c.args(r, d, shared)
	c.caseless(r, d.Caseless, f.Caseless, folds)
	for _, q := range d.Quirks {
		switch q.V {
		case "query_with_form":
			if kindName != "form" {
				c.faults.Addf(q.Pos, "the quirk query_with_form belongs to `args: form`")
			}
			r.queryWithForm = true
			continue
		case "underscore_headers":
			r.underscoreHeaders = true
			continue
		}
		names := make([]string, 0, len(quirks)+2)
		for name := range quirks {
			names = append(names, name)
		}
		if c.oneOf(q, "quirk", append(names, "query_with_form", "underscore_headers")) {
			r.quirks |= quirks[q.V]
		}
	}
	for _, t := range d.Resource {
		tpl, err := compileTemplate(t.V, r)
		if err != nil {
			c.faults.Addf(t.Pos, "`resource` %s: %v", show(t.V), err)
			continue
		}
		r.resource = append(r.resource, tpl)
	}
	c.persisted(r, d, kindName)
	c.cases(r, d, kindName, shared)
}

func (c *compiler) mcp(r *Rule, d *ruleDecl) {
	if !d.MCP.Set() {
		return
	}
	switch {
	case d.Args.V != "jsonrpc":
		c.faults.Addf(d.MCP.Pos, "`mcp` belongs to `args: jsonrpc`")
	case !serverName(d.MCP.V):
		c.faults.Addf(d.MCP.Pos, "`mcp` %s: a server's name has letters, digits, `_` and `-`, at most 64", show(d.MCP.V))
	default:
		r.mcp = d.MCP.V
		r.Tool = "mcp." + r.mcp
	}
}

func serverName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

func toolName(s string) bool {
	return len(s) <= 128 && s[0] != '.' && s[len(s)-1] != '.' &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./") == ""
}

// awsShape is the error shape of the protocol whose arguments a rule reads.
func awsShape(kindName string) string {
	switch kindName {
	case "aws-rest", "aws-query":
		return kindName
	}
	return "aws-json"
}

func kindNames() []string {
	names := make([]string, 0, len(kinds))
	for name := range kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func methodRisk(method string) string {
	switch method {
	case "GET", "HEAD", "OPTIONS":
		return RiskLow
	}
	return RiskHigh
}
