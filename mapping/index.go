package mapping

import (
	"net/netip"
	"slices"
	"strings"
)

// The index finds the first matching rule without looking at the others: host
// by map, path by a trie of segments, method and headers at the leaf. Every node
// knows the lowest rule number below it, so that a search stops when nothing
// better can come.

// entry is one rule at the end of one of its paths.
type entry struct {
	rule    *Rule
	pattern []segment
	host    *hostPattern // nil: it names no label
	segs    []string     // the reading that found it, where that is not the plain one
}

type node struct {
	min     int // lowest rule number at or below
	literal map[string]*node
	glob    []edge  // *, affixes, globs
	deep    *node   // ** with something behind it
	end     []entry // rules whose path ends here
	tail    []entry // rules whose path goes on with a final **
}

type edge struct {
	seg   segment
	shape string
	to    *node
}

// site is the rules of one host pattern and port.
type site struct {
	exact *node
	fold  *node // the same, in lower case: finds paths that differ in case only
	upper bool  // some path of a rule has an upper-case letter
}

type wildSite struct {
	labels []segment
	ports  map[string]*site
}

// suffixKey buckets wildcard hosts by number of labels and what follows the
// last wildcard.
type suffixKey struct {
	labels int
	suffix string
}

type hostIndex struct {
	exact map[string]map[string]*site // host, port ("" the scheme's own)
	wild  map[suffixKey][]*wildSite
}

func newNode() *node { return &node{min: int(^uint(0) >> 1)} }

func (h *hostIndex) site(p hostPattern) *site {
	var ports map[string]*site
	if p.exact != "" {
		if h.exact == nil {
			h.exact = make(map[string]map[string]*site)
		}
		if ports = h.exact[p.exact]; ports == nil {
			ports = make(map[string]*site)
			h.exact[p.exact] = ports
		}
	} else {
		last := 0
		for i := range p.labels {
			if p.labels[i].kind != segLiteral {
				last = i
			}
		}
		var rest []string
		for _, l := range p.labels[last+1:] {
			rest = append(rest, l.text)
		}
		key := suffixKey{len(p.labels), strings.Join(rest, ".")}
		if h.wild == nil {
			h.wild = make(map[suffixKey][]*wildSite)
		}
		for _, w := range h.wild[key] {
			if slices.Equal(w.labels, p.labels) {
				ports = w.ports
			}
		}
		if ports == nil {
			ports = make(map[string]*site)
			h.wild[key] = append(h.wild[key], &wildSite{p.labels, ports})
		}
	}
	s := ports[p.port]
	if s == nil {
		s = &site{exact: newNode(), fold: newNode()}
		ports[p.port] = s
	}
	return s
}

func (s *site) add(r *Rule, pattern []segment, host *hostPattern) {
	s.exact.insert(entry{rule: r, pattern: pattern, host: host}, pattern)
	lower := make([]segment, len(pattern))
	for i, g := range pattern {
		lower[i] = g.lower()
		if lower[i] != g {
			s.upper = true
		}
	}
	s.fold.insert(entry{rule: r, pattern: lower, host: host}, lower)
}

func (n *node) insert(e entry, rest []segment) {
	n.min = min(n.min, e.rule.order)
	if len(rest) == 0 {
		n.end = append(n.end, e)
		return
	}
	g := rest[0]
	switch g.kind {
	case segLiteral:
		if n.literal == nil {
			n.literal = make(map[string]*node)
		}
		to := n.literal[g.text]
		if to == nil {
			to = newNode()
			n.literal[g.text] = to
		}
		to.insert(e, rest[1:])
	case segDeep:
		if len(rest) == 1 {
			n.tail = append(n.tail, e)
			return
		}
		if n.deep == nil {
			n.deep = newNode()
		}
		n.deep.insert(e, rest[1:])
	default:
		shape := g.shape()
		for i := range n.glob {
			if n.glob[i].shape == shape {
				n.glob[i].to.insert(e, rest[1:])
				return
			}
		}
		to := newNode()
		n.glob = append(n.glob, edge{g, shape, to})
		to.insert(e, rest[1:])
	}
}

// search is one look-up.
type search struct {
	method string
	header map[string][]string
	query  map[string]any
	segs   []string
	empty  bool // empty segments may be matched by ** and {name}
	best   entry
	order  int
}

func (q *search) take(list []entry) {
	for i := range list {
		r := list[i].rule
		if r.order >= q.order {
			return // lists are in order
		}
		if r.acceptsMethod(q.method) && r.acceptsHeaders(q.header) && r.acceptsQuery(q.query) {
			q.best, q.order = list[i], r.order
			return
		}
	}
}

func (q *search) walk(n *node, i int) {
	if n.min >= q.order {
		return
	}
	if i == len(q.segs) {
		q.take(n.end)
		return
	}
	s := q.segs[i]
	if to := n.literal[s]; to != nil {
		q.walk(to, i+1)
	}
	if s != "" || q.empty {
		for k := range n.glob {
			e := &n.glob[k]
			if e.seg.match(s) || s == "" && e.seg.kind == segAny {
				q.walk(e.to, i+1)
			}
		}
	}
	if n.tail != nil && (q.empty || plainRest(q.segs[i:]) || i == 0 && len(q.segs) == 1) {
		q.take(n.tail)
	}
	if n.deep != nil {
		for j := i; j <= len(q.segs); j++ {
			q.walk(n.deep, j)
			if j < len(q.segs) && q.segs[j] == "" && !q.empty {
				break
			}
		}
	}
}

// plainRest says whether a final ** takes these segments: at least one, none
// empty but for a final slash.
func plainRest(rest []string) bool {
	if n := len(rest); n > 1 && rest[n-1] == "" {
		rest = rest[:n-1]
	}
	return !slices.Contains(rest, "")
}

// sites calls f with each site that a host and port belong to.
func (h *hostIndex) sites(scheme, host, port string, f func(*site)) {
	own := port == defaultPort(scheme)
	pick := func(ports map[string]*site) {
		if own {
			if s := ports[""]; s != nil {
				f(s)
			}
		}
		if s := ports[port]; s != nil {
			f(s)
		}
	}
	if ports := h.exact[host]; ports != nil {
		pick(ports)
	}
	if len(h.wild) == 0 || isIP(host) {
		return
	}
	labels := strings.Count(host, ".") + 1
	for rest := host; ; {
		_, after, more := strings.Cut(rest, ".")
		for _, w := range h.wild[suffixKey{labels, after}] {
			if w.match(host) {
				pick(w.ports)
			}
		}
		if !more {
			return
		}
		rest = after
	}
}

func (w *wildSite) match(host string) bool {
	for i := range w.labels {
		label, rest, _ := strings.Cut(host, ".")
		if !w.labels[i].match(label) {
			return false
		}
		host = rest
	}
	return true
}

func ipv6(host string) bool { return strings.Count(host, ":") > 1 && host[0] != '[' }

func isIP(host string) bool {
	if c := host[len(host)-1]; (c < '0' || c > '9') && strings.IndexByte(host, ':') < 0 {
		return false
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// find gives the first rule for a canonical head, and its entry. fold looks for
// the paths in lower case.
func (h *hostIndex) find(scheme, host, port, method string, header map[string][]string, query map[string]any, segs []string, empty, fold bool) (entry, bool) {
	if host == "" {
		return entry{}, false
	}
	q := search{method: method, header: header, query: query, segs: segs, empty: empty, order: int(^uint(0) >> 1)}
	h.sites(scheme, host, port, func(s *site) {
		if fold {
			q.walk(s.fold, 0)
		} else {
			q.walk(s.exact, 0)
		}
	})
	return q.best, q.best.rule != nil
}

// foldable says whether a path in another case could name another rule.
func (h *hostIndex) foldable(scheme, host, port string, segs []string) bool {
	if host == "" {
		return false
	}
	for _, s := range segs {
		if lowered(s) != s {
			return true
		}
	}
	upper := false
	h.sites(scheme, host, port, func(s *site) { upper = upper || s.upper })
	return upper
}

// lowered is strings.ToLower without an allocation where nothing changes. The
// long s is an s too: strings.ToLower makes a k of the Kelvin sign but leaves the
// long s, and encoding/json (and SQL collations) take both for the ASCII letter.
func lowered(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= 0x80 || 'A' <= c && c <= 'Z' {
			return strings.ReplaceAll(strings.ToLower(s), "\u017f", "s")
		}
	}
	return s
}
