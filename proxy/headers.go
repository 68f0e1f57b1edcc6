package proxy

import (
	"net/http"
	"strings"

	"github.com/actpass/sidecar/mapping"
)

// hopByHop are the headers that belong to one connection (RFC 9110 section
// 7.6.1), under their canonical names. They end here, in both directions.
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate",
	"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings",
}

// connectionOptions are what Connection may name without meaning a header that
// somebody further on may miss.
var connectionOptions = map[string]bool{
	"close": true, "keep-alive": true, "upgrade": true, "te": true, "trailer": true,
	"trailers": true, "transfer-encoding": true, "proxy-connection": true, "http2-settings": true,
	"proxy-authorization": true, "proxy-authenticate": true,
}

// claims are what the agent says about itself. They are read and removed.
type claims struct {
	user, goal, passport string
	proxyAuth            []string
	upgrade              string // the protocol asked for, lower case
}

// stripRequest removes from h everything that is not to be judged or sent:
// hop-by-hop headers, those that Connection nominates, credentials for the
// proxy, and ActPass-*. It returns what it read and what it found odd.
func stripRequest(h http.Header) (c claims, found []mapping.Ambiguity) {
	c.proxyAuth = h["Proxy-Authorization"]
	wantsUpgrade := false
	te := h["Te"]
	for _, line := range h["Connection"] {
		for option := range strings.SplitSeq(line, ",") {
			option = strings.ToLower(strings.Trim(option, " \t"))
			if option == "" {
				continue
			}
			if option == "upgrade" {
				wantsUpgrade = true
			}
			if connectionOptions[option] {
				continue
			}
			name := http.CanonicalHeaderKey(option)
			if _, there := h[name]; there || name == "Host" || name == "Content-Length" {
				// Whether the upstream sees the header depends on who reads
				// Connection: two readers, two requests.
				found = append(found, mapping.Ambiguity{
					Class: mapping.ClassHeader, Status: http.StatusBadRequest,
					Detail: "the Connection header nominates " + printable(name) + ", which other headers of the request carry to the upstream",
				})
			}
			delete(h, name)
		}
	}
	if protocols := h["Upgrade"]; len(protocols) > 0 && wantsUpgrade {
		joined := strings.ToLower(strings.Join(protocols, ","))
		switch {
		case strings.Contains(joined, "h2c") || h["Http2-Settings"] != nil:
			found = append(found, mapping.Ambiguity{
				Class: mapping.ClassHeader, Status: http.StatusBadRequest,
				Detail: "the request asks to go on in cleartext HTTP/2 (h2c)",
			})
		case carriesRequests(joined):
			found = append(found, mapping.Ambiguity{
				Class: mapping.ClassHeader, Status: http.StatusBadRequest,
				Detail: "the request asks to go on in " + printable(joined) + ", in which calls would pass unseen",
			})
		case strings.ContainsAny(joined, ", \t"):
			found = append(found, mapping.Ambiguity{
				Class: mapping.ClassHeader, Status: http.StatusBadRequest,
				Detail: "the request asks for more than one protocol in Upgrade",
			})
		default:
			c.upgrade = joined
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
	// TE: trailers is how gRPC says that it understands trailers, and the one
	// value that means the same on every hop (RFC 9113 section 8.2.2).
	for _, v := range te {
		if strings.EqualFold(strings.Trim(v, " \t"), "trailers") {
			h["Te"] = []string{"trailers"}
		}
	}
	for name, values := range h {
		if len(name) < 8 || name[:8] != "Actpass-" {
			continue
		}
		switch name {
		case "Actpass-User":
			c.user = values[0]
			found = append(found, several("ActPass-User", values)...)
		case "Actpass-Goal":
			c.goal = values[0]
			found = append(found, several("ActPass-Goal", values)...)
		case "Actpass-Passport":
			// Of several none is picked: joined, as RFC 9110 section 5.3 reads them, they are no token.
			c.passport = strings.Join(values, ", ")
		}
		delete(h, name)
	}
	return c, found
}

// carriesRequests says whether an upgrade leads to HTTP again, or to a proxy: TLS
// (RFC 2817), HTTP itself (RFC 9110 section 7.8), and tunnels (RFC 9298, RFC 9484).
func carriesRequests(protocol string) bool {
	name, _, _ := strings.Cut(protocol, "/")
	switch name {
	case "http", "https", "tls", "ssl", "h2", "h3", "spdy":
		return true
	}
	return strings.HasPrefix(name, "connect-") || strings.HasPrefix(name, "spdy/")
}

// several finds that a header says more than one thing. Limits are counted and
// conditions are asked by it, and whoever put another value there (an agent below a
// harness, say) must not be the one who is heard by coming first.
func several(name string, values []string) []mapping.Ambiguity {
	for _, v := range values[1:] {
		if v != values[0] {
			return []mapping.Ambiguity{{
				Class: mapping.ClassHeader, Status: http.StatusBadRequest,
				Detail: "the request has several " + name + " headers, which say different things",
			}}
		}
	}
	return nil
}

// copyAnswer copies the end-to-end headers of an upstream's answer. Headers
// that only we may say are dropped, and Alt-Svc too: it would lead the agent
// around the sidecar.
func copyAnswer(dst, src http.Header) {
	for _, line := range src["Connection"] {
		for option := range strings.SplitSeq(line, ",") {
			if option = strings.Trim(option, " \t"); option != "" {
				delete(src, http.CanonicalHeaderKey(option))
			}
		}
	}
	for name, values := range src {
		if !isOurs(name) {
			dst[name] = values
		}
	}
	for _, name := range hopByHop {
		delete(dst, name)
	}
	delete(dst, "Alt-Svc")
	if _, ok := dst["Content-Type"]; !ok {
		dst["Content-Type"] = nil // keeps net/http from guessing one
	}
	if _, ok := dst["Date"]; !ok {
		dst["Date"] = nil
	}
}

// isOurs says whether a header or trailer is one that only the sidecar may say.
func isOurs(name string) bool { return len(name) >= 8 && strings.EqualFold(name[:8], "actpass-") }

// dropOurs removes from trailers what only the sidecar may say, or is to hear.
func dropOurs(h http.Header) {
	for name := range h {
		if isOurs(name) {
			delete(h, name)
		}
	}
}

// printable replaces everything but visible ASCII, for sentences.
func printable(s string) string {
	if len(s) <= 200 && visible(s) {
		return s
	}
	clean := func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return strings.Map(clean, s)
}

func visible(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
