package mapping

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/actpass/sidecar/mapping/corpus"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const plainRules = `
rules:
  - match: { host: a.example, methods: [POST], path: /form }
    tool: a.form
    args: form
    require: [{ name: amount, type: integer }]
    optional:
      - { name: currency, type: currency }
      - { name: metadata, type: object }
      - { name: card.number, secret: true }
      - { name: "items.*", type: integer }
      - { name: Mixed, type: boolean }
      - { name: a.b, type: number }
      - { name: secrets.*, secret: true }
    resource: "a:{args.amount}"
`

// bothForms reads s as the ordinary form that plain takes it for, and as form
// does. ok is false where plain takes it for none.
func bothForms(t *testing.T, s *Set, text string) (plain, whole *input, ok bool) {
	t.Helper()
	req := kindRequest("POST", "/form", "application/x-www-form-urlencoded", text)
	read := func(f func(in *input) bool) (*input, bool) {
		m := s.Match(req)
		if m.Rule == nil {
			t.Fatal("not matched")
		}
		in := &input{m: m, rule: m.Rule}
		return in, f(in)
	}
	plain, ok = read(func(in *input) bool { return in.plain(text) })
	whole, _ = read(func(in *input) bool { in.add(in.form(text, ClassBody), true); return true })
	return plain, whole, ok
}

func checkPlain(t *testing.T, s *Set, text string) (ordinary bool) {
	t.Helper()
	plain, whole, ok := bothForms(t, s, text)
	if !ok {
		if len(plain.calls) > 0 || len(plain.amb) > 0 {
			t.Errorf("%q is no ordinary form, and left %+v %+v", text, plain.calls, plain.amb)
		}
		return false
	}
	if d := cmp.Diff(whole.calls, plain.calls, cmpopts.IgnoreUnexported(Call{})); d != "" {
		t.Errorf("%q: %s", text, d)
	}
	if d := cmp.Diff(whole.amb, plain.amb); d != "" {
		t.Errorf("%q: %s", text, d)
	}
	return true
}

// TestPlainForm: what is ordinary, and what is not and must be looked at closely.
func TestPlainForm(t *testing.T) {
	s := mustCompile(t, plainRules)
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "&a%d=%d", i, i)
		}
		return b.String()[1:]
	}
	for text, ordinary := range map[string]bool{
		"amount=4900&currency=usd":        true,
		"amount=4900&":                    true,
		"amount=":                         true,
		"amount=1e3&currency=USD&mixed=1": true, // problems and another spelling of a declared name
		"a=1=2":                           true,
		"note=a+b%20c%c3%a9":              true,
		"metadata[a]=1&metadata[b]=2&expand[]=x&expand[]=y": true,
		"metadata[a]=1&x=1&metadata[b]=2":                   true,
		"amount[]=4900":                                     true,
		"amount[x]=4900":                                    true,
		"card[number]=4242&card[exp]=1":                     true,
		"items[a]=1&items[b]=x":                             true,
		"secrets[a]=1":                                      true,
		"items[]=1&items[]=2":                               true,
		many(maxPlain):                                      true,
		many(maxPlain + 1):                                  false,
		"":                                                  true,
		"&amount=1":                                         false,
		"amount":                                            false,
		"=1":                                                false,
		"amount=1&amount=2":                                 false,
		"amount=1&amount[]=2":                               false,
		"amount[]=2&amount=1":                               false,
		"amount[]=1&amount[a]=2":                            false,
		"a[x]=1&a[x]=2":                                     false,
		"a[0]=1":                                            false,
		"a[-1]=1":                                           false,
		"a[b][c]=1":                                         false,
		"a[b]c=1":                                           false,
		"a[b=1":                                             false,
		"a]b[c]=1":                                          false,
		"[a]=1":                                             false,
		"Amount=1":                                          false,
		"am%6funt=1":                                        false,
		"a.b=1":                                             false,
		"a b=1":                                             false,
		"a+b=1":                                             false,
		"_method=PUT":                                       false,
		"_charset_=utf-7":                                   false,
		"a=1;b=2":                                           false,
		"a=%zz":                                             false,
		"a=%00":                                             false,
		"a=%ff":                                             false,
		"a=\u00e9":                                          false,
		"a=\n":                                              false,
		"a=b c":                                             false,
		"a=%c0%af":                                          false,
	} {
		if got := checkPlain(t, s, text); got != ordinary {
			t.Errorf("%q: ordinary %v, want %v", text, got, ordinary)
		}
	}
}

// FuzzPlainForm holds the reader of ordinary forms to the reader of all.
func FuzzPlainForm(f *testing.F) {
	cases, err := corpus.Load(os.DirFS("testdata"), "corpus")
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		if _, body, err := c.Split(); err == nil && c.Class == "form" && len(body) < 4096 {
			f.Add(string(body))
		}
	}
	_, body := refundForm()
	f.Add(string(body))
	s := mustCompile(f, plainRules)
	f.Fuzz(func(t *testing.T, text string) { checkPlain(t, s, text) })
}
