package policy

import (
	"slices"
	"strings"
	"time"
)

// Gaps says what is not known of an action that stands on record: secrets are
// hidden there, long values cut, and some parts never written down.
type Gaps struct {
	// Hidden are dotted paths below args whose values were sent and are not known.
	Hidden []string
	// Cut are dotted paths of objects and lists below args, "" for args itself,
	// that may have had more members than they show.
	Cut []string
	// Roots are the maps of which nothing is known: path, query, header, passport.
	Roots []string
}

// Reads lists the fields that the rules and limits covering a tool name, in the
// order of the files, each once: "args.amount", "header.x-team".
func (s *Set) Reads(tool string) []string {
	var out []string
	s.eachReads(tool, func(reads []read) {
		for i := range reads {
			if name := reads[i].String(); !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	})
	return out
}

// eachReads gives what each condition and each limit covering a tool reads.
func (s *Set) eachReads(tool string, f func([]read)) {
	for _, i := range s.under(tool) {
		for _, r := range s.policies[i].rules {
			if r.when != nil {
				f(r.when.reads)
			}
		}
		for _, l := range s.policies[i].limits {
			f(l.reads())
		}
	}
}

// reads are the fields that sum and key of a limit name.
func (l *limit) reads() []read {
	var out []read
	if l.sum != nil {
		out = slices.Clone(l.sum.reads)
	}
	for _, k := range l.keys {
		if len(k.read.path) > 0 {
			out = append(out, k.read)
		}
	}
	return out
}

// HingesOn names a field within the gaps that the verdict on in hangs on, such
// as "args.card"; "" when there is none, and what Decide says of in is what it
// would have said of the whole action. Rules that are not tried do not count.
func (s *Set) HingesOn(in *Input, gaps *Gaps) string {
	act := &activation{in: in}
	covering := s.under(in.Tool)
	for _, i := range covering {
		for _, r := range s.policies[i].rules {
			if r.when != nil && !r.always {
				if name := gaps.first(r.when.reads, in); name != "" {
					return name
				}
			}
			ok, err := r.matches(act)
			if err != nil || ok && r.decision.Effect == Deny {
				// The first that denies is the one that decides: nothing behind it, no
				// limit either, changes that.
				return ""
			}
			if ok {
				break
			}
		}
	}
	for _, i := range covering {
		for _, l := range s.policies[i].limits {
			if name := gaps.first(l.reads(), in); name != "" {
				return name
			}
		}
	}
	return ""
}

// first gives the first of the reads that lies within the gaps.
func (g *Gaps) first(reads []read, in *Input) string {
	for i := range reads {
		r := &reads[i]
		if slices.Contains(g.Roots, r.root) {
			return r.String()
		}
		if r.root != "args" {
			continue
		}
		path := strings.Join(r.path, ".")
		for _, h := range g.Hidden {
			if !r.test && related(h, path) { // whether it was sent is known
				return r.String()
			}
		}
		for _, c := range g.Cut {
			if g.cutOff(r, path, c, in) {
				return r.String()
			}
		}
	}
	return ""
}

// cutOff says whether what was cut from the object or list at c could be what r
// reads.
func (g *Gaps) cutOff(r *read, path, c string, in *Input) bool {
	if len(path) > len(c) && related(c, path) { // it stands below
		_, there := lookup(in.field("args"), r.path)
		return !there
	}
	return !r.test && related(c, path)
}

// LongestWindow is how far back any limit looks; 0 when there is none.
func (s *Set) LongestWindow() time.Duration {
	var longest time.Duration
	for _, p := range s.policies {
		for _, l := range p.limits {
			longest = max(longest, l.Window)
		}
	}
	return longest
}
