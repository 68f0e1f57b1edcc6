package mapping

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Authority canonicalises host[:port] for a scheme, as Match does: lower case,
// A-labels, no trailing dot, decimal port (the scheme's own if absent), IPv6
// without brackets. The error says what is wrong; host and port are then best
// effort, and name what a lenient parser would reach.
func Authority(scheme, authority string) (host, port string, err error) {
	if host, port, ok := plainAuthority(scheme, authority); ok {
		return host, port, nil
	}
	return oddAuthority(scheme, authority)
}

// defaultPort is the port of an authority that names none.
func defaultPort(scheme string) string {
	switch scheme {
	case "https":
		return "443"
	case "http":
		return "80"
	}
	return ""
}

// plainAuthority handles the ordinary spelling without allocating: a lower-case
// ASCII name, and at most a decimal port.
func plainAuthority(scheme, a string) (host, port string, ok bool) {
	host, port = a, defaultPort(scheme)
	for i := 0; i < len(a); i++ {
		c := a[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '-':
			continue
		case c == ':':
			host, port = a[:i], a[i+1:]
			if !plainPort(port) {
				return "", "", false
			}
		default:
			return "", "", false
		}
		break
	}
	if port == "" || !plainName(host) || strings.Contains(host, "xn--") {
		return "", "", false
	}
	return host, port, true
}

// plainName says whether a host is a lower-case ASCII domain name (underscores
// allowed, RFC 2181 section 11) that no parser takes for an IPv4 address.
func plainName(h string) bool {
	if h == "" || len(h) > 253 {
		return false
	}
	start := 0
	for i := 0; i <= len(h); i++ {
		if i < len(h) && h[i] != '.' {
			c := h[i]
			if ('a' > c || c > 'z') && ('0' > c || c > '9') && c != '-' && c != '_' {
				return false
			}
			continue
		}
		label := h[start:i]
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		start = i + 1
	}
	return !numericLabel(h[strings.LastIndexByte(h, '.')+1:])
}

// numericLabel says whether a last label makes the host an IPv4 address by the
// WHATWG URL standard ("ends in a number").
func numericLabel(l string) bool {
	hex := strings.HasPrefix(l, "0x")
	if hex {
		l = l[2:]
	}
	for i := 0; i < len(l); i++ {
		if c := l[i]; (c < '0' || c > '9') && (!hex || c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func plainPort(p string) bool {
	if p == "" || p[0] < '1' || p[0] > '9' || len(p) > 5 {
		return false
	}
	n := 0
	for i := 0; i < len(p); i++ {
		if p[i] < '0' || p[i] > '9' {
			return false
		}
		n = n*10 + int(p[i]-'0')
	}
	return n <= 65535
}

// strictIDNA accepts only names that are already in their canonical Unicode
// form; lenientIDNA maps as browsers do, for the best effort.
var (
	strictIDNA  = idna.New(idna.ValidateForRegistration())
	lenientIDNA = idna.New(idna.MapForLookup(), idna.Transitional(false))
)

// oddAuthority reads every other spelling, keeping the first thing wrong.
func oddAuthority(scheme, a string) (host, port string, err error) {
	fail := func(format string, args ...any) {
		if err == nil {
			err = fmt.Errorf("the authority %s "+format, append([]any{showAuthority(a)}, args...)...)
		}
	}
	if a == "" {
		return "", defaultPort(scheme), errors.New("the authority is empty")
	}
	if len(a) > 1024 {
		return "", defaultPort(scheme), errors.New("the authority is longer than 1024 bytes")
	}
	rest := a
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		fail("carries user information")
		rest = rest[i+1:]
	}
	if i := strings.IndexAny(rest, "/\\?#"); i >= 0 {
		fail("contains %s", show(rest[i:i+1]))
		rest = rest[:i]
	}
	if strings.IndexFunc(rest, func(r rune) bool { return r <= ' ' || r == 0x7f }) >= 0 {
		fail("contains a space or control character")
		rest = strings.Map(func(r rune) rune {
			if r <= ' ' || r == 0x7f {
				return -1
			}
			return r
		}, rest)
	}
	if !utf8.ValidString(rest) {
		fail("is not valid UTF-8")
		rest = strings.ToValidUTF8(rest, "")
	}
	if strings.HasPrefix(rest, "[") {
		return bracketed(scheme, rest, fail, &err)
	}
	if strings.Count(rest, ":") > 1 {
		fail("has more than one colon; an IPv6 address stands in brackets")
		if ip, e := netip.ParseAddr(rest); e == nil {
			return ip.Unmap().WithZone("").String(), defaultPort(scheme), err
		}
	}
	host, port = rest, ""
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		host = rest[:i]
		port = readPort(scheme, rest[i+1:], fail)
	} else if port = defaultPort(scheme); port == "" {
		fail("has no port, and the scheme %s has none of its own", show(scheme))
	}
	if strings.IndexByte(host, '%') >= 0 {
		fail("is percent-encoded")
		host = strings.ToValidUTF8(decodeLoose(host), "")
	}
	host = strings.ToLower(host)
	if ascii(host) {
		host = asciiName(host, fail)
	} else {
		name, e := strictIDNA.ToASCII(host)
		if e != nil {
			fail("is not an internationalised name in canonical form")
			name, _ = lenientIDNA.ToASCII(host)
		}
		host = asciiName(strings.ToLower(name), fail)
	}
	if host == "" {
		fail("names no host")
	}
	return host, port, err
}

// asciiName canonicalises a lower-case ASCII host.
func asciiName(host string, fail func(string, ...any)) string {
	if strings.HasSuffix(host, ".") {
		fail("ends in a dot")
		host = strings.TrimRight(host, ".")
	}
	if plainName(host) {
		if strings.Contains(host, "xn--") {
			if _, e := strictIDNA.ToASCII(host); e != nil {
				fail("has an A-label that encodes no valid name")
			}
		}
		return host
	}
	if ip, e := netip.ParseAddr(host); e == nil && ip.Is4() {
		return ip.String()
	}
	if numericLabel(host[strings.LastIndexByte(host, '.')+1:]) && host != "" {
		fail("is an IPv4 address in an unusual spelling, or no address")
		if ip, ok := looseIPv4(host); ok {
			return ip.String()
		}
		return host
	}
	fail("is not a valid host name")
	return host
}

// bracketed reads "[IPv6]" and "[IPv6]:port".
func bracketed(scheme, rest string, fail func(string, ...any), err *error) (host, port string, _ error) {
	end := strings.IndexByte(rest, ']')
	if end < 0 {
		fail("has an opening bracket only")
		end = len(rest)
		rest += "]"
	}
	inner, after := strings.ToLower(rest[1:end]), rest[end+1:]
	switch {
	case after == "":
		if port = defaultPort(scheme); port == "" {
			fail("has no port, and the scheme %s has none of its own", show(scheme))
		}
	case after[0] == ':':
		port = readPort(scheme, after[1:], fail)
	default:
		fail("goes on after the bracket")
		port = defaultPort(scheme)
	}
	ip, e := netip.ParseAddr(inner)
	switch {
	case e != nil:
		fail("holds no IPv6 address in its brackets")
		host, _, _ = Authority("http", strings.Trim(inner, "[]"))
		return host, port, *err
	case ip.Zone() != "":
		fail("names an IPv6 zone")
		ip = ip.WithZone("")
	case ip.Is4():
		fail("holds an IPv4 address in brackets")
	case ip.Is4In6():
		fail("is an IPv4 address mapped into IPv6")
		ip = ip.Unmap()
	}
	return ip.String(), port, *err
}

func readPort(scheme, p string, fail func(string, ...any)) string {
	if plainPort(p) {
		return p
	}
	if p == "" {
		fail("ends in a colon without a port")
		return defaultPort(scheme)
	}
	fail("has a port that is not a decimal number from 1 to 65535 without leading zeros")
	if n, e := strconv.ParseUint(strings.TrimLeft(p, "+0"), 10, 16); e == nil && n > 0 {
		return strconv.FormatUint(n, 10)
	}
	return defaultPort(scheme)
}

// looseIPv4 reads what inet_aton reads: one to four parts, each decimal, octal
// or hexadecimal, the last filling what is left.
func looseIPv4(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var v uint64
	for i, p := range parts {
		if p == "" || strings.ContainsAny(p, "_boBO+-") { // Go's own prefixes
			return netip.Addr{}, false
		}
		n, err := strconv.ParseUint(p, 0, 32)
		if err != nil {
			return netip.Addr{}, false
		}
		if i == len(parts)-1 {
			if n >= 1<<(8*(4-uint(i))) {
				return netip.Addr{}, false
			}
			v = v<<(8*(4-uint(i))) | n
			break
		}
		if n > 255 {
			return netip.Addr{}, false
		}
		v = v<<8 | n
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true
}

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// showAuthority quotes an authority without its user information, which is where
// a password would stand.
func showAuthority(a string) string { return show(a[strings.LastIndexByte(a, '@')+1:]) }

// show quotes a piece of a request for a sentence: ASCII only, no control
// characters, bounded.
func show(s string) string {
	const most = 64
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "..."
	}
	return strconv.QuoteToASCII(s)
}
