package evidence

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var testKey = []byte("0123456789abcdef0123456789abcdef")

func hashed(t *testing.T, v any) string {
	t.Helper()
	m, ok := v.(map[string]any)
	if !ok || len(m) != 1 {
		t.Fatalf("not redacted: %v", v)
	}
	s, _ := m[RedactedKey].(string)
	if !strings.HasPrefix(s, "hmac:") || len(s) != len("hmac:")+16 {
		t.Fatalf("not a keyed hash: %v", v)
	}
	return s
}

func TestRedactPathsAndNames(t *testing.T) {
	args := map[string]any{
		"amount": int64(4900), "currency": "usd", "note": "hello",
		"tax_id": "T-1", "owner": map[string]any{"tax_id": "T-1", "name": "Ann"},
		"people":  []any{map[string]any{"tax_id": "T-2"}, map[string]any{"tax_id": "T-1"}},
		"api_key": "k", "apiKey": "k", "API-Key": "k", "Authorization": "k", "client_secret": "k", "x": map[string]any{"y": []any{map[string]any{"password": "k"}}},
		"card":       map[string]any{"number": "4242 4242 4242 4242", "cvc": "123", "exp_month": int64(12)},
		"number":     "17",
		"max_tokens": int64(100), "next_page_token": "p", "access_token": "", "refresh_token": nil, "device_token": "k",
		"bearer_text": "Bearer abcdefghijkl", "key": "sk_live_abcdefghijkl", "a.b": "dotted",
	}
	secret := []string{"owner.tax_id", "people.tax_id", "a.b"}
	got := Redact(args, secret, testKey)

	if got["tax_id"] != "T-1" {
		t.Error("a path matched another place")
	}
	owner, _ := got["owner"].(map[string]any)
	people, _ := got["people"].([]any)
	first, _ := people[0].(map[string]any)
	second, _ := people[1].(map[string]any)
	if hashed(t, owner["tax_id"]) != hashed(t, second["tax_id"]) {
		t.Error("equal values have different hashes")
	}
	if hashed(t, owner["tax_id"]) == hashed(t, first["tax_id"]) {
		t.Error("different values have one hash")
	}
	for _, k := range []string{"api_key", "apiKey", "API-Key", "Authorization", "client_secret", "device_token", "bearer_text", "key", "a.b"} {
		hashed(t, got[k])
	}
	card, _ := got["card"].(map[string]any)
	hashed(t, card["number"])
	hashed(t, card["cvc"])
	for k, want := range map[string]any{"amount": int64(4900), "number": "17", "max_tokens": int64(100), "next_page_token": "p", "access_token": "", "refresh_token": nil} {
		if got[k] != want {
			t.Errorf("%s is %v", k, got[k])
		}
	}
	e := &Event{ID: "ev_1", Kind: KindAction, Args: got}
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{`"k"`, "T-2", "4242", `"123"`, "sk_live", "abcdefghijkl", "dotted"} {
		if strings.Contains(string(b), leak) {
			t.Errorf("%s is in the record: %s", leak, b)
		}
	}
	other := Redact(args, secret, []byte("another key of thirty-two bytes.."))
	if cmp.Equal(got["api_key"], other["api_key"]) {
		t.Error("the hash does not depend on the key")
	}
	if Redact(nil, nil, testKey) != nil {
		t.Error("nil args became something")
	}
}

func TestRedactSameSecretInAnyType(t *testing.T) {
	a := hashed(t, Redact(map[string]any{"pin": "4242"}, nil, testKey)["pin"])
	for _, v := range []any{int64(4242), 4242, float64(4242), json.Number("4242")} {
		if b := hashed(t, Redact(map[string]any{"pin": v}, nil, testKey)["pin"]); a != b {
			t.Errorf("%T hashes differently", v)
		}
	}
}

func TestRedactBounds(t *testing.T) {
	deep := any("bottom")
	for range 1000 {
		deep = map[string]any{"d": deep}
	}
	wide := map[string]any{}
	for i := range 5000 {
		wide[strings.Repeat("k", 50)+string(rune('a'+i%26))+strings.Repeat("x", i%97)+string(rune('A'+i%23))] = int64(i)
	}
	list := make([]any, 100_000)
	nested := make([]any, 300)
	for i := range nested {
		nested[i] = list
	}
	args := map[string]any{
		"long": strings.Repeat("é", 1<<20), "deep": deep, "wide": wide, "list": list, "nested": nested,
		strings.Repeat("name", 1<<18): "x", "odd": struct{ A int }{1}, "num": json.Number(strings.Repeat("9", 1<<20)),
	}
	got := Redact(args, nil, testKey)
	b, err := (&Event{ID: "ev_1", Kind: KindAction, Args: got}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 256<<10 {
		t.Errorf("the record has %d bytes", len(b))
	}
	if _, _, err := DecodeRecord(b); err != nil {
		t.Error(err)
	}
	long, _ := got["long"].(map[string]any)
	prefix, _ := long[TruncatedKey].(string)
	if long["bytes"] != int64(2<<20) || !strings.HasPrefix(prefix, "éé") || len(prefix) > 1024 || long["hash"] == nil {
		t.Errorf("long text: %v", long)
	}
}

// What needs nothing hidden is given as it is; that it needs nothing is what the
// copy says too, at every bound and with every name and value that hides.
func TestRedactAsItIsProperty(t *testing.T) {
	leaf := rapid.OneOf(
		rapid.SampledFrom([]any{
			nil, true, 1.5, int64(7), json.Number("12"), json.Number("1" + strings.Repeat("0", 70)), json.Number("x"), uint64(1),
			struct{}{},
			"sk_live_0123456789", "Bearer of good news", "4242424242424242", int64(4242424242424242),
			strings.Repeat("a", maxArgText), strings.Repeat("a", maxArgText+1), strings.Repeat("b", 20_000),
		}),
		rapid.StringN(0, 8, -1).AsAny(),
	)
	name := rapid.OneOf(rapid.SampledFrom([]string{
		"amount", "number", "card", "password", "api_key", "max_tokens", "my_token", "nested", "a.b", strings.Repeat("k", maxArgKey), strings.Repeat("k", maxArgKey+1),
	}), rapid.StringN(0, 4, -1))
	var value func(depth int) *rapid.Generator[any]
	value = func(depth int) *rapid.Generator[any] {
		if depth == 0 {
			return leaf
		}
		return rapid.OneOf(leaf, rapid.SliceOfN(value(depth-1), 0, 5).AsAny(), rapid.MapOfN(name, value(depth-1), 0, 5).AsAny())
	}
	same, copied := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		args := rapid.MapOfN(name, value(3), 0, 4).Draw(t, "args")
		for range rapid.SampledFrom([]int{0, 0, 0, maxArgDepth - 4, maxArgDepth - 3, maxArgDepth - 2}).Draw(t, "deeper") {
			args = map[string]any{"in": args}
		}
		if n := rapid.SampledFrom([]int{0, 0, 0, maxArgMembers - 4, maxArgMembers + 1}).Draw(t, "wide"); n > 0 {
			wide := make([]any, n)
			args["wide"] = wide
		}
		secret := rapid.SampledFrom([][]string{nil, {"amount"}, {"nested.amount"}, {"in.in.card"}}).Draw(t, "secret")
		r := redactor{key: testKey, nodes: maxArgNodes, bytes: maxArgBytes, secret: map[string]bool{}}
		for _, p := range secret {
			r.secret[p] = true
		}
		slow := r
		want, got := slow.object(args, "", 0), Redact(args, secret, testKey)
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
		if r.fine(args, "", 0) {
			same++
		} else {
			copied++
		}
	})
	if same == 0 || copied == 0 {
		t.Errorf("%d as they were, %d copied: one side was not looked at", same, copied)
	}
}

// TestRedactHidesAlone: each reason to hide or cut something is seen where it is the
// only one, at the top, in an object and in a list.
func TestRedactHidesAlone(t *testing.T) {
	list := func(n int, v any) []any {
		out := make([]any, n)
		for i := range out {
			out[i] = v
		}
		return out
	}
	members := map[string]any{}
	for i := range maxArgMembers + 1 {
		members[fmt.Sprintf("k%03d", i)] = true
	}
	lists := map[string]any{}
	for i := range 12 {
		lists[fmt.Sprintf("k%02d", i)] = list(maxArgMembers-1, true)
	}
	texts := map[string]any{}
	for i := range 40 {
		texts[fmt.Sprintf("k%02d", i)] = strings.Repeat("a", maxArgText)
	}
	edge := map[string]any{}
	for i := range maxArgBytes / maxArgText {
		edge[fmt.Sprintf("k%02d", i)] = strings.Repeat("a", maxArgText)
	}
	numbers := list(300, json.Number(strings.Repeat("1", 60)))
	deep := any("x")
	for range maxArgDepth {
		deep = []any{deep}
	}
	deepest := any("x")
	for range maxArgDepth {
		deepest = map[string]any{"in": deepest}
	}
	for name, c := range map[string]struct {
		key    string
		value  any
		secret []string
	}{
		"a secret by its path":       {"order", "o_1", []string{"order", "in.order", "list.order"}},
		"a secret by its name":       {"client_secret", "s", nil},
		"a secret by its form":       {"note", "sk_live_0123456789", nil},
		"a card's number":            {"number", "4242 4242 4242 4242", nil},
		"a card's number, as one":    {"number", int64(4242424242424242), nil},
		"a long text":                {"note", strings.Repeat("a", maxArgText+1), nil},
		"a long name":                {strings.Repeat("k", maxArgKey+1), "v", nil},
		"no number":                  {"n", json.Number("1x"), nil},
		"a long number":              {"n", json.Number(strings.Repeat("1", 65)), nil},
		"many members":               {"many", members, nil},
		"many elements":              {"many", list(maxArgMembers+1, true), nil},
		"many values":                {"many", lists, nil},
		"much text":                  {"many", texts, nil},
		"text to a little beyond":    {"many", edge, nil},
		"many digits":                {"many", []any{numbers[:200], numbers[:200], numbers[:200]}, nil},
		"deep lists":                 {"deep", deep, nil},
		"deep objects":               {"deep", deepest, nil},
		"what mapping does not make": {"odd", struct{ A int }{1}, nil},
	} {
		one := map[string]any{"plain": "text", c.key: c.value}
		for where, args := range map[string]map[string]any{"top": one, "object": {"in": one}, "list": {"list": []any{one}}} {
			r := redactor{key: testKey, nodes: maxArgNodes, bytes: maxArgBytes, secret: map[string]bool{}}
			for _, p := range c.secret {
				r.secret[p] = true
			}
			want, got := r.object(args, "", 0), Redact(args, c.secret, testKey)
			if !reflect.DeepEqual(want, got) {
				t.Errorf("%s, %s: it is not what the copy is", name, where)
			}
			if reflect.DeepEqual(args, want) {
				t.Errorf("%s, %s: nothing was hidden or cut", name, where)
			}
		}
	}
}

// Every part by which a name is secret has a stem, or it would never be found.
func TestSecretStems(t *testing.T) {
	for _, p := range secretParts {
		if !secretName("x" + p + "y") {
			t.Errorf("%q is not found in a name", p)
		}
	}
}

// A secret, wherever it is put, does not reach the record.
func TestRedactProperty(t *testing.T) {
	const canary = "canary-7f3a"
	names := []string{"password", "Secret", "api-key", "access_token", "authorization", "cvc", "client[secret]"}
	rapid.Check(t, func(t *rapid.T) {
		v := any(map[string]any{rapid.SampledFrom(names).Draw(t, "name"): canary})
		for range rapid.IntRange(0, 30).Draw(t, "depth") {
			switch rapid.IntRange(0, 1).Draw(t, "kind") {
			case 0:
				v = []any{anyValue(1).Draw(t, "other"), v}
			default:
				v = map[string]any{rapid.String().Draw(t, "key"): v}
			}
		}
		b, err := (&Event{ID: "ev_1", Kind: KindAction, Args: Redact(map[string]any{"v": v}, nil, testKey)}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), canary) {
			t.Fatalf("leaked: %s", b)
		}
	})
}

func BenchmarkRedact(b *testing.B) {
	args := sample().Args
	b.ReportAllocs()
	for b.Loop() {
		Redact(args, []string{"metadata.order"}, testKey)
	}
}
