package proxy

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/actpass/sidecar/mapping"
)

// lintConn reads an HTTP/1 connection ahead of net/http and notes what
// net/http repairs in silence: two framings, two spellings of a line end,
// folded lines, two lengths. It changes no byte. A request head is held back
// until it is complete, so that what was found is known before the handler runs.
//
// To find heads it follows the framing of bodies exactly as net/http does. Once
// it is no longer sure, it reports nothing more, and next answers false: a
// request without a lint is refused. (One byte changes: see readable.)
type lintConn struct {
	net.Conn
	door        *doorway
	maxHead     int
	headTimeout time.Duration
	// rejected answers in place of net/http, which writes its own 400 without
	// telling anyone. It gets the head that was refused and net/http's answer.
	rejected func(c *lintConn, h *head, answer []byte) []byte

	aside *aside // the call that goes on when net/http serves the connection again

	// Of the reading side.
	again  []byte            // was linted, and is handed out first: see aside
	buf    []byte            // received, not handed out
	pooled *[lintBuffer]byte // where buf began, if it came from the pool
	ready  int               // leading bytes of buf that may be handed out
	state  lintState
	left   uint64 // of the body or chunk
	err    error  // to be returned once buf is empty

	mu       sync.Mutex
	heads    []head    // linted, not yet taken by the handler
	serving  bool      // a handler has taken a head and its answer is not finished
	fault    string    // what is wrong with the chunked body that is being read
	partial  time.Time // since when an incomplete head waits; zero: none does
	deadline time.Time // as net/http set it
	extended bool      // it was, after a stall
	applied  time.Time // as the connection below has it
	reading  bool      // in a Read below
	parked   bool      // in a Read that has not begun below; see park
	unpark   chan bool // true: a deadline ends the wait
	patience *time.Timer
}

type lintState uint8

const (
	lintHead lintState = iota
	lintBody
	lintChunkSize
	lintChunkData
	lintChunkEnd
	lintTrailer
	lintRaw // bytes pass unread: a tunnel, or framing that is not certain
)

// maxChunkLine bounds one line of chunk framing or of a trailer.
const maxChunkLine = 4096

// head is what was seen of one request head.
type head struct {
	line            string // request line
	target          string // as sent, where net/http could not have read it; see readable
	host            string // of the Host header, as sent
	hasCacheControl bool
	close           bool // the connection must not be used after this request
	tooLarge        bool
	findings        []mapping.Ambiguity
}

func (h *head) find(detail string) {
	h.findings = append(h.findings, mapping.Ambiguity{Class: mapping.ClassHeader, Detail: detail, Status: http.StatusBadRequest})
	h.close = true
}

// next takes the lint of the request that the handler is about to serve.
func (c *lintConn) next() (head, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serving = true
	if len(c.heads) == 0 {
		return head{}, false
	}
	h := c.heads[0]
	n := copy(c.heads, c.heads[1:])
	c.heads[n] = head{}
	c.heads = c.heads[:n]
	return h, true
}

// idle says that the answer to the last request is complete.
func (c *lintConn) idle() {
	c.mu.Lock()
	c.serving = false
	c.mu.Unlock()
}

// bodyFault is what was wrong with the chunk framing so far, "" for nothing.
func (c *lintConn) bodyFault() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fault
}

// release stops linting and returns the bytes that were read and not handed
// out. Only after the connection was hijacked: nobody else reads then.
func (c *lintConn) release() []byte {
	c.state = lintRaw
	_ = c.SetReadDeadline(time.Time{})
	c.mu.Lock()
	_ = c.apply() // who reads below now does not ask here
	c.mu.Unlock()
	rest := append(c.again, c.buf...)
	c.again, c.ready = nil, 0
	c.drop()
	return rest
}

// CloseWrite half-closes, where the connection below can.
func (c *lintConn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}

// Write replaces net/http's own refusal of a malformed head by ours. Every
// other write belongs to a handler and passes.
func (c *lintConn) Write(p []byte) (int, error) {
	if c.rejected == nil {
		return c.Conn.Write(p)
	}
	c.mu.Lock()
	serving := c.serving
	var h *head
	if !serving && len(c.heads) > 0 {
		h = &c.heads[0]
	}
	c.mu.Unlock()
	if serving || !bytes.HasPrefix(p, []byte("HTTP/1.")) {
		return c.Conn.Write(p)
	}
	if h == nil {
		h = &head{}
	}
	if answer := c.rejected(c, h, p); answer != nil {
		if _, err := c.Conn.Write(answer); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// Read hands out linted bytes.
func (c *lintConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(c.again) > 0 {
		n := copy(p, c.again)
		if c.again = c.again[n:]; len(c.again) == 0 {
			c.again = nil
		}
		return n, nil
	}
	for {
		if c.ready > 0 {
			n := copy(p, c.buf[:c.ready])
			c.buf = c.buf[n:]
			c.ready -= n
			if len(c.buf) == 0 {
				c.drop()
			}
			return n, nil
		}
		if c.err != nil {
			return 0, c.err
		}
		if c.state == lintRaw {
			if len(c.buf) > 0 {
				c.ready = len(c.buf)
				continue
			}
			return c.input(p)
		}
		if len(c.buf) == 0 {
			// The usual way: everything that came is complete, and stays where
			// the caller wants it. This also serves net/http's one-byte
			// background read without a buffer.
			n, err := c.input(p)
			ready := c.advance(p[:n])
			if ready < n {
				c.keep(p[ready:n])
				c.setPartial(c.state == lintHead)
			}
			if err != nil {
				if ready == 0 {
					return 0, err
				}
				// The error comes again, or it was a deadline.
			}
			if ready > 0 {
				return ready, nil
			}
			continue
		}
		if c.state == lintHead && len(c.buf) > c.maxHead {
			c.overflow()
			continue
		}
		n, err := c.more()
		if n > 0 {
			c.ready = c.advance(c.buf)
			c.setPartial(c.state == lintHead && c.ready < len(c.buf))
			continue
		}
		if err != nil {
			return 0, err
		}
	}
}

// lintBuffers hold the beginnings of heads. They go back when a head is
// complete, so an idle connection has none.
var lintBuffers = sync.Pool{New: func() any { return new([lintBuffer]byte) }}

const lintBuffer = 4096

// keep starts buf with b.
func (c *lintConn) keep(b []byte) {
	if len(b) > lintBuffer {
		c.buf = append([]byte(nil), b...)
		return
	}
	c.pooled, _ = lintBuffers.Get().(*[lintBuffer]byte)
	c.buf = append(c.pooled[:0], b...)
}

// drop ends buf, which is empty.
func (c *lintConn) drop() {
	c.buf = nil
	if c.pooled != nil {
		lintBuffers.Put(c.pooled)
		c.pooled = nil
	}
}

// more reads into buf.
func (c *lintConn) more() (int, error) {
	if len(c.buf) == cap(c.buf) {
		grown := make([]byte, len(c.buf), 2*cap(c.buf)+1024)
		copy(grown, c.buf)
		c.drop()
		c.buf = grown
	}
	n, err := c.input(c.buf[len(c.buf):cap(c.buf)])
	c.buf = c.buf[:len(c.buf)+n]
	return n, err
}

// overflow gives net/http a head of our own in place of one that is too large,
// so that the refusal takes the same way as every other.
func (c *lintConn) overflow() {
	h := head{tooLarge: true, close: true}
	if i := bytes.IndexByte(c.buf, '\n'); i >= 0 && i < 4096 {
		h.line = strings.TrimSuffix(string(c.buf[:i]), "\r")
	}
	c.push(h)
	c.drop()
	c.buf = []byte("GET / HTTP/1.1\r\nHost: too-large.invalid\r\nConnection: close\r\n\r\n")
	c.ready = len(c.buf)
	c.err = io.EOF
	c.setPartial(false)
}

func (c *lintConn) push(h head) {
	c.mu.Lock()
	c.heads = append(c.heads, h)
	c.mu.Unlock()
}

// advance runs the framing over b, which begins where the last call ended, and
// returns how many leading bytes may be handed out. The rest must be offered
// again, with more behind it.
func (c *lintConn) advance(b []byte) int {
	pos := 0
	for pos < len(b) {
		rest := b[pos:]
		switch c.state {
		case lintRaw:
			return len(b)
		case lintHead:
			n := headLen(rest)
			if n == 0 {
				return pos
			}
			if n > c.maxHead {
				return pos // Read finds it too large
			}
			c.lintHead(rest[:n])
			pos += n
		case lintBody, lintChunkData:
			n := uint64(len(rest))
			if n > c.left {
				n = c.left
			}
			c.left -= n
			pos += int(n)
			if c.left == 0 {
				if c.state == lintBody {
					c.state = lintHead
				} else {
					c.state = lintChunkEnd
				}
			}
		default:
			i := bytes.IndexByte(rest, '\n')
			if i < 0 {
				if len(rest) > maxChunkLine {
					c.chunkFault("a line of the chunked body is too long")
					return len(b)
				}
				return pos
			}
			c.chunkLine(rest[:i])
			pos += i + 1
		}
	}
	return pos
}

// headLen is the length of the head that b begins with, 0 when it is not
// complete. Lines end where net/http ends them: at LF, with or without CR.
func headLen(b []byte) int {
	for at := 0; ; {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return 0
		}
		line := b[at : at+i]
		at += i + 1
		if len(line) == 0 || len(line) == 1 && line[0] == '\r' {
			return at
		}
	}
}

// chunkLine takes one line of chunk framing, without its LF.
func (c *lintConn) chunkLine(line []byte) {
	if len(line) == 0 || line[len(line)-1] != '\r' {
		c.chunkFault("a line of the chunked body ends in a bare LF")
		return
	}
	line = line[:len(line)-1]
	switch c.state {
	case lintChunkSize:
		size, err := strconv.ParseUint(string(line), 16, 63)
		if err != nil || len(line) > 16 || line[0] == '+' || bytes.IndexByte(line, '_') >= 0 {
			detail := "a chunk size is not a hexadecimal number"
			if bytes.IndexByte(line, ';') >= 0 {
				detail = "the chunked body has chunk extensions"
			}
			c.chunkFault(detail)
			return
		}
		c.left = size
		c.state = lintChunkData
		if size == 0 {
			c.state = lintTrailer
		}
	case lintChunkEnd:
		if len(line) != 0 {
			c.chunkFault("a chunk is longer than its size says")
			return
		}
		c.state = lintChunkSize
	case lintTrailer:
		if len(line) == 0 {
			c.state = lintHead
		}
	}
}

func (c *lintConn) chunkFault(detail string) {
	c.mu.Lock()
	c.fault = detail
	c.mu.Unlock()
	c.state = lintRaw
}
