package evidence

import (
	"bytes"
	"errors"
	"fmt"
)

// Summary is what the log itself must know about a record.
type Summary struct {
	Kind    string
	ID      string // of the event; "" for an outcome
	EventID string // the action that an outcome completes; "" otherwise
	State   string // outcome.state, "" without one
}

// Open says whether the record is an action that still awaits its outcome. A held
// call is not: it was not sent, and its release is a record of its own.
func (s Summary) Open() bool {
	return s.Kind == KindAction && s.State == StatePending
}

// Record is a record of the log in its canonical bytes, with its Summary. The zero
// Record is none.
type Record struct {
	bytes []byte
	sum   Summary
}

// Bytes are what is hashed, stored and verified. They must not be changed.
func (r Record) Bytes() []byte { return r.bytes }

// Summary is what Look finds in Bytes.
func (r Record) Summary() Summary { return r.sum }

// ReadRecord takes bytes that came from elsewhere; see Look for what it refuses.
func ReadRecord(b []byte) (Record, error) {
	sum, err := Look(b)
	if err != nil {
		return Record{}, err
	}
	return Record{bytes: b, sum: sum}, nil
}

// Record is Encode with the Summary, which then need not be read from the bytes.
func (e *Event) Record() (Record, error) {
	b, err := e.Encode()
	if err != nil {
		return Record{}, err
	}
	sum := Summary{Kind: e.Kind, ID: e.ID}
	if e.Outcome != nil {
		sum.State = e.Outcome.State
	}
	return Record{bytes: b, sum: sum}, nil
}

// Record is as for Event.
func (o *OutcomeRecord) Record() (Record, error) {
	b, err := o.Encode()
	if err != nil {
		return Record{}, err
	}
	return Record{bytes: b, sum: Summary{Kind: KindOutcome, EventID: o.EventID, State: o.Outcome.State}}, nil
}

// Look checks that b is one JSON object on one line, without control bytes, and
// reads its Summary. It looks at top-level members only, so nothing that an agent
// puts into args can pass for an outcome. It costs about a nanosecond a byte.
func Look(b []byte) (Summary, error) {
	var s Summary
	end, err := scanObject(b, 0, 0, func(key, val []byte) {
		switch string(key) {
		case `"kind"`:
			s.Kind = plain(val)
		case `"id"`:
			s.ID = plain(val)
		case `"event_id"`:
			s.EventID = plain(val)
		case `"outcome"`:
			if len(val) == 0 || val[0] != '{' {
				return
			}
			_, _ = scanObject(val, 0, 1, func(key, val []byte) {
				if string(key) == `"state"` {
					s.State = plain(val)
				}
			})
		}
	})
	if err != nil {
		return Summary{}, fmt.Errorf("evidence: not one JSON object on one line: %w", err)
	}
	if end != len(b) {
		return Summary{}, fmt.Errorf("evidence: not one JSON object on one line: something follows at byte %d", end)
	}
	if s.Kind == "" {
		return Summary{}, errors.New("evidence: the record has no kind")
	}
	return s, nil
}

// Members calls member for each member of the JSON object b, with the key in its
// quotes and the value as they stand there. b holds no white space between tokens,
// as in a record; anything else is an error, which may come after some calls.
func Members(b []byte, member func(key, val []byte)) error {
	end, err := scanObject(b, 0, 0, member)
	if err == nil && end != len(b) {
		err = errSyntax
	}
	if err != nil {
		return fmt.Errorf("evidence: not one JSON object on one line: %w", err)
	}
	return nil
}

// plain gives the text of a string without escapes, "" for anything else: ids,
// kinds and states have none.
func plain(val []byte) string {
	if len(val) < 2 || val[0] != '"' || bytes.IndexByte(val, '\\') >= 0 {
		return ""
	}
	return string(val[1 : len(val)-1])
}

var errSyntax = errors.New("bad JSON")

// scanObject scans an object without white space that starts at i, calling member
// for each member with the raw key and value, and gives the index behind it.
func scanObject(b []byte, i, depth int, member func(key, val []byte)) (int, error) {
	if depth > maxEncodeDepth+8 {
		return i, errors.New("nested too deeply")
	}
	if i >= len(b) || b[i] != '{' {
		return i, errSyntax
	}
	i++
	if i < len(b) && b[i] == '}' {
		return i + 1, nil
	}
	for {
		k := i
		i = scanString(b, i)
		if i < 0 || i >= len(b) || b[i] != ':' {
			return k, errSyntax
		}
		key := b[k:i]
		i++
		v := i
		var err error
		if i, err = scanValue(b, i, depth); err != nil {
			return i, err
		}
		if member != nil {
			member(key, b[v:i])
		}
		if i >= len(b) {
			return i, errSyntax
		}
		switch b[i] {
		case '}':
			return i + 1, nil
		case ',':
			i++
		default:
			return i, errSyntax
		}
	}
}

func scanValue(b []byte, i, depth int) (int, error) {
	if i >= len(b) {
		return i, errSyntax
	}
	end := -1
	switch c := b[i]; {
	case c == '"':
		end = scanString(b, i)
	case c == '{':
		return scanObject(b, i, depth+1, nil)
	case c == '[':
		return scanArray(b, i, depth+1)
	case c == 't':
		end = scanLiteral(b, i, "true")
	case c == 'f':
		end = scanLiteral(b, i, "false")
	case c == 'n':
		end = scanLiteral(b, i, "null")
	default:
		end = scanNumber(b, i)
	}
	if end < 0 {
		return i, errSyntax
	}
	return end, nil
}

func scanArray(b []byte, i, depth int) (int, error) {
	if depth > maxEncodeDepth+8 {
		return i, errors.New("nested too deeply")
	}
	i++
	if i < len(b) && b[i] == ']' {
		return i + 1, nil
	}
	for {
		var err error
		if i, err = scanValue(b, i, depth); err != nil {
			return i, err
		}
		if i >= len(b) {
			return i, errSyntax
		}
		switch b[i] {
		case ']':
			return i + 1, nil
		case ',':
			i++
		default:
			return i, errSyntax
		}
	}
}

func scanLiteral(b []byte, i int, lit string) int {
	if len(b)-i < len(lit) || string(b[i:i+len(lit)]) != lit {
		return -1
	}
	return i + len(lit)
}

// scanString gives the index behind the string that starts at i, -1 when it is
// not one.
func scanString(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	for i++; i < len(b); i++ {
		c := b[i]
		if plainASCII[c] {
			continue
		}
		switch {
		case c == '"':
			return i + 1
		case c < 0x20:
			return -1
		case c == '\\':
			i++
			if i >= len(b) {
				return -1
			}
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					i++
					if i >= len(b) || !isHex(b[i]) {
						return -1
					}
				}
			default:
				return -1
			}
		}
	}
	return -1
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// scanNumber gives the index behind the number that starts at i, -1 when it is
// not one.
func scanNumber(b []byte, i int) int {
	if i < len(b) && b[i] == '-' {
		i++
	}
	switch {
	case i >= len(b):
		return -1
	case b[i] == '0':
		i++
	case b[i] >= '1' && b[i] <= '9':
		i = scanDigits(b, i)
	default:
		return -1
	}
	if i < len(b) && b[i] == '.' {
		i++
		start := i
		if i = scanDigits(b, i); i == start {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		start := i
		if i = scanDigits(b, i); i == start {
			return -1
		}
	}
	return i
}

func scanDigits(b []byte, i int) int {
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	return i
}
