package whatif

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/actpass/sidecar/evidence"
)

// shape is what like actions have in common, gathered one by one. A rule is
// drafted from it that covers them and little more.
type shape struct {
	count    int
	resource string // what all resources begin with
	same     bool   // it is all of each
	args     map[string]*span
	wide     bool // more names than a rule should list
}

// span is what one argument held.
type span struct {
	count     int // of the actions that have it
	kind      spanKind
	low, high int64
	texts     []string // sorted when asked for, one more than proposalValues at most
	yes       bool
}

type spanKind uint8

const (
	spanOpen spanKind = iota // values that no rule is to name
	spanWhole
	spanText
	spanTruth
)

const (
	proposalValues = 5  // of one argument, before it is left open
	proposalNames  = 64 // of arguments
	longestText    = 200
)

func (s *shape) add(resource string, args map[string]any) {
	if s.count == 0 {
		s.resource, s.same, s.args = resource, true, make(map[string]*span)
	}
	s.count++
	if resource != s.resource {
		n := 0
		for n < len(s.resource) && n < len(resource) && s.resource[n] == resource[n] {
			n++
		}
		s.resource, s.same = s.resource[:n], false
	}
	for name, v := range args {
		if name == evidence.OmittedKey {
			continue
		}
		a := s.args[name]
		if a == nil {
			if len(s.args) == proposalNames {
				s.wide = true
				continue
			}
			a = new(span)
			s.args[name] = a
		}
		a.add(v)
	}
}

func (a *span) add(v any) {
	first := a.count == 0
	a.count++
	kind := spanOpen
	switch v := v.(type) {
	case int64:
		kind = spanWhole
		if first {
			a.low, a.high = v, v
		}
		a.low, a.high = min(a.low, v), max(a.high, v)
	case string:
		if len(v) > longestText {
			break
		}
		kind = spanText
		if len(a.texts) <= proposalValues && !slices.Contains(a.texts, v) {
			a.texts = append(a.texts, v)
		}
	case bool:
		kind = spanTruth
		if !first && a.yes != v {
			kind = spanOpen
		}
		a.yes = v
	}
	if first {
		a.kind = kind
	} else if a.kind != kind {
		a.kind = spanOpen
	}
}

// condition is the CEL text of a rule that covers the actions, of one tool and
// one agent, and little more. It names no argument without has().
func (s *shape) condition(tool, agent string) string {
	parts := []string{"agent_id == " + celText(agent)}
	if s.same {
		parts = append(parts, "resource == "+celText(s.resource))
	} else if cut := strings.LastIndexAny(s.resource, ":/"); cut >= 0 {
		parts = append(parts, "resource.startsWith("+celText(s.resource[:cut+1])+")")
	}
	names := sorted(s.args)
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = celText(n)
	}
	parts = append(parts, "args.all(name, name in ["+strings.Join(quoted, ", ")+"])")
	for _, n := range names {
		if bound := s.bound(n); bound != "" {
			parts = append(parts, bound)
		}
	}
	// A policy may cover more tools than this one.
	return strings.Join(append(parts, "tool == "+celText(tool)), " && ")
}

// bound bounds one argument by what was seen: a whole number at most, a few texts
// exactly, anything else not at all.
func (s *shape) bound(name string) string {
	a := s.args[name]
	at, there := "args."+name, "has(args."+name+")"
	if !plainName.MatchString(name) {
		at, there = "args["+celText(name)+"]", celText(name)+" in args"
	}
	var is string
	switch {
	case a.kind == spanWhole:
		is = at + " >= " + strconv.FormatInt(a.low, 10) + " && " + at + " <= " + strconv.FormatInt(a.high, 10)
	case a.kind == spanTruth:
		is = at + " == " + strconv.FormatBool(a.yes)
	case a.kind == spanText && len(a.texts) == 1:
		is = at + " == " + celText(a.texts[0])
	case a.kind == spanText && len(a.texts) <= proposalValues && len(a.texts) < a.count:
		slices.Sort(a.texts)
		texts := make([]string, len(a.texts))
		for i, t := range a.texts {
			texts[i] = celText(t)
		}
		is = at + " in [" + strings.Join(texts, ", ") + "]"
	case a.count == s.count:
		return there
	default:
		return ""
	}
	if a.count < s.count {
		return "(!(" + there + ") || " + is + ")"
	}
	return there + " && " + is
}

// open are the arguments that the rule lets have any value.
func (s *shape) open() (names []string) {
	for _, n := range sorted(s.args) {
		a := s.args[n]
		few := a.kind == spanText && (len(a.texts) == 1 || len(a.texts) <= proposalValues && len(a.texts) < a.count)
		if a.kind == spanOpen || a.kind == spanText && !few {
			names = append(names, n)
		}
	}
	return names
}

// most are the ceilings of whole numbers, by argument.
func (s *shape) most() map[string]int64 {
	m := make(map[string]int64)
	for n, a := range s.args {
		if a.kind == spanWhole {
			m[n] = a.high
		}
	}
	return m
}

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// celText is a text as CEL reads it: JSON's escapes are CEL's.
func celText(s string) string { return quote(s) }
