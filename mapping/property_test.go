package mapping

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestIndexIsLinearScan compares the index with the plainest reading of "first
// match wins": each rule in turn, its path as a regular expression.
func TestIndexIsLinearScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seg := rapid.SampledFrom([]string{"a", "b", "ab", "*", "{x}", "a*", "?b", "**", "{a,b}", "{x}:go"})
		type rule struct {
			host, method, path string
			re                 *regexp.Regexp
		}
		var rules []rule
		var text strings.Builder
		text.WriteString("rules:\n")
		seen := map[string]bool{}
		for i := range rapid.IntRange(1, 12).Draw(t, "rules") {
			segs := rapid.SliceOfN(seg, 1, 4).Draw(t, "segments")
			r := rule{
				host:   rapid.SampledFrom([]string{"a.com", "b.com", "*.com", "x-*.com"}).Draw(t, "host"),
				method: rapid.SampledFrom([]string{"GET", "POST"}).Draw(t, "method"),
			}
			named := 0
			for j, s := range segs { // each name once a path
				if strings.Contains(s, "{x}") {
					segs[j] = strings.Replace(s, "{x}", fmt.Sprintf("{x%d}", named), 1)
					named++
				}
			}
			r.path = "/" + strings.Join(segs, "/")
			if _, err := compilePath(r.path); err != nil {
				continue // side by side or too many **
			}
			key := r.host + r.method + regexp.MustCompile(`\{x\d\}`).ReplaceAllString(r.path, "*")
			if seen[key] {
				continue
			}
			seen[key] = true
			r.re = pathRegexp(r.path)
			fmt.Fprintf(&text, "  - { match: { host: %q, methods: [%s], path: %q }, tool: t%d }\n", r.host, r.method, r.path, i)
			rules = append(rules, r)
		}
		if len(rules) == 0 {
			return
		}
		s, err := Compile([]Source{{"r.yaml", []byte(text.String())}}, Options{})
		if err != nil {
			if strings.Contains(err.Error(), "never reached") {
				return // {a,b} over a and b
			}
			t.Fatal(err)
		}
		host := rapid.SampledFrom([]string{"a.com", "b.com", "c.com", "x-1.com", "a.b.com"}).Draw(t, "request host")
		method := rapid.SampledFrom([]string{"GET", "POST", "PUT"}).Draw(t, "request method")
		path := "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "ab", "cb", "c:go", "d"}), 1, 5).Draw(t, "request path"), "/")
		want := -1
		for i, r := range rules {
			if hostRegexp(r.host).MatchString(host) && r.method == method && r.re.MatchString(path) {
				want = i
				break
			}
		}
		m := s.Match(&Request{Method: method, Scheme: "https", Authority: host, Target: path})
		got := -1
		if m.Rule != nil {
			got = m.Rule.order
		}
		if got != want {
			t.Fatalf("%s %s%s: rule %d, want %d of\n%s", method, host, path, got, want, text.String())
		}
	})
}

func hostRegexp(p string) *regexp.Regexp {
	return regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(p), `\*`, `[^.]*`) + "$")
}

func pathRegexp(p string) *regexp.Regexp {
	segs := strings.Split(p[1:], "/")
	re := "^"
	for i, s := range segs {
		switch {
		case s == "**" && i == len(segs)-1 && i == 0:
			re += "/.*"
		case s == "**" && i == len(segs)-1:
			re += "(/[^/]+)+/?"
		case s == "**":
			re += "(/[^/]+)*"
		case s == "{a,b}":
			re += "/(a|b)"
		case s == "*":
			re += "/[^/]+"
		default:
			s = regexp.MustCompile(`\{x\d\}`).ReplaceAllString(s, "\x00")
			s = regexp.QuoteMeta(s)
			s = strings.NewReplacer("\x00", "[^/]+", `\*`, "[^/]*", `\?`, "[^/]").Replace(s)
			re += "/" + s
		}
	}
	return regexp.MustCompile(re + "$")
}

// checkForm holds what must be true of every form: what is read without an
// ambiguity is what net/url reads too.
func checkForm(t interface{ Fatalf(string, ...any) }, body string) {
	in := input{m: &Match{req: &Request{}}, rule: &Rule{kind: kinds["form"]}}
	args := in.form(body, ClassBody)
	if len(in.amb) > 0 {
		return
	}
	want, err := url.ParseQuery(body)
	if err != nil {
		t.Fatalf("%q is read without an ambiguity, and net/url says %v", body, err)
	}
	got := url.Values{}
	flatten(got, "", args)
	// Lists by index and by [] flatten alike; compare the values below each root.
	if g, w := rooted(got), rooted(want); g != w {
		t.Fatalf("%q: read as %s, net/url reads %s", body, g, w)
	}
}

func flatten(out url.Values, path string, v any) {
	switch x := v.(type) {
	case string:
		out.Add(path, x)
	case map[string]any:
		for k, e := range x {
			if path == "" {
				flatten(out, k, e)
			} else {
				flatten(out, path+"["+k+"]", e)
			}
		}
	case []any:
		for _, e := range x {
			flatten(out, path+"[]", e)
		}
	case indexedList:
		for i, e := range x {
			flatten(out, fmt.Sprintf("%s[%d]", path, i), e)
		}
	default:
		out.Add(path, fmt.Sprintf("%T", v))
	}
}

func rooted(v url.Values) string {
	var lines []string
	for k, values := range v {
		for _, e := range values {
			lines = append(lines, fmt.Sprintf("%q=%q", k, e))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

func TestFormIsParseQuery(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOf(rapid.SampledFrom([]string{"a", "b", "amount", "=", "=", "&", "&", "[", "]", "[]", "[0]", "[1]", "[x]", "%5B", "%5D", "%61", "+", ";", "%", "%zz", "5", "\xff", "%00", "é"})).Draw(t, "parts")
		checkForm(t, strings.Join(parts, ""))
	})
}

// TestNeverSofter says of any spelling of the path to refunds: it is refused as
// ambiguous, or it names the refund, or it is no spelling of it for a server that
// takes the path as it stands.
func TestNeverSofter(t *testing.T) {
	s := mustCompile(t, stripeRules)
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOf(rapid.SampledFrom([]string{"/", "v1", "refunds", "/", "..", ".", "%2e", "%2F", "%5c", "\\", ";x", "%00", "charges", "V1", "REFUNDS", "%72", "%25", "2e", "#"})).Draw(t, "parts")
		target := "/" + strings.Join(parts, "")
		m := s.Match(&Request{Method: "POST", Scheme: "https", Authority: "api.stripe.com", Target: target})
		if len(m.Ambiguous) > 0 {
			return
		}
		plain := strings.ToLower(strings.TrimSuffix(target, "/"))
		if plain == "/v1/refunds" && (m.Rule == nil || m.Rule.Tool != "stripe.refund.create") {
			t.Fatalf("%q is read as %+v", target, m.Rule)
		}
		if strings.ContainsAny(target, "\\;#") || strings.Contains(target, "//") || strings.Contains(strings.ReplaceAll(target, "%25", ""), "%") || strings.Contains(target+"/", "/../") {
			t.Fatalf("%q is not ambiguous", target)
		}
	})
}

func FuzzAuthority(f *testing.F) {
	for _, s := range []string{"a.example", "a.example:443", "[::1]:80", "A.EXAMPLE.", "0x7f.1", "b\u00fccher.example", "a@b:1", "[fe80::1%25eth0]", "xn--a", "1.2.3.4:0443", "\u00fc.", ":", "[", "%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, port, err := Authority("https", s)
		if err != nil {
			return
		}
		again := host
		if strings.Contains(host, ":") {
			again = "[" + host + "]"
		}
		h, p, err := Authority("https", again+":"+port)
		if err != nil || h != host || p != port {
			t.Fatalf("%q is %q %q, and that is %q %q %v", s, host, port, h, p, err)
		}
		if host == "" || host != strings.ToLower(host) || !ascii(host) || strings.ContainsAny(host, "/@\\% []") || !plainPort(port) {
			t.Fatalf("%q: %q %q", s, host, port)
		}
		if u, err := url.Parse("https://" + s + "/"); err != nil {
			return // net/url refuses more than we do in names it does not know
		} else if ascii(s) && strings.ToLower(u.Hostname()) != host && !strings.Contains(host, ":") {
			t.Fatalf("%q: %q, and net/url says %q", s, host, u.Hostname())
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/v1/refunds", "/v1/../x", "/%2e%2e/", "//", "*", "/a;b", "/%c0%ae", "/v1/charges/ch_1?x=1", "/v1%2frefunds", "/V1/REFUNDS/"} {
		f.Add(s)
	}
	s := mustCompile(f, stripeRules)
	f.Fuzz(func(t *testing.T, target string) {
		m := s.Match(&Request{Method: "POST", Scheme: "https", Authority: "api.stripe.com", Target: target})
		r := m.Read(nil, true)
		if len(r.Calls) == 0 || r.Calls[0].Tool == "" || r.Calls[0].Resource == "" {
			t.Fatalf("%q: %+v", target, r)
		}
		if strings.IndexFunc(r.Calls[0].Resource, func(c rune) bool { return c <= ' ' || c == 0x7f }) >= 0 {
			t.Fatalf("%q: the resource %q", target, r.Calls[0].Resource)
		}
		if len(m.Ambiguous) > 0 || target == "*" {
			return
		}
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Fatalf("%q is not ambiguous, and net/url says %v", target, err)
		}
		if u.Path != m.Path {
			t.Fatalf("%q: the path %q, and net/url says %q", target, m.Path, u.Path)
		}
	})
}

func FuzzForm(f *testing.F) {
	for _, s := range []string{"a=1&b[c]=2", "a[]=1&a[]=2", "a[0][b]=1", "a%5Bb%5D=1", "a=1&a=2", "a;b", "%", "a[=1", "&&a=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) { checkForm(t, body) })
}

func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a":1}`, `[1,2]`, `{"a":1e400}`, `{"a":{"b":[null,true,"x"]}}`, `{"a":1}{}`, `{"a":1,"a":2}`, "\"\\ud800\"", `9223372036854775808`} {
		f.Add([]byte(s))
	}
	s := mustCompile(f, kindRules)
	f.Fuzz(func(t *testing.T, body []byte) {
		r := readAs(s, kindRequest("POST", "/json", "application/json", string(body)), string(body))
		if len(r.Ambiguous) > 0 || len(body) == 0 || len(r.Calls[0].Problems) > 0 {
			return
		}
		var std any
		if err := json.Unmarshal(body, &std); err != nil {
			t.Fatalf("%q is read without an ambiguity, and encoding/json says %v", body, err)
		}
		if m, ok := std.(map[string]any); ok && len(m) != len(r.Calls[0].Args) {
			t.Fatalf("%q: %v, and encoding/json reads %v", body, r.Calls[0].Args, m)
		}
	})
}

func FuzzRules(f *testing.F) {
	f.Add([]byte(stripeRules))
	f.Add([]byte(kindRules))
	f.Add([]byte("hosts: ['*.a']\nrules: [{match: {path: '/{a,b}/**'}, tool: x, resource: ['{host}', 'a:{header.X}']}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Compile([]Source{{"f.yaml", data}}, Options{})
		if err != nil {
			return
		}
		for _, host := range []string{"api.stripe.com", "x.a"} {
			r := s.Match(&Request{Method: "POST", Scheme: "https", Authority: host, Target: "/a/v1/refunds"}).Read([]byte("a=1"), true)
			if len(r.Calls) == 0 || r.Calls[0].Tool == "" {
				t.Fatalf("%q: %+v", data, r)
			}
		}
	})
}

func FuzzMultipart(f *testing.F) {
	f.Add([]byte("--B\r\nContent-Disposition: form-data; name=\"n\"\r\n\r\n5\r\n--B--\r\n"))
	s := mustCompile(f, kindRules)
	f.Fuzz(func(t *testing.T, body []byte) {
		readAs(s, kindRequest("POST", "/up", "multipart/form-data; boundary=B", string(body)), string(body))
	})
}
