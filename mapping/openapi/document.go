package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxSize is the largest document that is read, in bytes.
const MaxSize = 64 << 20

// document is a decoded OpenAPI document.
type document struct {
	root map[string]any
}

// decode reads JSON, or YAML where the text does not begin like JSON. YAML is
// read by another parser than rule files are: documents are other people's, may
// have anchors, and are larger than that one is fast.
func decode(data []byte) (*document, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("the document has %d bytes; at most %d are read", len(data), MaxSize)
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	var v any
	if t := bytes.TrimLeft(data, " \t\r\n"); len(t) > 0 && t[0] == '{' {
		if err := json.Unmarshal(data, &v); err != nil {
			var at *json.SyntaxError
			if errors.As(err, &at) {
				before := data[:min(int(at.Offset), len(data))]
				line := 1 + bytes.Count(before, []byte("\n"))
				return nil, fmt.Errorf("not valid JSON: line %d: %w", line, err)
			}
			return nil, fmt.Errorf("not valid JSON: %w", err)
		}
	} else {
		if err := yaml.Unmarshal(data, &v); err != nil {
			return nil, fmt.Errorf("not valid YAML: %w", err)
		}
		v = textKeys(v)
	}
	root, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not an OpenAPI document: it has no `openapi` and no `paths`")
	}
	if old, is := root["swagger"]; is {
		return nil, fmt.Errorf("the document is Swagger %v: convert it to OpenAPI 3 first", old)
	}
	version := fmt.Sprint(root["openapi"])
	if version != "3" && !strings.HasPrefix(version, "3.") {
		return nil, errors.New("not an OpenAPI 3 document: `openapi` must be 3.0 or 3.1")
	}
	if _, ok := root["paths"].(map[string]any); !ok {
		return nil, errors.New("the document has no `paths`")
	}
	return &document{root}, nil
}

// textKeys makes every key a text: YAML reads the status 200 as a number.
func textKeys(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			x[k] = textKeys(e)
		}
	case map[any]any:
		m := make(map[string]any, len(x))
		for k, e := range x {
			m[fmt.Sprint(k)] = textKeys(e)
		}
		return m
	case []any:
		for i, e := range x {
			x[i] = textKeys(e)
		}
	}
	return v
}

// maxHops bounds a chain of references.
const maxHops = 32

// object gives v as an object, its references followed.
func (d *document) object(v any) (map[string]any, error) {
	for range maxHops {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, errors.New("is not an object")
		}
		ref, ok := m["$ref"].(string)
		if !ok {
			return m, nil
		}
		next, err := d.at(ref)
		if err != nil {
			return nil, err
		}
		v = next
	}
	return nil, errors.New("refers to itself")
}

// at is what a local reference points to (RFC 6901, in a URI fragment).
func (d *document) at(ref string) (any, error) {
	pointer, local := strings.CutPrefix(ref, "#")
	if !local {
		return nil, fmt.Errorf("refers to %.200q, another document: bundle the documents into one first", ref)
	}
	if text, err := url.PathUnescape(pointer); err == nil {
		pointer = text
	}
	var at any = d.root
	for i, part := range strings.Split(pointer, "/") {
		if i == 0 {
			continue
		}
		part = strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~")
		switch x := at.(type) {
		case map[string]any:
			at = x[part]
		default:
			at = nil
		}
		if at == nil {
			return nil, fmt.Errorf("refers to %.200q, which is not there", ref)
		}
	}
	return at, nil
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

// server is where a document says that its paths are.
type server struct {
	host string // "" relative
	base string // path, without a final slash
}

func servers(v any) []server {
	var out []server
	for _, e := range list(v) {
		m, _ := e.(map[string]any)
		address := text(m["url"])
		vars, _ := m["variables"].(map[string]any)
		for name, def := range vars {
			def, _ := def.(map[string]any)
			address = strings.ReplaceAll(address, "{"+name+"}", fmt.Sprint(def["default"]))
		}
		u, err := url.Parse(address)
		if err != nil || strings.ContainsAny(address, "{}") {
			continue
		}
		s := server{host: strings.ToLower(u.Host), base: strings.TrimRight(u.EscapedPath(), "/")}
		if u.Scheme == "https" {
			s.host = strings.TrimSuffix(s.host, ":443")
		}
		if s.base != "" && s.base[0] != '/' {
			s.base = "/" + s.base
		}
		out = append(out, s)
	}
	return out
}
