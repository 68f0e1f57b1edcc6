package mapping

import (
	"bytes"
	"errors"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

func readJSON(in *input) {
	v, ok := in.jsonBody()
	if !ok {
		return
	}
	args := map[string]any{}
	switch x := v.(type) {
	case map[string]any:
		args = x
	case []any:
		args["items"] = x
	case nothing:
	default:
		in.flag(ClassBody, "the JSON text is neither an object nor a list")
	}
	if len(in.m.query) > 0 && in.rule.spec != nil {
		// Also one that the body does not have: many servers take the query's then.
		declared := make(map[string]any, len(in.rule.spec.children))
		for k := range in.rule.spec.children {
			declared[k] = nil
		}
		in.clash(declared)
	}
	in.add(args, false)
}

// nothing is a body that is not there.
type nothing struct{}

// jsonBody reads the body as one JSON text. ok is false when there is nothing to
// go on with; the reason has been reported.
func (in *input) jsonBody() (v any, ok bool) {
	body, ok := in.decoded()
	if !ok {
		return nil, false
	}
	in.body = body
	// A wrong type is reported, and the body read all the same, for the record.
	_, typed := in.contentType(isJSON, "application/json")
	if len(body) == 0 {
		return nothing{}, true
	}
	v, err := parseJSON(body, in)
	if err != nil {
		if typed {
			in.amb = append(in.amb, *err)
		}
		return nil, false
	}
	return v, true
}

// parseJSON reads exactly one JSON text (RFC 8259), UTF-8, no name twice in an
// object, bounded in depth and size. Integers are int64; other numbers stay as
// written until their type is known.
func parseJSON(body []byte, in *input) (any, *Ambiguity) {
	fail := func(a Ambiguity) (any, *Ambiguity) { return nil, &a }
	if bytes.HasPrefix(body, []byte("\xef\xbb\xbf")) {
		return fail(ambiguity(ClassBody, "the JSON text begins with a byte order mark"))
	}
	p := jsonParser{dec: jsontext.NewDecoder(bytes.NewBuffer(body)), in: in}
	v, err := p.value(0)
	if err == nil {
		if _, err = p.dec.ReadToken(); err == nil {
			return fail(ambiguity(ClassBody, "something follows the JSON text"))
		}
		if errors.Is(err, io.EOF) {
			return v, nil
		}
		return fail(ambiguity(ClassBody, "something that is no JSON follows the JSON text"))
	}
	switch {
	case errors.Is(err, errTooDeep):
		return fail(ambiguity(ClassBody, "the JSON text nests deeper than %d levels", maxDepth))
	case errors.Is(err, errTooMany):
		return fail(tooLarge(ClassBody, "the JSON text has more than %d values", maxValues))
	case errors.Is(err, jsontext.ErrDuplicateName):
		return fail(ambiguity(ClassDuplicate, "an object of the JSON text has a name twice"))
	}
	return fail(ambiguity(ClassBody, "the body is not one well-formed JSON text in UTF-8 (at byte %d)", p.dec.InputOffset()))
}

var (
	errTooDeep = errors.New("too deep")
	errTooMany = errors.New("too many values")
)

type jsonParser struct {
	dec    *jsontext.Decoder
	in     *input
	values int
}

func (p *jsonParser) value(depth int) (any, error) {
	tok, err := p.dec.ReadToken()
	if err != nil {
		return nil, err
	}
	if p.values++; p.values > maxValues {
		return nil, errTooMany
	}
	switch tok.Kind() {
	case 'n':
		return nil, nil
	case 't', 'f':
		return tok.Bool(), nil
	case '"':
		return tok.String(), nil
	case '0':
		s := tok.String()
		if n, ok := strictInt(s); ok {
			return n, nil
		}
		return rawNumber(s), nil
	}
	if depth++; depth > maxDepth {
		return nil, errTooDeep
	}
	if tok.Kind() == '[' {
		list := []any{}
		for p.dec.PeekKind() != ']' {
			v, err := p.value(depth)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := p.dec.ReadToken()
		return list, err
	}
	obj := make(map[string]any)
	for p.dec.PeekKind() != '}' {
		name, err := p.dec.ReadToken()
		if err != nil {
			return nil, err
		}
		k := name.String()
		if obj[k], err = p.value(depth); err != nil {
			return nil, err
		}
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return nil, err
	}
	p.in.foldClash(obj)
	return obj, nil
}
