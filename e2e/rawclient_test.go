package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// patience is how long a raw client waits for anything.
const patience = 15 * time.Second

// reply is what came back for one request, as it stood on the wire.
type reply struct {
	status  int
	header  http.Header
	body    []byte
	trailer []string // names
	closes  bool     // the connection is not to be used again
	reset   string   // HTTP/2: the stream was reset, and why
	gone    bool     // the connection was closed without an answer
}

func (r reply) String() string {
	return fmt.Sprintf("%d closes=%v reset=%q gone=%v %.300s", r.status, r.closes, r.reset, r.gone, r.body)
}

// decision is the decision object of a refusal, in whichever of our three JSON
// shapes it came.
func (r reply) decision() (d struct {
	Decision   string `json:"decision"`
	ReasonCode string `json:"reason_code"`
	Evidence   string `json:"evidence_event_id"`
	Tool       string `json:"tool"`
}, err error,
) {
	var shapes struct {
		Error struct {
			ActPass json.RawMessage `json:"actpass"`
			Data    json.RawMessage `json:"data"`
		} `json:"error"`
	}
	if err := json.Unmarshal(r.body, &shapes); err != nil {
		return d, fmt.Errorf("the body is not JSON: %w", err)
	}
	object := r.body
	switch {
	case shapes.Error.ActPass != nil:
		object = shapes.Error.ActPass
	case shapes.Error.Data != nil:
		object = shapes.Error.Data
	}
	return d, json.Unmarshal(object, &d)
}

// h1 is a connection on which HTTP/1 is written byte for byte.
type h1 struct {
	net.Conn
	r *bufio.Reader
}

func newH1(c net.Conn) *h1 { return &h1{c, bufio.NewReader(c)} }

func dialH1(t testing.TB, addr string) *h1 {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, patience)
	must(t, err)
	return newH1(c)
}

// ask writes raw and reads one answer. The writing goes on beside the reading:
// a server may answer, and close, before it has read everything.
func (c *h1) ask(raw []byte, method string) (reply, error) {
	_ = c.SetDeadline(time.Now().Add(patience))
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_, _ = c.Write(raw)
	}()
	rep, err := c.answer(method)
	if err != nil || rep.closes || rep.gone {
		_ = c.Close()
	}
	<-wrote
	return rep, err
}

// answer reads one answer.
func (c *h1) answer(method string) (reply, error) {
	for {
		resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				return reply{}, err
			}
			return reply{gone: true, closes: true}, nil
		}
		if resp.StatusCode == http.StatusContinue {
			continue
		}
		r := reply{status: resp.StatusCode, header: resp.Header, closes: resp.Close}
		if method == http.MethodConnect && resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusSwitchingProtocols {
			r.closes = false // it goes on, as something else
			return r, nil
		}
		r.body, err = io.ReadAll(resp.Body)
		for name := range resp.Trailer {
			r.trailer = append(r.trailer, name)
		}
		return r, err
	}
}

// connectTo opens a CONNECT tunnel through the front door.
func (sc *sidecar) connectTo(t testing.TB, target string, header ...string) *h1 {
	t.Helper()
	c := dialH1(t, sc.proxy)
	r, err := c.ask([]byte("CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n"+strings.Join(append(header, ""), "\r\n")+"\r\n"), http.MethodConnect)
	must(t, err)
	if r.status != http.StatusOK {
		t.Fatalf("CONNECT %s: %s", target, r)
	}
	_ = c.SetDeadline(time.Time{})
	return c
}

// insideTLS opens an intercepted connection that speaks proto.
func (sc *sidecar) insideTLS(t testing.TB, host, proto string) *tls.Conn {
	t.Helper()
	return sc.handshake(t, sc.connectTo(t, host+":443").Conn, host, proto)
}

// handshake speaks TLS with the sidecar in the name of host.
func (sc *sidecar) handshake(t testing.TB, c net.Conn, host, proto string) *tls.Conn {
	t.Helper()
	conn := tls.Client(c, &tls.Config{RootCAs: sc.caPool(t), ServerName: host, NextProtos: []string{proto}})
	_ = conn.SetDeadline(time.Now().Add(patience))
	must(t, conn.Handshake())
	if got := conn.ConnectionState().NegotiatedProtocol; got != proto {
		t.Fatalf("ALPN gave %q, want %q", got, proto)
	}
	return conn
}

// h2 is an HTTP/2 connection on which header lists are written as they are
// given, sound or not.
type h2 struct {
	net.Conn
	framer  *http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
	next    uint32 // stream
	window  int64  // of the connection
	initial int64  // of a new stream
}

func newH2(t testing.TB, c net.Conn) *h2 {
	t.Helper()
	h := &h2{Conn: c, next: 1, window: 65535, initial: 65535}
	_, err := io.WriteString(c, http2.ClientPreface)
	must(t, err)
	h.framer = http2.NewFramer(c, c)
	h.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.framer.AllowIllegalWrites = true
	h.encoder = hpack.NewEncoder(&h.block)
	must(t, h.framer.WriteSettings())
	// Wait for the server's settings: they say how much may be sent.
	_ = c.SetDeadline(time.Now().Add(patience))
	for {
		f, err := h.framer.ReadFrame()
		must(t, err)
		if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
			h.settings(s)
			return h
		}
		h.credit(f)
	}
}

func (h *h2) settings(s *http2.SettingsFrame) {
	if v, ok := s.Value(http2.SettingInitialWindowSize); ok {
		h.initial = int64(v)
	}
	_ = h.framer.WriteSettingsAck()
}

func (h *h2) credit(f http2.Frame) int64 {
	if w, ok := f.(*http2.WindowUpdateFrame); ok {
		if w.StreamID == 0 {
			h.window += int64(w.Increment)
			return 0
		}
		return int64(w.Increment)
	}
	return 0
}

// ask sends one stream and reads until it ends. A trailer list may follow the
// body.
func (h *h2) ask(fields [][2]string, body []byte, trailer ...[2]string) (reply, error) {
	_ = h.SetDeadline(time.Now().Add(patience))
	id := h.next
	h.next += 2
	if err := h.headers(id, fields, len(body) == 0 && len(trailer) == 0); err != nil {
		return reply{gone: true, closes: true}, nil //nolint:nilerror // the peer hung up: that is an answer
	}
	rep := reply{header: http.Header{}}
	window := h.initial
	ended, sent := len(body) == 0 && len(trailer) == 0, 0
	for {
		for !ended && sent < len(body) && min(window, h.window) > 0 {
			n := min(len(body)-sent, 16384, int(window), int(h.window))
			last := sent+n == len(body)
			if h.framer.WriteData(id, last && len(trailer) == 0, body[sent:sent+n]) != nil {
				ended = true // read what it had to say
				break
			}
			sent += n
			window -= int64(n)
			h.window -= int64(n)
			ended = last && len(trailer) == 0
		}
		if !ended && sent == len(body) {
			ended = true
			if err := h.headers(id, trailer, true); err != nil {
				return reply{gone: true, closes: true}, nil //nolint:nilerror // as above
			}
		}
		f, err := h.framer.ReadFrame()
		var se http2.StreamError
		switch {
		case errors.As(err, &se):
			return rep, err
		case err != nil:
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				return rep, err
			}
			rep.gone, rep.closes = true, true
			return rep, nil
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				h.settings(f)
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = h.framer.WritePing(true, f.Data)
			}
		case *http2.GoAwayFrame:
			rep.closes = true
			if f.ErrCode != http2.ErrCodeNo {
				rep.reset = f.ErrCode.String()
				return rep, nil
			}
		case *http2.RSTStreamFrame:
			if f.StreamID != id {
				continue
			}
			if rep.status == 0 {
				rep.reset = f.ErrCode.String()
			}
			return rep, nil
		case *http2.MetaHeadersFrame:
			if f.StreamID != id {
				continue
			}
			trailing := rep.status != 0
			for _, hf := range f.Fields {
				if trailing {
					rep.trailer = append(rep.trailer, http.CanonicalHeaderKey(hf.Name))
					continue
				}
				if hf.Name == ":status" {
					_, _ = fmt.Sscan(hf.Value, &rep.status)
					continue
				}
				rep.header.Add(hf.Name, hf.Value)
			}
			if rep.status/100 == 1 {
				rep.status = 0
			}
			if f.StreamEnded() {
				return rep, h.stop(id, ended)
			}
		case *http2.DataFrame:
			if n := len(f.Data()); n > 0 {
				_ = h.framer.WriteWindowUpdate(0, uint32(n))
			}
			if f.StreamID != id {
				continue
			}
			rep.body = append(rep.body, f.Data()...)
			if f.StreamEnded() {
				return rep, h.stop(id, ended)
			}
		default:
			window += h.credit(f)
		}
	}
}

// stop gives up a stream that was answered before it was sent.
func (h *h2) stop(id uint32, ended bool) error {
	if ended {
		return nil
	}
	return h.framer.WriteRSTStream(id, http2.ErrCodeNo)
}

func (h *h2) headers(id uint32, fields [][2]string, end bool) error {
	h.block.Reset()
	for _, f := range fields {
		_ = h.encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	block := h.block.Bytes()
	first := block[:min(len(block), 16384)]
	if err := h.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: first, EndStream: end, EndHeaders: len(first) == len(block),
	}); err != nil {
		return err
	}
	for rest := block[len(first):]; len(rest) > 0; {
		part := rest[:min(len(rest), 16384)]
		rest = rest[len(part):]
		if err := h.framer.WriteContinuation(id, len(rest) == 0, part); err != nil {
			return err
		}
	}
	return nil
}

// pseudo is the start of a header list.
func pseudo(method, authority, path string) [][2]string {
	return [][2]string{{":method", method}, {":scheme", "https"}, {":authority", authority}, {":path", path}}
}
