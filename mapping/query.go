package mapping

import (
	"strings"
	"unicode/utf8"
)

// queryForm is what a query string says, read flat: one value a name, or a list
// where a name stands several times.
type queryForm struct {
	fields map[string]any
	odd    []string // sentences
	method string   // of _method
}

// maxFields bounds the fields of a query or form. It is the default of PHP
// (max_input_vars), Express (parameterLimit) and Django: the first two drop what
// is beyond, so that an amount behind a thousand others would be judged and not
// be there.
const maxFields = 1000

func inspectQuery(raw string) (q queryForm) {
	if raw == "" {
		return q
	}
	bad := scanEncoded(raw)
	if bad&encSemicolon != 0 {
		q.odd = append(q.odd, "the query has a semicolon, which some servers take for a separator")
	}
	if bad&encEscape != 0 {
		q.odd = append(q.odd, "the query has a broken percent escape")
	}
	if bad&encControl != 0 {
		q.odd = append(q.odd, "the query has a control character")
	}
	if bad&encRaw != 0 {
		q.odd = append(q.odd, "the query has bytes that must be percent-encoded")
	}
	q.fields = make(map[string]any, 4)
	utf8Bad, control := false, false
	n := 0
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		if n++; n > maxFields {
			q.odd = append(q.odd, "the query has more than 1000 fields")
			break
		}
		k, v, _ := strings.Cut(pair, "=")
		k, v = decodeField(k), decodeField(v)
		if bad != 0 || strings.IndexByte(pair, '%') >= 0 {
			if !utf8.ValidString(k) || !utf8.ValidString(v) {
				utf8Bad = true
				k, v = strings.ToValidUTF8(k, "\uFFFD"), strings.ToValidUTF8(v, "\uFFFD")
			}
		}
		if strings.IndexByte(pair, '%') >= 0 && (hasControl(k) || strings.IndexByte(v, 0) >= 0) {
			control = true
		}
		if methodField(k) {
			q.method = v
			if v == "" {
				q.method = "POST"
			}
		} else if methodQuery(k) && knownMethod(strings.ToUpper(v)) {
			q.method = v
		}
		switch old := q.fields[k].(type) {
		case nil:
			q.fields[k] = v
		case []any:
			q.fields[k] = append(old, v)
		case string:
			q.fields[k] = []any{old, v}
		}
	}
	if control {
		q.odd = append(q.odd, "the query has an escaped control character in a name, or a NUL")
	}
	if utf8Bad {
		q.odd = append(q.odd, "the query is not valid UTF-8 once decoded")
	}
	return q
}

type encodingFault uint8

const (
	encSemicolon encodingFault = 1 << iota
	encEscape
	encControl
	encRaw
)

// fieldByte marks the bytes that a form or query may hold without a closer look.
var fieldByte = func() (t [256]bool) {
	for c := byte('!'); c < 0x7f; c++ {
		t[c] = c != '%' && c != ';' && c != '#'
	}
	return t
}()

// scanEncoded looks at the raw bytes of a query or a form.
func scanEncoded(raw string) (bad encodingFault) {
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if fieldByte[c] {
			continue
		}
		switch {
		case c == '%':
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				bad |= encEscape
				continue
			}
			i += 2
		case c == ';':
			bad |= encSemicolon
		case c < ' ' || c == 0x7f:
			bad |= encControl
		default:
			bad |= encRaw
		}
	}
	return bad
}

// decodeField decodes one name or value: plus is a space, and a broken escape
// stays as it is (it has been reported).
func decodeField(s string) string {
	if strings.IndexByte(s, '+') >= 0 {
		s = strings.ReplaceAll(s, "+", " ")
	}
	return decodeLoose(s)
}
