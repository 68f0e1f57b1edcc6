package gate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/actpass/sidecar/passport"
)

// TestVerifiedTokensGoWithTheirKeys: a verification that a change of keys overtook
// ends after it, and must not make the token good under the new keys.
func TestVerifiedTokensGoWithTheirKeys(t *testing.T) {
	var v verifiedTokens
	before, after, claims := new(Authority), new(Authority), new(passport.Claims)
	v.put(before, "token", claims)
	if v.get(before, "token") != claims {
		t.Error("a verified token is not remembered")
	}
	if v.get(after, "token") != nil {
		t.Error("a token is good under keys that did not verify it")
	}
	v.put(after, "other", claims)
	if v.get(after, "other") != claims || v.get(after, "token") != nil {
		t.Error("the new keys do not start with an empty memory of their own")
	}
	v.put(before, "late", claims)
	for _, token := range []string{"token", "other", "late"} {
		if v.get(after, token) != nil {
			t.Errorf("%s is good under the new keys", token)
		}
	}
}

// TestVerifiedTokensAreBounded: by number, and by size, for whoever makes them long.
func TestVerifiedTokensAreBounded(t *testing.T) {
	for length, most := range map[int]int{700: maxVerified, 16 << 10: maxVerifiedSize / (16 << 10)} {
		var v verifiedTokens
		a := new(Authority)
		long := strings.Repeat("x", length-8)
		for i := range 2*maxVerified + 1 {
			token := fmt.Sprintf("%08d%s", i, long)
			v.put(a, token, new(passport.Claims))
			v.put(a, token, new(passport.Claims)) // as two calls that come together
			if n := len(v.m); n > most || v.size != n*length || v.get(a, token) == nil {
				t.Fatalf("after %d tokens of %d bytes: %d are kept, counted as %d bytes", i+1, length, n, v.size)
			}
		}
	}
}
