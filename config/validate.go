package config

import (
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/strictyaml"
)

var routeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// validate checks the settings against each other. It reports everything.
func (c *Config) validate(file string, faults *strictyaml.Faults) {
	at := func(path string) strictyaml.Pos { return c.at(file, path) }
	oneOf := func(path, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			faults.Addf(at(path), "`%s` must be one of %s, not %q%s", path, strings.Join(allowed, ", "), value, did(value, allowed))
		}
	}
	modes := []string{"monitor", "warn", "enforce", "strict"}
	oneOf("mode", c.Mode, modes...)
	for i, o := range c.ModeOverrides {
		p := "mode_overrides[" + strconv.Itoa(i) + "]"
		oneOf(p+".mode", o.Mode, modes...)
		if o.Tool == "" && o.Agent == "" {
			faults.Addf(at(p), "`%s` names neither tool nor agent: set `mode` instead", p)
		}
		if slices.Index(modes, o.Mode) >= 0 && slices.Index(modes, o.Mode) < slices.Index(modes, c.Mode) {
			faults.Addf(at(p+".mode"), "`%s.mode` %s is looser than `mode` %s: an override can only tighten", p, o.Mode, c.Mode)
		}
	}
	c.validateListen(at, faults)
	oneOf("intercept.scope", c.Intercept.Scope, "all", "mapped")
	for i, h := range c.Intercept.Passthrough {
		if strings.TrimSpace(h) == "" || strings.ContainsAny(h, " /@") {
			faults.Addf(at("intercept.passthrough["+strconv.Itoa(i)+"]"), "%q is not a host pattern: write for example pinned.example.com or *.example.com:8443", h)
		}
	}
	c.validateUpstream(at, faults)
	seen := map[string]bool{}
	for i, r := range c.Routes {
		p := "routes[" + strconv.Itoa(i) + "]"
		if !routeName.MatchString(r.Name) {
			faults.Addf(at(p+".name"), "`%s.name` %q must be a lower-case DNS label, such as stripe", p, r.Name)
		}
		if seen[r.Name] {
			faults.Addf(at(p+".name"), "`%s.name` %q is used twice", p, r.Name)
		}
		seen[r.Name] = true
		u, err := url.Parse(r.Upstream)
		switch {
		case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
			faults.Addf(at(p+".upstream"), "`%s.upstream` %q must be a URL such as https://api.stripe.com", p, r.Upstream)
		case u.User != nil || u.RawQuery != "" || u.Fragment != "":
			faults.Addf(at(p+".upstream"), "`%s.upstream` must not have user, query or fragment", p)
		default:
			if _, _, err := mapping.Authority(u.Scheme, u.Host); err != nil {
				faults.Addf(at(p+".upstream"), "`%s.upstream`: %v", p, err)
			}
		}
	}
	for i, name := range c.Mapping.Packs {
		if _, err := mapping.Pack(name); err != nil {
			faults.Addf(at("mapping.packs["+strconv.Itoa(i)+"]"), "%v", err)
		}
	}
	oneOf("mapping.unmapped", c.Mapping.Unmapped, "generic", "deny")
	oneOf("policy.default", c.Policy.Default, "deny", "require_approval", "allow")
	oneOf("store.driver", c.Store.Driver, "sqlite", "postgres")
	oneOf("store.evidence", c.Store.Evidence, "shared", "local")
	c.validateStore(at, faults)
	oneOf("evidence.durability", c.Evidence.Durability, "sync", "async")
	c.validateNotify(at, faults)
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", c.Log.Format, "json", "console")
	if c.Identity.TenantID == "" || len(c.Identity.TenantID) > 128 {
		faults.Addf(at("identity.tenant_id"), "`identity.tenant_id` must have 1 to 128 characters")
	}
	if c.Identity.AgentID == "" || len(c.Identity.AgentID) > 128 {
		faults.Addf(at("identity.agent_id"), "`identity.agent_id` must have 1 to 128 characters")
	}
	c.validateServiceAccount(at, faults)
	if (c.CA.CertFile == "") != (c.CA.KeyFile == "") {
		faults.Addf(at("ca"), "`ca.cert_file` and `ca.key_file` go together: give both, or none to have a CA made in data_dir")
	}
	for _, v := range []struct{ path, value string }{{"passport.issuer", c.Passport.Issuer}, {"passport.audience", c.Passport.Audience}} {
		if v.value == "" || len(v.value) > 256 || strings.IndexFunc(v.value, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0 {
			faults.Addf(at(v.path), "`%s` must have 1 to 256 visible ASCII characters, such as actpass or https://actpass.example.com", v.path)
		}
	}
	if c.DataDir == "" {
		faults.Addf(at("data_dir"), "`data_dir` must name a directory")
	}
	if c.Limits.MaxInspectBytes < 1<<10 || c.Limits.MaxInspectBytes > 1<<30 {
		faults.Addf(at("limits.max_inspect_bytes"), "`limits.max_inspect_bytes` must be between 1KiB and 1GiB")
	}
	if d := c.Limits.Hold.D(); d < 100*time.Millisecond || d > time.Hour {
		faults.Addf(at("limits.hold"), "`limits.hold` must be between 100ms and 1h")
	}
	if c.Limits.MaxHolds < 1 || c.Limits.MaxHolds > 1_000_000 {
		faults.Addf(at("limits.max_holds"), "`limits.max_holds` must be between 1 and 1000000")
	}
	if c.Limits.MaxHoldsPerAgent < 1 || c.Limits.MaxHoldsPerAgent > 1_000_000 {
		faults.Addf(at("limits.max_holds_per_agent"), "`limits.max_holds_per_agent` must be between 1 and 1000000")
	}
	if c.Limits.APIRate < 0 || c.Limits.APIRate > 1_000_000 {
		faults.Addf(at("limits.api_rate"), "`limits.api_rate` must be between 0 (no bound) and 1000000")
	}
}

// at is where a setting stands, or the nearest one around it.
func (c *Config) at(file, path string) strictyaml.Pos {
	for p := path; ; {
		if pos, ok := c.places[p]; ok {
			return pos
		}
		i := strings.LastIndexAny(p, ".[")
		if i < 0 {
			return strictyaml.Pos{File: file, Line: 1, Col: 1}
		}
		p = p[:i]
	}
}

func (c *Config) validateServiceAccount(at func(string) strictyaml.Pos, faults *strictyaml.Faults) {
	const p = "identity.service_account."
	a := c.Identity.ServiceAccount
	if a.TokenFile == "" {
		for name, value := range map[string]string{"issuer": a.Issuer, "jwks_file": a.JWKSFile, "jwks_url": a.JWKSURL, "ca_file": a.CAFile, "bearer_file": a.BearerFile} {
			if value != "" {
				faults.Addf(at(p+name), "`%s%s` is of no use without `%stoken_file`", p, name, p)
			}
		}
		return
	}
	if a.Issuer == "" {
		faults.Addf(at(p+"token_file"), "`%sissuer`: name the issuer that the token must have, such as https://kubernetes.default.svc.cluster.local", p)
	}
	if a.Audience == "" {
		faults.Addf(at(p+"audience"), "`%saudience` must name the audience that the token is for", p)
	}
	switch u, err := url.Parse(a.JWKSURL); {
	case (a.JWKSFile == "") == (a.JWKSURL == ""):
		faults.Addf(at(p+"token_file"), "give one of `%sjwks_file` and `%sjwks_url`: the keys that the issuer signs with", p, p)
	case a.JWKSURL != "" && (err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil):
		faults.Addf(at(p+"jwks_url"), "`%sjwks_url` %q must be an https URL, such as https://kubernetes.default.svc/openid/v1/jwks", p, a.JWKSURL)
	case a.JWKSURL == "" && (a.CAFile != "" || a.BearerFile != ""):
		faults.Addf(at(p+"jwks_file"), "`%sca_file` and `%sbearer_file` are for `%sjwks_url`", p, p, p)
	}
}

func did(value string, allowed []string) string {
	if hint := strictyaml.Suggest(value, allowed); strings.Contains(hint, "did you mean") {
		return hint
	}
	return ""
}

// Off says that a door is closed.
func Off(address string) bool { return address == "" || address == "off" }

func (c *Config) validateListen(at func(string) strictyaml.Pos, faults *strictyaml.Faults) {
	used := map[string]string{}
	for _, l := range []struct{ path, address string }{
		{"listen.proxy", c.Listen.Proxy}, {"listen.reverse", c.Listen.Reverse}, {"listen.api", c.Listen.API}, {"listen.transparent", c.Listen.Transparent},
	} {
		if Off(l.address) {
			continue
		}
		host, port, err := net.SplitHostPort(l.address)
		n, perr := strconv.Atoi(port)
		if err != nil || perr != nil || n < 0 || n > 65535 {
			faults.Addf(at(l.path), "`%s` %q must be host:port, such as 127.0.0.1:8080, or off", l.path, l.address)
			continue
		}
		if n == 0 {
			continue // any free port
		}
		key := net.JoinHostPort(host, port)
		if other := used[key]; other != "" {
			faults.Addf(at(l.path), "`%s` and `%s` are the same address %s", l.path, other, key)
		}
		used[key] = l.path
	}
	if Off(c.Listen.Proxy) && Off(c.Listen.Reverse) && Off(c.Listen.API) && Off(c.Listen.Transparent) {
		faults.Addf(at("listen"), "every door is off: nothing would listen")
	}
}

func (c *Config) validateUpstream(at func(string) strictyaml.Pos, faults *strictyaml.Faults) {
	for i, s := range c.Upstream.AllowPrivate {
		if _, err := parsePrefix(s); err != nil {
			faults.Addf(at("upstream.allow_private["+strconv.Itoa(i)+"]"), "%v", err)
		}
	}
	for i, ct := range c.Upstream.ConnectTo {
		p := "upstream.connect_to[" + strconv.Itoa(i) + "]"
		if _, _, err := mapping.Authority("https", ct.Host); err != nil || ct.Host == "" || strings.Contains(ct.Host, ":") && !strings.HasPrefix(ct.Host, "[") {
			faults.Addf(at(p+".host"), "`%s.host` %q must be a host name without port", p, ct.Host)
		}
		if ct.Port < 1 || ct.Port > 65535 {
			faults.Addf(at(p+".port"), "`%s.port` must be between 1 and 65535: the port that the agent uses, such as 443", p)
		}
		host, port, err := net.SplitHostPort(ct.Address)
		if n, perr := strconv.Atoi(port); err != nil || host == "" || perr != nil || n < 1 || n > 65535 {
			faults.Addf(at(p+".address"), "`%s.address` %q must be host:port, such as 127.0.0.1:12112", p, ct.Address)
		}
	}
	if c.Upstream.Mark < 0 || c.Upstream.Mark > 1<<31-1 {
		faults.Addf(at("upstream.mark"), "`upstream.mark` must be between 0 and 2147483647")
	}
	if c.Upstream.CAFile != "" {
		if _, err := os.Stat(c.Path(c.Upstream.CAFile)); err != nil {
			faults.Addf(at("upstream.ca_file"), "`upstream.ca_file`: %v", err)
		}
	}
}
