package whatif

import (
	"fmt"
	"net/textproto"
	"net/url"
	"strings"

	"github.com/actpass/sidecar/mapping"
)

// RequestOf makes up the request that a person describes: an absolute URL, and
// headers as 'Name: value'. A body without a Content-Type gets the one that curl
// would send, or JSON's where it looks like JSON. Errors are for that person.
func RequestOf(method, rawURL string, body []byte, headers []string) (*mapping.Request, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is not an absolute http or https URL", rawURL)
	}
	// The target as it was written: url.Parse has decoded its path already.
	_, rest, _ := strings.Cut(rawURL, "://")
	target := "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		target = rest[i:]
		if target[0] == '?' {
			target = "/" + target
		}
	}
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority = rest[:i]
	}
	head := &mapping.Request{
		Method: method, Scheme: u.Scheme, Authority: authority, Host: authority, Target: target,
		Header: map[string][]string{}, ContentLength: int64(len(body)),
	}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, fmt.Errorf("%q is not a header: write 'Name: value'", h)
		}
		name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))
		if name == "Host" {
			head.Host = strings.TrimSpace(value)
			continue
		}
		head.Header[name] = append(head.Header[name], strings.TrimSpace(value))
	}
	if len(body) > 0 && head.Header["Content-Type"] == nil {
		head.Header["Content-Type"] = []string{guessType(body)}
	}
	return head, nil
}

// guessType is what curl -d would send, or JSON where the body says so.
func guessType(body []byte) string {
	if t := strings.TrimSpace(string(body[:min(len(body), 64)])); strings.HasPrefix(t, "{") || strings.HasPrefix(t, "[") {
		return "application/json"
	}
	return "application/x-www-form-urlencoded"
}
