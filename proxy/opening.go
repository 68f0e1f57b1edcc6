package proxy

import "bytes"

// opening is what the first bytes of a client inside a CONNECT begin.
type opening uint8

const (
	beginsUnsure opening = iota // more bytes are needed to tell
	beginsTLS
	beginsHTTP
	beginsOther // nothing that can be inspected
)

const (
	recordHandshake = 0x16 // TLS record type (RFC 8446 section 5.1)

	// Lengths up to which the parts of a request line's beginning are waited for.
	maxBlank, maxMethod, maxScheme = 256, 32, 16
)

// openingOf tells TLS and HTTP/1 from the rest. HTTP is a method and a target,
// as servers read them and not only as RFC 9112 writes them: empty lines before
// the request line (section 2.2) and several blanks after the method are passed
// over by some, and a request that is taken for another protocol would go to them
// unseen. What then is no proper request is for the lint and net/http to refuse.
// "SSH-2.0-OpenSSH_9.2 Debian" and "EHLO host" are no requests.
func openingOf(b []byte) opening {
	if len(b) > 0 && b[0] == recordHandshake {
		return beginsTLS
	}
	line := bytes.TrimLeft(b, "\r\n")
	if len(line) == 0 {
		if len(b) > maxBlank {
			return beginsHTTP // no other protocol does that, and an HTTP server waits on
		}
		return beginsUnsure
	}
	i := 0
	for i < len(line) && i <= maxMethod && isTokenByte(line[i]) {
		i++
	}
	switch {
	case i == len(line) && i <= maxMethod:
		return beginsUnsure
	case i == 0 || i > maxMethod || line[i] != ' ' && line[i] != '\t':
		return beginsOther
	}
	target := bytes.TrimLeft(line[i:], " \t")
	if len(target) == 0 {
		if len(line)-i > maxBlank {
			return beginsHTTP
		}
		return beginsUnsure
	}
	if target[0] == '/' || target[0] == '*' {
		return beginsHTTP
	}
	n := 0
	for n < len(target) && n <= maxScheme && isLetter(target[n]) {
		n++
	}
	if n == 0 || n > maxScheme {
		return beginsOther
	}
	rest := target[n:]
	const sep = "://"
	switch {
	case bytes.HasPrefix(rest, []byte(sep)):
		return beginsHTTP
	case len(rest) < len(sep) && sep[:len(rest)] == string(rest):
		return beginsUnsure
	}
	return beginsOther
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// isTokenByte follows RFC 9110 section 5.6.2.
func isTokenByte(c byte) bool {
	return isLetter(c) || '0' <= c && c <= '9' || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) >= 0
}

// opening reads, without taking anything, until it is sure what the client
// begins or reading ends.
func (p *peekedConn) opening() (opening, error) {
	for {
		if o := openingOf(p.prefix); o != beginsUnsure {
			return o, nil
		}
		if _, err := p.peek(len(p.prefix) + 1); err != nil {
			return openingOf(p.prefix), err
		}
	}
}
