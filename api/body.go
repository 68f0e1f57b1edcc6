package api

import (
	stdjson "encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// MaxBody is the largest request body, in bytes.
const MaxBody = 1 << 20

// maxDepth bounds nesting inside args, which nothing in practice needs more of.
const maxDepth = 64

// decode reads the one JSON object of a request into v. It refuses what two
// parsers could read differently: unknown and duplicate names (names are
// compared exactly), invalid UTF-8, a second document.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	if err := jsonContent(r); err != nil {
		return err
	}
	return decodeBody(w, r, v)
}

// decodeBody is decode without a look at the content type.
func decodeBody(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: "payload_too_large", Message: "the body is larger than 1 MiB"}
	case err != nil:
		if r.Context().Err() != nil {
			return err
		}
		return invalid("", "the body broke off while it was read")
	case len(b) == 0:
		return invalid("", "the body is empty; it must be a JSON object")
	}
	if jsontext.Value(b).Kind() != '{' {
		return invalid("", "the body must be a JSON object")
	}
	if err := json.Unmarshal(b, v, json.RejectUnknownMembers(true)); err != nil {
		return decodeError(err)
	}
	return nil
}

func jsonContent(r *http.Request) error {
	wrong := &Error{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type", Message: "the body must be JSON in UTF-8: send `Content-Type: application/json`"}
	if len(r.Header.Values("Content-Encoding")) != 0 {
		return wrong
	}
	switch values := r.Header.Values("Content-Type"); len(values) {
	case 0:
		return nil
	case 1:
		media, params, err := mime.ParseMediaType(values[0])
		charset, given := params["charset"]
		if err != nil || media != "application/json" || given && !strings.EqualFold(charset, "utf-8") {
			return wrong
		}
		return nil
	}
	return wrong
}

// decodeError says in the words of JSON what is wrong with which field.
func decodeError(err error) error {
	var ours *Error
	if errors.As(err, &ours) {
		return ours
	}
	var syntax *jsontext.SyntacticError
	var semantic *json.SemanticError
	switch {
	case errors.As(err, &syntax):
		field := fieldOf(syntax.JSONPointer)
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return invalid(field, "the name is there twice")
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return invalid(field, "the body is not valid JSON: it ends too early")
		}
		return invalid(field, "the body is not valid JSON, at byte "+strconv.FormatInt(syntax.ByteOffset, 10))
	case errors.As(err, &semantic):
		field := fieldOf(semantic.JSONPointer)
		if errors.Is(err, json.ErrUnknownName) {
			return invalid(field, "there is no such field")
		}
		return invalid(field, "must be "+want(semantic.GoType)+", not "+kindName(semantic.JSONKind))
	}
	return invalid("", "the body cannot be read as JSON")
}

func fieldOf(p jsontext.Pointer) string {
	var parts []string
	for token := range p.Tokens() {
		parts = append(parts, token)
	}
	return clip(strings.Join(parts, "."), 200)
}

func want(t reflect.Type) string {
	if t == nil {
		return "something else"
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "an integer"
	case reflect.Slice, reflect.Array:
		return "an array"
	}
	return "an object"
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "such a number"
	case '{':
		return "an object"
	case '[':
		return "an array"
	}
	return "this"
}

// arguments are the args of an action, with every number exact: int64 where the
// literal is an integer that fits, else encoding/json's Number.
type arguments map[string]any

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (a *arguments) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	m, err := exactObject(dec, "args")
	if err == nil && m != nil {
		*a = m
	}
	return err
}

// exactObject reads an object whose numbers are taken as written, nil for null.
// field is its name, for errors.
func exactObject(dec *jsontext.Decoder, field string) (map[string]any, error) {
	if k := dec.PeekKind(); k == 'n' {
		_, err := dec.ReadToken()
		return nil, err
	} else if k != '{' {
		return nil, invalid(field, "must be an object, not "+kindName(k))
	}
	v, err := exact(dec, field, 0)
	if err != nil {
		return nil, err
	}
	return v.(map[string]any), nil
}

// integer is a literal that says that it is whole.
var integer = regexp.MustCompile(`^-?[0-9]+$`)

func exact(dec *jsontext.Decoder, field string, depth int) (any, error) {
	if depth > maxDepth {
		return nil, invalid(field, "is nested more than "+strconv.Itoa(maxDepth)+" deep")
	}
	tok, err := dec.ReadToken()
	if err != nil {
		return nil, err
	}
	switch tok.Kind() {
	case 'n':
		return nil, nil
	case 't', 'f':
		return tok.Bool(), nil
	case '"':
		return tok.String(), nil
	case '0':
		text := tok.String()
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && text != "-0" {
			return n, nil
		}
		return stdjson.Number(text), nil
	case '{':
		m := map[string]any{}
		for dec.PeekKind() != '}' {
			name, err := dec.ReadToken()
			if err != nil {
				return nil, err
			}
			key := name.String()
			if m[key], err = exact(dec, field, depth+1); err != nil {
				return nil, err
			}
		}
		_, err := dec.ReadToken()
		return m, err
	}
	list := []any{}
	for dec.PeekKind() != ']' {
		v, err := exact(dec, field, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err = dec.ReadToken()
	return list, err
}
