package mapping

import (
	"strings"
	"unicode/utf8"
)

// maxSegments bounds the work of matching a path.
const maxSegments = 128

// oddity is something in a path that parsers read in different ways.
type oddity uint16

const (
	oddEmptySegment oddity = 1 << iota
	oddEncodedSlash
	oddTrailingSlash
	oddParams
	oddEncodedUnreserved
	// Those below are never excused by a quirk.
	oddDots
	oddBackslash
	oddFragment
	oddControl
	oddRawBytes
	oddBadEscape
	oddDoubleEncoding
	oddBadUTF8
	oddNotAbsolute
	oddTooDeep
)

// quirks are the oddities that a rule may excuse, by the name in a rule file.
var quirks = map[string]oddity{
	"empty_segments":     oddEmptySegment,
	"encoded_slash":      oddEncodedSlash,
	"trailing_slash":     oddTrailingSlash,
	"path_params":        oddParams,
	"encoded_unreserved": oddEncodedUnreserved,
}

var oddityDetail = []struct {
	odd    oddity
	detail string
}{
	{oddNotAbsolute, "the target does not begin with a slash"},
	{oddDots, "the path has a dot segment"},
	{oddEncodedSlash, "the path has an encoded slash"},
	{oddBackslash, "the path has a backslash"},
	{oddEmptySegment, "the path has an empty segment"},
	{oddFragment, "the target has a fragment"},
	{oddControl, "the path has a control character"},
	{oddRawBytes, "the path has bytes that must be percent-encoded"},
	{oddBadEscape, "the path has a broken percent escape"},
	{oddDoubleEncoding, "the path is percent-encoded twice"},
	{oddBadUTF8, "the path is not valid UTF-8 once decoded"},
	{oddParams, "the path has a segment with parameters after a semicolon"},
	{oddEncodedUnreserved, "the path encodes characters that need no encoding"},
	{oddTooDeep, "the path has more than 128 segments"},
}

// pathByte says how a raw byte of a path is to be taken: 0 plain, 1 look closer.
var pathByte = func() (t [256]byte) {
	for i := range t {
		t[i] = 1
	}
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_~!$&'()*+,=:@") {
		t[c] = 0
	}
	return t
}()

// inspectPath looks at a raw path and says what is odd about it. plain is true
// when the path is its own decoded form.
func inspectPath(raw string) (odd oddity, plain bool) {
	if raw == "" || raw[0] != '/' {
		odd |= oddNotAbsolute
	}
	plain = true
	segment := 0 // start of the current segment
	slashes := 0
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if pathByte[c] == 0 {
			continue
		}
		switch {
		case c == '/':
			slashes++
			if i > 0 && i == segment {
				odd |= oddEmptySegment
			}
			odd |= dots(raw[segment:i])
			segment = i + 1
		case c == '.':
		case c == '%':
			plain = false
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				odd |= oddBadEscape
				continue
			}
			odd |= escaped(unhex(raw[i+1])<<4|unhex(raw[i+2]), raw[i+3:])
			i += 2
		case c == ';':
			odd |= oddParams
		case c == '\\':
			odd |= oddBackslash
		case c == '#':
			odd |= oddFragment
		case c < ' ' || c == 0x7f:
			odd |= oddControl
		default: // space, quotes, angle brackets, non-ASCII
			odd |= oddRawBytes
			if c >= utf8.RuneSelf {
				plain = false
			}
		}
	}
	odd |= dots(raw[segment:])
	if slashes > maxSegments {
		odd |= oddTooDeep
	}
	if odd != 0 {
		plain = false
	}
	if !plain {
		once := decodeLoose(raw)
		if !utf8.ValidString(once) {
			odd |= oddBadUTF8
		}
		for seg := range strings.FieldsFuncSeq(once, func(r rune) bool { return r == '/' || r == '\\' }) {
			odd |= dots(seg)
		}
	}
	return odd, plain
}

// dots recognises a dot segment, also with parameters behind it ("..;x").
func dots(seg string) oddity {
	if len(seg) == 0 || seg[0] != '.' {
		return 0
	}
	seg, _, _ = strings.Cut(seg, ";")
	if seg == "." || seg == ".." {
		return oddDots
	}
	return 0
}

// escaped judges one percent-encoded byte; rest is what follows it.
func escaped(c byte, rest string) oddity {
	switch {
	case c == '/':
		return oddEncodedSlash
	case c == '\\':
		return oddBackslash
	case c < ' ' || c == 0x7f:
		return oddControl
	case c == '%':
		if len(rest) >= 2 && isHex(rest[0]) && isHex(rest[1]) {
			return oddDoubleEncoding
		}
	case c == '.', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '~':
		return oddEncodedUnreserved
	}
	return 0
}

// literalSegments splits first and decodes each segment after: the reading of a
// server that keeps %2F and empty segments.
func literalSegments(raw string, buf []string) []string {
	for seg := range strings.SplitSeq(strings.TrimPrefix(raw, "/"), "/") {
		if len(buf) == maxSegments {
			break
		}
		if strings.IndexByte(seg, '%') >= 0 {
			seg = decodeLoose(seg)
		}
		buf = append(buf, seg)
	}
	return buf
}

var overlong = strings.NewReplacer("\xc0\xae", ".", "\xc0\xaf", "/", "\xc1\x9c", "/")

// cleanedSegments is the reading of a server (or of a proxy before it) that
// normalises everything: it decodes times over, takes any slash for a
// separator, drops parameters, empty and dot segments, and ends at NUL or '#'.
func cleanedSegments(raw string, times int) []string {
	s, _, _ := strings.Cut(raw, "#")
	for range times {
		s = decodeLoose(s)
	}
	s, _, _ = strings.Cut(overlong.Replace(s), "\x00")
	s = strings.ReplaceAll(s, "\\", "/")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	var out []string
	slash := false
	for seg := range strings.SplitSeq(s, "/") {
		seg, _, _ = strings.Cut(seg, ";")
		slash = false
		switch seg {
		case "", ".":
			slash = true
			continue
		case "..":
			slash = true
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
			continue
		}
		if len(out) < maxSegments-1 {
			out = append(out, seg)
		}
	}
	if slash {
		out = append(out, "")
	}
	return out
}

// joinPath is the path of segments, for display. A slash inside a segment stays
// visible as %2F.
func joinPath(segs []string) string {
	var b strings.Builder
	for _, s := range segs {
		b.WriteByte('/')
		if strings.IndexByte(s, '/') >= 0 {
			s = strings.ReplaceAll(s, "/", "%2F")
		}
		b.WriteString(s)
	}
	return strings.ToValidUTF8(b.String(), "\uFFFD")
}

// decodeLoose decodes every good percent escape and keeps the rest as it is.
func decodeLoose(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]) {
			b = append(b, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
			continue
		}
		b = append(b, s[i])
	}
	return string(b)
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c >= 'a':
		return c - 'a' + 10
	}
	return c - 'A' + 10
}
