package mapping

import (
	"strconv"
	"strings"
)

// Bounds of what is read out of one body.
const (
	maxDepth     = 64      // nesting of JSON
	maxFormDepth = 16      // nesting of form brackets
	maxValues    = 100_000 // values of one document
	maxCalls     = 100     // calls of one batch
)

// kind is one place where arguments can be.
type kind struct {
	name string
	// body says that the kind reads arguments from the body; queryOnly that there
	// must be none.
	body, queryOnly bool
	// read fills in.calls, one or more. nil: the kind reads nothing.
	read func(in *input)
}

func (k *kind) reads() bool { return k.read != nil }

// kinds are the values of `args`. One that is not here is refused at load.
var kinds = map[string]*kind{
	"none":      {name: "none"},
	"form":      {name: "form", body: true, read: readForm},
	"query":     {name: "query", queryOnly: true, read: readQuery},
	"grpc":      {name: "grpc", read: readGRPC},
	"jsonrpc":   {name: "jsonrpc", body: true, read: readJSONRPC},
	"multipart": {name: "multipart", body: true, read: readMultipart},
	"aws-query": {name: "aws-query", body: true, read: readAWSQuery},
	"aws-json":  {name: "aws-json", body: true, read: readAWSJSON},
	"aws-rest":  {name: "aws-rest", read: readAWSREST},
	"graphql":   {name: "graphql", body: true, read: readGraphQL},
	"json":      {name: "json", body: true, read: readJSON},
}

// input is one request on its way to calls.
type input struct {
	m     *Match
	rule  *Rule
	body  []byte
	calls []Call
	amb   []Ambiguity
	roots []string // arguments that brackets build

	path [4]step // room for typing

	parsed jsonFacts // of the JSON text that was read last
	facts  jsonFacts // of the arguments: its, where they are nothing else's
}

func (in *input) flag(class, format string, args ...any) {
	in.amb = append(in.amb, ambiguity(class, format, args...))
}

// Read interprets the body. whole is false when body is only a prefix of what
// was sent (larger than the inspection limit) or was not read at all; a rule
// that needs arguments then reports an ambiguity with status 413.
func (m *Match) Read(body []byte, whole bool) Reading {
	if m.Rule == nil {
		in := input{m: m, body: body, amb: m.Ambiguous[:len(m.Ambiguous):len(m.Ambiguous)]}
		if m.atStake != "" {
			in.hiddenMethod(whole)
		}
		return Reading{Calls: []Call{m.generic()}, Ambiguous: in.amb}
	}
	in := &m.room.in
	if in.m == nil {
		in.calls = m.room.call[:0]
	} else { // a second reading must not change the first
		in = new(input)
	}
	in.m, in.rule, in.body = m, m.Rule, body
	in.amb = m.Ambiguous[:len(m.Ambiguous):len(m.Ambiguous)]
	k := m.Rule.kind
	switch {
	case m.atStake != "":
		in.hiddenMethod(whole)
	case !k.reads():
	case m.NeedBody && !whole:
		in.amb = append(in.amb, tooLarge(ClassBody, "the arguments of %s stand in a body that was not read, or is larger than may be inspected", m.Rule.Tool))
	default:
		if !m.NeedBody {
			in.body = nil
		}
		k.read(in)
	}
	if len(in.calls) == 0 {
		in.add(map[string]any{}, false)
	}
	return Reading{Calls: in.calls, Ambiguous: in.amb}
}

// generic is the call of a request that no rule maps.
func (m *Match) generic() Call {
	method := strings.ToLower(m.Method)
	if !token(method) {
		method = "invalid"
	}
	return Call{
		Tool:     "http." + method,
		Resource: m.URL(),
		Risk:     methodRisk(m.Method),
		Args:     map[string]any{},
		Path:     map[string]any{},
		Query:    m.query,
		match:    m,
	}
}

// add types args by the rule and appends the call. text says that the values
// came as text.
func (in *input) add(args map[string]any, text bool) *Call {
	return in.addTyped(args, text, in.rule.spec)
}

func (in *input) addTyped(args map[string]any, text bool, spec *argSpec) *Call {
	t := in.typing(text)
	t.finish(args, spec)
	return in.call(args, &t)
}

func (in *input) typing(text bool) typing {
	return typing{text: text, at: in.path[:0], facts: in.facts}
}

// call appends the call with arguments that t has typed.
func (in *input) call(args map[string]any, t *typing) *Call {
	m, r := in.m, in.rule
	foldArgs(args, r.caseless.args)
	in.amb = append(in.amb, t.ambiguous...)
	c := Call{
		Tool: r.Tool, Risk: r.Risk, Rule: r.Pos,
		Args: args, Query: m.query, match: m,
		Problems: t.problems, Secret: t.secrets(r.secret),
	}
	if len(m.params) > 0 {
		c.Path = make(map[string]any, len(m.params))
		for k, v := range m.params {
			c.Path[k] = v
		}
	}
	c.Resource = m.resourceOf(r, &c)
	in.calls = append(in.calls, c)
	return &in.calls[len(in.calls)-1]
}

// shown says whether policy sees a header.
func shown(name string) bool { return !negotiation(name) && !hiddenHeader(name) }

// negotiation names headers that say how to talk and not what to do. They are
// left out because each costs an allocation on every call.
func negotiation(name string) bool {
	switch name {
	case "Accept", "Accept-Encoding", "Accept-Language", "Content-Length":
		return true
	}
	return false
}

// contentType checks that the body is of one of the types that the rule reads.
// It gives the parameters. A request without a body needs none.
func (in *input) contentType(accept func(media string) bool, reads string) (params string, ok bool) {
	values := in.m.req.Header["Content-Type"]
	if len(values) == 0 {
		if len(in.body) > 0 {
			in.flag(ClassContentType, "the body has no content type, and the rule reads %s", reads)
		}
		return "", len(in.body) == 0
	}
	v := values[0]
	if len(values) > 1 || strings.IndexByte(v, ',') >= 0 {
		in.flag(ClassContentType, "there is more than one content type")
		v, _, _ = strings.Cut(v, ",")
	}
	media, params, _ := strings.Cut(v, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	if !accept(media) {
		in.flag(ClassContentType, "the content type is %s, and the rule reads %s", show(v), reads)
		return params, false
	}
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		name = strings.TrimRight(strings.TrimSpace(name), "*0123456789") // also in the form of RFC 2231
		if strings.EqualFold(name, "charset") && !strings.EqualFold(strings.Trim(strings.TrimSpace(value), `"`), "utf-8") {
			in.flag(ClassContentType, "the charset %s is not utf-8", show(value))
			return params, false
		}
	}
	return params, true
}

func isForm(media string) bool { return media == "application/x-www-form-urlencoded" }

func isJSON(media string) bool {
	return media == "application/json" || strings.HasSuffix(media, "+json") && strings.HasPrefix(media, "application/")
}

// noBody reports a body where the arguments stand elsewhere.
func (in *input) noBody() {
	if len(in.body) > 0 {
		in.flag(ClassSource, "there is a body of %s bytes, and the arguments are in the query", strconv.Itoa(len(in.body)))
	}
}

// clash reports names that stand in the query too.
func (in *input) clash(args map[string]any) {
	for name := range in.m.query {
		base := mangledName(looseName(baseName(name)))
		for k := range args {
			if mangledName(looseName(k)) == base {
				in.flag(ClassSource, "the argument %s stands in the query, and is one of the body's", show(k))
			}
		}
	}
}
