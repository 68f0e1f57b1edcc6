package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestSeveralClaims: a request whose ActPass-User or ActPass-Goal says two things
// is ambiguous at each door, as one with two passports has none; the same said
// twice is not.
func TestSeveralClaims(t *testing.T) {
	for _, mode := range []string{"monitor", "warn", "enforce", "strict"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			u.handle(refunded)
			sc := start(t, settings{mode: mode, front: u})
			blocks := mode == "enforce" || mode == "strict"
			for i, d := range doors {
				for _, name := range []string{"ActPass-User", "ActPass-Goal"} {
					for _, values := range [][]string{{"ann", "bob"}, {"", "bob"}, {"ann", "ann"}} {
						what := d.name + string(rune('0'+i)) + " " + name + " " + strings.Join(values, "|")
						before, seen := sc.newest(""), len(u.requestsSeen())
						ask := func() answer {
							return d.send(t, sc, "GET", "api.stripe.com", "/v1/charges/ch_123", "", "", http.Header{"Authorization": {"Bearer sk_test_123"}, name: values})
						}
						differ := values[0] != values[1]
						var a answer
						if differ && blocks {
							u.quiet(t, what, func() { a = ask() })
						} else {
							a = ask()
						}
						e := sc.newest(newestID(before))
						if len(e) != 1 || slices.Contains(e[0].Flags, "request.ambiguous") != differ {
							t.Fatalf("%s: %+v", what, e)
						}
						switch {
						case differ && blocks:
							if a.status != 400 || a.header.Get("ActPass-Reason") != "request.ambiguous" || e[0].Outcome.State != "refused" {
								t.Errorf("%s: %d %v %+v", what, a.status, a.header, e[0])
							}
							continue
						case a.status != 200:
							t.Errorf("%s: %d %s", what, a.status, a.body)
						case differ && e[0].Would["strict"] != "block":
							t.Errorf("%s: %+v", what, e[0])
						}
						arrived := u.requestsSeen()[seen:]
						if len(arrived) != 1 {
							t.Fatalf("%s: the upstream saw %d requests", what, len(arrived))
						}
						for header := range arrived[0].Header {
							if strings.HasPrefix(strings.ToLower(header), "actpass") {
								t.Errorf("%s: the upstream got %s", what, header)
							}
						}
					}
				}
			}
		})
	}
}
