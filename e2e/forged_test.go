package e2e

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// forge signs passports with the sidecar's own key, as somebody who holds the
// file could, or with another.
type forge struct {
	kid string
	key ed25519.PrivateKey
}

func (sc *sidecar) forge(t testing.TB) forge {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(sc.dir, "data", "passport.keys"))
	must(t, err)
	var keys []struct{ Kid, Seed string }
	must(t, json.Unmarshal(text, &keys))
	seed, err := base64.StdEncoding.DecodeString(keys[0].Seed)
	must(t, err)
	return forge{keys[0].Kid, ed25519.NewKeyFromSeed(seed)}
}

func otherForge(t testing.TB, kid string) forge {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	must(t, err)
	return forge{kid, key}
}

var forged atomic.Int64

// claims are those of a good passport for a refund of 4900, changed.
func (f forge) claims(change map[string]any) map[string]any {
	c := map[string]any{
		"iss": "actpass", "aud": "actpass", "iat": time.Now().Unix(), "exp": time.Now().Add(5 * time.Minute).Unix(),
		"jti": fmt.Sprintf("ap_forged%d", forged.Add(1)), "tenant_id": "acme", "agent_id": "support_agent", "user_id": "user_9", "goal": "refund",
		"allowed_tools": []string{"stripe.refund.create"}, "allowed_resources": []string{"stripe:charge:*"},
	}
	maps.Copy(c, change)
	for k, v := range c {
		if v == nil {
			delete(c, k)
		}
	}
	return c
}

func (f forge) token(t testing.TB, header, claims map[string]any) string {
	t.Helper()
	h := map[string]any{"alg": "EdDSA", "typ": "actpass+jwt", "kid": f.kid}
	maps.Copy(h, header)
	head, err := json.Marshal(h)
	must(t, err)
	body, err := json.Marshal(f.claims(claims))
	must(t, err)
	return f.sign(string(head), string(body))
}

func (f forge) sign(head, body string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64([]byte(head)) + "." + b64([]byte(body))
	return signed + "." + b64(ed25519.Sign(f.key, []byte(signed)))
}

// forgedPassports are wrong ones that could not have been issued here. A line
// break stands between several headers.
func forgedPassports(t testing.TB, sc *sidecar) map[string][2]string {
	t.Helper()
	f := sc.forge(t)
	with := func(claims map[string]any) string { return f.token(t, nil, claims) }
	head := func(header map[string]any) string { return f.token(t, header, nil) }
	now := time.Now().Unix()
	good := strings.Split(with(nil), ".")
	twice, err := json.Marshal(f.claims(map[string]any{"allowed_tools": []string{"none"}}))
	must(t, err)
	return map[string][2]string{
		"another tenant":       {with(map[string]any{"tenant_id": "globex"}), "passport.tenant"},
		"not yet valid":        {with(map[string]any{"iat": now + 60}), "passport.not_yet_valid"},
		"another key":          {otherForge(t, "pk_other").token(t, nil, nil), "passport.key"},
		"another key's name":   {otherForge(t, f.kid).token(t, nil, nil), "passport.signature"},
		"another issuer":       {with(map[string]any{"iss": "elsewhere"}), "passport.issuer"},
		"another kind of JWT":  {head(map[string]any{"typ": "JWT"}), "passport.malformed"},
		"a critical header":    {head(map[string]any{"crit": []string{"b64"}, "b64": false}), "passport.malformed"},
		"its own key":          {otherForge(t, f.kid).token(t, map[string]any{"jwk": map[string]any{"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}}, nil), "passport.malformed"},
		"an empty kid":         {head(map[string]any{"kid": ""}), "passport.key"},
		"a kid with a NUL":     {head(map[string]any{"kid": f.kid + "\x00"}), "passport.key"},
		"a kid that is a list": {head(map[string]any{"kid": []string{f.kid}}), "passport.key"},
		"ES256":                {head(map[string]any{"alg": "ES256"}), "passport.algorithm"},
		"eddsa":                {head(map[string]any{"alg": "eddsa"}), "passport.algorithm"},
		"no alg":               {head(map[string]any{"alg": nil}), "passport.algorithm"},
		"no expiry":            {with(map[string]any{"exp": nil}), "passport.malformed"},
		"expiry as text":       {with(map[string]any{"exp": fmt.Sprint(now + 60)}), "passport.malformed"},
		"no jti":               {with(map[string]any{"jti": nil}), "passport.malformed"},
		"no tools":             {with(map[string]any{"allowed_tools": nil}), "passport.tool"},
		"an unknown bound":     {with(map[string]any{"resource_constraints": map[string]any{"at_night": true}}), "passport.constraint"},
		"a bound as text":      {with(map[string]any{"resource_constraints": map[string]any{"max_amount": "9999"}}), "passport.constraint"},
		"a claim twice":        {f.sign(`{"alg":"EdDSA","typ":"actpass+jwt","kid":"`+f.kid+`"}`, strings.Replace(string(twice), "}", `,"allowed_tools":["stripe.refund.create"]}`, 1)), "passport.malformed"},
		"padded":               {good[0] + "." + good[1] + "." + good[2] + "==", "passport.malformed"},
		"four parts":           {strings.Join(good, ".") + ".x", "passport.malformed"},
		"a space inside":       {good[0] + ". " + good[1] + "." + good[2], "passport.malformed"},
		"two at once":          {with(nil) + "\n" + with(nil), "passport.invalid"},
		"one, twice":           {strings.Join(good, ".") + "\n" + strings.Join(good, "."), "passport.invalid"},
		"two on one line":      {with(nil) + ", " + with(nil), "passport.invalid"},
	}
}

// misfitPassports are sound and do not fit a refund of 4900: those that the doors'
// own table has issued, for where there is no API to issue them.
func misfitPassports(t testing.TB, f forge) map[string][2]string {
	t.Helper()
	with := func(claims map[string]any) string { return f.token(t, nil, claims) }
	bound := func(name string, v any) [2]string {
		return [2]string{with(map[string]any{"resource_constraints": map[string]any{name: v}}), "passport.constraint"}
	}
	now := time.Now().Unix()
	return map[string][2]string{
		"tool":         {with(map[string]any{"allowed_tools": []string{"stripe.payout.*"}}), "passport.tool"},
		"resource":     {with(map[string]any{"allowed_resources": []string{"stripe:charge:ch_9"}}), "passport.resource"},
		"no resources": {with(map[string]any{"allowed_resources": []string{}}), "passport.resource"},
		"agent":        {with(map[string]any{"agent_id": "other"}), "passport.agent"},
		"audience":     {with(map[string]any{"aud": "elsewhere"}), "passport.audience"},
		"risk":         {with(map[string]any{"risk_tier": "medium"}), "passport.risk"},
		"request":      {with(map[string]any{"approval_hash": "00"}), "passport.request"},
		"expired":      {with(map[string]any{"iat": now - 120, "exp": now - 60}), "passport.expired"},
		"amount":       bound("max_amount", 4899),
		"least":        bound("min_amount", 4901),
		"a fraction":   bound("max_amount", 4899.9),
		"currency":     bound("currency", "eur"),
		"one of":       bound("one_of", map[string]any{"charge": []string{"ch_9"}}),
		"equals":       bound("equals", map[string]any{"reason": "duplicate"}),
		"prefix":       bound("prefix", map[string]any{"charge": "py_"}),
		"at most":      bound("max", map[string]any{"quantity": 1}),
		"at least":     bound("min", map[string]any{"amount": 4901}),
	}
}

// TestWrongPassportsAreSeenTransparently presents each where the kernel led the
// connection to the sidecar: strict and enforce stop it, monitor and warn let it
// through and say so.
func TestWrongPassportsAreSeenTransparently(t *testing.T) {
	for _, mode := range []string{"strict", "enforce", "warn", "monitor"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p, sc, u := forced(t, settings{mode: mode})
			u.handle(refunded)
			ca := shared(t, filepath.Join(sc.dir, "data", "ca", "ca.pem"))
			sends := func(token string) string {
				args := []string{
					"curl", "-sS", "--max-time", "10", "--cacert", ca, "-o", "/dev/null", "-w", "%{http_code} %header{actpass-reason}",
					"https://api.stripe.com/v1/refunds", "-d", refund("4900"),
				}
				for one := range strings.SplitSeq(token, "\n") {
					args = append(args, "-H", "ActPass-Passport: "+one)
				}
				out, err := p.run(nil, args...)
				if err != nil {
					t.Errorf("curl: %v %s", err, out)
				}
				return out
			}
			blocks := mode == "strict" || mode == "enforce"
			wrong := forgedPassports(t, sc)
			maps.Copy(wrong, misfitPassports(t, sc.forge(t)))
			revoked := sc.forge(t).claims(nil)["jti"].(string)
			p.revoke(sc, revoked)
			wrong["revoked"] = [2]string{sc.forge(t).token(t, nil, map[string]any{"jti": revoked}), "passport.revoked"}
			good := sc.forge(t).token(t, nil, nil)
			names := slices.Sorted(maps.Keys(wrong))
			for _, what := range names {
				want := "403 " + wrong[what][1]
				if !blocks {
					want = "200 refund.small_in_scope"
				}
				if got := sends(wrong[what][0]); got != want {
					t.Errorf("%s: %s, want %s", what, got, want)
				}
			}
			passed := len(names) + 2
			if blocks {
				passed = 1
				if got := sends(good); got != "200 refund.small_in_scope" {
					t.Errorf("a good one: %s", got)
				}
				if got := sends(good); got != "403 passport.replayed" {
					t.Errorf("the good one again: %s", got)
				}
			} else {
				sends(good)
				sends(good)
			}
			if n := len(u.requestsSeen()); n != passed {
				t.Errorf("the upstream saw %d calls, want %d", n, passed)
			}
			events := slices.DeleteFunc(p.record(sc), func(e event) bool { return e.Kind != "action" })
			if len(events) != len(names)+2 {
				t.Fatalf("%d events for %d calls", len(events), len(names)+2)
			}
			for i, what := range names {
				e := events[i]
				says := e.ReasonCode
				if !blocks {
					says = strings.Join(e.Notes, " ")
				}
				if e.Door != "transparent" || e.Mode != mode || !strings.Contains(says, wrong[what][1]) {
					t.Errorf("%s: %+v", what, e)
				}
				if mode == "monitor" && (e.Enforcement != "none" || e.Would["warn"] != "warn" || e.Would["enforce"] != "block" || e.Would["strict"] != "block") {
					t.Errorf("%s: %s, would %v", what, e.Enforcement, e.Would)
				}
			}
		})
	}
}

// revoke takes a passport away, with a key of the administrator's.
func (p *pod) revoke(sc *sidecar, jti string) {
	p.t.Helper()
	cmd := p.command(sidecarUID, binary, "passport", "revoke", "--config", sc.config, jti, "--reason", "lost")
	cmd.Env = append(os.Environ(), "ACTPASS_API_KEY="+p.key(sc), "ACTPASS_API_URL=http://127.0.0.1:8090")
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("passport revoke: %v %s", err, out)
	}
}
