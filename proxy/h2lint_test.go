package proxy

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/actpass/sidecar/gate"
)

// h2Client writes frames as it likes.
type h2Client struct {
	t      *testing.T
	framer *http2.Framer
	out    bytes.Buffer // frames before they go out
	flush  func(b []byte)
	enc    *hpack.Encoder
	block  bytes.Buffer
	stream uint32
}

func newH2Client(t *testing.T, w *world, piece int) *h2Client {
	t.Helper()
	conn := w.inside("api.test:443", "api.test", "h2")
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	c := &h2Client{t: t, stream: ^uint32(0)}
	c.flush = func(b []byte) {
		for len(b) > 0 {
			n := min(len(b), piece)
			if _, err := conn.Write(b[:n]); err != nil {
				return // the server has had enough
			}
			b = b[n:]
		}
	}
	c.framer = http2.NewFramer(&c.out, conn)
	c.framer.AllowIllegalWrites = true
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.enc = hpack.NewEncoder(&c.block)
	c.out.WriteString(http2.ClientPreface)
	_ = c.framer.WriteSettings()
	return c
}

// ask sends a header list on a new stream, in so many frames, and gives the status
// or the code of the reset.
func (c *h2Client) ask(fields [][2]string, frames int, odd func(p *http2.HeadersFrameParam)) string {
	c.t.Helper()
	c.block.Reset()
	for _, f := range fields {
		_ = c.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: len(f[1])%7 == 3})
	}
	c.stream += 2
	block := bytes.Clone(c.block.Bytes())
	n := len(block)/frames + 1
	p := http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: block[:min(n, len(block))], EndStream: true, EndHeaders: n >= len(block)}
	if odd != nil {
		odd(&p)
	}
	_ = c.framer.WriteHeaders(p)
	for rest := block[min(n, len(block)):]; len(rest) > 0; {
		k := min(n, len(rest))
		_ = c.framer.WriteContinuation(c.stream, k == len(rest), rest[:k])
		rest = rest[k:]
	}
	c.flush(bytes.Clone(c.out.Bytes()))
	c.out.Reset()
	return c.answer()
}

func (c *h2Client) answer() string {
	status := ""
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID == c.stream && status == "" {
				status = f.PseudoValue("status")
				if f.StreamEnded() {
					return status
				}
			}
		case *http2.DataFrame:
			if f.StreamID == c.stream && f.StreamEnded() {
				return status
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == c.stream {
				if status != "" {
					return status
				}
				return "reset"
			}
		case *http2.GoAwayFrame:
			return "closed"
		}
	}
}

var h2Good = [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "api.test"}, {":path", "/v1/x"}}

func with(fields ...[2]string) [][2]string {
	return append(append([][2]string{}, h2Good...), fields...)
}

// Whatever becomes of a stream, there is one event for it, and the connection goes
// on to serve the next.
func TestEveryHeaderListHasAnEvent(t *testing.T) {
	pseudo := func(name, value string) [][2]string {
		var out [][2]string
		for _, f := range h2Good {
			if f[0] == name {
				if value == "-" {
					continue
				}
				f[1] = value
			}
			out = append(out, f)
		}
		return out
	}
	long := with()
	for i := range 4500 {
		long = append(long, [2]string{fmt.Sprintf("x-%d", i), strings.Repeat("a", 10)})
	}
	w := newWorld(t)
	for name, tt := range map[string]struct {
		fields [][2]string
		want   string
	}{
		"good":                  {with(), "200"},
		"good, with te":         {with([2]string{"te", "trailers"}), "200"},
		"method twice":          {append([][2]string{{":method", "POST"}}, h2Good...), "reset"},
		"path twice":            {append([][2]string{{":path", "/"}}, h2Good...), "reset"},
		"authority twice":       {append([][2]string{{":authority", "evil.test"}}, h2Good...), "reset"},
		"scheme twice":          {append([][2]string{{":scheme", "http"}}, h2Good...), "reset"},
		"unknown pseudo":        {append([][2]string{{":evil", "1"}}, h2Good...), "reset"},
		"status":                {append([][2]string{{":status", "200"}}, h2Good...), "reset"},
		"pseudo behind":         {with([2]string{"x-a", "b"}, [2]string{":path", "/y"}), "reset"},
		"upper-case name":       {with([2]string{"X-A", "b"}), "reset"},
		"name with a space":     {with([2]string{"x a", "b"}), "reset"},
		"name with a colon":     {with([2]string{"x:a", "b"}), "reset"},
		"empty name":            {with([2]string{"", "b"}), "reset"},
		"NUL":                   {with([2]string{"x-a", "a\x00b"}), "reset"},
		"line end":              {with([2]string{"x-a", "a\r\nx-b: c"}), "reset"},
		"no method":             {pseudo(":method", "-"), "reset"},
		"no path":               {pseudo(":path", "-"), "reset"},
		"no scheme":             {pseudo(":scheme", "-"), "reset"},
		"another scheme":        {pseudo(":scheme", "ftp"), "reset"},
		"empty path":            {pseudo(":path", ""), "reset"},
		"relative path":         {pseudo(":path", "v1/x"), "reset"},
		"broken escape":         {pseudo(":path", "/v1/%zz"), "reset"},
		"control in the path":   {pseudo(":path", "/v1/\x7f"), "reset"},
		"user information":      {pseudo(":authority", "a@api.test"), "reset"},
		"extended CONNECT":      {append([][2]string{{":protocol", "websocket"}}, pseudo(":method", "CONNECT")...), "reset"},
		"CONNECT with a path":   {pseudo(":method", "CONNECT"), "reset"},
		"connection":            {with([2]string{"connection", "close"}), "400"},
		"keep-alive":            {with([2]string{"keep-alive", "1"}), "400"},
		"proxy-connection":      {with([2]string{"proxy-connection", "close"}), "400"},
		"transfer-encoding":     {with([2]string{"transfer-encoding", "chunked"}), "400"},
		"upgrade":               {with([2]string{"upgrade", "h2c"}), "400"},
		"te gzip":               {with([2]string{"te", "gzip"}), "400"},
		"te twice":              {with([2]string{"te", "trailers"}, [2]string{"te", "trailers"}), "400"},
		"another authority":     {pseudo(":authority", "evil.test"), "421"},
		"host and authority":    {with([2]string{"host", "evil.test"}), "421"},
		"dot segment":           {pseudo(":path", "/v1/../x"), "400"},
		"override":              {with([2]string{"x-http-method-override", "DELETE"}), "400"},
		"somewhat too large":    {with([2]string{"x-a", strings.Repeat("a", 70<<10)}), "431"},
		"too large, in many":    {long, "431"},
		"no authority, no host": {pseudo(":authority", "-"), "200"},
	} {
		for _, shape := range []struct {
			name   string
			piece  int
			frames int
			odd    func(p *http2.HeadersFrameParam)
		}{
			{"whole", 1 << 20, 1, nil},
			{"in pieces", 7, 3, nil},
			{"padded, with a priority", 1 << 20, 2, func(p *http2.HeadersFrameParam) {
				p.PadLength, p.Priority = 9, http2.PriorityParam{Weight: 3, StreamDep: 0, Exclusive: true}
			}},
		} {
			if shape.frames > 1 && (tt.want == "reset" && name != "no method" || strings.Contains(name, "large")) {
				continue // net/http ends the connection for a CONTINUATION behind a field that is wrong
			}
			t.Run(name+"/"+shape.name, func(t *testing.T) {
				c := newH2Client(t, w, shape.piece)
				before, calls := len(w.trail.events(t)), w.originReqs.Load()
				if got := c.ask(tt.fields, shape.frames, shape.odd); got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
				events := w.trail.events(t)[before:]
				if len(events) != 1 {
					t.Fatalf("%d events: %+v", len(events), events)
				}
				if e := events[0]; tt.want != "200" && (e.Decision.Decision != "deny" || !strings.HasPrefix(e.ReasonCode, "request.")) {
					t.Errorf("event %+v", e)
				}
				if tt.want != "200" && w.originReqs.Load() != calls {
					t.Error("it is upstream")
				}
				if got := c.ask(h2Good, 1, nil); got != "200" || len(w.trail.events(t)) != before+2 {
					t.Errorf("the next: %s, %d events", got, len(w.trail.events(t))-before)
				}
			})
		}
	}
}

// The lint and net/http agree on what is a request, whatever the list.
func TestH2LintAgreesWithNetHTTP(t *testing.T) {
	w := newWorld(t, withMode(gate.ModeMonitor))
	rnd := rand.New(rand.NewPCG(1, 2))
	names := []string{":method", ":path", ":scheme", ":authority", ":protocol", ":status", "te", "host", "x-a", "X-B", "upgrade", "cookie", "x a", "content-length", "trailer", "expect", ""}
	values := []string{"GET", "CONNECT", "/", "*", "https", "http", "api.test", "a@b", "trailers", "", "x", "\x01", "/%zz", "websocket", "//x", "0"}
	c := newH2Client(t, w, 1<<20)
	for i := range 300 {
		fields := [][2]string{}
		for _, f := range h2Good {
			if rnd.IntN(8) > 0 {
				fields = append(fields, f)
			}
		}
		for range rnd.IntN(3) {
			at := rnd.IntN(len(fields) + 1)
			f := [2]string{names[rnd.IntN(len(names))], values[rnd.IntN(len(values))]}
			fields = append(fields[:at], append([][2]string{f}, fields[at:]...)...)
		}
		before := len(w.trail.events(t))
		got := c.ask(fields, 1, nil)
		if n := len(w.trail.events(t)) - before; n != 1 {
			t.Fatalf("list %d: %s, %d events: %q", i, got, n, fields)
		}
		if got == "closed" {
			c = newH2Client(t, w, 1<<20)
		}
	}
}

// A connection inside a CONNECT that comes to no request, by its own doing, is on
// record all the same.
func TestWhatIsNoHandshakeHasAnEvent(t *testing.T) {
	w := newWorld(t)
	hello := func(change func(*tls.Config)) func(net.Conn) {
		return func(c net.Conn) {
			cfg := &tls.Config{ServerName: "api.test", InsecureSkipVerify: true}
			change(cfg)
			_ = tls.Client(c, cfg).Handshake()
		}
	}
	for name, speak := range map[string]func(net.Conn){
		"an old version":   hello(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 }),
		"another protocol": hello(func(c *tls.Config) { c.NextProtos = []string{"acme-tls/1"} }),
		"a hello that is none": func(c net.Conn) {
			_, _ = c.Write(append([]byte{22, 3, 1, 0, 5}, "hello"...))
			_, _ = c.Read(make([]byte, 100))
		},
		"HTTP/1 where HTTP/2 was chosen": func(c net.Conn) {
			t := tls.Client(c, &tls.Config{ServerName: "api.test", InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			_, _ = t.Write([]byte("POST /v1/refunds HTTP/1.1\r\nHost: api.test\r\n\r\n"))
			_, _ = t.Read(make([]byte, 100))
		},
	} {
		before := len(w.trail.events(t))
		conn, _ := w.tunnelTo("api.test:443")
		speak(conn)
		_ = conn.Close()
		var events int
		for range 100 {
			if events = len(w.trail.events(t)) - before; events > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if events != 1 {
			t.Errorf("%s: %d events", name, events)
		} else if e := w.trail.last(t); e.ReasonCode != ReasonMalformed || e.Outcome.State != "refused" {
			t.Errorf("%s: %+v", name, e)
		}
	}
	// Who says nothing, and who does not want our certificate, is no such case.
	before := len(w.trail.events(t))
	conn, _ := w.tunnelTo("api.test:443")
	_ = conn.Close()
	conn, _ = w.tunnelTo("api.test:443")
	_ = tls.Client(conn, &tls.Config{ServerName: "api.test"}).Handshake()
	_ = conn.Close()
	time.Sleep(50 * time.Millisecond)
	if n := len(w.trail.events(t)) - before; n != 0 {
		t.Errorf("%d events of connections that were given up", n)
	}
	w.untouched()
}
