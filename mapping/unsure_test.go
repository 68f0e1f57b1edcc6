package mapping

import "testing"

// What a policy reads of header and query must be there once, and as it is called.
func TestUnsure(t *testing.T) {
	s := mustCompile(t, "rules:\n  - { match: { host: a.example, path: /x }, tool: a.b, risk: low, quirks: [underscore_headers] }\n")
	for _, tt := range []struct {
		name, query string
		header      map[string][]string
		reads       []string
		want        string
		plain       bool
	}{
		{name: "nothing odd", query: "force=1", header: map[string][]string{"X-Team": {"a"}}, reads: []string{"header.X-Team", "query.force"}, plain: true},
		{name: "header twice", header: map[string][]string{"X-Team": {"a", "b"}}, reads: []string{"header.X-Team"}, want: "header/400"},
		{name: "header twice, by another spelling", header: map[string][]string{"X-Team": {"a", "b"}}, reads: []string{"header.x-team"}, want: "header/400"},
		{name: "another header twice", header: map[string][]string{"X-Team": {"a"}, "Via": {"a", "b"}}, reads: []string{"header.X-Team"}},
		{name: "nobody reads it", header: map[string][]string{"X-Team": {"a", "b"}}, reads: []string{"args.amount", "tool"}},
		{name: "underscores", header: map[string][]string{"X_team": {"b"}}, reads: []string{"header.X-Team"}, want: "header/400"},
		{name: "query twice", query: "force=0&force=1", reads: []string{"query.force"}, want: "duplicate/400"},
		{name: "query in another case", query: "Force=1", reads: []string{"query.force"}, want: "duplicate/400"},
		{name: "query with brackets", query: "force[]=1", reads: []string{"query.force"}, want: "duplicate/400"},
		{name: "query with a space", query: "force%20=1", reads: []string{"query.force"}, want: "duplicate/400"},
		{name: "query with a soft hyphen", query: "for%C2%ADce=1", reads: []string{"query.force"}, want: "duplicate/400"},
		{name: "query as PHP reads it", query: "dry.run=1", reads: []string{"query.dry_run"}, want: "duplicate/400"},
		{name: "another query twice", query: "a=0&a=1&force=1", reads: []string{"query.force"}},
		{name: "brackets of another", query: "expand[]=a&expand[]=b&force=1", reads: []string{"query.force"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := Request{Method: "GET", Scheme: "https", Authority: "a.example", Target: "/x?" + tt.query, Header: tt.header}
			m := s.Match(&req)
			if m.PlainNames() != tt.plain {
				t.Errorf("plain: %v", m.PlainNames())
			}
			if got := classes(m.Unsure(tt.reads)); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
