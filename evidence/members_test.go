package evidence

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestEachMember(t *testing.T) {
	var got []string
	err := EachMember([]byte(`{"kind":"action","args":{"a":[1,{"b":"}"}]},"x":null}`), func(name, value []byte) {
		got = append(got, string(name)+"="+string(value))
	})
	if want := []string{`kind="action"`, `args={"a":[1,{"b":"}"}]}`, `x=null`}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q %v", got, err)
	}
	for _, bad := range []string{``, `[]`, `{`, `{"a":1}x`, `{"a":1,}`, `{"a" :1}`, `{"a":tru}`} {
		if err := EachMember([]byte(bad), func(_, _ []byte) {}); err == nil {
			t.Errorf("%s passes", bad)
		}
	}
}

func TestTextValue(t *testing.T) {
	for raw, want := range map[string]string{`"a"`: "a", `"a\"\u00e9\n"`: "a\"é\n", `""`: "", `1`: "", `null`: "", `"`: "", ``: "", `"\x"`: ""} {
		if got := TextValue([]byte(raw)); got != want {
			t.Errorf("%s is %q, want %q", raw, got, want)
		}
	}
}

// FuzzArgsValue holds the quick way to the one that DecodeRecord takes.
func FuzzArgsValue(f *testing.F) {
	for _, s := range []string{
		`{"amount":4900,"currency":"usd","f":1.50,"n":null,"t":true,"o":{"a":-1,"b":{}}}`, `{"l":[1,"x",{"a":1}]}`, `{"a":1,"a":2}`, `{"a":"\u0061"}`,
		`{"a":"é"}`, "{\"a\":\"\xff\"}", `{"a":123456789012345678901234567890}`, `{"a":1e400}`, `{"":0}`, `{"\u0061":1,"a":2}`, `{"a":-0}`, `{"o":{"x":1,"x":2}}`, `null`, `[]`, `{}`, `{}00`, "{\"\xff\":0}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		quick, err := ArgsValue(raw)
		if err != nil {
			return
		}
		record := append(append([]byte(`{"id":"ev_1","kind":"action","args":`), raw...), '}')
		e, _, slow := DecodeRecord(record)
		if slow != nil {
			t.Fatalf("%s is read, and the record says %v", raw, slow)
		}
		if len(quick) == 0 && len(e.Args) == 0 {
			return
		}
		if !reflect.DeepEqual(quick, e.Args) {
			a, _ := json.Marshal(quick)
			b, _ := json.Marshal(e.Args)
			t.Fatalf("%s is %s, and in the record %s", raw, a, b)
		}
	})
}
