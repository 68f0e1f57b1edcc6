package mapping

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Names and numbers that real servers were seen to read as others: see
// e2e/origins.
func TestReadersDiffer(t *testing.T) {
	const rules = `rules:
  - { match: { host: f.example.com, path: /x }, tool: t.form, args: form, optional: [{ name: max_amount, type: integer }] }
  - { match: { host: j.example.com, path: /x }, tool: t.json, args: json, optional: [{ name: customer }, { name: kind }] }
  - { match: { host: m.example.com, path: /x }, tool: t.multipart, args: multipart }
`
	const form, jsonType, parts = "application/x-www-form-urlencoded", "application/json", "multipart/form-data; boundary=b"
	part := func(disposition, content string) string {
		return "--b\r\nContent-Disposition: form-data; " + disposition + "\r\n\r\n" + content + "\r\n"
	}
	file := func(name string, bytes int64, sum string) map[string]any {
		return map[string]any{"filename": name, "content_type": "", "bytes": bytes, "sha256": sum}
	}
	const sumX = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
	for _, c := range []struct {
		name, host, contentType, body string
		class                         string         // "": it is plain
		args                          map[string]any // of what is plain
	}{
		{"a full stop for an underscore", "f", form, "max.amount=5", ClassDuplicate, nil},
		{"a space for an underscore", "f", form, "max+amount=5", ClassDuplicate, nil},
		{"a full stop escaped", "f", form, "max%2Eamount=5", ClassDuplicate, nil},
		{"two that are one", "f", form, "a.b=1&a_b=2", ClassDuplicate, nil},
		{"a full stop alone", "f", form, "a.b=1&c=2", "", map[string]any{"a.b": "1", "c": "2"}},
		{"a full stop in a value", "f", form, "max_amount=5&c=a.b", "", map[string]any{"max_amount": int64(5), "c": "a.b"}},
		{"an equals sign in a name", "f", form, "a%3D1=2", ClassBody, nil},
		{"an equals sign in a value", "f", form, "a=%3D1=2", "", map[string]any{"a": "=1=2"}},
		{"the long s", "j", jsonType, `{"cuſtomer":"x"}`, ClassDuplicate, nil},
		{"the long s escaped", "j", jsonType, `{"cu\u017ftomer":"x"}`, ClassDuplicate, nil},
		{"the Kelvin sign", "j", jsonType, `{"\u212aind":"x"}`, ClassDuplicate, nil},
		{"the long s beside an s", "j", jsonType, `{"ſ":1,"s":2}`, ClassDuplicate, nil},
		{"the long s in a value", "j", jsonType, `{"customer":"ſ"}`, "", map[string]any{"customer": "ſ"}},
		{"an integer that no double is", "j", jsonType, `{"n":9007199254740993.0,"m":9007199254740993e0}`, "", map[string]any{}},
		{"one that is", "j", jsonType, `{"n":9007199254740994.0}`, "", map[string]any{"n": 9007199254740994.0}},
		{"far beyond integers", "j", jsonType, `{"n":1e23}`, "", map[string]any{"n": 1e23}},
		{"an empty file name", "m", parts, part(`name="a"; filename=""`, "x") + "--b--", ClassBody, nil},
		{"no file chosen", "m", parts, part(`name="a"; filename=""`, "") + "--b--", "", map[string]any{
			"a": file("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
		}},
		{"a path for a file name", "m", parts, part(`name="a"; filename="b/c"`, "x") + "--b--", ClassBody, nil},
		{"files in brackets", "m", parts, part(`name="a[]"; filename="1"`, "x") + part(`name="a[]"; filename="2"`, "x") + part(`name="b[c]"; filename="3"`, "x") + "--b--", "", map[string]any{
			"a": []any{file("1", 1, sumX), file("2", 1, sumX)}, "b": map[string]any{"c": file("3", 1, sumX)},
		}},
		{"a file in brackets over a field", "m", parts, part(`name="a"`, "x") + part(`name="a[]"; filename="2"`, "x") + "--b--", ClassDuplicate, nil},
		{"brackets into a file", "m", parts, part(`name="a"; filename="2"`, "x") + part(`name="a[filename]"`, "x") + "--b--", ClassDuplicate, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := mustCompile(t, rules)
			m := set.Match(&Request{
				Method: "POST", Scheme: "https", Authority: c.host + ".example.com", Target: "/x",
				Header: map[string][]string{"Content-Type": {c.contentType}}, ContentLength: int64(len(c.body)),
			})
			r := m.Read([]byte(c.body), true)
			if c.class != "" {
				for _, a := range r.Ambiguous {
					if a.Class == c.class {
						return
					}
				}
				t.Fatalf("not ambiguous as %s: %+v", c.class, r)
			}
			if len(r.Ambiguous) > 0 {
				t.Fatalf("ambiguous: %+v", r.Ambiguous)
			}
			if diff := cmp.Diff(c.args, r.Calls[0].Args); diff != "" {
				t.Error(diff)
			}
		})
	}
}
