package mapping

import "unicode/utf8"

// Every byte of a request is looked at, most of them eight at a time.

const (
	onesWord  = 0x0101010101010101
	highsWord = 0x8080808080808080
)

// word is eight bytes of s from i on.
func word(s string, i int) uint64 {
	s = s[i : i+8]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// below is not zero when a byte of w is less than n, which is at most 128.
func below(w uint64, n byte) uint64 { return (w - onesWord*uint64(n)) & ^w & highsWord }

// holds is not zero when a byte of w is c.
func holds(w uint64, c byte) uint64 { return below(w^onesWord*uint64(c), 1) }

// hasControl says whether s has an ASCII control character.
func hasControl(s string) bool {
	i := 0
	for ; i+8 <= len(s); i += 8 {
		if w := word(s, i); below(w, ' ')|holds(w, 0x7f) != 0 {
			return true
		}
	}
	for ; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}

// fieldClass says what a byte of a form can mean, so that the ordinary field is
// read in one pass and only the others are looked at again.
type fieldClass uint32

const (
	fieldEnd     fieldClass = 1 << iota // &
	fieldEquals                         // =
	fieldPercent                        // %
	fieldPlus                           // +
	fieldBracket                        // [ ]
	fieldControl
	fieldSemicolon
	fieldRaw   // must be percent-encoded: space, #, all beyond ASCII
	fieldUpper // not its own lower case, or not known to be
	fieldDot   // a full stop, which PHP makes an underscore of
)

var fieldClasses = func() (t [256]fieldClass) {
	for c := range t {
		switch {
		case c == ' ' || c == '#':
			t[c] = fieldRaw
		case c >= utf8.RuneSelf:
			t[c] = fieldRaw | fieldUpper
		case c < ' ' || c == 0x7f:
			t[c] = fieldControl
		case 'A' <= c && c <= 'Z':
			t[c] = fieldUpper
		}
	}
	t['&'], t['='], t['%'], t['+'], t[';'] = fieldEnd, fieldEquals, fieldPercent, fieldPlus, fieldSemicolon
	t['['], t[']'], t['.'] = fieldBracket, fieldBracket, fieldDot
	return t
}()

// fieldName gives the length of the name that s begins with, and the classes of
// its bytes. It ends before an equals sign or an ampersand.
//
//go:noinline
func fieldName(s string) (n int, seen fieldClass) {
	t := &fieldClasses
	for n < len(s) {
		c := t[s[n]]
		if c&(fieldEnd|fieldEquals) != 0 {
			break
		}
		seen |= c
		n++
	}
	return n, seen
}

// fieldValue is fieldName for a value, which ends before an ampersand. It does
// not tell of brackets, equals signs, full stops and upper case, which mean
// nothing there.
//
//go:noinline
func fieldValue(s string) (n int, seen fieldClass) {
	t := &fieldClasses
	for n < len(s) {
		if n+8 <= len(s) {
			// Letters, digits, and what else is above '+', but for ';' and beyond '~'.
			if w := word(s, n); (w&highsWord)|below(w, ',')|holds(w, ';')|holds(w, 0x7f) == 0 {
				n += 8
				continue
			}
		}
		for end := min(n+8, len(s)); n < end; n++ {
			c := t[s[n]]
			if c&fieldEnd != 0 {
				return n, seen &^ (fieldBracket | fieldEquals | fieldUpper | fieldDot)
			}
			seen |= c
		}
	}
	return n, seen &^ (fieldBracket | fieldEquals | fieldUpper | fieldDot)
}
