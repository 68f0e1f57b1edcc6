package mapping

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/actpass/sidecar/mapping/corpus"
	"github.com/go-json-experiment/json/jsontext"
)

// tokenJSON is parseJSON by the tokens of jsontext: the judge of what is JSON, and
// of what it says. Its error is nil, jsontext's, or one of ours.
func tokenJSON(body []byte) (any, error) {
	d := jsontext.NewDecoder(bytes.NewReader(body))
	values := 0
	var value func(depth int) (any, error)
	value = func(depth int) (any, error) {
		tok, err := d.ReadToken()
		if err != nil {
			return nil, err
		}
		if values++; values > maxValues {
			return nil, errors.New("too many")
		}
		switch tok.Kind() {
		case 'n':
			return nil, nil
		case 't', 'f':
			return tok.Bool(), nil
		case '"':
			return tok.String(), nil
		case '0':
			s := tok.String()
			if n, ok := strictInt(s); ok {
				return n, nil
			}
			return rawNumber(s), nil
		}
		if depth++; depth > maxDepth {
			return nil, errors.New("too deep")
		}
		if tok.Kind() == '[' {
			list := []any{}
			for d.PeekKind() != ']' {
				v, err := value(depth)
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
			_, err := d.ReadToken()
			return list, err
		}
		obj := map[string]any{}
		for d.PeekKind() != '}' {
			name, err := d.ReadToken()
			if err != nil {
				return nil, err
			}
			k := name.String()
			if obj[k], err = value(depth); err != nil {
				return nil, err
			}
		}
		_, err = d.ReadToken()
		return obj, err
	}
	v, err := value(0)
	if err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return nil, errors.New("something follows")
	}
	return v, nil
}

// sameNumbers gives v with the numbers that either reader may leave as written
// settled, and those that cannot be held named.
func sameNumbers(v any) any {
	switch x := v.(type) {
	case rawNumber:
		if f, ok := x.value(); ok {
			return f
		}
		return "cannot be held: " + string(x)
	case map[string]any:
		for k, e := range x {
			x[k] = sameNumbers(e)
		}
	case []any:
		for i, e := range x {
			x[i] = sameNumbers(e)
		}
	}
	return v
}

func checkJSON(t *testing.T, text string) (class string) {
	t.Helper()
	in := &input{}
	got, fault := parseJSON([]byte(text), in)
	want, err := tokenJSON([]byte(text))
	if (fault == nil) != (err == nil) {
		t.Fatalf("%q: %+v, and jsontext says %v", text, fault, err)
	}
	if fault != nil {
		return fmt.Sprintf("%s/%d", fault.Class, fault.Status)
	}
	if describe(got) != describe(want) {
		t.Errorf("%q is described as %s, want %s", text, describe(got), describe(want))
	}
	if want, got := sameNumbers(want), sameNumbers(got); !reflect.DeepEqual(want, got) {
		t.Fatalf("%q: %#v, want %#v", text, got, want)
	}
	return ""
}

func TestParseJSON(t *testing.T) {
	const syntax = "body/400"
	for text, want := range map[string]string{
		`{"a":1,"b":[true,false,null,"x"]}`: "", " \t\r\n[ ] \n": "", `{ }`: "", `[[],{}]`: "", `"\u00e9\n\"\\\/\b\f\r\t"`: "",
		`"\ud83d\ude00"`: "", `"é and more than eight bytes"`: "", `"0123456\"9"`: "", `"\u0000"`: "", `"\ufffd"`: "",
		`0`: "", `-0`: "", `-1`: "", `9223372036854775807`: "", `9223372036854775808`: "", `-9223372036854775808`: "", `123456789012345678`: "", `1234567890123456789`: "",
		`12.5`: "", `-12.5`: "", `12.50`: "", `0.5`: "", `0.0001`: "", `0.00001`: "", `999999.999999999`: "", `999999.9999999991`: "", `1234567.5`: "", `0.0`: "", `-0.5`: "",
		`1e5`: "", `1E+5`: "", `1.5e-3`: "", `100000.1`: "", `-0.0`: "",
		"": syntax, " ": syntax, "nul": syntax, "truex": syntax, "True": syntax, "01": syntax, "-": syntax, "+1": syntax, ".5": syntax, "1.": syntax, "1.e5": syntax, "1e": syntax, "1e+": syntax, "NaN": syntax, "0x1": syntax, "1_0": syntax,
		`{"a":1,}`: syntax, `[1,]`: syntax, `[,1]`: syntax, `{,}`: syntax, `{"a" 1}`: syntax, `{a:1}`: syntax, `{"a":1 "b":2}`: syntax, `[1 2]`: syntax, `{"a":1]`: syntax, `[1}`: syntax, `{1:2}`: syntax, `{"a"`: syntax, `{"a":`: syntax, `[`: syntax, `{`: syntax,
		`"`: syntax, `"a`: syntax, `"a\`: syntax, `"\x"`: syntax, `"\u12"`: syntax, `"\u12g4"`: syntax, `"\ud800"`: syntax, `"\udc00"`: syntax, `"\ud800\ud800"`: syntax, `"\ud800A"`: syntax, `"\ud800\u0041"`: syntax,
		"\"a\nb\"": syntax, "\"a\\n\nb\"": syntax, "\"\xff\"": syntax, "\"\xc0\xaf\"": syntax, "\"\xed\xa0\x80\"": syntax, "\"\\n\xff\"": syntax, "\"\x00\"": syntax, "\x00": syntax, "1\x00": syntax, "\x0b1": syntax, "\u00a01": syntax,
		"[1]/**/": syntax, "1 2": syntax, "{}{}": syntax, "{} x": syntax, `'a'`: syntax,
		"\xef\xbb\xbf{}": syntax,
		`{"a":1,"a":1}`:  "duplicate/400", `{"a":1,"\u0061":2}`: "duplicate/400", `{"":1,"":2}`: "duplicate/400", `[{"b":{"a":1,"a":2}}]`: "duplicate/400",
		strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth):           "",
		strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1):       syntax,
		strings.Repeat(`{"a":`, maxDepth) + "1" + strings.Repeat("}", maxDepth): "",
		"[" + strings.Repeat("1,", maxValues-2) + "1]":                          "",
		"[" + strings.Repeat("1,", maxValues-1) + "1]":                          "body/413",
		"[" + strings.Repeat("1,", maxValues) + "1]":                            "body/413",
		"[" + strings.Repeat("[],", maxValues-1) + "1]":                         "body/413",
		`["` + strings.Repeat(",", maxValues+1) + `"]`:                          "",
		`["\\",",` + strings.Repeat(`\",`, maxValues+1) + `"]`:                  "",
	} {
		if text == "\xef\xbb\xbf{}" {
			if _, fault := parseJSON([]byte(text), &input{}); fault == nil {
				t.Error("a byte order mark is read")
			}
			continue
		}
		if got := checkJSON(t, text); got != want {
			t.Errorf("%.80q: %q, want %q", text, got, want)
		}
	}
}

// FuzzJSONText holds parseJSON to jsontext, byte for byte and value for value.
func FuzzJSONText(f *testing.F) {
	cases, err := corpus.Load(os.DirFS("testdata"), "corpus")
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		if _, body, err := c.Split(); err == nil && len(body) > 0 && len(body) < 4096 {
			f.Add(string(body))
		}
	}
	f.Add(`{"a":[1,-2.5,1e9,true,null,"\ud83d\ude00é"],"B":{"c":""}}`)
	f.Fuzz(func(t *testing.T, text string) {
		if !strings.HasPrefix(text, "\xef\xbb\xbf") {
			checkJSON(t, text)
		}
	})
}
