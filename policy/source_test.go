package policy

import "testing"

func TestSource(t *testing.T) {
	text := "policies:\n  - name: p\n    version: 1\n    tools: [\"a.*\"]\n    rules:\n      - name: one\n        when: args.n > 1\n        decision: allow\n        reason_code: a.b\n\n      - name: two\n        decision: deny\n        reason_code: a.c\n"
	set, err := Compile([]Source{{Name: "p.yaml", Data: []byte(text)}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file string
		line int
		want string
	}{
		{"p.yaml", 6, "      - name: one\n        when: args.n > 1\n        decision: allow\n        reason_code: a.b"},
		{"p.yaml", 11, "      - name: two\n        decision: deny\n        reason_code: a.c"},
		{"p.yaml", 0, ""},
		{"p.yaml", 900, ""},
		{"/etc/passwd", 1, ""},
	} {
		if got, _ := set.Source(c.file, c.line); got != c.want {
			t.Errorf("%s:%d is %q, want %q", c.file, c.line, got, c.want)
		}
	}
	for _, r := range set.Rules() {
		if got, from := set.Source(r.Pos.File, r.Pos.Line); got == "" || from != r.Pos.Line {
			t.Errorf("rule %s has no source", r.Name)
		}
	}
}
