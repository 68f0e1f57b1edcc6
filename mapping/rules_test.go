package mapping

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/strictyaml"
)

func TestRuleFaults(t *testing.T) {
	rule := func(s string) string {
		return "hosts: [a.example]\nrules:\n  - { match: { methods: [POST], path: /a }, tool: a.b, " + s + " }\n"
	}
	path := func(s string) string {
		return "hosts: [a.example]\nrules:\n  - { match: { path: \"" + s + "\" }, tool: a.b }\n"
	}
	host := func(s string) string {
		return "rules:\n  - { match: { host: \"" + s + "\", path: /a }, tool: a.b }\n"
	}
	tests := []struct{ name, in, want string }{
		{"empty", "", "the file is empty"},
		{"no rules", "hosts: [a.example]\n", "f.yaml:1:1: the file has no rules"},
		{"unknown key", rule("tols: x"), "f.yaml:3:56: unknown key `rules[0].tols`: did you mean `tool`?"},
		{"duplicate key", rule("tool: x.y"), "duplicate key `rules[0].tool`"},
		{"wrong type", rule("risk: [a]"), "`rules[0].risk` must be text"},
		{"no tool", "hosts: [a.example]\nrules:\n  - match: { path: /a }\n", "f.yaml:3:5: the rule has no `tool`"},
		{"empty tool", "hosts: [a.example]\nrules:\n  - { match: { path: /a }, tool: \"\" }\n", "the rule has no `tool`"},
		{"bad tool", "hosts: [a.example]\nrules:\n  - { match: { path: /a }, tool: \"a b\" }\n", "a name has letters"},
		{"no match", "hosts: [a.example]\nrules:\n  - tool: a.b\n", "the rule has no `match`"},
		{"no path", "hosts: [a.example]\nrules:\n  - { match: { methods: [GET] }, tool: a.b }\n", "the match has no `path`"},
		{"no host", "rules:\n  - { match: { path: /a }, tool: a.b }\n", "the match names no `host`"},
		{"unknown risk", rule("risk: hihg"), "unknown risk \"hihg\": did you mean `high`?"},
		{"unknown args", rule("args: from"), "unknown args \"from\": did you mean `form`?"},
		{"unknown errors", rule("errors: strip"), "unknown errors \"strip\": did you mean `stripe`?"},
		{"unknown quirk", rule("quirks: [dot_segments]"), "unknown quirk \"dot_segments\""},
		{"quirk of a form", rule("quirks: [query_with_form]"), "belongs to `args: form`"},
		{"unknown type", rule("args: form, require: [{ name: a, type: int }]"), "unknown type \"int\""},
		{"declared without reading", rule("require: [{ name: a, type: integer }]"), "declares arguments and reads none"},
		{"declared twice", rule("args: form, require: [{ name: a }], optional: [{ name: a }]"), "the argument `a` is declared twice"},
		{"bad argument name", rule("args: form, require: [{ name: \"a[b]\" }]"), "is no dotted path"},
		{"enum of a list", rule("args: json, require: [{ name: a, type: array, enum: [x] }]"), "`enum` is for scalar types"},
		{"lower-case method", "hosts: [a.example]\nrules:\n  - { match: { methods: [post], path: /a }, tool: a.b }\n", "write it in upper case"},
		{"method twice", "hosts: [a.example]\nrules:\n  - { match: { methods: [GET, GET], path: /a }, tool: a.b }\n", "stands twice"},
		{"mcp without jsonrpc", rule("mcp: srv"), "`mcp` belongs to `args: jsonrpc`"},
		{"bad mcp", rule("args: jsonrpc, mcp: \"a.b\""), "a server's name has"},
		{"header glob", "hosts: [a.example]\nrules:\n  - { match: { path: /a, headers: { X-A: \"[\" } }, tool: a.b }\n", "the glob \"[\" is not valid"},
		{"header name", "hosts: [a.example]\nrules:\n  - { match: { path: /a, headers: { \"X A\": b } }, tool: a.b }\n", "cannot be matched"},

		{"relative path", path("v1"), "must begin with a slash: write \"/v1\""},
		{"dots in path", path("/a/../b"), "has a dot segment"},
		{"empty segment", path("/a//b"), "has an empty segment"},
		{"bad glob", path("/a/[b"), "has a glob that is not valid"},
		{"name twice", path("/{a}/{a}"), "names the segment {a} twice"},
		{"bad name", path("/{a-b}"), "a name has letters"},
		{"name and glob", path("/{a}*"), "mixes a named segment"},
		{"stars inside", path("/a**"), "has `**` inside a segment"},
		{"three deep", path("/**/a/**/b/**"), "has more than two `**`"},
		{"side by side", path("/**/**"), "side by side"},
		{"open brace", path("/{a"), "unbalanced brace"},
		{"close brace", path("/a}"), "unbalanced brace"},
		{"nested brace", path("/{a,{b,c}}"), "nests braces"},
		{"query in path", path("/a#b"), "must be a decoded path"},
		{"brace bomb", path("/" + strings.Repeat("{a,a}", 24)), "stand for more than 64 alternatives"},
		{"long path", path("/" + strings.Repeat("a", 2000)), "is longer than 1024 bytes"},

		{"bad host", host("a b"), "cannot be used"},
		{"host with scheme", host("https://a.example"), "cannot be used"},
		{"host with two stars", host("**.a.example"), "matches label by label"},
		{"host port", host("*.a.example:0443"), "has a port that is not a number"},
		{"odd IPv4", host("127.1"), "cannot be used"},

		{"template of nothing", rule("resource: \"x:{args.a}\""), "the rule reads no arguments"},
		{"template path", rule("resource: \"x:{path.a}\""), "the path names no {a}"},
		{"template space", rule("resource: \"x:{body.a}\""), "refers to {body.a}"},
		{"template bare", rule("resource: \"x:{args}\""), "refers to {args}"},
		{"template open", rule("resource: \"x:{host\""), "unbalanced brace"},
		{"template secret", rule("resource: \"x:{header.Authorization}\""), "no header that may be shown"},
		{"template closed", rule("args: form, closed: true, resource: \"x:{args.a}\""), "the closed rule does not declare"},
		{"template blank", rule("resource: \"x y\""), "a space or control character"},

		{"duplicate rule", "hosts: [a.example]\nrules:\n  - { match: { path: \"/{x}\" }, tool: a.b }\n  - { match: { path: \"/{y}\" }, tool: a.c }\n", "f.yaml:4:14: this rule is never reached: the rule on line 3"},
		{"shadowed methods", "hosts: [a.example]\nrules:\n  - { match: { path: /a }, tool: a.b }\n  - { match: { methods: [GET], path: /a }, tool: a.c }\n", "never reached"},
		{"anchor", "hosts: &h [a.example]\nrules: []\n", "anchors"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Compile([]Source{{"f.yaml", []byte(tt.in)}}, Options{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestAllRuleFaultsAtOnce(t *testing.T) {
	_, err := Compile([]Source{
		{"a.yaml", []byte("hosts: [a.example]\nrules:\n  - { match: { path: a }, tool: \"a b\", risk: x, args: y }\n  - { match: { path: /b }, tool: b, wat: 1 }\n")},
		{"b.yaml", []byte("rules:\n  - { match: { path: /b }, tool: b }\n")},
	}, Options{})
	faults, ok := err.(strictyaml.Faults)
	if !ok || len(faults) != 6 {
		t.Fatalf("want 6 faults, got %d: %v", len(faults), err)
	}
}

// TestHostileFiles holds the bombs: each is refused fast and in little memory.
func TestHostileFiles(t *testing.T) {
	tests := map[string]string{
		"brackets":     "rules: " + strings.Repeat("[", 100_000),
		"dashes":       "rules:\n  " + strings.Repeat("- ", 100_000) + "a\n",
		"questions":    "rules:\n  " + strings.Repeat("? ", 100_000) + "a\n",
		"host braces":  "rules:\n  - { match: { host: \"" + strings.Repeat("{a,b}", 50) + ".example\", path: /a }, tool: a }\n",
		"nested globs": "hosts: [a]\nrules:\n  - { match: { path: \"/" + strings.Repeat("{a,", 60) + strings.Repeat("}", 60) + "\" }, tool: a }\n",
		"deep stars":   "hosts: [a]\nrules:\n  - { match: { path: \"" + strings.Repeat("/**/a", 100) + "\" }, tool: a }\n",
		"named stars":  "hosts: [a]\nrules:\n  - { match: { path: \"" + strings.Repeat("/{a...}", 100) + "\" }, tool: a }\n",
		"query globs":  "hosts: [a]\nrules:\n  - { match: { path: /a, query: { x: \"" + strings.Repeat("{a,", 60) + strings.Repeat("}", 60) + "\" } }, tool: a }\n",
		"braces":       "rules: " + strings.Repeat("{a: ", 100_000),
		"brace globs":  "hosts: [a]\nrules:\n  - { match: { path: \"/" + strings.Repeat("{a,a}", 100) + "\" }, tool: a }\n",
		"header globs": "hosts: [a]\nrules:\n  - { match: { path: /a, headers: { X: \"" + strings.Repeat("{a,a}", 100) + "\" } }, tool: a }\n",
		"billion":      "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n",
		"indentation":  "rules:\n" + strings.Repeat(" ", 1) + nestedBlocks(300),
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, err := Compile([]Source{{"f.yaml", []byte(text)}}, Options{})
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Fatal("accepted")
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
				t.Errorf("took %d MiB", used>>20)
			}
			if took > 500*time.Millisecond { // 50 ms on a quiet machine
				t.Errorf("took %v", took)
			}
		})
	}
}

func nestedBlocks(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i+1) + "a:\n")
	}
	return b.String()
}

func TestFirstMatchAcrossFiles(t *testing.T) {
	one := "rules:\n  - { match: { host: a.example, path: \"/x/**\" }, tool: one }\n"
	two := "rules:\n  - { match: { host: a.example, path: /x/y }, tool: two }\n  - { match: { host: a.example, path: /z }, tool: two }\n"
	s, err := Compile([]Source{{"1.yaml", []byte(one)}, {"2.yaml", []byte(two)}}, Options{Unmapped: "deny"})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/x/y": "one", "/z": "two", "/x": "", "/": ""} {
		m := s.Match(&Request{Method: "GET", Scheme: "https", Authority: "a.example", Target: path})
		got := ""
		if m.Rule != nil {
			got = m.Rule.Tool
		}
		if got != want || m.UnmappedDenied() != (want == "") {
			t.Errorf("%s: %q, denied %v", path, got, m.UnmappedDenied())
		}
	}
	reversed, err := Compile([]Source{{"2.yaml", []byte(two)}, {"1.yaml", []byte(one)}}, Options{})
	if err != nil || reversed.Hash() == s.Hash() || !strings.HasPrefix(s.Hash(), "sha256:") || len(s.Hash()) != 71 || s.Len() != 3 {
		t.Errorf("%v %s %s", err, reversed.Hash(), s.Hash())
	}
	if _, err := Compile(nil, Options{Unmapped: "allow"}); err == nil {
		t.Error("an unknown way with unmapped traffic was accepted")
	}
	if !(&Match{}).UnmappedDenied() {
		t.Error("the zero match is not denied")
	}
}

func TestMapsHost(t *testing.T) {
	s := mustCompile(t, `
rules:
  - { match: { host: [api.example.com, "other.example.com:8443"], path: /a }, tool: a }
  - { match: { host: "*.wild.com", path: /a }, tool: b }
  - { match: { host: "s3-*.aws.com", path: /a }, tool: c }
  - { match: { host: "[2001:db8::1]", path: /a }, tool: d }
`)
	tests := []struct {
		host, port string
		want       bool
	}{
		{"api.example.com", "443", true},
		{"API.example.com.", "443", true},
		{"api.example.com", "80", true},
		{"api.example.com", "8443", false},
		{"other.example.com", "8443", true},
		{"other.example.com", "443", false},
		{"x.wild.com", "443", true},
		{"x.y.wild.com", "443", false},
		{"wild.com", "443", false},
		{"s3-eu.aws.com", "443", true},
		{"s3.aws.com", "443", false},
		{"2001:db8::1", "443", true},
		{"[2001:db8:0::1]", "443", true},
		{"", "443", false},
	}
	for _, tt := range tests {
		if got := s.MapsHost(tt.host, tt.port); got != tt.want {
			t.Errorf("%s:%s: %v", tt.host, tt.port, got)
		}
	}
}

func TestPacks(t *testing.T) {
	for _, name := range Packs() {
		src, err := Pack(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Compile([]Source{src}, Options{}); err != nil {
			t.Errorf("pack %s: %v", name, err)
		}
	}
	for _, name := range []string{"", "nothing", "../stripe", "README.md"} {
		if _, err := Pack(name); err == nil || !strings.Contains(err.Error(), "the packs are") {
			t.Errorf("pack %q: %v", name, err)
		}
	}
}

// TestManual compiles the example of the manual, so that it stays true.
func TestManual(t *testing.T) {
	data, err := os.ReadFile("catalog/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "```yaml\n")
	example, _, _ := strings.Cut(rest, "```")
	s := mustCompile(t, example)
	if s.Len() != 2 {
		t.Errorf("%d rules", s.Len())
	}
	for name := range kinds {
		if !strings.Contains(string(data), "`"+name+"`") {
			t.Errorf("the kind %s is not in the manual", name)
		}
	}
	for name := range quirks {
		if !strings.Contains(string(data), "`"+name+"`") {
			t.Errorf("the quirk %s is not in the manual", name)
		}
	}
	for _, name := range argTypes {
		if !strings.Contains(string(data), "`"+name+"`") {
			t.Errorf("the type %s is not in the manual", name)
		}
	}
}

// TestUnderscoreHeaders: a rule may say that its upstream has such headers, but
// not for a name that is looked at, or that stands beside its twin.
func TestUnderscoreHeaders(t *testing.T) {
	s := mustCompile(t, "rules:\n  - { match: { host: a.example, path: /plain }, tool: a.plain }\n  - { match: { host: a.example, path: /quirk }, tool: a.quirk, quirks: [underscore_headers] }\n")
	for _, c := range []struct {
		path   string
		header map[string][]string
		want   int
	}{
		{"/plain", map[string][]string{"Client_id": {"x"}}, 1},
		{"/quirk", map[string][]string{"Client_id": {"x"}}, 0},
		{"/unmapped", map[string][]string{"Client_id": {"x"}}, 0},
		{"/quirk", map[string][]string{"Client_id": {"x"}, "Client-Id": {"y"}}, 1},
		{"/unmapped", map[string][]string{"X_amz_target": {"x"}}, 1},
	} {
		m := s.Match(&Request{Method: "GET", Scheme: "https", Authority: "a.example", Target: c.path, Header: c.header})
		if len(m.Ambiguous) != c.want {
			t.Errorf("%s %v: %+v, want %d", c.path, c.header, m.Ambiguous, c.want)
		}
	}
}
