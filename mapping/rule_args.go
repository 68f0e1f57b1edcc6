package mapping

import (
	"slices"
	"strings"
)

// What a rule declares of its arguments.

func (c *compiler) declared(decls []argDecl, required bool, into []Arg) []Arg {
	for _, d := range decls {
		if d.At.Line == 0 {
			continue
		}
		a := Arg{Name: d.Name.V, Type: "string", Required: required, Enum: d.Enum, Secret: d.Secret}
		at := d.At
		if d.Name.Set() {
			at = d.Name.Pos
		}
		if !argName(a.Name) {
			if c.partial {
				continue
			}
			c.faults.Addf(at, "the argument name %s is no dotted path: write amount, shipping.country or items.*.price", show(a.Name))
			continue
		}
		if d.Type.Set() {
			if !c.oneOf(d.Type, "type", argTypes) {
				continue
			}
			a.Type = d.Type.V
		}
		if len(a.Enum) > 0 && (a.Type == "array" || a.Type == "object") {
			c.faults.Addf(at, "`enum` is for scalar types, not for %s", a.Type)
		}
		if slices.ContainsFunc(into, func(b Arg) bool { return b.Name == a.Name }) {
			c.faults.Addf(at, "the argument `%s` is declared twice", a.Name)
			continue
		}
		into = append(into, a)
	}
	return into
}

func argName(s string) bool {
	if s == "" || len(s) > 256 || strings.Count(s, ".") > 16 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || part != "*" && strings.ContainsAny(part, "*[]{} ") || strings.IndexFunc(part, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0 {
			return false
		}
	}
	return s[0] != '*'
}

func (c *compiler) args(r *Rule, d *ruleDecl, shared []Arg) {
	own := c.declared(d.Require, true, nil)
	own = c.declared(d.Optional, false, own)
	if len(own) > 0 && !r.kind.reads() {
		c.faults.Addf(d.At, "the rule declares arguments and reads none: say where they are with `args`")
		return
	}
	if !r.kind.reads() {
		return
	}
	for _, a := range shared {
		if !slices.ContainsFunc(own, func(b Arg) bool { return b.Name == a.Name }) {
			own = append(own, a)
		}
	}
	r.args = own
	r.closed = d.Closed
	r.spec = compileSpec(own)
	for _, a := range own {
		if a.Secret && !strings.Contains(a.Name, "*") {
			r.secret = append(r.secret, a.Name)
		}
	}
}
