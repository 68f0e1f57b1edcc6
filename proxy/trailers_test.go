package proxy

import (
	"io"
	"net/http"
	"testing"
)

// TestTrailersOfTheAgent: what is ours and what belongs to one connection does not
// reach an upstream behind the body either, announced or not.
func TestTrailersOfTheAgent(t *testing.T) {
	for _, announced := range []string{"X-Sum", "X-Sum, ActPass-Passport, ActPass-User", "ActPass-Passport"} {
		w := newWorld(t)
		var got http.Header
		w.on(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			got = r.Trailer
		})
		a := w.raw(w.front, "PUT http://plain.test/upload HTTP/1.1\r\nHost: plain.test\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: "+announced+"\r\n\r\n"+
			"4\r\nsome\r\n0\r\nX-Sum: 1\r\nActPass-Passport: secret\r\nActPass-User: ann\r\n\r\n")
		for name := range got {
			if isOurs(name) {
				t.Errorf("announced %q: the upstream got the trailer %s: %q", announced, name, got[name])
			}
		}
		if announced[0] == 'X' && (a.status != 200 || got.Get("X-Sum") != "1") {
			t.Errorf("announced %q: %d %s, the upstream got %v", announced, a.status, a.body, got)
		}
	}
}
