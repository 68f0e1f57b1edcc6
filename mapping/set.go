package mapping

// Source is one rule file.
type Source struct {
	Name string // shown in positions
	Data []byte
}

// Rule is one compiled rule. Immutable.
type Rule struct {
	Pos
	Tool string
	Risk string
}

// Options of Compile.
type Options struct {
	// Unmapped is what to do with traffic that no rule maps: "generic" (the
	// default) names it http.<method>; "deny" names it the same, and the gate
	// refuses it under enforce and strict.
	Unmapped string
}

// Set is a compiled, immutable set of rules, safe for concurrent use.
type Set struct{}

// Compile reads all sources, in order: the first matching rule wins, and
// sources given first come first. The error is strictyaml.Faults, with every
// fault of every file.
func Compile(sources []Source, opt Options) (*Set, error) { return &Set{}, nil }

// Pack returns the embedded catalogue pack of that name; the error lists the
// names there are.
func Pack(name string) (Source, error) { return Source{}, nil }

// Packs lists the embedded packs by name, sorted.
func Packs() []string { return nil }

// Hash is "sha256:" and the hex digest over all sources, in order.
func (s *Set) Hash() string { return "" }

// Len is the number of rules.
func (s *Set) Len() int { return 0 }

// Match canonicalises the head and finds the rule. It never returns nil. The
// request must not change while the Match is in use.
func (s *Set) Match(r *Request) *Match { return &Match{} }

// Read interprets the body. whole is false when body is only a prefix of what
// was sent (larger than the inspection limit) or was not read at all; a rule
// that needs arguments then reports an ambiguity with status 413.
func (m *Match) Read(body []byte, whole bool) Reading { return Reading{} }

// URL is the canonical URL without query: scheme://host[:port]/path, the port
// only where it is not the scheme's own.
func (m *Match) URL() string { return "" }

// Authority is host:port, IPv6 in brackets, the port always there.
func (m *Match) Authority() string { return "" }

// MapsHost says whether any rule could match traffic to host (canonical, or any
// spelling) and port, for intercept.scope: mapped.
func (s *Set) MapsHost(host, port string) bool { return false }

// Tool looks a tool up by name.
func (s *Set) Tool(name string) (ToolInfo, bool) { return ToolInfo{}, false }

// TypeArgs types arguments that came as JSON (the preflight door) the way the
// tool's rule types those of traffic: "4900" becomes int64 4900 for an integer.
// args is not modified. Tools that no rule knows keep their values: JSON
// integers as int64, other numbers as float64.
func (s *Set) TypeArgs(tool string, args map[string]any) (typed map[string]any, secret []string, problems []Problem) {
	return nil, nil, nil
}

// Authority canonicalises host[:port] for a scheme, as Match does: lower case,
// A-labels, no trailing dot, decimal port (the scheme's own if absent). The
// error says what is wrong; host and port are then best effort.
func Authority(scheme, authority string) (host, port string, err error) { return "", "", nil }
