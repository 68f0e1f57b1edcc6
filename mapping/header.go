package mapping

import (
	"slices"
	"strings"
)

// What is particular to headers.

// critical names the headers that are looked at by name, each under a word of
// its own.
func critical(canonical string) bool {
	switch canonical {
	case "Content-Type", "Content-Length", "Content-Encoding", "Authorization", "Idempotency-Key", "Host", "X-Amz-Target":
		return true
	}
	return false
}

// selector names the headers by which a call is another account's or project's,
// and of which the catalogue's providers take one.
func selector(name string) bool {
	switch name {
	case "Stripe-Account", "Stripe-Context", "Openai-Organization", "Openai-Project", "X-Goog-User-Project", "X-Amz-Security-Token",
		"X-Amz-Expected-Bucket-Owner", "X-Shopify-Access-Token", "Notion-Version", "Mcp-Session-Id", "Impersonate-User":
		return true
	}
	return false
}

// Header is the namespace of that name: the headers of the request that policy may
// see, by their canonical names, several values as a list. Few policies look at it,
// so it is made when one does; not for use by several at once.
func (c *Call) Header() map[string]any {
	if c.match == nil {
		return nil
	}
	return c.match.header()
}

func (m *Match) header() map[string]any {
	if m.headers == nil {
		m.headers = make(map[string]any, len(m.req.Header))
		for name, values := range m.req.Header {
			if len(values) > 0 && shown(name) {
				m.headers[name] = oneOrList(values)
			}
		}
	}
	return m.headers
}

func oneOrList(values []string) any {
	if len(values) == 1 {
		return values[0]
	}
	list := make([]any, len(values))
	for i, v := range values {
		list[i] = v
	}
	return list
}

// foldedHeaders reports headers with underscores. To servers behind CGI or WSGI
// they are those with dashes, and a policy that goes by the connected account
// (Stripe-Account) would not see them. Where no rule maps the request only the
// headers that are looked at by name are reported, with the head.
func (m *Match) foldedHeaders(r *Rule) {
	if r.underscoreHeaders {
		return
	}
	slices.Sort(m.underscored)
	for _, name := range m.underscored {
		canonical := canonicalHeader(strings.ReplaceAll(name, "_", "-"))
		if !critical(canonical) && !strings.HasPrefix(canonical, "X-Http-Method") && canonical != "X-Method-Override" && len(m.req.Header[canonical]) == 0 { // else said already
			m.flag(ambiguity(ClassHeader, "the header %s is %s to servers that fold underscores", show(name), canonical))
		}
	}
}

// hiddenHeader says whether a header is a credential: policy does not see it,
// and no resource shows it.
func hiddenHeader(name string) bool {
	switch name {
	case "Authorization", "Proxy-Authorization", "Cookie", "Actpass-Passport", "X-Api-Key", "Api-Key", "X-Auth-Token",
		"X-Amz-Security-Token", "X-Goog-Api-Key", "Private-Token", "X-Csrf-Token", "X-Vault-Token", "X-Shopify-Access-Token":
		return true
	}
	return false
}
