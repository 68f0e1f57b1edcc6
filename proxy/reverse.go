package proxy

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/actpass/sidecar/mapping"
)

// route is a Route, compiled.
type route struct {
	scheme, authority string // of the upstream, as configured
	host, port        string // canonical
	base              string // path put before the request's, without a trailing slash
}

func compileRoutes(routes []Route) (map[string]*route, []string, error) {
	m := make(map[string]*route, len(routes))
	names := make([]string, 0, len(routes))
	for _, r := range routes {
		if !validLabel(r.Name) {
			return nil, nil, fmt.Errorf("routes: name %q: must be a lower-case DNS label, as it stands in NAME.localhost", r.Name)
		}
		if _, dup := m[r.Name]; dup {
			return nil, nil, fmt.Errorf("routes: name %q is there twice", r.Name)
		}
		u := r.Upstream
		if u == nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, nil, fmt.Errorf("routes: %s: upstream must be an http or https URL", r.Name)
		}
		if u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
			return nil, nil, fmt.Errorf("routes: %s: upstream must be scheme, host and path only", r.Name)
		}
		host, port, err := mapping.Authority(u.Scheme, u.Host)
		if err != nil {
			return nil, nil, fmt.Errorf("routes: %s: upstream: %w", r.Name, err)
		}
		m[r.Name] = &route{
			scheme: u.Scheme, authority: hostHeader(u.Scheme, host, port), host: host, port: port,
			base: strings.TrimSuffix(u.EscapedPath(), "/"),
		}
		names = append(names, r.Name)
	}
	slices.Sort(names)
	return m, names, nil
}

func validLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// describeReverse finds the route: NAME.localhost as Host, or /NAME/ at the
// start of the path. A path route is taken under any Host: the sidecar adds no
// credentials, so a page that reaches it by DNS rebinding gains nothing that it
// could not reach directly.
func (x *exchange) describeReverse() bool {
	head := &x.req.Head
	asked, target := head.Host, x.r.RequestURI
	if _, authority, t, ok := splitAbsolute(target); ok {
		if asked != "" && authority != asked {
			x.find(http.StatusMisdirectedRequest, mapping.ClassAuthority, "the request target and the Host header name different places")
		}
		asked, target = authority, t
		if target == "" {
			target = "/"
		}
	}
	if asked != "" {
		// A path route is taken under any host, but no two servers agree on what
		// "a@b", "b:080" or "b." is.
		if _, _, err := mapping.Authority("http", asked); err != nil {
			x.find(http.StatusBadRequest, mapping.ClassAuthority, "the Host header: "+printable(err.Error()))
		}
	}
	var r *route
	if name, ok := localName(asked); ok {
		if r = x.live.routes[name]; r == nil {
			x.noRoute(name + ".localhost")
			return false
		}
	} else {
		if !strings.HasPrefix(target, "/") {
			x.noRoute(target)
			return false
		}
		end := strings.IndexAny(target[1:], "/?#") + 1
		if end == 0 {
			end = len(target)
		}
		name := target[1:end]
		if r = x.live.routes[name]; r == nil {
			x.noRoute("/" + name)
			return false
		}
		if target = target[end:]; !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
	}
	if target != "*" {
		target = r.base + target
	}
	head.Scheme, head.Authority, head.Host, head.Target = r.scheme, r.authority, "", target
	x.host, x.port, x.sendHost = r.host, r.port, r.authority
	return true
}

// localName is NAME of NAME.localhost[:port].
func localName(host string) (string, bool) {
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	return strings.CutSuffix(strings.ToLower(host), ".localhost")
}

func (x *exchange) noRoute(asked string) {
	have := "There are no routes."
	if len(x.live.names) > 0 {
		have = "The routes are: /" + strings.Join(x.live.names, "/, /") + "/."
	}
	x.req.Head.Target = printable(x.r.RequestURI)
	x.reject(http.StatusNotFound, ReasonNoRoute, "No route is named "+printable(asked)+". "+have)
}
