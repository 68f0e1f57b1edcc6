package policy

import (
	"slices"
	"strings"

	"cel.dev/cel-go/common/types"

	"github.com/actpass/sidecar/strictyaml"
)

// vocabulary is the arguments that the tools of one policy declare. It is known
// only where every tool that the policy is meant for declares all of its
// arguments; then a name that none of them declares is a slip of the pen.
type vocabulary struct {
	names  []string
	closed bool
	tools  []string // those that the policy's globs cover
}

func (c *compiler) vocabulary(p *compiled) vocabulary {
	if c.opt.Args == nil && c.opt.Spelling == nil {
		return vocabulary{}
	}
	v := vocabulary{closed: len(p.globs) > 0 && c.opt.Args != nil}
	for _, g := range p.globs {
		for _, alt := range g.alternatives {
			_, literal := literalPrefix(alt)
			tools := []string{alt}
			if !literal {
				tools = c.toolsUnder(alt)
			}
			if len(tools) == 0 {
				v.closed = false
			}
			v.tools = append(v.tools, tools...)
			for _, t := range tools {
				if c.opt.Args == nil {
					break
				}
				names, open, known := c.opt.Args(t)
				if open || !known {
					v.closed = false
				}
				v.names = append(v.names, names...)
			}
		}
	}
	slices.Sort(v.names)
	v.names = slices.Compact(v.names)
	return v
}

func (c *compiler) toolsUnder(glob string) []string {
	prefix, _ := literalPrefix(glob)
	var out []string
	for _, t := range c.opt.Tools {
		if strings.HasPrefix(t, prefix) && matchGlob(glob, t) {
			out = append(out, t)
		}
	}
	return out
}

// check looks up the argument names of one expression.
func (v vocabulary) check(c *compiler, at strictyaml.Val[string], e *condition) {
	if e != nil && e.constant != types.True {
		v.checkReads(c, at.Pos, e.reads)
		v.checkSpelling(c, at.Pos, e.constants)
	}
}

// checkSpelling finds literals that no call can have: a rule about
// github:repo:ACME/Prod would never be asked, and if it denies, deny nothing.
func (v vocabulary) checkSpelling(c *compiler, at strictyaml.Pos, constants []Field) {
	if c.opt.Spelling == nil {
		return
	}
	for _, f := range constants {
		for _, value := range f.Values {
			text, _ := value.(string)
			if text == strings.ToLower(text) {
				continue
			}
			for _, t := range v.tools {
				if as := c.opt.Spelling(t, f.Root, f.Path, text); as != text {
					c.faults.Addf(at, "%s of %s is compared without case: write %q, no call has %q", f.Root+dotted(f.Path), t, as, text)
					break
				}
			}
		}
	}
}

func (v vocabulary) checkReads(c *compiler, at strictyaml.Pos, reads []read) {
	if !v.closed {
		return
	}
	var told []string
	for _, r := range reads {
		if r.root != "args" || len(r.path) == 0 || v.declares(r.path) {
			continue
		}
		name := strings.Join(r.path, ".")
		if slices.Contains(told, name) {
			continue
		}
		told = append(told, name)
		c.faults.Addf(at, "no tool of this policy has an argument args.%s%s", name, strictyaml.Suggest(name, v.names))
	}
}

// declares says whether a path is a declared argument, stands below one (a
// member of an object), or above one.
func (v vocabulary) declares(path []string) bool {
	for _, n := range v.names {
		declared := strings.Split(n, ".")
		if isPrefix(declared, path) || isPrefix(path, declared) {
			return true
		}
	}
	return false
}

// warnings about tool globs that cover nothing the mapping can produce. They
// are no faults: a policy may stand ready for a tool that is yet to be mapped.
func (c *compiler) warnings(policies []*compiled) strictyaml.Faults {
	var out strictyaml.Faults
	if len(c.opt.Tools) == 0 {
		return nil
	}
	for _, p := range policies {
		for _, g := range p.globs {
			// Generic tools and those of MCP servers are not in the list.
			if strings.HasPrefix(g.text, "http.") || strings.HasPrefix(g.text, "mcp.") {
				continue
			}
			if !slices.ContainsFunc(g.alternatives, func(alt string) bool { return len(c.toolsUnder(alt)) > 0 }) {
				out.Addf(g.pos, "policy %s: no mapped tool is called %s%s", p.name, g.text, strictyaml.Suggest(g.text, nil))
			}
		}
	}
	return out
}
