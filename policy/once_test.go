package policy

import (
	"slices"
	"testing"
)

func TestReadsOnce(t *testing.T) {
	set, err := Compile([]Source{{"p.yaml", []byte(`
policies:
  - name: p
    version: 1
    tools: ["a.*"]
    rules:
      - { name: scalar, when: 'header["X-Team"] == "a" && query.force == "1"', decision: deny, reason_code: a.b }
      - { name: list, when: '"a" in header["X-Teams"]', decision: allow }
      - { name: there, when: '"X-There" in header && args.amount < 5', decision: allow }
    limits:
      - { name: l, key: [header.X-Tenant], max: 5, window: 1h, decision: deny, reason_code: a.c }
`)}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := set.ReadsOnce("a.b")
	slices.Sort(got)
	if want := []string{"header.X-Team", "header.X-Tenant", "header.X-There", "query.force"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := set.ReadsOnce("b.c"); len(got) > 0 {
		t.Errorf("of another tool: %q", got)
	}
}
