package proxy

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/actpass/sidecar/mapping"
)

// lintHead reads one complete head, empty line included, notes what is
// ambiguous, and finds out how the body is framed.
func (c *lintConn) lintHead(b []byte) {
	var h head
	line, rest, bareLF := cutLine(b)
	if len(line) == 0 {
		// An empty line before a request. net/http skips it after a POST and
		// refuses it elsewhere; either way it is no request of its own.
		return
	}
	h.line = string(line)
	if bytes.IndexByte(line, '\r') >= 0 {
		h.find("the request line holds a bare CR")
	}
	http10 := bytes.HasSuffix(line, []byte(" HTTP/1.0"))
	if h.target = readable(line); h.target != "" {
		h.find("the target has a broken percent escape")
		h.findings[len(h.findings)-1].Class = mapping.ClassPath
	}

	var f framing
	hosts := 0
	upgrade := false
	for {
		var bare bool
		line, rest, bare = cutLine(rest)
		bareLF = bareLF || bare
		if len(line) == 0 {
			break
		}
		if line[0] == ' ' || line[0] == '\t' {
			h.findOnce("a header is folded over two lines")
			continue
		}
		name, value, ok := bytes.Cut(line, []byte{':'})
		if !ok || len(name) == 0 {
			h.findOnce("a header line has no name")
			continue
		}
		if last := name[len(name)-1]; last == ' ' || last == '\t' {
			h.findOnce("a header name is followed by a space")
			name = bytes.TrimRight(name, " \t")
		}
		if hasControl(value) {
			h.findOnce("a header value holds a control character")
		}
		value = bytes.Trim(value, " \t")
		if bytes.IndexByte(name, '_') >= 0 && framingName(name) {
			// To a server that folds underscores the body ends elsewhere, and what is
			// behind it is the next request.
			h.find("the header " + string(name) + " is one of framing to servers that fold underscores")
		}
		switch len(name) {
		case len("Host"):
			if equalFold(name, "host") {
				if hosts++; hosts == 1 {
					h.host = string(value)
				}
			}
		case len("Upgrade"):
			upgrade = upgrade || equalFold(name, "upgrade")
		case len("Cache-Control"):
			h.hasCacheControl = h.hasCacheControl || equalFold(name, "cache-control")
		case len("Content-Length"):
			if equalFold(name, "content-length") {
				f.lengths++
				if f.lengths == 1 {
					f.length = string(value)
				}
			}
		case len("Transfer-Encoding"):
			if equalFold(name, "transfer-encoding") {
				f.encodings++
				if f.encodings == 1 {
					f.encoding = string(value)
				}
			}
		}
	}
	if bareLF {
		h.find("a line of the head ends in a bare LF")
	}
	switch {
	case hosts > 1:
		h.find("there is more than one Host header")
	case hosts == 1 && h.host == "":
		h.find("the Host header is empty")
	case hosts == 0 && !http10:
		h.find("there is no Host header")
	}
	c.frame(&h, f, http10)
	if strings.HasPrefix(h.line, "CONNECT ") {
		if f.encodings > 0 || f.lengths > 0 && f.length != "0" {
			h.find("a CONNECT request has a body")
		}
		c.state = lintRaw
	} else if upgrade && c.state != lintHead {
		// A body in front of another protocol: whose bytes are whose is not
		// worth guessing.
		h.find("a request that asks for an upgrade has a body")
	}
	c.mu.Lock()
	c.fault = ""
	c.mu.Unlock()
	c.push(h)
}

// readable makes a target with broken percent escapes one that net/http reads, in
// place and of the same length, and gives it as it was sent; "" where nothing had to
// change. net/http would answer such a request itself, in every mode, though there
// are servers that take it: it is for the check to say what it is.
func readable(line []byte) (sent string) {
	method, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok || string(method) == "CONNECT" {
		return ""
	}
	target, _, _ := bytes.Cut(rest, []byte{' '})
	path := target
	if len(path) > 0 && path[0] != '/' {
		i := bytes.Index(path, []byte("://"))
		if i < 0 {
			return ""
		}
		path = path[i+3:]
		if i = bytes.IndexByte(path, '/'); i < 0 {
			return ""
		}
		path = path[i:]
	}
	path, _, _ = bytes.Cut(path, []byte{'?'})
	for i, c := range path {
		if c == '%' && (i+2 >= len(path) || !isHexByte(path[i+1]) || !isHexByte(path[i+2])) {
			if sent == "" {
				sent = string(target)
			}
			path[i] = 'x'
		}
	}
	return sent
}

func isHexByte(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}

// framingName says whether a name with underscores is one of framing with dashes.
func framingName(name []byte) bool {
	dashed := bytes.ReplaceAll(name, []byte{'_'}, []byte{'-'})
	switch len(dashed) {
	case len("Content-Length"):
		return equalFold(dashed, "content-length")
	case len("Transfer-Encoding"):
		return equalFold(dashed, "transfer-encoding")
	}
	return false
}

// framing is what the head says about the body.
type framing struct {
	lengths, encodings int
	length, encoding   string // the first of each
}

// frame sets the state for the body, as net/http will read it (readTransfer).
// Where the two could part, the state is raw.
func (c *lintConn) frame(h *head, f framing, http10 bool) {
	c.state = lintHead
	if f.encodings > 0 {
		if f.lengths > 0 {
			h.find("there is a Transfer-Encoding and a Content-Length")
		}
		if f.encodings > 1 || f.encoding != "chunked" {
			h.find("the Transfer-Encoding is not exactly chunked")
		}
		if http10 {
			h.find("an HTTP/1.0 request has a Transfer-Encoding")
		}
		if h.close {
			c.state = lintRaw
			return
		}
		c.state = lintChunkSize
		return
	}
	if f.lengths == 0 {
		return
	}
	if f.lengths > 1 {
		h.find("there is more than one Content-Length")
	}
	n, err := strconv.ParseUint(f.length, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != f.length {
		h.find("the Content-Length is not a plain decimal number")
	}
	if h.close {
		c.state = lintRaw
		return
	}
	if n > 0 {
		c.left, c.state = n, lintBody
	}
}

// findOnce is find, unless the same was found in this head already.
func (h *head) findOnce(detail string) {
	for _, f := range h.findings {
		if f.Detail == detail {
			return
		}
	}
	h.find(detail)
}

func cutLine(b []byte) (line, rest []byte, bareLF bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return b, nil, true
	}
	line, rest = b[:i], b[i+1:]
	if len(line) > 0 && line[len(line)-1] == '\r' {
		return line[:len(line)-1], rest, false
	}
	return line, rest, true
}

func hasControl(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}

func equalFold(b []byte, lower string) bool {
	for i := range b {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
