package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// untyped reads a value of args: integers exactly as int64, other numbers as
// float64, and an integer beyond int64 as json.Number, so that no digit is lost.
var untyped = jsonv2.WithUnmarshalers(jsonv2.UnmarshalFromFunc(func(dec *jsontext.Decoder, v *any) error {
	if dec.PeekKind() != '0' {
		return errors.ErrUnsupported
	}
	raw, err := dec.ReadValue()
	if err != nil {
		return err
	}
	*v = number(string(raw))
	return nil
}))

func number(s string) any {
	integer := true
	for i := range len(s) {
		if c := s[i]; c == '.' || c == 'e' || c == 'E' {
			integer = false
			break
		}
	}
	if integer {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n
		}
		return json.Number(s)
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return json.Number(s)
	}
	return f
}

// validNumber says whether s is a JSON number (RFC 8259 section 6).
func validNumber(s string) bool {
	end := scanNumber([]byte(s), 0)
	return end > 0 && end == len(s)
}

// DecodeRecord reads a record back: exactly one of event and outcome is not nil.
// Members that this version does not know are ignored; duplicate members, bad
// UTF-8 and anything after the object are errors.
func DecodeRecord(b []byte) (*Event, *OutcomeRecord, error) {
	if bytes.HasPrefix(b, []byte(`{"kind":"outcome"`)) {
		return decodeOutcome(b)
	}
	e := new(Event)
	if err := jsonv2.Unmarshal(b, e, untyped); err != nil {
		return nil, nil, fmt.Errorf("evidence: decode a record: %w", err)
	}
	switch {
	case e.Kind == KindOutcome:
		return decodeOutcome(b)
	case e.Kind == "":
		return nil, nil, errors.New("evidence: decode a record: it has no kind")
	case e.ID == "":
		return nil, nil, errors.New("evidence: decode a record: the event has no id")
	}
	return e, nil, nil
}

func decodeOutcome(b []byte) (*Event, *OutcomeRecord, error) {
	o := new(OutcomeRecord)
	if err := jsonv2.Unmarshal(b, o, untyped); err != nil {
		return nil, nil, fmt.Errorf("evidence: decode an outcome: %w", err)
	}
	if o.EventID == "" {
		return nil, nil, errors.New("evidence: decode an outcome: it does not name its event")
	}
	return nil, o, nil
}
