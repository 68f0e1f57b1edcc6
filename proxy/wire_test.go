package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// wire are request heads that two parsers read differently, or that are no
// HTTP at all. Each is written with %H for the absolute-form prefix.
var wire = []struct {
	name, text string
	status     int
	monitored  bool // net/http reads it, so that monitor lets it through
	note       string
}{
	{"TE and CL", "POST %T HTTP/1.1\r\nHost: api.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true, "Transfer-Encoding and a Content-Length"},
	{"CL twice the same", "POST %T HTTP/1.1\r\nHost: api.test\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", 400, true, "more than one Content-Length"},
	{"CL twice", "POST %T HTTP/1.1\r\nHost: api.test\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", 400, false, "more than one Content-Length"},
	{"CL list", "POST %T HTTP/1.1\r\nHost: api.test\r\nContent-Length: 4, 4\r\n\r\nabcd", 400, false, "plain decimal"},
	{"CL plus", "POST %T HTTP/1.1\r\nHost: api.test\r\nContent-Length: +4\r\n\r\nabcd", 400, false, "plain decimal"},
	{"CL zeros", "POST %T HTTP/1.1\r\nHost: api.test\r\nContent-Length: 004\r\n\r\nabcd", 400, true, "plain decimal"},
	{"TE case", "POST %T HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", 400, true, "not exactly chunked"},
	{"TE list", "POST %T HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, false, "not exactly chunked"},
	{"TE twice", "POST %T HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400, false, "not exactly chunked"},
	{"TE underscored", "POST %T HTTP/1.1\r\nHost: api.test\r\nTransfer_Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400, true, "fold underscores"},
	{"CL underscored", "POST %T HTTP/1.1\r\nHost: api.test\r\nContent_Length: 0\r\nContent-Length: 4\r\n\r\nabcd", 400, true, "fold underscores"},
	{"broken escape", "GET %T%zz HTTP/1.1\r\nHost: api.test\r\n\r\n", 400, false, "broken percent escape"},
	{"escape cut short", "GET %T%a HTTP/1.1\r\nHost: api.test\r\n\r\n", 400, false, "broken percent escape"},
	{"upgrade to TLS", "GET %T HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: TLS/1.0\r\n\r\n", 400, true, "pass unseen"},
	{"upgrade to HTTP", "GET %T HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: HTTP/2.0\r\n\r\n", 400, true, "pass unseen"},
	{"upgrade to a tunnel", "GET %T HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: connect-udp\r\n\r\n", 400, true, "pass unseen"},
	{"TE vtab", "POST %T HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n", 400, false, "control"},
	{"TE in 1.0", "POST %T HTTP/1.0\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true, "HTTP/1.0"},
	{"folded", "GET %T HTTP/1.1\r\nHost: api.test\r\nX-A: b\r\n c\r\n\r\n", 400, true, "folded"},
	{"bare LF", "GET %T HTTP/1.1\nHost: api.test\n\n", 400, true, "bare LF"},
	{"one bare LF", "GET %T HTTP/1.1\r\nHost: api.test\nX: y\r\n\r\n", 400, true, "bare LF"},
	{"bare CR", "GET %T HTTP/1.1\r\nHost: api.test\r\nX: a\rb\r\n\r\n", 400, false, "control"},
	{"space before colon", "GET %T HTTP/1.1\r\nHost: api.test\r\nX : y\r\n\r\n", 400, false, "space"},
	{"space before TE colon", "POST %T HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, false, "space"},
	{"NUL", "GET %T HTTP/1.1\r\nHost: api.test\r\nX: a\x00b\r\n\r\n", 400, false, "control"},
	{"no host", "GET %T HTTP/1.1\r\n\r\n", 400, false, "no Host"},
	{"two hosts", "GET %T HTTP/1.1\r\nHost: api.test\r\nHost: evil.test\r\n\r\n", 400, false, "more than one Host"},
	{"empty host", "GET %T HTTP/1.1\r\nHost:\r\n\r\n", 400, true, "empty"},
	{"no colon", "GET %T HTTP/1.1\r\nHost: api.test\r\nnonsense\r\n\r\n", 400, false, "no name"},
	{"no version", "GET %T\r\nHost: api.test\r\n\r\n", 400, false, ""},
	{"version 2", "GET %T HTTP/2.0\r\nHost: api.test\r\n\r\n", 400, false, ""},
	{"preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, false, ""},
	{"bad method", "GE(T %T HTTP/1.1\r\nHost: api.test\r\n\r\n", 400, false, ""},
	{"control in target", "GET %T\x01 HTTP/1.1\r\nHost: api.test\r\n\r\n", 400, false, ""},
	{"two spaces", "GET  %T HTTP/1.1\r\nHost: api.test\r\n\r\n", 400, false, ""},
	{"expectation", "GET %T HTTP/1.1\r\nHost: api.test\r\nExpect: wonders\r\n\r\n", 417, false, ""},
	{"large head", "GET %T HTTP/1.1\r\nHost: api.test\r\nX: " + strings.Repeat("a", 80<<10) + "\r\n\r\n", 431, false, ""},
	{"endless head", "GET %T HTTP/1.1\r\nHost: api.test\r\nX: " + strings.Repeat("a", 80<<10), 431, false, ""},
	{"many headers", "GET %T HTTP/1.1\r\nHost: api.test\r\n" + strings.Repeat("X: a\r\n", 12000) + "\r\n", 431, false, ""},
	{"nominated", "POST %T HTTP/1.1\r\nHost: api.test\r\nAuthorization: x\r\nConnection: authorization\r\nContent-Length: 0\r\n\r\n", 400, true, "nominates Authorization"},
	{"nominated length", "POST %T HTTP/1.1\r\nHost: api.test\r\nConnection: Content-Length\r\nContent-Length: 4\r\n\r\nabcd", 400, true, "nominates Content-Length"},
	{"h2c", "GET %T HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", 400, true, "h2c"},
	{"two upgrades", "GET %T HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n", 400, true, "h2c"},
}

// roads are the places where HTTP/1 bytes come in.
var roads = []struct {
	name, target string
	raw          func(w *world, text string) reply
}{
	{"front", "http://api.test/v1/x", func(w *world, text string) reply { return w.raw(w.front, text) }},
	{"reverse", "/stripe/v1/x", func(w *world, text string) reply { return w.raw(w.reverse, text) }},
	{"inside TLS", "/v1/x", func(w *world, text string) reply {
		c := w.inside("api.test:443", "api.test")
		_, _ = io.WriteString(c, text)
		return readReply(w.t, newReader(c))
	}},
	{"plain inside CONNECT", "/v1/x", func(w *world, text string) reply {
		c, r := w.tunnelTo("api.test:80")
		_, _ = io.WriteString(c, text)
		return readReply(w.t, r)
	}},
}

func TestMalformedHeads(t *testing.T) {
	for _, road := range roads {
		t.Run(road.name, func(t *testing.T) {
			w := newWorld(t)
			for _, c := range wire {
				if road.name == "plain inside CONNECT" && (c.name == "preface" || c.name == "bad method" || c.name == "two spaces") {
					continue // not taken for HTTP; see TestOpaqueInsideConnect
				}
				before := len(w.trail.events(t))
				got := road.raw(w, strings.ReplaceAll(c.text, "%T", road.target))
				if got.status != c.status {
					t.Errorf("%s: status %d, want %d: %s", c.name, got.status, c.status, got.body)
					continue
				}
				if got.header.Get("Connection") != "close" {
					t.Errorf("%s: the connection stays open", c.name)
				}
				if got.header.Get("ActPass-Decision") != "deny" || !strings.HasPrefix(got.header.Get("ActPass-Evidence"), "ev_") {
					t.Errorf("%s: no decision: %v", c.name, got.header)
				}
				events := w.trail.events(t)
				if len(events) != before+1 {
					t.Errorf("%s: %d events, want one", c.name, len(events)-before)
					continue
				}
				e := events[before]
				if e.Outcome == nil || e.Outcome.State != evidence.StateRefused {
					t.Errorf("%s: outcome %+v", c.name, e.Outcome)
				}
				if !strings.Contains(strings.Join(e.Notes, "\n")+e.Explain.Summary+got.body, c.note) {
					t.Errorf("%s: %q is not in notes %q or %q", c.name, c.note, e.Notes, e.Explain.Summary)
				}
			}
			w.untouched()
		})
	}
}

func TestMonitorLetsAmbiguousHeadsThrough(t *testing.T) {
	for _, road := range roads[:3] {
		t.Run(road.name, func(t *testing.T) {
			w := newWorld(t, withMode(gate.ModeMonitor))
			for _, c := range wire {
				if !c.monitored {
					continue
				}
				before := w.originReqs.Load()
				got := road.raw(w, strings.ReplaceAll(c.text, "%T", road.target))
				if got.status != 200 || w.originReqs.Load() != before+1 {
					t.Errorf("%s: %d, %d calls: %s", c.name, got.status, w.originReqs.Load()-before, got.body)
					continue
				}
				e := w.trail.last(t)
				if !strings.Contains(strings.Join(e.Flags, ","), "request.ambiguous") || !strings.Contains(strings.Join(e.Notes, "\n"), c.note) {
					t.Errorf("%s: flags %v, notes %q", c.name, e.Flags, e.Notes)
				}
				if strings.Contains(strings.ToLower(got.body), "h2c") || strings.Contains(got.body, "Http2-Settings") {
					t.Errorf("%s: the upstream saw the upgrade: %s", c.name, got.body)
				}
			}
		})
	}
}

// A request smuggled behind an ambiguous one is never served, in any mode.
func TestSmuggledRequestIsNotServed(t *testing.T) {
	for _, mode := range []string{gate.ModeMonitor, gate.ModeEnforce} {
		w := newWorld(t, withMode(mode))
		for _, c := range wire {
			before := w.originReqs.Load()
			conn, err := net.Dial("tcp", w.front)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
			_, _ = io.WriteString(conn, strings.ReplaceAll(c.text, "%T", "http://api.test/v1/x")+"GET http://api.test/smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n")
			all, _ := io.ReadAll(conn)
			_ = conn.Close()
			if n := bytes.Count(all, []byte("HTTP/1.1 ")); n > 1 && bytes.Contains(all, []byte("/smuggled")) || w.originReqs.Load() > before+1 {
				t.Errorf("%s, %s: the second request was served: %.2000q", mode, c.name, all)
			}
		}
	}
}

func TestChunkSyntax(t *testing.T) {
	bodies := map[string]struct {
		body string
		ok   bool
	}{
		"plain":            {"4\r\namou\r\n13\r\nnt=4900&charge=ch_1\r\n0\r\n\r\n", true},
		"trailer":          {"17\r\namount=4900&charge=ch_1\r\n0\r\nX-T: 1\r\n\r\n", true},
		"extension":        {"17;a=b\r\namount=4900&charge=ch_1\r\n0\r\n\r\n", false},
		"bare LF in size":  {"17\namount=4900&charge=ch_1\r\n0\r\n\r\n", false},
		"space after size": {"17 \r\namount=4900&charge=ch_1\r\n0\r\n\r\n", false},
		"0x":               {"0x17\r\namount=4900&charge=ch_1\r\n0\r\n\r\n", false},
		"too long":         {"17\r\namount=4900&charge=ch_12345\r\n0\r\n\r\n", false},
		"last size odd":    {"17\r\namount=4900&charge=ch_1\r\n0;x\r\n\r\n", false},
	}
	w := newWorld(t)
	for name, c := range bodies {
		before := w.originReqs.Load()
		got := w.raw(w.front, "POST http://api.test/v1/refunds HTTP/1.1\r\nHost: api.test\r\nContent-Type: "+formType+"\r\nTransfer-Encoding: chunked\r\n\r\n"+c.body)
		want := 400
		if c.ok {
			want = 200
		}
		if got.status != want {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
		if !c.ok && w.originReqs.Load() != before {
			t.Errorf("%s: it left", name)
		}
		if c.ok {
			if m := got.json(t); m["body"] != "amount=4900&charge=ch_1" || m["length"] != float64(23) {
				t.Errorf("%s: the upstream saw %v", name, m)
			}
		}
	}
}

// A request that the lint has not seen is refused, however sound it looks.
func TestUnlintedRequest(t *testing.T) {
	w := newWorld(t, withMode(gate.ModeMonitor))
	ours, theirs := net.Pipe()
	defer theirs.Close()
	lc := w.server.lint(ours, &doorway{door: gate.DoorForward})
	lc.state = lintRaw
	w.server.inside.give(lc)
	_ = theirs.SetDeadline(time.Now().Add(3 * time.Second))
	go func() { _, _ = io.WriteString(theirs, "GET http://api.test/x HTTP/1.1\r\nHost: api.test\r\n\r\n") }()
	if got := readReply(t, newReader(theirs)); got.status != 400 || got.header.Get("Connection") != "close" {
		t.Errorf("%d %s", got.status, got.body)
	}
	w.untouched()
}

// A body whose framing turns bad only after its answer was given leaves the
// lint unsure of where the next request begins: that one is not served.
func TestLateChunkFault(t *testing.T) {
	w := newWorld(t)
	w.on(func(rw http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(rw).EnableFullDuplex()
		_, _ = rw.Write([]byte("early"))
	})
	conn, err := net.Dial("tcp", w.front)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
	r := newReader(conn)
	_, _ = io.WriteString(conn, "PUT http://api.test/x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	early := make([]byte, 5)
	if _, err := io.ReadFull(resp.Body, early); err != nil || string(early) != "early" {
		t.Fatalf("%q %v", early, err)
	}
	_, _ = io.WriteString(conn, "3;a=b\r\nabc\r\n0\r\n\r\nGET http://api.test/smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n")
	rest, _ := io.ReadAll(r)
	if bytes.Contains(rest, []byte("early")) || w.originReqs.Load() != 1 {
		t.Errorf("the second request was served: %q", rest)
	}
}

func TestPipelinedRequestsKeepTheirOwnFindings(t *testing.T) {
	w := newWorld(t)
	conn, err := net.Dial("tcp", w.front)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	good := "POST http://api.test/v1/refunds HTTP/1.1\r\nHost: api.test\r\nContent-Type: " + formType + "\r\nContent-Length: 23\r\n\r\namount=4900&charge=ch_1"
	chunked := "POST http://api.test/v1/refunds HTTP/1.1\r\nHost: api.test\r\nContent-Type: " + formType + "\r\nTransfer-Encoding: chunked\r\n\r\n17\r\namount=4900&charge=ch_1\r\n0\r\n\r\n"
	bad := "GET http://api.test/v1/x HTTP/1.1\r\nHost: api.test\r\nX: y\r\n z\r\n\r\n"
	text := good + chunked + good + "GET http://api.test/a HTTP/1.1\r\nHost: api.test\r\n\r\n" + chunked + bad + good
	go func() {
		for _, b := range []byte(text) { // one byte at a time, to meet every state
			if _, err := conn.Write([]byte{b}); err != nil {
				return
			}
		}
	}()
	r := newReader(conn)
	for i, want := range []int{200, 200, 200, 200, 200, 400} {
		if got := readReply(t, r); got.status != want {
			t.Fatalf("answer %d: %d %s", i, got.status, got.body)
		}
	}
	if b, err := r.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is still served: %q %v", b, err)
	}
}

func TestSlowHeadIsCut(t *testing.T) {
	w := newWorld(t, func(_ *world, o *Options) { o.ReadHeaderTimeout = 150 * time.Millisecond; o.IdleTimeout = time.Minute })
	conn, err := net.Dial("tcp", w.front)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
	r := newReader(conn)
	_, _ = io.WriteString(conn, "GET http://api.test/a HTTP/1.1\r\nHost: api.test\r\n\r\n")
	if got := readReply(t, r); got.status != 200 {
		t.Fatalf("first request: %d", got.status)
	}
	// The second head of a kept connection must not have the idle time.
	_, _ = io.WriteString(conn, "GET http://api.test/a HTTP/1.1\r\nHo")
	start := time.Now()
	if _, err := r.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > 2*time.Second {
		t.Errorf("a slow head was waited for: %v after %v", err, time.Since(start))
	}
}

// pair gives a lintConn fed with text in pieces of n bytes.
func lintOf(text []byte, n int) *lintConn {
	return &lintConn{Conn: &pieces{text: text, n: n}, door: &doorway{}, maxHead: 8 << 10}
}

type pieces struct {
	net.Conn
	text []byte
	n    int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.text) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.n)], p.text)
	p.text = p.text[n:]
	return n, nil
}

func (p *pieces) SetReadDeadline(time.Time) error { return nil }

// sameButForEscapes says whether got is the beginning of text with an x in place
// of some percent signs that begin no escape.
func sameButForEscapes(text, got []byte) bool {
	if len(got) > len(text) {
		return false
	}
	for i, c := range got {
		if c == text[i] {
			continue
		}
		rest := text[i+1 : min(i+3, len(text))]
		if text[i] != '%' || c != 'x' || len(rest) == 2 && isHexByte(rest[0]) && isHexByte(rest[1]) {
			return false
		}
	}
	return true
}

// The lint changes no byte but that of a broken escape, however the bytes arrive,
// and finds the same.
func FuzzLintIsTransparent(f *testing.F) {
	for _, c := range wire {
		if len(c.text) < 2000 {
			f.Add([]byte(strings.ReplaceAll(c.text, "%T", "/x")), uint8(3))
		}
	}
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n"), uint8(1))
	f.Fuzz(func(t *testing.T, text []byte, n uint8) {
		if len(text) > 6<<10 {
			return // overflow replaces the head, on purpose
		}
		whole := lintOf(text, 1<<20)
		got, _ := io.ReadAll(whole)
		if !bytes.HasPrefix(text, got) && !sameButForEscapes(text, got) {
			t.Fatalf("%q became %q", text, got)
		}
		split := lintOf(text, int(n)+1)
		again, _ := io.ReadAll(split)
		if !bytes.Equal(got, again) {
			t.Fatalf("whole %q, split %q", got, again)
		}
		if len(whole.heads) != len(split.heads) {
			t.Fatalf("%d heads whole, %d split", len(whole.heads), len(split.heads))
		}
		for i := range whole.heads {
			if len(whole.heads[i].findings) != len(split.heads[i].findings) {
				t.Fatalf("head %d: %v whole, %v split", i, whole.heads[i].findings, split.heads[i].findings)
			}
		}
	})
}

// Where the lint finds nothing, it and net/http agree on where every request
// begins: net/http reads as many requests as there are lints, and never one
// without.
func FuzzLintAgreesWithNetHTTP(f *testing.F) {
	for _, c := range wire {
		if len(c.text) < 2000 {
			f.Add([]byte(strings.ReplaceAll(c.text, "%T", "/x") + "GET /next HTTP/1.1\r\nHost: a\r\n\r\n"))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 4<<10 {
			return
		}
		c := lintOf(text, 1<<20)
		r := newReader(c)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			h, sure := c.next()
			if !sure {
				return // the handler refuses
			}
			if h.close {
				return // the connection ends here
			}
			if req.Method == http.MethodConnect || req.ProtoMajor > 1 {
				return
			}
			line := req.Method + " " + req.RequestURI + " " + req.Proto
			if h.line != line {
				t.Fatalf("lint has %q for net/http's %q", h.line, line)
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			if c.bodyFault() != "" {
				return
			}
		}
	})
}
