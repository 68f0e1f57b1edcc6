package gate

import (
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
