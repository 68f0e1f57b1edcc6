package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
)

// FuzzDecode: whatever comes, decode says no with a 400 that can be shown, or
// reads what a lenient parser reads, too.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"tool":"t","agent_id":"a","args":{"a":[1,-0,1e9,10.10,null,true,"x",{"b":{}}]}}`, `{"tool":"t","tool":"u"}`, `{"args":{"":1}}`,
		`{"args":null}`, `{"args":[]}`, `{}{}`, `{"tool":"\ud800"}`, `{"x":1}`, "{\"args\":{\"a\":\x00}}", `{"args":{"a":[}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(data))
		var b preflightBody
		err := decode(httptest.NewRecorder(), r, &b)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Message == "" || e.Status != 400 && e.Status != 413 {
				t.Fatalf("%q: %v", data, err)
			}
			return
		}
		var lenient struct {
			Tool    string         `json:"tool"`
			AgentID string         `json:"agent_id"`
			Args    map[string]any `json:"args"`
		}
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		if err := d.Decode(&lenient); err != nil {
			t.Fatalf("%q was read, and is not JSON: %v", data, err)
		}
		if lenient.Tool != b.Tool || lenient.AgentID != b.AgentID {
			t.Fatalf("%q is read two ways: %+v and %+v", data, lenient, b)
		}
		// The numbers must be the same text, so both render to the same bytes.
		mine, err1 := json.Marshal(map[string]any(b.Args))
		other, err2 := json.Marshal(lenient.Args)
		if err1 != nil || err2 != nil || !bytes.Equal(mine, other) {
			t.Fatalf("%q: args are %s and %s (%v, %v)", data, mine, other, err1, err2)
		}
	})
}
