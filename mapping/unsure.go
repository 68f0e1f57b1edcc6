package mapping

import "strings"

// The header and query that policy sees are flat: a name that stands several times
// has a list there, and one that is spelt otherwise is another name. A condition
// over header["X-Account"] would hold of neither, though an upstream takes the
// first, the last or the other spelling. What a policy reads must therefore be
// there once, and as it is called.

// PlainNames says that no header and no query parameter of the request can be read
// under two names or with two values, so that Unsure has nothing to say. It is so
// of nearly all requests.
func (m *Match) PlainNames() bool {
	if len(m.underscored) > 0 {
		return false
	}
	for _, values := range m.req.Header {
		if len(values) > 1 {
			return false
		}
	}
	for name, v := range m.query {
		if _, twice := v.([]any); twice || mangledName(looseName(baseName(name))) != name {
			return false
		}
	}
	return true
}

// Unsure reports the headers and query parameters among reads (as policy.Set.ReadsOnce
// gives them: "header.X-Team", "query.force") that readers could take differently.
func (m *Match) Unsure(reads []string) (found []Ambiguity) {
	for _, r := range reads {
		space, name, _ := strings.Cut(r, ".")
		switch space {
		case "header":
			found = append(found, m.unsureHeader(canonicalHeader(name))...)
		case "query":
			found = append(found, m.unsureQuery(name)...)
		}
	}
	return found
}

func (m *Match) unsureHeader(name string) (found []Ambiguity) {
	if n := len(m.req.Header[name]); n > 1 && !critical(name) && !selector(name) { // else said already
		found = append(found, ambiguity(ClassHeader, "the header %s stands %d times, and the policy goes by it", name, n))
	}
	for _, other := range m.underscored {
		if canonicalHeader(strings.ReplaceAll(other, "_", "-")) == name {
			found = append(found, ambiguity(ClassHeader, "the header %s is %s to servers that fold underscores, and the policy goes by it", show(other), name))
		}
	}
	return found
}

func (m *Match) unsureQuery(name string) (found []Ambiguity) {
	for other, v := range m.query {
		switch values, twice := v.([]any); {
		case other == name && twice:
			found = append(found, ambiguity(ClassDuplicate, "the query has %s %d times, and the policy goes by it", show(name), len(values)))
		case other != name && mangledName(looseName(baseName(other))) == mangledName(looseName(name)):
			found = append(found, ambiguity(ClassDuplicate, "the query has %s, which is %s to some servers, and the policy goes by that", show(other), show(name)))
		}
	}
	return found
}

// baseName is a name up to its brackets, or to a NUL at which PHP ends it.
func baseName(name string) string {
	if i := strings.IndexAny(name, "[\x00"); i > 0 {
		return name[:i]
	}
	return name
}
