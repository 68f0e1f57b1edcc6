package mapping

import "testing"

func TestWithoutRPCID(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":1}}`, `{"jsonrpc":"2.0","id":,"method":"m","params":{"a":1}}`},
		{` { "id" : "x" , "params" : [ {"id": 1} ] } `, ` { "id" :  , "params" : [ {"id": 1} ] } `},
		{`{"params":{"id":4,"_meta":{"progressToken":7,"b":{"progressToken":2}}},"id":null}`, `{"params":{"id":4,"_meta":{"progressToken":,"b":{"progressToken":2}}},"id":}`},
		{`{"params":{"progressToken":7},"id":{"a":1}}`, `{"params":{"progressToken":7},"id":{"a":1}}`},
		{`{"params":{"_meta":{"progressToken":{"amount":1}}},"method":"n"}`, `{"params":{"_meta":{"progressToken":{"amount":1}}},"method":"n"}`},
		{`{"\u0069d":1}`, `{"\u0069d":}`},
		{`[{"id":1}]`, ""},
		{`{"id":1}{"id":2}`, ""},
		{`{"id":1,"id":2}`, ""},
		{`{"id":1`, ""},
		{``, ""},
	} {
		got, ok := WithoutRPCID([]byte(c.body))
		if string(got) != c.want || ok != (c.want != "") {
			t.Errorf("%s: %s %v, want %s", c.body, got, ok, c.want)
		}
	}
}
