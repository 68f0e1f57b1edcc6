package api

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// spec is openapi.yaml as plain values. Every answer that a test of this
// package gets is held against it.
var spec = sync.OnceValue(func() map[string]any {
	b, err := os.ReadFile("openapi.yaml")
	if err != nil {
		panic(err)
	}
	var v any
	if err := yaml.Unmarshal(b, &v); err != nil {
		panic(err)
	}
	j, err := json.Marshal(v) // one set of Go types: those of encoding/json
	if err != nil {
		panic(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(j, &doc); err != nil {
		panic(err)
	}
	return doc
})

func deref(v any) map[string]any {
	m, _ := v.(map[string]any)
	for m != nil {
		ref, ok := m["$ref"].(string)
		if !ok {
			return m
		}
		var at any = spec()
		for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			at, _ = at.(map[string]any)[part]
		}
		if m, ok = at.(map[string]any); !ok {
			panic("openapi.yaml: nothing at " + ref)
		}
	}
	return nil
}

// operation finds what the document says about a call, nil when nothing.
func operation(method, path string) map[string]any {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if item, exact := spec()["paths"].(map[string]any)[path]; exact { // it goes before patterns that match too
		return deref(item.(map[string]any)[strings.ToLower(method)])
	}
	for pattern, item := range spec()["paths"].(map[string]any) {
		expr := regexp.MustCompile(`\\\{[a-z]+\\\}`).ReplaceAllString("^"+regexp.QuoteMeta(pattern)+"$", "[^/]+")
		if regexp.MustCompile(expr).MatchString(path) {
			return deref(item.(map[string]any)[strings.ToLower(method)])
		}
	}
	return nil
}

// checkAnswer holds an answer against the document.
func checkAnswer(t *testing.T, method, path string, resp *http.Response, body []byte) {
	t.Helper()
	op := operation(method, path)
	if op == nil { // only an error can come from where nothing is described
		op = map[string]any{"responses": map[string]any{"default": map[string]any{"$ref": "#/components/responses/Other"}}}
	}
	responses := op["responses"].(map[string]any)
	described := deref(responses[fmt.Sprint(resp.StatusCode)])
	if described == nil {
		if described = deref(responses["default"]); described == nil || resp.StatusCode < 400 {
			t.Errorf("openapi.yaml does not describe %d of %s %s", resp.StatusCode, method, path)
			return
		}
	}
	for name := range asMap(described["headers"]) {
		if resp.Header.Get(name) == "" && resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%d of %s %s has no header %s", resp.StatusCode, method, path, name)
		}
	}
	content := asMap(described["content"])
	if len(content) == 0 {
		if len(body) != 0 {
			t.Errorf("%d of %s %s has a body: %s", resp.StatusCode, method, path, body)
		}
		return
	}
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	declared := asMap(content[media])
	if err != nil || declared == nil {
		t.Errorf("%d of %s %s has the content type %q", resp.StatusCode, method, path, resp.Header.Get("Content-Type"))
		return
	}
	if media != "application/json" || method == http.MethodHead {
		return
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Errorf("%d of %s %s is not JSON: %v", resp.StatusCode, method, path, err)
		return
	}
	for _, p := range conforms(deref(declared["schema"]), v, "$") {
		t.Errorf("%d of %s %s: %s\n%s", resp.StatusCode, method, path, p, body)
	}
}

func asMap(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// annotations are keywords that assert nothing here.
var annotations = []string{"description", "examples", "default", "example"}

// conforms says how v differs from a JSON Schema (the part of 2020-12 that
// openapi.yaml uses; another keyword is a difference, so that none is ignored).
func conforms(schema map[string]any, v any, at string) (out []string) {
	bad := func(format string, args ...any) { out = append(out, at+": "+fmt.Sprintf(format, args...)) }
	for keyword, want := range schema {
		switch keyword {
		case "type":
			if !slices.ContainsFunc(oneOrMore(want), func(t string) bool { return isType(v, t) }) {
				bad("is %T, not %v", v, want)
			}
		case "const":
			if v != want {
				bad("is %v, not %v", v, want)
			}
		case "enum":
			if !slices.Contains(want.([]any), v) {
				bad("%v is not one of %v", v, want)
			}
		case "required":
			for _, name := range oneOrMore(want) {
				if m, ok := v.(map[string]any); ok {
					if _, there := m[name]; !there {
						bad("%s is missing", name)
					}
				}
			}
		case "properties":
			for name, s := range want.(map[string]any) {
				if member, there := asMap(v)[name]; there {
					out = append(out, conforms(deref(s), member, at+"."+name)...)
				}
			}
		case "additionalProperties":
			for name, member := range asMap(v) {
				if _, named := asMap(schema["properties"])[name]; named {
					continue
				}
				if want == false {
					bad("%s is not described", name)
				} else {
					out = append(out, conforms(deref(want), member, at+"."+name)...)
				}
			}
		case "items":
			list, _ := v.([]any)
			for i, member := range list {
				out = append(out, conforms(deref(want), member, fmt.Sprintf("%s[%d]", at, i))...)
			}
		case "oneOf":
			fits, why := 0, []string{}
			for _, s := range want.([]any) {
				p := conforms(deref(s), v, at)
				if len(p) == 0 {
					fits++
				}
				why = append(why, p...)
			}
			if fits != 1 {
				bad("fits %d of oneOf: %v", fits, why)
			}
		case "format":
			if s, ok := v.(string); ok && want == "date-time" {
				if _, err := time.Parse(time.RFC3339, s); err != nil {
					bad("%q is not a date-time", s)
				}
			}
		case "pattern":
			if s, ok := v.(string); ok && !regexp.MustCompile(want.(string)).MatchString(s) {
				bad("%q does not match %v", s, want)
			}
		case "minimum", "maximum":
			if n, ok := v.(float64); ok && (keyword == "minimum" && n < want.(float64) || keyword == "maximum" && n > want.(float64)) {
				bad("%v is out of bounds", n)
			}
		case "minLength", "maxLength":
			if s, ok := v.(string); ok && (keyword == "minLength" && float64(len(s)) < want.(float64) || keyword == "maxLength" && float64(len(s)) > want.(float64)) {
				bad("%q is too short or too long", s)
			}
		default:
			if !slices.Contains(annotations, keyword) {
				bad("the test does not know the keyword %s", keyword)
			}
		}
	}
	return out
}

func oneOrMore(v any) (list []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		for _, s := range v {
			list = append(list, s.(string))
		}
	}
	return list
}

func isType(v any, t string) bool {
	switch v := v.(type) {
	case nil:
		return t == "null"
	case bool:
		return t == "boolean"
	case string:
		return t == "string"
	case float64:
		return t == "number" || t == "integer" && v == float64(int64(v))
	case []any:
		return t == "array"
	}
	return t == "object"
}

// TestTheDocumentAndTheRoutesAreTheSame compares both ways, with roles.
func TestTheDocumentAndTheRoutesAreTheSame(t *testing.T) {
	s := &server{Options: Options{Metrics: http.NotFoundHandler()}}
	served := map[string]route{}
	for _, rt := range s.table() {
		served[rt.method+" "+rt.pattern] = rt
	}
	ids := map[string]bool{}
	for pattern, item := range spec()["paths"].(map[string]any) {
		for method, v := range item.(map[string]any) {
			if method == "parameters" {
				continue
			}
			call := strings.ToUpper(method) + " " + pattern
			rt, ok := served[call]
			if !ok {
				t.Errorf("described, not served: %s", call)
				continue
			}
			delete(served, call)
			op := v.(map[string]any)
			id, _ := op["operationId"].(string)
			if id == "" || ids[id] {
				t.Errorf("%s: operationId %q is missing or there twice", call, id)
			}
			ids[id] = true
			security, given := op["security"].([]any)
			if open := given && len(security) == 0; open != rt.open {
				t.Errorf("%s: described as open: %v, served open: %v", call, open, rt.open)
			}
			if rt.open {
				continue
			}
			text, _ := op["description"].(string)
			want := "Role " + strings.Join(rt.roles, " or ")
			if len(rt.roles) == 3 {
				want = "Any role."
			}
			if !strings.Contains(text, want) {
				t.Errorf("%s: the description does not say %q", call, want)
			}
		}
	}
	for call := range served {
		t.Errorf("served, not described: %s", call)
	}
}

// TestEveryReferenceResolves walks the document; deref panics on a dead one.
func TestEveryReferenceResolves(t *testing.T) {
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if _, ok := v["$ref"]; ok {
				deref(v)
			}
			for _, m := range v {
				walk(m)
			}
		case []any:
			for _, m := range v {
				walk(m)
			}
		}
	}
	walk(spec())
	for call, op := range map[string]string{"preflight": "/api/v1/actions/preflight"} {
		body := asMap(operation("POST", op)["requestBody"])
		media := asMap(asMap(body["content"])["application/json"])
		for _, p := range conforms(deref(media["schema"]), media["example"], "$") {
			t.Errorf("the example of %s: %s", call, p)
		}
	}
}

func TestTheCheckerCanFail(t *testing.T) {
	schema := deref(map[string]any{"$ref": "#/components/schemas/Error"})
	for _, body := range []string{
		`{}`, `{"error":{"code":"x"}}`, `{"error":{"code":1,"message":"m"}}`, `{"error":{"code":"x","message":"m"},"more":1}`, `[]`, `null`,
	} {
		var v any
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Fatal(err)
		}
		if len(conforms(schema, v, "$")) == 0 {
			t.Errorf("%s passes as an error", body)
		}
	}
}
