package corpus

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strconv"
	"strings"
)

// maxExpanded bounds what \rep may blow a case up to.
const maxExpanded = 4 << 20

var (
	crlf     = []byte("\r\n")
	headEnd  = []byte("\r\n\r\n")
	lenField = []byte("{len}")
)

// expand turns the text of a case into the bytes on the wire: every line end
// becomes CRLF, the last one is dropped, escapes are resolved, and {len} in the
// head becomes the length of the body.
func expand(text []byte, gzipBody bool) ([]byte, error) {
	text = bytes.TrimSuffix(text, []byte("\n"))
	var out []byte
	for i := 0; i < len(text); i++ {
		switch b := text[i]; b {
		case '\n':
			out = append(out, crlf...)
		case '\r':
			return nil, fmt.Errorf("a raw carriage return in the case: write \\r")
		case '\\':
			n, add, err := escape(text[i+1:])
			if err != nil {
				return nil, err
			}
			out = append(out, add...)
			i += n
		default:
			out = append(out, b)
		}
		if len(out) > maxExpanded {
			return nil, fmt.Errorf("the case expands to more than %d bytes", maxExpanded)
		}
	}
	head, body, ok := bytes.Cut(out, headEnd)
	if !ok {
		return out, nil
	}
	if gzipBody {
		var z bytes.Buffer
		w, err := gzip.NewWriterLevel(&z, gzip.BestCompression)
		if err != nil {
			return nil, fmt.Errorf("gzip the body: %w", err)
		}
		if _, err := w.Write(body); err != nil {
			return nil, fmt.Errorf("gzip the body: %w", err)
		}
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("gzip the body: %w", err)
		}
		body = z.Bytes()
	}
	head = bytes.ReplaceAll(head, lenField, strconv.AppendInt(nil, int64(len(body)), 10))
	return bytes.Join([][]byte{head, body}, headEnd), nil
}

// escape resolves what follows a backslash. n is how many bytes of s it took.
func escape(s []byte) (n int, out []byte, err error) {
	if len(s) == 0 {
		return 0, nil, nil // "\" before the dropped last line end
	}
	switch s[0] {
	case '\\':
		return 1, []byte{'\\'}, nil
	case 'r':
		if bytes.HasPrefix(s, []byte("rep{")) {
			return repeat(s)
		}
		return 1, []byte{'\r'}, nil
	case 'n':
		return 1, []byte{'\n'}, nil
	case 't':
		return 1, []byte{'\t'}, nil
	case 's':
		return 1, []byte{' '}, nil // a space that an editor would trim
	case '\n':
		return 1, nil, nil // joined lines
	case 'x':
		if len(s) < 3 {
			break
		}
		v, err := strconv.ParseUint(string(s[1:3]), 16, 8)
		if err != nil {
			break
		}
		return 3, []byte{byte(v)}, nil
	}
	return 0, nil, fmt.Errorf("unknown escape \\%c: want \\\\ \\r \\n \\t \\s \\xNN \\rep{N}{text} or a line end", s[0])
}

// repeat resolves rep{N}{text}; text has escapes of its own, but no braces.
func repeat(s []byte) (n int, out []byte, err error) {
	fail := func() (int, []byte, error) {
		return 0, nil, fmt.Errorf("want \\rep{N}{text}")
	}
	rest := s[len("rep{"):]
	end := bytes.Index(rest, []byte("}{"))
	if end < 0 {
		return fail()
	}
	count, err := strconv.Atoi(string(rest[:end]))
	if err != nil || count < 0 {
		return fail()
	}
	text := rest[end+2:]
	close := bytes.IndexByte(text, '}')
	if close < 0 {
		return fail()
	}
	var unit []byte
	for i := 0; i < close; i++ {
		if text[i] != '\\' {
			unit = append(unit, text[i])
			continue
		}
		k, add, err := escape(text[i+1 : close])
		if err != nil {
			return 0, nil, err
		}
		unit = append(unit, add...)
		i += k
	}
	if len(unit) > 0 && count > maxExpanded/len(unit) {
		return 0, nil, fmt.Errorf("\\rep{%d} expands to more than %d bytes", count, maxExpanded)
	}
	return len("rep{") + end + 2 + close + 1, bytes.Repeat(unit, count), nil
}

// Head is the request line and the header fields as they stand in the bytes,
// split and nothing more.
type Head struct {
	Method  string
	Target  string
	Version string
	Host    string // of the first Host field
	Fields  [][2]string
}

// Header gives the fields by canonical name, without Host, as a door hands them
// on.
func (h Head) Header() map[string][]string {
	m := make(map[string][]string, len(h.Fields))
	for _, f := range h.Fields {
		name := canonicalName(f[0])
		if name == "Host" {
			continue
		}
		m[name] = append(m[name], f[1])
	}
	return m
}

// canonicalName is the MIME spelling of a token; other bytes are kept.
func canonicalName(s string) string {
	b := []byte(strings.ToLower(s))
	upper := true
	for i, c := range b {
		if upper && 'a' <= c && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
		upper = c == '-'
	}
	return string(b)
}

// Split cuts the bytes into head and body, as a parser would that trusts every
// byte: the body is all that follows the first empty line. It fails for bytes
// that are not a request line, fields and an empty line.
func (c Case) Split() (Head, []byte, error) {
	var h Head
	head, body, ok := bytes.Cut(c.Raw, headEnd)
	if !ok {
		return h, nil, fmt.Errorf("split %s: no empty line after the head", c.Name)
	}
	lines := strings.Split(string(head), "\r\n")
	method, rest, ok := strings.Cut(lines[0], " ")
	last := strings.LastIndexByte(rest, ' ')
	if !ok || last < 0 {
		return h, nil, fmt.Errorf("split %s: request line %q", c.Name, lines[0])
	}
	h.Method, h.Target, h.Version = method, rest[:last], rest[last+1:]
	host := false
	for _, l := range lines[1:] {
		name, value, ok := strings.Cut(l, ":")
		if !ok || name == "" {
			return h, nil, fmt.Errorf("split %s: header line %q", c.Name, l)
		}
		value = strings.Trim(value, " \t")
		if !host && strings.EqualFold(name, "host") {
			h.Host, host = value, true
		}
		h.Fields = append(h.Fields, [2]string{name, value})
	}
	return h, body, nil
}

// Bytes gives the case as it must be written at a door. listen is the Host that
// the reverse door is asked for, and prefix its route ("/stripe"); the other
// doors need neither. Forward writes the target in absolute form, over http.
func (c Case) Bytes(door, listen, prefix string) []byte {
	line, rest, ok := bytes.Cut(c.Raw, crlf)
	method, target, ok2 := bytes.Cut(line, []byte(" "))
	if !ok || !ok2 {
		return c.Raw
	}
	var before string
	switch door {
	case Forward:
		before = "http://" + c.Authority
	case Reverse:
		before = prefix
		rest = bytes.Replace(rest, []byte("Host: "+c.Authority+"\r\n"), []byte("Host: "+listen+"\r\n"), 1)
	default:
		return c.Raw
	}
	if !bytes.HasPrefix(target, []byte("/")) {
		before = ""
	}
	return bytes.Join([][]byte{method, []byte(" " + before), target, crlf, rest}, nil)
}
