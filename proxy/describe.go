package proxy

import (
	"net/http"
	"strings"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
)

// describe fills the gate's request. It answers false when it has refused.
func (x *exchange) describe(h head) bool {
	r := x.r
	if r.Header["Pragma"] != nil && x.conn.lint != nil && !h.hasCacheControl {
		delete(r.Header, "Cache-Control") // net/http made it up (RFC 7234 section 5.4)
	}
	claims, found := stripRequest(r.Header)
	x.closing = x.closing || len(found) > 0
	x.req = &gate.Request{
		Door: x.conn.door, UserID: claims.user, Goal: claims.goal, Passport: claims.passport,
		Identity: x.s.gate.ConfigIdentity(),
		Head: mapping.Request{
			Method: r.Method, Host: h.host, Header: r.Header,
			ContentLength: r.ContentLength, Upgrade: claims.upgrade,
		},
		Findings: append(append(h.findings, x.conn.findings...), found...),
	}
	if x.conn.lint == nil {
		x.req.Head.Host = r.Host
		if hosts := r.Header["Host"]; hosts != nil {
			if len(hosts) != 1 || hosts[0] != r.Host {
				x.find(http.StatusMisdirectedRequest, mapping.ClassAuthority, "the request has both :authority and another Host")
			}
			delete(r.Header, "Host")
		}
	}
	if claims.upgrade != "" && r.ContentLength != 0 {
		x.req.Head.Upgrade = "" // lint has noted it
	}
	if x.conn.dialled.IsValid() {
		x.req.Dialled = x.conn.dialled.String()
	}
	if !x.identify(claims.proxyAuth) {
		return false
	}
	ok := false
	switch x.conn.door {
	case gate.DoorForward:
		ok = x.describeForward()
	case gate.DoorConnect:
		ok = x.describeInside()
	case gate.DoorReverse:
		ok = x.describeReverse()
	case gate.DoorTransparent:
		ok = x.describeTransparent()
	}
	if !ok {
		if x.status == 0 {
			x.reject(http.StatusBadRequest, ReasonMalformed, "The request cannot be read.")
		}
		return false
	}
	if t := x.req.Head.Target; t == "" || t[0] != '/' && (t != "*" || r.Method != http.MethodOptions) || unsendable(t) {
		x.reject(http.StatusBadRequest, ReasonMalformed, "The request target cannot be sent as it came.")
		return false
	}
	if r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 {
		x.body = &body{src: r.Body, length: r.ContentLength, control: http.NewResponseController(x.w), lint: x.conn.lint}
		x.req.Body = x.body
	}
	return true
}

// describeForward reads an absolute-form request (RFC 9112 section 3.2.2).
func (x *exchange) describeForward() bool {
	scheme, authority, target, ok := splitAbsolute(x.r.RequestURI)
	if !ok {
		x.reject(http.StatusBadRequest, ReasonNotForProxy,
			"This is a forward proxy: it takes absolute http:// and https:// URLs and CONNECT. The reverse door is another address.")
		return false
	}
	if target == "" {
		target = "/"
		if x.r.Method == http.MethodOptions {
			target = "*" // RFC 9112 section 3.2.4
		}
	}
	return x.address(scheme, authority, target)
}

// absolute reads a target that names its authority, where one is known already. A
// server must take it (RFC 9112 section 3.2.2), and then the target's authority is
// the one that counts.
func (x *exchange) absolute() {
	scheme, authority, target, ok := splitAbsolute(x.r.RequestURI)
	if !ok {
		return
	}
	if target == "" {
		target = "/"
	}
	head := &x.req.Head
	if scheme != head.Scheme || authority != head.Host && head.Host != "" {
		x.find(http.StatusMisdirectedRequest, mapping.ClassAuthority, "the request target and the Host header name different places")
	}
	head.Host, head.Target = authority, target
}

// describeInside reads a request inside a CONNECT.
func (x *exchange) describeInside() bool {
	head := &x.req.Head
	head.Scheme, head.Authority, head.Target = x.conn.scheme, x.conn.authority, x.r.RequestURI
	x.host, x.port = x.conn.host, x.conn.port
	x.absolute()
	x.sendHost = head.Host
	if x.sendHost == "" {
		x.sendHost = hostHeader(head.Scheme, x.host, x.port)
	}
	return true
}

// address sets where an absolute-form request goes.
func (x *exchange) address(scheme, authority, target string) bool {
	head := &x.req.Head
	head.Scheme, head.Authority, head.Target = scheme, authority, target
	host, port, err := mapping.Authority(scheme, authority)
	if host == "" || port == "" {
		detail := "The request names no host."
		if err != nil {
			detail = "The request names no usable host: " + printable(err.Error()) + "."
		}
		x.reject(http.StatusBadRequest, ReasonMalformed, detail)
		return false
	}
	x.host, x.port = host, port
	// RFC 9112 section 3.2.2: the target's authority replaces the Host header. As
	// the client spelt it, where the two agree.
	x.sendHost = authority[strings.LastIndexByte(authority, '@')+1:]
	if err != nil {
		x.sendHost = hostHeader(scheme, host, port)
	}
	return true
}

// splitAbsolute takes an absolute-form target apart without decoding anything.
func splitAbsolute(uri string) (scheme, authority, target string, ok bool) {
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return "", "", "", false
	}
	scheme = strings.ToLower(scheme)
	if scheme != "http" && scheme != "https" {
		return "", "", "", false
	}
	i := strings.IndexAny(rest, "/?#")
	if i < 0 {
		return scheme, rest, "", true
	}
	authority, target = rest[:i], rest[i:]
	if target[0] != '/' {
		target = "/" + target
	}
	return scheme, authority, target, true
}

// withoutUser cuts the user information, and with it a password, off an
// authority or a target that begins with one. A path keeps its @.
func withoutUser(s string) string {
	if s != "" && s[0] == '/' {
		return s
	}
	end := len(s)
	start := strings.Index(s, "://") + 1
	if start > 0 {
		start += 2
		if i := strings.IndexByte(s[start:], '/'); i >= 0 {
			end = start + i
		}
	}
	if i := strings.LastIndexByte(s[start:end], '@'); i >= 0 {
		return s[:start] + s[start+i+1:]
	}
	return s
}

// unsendable says whether a target would not survive a request line.
func unsendable(target string) bool {
	for i := range len(target) {
		if target[i] <= ' ' || target[i] == 0x7f {
			return true
		}
	}
	return false
}

// hostHeader is the Host header for a canonical host and port.
func hostHeader(scheme, host, port string) string {
	if strings.IndexByte(host, ':') >= 0 {
		host = "[" + host + "]"
	}
	if scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		return host
	}
	return host + ":" + port
}
