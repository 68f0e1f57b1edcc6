package strictyaml

import (
	"strings"
	"testing"
)

type doc struct {
	At    Pos         `yaml:"-"`
	Name  Val[string] `yaml:"name"`
	Count int         `yaml:"count"`
	Tags  []string    `yaml:"tags"`
	Rules []rule      `yaml:"rules"`
}

type rule struct {
	At   Pos    `yaml:"-"`
	When string `yaml:"when"`
	Opt  *sub   `yaml:"opt"`
	X    any    `yaml:"x"`
}

type sub struct {
	Ratio float64           `yaml:"ratio"`
	On    bool              `yaml:"on"`
	M     map[string]string `yaml:"m"`
}

func TestDecode(t *testing.T) {
	var d doc
	err := Decode("f.yaml", []byte("name: n\ncount: 3\ntags: one\nrules:\n  - when: a\n    opt: {ratio: 1, on: true, m: {a: b}}\n    x: [1, {k: v}]\n  - when: |\n      b\n"), &d)
	if err != nil {
		t.Fatal(err)
	}
	if d.Name.V != "n" || d.Name.Line != 1 || d.Name.Col != 7 || d.Count != 3 || len(d.Tags) != 1 || len(d.Rules) != 2 {
		t.Fatalf("%+v", d)
	}
	if d.Rules[0].At.Line != 5 || d.Rules[1].When != "b\n" || !d.Rules[0].Opt.On || d.Rules[0].Opt.M["a"] != "b" {
		t.Fatalf("%+v", d.Rules)
	}
}

func TestFaults(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"empty", "", "f.yaml:1:1: the file is empty"},
		{"comments only", "# nothing\n", "f.yaml:1:1: the file is empty"},
		{"second document", "name: a\n---\nname: b\n", "a second YAML document"},
		{"unknown key", "nam: a\n", "f.yaml:1:1: unknown key `nam`: did you mean `name`?"},
		{"case matters", "Name: a\n", "unknown key `Name`: did you mean `name`?"},
		{"duplicate", "name: a\nname: b\n", "f.yaml:2:1: duplicate key `name`: it stands on line 1 already"},
		{"duplicate nested", "rules:\n  - when: a\n    when: b\n", "f.yaml:3:5: duplicate key `rules[0].when`"},
		{"number for text", "name: 12\n", "`name` must be text: write it in quotes, \"12\""},
		{"text for number", "count: many\n", "`count` must be a whole number, not the text \"many\""},
		{"list for text", "name: [a]\n", "`name` must be text, not a list"},
		{"mapping for list", "rules: {a: b}\n", "`rules` must be a list, not a mapping"},
		{"no value", "name:\n", "`name` has no value"},
		{"anchor", "name: &a x\n", "anchors, aliases and tags are not used here"},
		{"top list", "- a\n", "must be a mapping, not a list"},
		{"not yaml", "name: [a\n", "not valid YAML"},
		{"bool spelt yes", "rules:\n  - opt: {on: yes}\n", "`rules[0].opt.on` must be true or false, not the text \"yes\""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var d doc
			err := Decode("f.yaml", []byte(tt.in), &d)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	var d doc
	err := Decode("f.yaml", []byte("nam: a\ncount: x\nrules:\n  - wen: a\n  - when: [b]\n"), &d)
	if got := strings.Count(err.Error(), "\n") + 1; got != 4 {
		t.Fatalf("want 4 faults, got %d:\n%v", got, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("name: n\nrules: [{when: a}]\n"))
	f.Add([]byte("a: &x [*x]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var d doc
		_ = Decode("f.yaml", data, &d) // must neither panic nor hang
	})
}

// TestLinesOfWindows: places are those of the file, whatever ends its lines.
func TestLinesOfWindows(t *testing.T) {
	var dst struct {
		A int      `yaml:"a"`
		B Val[int] `yaml:"b"`
	}
	if err := Decode("w.yaml", []byte("# one\r\n\r\na: 1\r\nb: 2\r\n"), &dst); err != nil {
		t.Fatal(err)
	}
	if want := (Pos{File: "w.yaml", Line: 4, Col: 4}); dst.A != 1 || dst.B.V != 2 || dst.B.Pos != want {
		t.Errorf("%+v, want the place %v", dst, want)
	}
}
