package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2/hpack"
)

// h2Lint reads an HTTP/2 connection along with net/http, which resets a stream
// whose header list is no request, or answers it with a 400 of its own, and tells
// nobody. It changes no byte: it follows frames and header compression, and reports what
// net/http will refuse, so that there is an event for it; such a connection waits
// for the event to be on record. What net/http takes comes to the handler, and is none of its business.
type h2Lint struct {
	*tls.Conn
	refused func(f *h2Fields, status int, detail string)
	failed  func(error)
	maxList int // of a header list, as net/http counts it

	frame  [9]byte
	have   int    // of frame
	left   int    // of the payload
	block  []byte // of the header list that is not complete
	open   bool   // a header list is not complete
	heads  bool   // the frame in hand carries a part of it
	pad    bool   // its first byte says how much is padding
	skip   int    // bytes of priority behind that
	padded int    // bytes of padding at its end
	last   uint32 // highest stream
	off    bool   // it is not certain any more what is what
	dec    *hpack.Decoder
	fields h2Fields
}

// Of RFC 9113: the preface of section 3.4, frame types and flags of section 6.
const (
	clientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

	frameHeaders      = 0x1
	frameContinuation = 0x9
	flagEndHeaders    = 0x4
	flagPadded        = 0x8
	flagPriority      = 0x20
)

// maxBlock bounds a compressed header list. net/http ends a connection that sends
// more than twice what it would take.
const maxBlock = 512 << 10

// h2Fields is what a header list says, as far as it is looked at.
type h2Fields struct {
	method, scheme, path, authority, protocol string

	seen     [5]bool // the pseudo fields above
	regular  bool    // a field that is none
	te       int
	size     int
	tooLarge bool
	host     string
	detail   string // why net/http resets the stream
	hop      string // why it answers 400
}

// Read gives what the connection gives.
func (l *h2Lint) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if !l.off {
		l.watch(p[:n])
	}
	return n, err
}

// watch follows. A fault of ours costs the connection, not the process: net/http
// reads in a goroutine that does not recover.
func (l *h2Lint) watch(b []byte) {
	defer func() {
		if p := recover(); p != nil {
			l.off, l.block, l.dec = true, nil, nil
			_ = l.Conn.Close()
			l.failed(fmt.Errorf("read along with HTTP/2: panic: %v", p))
		}
	}()
	l.follow(b)
}

// follow takes bytes behind the connection preface.
func (l *h2Lint) follow(b []byte) {
	for len(b) > 0 && !l.off {
		if l.have < len(l.frame) {
			n := copy(l.frame[l.have:], b)
			l.have, b = l.have+n, b[n:]
			if l.have == len(l.frame) {
				l.begin()
			}
			continue
		}
		n := min(l.left, len(b))
		l.payload(b[:n])
		b, l.left = b[n:], l.left-n
		if l.left == 0 && !l.off {
			l.end()
		}
	}
}

func (l *h2Lint) stream() uint32 {
	return (uint32(l.frame[5])<<24 | uint32(l.frame[6])<<16 | uint32(l.frame[7])<<8 | uint32(l.frame[8])) & (1<<31 - 1)
}

// begin looks at a frame's header (RFC 9113 section 4.1).
func (l *h2Lint) begin() {
	l.left = int(l.frame[0])<<16 | int(l.frame[1])<<8 | int(l.frame[2])
	kind, flags := l.frame[3], l.frame[4]
	l.heads, l.pad, l.skip, l.padded = false, false, 0, 0
	switch {
	case l.open != (kind == frameContinuation):
		l.broken() // section 6.10: nothing comes between them, and nothing continues nothing
		return
	case kind == frameHeaders:
		l.heads, l.open, l.block = true, true, l.block[:0]
		l.pad = flags&flagPadded != 0
		if flags&flagPriority != 0 {
			l.skip = 5
		}
	case kind == frameContinuation:
		l.heads = true
	}
	if l.left == 0 {
		l.end()
	}
}

func (l *h2Lint) payload(b []byte) {
	if !l.heads || len(b) == 0 {
		return
	}
	if l.pad {
		l.padded, l.pad, b = int(b[0]), false, b[1:]
	}
	n := min(l.skip, len(b))
	l.skip -= n
	if l.block = append(l.block, b[n:]...); len(l.block) > maxBlock {
		l.broken()
	}
}

// end is the end of a frame.
func (l *h2Lint) end() {
	l.have = 0
	if !l.heads {
		return
	}
	if l.padded > len(l.block) {
		l.broken()
		return
	}
	l.block = l.block[:len(l.block)-l.padded]
	if l.frame[4]&flagEndHeaders == 0 {
		return
	}
	l.open = false
	l.list()
	if cap(l.block) > 4<<10 {
		l.block = nil
	}
}

// broken is framing that net/http ends the connection for.
func (l *h2Lint) broken() {
	l.off, l.block, l.dec = true, nil, nil
	l.refused(&h2Fields{}, http.StatusBadRequest, "the HTTP/2 framing is broken")
}

// list judges a header list that is complete.
func (l *h2Lint) list() {
	l.fields = h2Fields{}
	if _, err := l.dec.Write(l.block); err != nil {
		l.broken()
		return
	}
	if err := l.dec.Close(); err != nil {
		l.broken()
		return
	}
	id := l.stream()
	if id <= l.last {
		return // trailers: their request has been to the handler
	}
	l.last = id
	f := &l.fields
	switch {
	case f.tooLarge && f.detail == "":
		l.refused(f, http.StatusRequestHeaderFieldsTooLarge, "the header list is too large")
	case f.reset() != "":
		l.refused(f, http.StatusBadRequest, f.reset())
	case f.hop != "":
		l.refused(f, http.StatusBadRequest, f.hop)
	case f.te > 1:
		l.refused(f, http.StatusBadRequest, "TE stands several times")
	}
}

// field is one field of a list, as it is decompressed.
func (l *h2Lint) field(hf hpack.HeaderField) {
	f := &l.fields
	if f.detail != "" || f.tooLarge {
		return
	}
	if !httpguts.ValidHeaderFieldValue(hf.Value) {
		f.detail = "a header value holds a control character"
		return
	}
	if f.size += int(hf.Size()); f.size > l.maxList {
		f.tooLarge = true
		return
	}
	if strings.HasPrefix(hf.Name, ":") {
		f.pseudo(hf)
		return
	}
	f.regular = true
	switch hf.Name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		f.hop = "the header " + hf.Name + " is none of HTTP/2"
	case "te":
		if f.te++; hf.Value != "trailers" && hf.Value != "" {
			f.hop = "TE says more than trailers"
		}
	case "host":
		if f.host == "" {
			f.host = hf.Value
		}
	default:
		for i := 0; i < len(hf.Name); i++ {
			if c := hf.Name[i]; 'A' <= c && c <= 'Z' || !httpguts.IsTokenRune(rune(c)) {
				f.detail = "the header name " + printable(hf.Name) + " is not in lower case, or no token"
				return
			}
		}
		if hf.Name == "" {
			f.detail = "a header has no name"
		}
	}
}

func (f *h2Fields) pseudo(hf hpack.HeaderField) {
	if f.regular {
		f.detail = "the pseudo field " + printable(hf.Name) + " stands behind others"
		return
	}
	for i, p := range [...]struct {
		name string
		to   *string
	}{{":method", &f.method}, {":scheme", &f.scheme}, {":path", &f.path}, {":authority", &f.authority}, {":protocol", &f.protocol}} {
		if hf.Name != p.name {
			continue
		}
		if f.seen[i] {
			f.detail = "the pseudo field " + p.name + " stands twice"
			return
		}
		f.seen[i], *p.to = true, hf.Value
		return
	}
	f.detail = "there is no pseudo field " + printable(hf.Name)
}

// reset says why net/http resets the stream, "" where it does not.
func (f *h2Fields) reset() string {
	switch {
	case f.detail != "":
		return f.detail
	case f.protocol != "":
		return "an extended CONNECT is not spoken here"
	case f.method == http.MethodConnect:
		if f.path != "" || f.scheme != "" || f.authority == "" && f.host == "" {
			return "a CONNECT names :authority and nothing else"
		}
		return ""
	case f.method == "":
		return "there is no :method"
	case f.path == "":
		return "there is no :path"
	case f.scheme != "http" && f.scheme != "https":
		return "the :scheme is neither http nor https"
	case strings.IndexByte(f.authority, '@') >= 0, f.authority == "" && strings.IndexByte(f.host, '@') >= 0:
		return "the :authority carries user information"
	}
	if _, err := url.ParseRequestURI(f.path); err != nil {
		return "the :path cannot be read"
	}
	return ""
}

// clearTLS is a connection of which net/http's HTTP/2 server takes the plain side.
type clearTLS struct{ net.Conn }

// UnencryptedNetConn is what net/http asks of the connection inside a tls.Conn that
// stands for HTTP/2 without TLS. Ours has TLS, and has been greeted already.
func (c clearTLS) UnencryptedNetConn() net.Conn { return c.Conn }

// lintH2 puts the lint before srv's HTTP/2.
func (s *Server) lintH2(srv *http.Server) error {
	// net/http sets its protocols up when it begins to serve.
	_ = srv.Serve(nobody{})
	serve := srv.TLSNextProto["unencrypted_http2"]
	if serve == nil {
		return errors.New("net/http has no HTTP/2 that takes a connection from elsewhere")
	}
	srv.TLSNextProto["h2"] = func(hs *http.Server, c *tls.Conn, h http.Handler) {
		p, ok := c.NetConn().(*peekedConn)
		if !ok {
			_ = c.Close()
			return
		}
		if greeted, sent := greetedH2(c, s.opt.ReadHeaderTimeout); !greeted {
			if sent {
				s.unopened(context.Background(), p.door, "The connection does not begin as HTTP/2 does, which it asked for.")
			}
			_ = c.Close()
			return
		}
		d := p.door
		l := &h2Lint{Conn: c, maxList: 2*s.opt.MaxHeaderBytes + 10*32, refused: func(f *h2Fields, status int, detail string) { s.refusedH2(d, f, status, detail) }, failed: func(err error) { s.gate.Fault("panic", err) }}
		l.dec = hpack.NewDecoder(4096, l.field)
		serve(hs, tls.Client(clearTLS{l}, nil), h)
	}
	return nil
}

// greetedH2 reads the connection preface (RFC 9113 section 3.4); sent says that
// something was there.
func greetedH2(c *tls.Conn, within time.Duration) (greeted, sent bool) {
	var preface [len(clientPreface)]byte
	_ = c.SetReadDeadline(time.Now().Add(within))
	n, err := io.ReadFull(c, preface[:])
	_ = c.SetReadDeadline(time.Time{})
	return err == nil && string(preface[:]) == clientPreface, n > 0
}

// refusedH2 records what net/http refuses by itself.
func (s *Server) refusedH2(d *doorway, f *h2Fields, status int, detail string) {
	code := ReasonMalformed
	if status == http.StatusRequestHeaderFieldsTooLarge {
		code = ReasonHeadTooLarge
	}
	authority := f.authority
	if authority == "" {
		authority = f.host
	}
	h := head{host: authority}
	h.find(detail)
	req := s.headless(d, strings.ReplaceAll(f.method, " ", "")+" "+strings.ReplaceAll(f.path, " ", "")+" HTTP/2.0", h)
	if refusal := s.gate.Reject(context.Background(), req, status, code, "The request head is not well-formed HTTP/2: "+detail+"."); refusal != nil {
		s.logRefusal(req, refusal, time.Now())
	}
}

// nobody is a listener to which nobody comes.
type nobody struct{}

func (nobody) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (nobody) Close() error              { return nil }
func (nobody) Addr() net.Addr            { return &net.TCPAddr{} }
