package mapping

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/actpass/sidecar/strictyaml"
)

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

	order         int // its number over all sources
	methods       []string
	headers       []headerMatch
	query         []headerMatch
	cases         []ruleCase
	persisted     map[string]string // hash: document
	names         []string          // of path segments and host labels
	deep          []string          // those of names that stand for any number of segments
	kind          *kind
	mcp           string
	shape         string
	quirks        oddity
	queryWithForm bool
	// underscoreHeaders says that the upstream has headers with underscores.
	underscoreHeaders bool
	closed            bool
	args              []Arg
	spec              *argSpec
	caseless          caseless
	secret            []string
	resource          []template
	reach             reach
}

// Options of Compile.
type Options struct {
	// Unmapped is what to do with traffic that no rule maps: "generic" (the
	// default) names it http.<method>; "deny" names it the same, and the gate
	// refuses it under enforce and strict.
	Unmapped string
	// Descriptors are protobuf FileDescriptorSets, in binary. Where one knows the
	// method of a gRPC call, its message is read by field name.
	Descriptors []Source
}

// Set is a compiled, immutable set of rules, safe for concurrent use.
type Set struct {
	rules        []*Rule
	index        hostIndex
	tools        map[string]*toolInfo
	servers      map[string]*toolInfo // MCP
	folding      map[string][]*Rule   // by tool, the rules that compare something without case
	rpcs         rpcMethods
	hash         string
	denyUnmapped bool
}

// Compile reads all sources, in order: the first matching rule wins, and
// sources given first come first. The error is strictyaml.Faults, with every
// fault of every file.
func Compile(sources []Source, opt Options) (*Set, error) {
	c := compiler{set: &Set{denyUnmapped: opt.Unmapped == "deny"}}
	if opt.Unmapped != "" && opt.Unmapped != "generic" && opt.Unmapped != "deny" {
		return nil, fmt.Errorf("unmapped traffic: %q is neither generic nor deny", opt.Unmapped)
	}
	h := sha256.New()
	for _, src := range sources {
		// The length keeps two files from hashing as one that is cut elsewhere.
		_ = binary.Write(h, binary.BigEndian, uint64(len(src.Data)))
		h.Write(src.Data)
		c.source(src)
	}
	c.set.rpcs = rpcMethods{}
	for _, src := range opt.Descriptors {
		_ = binary.Write(h, binary.BigEndian, uint64(len(src.Data)))
		h.Write(src.Data)
		if err := c.set.rpcs.add(src.Data); err != nil {
			c.faults.Addf(strictyaml.Pos{File: src.Name}, "%v", err)
		}
	}
	if err := c.faults.Err(); err != nil {
		return nil, err
	}
	c.set.tools, c.set.servers = gatherTools(c.set.rules)
	c.set.folding = make(map[string][]*Rule)
	for _, r := range withCases(c.set.rules) {
		if !r.caseless.empty() {
			c.set.folding[r.Tool] = append(c.set.folding[r.Tool], r)
		}
	}
	c.set.hash = "sha256:" + hex.EncodeToString(h.Sum(nil))
	return c.set, nil
}

// Hash is "sha256:" and the hex digest over all sources and descriptor sets, in order.
func (s *Set) Hash() string { return s.hash }

// Len is the number of rules.
func (s *Set) Len() int { return len(s.rules) }

// MapsHost says whether any rule could match traffic to host (canonical, or any
// spelling) and port, for intercept.scope: mapped.
func (s *Set) MapsHost(host, port string) bool {
	authority := host
	if ipv6(host) {
		authority = "[" + host + "]"
	}
	// A spelling that is wrong is taken for what it may mean: better to look into
	// a tunnel too many than to miss one.
	host, _, _ = Authority("https", authority)
	if host == "" {
		return false
	}
	found := false
	for _, scheme := range []string{"https", "http"} {
		s.index.sites(scheme, host, port, func(*site) { found = true })
	}
	return found
}
