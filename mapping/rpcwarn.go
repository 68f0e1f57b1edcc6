package mapping

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/actpass/sidecar/strictyaml"
)

// reach is what a rule matches, kept for Warnings.
type reach struct {
	at    strictyaml.Pos
	hosts []hostPattern
	paths [][]segment
}

// takes says whether a path pattern takes /Service/Method, behind whatever prefix
// the pattern has.
func (r *reach) takes(service, method string) bool {
	for _, p := range r.paths {
		if deep := slices.ContainsFunc(p, func(g segment) bool { return g.kind == segDeep }); !deep && len(p) > 2 {
			p = p[len(p)-2:]
		}
		if capture(p, []string{service, method}, map[string]string{}) {
			return true
		}
	}
	return false
}

// Warnings are rules that compile and do less than they seem to: gRPC rules and
// methods whose messages are not judged, or never can be. They are no faults.
func (s *Set) Warnings() strictyaml.Faults {
	var out strictyaml.Faults
	taken := make(map[string]bool) // host and method: an earlier rule's
	methods := slices.Sorted(maps.Keys(s.rpcs))
	for _, r := range s.rules {
		if !r.acceptsMethod("POST") {
			continue
		}
		var mine []string
		for _, name := range methods {
			service, method, _ := strings.Cut(name, "/")
			if !r.reach.takes(service, method) {
				continue
			}
			free := false
			for _, h := range r.reach.hosts {
				at := h.key() + " " + name
				free = free || !taken[at]
				// A rule with conditions leaves the others to those behind it.
				taken[at] = taken[at] || len(r.headers) == 0 && len(r.query) == 0
			}
			if free {
				mine = append(mine, name)
			}
		}
		if r.kind.name != "grpc" {
			continue
		}
		for _, text := range s.rpcWarnings(r, mine) {
			out.Addf(r.reach.at, "%s", text)
		}
	}
	return out
}

// rpcWarnings says what is the matter with a gRPC rule and the methods that the
// descriptor sets know of those it matches.
func (s *Set) rpcWarnings(r *Rule, methods []string) (out []string) {
	declared := len(r.args) > 0
	if declared && len(methods) == 0 {
		return []string{"the rule of " + r.Tool + " declares arguments, and no set of `mapping.descriptors` knows a method that it matches: messages pass unread, and the arguments are never there"}
	}
	var both, first, unread []string
	for _, name := range methods {
		m := s.rpcs[name]
		switch {
		case m.streams && !declared:
			unread = append(unread, name)
		case m.waits:
			both = append(both, name)
		case m.streams:
			first = append(first, name)
		}
	}
	add := func(names []string, one, many, text string) {
		if len(names) > 0 {
			out = append(out, someOf(names)+" "+plural(len(names), one, many)+text)
		}
	}
	add(both, "streams", "stream", " both ways, and the rule of "+r.Tool+" declares arguments: no call is read, and each is refused under enforce and strict")
	add(first, "streams", "stream", " from the client, and the rule of "+r.Tool+" declares arguments: only a stream of one message is judged, and a longer one is refused under enforce and strict")
	add(unread, "streams", "stream", " from the client, and the rule of "+r.Tool+" declares no arguments: messages pass unread, and policy sees `service` and `method` alone")
	for _, a := range r.args {
		name, _, _ := strings.Cut(a.Name, ".")
		lacks := func(method string) bool { return !s.rpcs[method].has(name) }
		if slices.ContainsFunc(methods, func(m string) bool { return !lacks(m) }) {
			continue
		}
		out = append(out, fmt.Sprintf("the rule of %s declares the argument `%s`, and the message of %s has no field %s", r.Tool, a.Name, someOf(methods), name))
	}
	return out
}

// has says whether the messages of a method give an argument of that name.
func (m *rpcMethod) has(name string) bool {
	if name == "service" || name == "method" {
		return true
	}
	fields := m.input.Fields()
	for i := range fields.Len() {
		own := string(fields.Get(i).Name())
		if own == name || (own == "service" || own == "method") && own+"_" == name {
			return true
		}
	}
	return false
}

// someOf names the first three.
func someOf(names []string) string {
	const most = 3
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return names[0]
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
