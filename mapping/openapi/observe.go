package openapi

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Call is a call as it is on record.
type Call struct {
	Method      string
	Authority   string // host:port
	Path        string // as sent, without query
	ContentType string // of the body, "" for none
}

// SameHost says whether a rule for host is one for authority (host:port).
func SameHost(host, authority string) bool { return hostOf(host) == hostOf(authority) }

// Shape is calls of one method to paths that differ in identifiers only.
type Shape struct {
	Host   string `json:"host"` // with a port where it is neither 443 nor 80
	Method string `json:"method"`
	Path   string `json:"path"` // a pattern: /v1/charges/{charge}
	Calls  int    `json:"calls"`
	// Odd says why no rule can be written for it, "" where one can.
	Odd string `json:"odd,omitempty"`

	segs  []segment
	kinds map[string]int // how many calls had which kind of body, "" none
}

// maxTexts is how many different texts below one collection (/repos/..., a
// plural) are taken for texts. Where there are more, they are names of things.
const maxTexts = 12

// place is a node in the tree of observed paths of one host.
type place struct {
	texts map[string]*place
	id    *place // identifiers
	calls map[string]map[string]int
}

func (n *place) down(text string) *place {
	if text != "" && isIdentifier(text) {
		if n.id == nil {
			n.id = &place{}
		}
		return n.id
	}
	if n.texts == nil {
		n.texts = make(map[string]*place)
	}
	to := n.texts[text]
	if to == nil {
		to = &place{}
		n.texts[text] = to
	}
	return to
}

// join adds the calls at and below from to n.
func (n *place) join(from *place) {
	for method, kinds := range from.calls {
		for kind, count := range kinds {
			n.count(method, kind, count)
		}
	}
	for _, t := range sortedPlaces(from.texts) {
		n.down(t).join(from.texts[t])
	}
	if from.id != nil {
		if n.id == nil {
			n.id = &place{}
		}
		n.id.join(from.id)
	}
}

func (n *place) count(method, kind string, calls int) {
	if n.calls == nil {
		n.calls = make(map[string]map[string]int)
	}
	if n.calls[method] == nil {
		n.calls[method] = make(map[string]int)
	}
	n.calls[method][kind] += calls
}

// fold takes many texts below a collection for identifiers. text is what n
// stands under.
func (n *place) fold(text string) {
	if singular(snake(text)) != snake(text) {
		var items []string
		for t := range n.texts {
			if first, _, _ := strings.Cut(snake(t), "_"); t != "" && !act(first) {
				items = append(items, t)
			}
		}
		if len(items) > maxTexts {
			if n.id == nil {
				n.id = &place{}
			}
			for _, t := range slices.Sorted(slices.Values(items)) {
				n.id.join(n.texts[t])
				delete(n.texts, t)
			}
		}
	}
	for t, to := range n.texts {
		to.fold(t)
	}
	if n.id != nil {
		n.id.fold("")
	}
}

func sortedPlaces(m map[string]*place) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Shapes groups calls, each with how often it was made, by method, host and shape of the path, the most frequent
// first.
func Shapes(calls map[Call]int) []Shape {
	hosts := make(map[string]*place)
	odd := make(map[oddCall]int)
	for c, times := range calls {
		host := hostOf(c.Authority)
		segs, err := parsePath(c.Path, false)
		why := ""
		switch {
		case err != nil:
			why = err.Error()
		case host == "":
			why = "the call has no host"
		case !plainMethod(c.Method):
			why = "the method is no upper-case word"
		}
		if why != "" {
			odd[oddCall{host, c.Method, c.Path, why}] += times
			continue
		}
		at := hosts[host]
		if at == nil {
			at = &place{}
			hosts[host] = at
		}
		for _, s := range segs {
			at = at.down(s.prefix)
		}
		at.count(c.Method, kindOf(c.ContentType), times)
	}
	var out []Shape
	for host, root := range hosts {
		root.fold("")
		root.walk(host, nil, &out)
	}
	for o, n := range odd {
		out = append(out, Shape{Host: o.host, Method: o.method, Path: o.path, Calls: n, Odd: o.why})
	}
	slices.SortFunc(out, func(a, b Shape) int {
		return cmp.Or(b.Calls-a.Calls, strings.Compare(a.Host, b.Host), strings.Compare(a.Path, b.Path), strings.Compare(a.Method, b.Method))
	})
	return out
}

// oddCall identifies calls that have no shape.
type oddCall struct{ host, method, path, why string }

func (n *place) walk(host string, at []segment, out *[]Shape) {
	for method, kinds := range n.calls {
		s := Shape{Host: host, Method: method, Path: pathOf(at), segs: slices.Clone(at), kinds: kinds}
		for _, calls := range kinds {
			s.Calls += calls
		}
		*out = append(*out, s)
	}
	for text, to := range n.texts {
		to.walk(host, append(at[:len(at):len(at)], segment{prefix: text}), out)
	}
	if n.id != nil {
		n.id.walk(host, append(at[:len(at):len(at)], segment{name: idName(at)}), out)
	}
}

// idName names an identifier after the collection that it stands in.
func idName(at []segment) string {
	name := "id"
	if i := len(at) - 1; i >= 0 && at[i].literal() && !generalSegment(at[i].prefix) {
		name = identifier(singular(snake(at[i].prefix)))
	}
	taken := make(map[string]bool)
	for _, s := range at {
		taken[s.name] = true
	}
	return unused(name, taken)
}

// isIdentifier says whether a text in a path looks like the identifier of a
// thing: a number, a UUID, a ULID, hexadecimal digits, a date, an address, a
// prefixed identifier (ch_3Abc), or a long text of letters and digits.
func isIdentifier(s string) bool {
	digits, letters, hexDigits, upper, lower, other := 0, 0, 0, 0, 0, 0
	for i := range len(s) {
		c := s[i]
		switch {
		case '0' <= c && c <= '9':
			digits++
			hexDigits++
		case 'a' <= c && c <= 'f':
			hexDigits++
			letters++
			lower++
		case 'g' <= c && c <= 'z':
			letters++
			lower++
		case 'A' <= c && c <= 'Z':
			if c <= 'F' {
				hexDigits++
			}
			letters++
			upper++
		default:
			other++
		}
	}
	dashes := strings.Count(s, "-")
	switch {
	case digits > 0 && letters == 0: // 42, 2026-01-31, 10.0.0.1, +49...
		return true
	case len(s) == 36 && dashes == 4 && hexDigits == 32: // UUID
		return true
	case strings.Contains(s, "@"):
		return true
	case other == 0 && digits > 0 && hexDigits == len(s) && len(s) >= 7:
		return true
	case other == 0 && digits > 0 && len(s) >= 16:
		return true
	case other == strings.Count(s, "_")+dashes && digits > 1 && len(s) >= 20 && (upper > 0 && lower > 0):
		return true
	}
	if prefix, rest, ok := strings.Cut(s, "_"); ok && len(rest) == 36 && len(prefix) <= 16 && isIdentifier(rest) { // ev_ and a UUID
		return true
	}
	if i := strings.LastIndexAny(s, "_-"); i > 0 && i+1 < len(s) {
		return prefixedID(s[:i], s[i+1:])
	}
	return false
}

// prefixedID is for ch_3Abc, sk_live_4eC39, cs_test_a1, INV-0042, T1-88.
func prefixedID(prefix, id string) bool {
	if len(prefix) > 16 || strings.Trim(prefix, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		return false
	}
	digits, upper, lower := 0, 0, 0
	for i := range len(id) {
		switch c := id[i]; {
		case '0' <= c && c <= '9':
			digits++
		case 'A' <= c && c <= 'Z':
			upper++
		case 'a' <= c && c <= 'z':
			lower++
		default:
			return false
		}
	}
	return digits > 0 || upper > 0 && lower > 0 && len(id) >= 8
}

// hostOf is an authority as a rule names it: without the scheme's own port.
func hostOf(authority string) string {
	host := strings.ToLower(authority)
	for _, port := range []string{":443", ":80"} {
		host = strings.TrimSuffix(host, port)
	}
	return host
}

func plainMethod(m string) bool {
	return m != "" && len(m) <= 20 && strings.Trim(m, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") == ""
}

func kindOf(contentType string) string {
	essence, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	switch essence = strings.TrimSpace(essence); {
	case essence == "":
		return ""
	case essence == "application/x-www-form-urlencoded":
		return "form"
	case essence == "multipart/form-data":
		return "multipart"
	case essence == "application/json" || strings.HasSuffix(essence, "+json"):
		return "json"
	}
	return "none"
}

var kindGlobs = map[string]string{"form": "application/x-www-form-urlencoded*", "multipart": "multipart/form-data*", "json": "application/*json*"}

// Observe drafts rules for calls that no rule maps. Arguments are not declared:
// the record does not have them. The first part of the tools is the host's name
// (Provider). An empty pack has no operations and no rule file.
func Observe(calls map[Call]int) (*Pack, error) {
	p := &Pack{}
	shapes := Shapes(calls)
	hosts := make(map[string]bool)
	held := make(map[string]bool)
	for _, s := range shapes {
		if s.Odd != "" {
			p.Left = append(p.Left, Left{s.Method + " " + s.Host + s.Path, s.Odd})
			continue
		}
		hosts[s.Host] = true
		if s.Method == "GET" {
			held[s.Host+s.Path] = true
		}
	}
	for _, s := range shapes {
		if s.Odd != "" {
			continue
		}
		o := Operation{Method: s.Method, Host: s.Host, Path: s.Path, Calls: s.Calls, segs: s.segs, Bodies: s.bodies()}
		n := &naming{provider: Provider(s.Host), segs: s.segs, method: s.Method, held: held[s.Host+s.Path]}
		n.describe(&o)
		if len(hosts) == 1 {
			p.Host, o.Host = s.Host, ""
			p.Name = n.provider
		}
		p.Operations = append(p.Operations, o)
	}
	if len(p.Operations) == 0 {
		return p, nil
	}
	if p.Name == "" {
		p.Name = "suggested"
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p, nil
}

// bodies says where the arguments of a shape are: the most frequent kind last.
func (s *Shape) bodies() []Body {
	switch s.Method {
	case "GET", "HEAD", "OPTIONS":
		return []Body{{Kind: "query"}}
	}
	var kinds []string
	for _, k := range []string{"multipart", "form", "json"} {
		if s.kinds[k] > 0 {
			kinds = append(kinds, k)
		}
	}
	slices.SortStableFunc(kinds, func(a, b string) int { return s.kinds[a] - s.kinds[b] })
	switch {
	case s.kinds["none"] > 0 && len(kinds) > 0: // some bodies cannot be read: only the others are
		out := make([]Body, 0, len(kinds)+1)
		for _, k := range kinds {
			out = append(out, Body{Kind: k, ContentType: kindGlobs[k]})
		}
		return append(out, Body{Kind: "none"})
	case s.kinds["none"] > 0:
		return []Body{{Kind: "none"}}
	case len(kinds) == 0 && s.Method == "DELETE":
		return []Body{{Kind: "query"}}
	case len(kinds) == 0:
		return []Body{{Kind: "json"}} // no body: no arguments
	}
	out := make([]Body, len(kinds))
	for i, k := range kinds {
		out[i].Kind = k
		if i < len(kinds)-1 {
			out[i].ContentType = kindGlobs[k]
		}
	}
	return out
}

// Provider is the name that a host goes by: api.stripe.com is stripe.
func Provider(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	host = strings.Trim(host, "[]*.")
	if _, err := netip.ParseAddr(host); err == nil {
		return "host_" + strings.Join(words(host), "_")
	}
	labels := strings.Split(host, ".")
	name := labels[0]
	if n := len(labels); n >= 2 {
		name = labels[n-2]
		if n >= 3 && slices.Contains([]string{"co", "com", "org", "net", "gov", "ac", "edu"}, name) {
			name = labels[n-3]
		}
	}
	name = strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, strings.ToLower(name))
	if name = name[:min(len(name), 32)]; name == "" {
		return "host"
	}
	return name
}
