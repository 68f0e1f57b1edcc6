// Package mapping gives an HTTP call its true name: it canonicalises the
// request, finds the first rule that matches, and reads tool, resource and
// typed arguments out of it. Where two reasonable parsers could understand the
// bytes differently, it says so (Ambiguity) instead of choosing in silence.
//
// The package is pure: no clock, no network, no files, no logger. It works in
// two steps, because a body is only read when the rule wants it:
//
//	m := set.Match(&req)          // head: canonical form, rule, ambiguities
//	r := m.Read(body, whole)      // body: calls, arguments, more ambiguities
//
// What is judged is described here; what is sent are the bytes as they came.
package mapping

// Request is the head of one HTTP request, as it came over the wire. Nothing in
// it has been cleaned, decoded or normalised, save that hop-by-hop headers are
// already gone.
type Request struct {
	Method string // as sent; methods are case-sensitive (RFC 9110 section 9.1)
	Scheme string // "http" or "https"

	// Authority is the door's authority, host[:port]: the CONNECT target, the
	// host of an absolute-form target, or the upstream of a reverse route. It is
	// the one that will be dialled.
	Authority string
	// Host is the Host header or :authority as sent, "" when the door replaced
	// it (reverse). It must canonicalise to the same authority.
	Host string
	// Target is the origin-form request target as sent, "/path?query", or "*".
	Target string
	// Header holds the end-to-end headers by canonical MIME name. Not modified.
	Header map[string][]string
	// ContentLength in bytes, -1 when not known (chunked, or HTTP/2 without one).
	ContentLength int64
	// Upgrade is the protocol asked for by Upgrade (or extended CONNECT), lower
	// case, "" for none.
	Upgrade string
}

// Risk tiers, in rising order.
const (
	RiskLow      = "low"
	RiskMedium   = "medium"
	RiskHigh     = "high"
	RiskCritical = "critical"
)

// Classes of ambiguity. They are stable names: they stand in events and docs.
const (
	ClassMethod      = "method"       // lower-case or unknown token, override header, _method
	ClassAuthority   = "authority"    // host spellings, Host that differs, userinfo, port spellings
	ClassPath        = "path"         // dot segments, %2F, %5C, //, control bytes, double encoding
	ClassQuery       = "query"        // bad escapes, ';', duplicate keys
	ClassHeader      = "header"       // duplicates of headers that matter, control bytes
	ClassBody        = "body"         // does not parse, trailing data, bad UTF-8, depth
	ClassDuplicate   = "duplicate"    // the same argument twice
	ClassContentType = "content_type" // not the type that the rule reads, two types, charset
	ClassEncoding    = "encoding"     // Content-Encoding that is not read, bomb
	ClassSource      = "source"       // the same argument in query and body
	ClassBatch       = "batch"        // batch in batch, mixed batch
)

// Ambiguity is one way in which another parser could have understood the
// request differently, or in which it is not well formed.
type Ambiguity struct {
	Class  string // one of the Class constants
	Detail string // a sentence without control characters, safe to show
	Status int    // HTTP status of a refusal: 400, 413, 415, 421, 431
}

// Problem is a declared argument that is not usable. The argument is absent
// from Args, so no rule can judge a value that the upstream may read otherwise.
type Problem struct {
	Arg    string // dotted path below args
	Detail string // "must be an integer, not \"1e6\""
	Kind   string // "missing" or "invalid"
}

// Pos is where a rule stands.
type Pos struct {
	File string
	Line int
}

// Match is what the head alone says. It is valid even where Ambiguities is not
// empty: it then is the best-effort reading, for the record.
type Match struct {
	// Canonical authority and target.
	Method    string // upper-cased
	Scheme    string
	Host      string // lower-case, A-label, no trailing dot; IPv6 without brackets
	Port      string // always set, decimal
	Path      string // decoded once, segments cleaned; for display and matching only
	RawQuery  string
	Rule      *Rule // nil: unmapped
	Ambiguous []Ambiguity

	// NeedBody says that Read wants the body (the rule reads arguments from it).
	NeedBody bool
	// ErrorShape names the provider's error format for a refusal: "stripe",
	// "openai", "jsonrpc", ... or "" for problem+json. AWS has one for each of its
	// protocols: "aws-rest" (S3), "aws-query", "aws-json".
	ErrorShape string

	atStake string     // the tool that _method in a body which is not read could make of the call
	rpc     *rpcMethod // of a gRPC call whose message is read
	set     *Set
	req     *Request
	params  map[string]string // named path segments
	query   map[string]any    // the query read flat
	segs    [6]string         // room for the segments of an ordinary path
	headers map[string]any    // see header; nil until somebody asks
	// underscored are the names of headers that have an underscore.
	underscored []string
	room        struct { // for an ordinary reading, so that it allocates less
		in   input
		call [1]Call
	}
}

// Call is one action in a request: usually there is one; a JSON-RPC or GraphQL
// batch has several, and is denied when any of them is.
type Call struct {
	Tool     string
	Resource string
	Risk     string
	// Args, Path and Query are, with Header, the typed namespaces that policy sees.
	// Values are string, int64, float64, bool, nil, map[string]any, []any.
	Args  map[string]any
	Path  map[string]any
	Query map[string]any
	// Problems of declared arguments.
	Problems []Problem
	// Secret holds dotted paths below args whose values must not be recorded.
	Secret []string
	// Rule is where the mapping rule stands; zero for unmapped.
	Rule Pos
	// RPCID is the JSON-RPC id as raw JSON, for the refusal; nil otherwise.
	RPCID []byte

	match *Match // nil: not of a request
}

// Reading is what the whole request says. There is always at least one call.
type Reading struct {
	Calls     []Call
	Ambiguous []Ambiguity // of head and body together
}

// ToolInfo is what the rules know about a tool, for the preflight door.
type ToolInfo struct {
	Name string
	Risk string
	Args []Arg // declared, over all rules of that tool
	// OpenArgs says that a rule reads arguments beyond the declared ones, so a
	// policy may name them.
	OpenArgs bool
}

// Arg is a declared argument.
type Arg struct {
	Name     string // dotted path below args
	Type     string // string, integer, number, boolean, currency, array, object
	Required bool
	Enum     []string
	Secret   bool
}
