package mapping

import "testing"

// TestHiddenMethod: what no rule reads passes, as long as it asks for no other
// method, or could ask for none that is another call. The evasions are in the
// corpus, class method.
func TestHiddenMethod(t *testing.T) {
	s := mustCompile(t, `
hosts: [a.example]
rules:
  - { match: { methods: [POST], path: "/things/{id}" }, tool: t.touch, risk: low, args: none }
  - { match: { methods: [DELETE], path: "/things/{id}" }, tool: t.delete, args: none }
  - { match: { path: "/other/{id}" }, tool: t.other, args: none }
`)
	const form = "application/x-www-form-urlencoded"
	page := "--B\r\nContent-Disposition: form-data; name=\"page\"; filename=\"a.html\"\r\n\r\n<input name=\"_method\" value=\"DELETE\">\r\n--B--\r\n"
	for _, tt := range []struct {
		method, target, contentType, body string
		reads                             bool
		want                              string
	}{
		{"POST", "/things/1", form, "name=x&method=DELETE", true, ""},
		{"POST", "/things/1", form, "name=_method", true, ""},
		{"POST", "/things/1", form, "_method=DELETE", true, "method/400"},
		{"POST", "/things/1", "multipart/form-data; boundary=B", page, true, ""},
		{"POST", "/things/1", "application/json", `{"text":"_method"}`, true, ""},
		{"POST", "/things/1", "application/json", `{"_method":"DELETE"}`, true, "method/400"},
		{"POST", "/things/1", "application/octet-stream", "_method=DELETE", false, ""},
		{"PUT", "/things/1", form, "_method=DELETE", false, ""},   // not obeyed there
		{"DELETE", "/things/1", form, "_method=PUT", false, ""},   // nor there
		{"POST", "/other/1", form, "_method=DELETE", false, ""},   // the same tool by any method
		{"POST", "/unknown/1", form, "_method=DELETE", false, ""}, // no rule for any
	} {
		req := kindRequest(tt.method, tt.target, tt.contentType, tt.body)
		m := s.Match(req)
		if m.NeedBody != tt.reads {
			t.Errorf("%s %s %q: reads the body: %v, want %v", tt.method, tt.target, tt.body, m.NeedBody, tt.reads)
		}
		if got := classes(readAs(s, req, tt.body).Ambiguous); got != tt.want {
			t.Errorf("%s %s %q: %q, want %q", tt.method, tt.target, tt.body, got, tt.want)
		}
	}
}
