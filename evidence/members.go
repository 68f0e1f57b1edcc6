package evidence

import (
	"errors"
	"fmt"

	jsonv2 "github.com/go-json-experiment/json"
)

// EachMember calls member with the name and the raw value of each top-level
// member of a record, in order: for readers that go through millions of records
// and need a few members of each. Names with an escape are passed over; this
// format has none. member keeps neither of the two.
func EachMember(record []byte, member func(name, value []byte)) error {
	end, err := scanObject(record, 0, 0, func(key, val []byte) {
		if name := key[1 : len(key)-1]; !escaped(name) {
			member(name, val)
		}
	})
	if err == nil && end != len(record) {
		err = errors.New("something follows the object")
	}
	if err != nil {
		return fmt.Errorf("evidence: read the members of a record: %w at byte %d", err, end)
	}
	return nil
}

// TextValue reads a raw value that is a string; "" where it is something else.
func TextValue(raw []byte) string {
	if len(raw) < 2 || raw[0] != '"' {
		return ""
	}
	if !escaped(raw) {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	if jsonv2.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// ArgsValue reads the raw value of args with the types that DecodeRecord gives
// them: integers exactly as int64, other numbers as float64, an integer beyond
// int64 as json.Number.
func ArgsValue(raw []byte) (map[string]any, error) {
	m, err := plainObject(raw, 0)
	if err == nil {
		return m, nil
	}
	// Escapes, lists, errors: the slow way, which knows them all.
	m = nil
	if err := jsonv2.Unmarshal(raw, &m, untyped); err != nil {
		return nil, fmt.Errorf("evidence: decode the args of a record: %w", err)
	}
	return m, nil
}

var errNotPlain = errors.New("not plain")

// plainObject reads an object of plain texts, numbers, truth values and objects
// of these; anything else is errNotPlain.
func plainObject(raw []byte, depth int) (map[string]any, error) {
	m := make(map[string]any, 4)
	var fault error
	end, err := scanObject(raw, 0, depth, func(key, val []byte) {
		if fault != nil || escaped(key) || !ascii(key) {
			fault = errNotPlain
			return
		}
		name := string(key[1 : len(key)-1])
		if _, twice := m[name]; twice {
			fault = errNotPlain
			return
		}
		switch c := val[0]; {
		case c == '"' && !escaped(val) && ascii(val):
			m[name] = string(val[1 : len(val)-1])
		case c == '{':
			m[name], fault = plainObject(val, depth+1)
		case c == 't' || c == 'f':
			m[name] = c == 't'
		case c == 'n':
			m[name] = nil
		case c == '-' || c >= '0' && c <= '9':
			m[name] = number(string(val))
		default:
			fault = errNotPlain
		}
	})
	if err == nil && end != len(raw) {
		err = errNotPlain
	}
	if err != nil {
		return nil, err
	}
	return m, fault
}

func escaped(b []byte) bool {
	for _, c := range b {
		if c == '\\' {
			return true
		}
	}
	return false
}

func ascii(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}
