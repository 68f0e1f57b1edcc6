package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/actpass/sidecar/strictyaml"
)

// Source is one policy file.
type Source struct {
	Name string
	Data []byte
}

// Options of Compile.
type Options struct {
	// Default is the effect where no rule matches: "deny" (also ""),
	// "require_approval" or "allow".
	Default string
	// Args tells the declared arguments of a tool; open means that others may be
	// there too; known is false for tools that no mapping rule produces. Nil: no
	// checking of argument names at load.
	Args func(tool string) (names []string, open, known bool)
	// Tools lists every tool name that the mapping can produce, to warn about
	// tool globs that match none. May be nil.
	Tools []string
	// Spelling gives a literal as calls of a tool have it that a condition holds
	// against root.path (args.name, path.repo, resource): where the mapping compares
	// without case it is lower case. Nil: no checking of literals at load.
	Spelling func(tool, root string, path []string, value string) string
}

// Set is a compiled, immutable set of policies, safe for concurrent use. The
// zero Set denies everything.
type Set struct {
	policies []*compiled
	index    *index
	fallback Effect
	hash     string
	warnings strictyaml.Faults
	sources  []Source
}

// Compile reads all policy files. The error is strictyaml.Faults, with every
// fault of every file.
func Compile(sources []Source, opt Options) (*Set, error) {
	c := &compiler{opt: opt, names: make(map[string]strictyaml.Pos), exprs: make(map[exprKey]exprResult)}
	s := new(Set)
	switch opt.Default {
	case "", "deny":
	case "require_approval":
		s.fallback = RequireApproval
	case "allow":
		s.fallback = Allow
	default:
		c.faults.Addf(strictyaml.Pos{File: "policy.default"}, "must be deny, require_approval or allow, not %q", opt.Default)
	}
	for _, src := range sources {
		s.policies = append(s.policies, c.file(src)...)
	}
	if err := c.faults.Err(); err != nil {
		return nil, err
	}
	s.warnings = c.warnings(s.policies)
	s.index = newIndex(s.policies)
	s.hash, s.sources = hashSources(sources, s.fallback), sources
	return s, nil
}

// hashSources hashes contents, not names: the same files elsewhere are the same
// policy.
func hashSources(sources []Source, fallback Effect) string {
	h := sha256.New()
	fmt.Fprintf(h, "default:%s\n", fallback)
	for _, src := range sources {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(src.Data))))
		h.Write(src.Data)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Hash is "sha256:" and the hex digest over all sources and the default.
func (s *Set) Hash() string { return s.hash }

// Warnings are remarks that do not keep the files from being used: tool globs
// that cover no tool of Options.Tools.
func (s *Set) Warnings() strictyaml.Faults { return s.warnings }

// Info is what a listing shows of a policy.
type Info struct {
	Name    string
	Version int
	Pos     Pos
	Tools   []string // globs, as written
	Rules   int
	Limits  int
}

// Policies lists all policies in file order.
func (s *Set) Policies() []Info {
	out := make([]Info, 0, len(s.policies))
	for _, p := range s.policies {
		info := Info{Name: p.name, Version: p.version, Pos: Pos{File: p.pos.File, Line: p.pos.Line}, Rules: len(p.rules), Limits: len(p.limits)}
		for _, g := range p.globs {
			info.Tools = append(info.Tools, g.text)
		}
		out = append(out, info)
	}
	return out
}

// under gives the positions of the policies that cover a tool.
func (s *Set) under(tool string) []int {
	if s.index == nil {
		return nil
	}
	return s.index.match(tool)
}

// Rule gives what a rule says when it decides, complete but for limits. covers
// tells whether its policy covers the tool; ok is false when there is no such
// rule.
func (s *Set) Rule(policy, rule, tool string) (d Decision, covers, ok bool) {
	for i, p := range s.policies {
		if p.name != policy {
			continue
		}
		for _, r := range p.rules {
			if r.name == rule {
				return r.decision, slices.Contains(s.under(tool), i), true
			}
		}
	}
	return Decision{}, false, false
}
