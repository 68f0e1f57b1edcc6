// Package vectors makes the shared vectors of what is verified offline, from the
// real packages, and holds the files to them.
package vectors

//go:generate go test . -run TestCurrent -update

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/passport"
)

var update = flag.Bool("update", false, "write the files")

func TestCurrent(t *testing.T) {
	for name, made := range map[string]any{"evidence.json": bundles(t), "passports.json": passports(t)} {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(made); err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if old, err := os.ReadFile(name); err != nil || !bytes.Equal(old, b.Bytes()) {
			t.Errorf("%s is not what the packages say (%v): run go generate ./sdk/vectors", name, err)
		}
	}
}

type bundleCase struct {
	Name   string  `json:"name"`
	Key    string  `json:"key,omitempty"` // known from elsewhere
	Bundle string  `json:"bundle"`
	Expect *report `json:"expect"` // null: it does not verify
}

type report struct {
	TreeSize uint64   `json:"tree_size"`
	Indexes  []uint64 `json:"indexes"`
}

type hashes []evidence.Hash

func (h hashes) ReadHashes(at []int64) ([]evidence.Hash, error) {
	out := make([]evidence.Hash, len(at))
	for i, n := range at {
		out[i] = h[n]
	}
	return out, nil
}

// testLog is a log under a key made from seed, so that the vectors stay the same.
type testLog struct {
	signer note.Signer
	vkey   string
	nodes  hashes
	recs   [][]byte
	root   evidence.Hash
}

// records, where there are some, are the log's instead of made ones.
func newLog(t *testing.T, origin, seed string, n int, records ...string) *testLog {
	t.Helper()
	private := ed25519.NewKeyFromSeed([]byte(strings.Repeat(seed, 32)))
	vkey, err := note.NewEd25519VerifierKey(origin, private.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	hash := strings.Split(strings.TrimPrefix(vkey, origin+"+"), "+")[0]
	l := &testLog{vkey: vkey}
	l.signer, err = note.NewSigner("PRIVATE+KEY+" + origin + "+" + hash + "+" + base64.StdEncoding.EncodeToString(append([]byte{1}, private.Seed()...)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		e := &evidence.Event{ID: fmt.Sprintf("ev_%d", i), Kind: evidence.KindAction, Args: map[string]any{"amount": int64(1<<53 + 1), "note": "line\u2028end"}}
		rec, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if i == 3 {
			rec = []byte(`{"kind":"of another day","event_id":"],\"r\":"}`)
		}
		if len(records) > 0 {
			rec = []byte(records[i])
		}
		stored, err := tlog.StoredHashes(int64(i), rec, l.nodes)
		if err != nil {
			t.Fatal(err)
		}
		l.nodes, l.recs = append(l.nodes, stored...), append(l.recs, rec)
	}
	if l.root, err = tlog.TreeHash(int64(n), l.nodes); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *testLog) checkpoint(t *testing.T) string {
	t.Helper()
	c := evidence.Checkpoint{Origin: l.signer.Name(), Size: uint64(len(l.recs)), Root: l.root, Time: time.Date(2026, 3, 4, 5, 6, 7, 120_000, time.UTC)}
	signed, err := c.Sign(l.signer)
	if err != nil {
		t.Fatal(err)
	}
	return string(signed)
}

func (l *testLog) header(t *testing.T, checkpoint string) string {
	t.Helper()
	b, err := evidence.AppendBundleHeader(nil, l.vkey, []byte(checkpoint))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (l *testLog) line(t *testing.T, i int) string {
	t.Helper()
	proof, err := tlog.ProveRecord(int64(len(l.recs)), int64(i), l.nodes)
	if err != nil {
		t.Fatal(err)
	}
	e := evidence.Entry{Index: uint64(i), LeafHash: evidence.LeafHash(l.recs[i]).String(), Record: l.recs[i]}
	return string(evidence.AppendBundleLine(nil, e, proof))
}

func (l *testLog) bundle(t *testing.T, at ...int) string {
	t.Helper()
	b := l.header(t, l.checkpoint(t))
	for _, i := range at {
		b += l.line(t, i)
	}
	return b
}

var ambiguous = map[string]string{
	"a record with a member twice":                   `{"kind":"action","id":"ev_1","id":"ev_2"}`,
	"a record with a member twice, once escaped":     `{"kind":"action","id":"ev_1","\u0069d":"ev_2"}`,
	"a record with a member twice, deep in its args": `{"kind":"action","id":"ev_1","args":{"list":[{"amount":1,"amount":2}]}}`,
	"a record with half a surrogate":                 `{"kind":"action","id":"ev_1","goal":"\ud800"}`,
	"a record with half a surrogate in a name":       `{"kind":"action","id":"ev_1","args":{"\udc00":1}}`,
	"a record that is no object":                     `[{"kind":"action"}]`,
	"a record that is no JSON":                       `{"kind":"action",}`,
	"a record with a number that is none":            `{"kind":"action","id":"ev_1","args":{"amount":NaN}}`,
	"a record with something behind it":              `{"kind":"action","id":"ev_1"}{}`,
}

func bundles(t *testing.T) any {
	log, twin := newLog(t, "actpass/a", "k", 13), newLog(t, "actpass/a", "o", 13)
	one, odd := newLog(t, "actpass/b", "k", 1), newLog(t, `actpass/<&>"\é`, "k", 2)
	good := log.bundle(t, 0, 3, 7, 12)
	check := log.checkpoint(t)
	with := func(old, changed string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the good bundle has no %q", old)
		}
		return strings.Replace(good, old, changed, 1)
	}
	resigned := func(text string) string {
		signed, err := note.Sign(&note.Note{Text: text}, log.signer)
		if err != nil {
			t.Fatal(err)
		}
		return log.header(t, string(signed)) + log.line(t, 0)
	}
	root := log.root.String()
	// The same signature with the group's order added to S: RFC 8032 refuses it.
	sigAt := strings.LastIndex(check, " ") + 1
	sig, err := base64.StdEncoding.DecodeString(strings.TrimSpace(check[sigAt:]))
	if err != nil {
		t.Fatal(err)
	}
	order := []byte{0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10}
	carry := 0
	for i, o := range order {
		carry += int(sig[4+32+i]) + int(o)
		sig[4+32+i], carry = byte(carry), carry>>8
	}
	malleable := check[:sigAt] + base64.StdEncoding.EncodeToString(sig) + "\n"
	twinNote := twin.checkpoint(t)
	witness := twinNote[strings.LastIndex(twinNote, "\u2014"):]
	line0 := log.line(t, 0)

	cases := []bundleCase{
		{Name: "four records of thirteen", Key: log.vkey, Bundle: good},
		{Name: "its own key, when none is known", Bundle: good},
		{Name: "every record", Key: log.vkey, Bundle: log.bundle(t, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)},
		{Name: "no record", Key: log.vkey, Bundle: log.bundle(t)},
		{Name: "a log of one record, whose proof is empty", Key: one.vkey, Bundle: one.bundle(t, 0)},
		{Name: "an origin whose characters are escaped in the header", Key: odd.vkey, Bundle: odd.bundle(t, 1)},
		{Name: "a second signature, of a witness", Key: log.vkey, Bundle: log.header(t, check+strings.Replace(witness, "actpass/a", "witness", 1)) + line0},
		{Name: "an extension line that is not known", Key: log.vkey, Bundle: resigned("actpass/a\n13\n" + root + "\nother 1\n")},
		{Name: "made by another key of the same name", Key: log.vkey, Bundle: twin.bundle(t, 0)},
		{Name: "the checkpoint of another key under this key's header", Key: log.vkey, Bundle: log.header(t, twinNote) + line0},
		{Name: "the checkpoint signed under another name", Key: log.vkey, Bundle: log.header(t, strings.Replace(check, "\u2014 actpass/a", "\u2014 actpass/z", 1)) + line0},
		{Name: "the checkpoint of another log", Key: log.vkey, Bundle: resigned("actpass/z\n13\n" + root + "\n")},
		{Name: "a checkpoint of another size", Key: log.vkey, Bundle: log.header(t, strings.Replace(check, "\n13\n", "\n12\n", 1)) + line0},
		{Name: "a checkpoint whose size has a leading zero", Key: log.vkey, Bundle: resigned("actpass/a\n013\n" + root + "\n")},
		{Name: "a checkpoint without a root", Key: log.vkey, Bundle: resigned("actpass/a\n13\n")},
		{Name: "a checkpoint whose time is none", Key: log.vkey, Bundle: resigned("actpass/a\n13\n" + root + "\ntime yesterday\n")},
		{Name: "a signature that is not in its canonical form", Key: log.vkey, Bundle: log.header(t, malleable) + line0},
		{Name: "a signature cut off", Key: log.vkey, Bundle: log.header(t, check[:sigAt]+base64.StdEncoding.EncodeToString(sig[:60])+"\n") + line0},
		{Name: "no signature", Key: log.vkey, Bundle: log.header(t, check[:strings.LastIndex(check, "\u2014")]) + line0},
		{Name: "a record with one byte changed", Key: log.vkey, Bundle: with(`"ev_7"`, `"ev_8"`)},
		{Name: "a record and its hash changed", Key: log.vkey, Bundle: log.header(t, check) + twistRecord(line0)},
		{Name: "a hash that is not the record's", Key: log.vkey, Bundle: with(evidence.LeafHash(log.recs[7]).String(), root)},
		{Name: "the proof of another record", Key: log.vkey, Bundle: log.header(t, check) + strings.Replace(line0, proofOf(line0), proofOf(log.line(t, 1)), 1)},
		{Name: "a proof that is too long", Key: log.vkey, Bundle: log.header(t, check) + strings.Replace(line0, proofOf(line0), proofOf(line0)+`,"`+root+`"`, 1)},
		{Name: "a proof that is too short", Key: log.vkey, Bundle: log.header(t, check) + strings.Replace(line0, proofOf(line0), proofOf(line0)[:46], 1)},
		{Name: "records out of order", Key: log.vkey, Bundle: log.bundle(t, 3, 0)},
		{Name: "a record twice", Key: log.vkey, Bundle: log.bundle(t, 3, 3)},
		{Name: "an index beyond the checkpoint", Key: log.vkey, Bundle: log.header(t, check) + strings.Replace(line0, `{"i":0,`, `{"i":13,`, 1)},
		{Name: "an index with a leading zero", Key: log.vkey, Bundle: log.header(t, check) + strings.Replace(line0, `{"i":0,`, `{"i":00,`, 1)},
		{Name: "an index that is written otherwise", Key: log.vkey, Bundle: with(`{"i":7,`, `{"i":7.0,`)},
		{Name: "white space in a line", Key: log.vkey, Bundle: with(`{"i":0,`, `{"i": 0,`)},
		{Name: "a line with another member", Key: log.vkey, Bundle: with(`{"i":0,`, `{"x":1,"i":0,`)},
		{Name: "a line behind a line", Key: log.vkey, Bundle: good + "\n"},
		{Name: "a line that ends with CR LF", Key: log.vkey, Bundle: strings.Replace(good, "}\n", "}\r\n", 2)},
		{Name: "a last line without its end", Key: log.vkey, Bundle: strings.TrimSuffix(good, "\n")},
		{Name: "a header with white space", Key: log.vkey, Bundle: with(`{"bundle":1,`, `{"bundle": 1,`)},
		{Name: "a header with another member", Key: log.vkey, Bundle: with(`{"bundle":1,`, `{"bundle":1,"x":1,`)},
		{Name: "a header with a member twice", Key: log.vkey, Bundle: with(`{"bundle":1,`, `{"bundle":1,"bundle":1,`)},
		{Name: "a header of another version", Key: log.vkey, Bundle: with(`{"bundle":1,`, `{"bundle":2,`)},
		{Name: "a header whose characters are escaped otherwise", Key: log.vkey, Bundle: with(`"origin":"actpass/a"`, `"origin":"actpass\/a"`)},
		{Name: "nothing", Key: log.vkey, Bundle: ""},
	}
	// Whoever holds the key can write what two readers take for two things.
	for name, record := range ambiguous {
		l := newLog(t, "actpass/a", "k", 2, `{"kind":"system","id":"ev_0"}`, record)
		cases = append(cases, bundleCase{Name: name, Key: l.vkey, Bundle: l.bundle(t, 0, 1)})
	}
	slices.SortFunc(cases[len(cases)-len(ambiguous):], func(a, b bundleCase) int { return strings.Compare(a.Name, b.Name) })
	for i := range cases {
		c := &cases[i]
		r := &report{Indexes: []uint64{}}
		got, err := evidence.VerifyBundle(strings.NewReader(c.Bundle), c.Key, func(e evidence.Entry) error {
			r.Indexes = append(r.Indexes, e.Index)
			return nil
		})
		if good := i < 8; good != (err == nil) {
			t.Errorf("%s: %v", c.Name, err)
		}
		if err == nil {
			r.TreeSize, c.Expect = got.Checkpoint.Size, r
		}
	}
	return map[string]any{"cases": cases}
}

func proofOf(line string) string {
	_, rest, _ := strings.Cut(line, `"p":[`)
	proof, _, _ := strings.Cut(rest, `],"r":`)
	return proof
}

func twistRecord(line string) string {
	head, record, _ := strings.Cut(line, `],"r":`)
	was := strings.TrimSuffix(record, "}\n")
	now := strings.Replace(was, `"ev_0"`, `"ev_1"`, 1)
	return strings.Replace(head, evidence.LeafHash([]byte(was)).String(), evidence.LeafHash([]byte(now)).String(), 1) + `],"r":` + now + "}\n"
}

type passportCase struct {
	Name   string `json:"name"`
	Token  string `json:"token"`
	Reason string `json:"reason"` // "" for a good one
	JTI    string `json:"jti,omitempty"`
}

func passports(t *testing.T) any {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	private, other := ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", 32))), ed25519.NewKeyFromSeed([]byte(strings.Repeat("o", 32)))
	raw := base64.RawURLEncoding
	sign := func(header, claims string, key ed25519.PrivateKey) string {
		text := raw.EncodeToString([]byte(header)) + "." + raw.EncodeToString([]byte(claims))
		return text + "." + raw.EncodeToString(ed25519.Sign(key, []byte(text)))
	}
	const head = `{"alg":"EdDSA","kid":"k1","typ":"actpass+jwt"}`
	at := now.Unix()
	good := fmt.Sprintf(`{"iss":"actpass","aud":"actpass","iat":%d,"exp":%d,"jti":"ap_1","tenant_id":"acme","agent_id":"a","user_id":"u","goal":"g",`+
		`"allowed_tools":["stripe.refund.*"],"allowed_resources":[],"resource_constraints":{"max_amount":9007199254740993,"currency":"usd"},"risk_tier":"high"}`, at, at+300)
	with := func(old, changed string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the good claims have no %q", old)
		}
		return sign(head, strings.Replace(good, old, changed, 1), private)
	}
	times := func(iat, exp int64) string {
		return with(fmt.Sprintf(`"iat":%d,"exp":%d`, at, at+300), fmt.Sprintf(`"iat":%d,"exp":%d`, at+iat, at+exp))
	}
	token := sign(head, good, private)
	dots := strings.Split(token, ".")
	c := func(name, token, reason string) passportCase {
		return passportCase{Name: name, Token: token, Reason: reason}
	}
	cases := []passportCase{
		c("good", token, ""),
		c("expired for less than the leeway", times(-300, -4), ""),
		c("issued in the future by less than the leeway", times(5, 300), ""),
		c("a life of one hour", times(0, 3600), ""),
		c("without what is optional", with(`"user_id":"u","goal":"g",`, ""), ""),
		c("by another key", sign(head, good, other), passport.ReasonSignature),
		c("claims changed", dots[0]+"."+raw.EncodeToString([]byte(strings.Replace(good, "acme", "acne", 1)))+"."+dots[2], passport.ReasonSignature),
		c("a signature cut off", dots[0]+"."+dots[1]+"."+dots[2][:84], passport.ReasonSignature),
		c("alg none", sign(`{"alg":"none","kid":"k1","typ":"actpass+jwt"}`, good, private), passport.ReasonAlgorithm),
		c("alg in other letters", sign(`{"alg":"eddsa","kid":"k1","typ":"actpass+jwt"}`, good, private), passport.ReasonAlgorithm),
		c("a kid that is not known", sign(`{"alg":"EdDSA","kid":"k2","typ":"actpass+jwt"}`, good, private), passport.ReasonKey),
		c("a kid that is a path", sign(`{"alg":"EdDSA","kid":"../k1","typ":"actpass+jwt"}`, good, private), passport.ReasonKey),
		c("no kid", sign(`{"alg":"EdDSA","typ":"actpass+jwt"}`, good, private), passport.ReasonKey),
		c("another typ", sign(`{"alg":"EdDSA","kid":"k1","typ":"JWT"}`, good, private), passport.ReasonMalformed),
		c("a key in the header", sign(`{"alg":"EdDSA","kid":"k1","typ":"actpass+jwt","jwk":{}}`, good, private), passport.ReasonMalformed),
		c("a header member twice", sign(`{"alg":"none","alg":"EdDSA","kid":"k1","typ":"actpass+jwt"}`, good, private), passport.ReasonMalformed),
		c("a claim twice", with(`"tenant_id":"acme"`, `"tenant_id":"evil","tenant_id":"acme"`), passport.ReasonMalformed),
		c("a claim twice, once escaped", with(`"tenant_id":"acme"`, `"tenant_id":"acme","tenant\u005fid":"evil"`), passport.ReasonMalformed),
		c("a constraint twice", with(`"currency":"usd"`, `"currency":"eur","currency":"usd"`), passport.ReasonMalformed),
		c("an argument of a constraint twice", with(`"currency":"usd"`, `"max":{"n":1,"n":9}`), passport.ReasonMalformed),
		c("half a surrogate", with(`"goal":"g"`, `"goal":"\ud800"`), passport.ReasonMalformed),
		c("bytes that are not UTF-8", with(`"goal":"g"`, "\"goal\":\"\xff\""), passport.ReasonMalformed),
		c("a claim that is not known", with(`"goal":"g"`, `"goal":"g","admin":true`), passport.ReasonMalformed),
		c("a claim in other letters", with(`"goal":"g"`, `"Goal":"g"`), passport.ReasonMalformed),
		c("a claim of another type", with(`"agent_id":"a"`, `"agent_id":1`), passport.ReasonMalformed),
		c("an audience that is a list", with(`"aud":"actpass"`, `"aud":["actpass"]`), passport.ReasonMalformed),
		c("tools that are a text", with(`["stripe.refund.*"]`, `"*"`), passport.ReasonMalformed),
		c("a time with a fraction", with(fmt.Sprint(at+300), fmt.Sprint(at+300)+".5"), passport.ReasonMalformed),
		c("a time that is a text", with(fmt.Sprint(at+300), `"`+fmt.Sprint(at+300)+`"`), passport.ReasonMalformed),
		c("no tenant", with(`"tenant_id":"acme",`, ""), passport.ReasonMalformed),
		c("no agent", with(`"agent_id":"a",`, ""), passport.ReasonMalformed),
		c("a jti of another kind", with(`"ap_1"`, `"x_1"`), passport.ReasonMalformed),
		c("a jti that is too long", with(`"ap_1"`, `"ap_`+strings.Repeat("x", 126)+`"`), passport.ReasonMalformed),
		c("a life of more than an hour", times(0, 3601), passport.ReasonMalformed),
		c("it ends when it begins", times(0, 0), passport.ReasonMalformed),
		c("expired", times(-300, -5), passport.ReasonExpired),
		c("issued in the future", times(6, 300), passport.ReasonNotYet),
		c("of another issuer", with(`"iss":"actpass"`, `"iss":"evil"`), passport.ReasonIssuer),
		c("for another audience", with(`"aud":"actpass"`, `"aud":"other"`), passport.ReasonAudience),
		c("a constraint that is not known", with(`"currency":"usd"`, `"colour":"red"`), passport.ReasonConstraint),
		c("a constraint of another type", with(`"currency":"usd"`, `"currency":1`), passport.ReasonConstraint),
		c("an empty one_of", with(`"currency":"usd"`, `"one_of":{"reason":[]}`), passport.ReasonConstraint),
		c("a text behind the claims", sign(head, good+"{}", private), passport.ReasonMalformed),
		c("two parts", dots[0]+"."+dots[1], passport.ReasonMalformed),
		c("four parts", token+".x", passport.ReasonMalformed),
		c("padding", token+"==", passport.ReasonMalformed),
		c("a line break", dots[0]+"."+dots[1]+".\n"+dots[2], passport.ReasonMalformed),
		c("unused bits set", token[:len(token)-1]+twin(token[len(token)-1]), passport.ReasonMalformed),
		c("nothing", "", passport.ReasonMalformed),
		c("more than 16 KiB", token+strings.Repeat("A", 16<<10), passport.ReasonMalformed),
	}
	keys := func(kid string) (ed25519.PublicKey, bool) { return private.Public().(ed25519.PublicKey), kid == "k1" }
	for i := range cases {
		claims, err := passport.Verify(cases[i].Token, keys, passport.Expect{Issuer: "actpass", Audience: "actpass", Now: now})
		var e *passport.Error
		switch {
		case err == nil && cases[i].Reason == "":
			cases[i].JTI = claims.ID
		case !errors.As(err, &e) || e.Code != cases[i].Reason:
			t.Errorf("%s: %v, want %q", cases[i].Name, err, cases[i].Reason)
		}
	}
	return map[string]any{
		"issuer": "actpass", "audience": "actpass", "now": at,
		"jwks": passport.JWKS{Keys: []passport.JWK{passport.PublicJWK("k1", private.Public().(ed25519.PublicKey))}}, "cases": cases,
	}
}

// twin spells the last character of base64 with a bit that it does not use.
func twin(c byte) string {
	const set = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(set[strings.IndexByte(set, c)|1])
}
