package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Calls to an HTTP/1.1 upstream whose body was read whole are written and read by
// the goroutine that serves them. net/http's Transport has two goroutines for each
// connection and hands every call to them and back, because a body may stream and
// an answer may come before its end; neither is so here. Everything else (HTTP/2,
// streaming bodies, upgrades, calls that a human approved) goes by net/http.

const (
	upIdleTimeout = 90 * time.Second
	upIdlePerHost = 512
	upIdle        = 2048
	// upMaxBody bounds what is written before the answer is read: an upstream
	// that answers without reading must not leave both sides writing.
	upMaxBody = 64 << 10
	// upMaxHeader bounds an answer's head, its interim answers included.
	upMaxHeader = 1 << 20
	// maxInterim bounds the 1xx answers before the one that counts.
	maxInterim = 5
)

// upConns keeps the connections to upstreams that speak HTTP/1.1.
type upConns struct {
	dialer   *dialer
	patience time.Duration // for the head of an answer

	mu     sync.Mutex
	idle   map[string][]*upConn // by scheme and address; the last one came back last
	count  int                  // of idle ones
	http1  map[string]bool      // TLS hosts that chose HTTP/1.1
	sweeps *time.Timer          // nil: nothing is idle
}

// upConn is one connection. It belongs to one call at a time.
type upConn struct {
	conn  net.Conn
	raw   net.Conn // below TLS
	in    *bufio.Reader
	left  int64 // how much more may be read; the head of an answer is bounded
	used  bool  // for a call before this one
	since time.Time
}

func newUpConns(d *dialer, patience time.Duration) *upConns {
	return &upConns{dialer: d, patience: patience, idle: map[string][]*upConn{}, http1: map[string]bool{}}
}

var errAnswerHead = fmt.Errorf("the head of the answer is larger than %d bytes", upMaxHeader)

// Read is what in reads from.
func (c *upConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errAnswerHead
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.conn.Read(p)
	c.left -= int64(n)
	return n, err
}

// learn takes note of what a TLS host chose.
func (p *upConns) learn(addr, proto string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if proto == "" || proto == "http/1.1" {
		if len(p.http1) > 4096 {
			clear(p.http1) // it is learned again
		}
		p.http1[addr] = true
		return
	}
	delete(p.http1, addr)
}

// speaks says whether calls to addr may come here.
func (p *upConns) speaks(scheme, addr string) bool {
	if scheme == "http" {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.http1[addr]
}

// take gives an idle connection that is still open, or nil.
func (p *upConns) take(key string) *upConn {
	for {
		p.mu.Lock()
		list := p.idle[key]
		if len(list) == 0 {
			p.mu.Unlock()
			return nil
		}
		c := list[len(list)-1]
		list[len(list)-1] = nil
		p.idle[key] = list[:len(list)-1]
		p.count--
		p.mu.Unlock()
		// Nobody watches an idle connection, so it is looked at now: one that the
		// upstream has closed, or said something on, is of no use.
		if time.Since(c.since) < upIdleTimeout && silent(c.raw) {
			return c
		}
		_ = c.raw.Close()
	}
}

// put keeps a connection for the next call.
func (p *upConns) put(key string, c *upConn) {
	c.used, c.since = true, time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count >= upIdle || len(p.idle[key]) >= upIdlePerHost {
		_ = c.raw.Close()
		return
	}
	p.idle[key] = append(p.idle[key], c)
	p.count++
	if p.sweeps == nil {
		p.sweeps = time.AfterFunc(upIdleTimeout, p.sweep)
	}
}

// sweep closes what has been idle for long.
func (p *upConns) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(time.Now().Add(-upIdleTimeout / 2))
	p.sweeps = nil
	if p.count > 0 {
		p.sweeps = time.AfterFunc(upIdleTimeout/2, p.sweep)
	}
}

// closeIdle closes every idle connection.
func (p *upConns) closeIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(time.Now())
}

// drop closes what has been idle since before t. p.mu is held.
func (p *upConns) drop(t time.Time) {
	for key, list := range p.idle {
		old := 0
		for old < len(list) && !list[old].since.After(t) {
			_ = list[old].raw.Close()
			old++
		}
		p.count -= old
		if list = slices.Delete(list, 0, old); len(list) == 0 {
			delete(p.idle, key)
		} else {
			p.idle[key] = list
		}
	}
}

func (p *upConns) dial(ctx context.Context, scheme, addr string) (*upConn, error) {
	c := &upConn{}
	var err error
	if scheme == "https" {
		c.conn, err = p.dialer.dialTLS(ctx, addr, []string{"http/1.1"})
	} else {
		c.conn, err = p.dialer.dial(ctx, addr)
	}
	if err != nil {
		return nil, err
	}
	c.raw = c.conn
	if t, ok := c.conn.(interface{ NetConn() net.Conn }); ok {
		c.raw = t.NetConn()
	}
	c.in = bufio.NewReaderSize(c, 8<<10)
	return c, nil
}

// upCall is what is sent: from what was judged, without a detour.
type upCall struct {
	method, scheme, addr string
	bytes                []byte // head and body
	counted              bool   // must not be written again; see gate.Outbound
}

// roundTrip sends the call and reads the head of the answer. Errors before the
// first byte was sent are *dialError.
//
// A kept connection may turn out to be dead. The call is sent on another one if
// nothing of it was written, or if the method is safe (RFC 9110 section 9.2.2),
// nothing of an answer has come, and the call is not counted.
func (p *upConns) roundTrip(ctx context.Context, call *upCall) (*http.Response, error) {
	key := call.scheme + " " + call.addr
	var lost error // of a connection on which it was written
	if c := p.take(key); c != nil {
		resp, then, err := p.try(ctx, key, c, call)
		if then == over || ctx.Err() != nil {
			return resp, err
		}
		if then == written {
			lost = err
		}
	}
	c, err := p.dial(ctx, call.scheme, call.addr)
	if err != nil && lost != nil {
		return nil, lost // not that of the dial, which says that nothing was sent
	}
	if err != nil {
		return nil, err
	}
	resp, _, err := p.try(ctx, key, c, call)
	return resp, err
}

// next is what may follow an attempt.
type next uint8

const (
	over    next = iota // nothing: it is answered, or failed
	unsent              // another attempt: nothing was written
	written             // another attempt, though this one may have arrived
)

func (p *upConns) try(ctx context.Context, key string, c *upConn, call *upCall) (resp *http.Response, then next, err error) {
	// Who waits for the answer may go away: then nobody needs the connection.
	stop := context.AfterFunc(ctx, func() { _ = c.raw.Close() })
	defer func() {
		if err != nil {
			stop()
			_ = c.raw.Close()
		}
	}()
	wrote, err := c.conn.Write(call.bytes)
	if err != nil && wrote == 0 && c.used {
		return nil, unsent, err
	}
	wait := p.patience
	if err != nil {
		// It may have answered before it hung up; what it said is worth more.
		wait = min(wait, 50*time.Millisecond)
	}
	failed := err
	_ = c.conn.SetReadDeadline(time.Now().Add(wait))
	c.left = upMaxHeader
	if _, err = c.in.Peek(1); err != nil {
		if failed != nil {
			err = failed
		}
		if c.used && safe(call.method) && !call.counted && !isTimeout(err) {
			then = written
		}
		return nil, then, noEOF(err)
	}
	asked := &http.Request{Method: call.method}
	for interim := 0; ; interim++ {
		if resp, err = http.ReadResponse(c.in, asked); err != nil {
			return nil, over, noEOF(err)
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			break
		}
		if interim == maxInterim {
			return nil, over, errors.New("too many interim answers")
		}
	}
	if n := resp.ContentLength; n < 0 || n > int64(c.in.Buffered()) {
		_ = c.conn.SetReadDeadline(time.Time{}) // the body may take its time
	}
	c.left = math.MaxInt64
	body := &upBody{ReadCloser: resp.Body, pool: p, key: key, conn: c, stop: stop}
	body.keep = failed == nil && !resp.Close && resp.StatusCode >= 200
	resp.Body = body
	if resp.ContentLength == 0 || bodiless(call.method, resp.StatusCode) {
		body.finish()
	}
	return resp, over, nil
}

func safe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// bodiless says that an answer has no body whatever its head says (RFC 9112
// section 6.3).
func bodiless(method string, status int) bool {
	return method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
}

// noEOF keeps the end of a connection from passing for the end of an answer.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// upBody is the body of an answer. At its end, the connection goes back.
type upBody struct {
	io.ReadCloser
	pool *upConns
	key  string
	conn *upConn // nil: gone back, or closed
	stop func() bool
	keep bool
}

func (b *upBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		b.finish()
	case err != nil:
		_ = b.Close()
	}
	return n, err
}

// finish gives back the connection after the last byte of the answer. What an
// upstream sends beyond it is not an answer to anything.
func (b *upBody) finish() {
	c := b.conn
	if c == nil {
		return
	}
	b.conn = nil
	if !b.stop() || !b.keep || c.in.Buffered() > 0 {
		_ = c.raw.Close()
		return
	}
	b.pool.put(b.key, c)
}

// Close before the end gives up the connection: what is still to come would have
// to be read to use it again.
func (b *upBody) Close() error {
	if c := b.conn; c != nil {
		b.conn = nil
		b.stop()
		_ = c.raw.Close()
	}
	return nil
}

// notCopied are the headers that are written by a rule of their own, or not at all.
var notCopied = map[string]bool{"Host": true, "User-Agent": true, "Content-Length": true, "Transfer-Encoding": true, "Trailer": true}

// appendCall appends a request's head and body as they are sent; a nil body is none.
func appendCall(b []byte, method, target, host string, header http.Header, body []byte) ([]byte, error) {
	b = append(b, method...)
	b = append(b, ' ')
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	b = append(b, "\r\n"...)
	lines := 3 // with the empty one
	if agent := header["User-Agent"]; len(agent) > 0 && agent[0] != "" {
		b = appendHeader(b, "User-Agent", agent[0])
		lines++
	}
	if len(body) > 0 || method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(body)), 10)
		b = append(b, "\r\n"...)
		lines++
	}
	// In one order, whatever a map's is.
	var room [32]string
	names := room[:0]
	for name := range header {
		if !notCopied[name] && (name != "Expect" || body == nil) { // the body is here: nobody needs to wait
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		for _, v := range header[name] {
			b = appendHeader(b, name, v)
			lines++
		}
	}
	b = append(b, "\r\n"...)
	// The head was judged line by line: no value may make another.
	if bytes.Count(b, []byte("\n")) != lines || bytes.Count(b, []byte("\r")) != lines || bytes.IndexByte(b, 0) >= 0 {
		return nil, errors.New("a header holds a line break")
	}
	return append(b, body...), nil
}

// plainHost says that a Host header is a name or an address and perhaps a port.
// What else a call carries in monitor and warn is net/http's to write.
func plainHost(host string) bool {
	for i := range len(host) {
		switch c := host[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_', c == ':', c == '[', c == ']':
		default:
			return false
		}
	}
	return host != ""
}

func appendHeader(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

var upBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}
