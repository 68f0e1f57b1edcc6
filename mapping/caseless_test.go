package mapping

import (
	"reflect"
	"strings"
	"testing"
)

const caselessRules = `
name: forge
hosts: [api.forge.example]
caseless: [path.owner, path.repo]
rules:
  - { match: { methods: [DELETE], path: "/repos/{owner}/{repo}" }, tool: forge.repo.delete, risk: critical, args: json,
      resource: "forge:repo:{path.owner}/{path.repo}" }
  - { match: { methods: [POST], path: "/orgs/{org}/repos" }, tool: forge.repo.create, args: json, caseless: [args.name, "args.teams.*"],
      resource: "forge:repo:{path.org}/{args.name}" }
  - { match: { methods: [PUT], path: "/repos/{owner}/{repo}/files/{file...}" }, tool: forge.file.write,
      resource: "forge:repo:{path.owner}/{path.repo}/file:{path.file}" }
  - match: { methods: [POST], path: /graphql }
    tool: forge.unknown
    args: graphql
    caseless: [args.arguments.repo]
    cases:
      - { on: [mutation.deleteRepo], tool: forge.repo.delete, risk: critical, resource: "forge:repo:{args.arguments.repo}" }
`

// What the upstream compares without case is judged in one spelling, and no
// other value is touched.
func TestCaseless(t *testing.T) {
	s := mustCompile(t, caselessRules)
	for _, tt := range []struct {
		name, method, target, body, resource string
		path, args                           map[string]any
	}{
		{
			name: "path", method: "DELETE", target: "/repos/ACME/Prod", resource: "forge:repo:acme/prod",
			path: map[string]any{"owner": "acme", "repo": "prod"}, args: map[string]any{},
		},
		{
			name: "args", method: "POST", target: "/orgs/ACME/repos", body: `{"name":"Prod","teams":["A","b"],"note":"Big"}`, resource: "forge:repo:ACME/prod",
			path: map[string]any{"org": "ACME"}, args: map[string]any{"name": "prod", "teams": []any{"a", "b"}, "note": "Big"},
		},
		{
			name: "the rest of the path", method: "PUT", target: "/repos/Acme/Prod/files/README.md", resource: "forge:repo:acme/prod/file:README.md",
			path: map[string]any{"owner": "acme", "repo": "prod", "file": "README.md"}, args: map[string]any{},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := Request{Method: tt.method, Scheme: "https", Authority: "api.forge.example", Target: tt.target, ContentLength: int64(len(tt.body)), Header: map[string][]string{}}
			if tt.body != "" {
				req.Header["Content-Type"] = []string{"application/json"}
			}
			r := s.Match(&req).Read([]byte(tt.body), true)
			if len(r.Ambiguous) > 0 {
				t.Errorf("ambiguous: %v", r.Ambiguous)
			}
			c := r.Calls[0]
			if c.Resource != tt.resource {
				t.Errorf("resource %q, want %q", c.Resource, tt.resource)
			}
			if !reflect.DeepEqual(c.Path, tt.path) || !reflect.DeepEqual(c.Args, tt.args) {
				t.Errorf("path %v args %v", c.Path, c.Args)
			}
		})
	}
	body := `{"query":"mutation($r: String!){ a: deleteRepo(repo: $r) b: deleteRepo(repo: \"ACME/Prod\") }","variables":{"r":"Acme/PROD"}}`
	req := Request{
		Method: "POST", Scheme: "https", Authority: "api.forge.example", Target: "/graphql", ContentLength: int64(len(body)),
		Header: map[string][]string{"Content-Type": {"application/json"}},
	}
	r := s.Match(&req).Read([]byte(body), true)
	if len(r.Calls) != 2 {
		t.Fatalf("%d calls", len(r.Calls))
	}
	for _, c := range r.Calls {
		if c.Tool != "forge.repo.delete" || c.Resource != "forge:repo:acme%2Fprod" {
			t.Errorf("%s on %s", c.Tool, c.Resource)
		}
	}
}

// A letter that is a plain one only to some comparisons is nobody's spelling.
func TestCaselessLookalike(t *testing.T) {
	s := mustCompile(t, caselessRules)
	for target, want := range map[string]bool{
		"/repos/acme/%E2%84%AAit":    true,  // Kelvin sign
		"/repos/acme/%C5%BFecret":    true,  // long s
		"/repos/acme/%EF%BC%B0rod":   true,  // full-width P
		"/repos/acme/%D0%9F%D1%80od": false, // Cyrillic is another name
	} {
		req := Request{Method: "DELETE", Scheme: "https", Authority: "api.forge.example", Target: target, Header: map[string][]string{}}
		r := s.Match(&req).Read(nil, true)
		if got := len(r.Ambiguous) > 0; got != want {
			t.Errorf("%s: %v", target, r.Ambiguous)
		}
	}
}

// The preflight door names its resource itself.
func TestCaselessResource(t *testing.T) {
	s := mustCompile(t, caselessRules)
	for _, tt := range [][3]string{
		{"forge.repo.delete", "forge:repo:ACME/Prod", "forge:repo:acme/prod"},
		{"forge.file.write", "forge:repo:ACME/Prod/file:Docs/README.md", "forge:repo:acme/prod/file:Docs/README.md"},
		{"forge.repo.create", "forge:repo:ACME/Prod", "forge:repo:ACME/prod"},
		{"forge.repo.delete", "other:ACME", "other:ACME"},
		{"no.such", "forge:repo:ACME/Prod", "forge:repo:ACME/Prod"},
	} {
		if got := s.FoldResource(tt[0], tt[1]); got != tt[2] {
			t.Errorf("%s %s: %s, want %s", tt[0], tt[1], got, tt[2])
		}
	}
	typed, _, _ := s.TypeArgs("forge.repo.create", map[string]any{"name": "PROD", "note": "Big"})
	if !reflect.DeepEqual(typed, map[string]any{"name": "prod", "note": "Big"}) {
		t.Errorf("typed %v", typed)
	}
}

func TestCaselessFaults(t *testing.T) {
	for text, want := range map[string]string{
		"hosts: [a.example]\ncaseless: [path.nobody]\nrules:\n  - { match: { path: /x }, tool: a.b }\n":                  "no rule of the file",
		"hosts: [a.example]\nrules:\n  - { match: { path: '/x/{y}' }, tool: a.b, caseless: [path.z] }\n":                 "the path names no {z}",
		"hosts: [a.example]\nrules:\n  - { match: { path: /x }, tool: a.b, caseless: [args.z] }\n":                       "reads no arguments",
		"hosts: [a.example]\nrules:\n  - { match: { path: /x }, tool: a.b, args: json, caseless: [header.z] }\n":         "write path.x or args.a.b",
		"hosts: [a.example]\nrules:\n  - { match: { path: /x }, tool: a.b, args: json, caseless: [args.a, args.a] }\n":   "stands twice",
		"hosts: [a.example]\nrules:\n  - { match: { path: /x }, tool: a.b, args: json, caseless: ['args.[a]', path] }\n": "write path.x or args.a.b",
	} {
		_, err := Compile([]Source{{"f.yaml", []byte(text)}}, Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
