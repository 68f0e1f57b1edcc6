package mapping

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// parseJSON reads exactly one JSON text (RFC 8259), UTF-8, no name twice in an
// object, bounded in depth and size. Integers are int64; other numbers stay as
// written until their type is known, but for short decimals, which are float64.
// Texts are parts of one copy of the body.
//
// It accepts what jsontext of github.com/go-json-experiment/json does, and gives
// the same values (FuzzJSONText); what it does not do is make a token and a copy
// of each.
func parseJSON(body []byte, in *input) (any, *Ambiguity) {
	fail := func(a Ambiguity) (any, *Ambiguity) { return nil, &a }
	if bytes.HasPrefix(body, []byte("\xef\xbb\xbf")) {
		return fail(ambiguity(ClassBody, "the JSON text begins with a byte order mark"))
	}
	fault := jsonTooMany
	p := jsonParser{in: in}
	var v any
	if !manyValues(body) {
		p.s = string(body)
		v, fault = p.value(0)
	}
	switch fault {
	case 0:
	case jsonTooDeep:
		return fail(ambiguity(ClassBody, "the JSON text nests deeper than %d levels", maxDepth))
	case jsonTooMany:
		return fail(tooLarge(ClassBody, "the JSON text has more than %d values", maxValues))
	case jsonDuplicate:
		return fail(ambiguity(ClassDuplicate, "an object of the JSON text has a name twice"))
	default:
		return fail(ambiguity(ClassBody, "the body is not one well-formed JSON text in UTF-8 (at byte %d)", p.i))
	}
	if p.space(); p.i < len(p.s) {
		return fail(ambiguity(ClassBody, "something follows the JSON text"))
	}
	in.parsed = jsonFacts{settled: !p.raw, lower: !p.mixed}
	return v, nil
}

// manyValues says whether a body has more than maxValues values for certain, by
// its commas, so that a million names are refused before any of them is kept.
func manyValues(body []byte) bool {
	if bytes.Count(body, []byte{','}) <= maxValues {
		return false
	}
	commas := 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case ',':
			if commas++; commas > maxValues {
				return true
			}
		case '"':
			for i++; i < len(body) && body[i] != '"'; i++ {
				if body[i] == '\\' {
					i++
				}
			}
		}
	}
	return false
}

// jsonFacts is what the parser saw of a text as a whole, so that typing need not
// walk over all of it again. The zero value claims nothing.
type jsonFacts struct {
	settled bool // no value is a rawNumber
	lower   bool // no name has upper case, spaces, or anything beyond ASCII
}

var plainJSON = jsonFacts{settled: true, lower: true}

type jsonFault uint8

const (
	jsonSyntax jsonFault = iota + 1
	jsonTooDeep
	jsonTooMany
	jsonDuplicate
)

type jsonParser struct {
	s      string
	i      int // what is before it has been read
	in     *input
	values int
	// control says that the text read last has an escaped control character.
	control bool
	raw     bool // there is a rawNumber
	mixed   bool // there is a name that is not its own lower case
}

func (p *jsonParser) space() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

// next reads past space and gives the byte after it, which stays; 0 at the end.
func (p *jsonParser) next() byte {
	if p.i < len(p.s) && p.s[p.i] > ' ' {
		return p.s[p.i]
	}
	if p.space(); p.i < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

func (p *jsonParser) value(depth int) (any, jsonFault) {
	if p.values++; p.values > maxValues {
		return nil, jsonTooMany
	}
	switch c := p.next(); c {
	case '"':
		s, ok := p.text()
		if !ok {
			return nil, jsonSyntax
		}
		return s, 0
	case '{', '[':
		if depth == maxDepth {
			return nil, jsonTooDeep
		}
		p.i++
		if c == '{' {
			return p.object(depth + 1)
		}
		return p.list(depth + 1)
	case 't':
		return true, p.literal("true")
	case 'f':
		return false, p.literal("false")
	case 'n':
		return nil, p.literal("null")
	}
	return p.number()
}

func (p *jsonParser) literal(word string) jsonFault {
	if !strings.HasPrefix(p.s[p.i:], word) {
		return jsonSyntax
	}
	p.i += len(word)
	return 0
}

func (p *jsonParser) list(depth int) (any, jsonFault) {
	list := []any{}
	begin := p.i
	if p.next() == ']' {
		p.i++
		return list, 0
	}
	for {
		v, fault := p.value(depth)
		if fault != 0 {
			return nil, fault
		}
		if n := len(list); n == cap(list) && n >= 64 {
			// What is left is taken to be like what was read: to grow by a quarter would
			// copy a long list many times. By no more than sevenfold: many lists could
			// promise much.
			list = slices.Grow(list, min(n*(len(p.s)-p.i)/(p.i-begin)+n/8+1, 7*n))
		}
		list = append(list, v)
		switch p.next() {
		case ',':
			p.i++
		case ']':
			p.i++
			return list, 0
		default:
			return nil, jsonSyntax
		}
	}
}

func (p *jsonParser) object(depth int) (any, jsonFault) {
	obj := make(map[string]any)
	if p.next() == '}' {
		p.i++
		return obj, 0
	}
	folded := false
	for n := 1; ; n++ {
		if p.next() != '"' {
			return nil, jsonSyntax
		}
		p.control = false
		name, ok := p.text()
		if p.control {
			p.in.flag(ClassBody, "the name %s has a control character, at which some servers end it", show(name))
		}
		if !ok || p.next() != ':' {
			return nil, jsonSyntax
		}
		p.i++
		v, fault := p.value(depth)
		if fault != 0 {
			return nil, fault
		}
		if obj[name] = v; len(obj) < n {
			return nil, jsonDuplicate
		}
		if !ownLower(name) {
			folded = true
		} else if prototype(name) {
			p.in.flag(ClassBody, "the name __proto__ is that of a prototype: some servers read its members as the object's own")
		}
		switch p.next() {
		case ',':
			p.i++
		case '}':
			p.i++
			if folded {
				p.mixed = true
				p.in.foldClash(obj)
			}
			return obj, 0
		default:
			return nil, jsonSyntax
		}
	}
}

// ownLower says that s is its own lower case, and without spaces, for certain.
func ownLower(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= utf8.RuneSelf || c <= ' ' || 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return true
}

// text reads a string, at whose opening quote the parser stands.
func (p *jsonParser) text() (string, bool) {
	s, start := p.s, p.i+1
	beyond := uint64(0)
	i := start
	for {
		for ; i+8 <= len(s); i += 8 {
			w := word(s, i)
			if holds(w, '"')|holds(w, '\\')|below(w, ' ') != 0 {
				break
			}
			beyond |= w & highsWord
		}
		for end := min(i+8, len(s)); i < end; i++ {
			switch c := s[i]; {
			case c == '"':
				p.i = i + 1
				return s[start:i], beyond == 0 || utf8.ValidString(s[start:i])
			case c == '\\':
				p.i = i
				return p.escapedText(start)
			case c < ' ':
				p.i = i
				return "", false
			case c >= utf8.RuneSelf:
				beyond = 1
			}
		}
		if i == len(s) {
			p.i = i
			return "", false
		}
	}
}

// escapedText goes on with a string that began at start and has an escape where
// the parser stands.
func (p *jsonParser) escapedText(start int) (string, bool) {
	b := append(make([]byte, 0, p.i-start+32), p.s[start:p.i]...)
	for p.i < len(p.s) {
		c := p.s[p.i]
		switch {
		case c == '"':
			p.i++
			return string(b), utf8.Valid(b)
		case c < ' ':
			return "", false
		case c != '\\':
			b = append(b, c)
			p.i++
			continue
		}
		if p.i+1 == len(p.s) {
			return "", false
		}
		c = p.s[p.i+1]
		switch c {
		case '"', '\\', '/':
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r, ok := p.hex4(p.i + 2)
			if !ok {
				return "", false
			}
			p.i += 6
			if utf16.IsSurrogate(r) {
				low, ok := rune(0), false
				if strings.HasPrefix(p.s[p.i:], `\u`) {
					low, ok = p.hex4(p.i + 2)
				}
				if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
					return "", false
				}
				p.i += 6
			}
			p.control = p.control || r < ' ' || r == 0x7f
			b = utf8.AppendRune(b, r)
			continue
		default:
			return "", false
		}
		p.control = p.control || c < ' '
		b = append(b, c)
		p.i += 2
	}
	return "", false
}

func (p *jsonParser) hex4(at int) (r rune, ok bool) {
	if at+4 > len(p.s) {
		return 0, false
	}
	for _, c := range []byte(p.s[at : at+4]) {
		if !isHex(c) {
			return 0, false
		}
		r = r<<4 | rune(unhex(c))
	}
	return r, true
}

// number reads a number by the grammar of RFC 8259 section 6.
func (p *jsonParser) number() (any, jsonFault) {
	s, start := p.s, p.i
	i := start
	negative := i < len(s) && s[i] == '-'
	if negative {
		i++
	}
	whole := i
	n := int64(0)
	digits := func() (count int) {
		for ; i < len(s) && '0' <= s[i] && s[i] <= '9'; i++ {
			if count++; i-whole < 19 { // else it is too long for n anyway
				n = n*10 + int64(s[i]-'0')
			}
		}
		return count
	}
	before := digits()
	if before == 0 || before > 1 && s[whole] == '0' {
		p.i = i
		return nil, jsonSyntax
	}
	after, exponent := 0, false
	if i < len(s) && s[i] == '.' {
		i++
		if after = digits(); after == 0 {
			p.i = i
			return nil, jsonSyntax
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		exponent = true
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		if digits() == 0 {
			p.i = i
			return nil, jsonSyntax
		}
	}
	p.i = i
	text := s[start:i]
	switch {
	case exponent:
	case after == 0 && negative && n == 0: // -0 is no integer as one is written
	case after == 0 && before <= 18:
		if negative {
			n = -n
		}
		return n, 0
	case after == 0:
		if n, ok := strictInt(text); ok {
			return n, 0
		}
	case before <= 6 && after <= 9 && s[i-1] != '0' && (s[whole] != '0' || after <= 4):
		// Both are exact, so that the quotient is the nearest double; and it is
		// written again as it was.
		f := float64(n) / tens[after]
		if negative {
			f = -f
		}
		return f, 0
	}
	p.raw = true
	return rawNumber(text), 0
}

var tens = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}
