package openapi

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/strictyaml"
)

var update = flag.Bool("update", false, "rewrite testdata/shop.rules.yaml; read the difference")

func readTestdata(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func shop(t testing.TB) *Pack {
	t.Helper()
	p, err := Read(readTestdata(t, "shop.yaml"), Options{Name: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func compile(t testing.TB, data []byte) *mapping.Set {
	t.Helper()
	set, err := mapping.Compile([]mapping.Source{{Name: "draft.yaml", Data: data}}, mapping.Options{})
	if err != nil {
		t.Fatalf("the draft does not compile: %v\n%s", err, data)
	}
	return set
}

// TestShop holds the whole draft of a document that has everything.
func TestShop(t *testing.T) {
	p := shop(t)
	got := p.YAML()
	if *update {
		if err := os.WriteFile(filepath.Join("testdata", "shop.rules.yaml"), got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(readTestdata(t, "shop.rules.yaml")), string(got)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	want := []Left{
		{"GET /double//slash", "the path has an empty segment"},
		{"/elsewhere", `refers to "other.yaml#/paths/elsewhere", another document: bundle the documents into one first`},
		{"GET /frag#ment", "the path has a fragment, which is never sent"},
		{"GET /gone", `refers to "#/components/nothing", which is not there`},
		{"POST /query?action=go", "the path has a query: rules match paths"},
		{"GET /orders/{order-id}", "matches the same requests as GET /orders/{id}"},
	}
	less := func(l []Left) map[Left]bool {
		m := make(map[Left]bool)
		for _, e := range l {
			m[e] = true
		}
		return m
	}
	if diff := cmp.Diff(less(want), less(p.Left)); diff != "" {
		t.Errorf("left out: -want +got\n%s", diff)
	}
}

// TestSameBytes: the same document in another notation, and read again, gives
// the same file.
func TestSameBytes(t *testing.T) {
	var v any
	if err := yaml.Unmarshal(readTestdata(t, "shop.yaml"), &v); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(textKeys(v))
	if err != nil {
		t.Fatal(err)
	}
	want := shop(t).YAML()
	for range 5 {
		p, err := Read(asJSON, Options{Name: "shop"})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, p.YAML()) {
			t.Fatalf("another file:\n%s", cmp.Diff(string(want), string(p.YAML())))
		}
	}
}

var param = regexp.MustCompile(`\{[^}]*\}`)

// putOperations makes a request of each operation of the document, by the
// document alone, and checks that it is that operation's tool and no other's.
func putOperations(t *testing.T, data []byte, p *Pack) {
	t.Helper()
	doc, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	set := compile(t, p.YAML())
	tools := make(map[string]string)
	count := 0
	for i := range p.Operations {
		o := &p.Operations[i]
		if other, dup := tools[o.Tool]; dup {
			t.Errorf("%s and %s are both %s", o.label(), other, o.Tool)
		}
		tools[o.Tool] = o.label()
	}
	left := make(map[string]bool)
	for _, l := range p.Left {
		left[l.What] = true
	}
	seen := make(map[string]string)
	for path, item := range doc.root["paths"].(map[string]any) {
		item, err := doc.object(item)
		if err != nil {
			continue
		}
		for method := range item {
			method = strings.ToUpper(method)
			if methodRank(method) == len(methodOrder) || left[method+" "+path] {
				continue
			}
			count++
			base, host := "", p.Host
			for _, s := range []any{doc.root["servers"], item["servers"], item[strings.ToLower(method)].(map[string]any)["servers"]} {
				if l := servers(s); len(l) > 0 {
					base, host = l[0].base, l[0].host
				}
			}
			target := base + param.ReplaceAllString(path, "1x1")
			req := &mapping.Request{Method: method, Scheme: "https", Authority: host, Host: host, Target: target}
			m := set.Match(req)
			if m.Rule == nil {
				t.Errorf("%s %s: no rule", method, target)
				continue
			}
			if other, dup := seen[m.Rule.Tool]; dup {
				t.Errorf("%s is %s, as is %s", method+" "+path, m.Rule.Tool, other)
			}
			seen[m.Rule.Tool] = method + " " + path
			if got := tools[m.Rule.Tool]; got != method+" "+path {
				t.Errorf("%s %s: %s, which is %s", method, path, m.Rule.Tool, got)
			}
			if len(m.Ambiguous) > 0 {
				t.Errorf("%s %s: %s", method, target, m.Ambiguous[0].Detail)
			}
		}
	}
	if count != len(p.Operations) {
		t.Errorf("%d operations put, %d drafted", count, len(p.Operations))
	}
	// And each body that a rule reads, with what it requires.
	for i := range p.Operations {
		o := &p.Operations[i]
		for _, b := range o.Bodies {
			req := request(o, p.Host)
			body, contentType := sampleBody(b)
			if b.Kind == "query" {
				req.Target, body = req.Target+"?"+string(body), nil
			}
			req.ContentLength = int64(len(body))
			if contentType != "" {
				req.Header = map[string][]string{"Content-Type": {contentType}}
			}
			r := set.Match(req).Read(body, true)
			if r.Calls[0].Tool != o.Tool || len(r.Ambiguous)+len(r.Calls[0].Problems) > 0 {
				t.Errorf("%s with %s %q: %s, %v %v", o.label(), b.Kind, body, r.Calls[0].Tool, r.Ambiguous, r.Calls[0].Problems)
			}
			for _, a := range b.Args {
				if !a.Required {
					continue
				}
				// Without what is required there is a problem: the declaration is read.
				without := b
				without.Args = nil
				body, _ := sampleBody(without)
				req := request(o, p.Host)
				req.Header = map[string][]string{"Content-Type": {contentType}}
				req.ContentLength = int64(len(body))
				if b.Kind == "query" {
					body, req.ContentLength, req.Header = nil, 0, nil
				}
				if r := set.Match(req).Read(body, true); len(r.Calls[0].Problems) == 0 {
					t.Errorf("%s without %s: no problem", o.label(), a.Name)
				}
				break
			}
		}
	}
}

func sampleValueOf(a mapping.Arg) any {
	switch {
	case len(a.Enum) > 0:
		return a.Enum[0]
	case a.Type == "integer", a.Type == "number":
		return 7
	case a.Type == "boolean":
		return true
	case a.Type == "currency":
		return "eur"
	case a.Type == "array":
		return []any{}
	case a.Type == "object":
		return map[string]any{}
	}
	return "text"
}

// sampleBody has the required arguments of b.
func sampleBody(b Body) ([]byte, string) {
	doc := make(map[string]any)
	form := url.Values{}
	var multipart strings.Builder
	for _, a := range b.Args {
		if !a.Required {
			continue
		}
		parts := strings.Split(a.Name, ".")
		at := doc
		for _, p := range parts[:len(parts)-1] {
			if at[p] == nil {
				at[p] = make(map[string]any)
			}
			at = at[p].(map[string]any)
		}
		last := parts[len(parts)-1]
		if old, is := at[last].(map[string]any); !is || len(old) == 0 {
			at[last] = sampleValueOf(a)
		}
		key := parts[0]
		for _, p := range parts[1:] {
			key += "[" + p + "]"
		}
		switch a.Type {
		case "array":
			form.Add(key+"[]", "x")
		case "object":
			form.Add(key+"[k]", "x")
		default:
			form.Add(key, fmt.Sprint(sampleValueOf(a)))
		}
		if a.Type == "object" {
			fmt.Fprintf(&multipart, "--b\r\nContent-Disposition: form-data; name=%q; filename=\"f\"\r\n\r\nx\r\n", key)
		} else {
			fmt.Fprintf(&multipart, "--b\r\nContent-Disposition: form-data; name=%q\r\n\r\n%v\r\n", key, sampleValueOf(a))
		}
	}
	for key := range form { // an object is there by its members
		if k, ok := strings.CutSuffix(key, "[k]"); ok {
			for other := range form {
				if strings.HasPrefix(other, k+"[") && other != key {
					form.Del(key)
				}
			}
		}
	}
	switch b.Kind {
	case "json":
		data, _ := json.Marshal(doc)
		return data, "application/json"
	case "form":
		return []byte(form.Encode()), "application/x-www-form-urlencoded"
	case "multipart":
		if multipart.Len() == 0 {
			return []byte("--b--\r\n"), "multipart/form-data; boundary=b"
		}
		return []byte(multipart.String() + "--b--\r\n"), "multipart/form-data; boundary=b"
	case "query":
		return []byte(form.Encode()), ""
	}
	return []byte("anything"), "application/octet-stream"
}

func TestShopOperationsAreTheirOwn(t *testing.T) {
	putOperations(t, readTestdata(t, "shop.yaml"), shop(t))
}

// TestStripe drafts the largest document at hand: within its time, every
// operation, each its own, and again over the file that came of it.
func TestStripe(t *testing.T) {
	cache := os.Getenv("GOMODCACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Skip("no module cache: " + err.Error())
		}
		cache = filepath.Join(home, "go", "pkg", "mod")
	}
	data, err := os.ReadFile(filepath.Join(cache, "github.com", "stripe", "stripe-mock@v0.203.0", "embedded", "openapi", "spec3.json"))
	if err != nil {
		t.Skip("stripe-mock v0.203.0 is not in the module cache")
	}
	start := time.Now()
	p, err := Read(data, Options{Name: "stripe", Host: "api.stripe.com"})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("drafted in %s, want less than 10 s", took)
	}
	if len(p.Operations) != 594 || len(p.Left) > 0 {
		t.Errorf("%d operations and %d left out, want 594 and 0", len(p.Operations), len(p.Left))
	}
	putOperations(t, data, p)
	again, err := p.Merge(mapping.Source{Name: "stripe.yaml", Data: p.YAML()})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Data, p.YAML()) || len(again.Added)+len(again.Gone) > 0 || again.Kept != 594 {
		t.Errorf("merged into itself: %d added, %d kept, %d gone", len(again.Added), again.Kept, len(again.Gone))
	}
}

// TestReadRefuses: what is no document is said to be none, and why.
func TestReadRefuses(t *testing.T) {
	ok := "openapi: 3.0.0\nservers: [{url: https://x.example}]\npaths: {/a: {get: {}}}\n"
	for name, c := range map[string]struct{ doc, name, want string }{
		"swagger":      {`{"swagger":"2.0","paths":{}}`, "x", "convert it to OpenAPI 3"},
		"no version":   {`paths: {}`, "x", "`openapi` must be"},
		"no paths":     {`openapi: 3.0.0`, "x", "no `paths`"},
		"empty paths":  {"openapi: 3.0.0\nservers: [{url: https://x.example}]\npaths: {}", "x", "no operations"},
		"no host":      {"openapi: 3.0.0\nservers: [{url: /v1}]\npaths: {/a: {get: {}}}", "x", "names no server"},
		"broken JSON":  {"{\n\"openapi\": }", "x", "line 2"},
		"broken YAML":  {"openapi: [", "x", "not valid YAML"},
		"a list":       {"- 1", "x", "not an OpenAPI document"},
		"empty":        {"", "x", "not an OpenAPI document"},
		"bad name":     {ok, "x y", "the name"},
		"nothing left": {"openapi: 3.0.0\nservers: [{url: https://x.example}]\npaths: {/a//b: {get: {}}}", "x", "no operation can be mapped"},
		"bad host":     {"openapi: 3.0.0\nservers: [{url: 'https://x..example'}]\npaths: {/a: {get: {}}}", "x", "host"},
	} {
		if _, err := Read([]byte(c.doc), Options{Name: c.name}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
	if _, err := Read([]byte(ok), Options{Name: "x"}); err != nil {
		t.Errorf("the smallest document: %v", err)
	}
}

// TestEveryOperationIsReached: whatever paths a document has, each operation's
// sample comes to its own rule.
func TestEveryOperationIsReached(t *testing.T) {
	seg := rapid.SampledFrom([]string{"a", "b", "search", "{x}", "{y}", "{x}:act", "v{x}", "{x}-{y}", "a*", "orders", "v1", "{x}.json"})
	rapid.Check(t, func(t *rapid.T) {
		paths := make(map[string]any)
		for range rapid.IntRange(1, 12).Draw(t, "paths") {
			path := "/" + strings.Join(rapid.SliceOfN(seg, 1, 4).Draw(t, "segments"), "/")
			item := make(map[string]any)
			for _, m := range rapid.SliceOfN(rapid.SampledFrom([]string{"get", "post", "put", "delete"}), 1, 3).Draw(t, "methods") {
				item[m] = map[string]any{"operationId": rapid.SampledFrom([]string{"", "getIt", "create_it", "doThing"}).Draw(t, "id")}
			}
			paths[path] = item
		}
		doc, _ := json.Marshal(map[string]any{"openapi": "3.0.0", "paths": paths, "servers": []any{map[string]any{"url": "https://x.example"}}})
		p, err := Read(doc, Options{Name: "x"})
		if err != nil {
			t.Fatal(err)
		}
		set, err := mapping.Compile([]mapping.Source{{Name: "d", Data: p.YAML()}}, mapping.Options{})
		if err != nil {
			t.Fatal(err)
		}
		tools := make(map[string]bool)
		for i := range p.Operations {
			o := &p.Operations[i]
			if tools[o.Tool] {
				t.Fatalf("two operations are %s", o.Tool)
			}
			tools[o.Tool] = true
			if m := set.Match(request(o, p.Host)); m.Rule == nil || m.Rule.Tool != o.Tool {
				t.Fatalf("%s (%s) comes to %+v\n%s", o.label(), o.sample(), m.Rule, p.YAML())
			}
		}
	})
}

// TestLeftOut: an operation that the compiler would refuse is left out with the
// compiler's reason, and the others are not.
func TestLeftOut(t *testing.T) {
	long := "/" + strings.Repeat("x", 1100)
	p, err := Read([]byte(`{"openapi":"3.0.0","servers":[{"url":"https://x.example"}],"paths":{"/a":{"get":{}},"`+long+`":{"get":{}},"/b":{"get":{}}}}`), Options{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Operations) != 2 || len(p.Left) != 1 || !strings.Contains(p.Left[0].Why, "is longer than 1024 bytes") {
		t.Errorf("%d operations, left: %v", len(p.Operations), p.Left)
	}
	compile(t, p.YAML())
}

// TestReferences: a reference to itself ends, and JSON pointers are unescaped.
func TestReferences(t *testing.T) {
	p, err := Read([]byte(`{"openapi":"3.0.0","servers":[{"url":"https://x.example"}],"paths":{
		"/self":{"$ref":"#/paths/~1self"}, "/a~b c":{"get":{}}, "/other":{"$ref":"#/paths/~1a~0b%20c"}}}`), Options{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Left{{"/self", "refers to itself"}}, p.Left); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if len(p.Operations) != 2 || p.Operations[1].Path != "/other" {
		t.Errorf("operations: %+v", p.Operations)
	}
}

// TestScalars: what is written is read as the same text, quoted or not.
func TestScalars(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"off", "No", "null", "~", "1e3", "0x1f", "-", ".5", "a\\b\"c", "\u2028", "\x1b", "1_000", ".inf", "12:30"})).Draw(t, "text")
		for _, written := range []string{scalar(text), quote(text)} {
			var got struct {
				V string `yaml:"v"`
			}
			if err := strictyaml.Decode("f", []byte("v: "+written+"\n"), &got); err != nil || got.V != text {
				t.Fatalf("%q as %s is read as %q (%v)", text, written, got.V, err)
			}
			var other map[string]any
			if err := yaml.Unmarshal([]byte("v: "+written+"\n"), &other); err != nil || other["v"] != text {
				t.Fatalf("%q as %s is read as %#v (%v)", text, written, other["v"], err)
			}
		}
	})
}

// TestCostOfReferences: schemas that multiply by reference end in time.
func TestCostOfReferences(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"openapi":"3.1.0","servers":[{"url":"https://x.example"}],"components":{"schemas":{`)
	for i := range 30 { // each holds the next twice, in each of two ways
		fmt.Fprintf(&b, `"s%d":{"properties":{"a":{"$ref":"#/components/schemas/s%d"},"b":{"$ref":"#/components/schemas/s%d"}},"anyOf":[{"$ref":"#/components/schemas/s%d"},{"$ref":"#/components/schemas/s%d"}]},`, i, i+1, i+1, i+1, i+1)
	}
	b.WriteString(`"s30":{"properties":{"n":{"type":"integer"}}}}},"paths":{"/a":{"post":{"requestBody":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/s0"}}}}}}}}`)
	start := time.Now()
	p, err := Read([]byte(b.String()), Options{Name: "x"})
	if err != nil || len(p.Operations) != 1 {
		t.Fatalf("%v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(readTestdata(f, "shop.yaml"))
	f.Add([]byte(`{"openapi":"3.0.0","servers":[{"url":"https://h"}],"paths":{"/a":{"post":{"requestBody":{"content":{"application/json":{"schema":{"allOf":[{"$ref":"#"}]}}}}}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Read(data, Options{Name: "x", Host: "h.example"})
		if err != nil {
			return
		}
		compile(t, p.YAML())
	})
}
