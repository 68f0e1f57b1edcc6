package mapping

import (
	"bytes"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// WithoutRPCID gives a JSON-RPC 2.0 request without the values that only tie
// answers to it: its id, and the progressToken of the _meta that MCP puts into
// params. Nothing else changes, and the names stay, so two requests that differ
// in anything else differ in this too. A body that is no single message is not
// ok.
func WithoutRPCID(body []byte) (named []byte, ok bool) {
	d := jsontext.NewDecoder(bytes.NewReader(body))
	from := int64(0)
	cut := func() error {
		v, err := d.ReadValue()
		if err != nil || v.Kind() == '{' || v.Kind() == '[' {
			return err
		}
		end := d.InputOffset()
		named = append(named, body[from:end-int64(len(v))]...)
		from = end
		return nil
	}
	meta := func() error { return within(d, "progressToken", cut) }
	params := func() error { return within(d, "_meta", meta) }
	if d.PeekKind() != '{' {
		return nil, false
	}
	err := members(d, func(name string) error {
		switch name {
		case "id":
			return cut()
		case "params":
			return params()
		}
		return d.SkipValue()
	})
	if err != nil {
		return nil, false
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return nil, false
	}
	return append(named, body[from:]...), true
}

// within does f at the member of an object that has a name, if there is one,
// and reads past the rest.
func within(d *jsontext.Decoder, name string, f func() error) error {
	if d.PeekKind() != '{' {
		return d.SkipValue()
	}
	return members(d, func(is string) error {
		if is == name {
			return f()
		}
		return d.SkipValue()
	})
}

// members reads an object; f reads the value of each member.
func members(d *jsontext.Decoder, f func(name string) error) error {
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return err
		}
		if err := f(name.String()); err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return err
}
