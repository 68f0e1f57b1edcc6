package mapping

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ambiguity makes one; its status is the one that fits the class.
func ambiguity(class, format string, args ...any) Ambiguity {
	status := 400
	switch class {
	case ClassContentType, ClassEncoding:
		status = 415
	}
	return Ambiguity{Class: class, Detail: fmt.Sprintf(format, args...), Status: status}
}

func tooLarge(class, format string, args ...any) Ambiguity {
	a := ambiguity(class, format, args...)
	a.Status = 413
	return a
}

func (m *Match) flag(a Ambiguity) { m.Ambiguous = append(m.Ambiguous, a) }

// Match canonicalises the head and finds the rule. It never returns nil. The
// request must not change while the Match is in use.
func (s *Set) Match(r *Request) *Match {
	m := &Match{set: s, req: r, Scheme: r.Scheme}
	override := m.head()
	m.authority()

	raw, query, _ := strings.Cut(r.Target, "?")
	m.RawQuery = query
	if strings.IndexByte(raw, '#') >= 0 { // a '?' behind a fragment is part of it
		m.RawQuery = ""
	}
	q := inspectQuery(m.RawQuery)
	m.query = q.fields
	for _, detail := range q.odd {
		m.flag(ambiguity(ClassQuery, "%s", detail))
	}
	if q.method != "" {
		m.flag(ambiguity(ClassMethod, "the query asks for another method with _method"))
		override = strings.ToUpper(q.method)
	}
	m.path(raw, override)
	m.judgeRule()
	m.NeedBody = m.NeedBody || m.atStake != ""
	return m
}

// authority canonicalises the two names of the host and compares them.
func (m *Match) authority() {
	r := m.req
	if r.Scheme != "http" && r.Scheme != "https" {
		m.flag(ambiguity(ClassAuthority, "the scheme %s is neither http nor https", show(r.Scheme)))
	}
	var err error
	m.Host, m.Port, err = Authority(r.Scheme, r.Authority)
	if m.Port == "" {
		m.Port = "443"
	}
	if err != nil {
		m.flag(ambiguity(ClassAuthority, "%v", err))
	}
	if r.Host == "" || r.Host == r.Authority {
		return
	}
	if err == nil && r.Host == m.Host && m.Port == defaultPort(r.Scheme) && !ipv6(r.Host) {
		return // canonical as it stands: the host of the authority is
	}
	host, port, err := Authority(r.Scheme, r.Host)
	if err != nil {
		m.flag(ambiguity(ClassAuthority, "the Host header: %v", err))
	}
	if host != m.Host || port != m.Port && port != "" {
		a := ambiguity(ClassAuthority, "the Host header names %s, and the connection is for %s", showAuthority(r.Host), showAuthority(r.Authority))
		a.Status = 421
		m.flag(a)
	}
}

// head looks at method and headers. It gives the method that an override header
// asks for, "" for none.
func (m *Match) head() (override string) {
	r := m.req
	m.Method = strings.ToUpper(r.Method)
	switch {
	case !token(r.Method):
		m.flag(ambiguity(ClassMethod, "the method %s is no token", show(r.Method)))
	case r.Method != m.Method:
		m.flag(ambiguity(ClassMethod, "the method %s is not in upper case: methods are case-sensitive, and some servers fold them", show(r.Method)))
	case !knownMethod(r.Method):
		for i := 0; i < len(r.Method); i++ {
			if c := r.Method[i]; c < 'A' || c > 'Z' {
				if c == '-' && i > 0 {
					continue
				}
				m.flag(ambiguity(ClassMethod, "the method %s is not one of HTTP", show(r.Method)))
				break
			}
		}
	}
	var found []Ambiguity
	for name, values := range r.Header {
		canonical, odd := name, false
		if !token(name) {
			found = append(found, ambiguity(ClassHeader, "the header name %s is no token", show(name)))
			continue
		}
		if strings.IndexByte(name, '_') >= 0 {
			canonical, odd = canonicalHeader(strings.ReplaceAll(name, "_", "-")), true
			m.underscored = append(m.underscored, name)
			if len(r.Header[canonical]) > 0 && !critical(canonical) {
				found = append(found, ambiguity(ClassHeader, "the header %s stands beside %s, and is the same to servers that fold underscores", show(name), canonical))
			}
		}
		for _, v := range values {
			if hasControl(v) && hasControl(strings.ReplaceAll(v, "\t", "")) {
				found = append(found, ambiguity(ClassHeader, "the header %s has a control character", name))
				break
			}
		}
		switch canonical {
		case "X-Http-Method-Override", "X-Http-Method", "X-Method-Override":
			found = append(found, ambiguity(ClassMethod, "the header %s asks for another method", name))
			if len(values) > 0 {
				override = strings.ToUpper(strings.TrimSpace(values[0]))
			}
		case "X-Original-Method", "X-Forwarded-Method", "X-Rewrite-Method", "X-Tunneled-Method", "X-Request-Method", "X-Http-Verb", "X-Http-Override", "Http-Method-Override", "X-Method":
			for _, v := range values {
				if asked := strings.ToUpper(strings.TrimSpace(v)); asked != m.Method && knownMethod(asked) {
					found = append(found, ambiguity(ClassMethod, "the header %s asks for another method", name))
					override = asked
				}
			}
		case "X-Original-Url", "X-Rewrite-Url", "X-Override-Url", "X-Original-Uri", "X-Rewrite-Uri", "X-Forwarded-Uri", "X-Envoy-Original-Path", "Unencoded-Url":
			for _, v := range values {
				if !samePath(v, r.Target) {
					found = append(found, ambiguity(ClassPath, "the header %s asks for another path", name))
					break
				}
			}
		case "Content-Type", "Content-Length", "Content-Encoding", "Authorization", "Idempotency-Key", "Host", "X-Amz-Target":
			if odd {
				found = append(found, ambiguity(ClassHeader, "the header %s is %s to servers that fold underscores", show(name), canonical))
			}
			if len(values) > 1 && canonical != "X-Amz-Target" { // which its reader counts
				found = append(found, ambiguity(ClassHeader, "the header %s stands %d times", canonical, len(values)))
			}
		}
		if selector(name) {
			if len(values) > 1 {
				found = append(found, ambiguity(ClassHeader, "the header %s stands %d times", name, len(values)))
			} else if len(values) == 1 && strings.IndexByte(values[0], ',') >= 0 { // RFC 9110 section 5.3
				found = append(found, ambiguity(ClassHeader, "the header %s has several values", name))
			}
		}
		switch name {
		case "Content-Length":
			if len(values) == 1 && (values[0] != strconv.FormatInt(r.ContentLength, 10)) {
				found = append(found, ambiguity(ClassHeader, "the Content-Length header is not the length of the body"))
			}
		case "Host":
			if len(values) == 1 && values[0] != r.Authority && values[0] != r.Host {
				found = append(found, ambiguity(ClassAuthority, "there is a second Host header"))
			}
		}
	}
	if len(found) > 1 { // maps have no order, answers should
		slices.SortFunc(found, func(a, b Ambiguity) int { return strings.Compare(a.Detail, b.Detail) })
	}
	m.Ambiguous = append(m.Ambiguous, found...)
	return override
}

func knownMethod(s string) bool {
	switch s {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT":
		return true
	}
	return false
}

// path finds the rule. A path that only one reading allows costs one look-up;
// for any other, each plausible reading is tried and the riskiest rule stands.
func (m *Match) path(raw, override string) {
	if raw == "*" {
		m.Path = "*"
		if m.Method != "OPTIONS" || m.RawQuery != "" {
			m.flag(ambiguity(ClassPath, "the target * belongs to OPTIONS alone"))
		}
		return
	}
	odd, plain := inspectPath(raw)
	segs := literalSegments(raw, m.segs[:0])
	m.Path = raw
	if !plain {
		m.Path = joinPath(segs)
	}
	method := m.Method
	best, ok := m.lookUp(method, segs, false, false)
	if odd != 0 {
		best, ok, odd = m.oddPath(raw, segs, odd)
	}
	for _, o := range oddityDetail {
		if odd&o.odd != 0 {
			m.flag(ambiguity(ClassPath, "%s", o.detail))
		}
	}
	excused := oddity(0)
	if ok {
		excused = best.rule.quirks
	}
	if odd == 0 {
		best, ok = m.slashAndCase(best, ok, segs, excused)
	}
	if override != "" && override != m.Method {
		if other, found := m.lookUp(override, segs, false, false); found && (!ok || riskRank(other.rule.Risk) > riskRank(best.rule.Risk)) {
			best, ok = other, true
		}
	}
	if ok {
		m.take(best, segs)
	}
	m.stakes(segs)
}

func (m *Match) lookUp(method string, segs []string, empty, fold bool) (entry, bool) {
	return m.set.index.find(m.Scheme, m.Host, m.Port, method, m.req.Header, m.query, segs, empty, fold)
}

// take makes e the match's rule.
func (m *Match) take(e entry, segs []string) {
	m.Rule = e.rule
	if len(e.rule.names) > 0 {
		m.params = make(map[string]string, len(e.rule.names))
		if e.segs != nil { // found by another reading of the path
			segs = e.segs
		}
		if !capture(e.pattern, segs, m.params) {
			clear(m.params)
		}
		if e.host != nil {
			e.host.capture(m.Host, m.params)
		}
		m.foldPath()
	}
}

// oddPath tries the readings of a path with oddities. When a rule that excuses
// them all matches the literal reading, it is the rule and nothing is odd.
func (m *Match) oddPath(raw string, segs []string, odd oddity) (entry, bool, oddity) {
	literal, ok := m.lookUp(m.Method, segs, true, false)
	if ok && odd&^literal.rule.quirks == 0 {
		return literal, true, 0
	}
	if ok && odd&oddEmptySegment != 0 && literal.rule.quirks&oddEmptySegment == 0 {
		// Without the quirk no pattern matches an empty segment.
		literal, ok = m.lookUp(m.Method, segs, false, false)
	}
	best := literal
	try := func(segs []string) {
		for _, fold := range []bool{false, true} {
			s := segs
			if fold {
				s = foldSegments(segs)
			}
			for _, s := range [][]string{s, toggleSlash(s)} {
				e, found := m.lookUp(m.Method, s, false, fold)
				if found && (!ok || riskRank(e.rule.Risk) > riskRank(best.rule.Risk) || riskRank(e.rule.Risk) == riskRank(best.rule.Risk) && e.rule.order < best.rule.order) {
					best, ok = e, true
					best.segs = s
				}
			}
		}
	}
	cleaned := cleanedSegments(raw, 1)
	m.Path = joinPath(cleaned)
	try(cleaned)
	try(cleanedSegments(raw, 2))
	return best, ok, odd
}

func toggleSlash(segs []string) []string {
	if n := len(segs); n > 1 && segs[n-1] == "" {
		return segs[:n-1]
	}
	return append(slices.Clip(segs), "")
}

func foldSegments(segs []string) []string {
	out := make([]string, len(segs))
	for i, s := range segs {
		out[i] = lowered(s)
	}
	return out
}

// slashAndCase looks for a rule that a server would choose which ignores a final
// slash, or case.
func (m *Match) slashAndCase(best entry, ok bool, segs []string, excused oddity) (entry, bool) {
	earlier := func(e entry, found bool) bool {
		return found && (!ok || e.rule.order < best.rule.order)
	}
	trailing := len(segs) > 1 && segs[len(segs)-1] == ""
	if trailing || !ok {
		toggled := toggleSlash(segs)
		if e, found := m.lookUp(m.Method, toggled, false, false); earlier(e, found) {
			if (e.rule.quirks|excused)&oddTrailingSlash == 0 {
				m.flag(ambiguity(ClassPath, "a slash at the end of the path makes the difference between %s and another call", e.rule.Tool))
			}
			best, ok = e, true
			best.segs = toggled
		}
	}
	if m.set.index.foldable(m.Scheme, m.Host, m.Port, segs) {
		low := foldSegments(segs)
		e, found := m.lookUp(m.Method, low, false, true)
		if !earlier(e, found) && trailing {
			low = toggleSlash(low)
			e, found = m.lookUp(m.Method, low, false, true)
		}
		if earlier(e, found) {
			m.flag(ambiguity(ClassPath, "the path is that of %s but for upper and lower case", e.rule.Tool))
			best, ok = e, true
			best.segs = low
		}
	}
	for _, other := range looserPaths(segs) {
		e, found := m.lookUp(m.Method, other.segs, false, false)
		if !earlier(e, found) && m.set.index.foldable(m.Scheme, m.Host, m.Port, other.segs) {
			other.segs = foldSegments(other.segs)
			e, found = m.lookUp(m.Method, other.segs, false, true)
		}
		if earlier(e, found) {
			m.flag(ambiguity(ClassPath, "the path is that of %s but for %s, which some servers drop", e.rule.Tool, other.drops))
			best, ok = e, true
			best.segs = other.segs
		}
	}
	return best, ok
}

// judgeRule adds what depends on the rule.
func (m *Match) judgeRule() {
	r := m.Rule
	if r == nil {
		return
	}
	m.ErrorShape = r.shape
	m.foldedHeaders(r)
	for i := range r.headers {
		if name := r.headers[i].name; len(m.req.Header[name]) > 1 {
			switch name {
			case "Content-Type", "Content-Encoding", "Authorization", "Idempotency-Key", "Content-Length":
			default:
				m.flag(ambiguity(ClassHeader, "the header %s stands %d times, and the rule goes by it", name, len(m.req.Header[name])))
			}
		}
	}
	for i := range r.query {
		if values, twice := m.query[r.query[i].name].([]any); twice {
			m.flag(ambiguity(ClassDuplicate, "the query has %s %d times, and the rule goes by it", show(r.query[i].name), len(values)))
		}
	}
	for _, t := range r.resource {
		for i := range t {
			if t[i].space == "header" {
				if name := t[i].path[0]; len(m.req.Header[name]) > 1 && !critical(name) && !selector(name) {
					m.flag(ambiguity(ClassHeader, "the header %s stands %d times, and the resource is named by it", name, len(m.req.Header[name])))
				}
			}
			if t[i].space == "query" {
				if _, twice := m.query[t[i].path[0]].([]any); twice {
					m.flag(ambiguity(ClassDuplicate, "the query has %s twice, and the resource is named by it", show(t[i].path[0])))
				}
			}
		}
	}
	if r.kind.name == "grpc" {
		m.judgeRPC()
	}
	if m.req.Upgrade != "" {
		// What follows an upgrade is no body, and a body before it is not for the
		// server that upgrades.
		reads := r.kind.body || m.rpc != nil
		m.rpc, m.NeedBody = nil, false
		if reads && (m.Method != "GET" && m.Method != "CONNECT" || m.req.ContentLength != 0) {
			m.flag(ambiguity(ClassHeader, "the request asks for an upgrade where %s has arguments in its body", r.Tool))
		}
		return
	}
	if r.kind.name == "grpc" {
		return
	}
	m.NeedBody = r.kind.body && m.req.ContentLength != 0
	if !m.NeedBody && r.kind.queryOnly {
		m.NeedBody = m.req.ContentLength != 0
	}
}

// UnmappedDenied says that no rule maps the request and the configuration wants
// such traffic refused under enforce and strict.
func (m *Match) UnmappedDenied() bool {
	return m.Rule == nil && (m.set == nil || m.set.denyUnmapped)
}

// URL is the canonical URL without query: scheme://host[:port]/path, the port
// only where it is not the scheme's own.
func (m *Match) URL() string {
	host := m.Host
	if strings.IndexByte(host, ':') >= 0 {
		host = "[" + host + "]"
	}
	if m.Port != defaultPort(m.Scheme) {
		host += ":" + m.Port
	}
	path := m.Path
	if path == "*" {
		path = "/*"
	}
	var b strings.Builder
	b.Grow(len(m.Scheme) + len(host) + len(path) + 3)
	b.WriteString(m.Scheme)
	b.WriteString("://")
	b.WriteString(host)
	for i := 0; i < len(path); i++ {
		if c := path[i]; c <= ' ' || c == 0x7f || c == '?' || c == '#' || c >= 0x80 {
			const hex = "0123456789ABCDEF"
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
			continue
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

// Authority is host:port, IPv6 in brackets, the port always there.
func (m *Match) Authority() string {
	if strings.IndexByte(m.Host, ':') >= 0 {
		return "[" + m.Host + "]:" + m.Port
	}
	return m.Host + ":" + m.Port
}
