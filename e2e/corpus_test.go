package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/mapping/corpus"
)

// corpusHosts are the hosts that the corpus speaks to, and the one that its
// evasions would rather speak to.
var corpusHosts = []string{
	"api.stripe.com", "mcp.example.com", "graphql.example.com", "aws.example.com", "aws-json.example.com", "upload.example.com", "evil.example",
}

// newPlainUpstream is an upstream for hosts that speaks HTTP/1.1 only: on a kept
// HTTP/2 connection bytes may follow an answer, and here every byte counts.
func newPlainUpstream(t testing.TB, hosts []string) *upstream {
	t.Helper()
	u := &upstream{}
	cert, ca := testCertificate(t, hosts)
	u.caFile = filepath.Join(t.TempDir(), "upstream-ca.pem")
	must(t, os.WriteFile(u.caFile, ca, 0o644))
	u.handle(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Type", "text/plain") })
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			u.record(r, body)
			u.mu.Lock()
			h := u.handler
			u.mu.Unlock()
			h(w, r)
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
		ErrorLog:  log.New(io.Discard, "", 0), TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		return countedListener{ln, u}
	}
	secure, plain := listen(), listen()
	u.tls, u.plain = secure.Addr().String(), plain.Addr().String()
	go func() { _ = srv.ServeTLS(secure, "", "") }()
	go func() { _ = srv.Serve(plain) }()
	t.Cleanup(func() { _ = srv.Close() })
	return u
}

// corpusSidecar is a sidecar under the corpus' own mapping and policy, not started.
func corpusSidecar(t testing.TB, mode string, u *upstream) *sidecar {
	t.Helper()
	sc := &sidecar{t: t, dir: t.TempDir()}
	for _, name := range []string{"mapping.yaml", "policy.yaml"} {
		text, err := os.ReadFile(filepath.Join("../mapping/testdata/corpus", name))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(sc.dir, name), text, 0o644))
	}
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("mode: %s", mode)
	p("identity: { tenant_id: acme, agent_id: support_agent }")
	p("listen: { proxy: 127.0.0.1:0, reverse: 127.0.0.1:0, api: 127.0.0.1:0 }")
	p("mapping: { packs: [stripe], files: [./mapping.yaml] }")
	p("policy: { files: [./policy.yaml] }")
	p("limits: { hold: 100ms }")
	p("routes: [{ name: stripe, upstream: https://api.stripe.com }]")
	p("upstream:")
	p("  allow_private: [127.0.0.0/8]")
	p("  ca_file: %s", u.caFile)
	p("  connect_to:")
	for _, host := range corpusHosts {
		p("    - { host: %s, port: 443, address: %q }", host, u.tls)
		p("    - { host: %s, port: 80, address: %q }", host, u.plain)
	}
	sc.config = filepath.Join(sc.dir, "config.yaml")
	must(t, os.WriteFile(sc.config, []byte(b.String()), 0o644))
	return sc
}

func startCorpus(t testing.TB, mode string, u *upstream) *sidecar {
	t.Helper()
	sc := corpusSidecar(t, mode, u)
	sc.run()
	sc.admin = sc.key("--name", "admin", "--role", "admin")
	t.Cleanup(sc.stop)
	return sc
}

// passage is one way by which a case gets in.
type passage struct {
	name, door string // door: as events call it
	carries    func(c corpus.Case) bool
	// open gives a connection for cases to an authority; send puts a case on it.
	open func(t testing.TB, sc *sidecar, authority string) any
	send func(sc *sidecar, conn any, c corpus.Case) (reply, error)
}

func carriesH1(door string) func(c corpus.Case) bool {
	return func(c corpus.Case) bool { return c.At(door) && c.Carrier != corpus.H2 }
}

func askRaw(conn any, raw []byte) (reply, error) {
	method, _, _ := strings.Cut(string(raw[:min(len(raw), 32)]), " ")
	return conn.(*h1).ask(raw, method)
}

func askH2(_ *sidecar, conn any, c corpus.Case) (reply, error) {
	head, body, err := c.Split()
	if err != nil {
		return reply{}, err
	}
	fields, host := pseudo(head.Method, head.Host, head.Target), false
	for _, f := range head.Fields {
		name := strings.ToLower(f[0])
		if name == "host" && !host {
			host = true
			continue
		}
		fields = append(fields, [2]string{name, f[1]})
	}
	return conn.(*h2).ask(fields, body)
}

var passages = []passage{
	{
		name: "forward", door: "forward", carries: carriesH1(corpus.Forward),
		open: func(t testing.TB, sc *sidecar, _ string) any { return dialH1(t, sc.proxy) },
		send: func(_ *sidecar, conn any, c corpus.Case) (reply, error) {
			return askRaw(conn, c.Bytes(corpus.Forward, "", ""))
		},
	},
	{
		name: "connect-tls-h1", door: "connect", carries: carriesH1(corpus.Connect),
		open: func(t testing.TB, sc *sidecar, authority string) any {
			return newH1(sc.insideTLS(t, authority, "http/1.1"))
		},
		send: func(_ *sidecar, conn any, c corpus.Case) (reply, error) {
			return askRaw(conn, c.Bytes(corpus.Connect, "", ""))
		},
	},
	{
		name: "connect-tls-h2", door: "connect",
		carries: func(c corpus.Case) bool { return c.At(corpus.Connect) && c.Carrier != corpus.H1 },
		open: func(t testing.TB, sc *sidecar, authority string) any {
			return newH2(t, sc.insideTLS(t, authority, "h2"))
		},
		send: askH2,
	},
	{
		name: "connect-plain", door: "connect",
		carries: func(c corpus.Case) bool {
			// With ports in the Host these two change places on a connection to port 80.
			return carriesH1(corpus.Connect)(c) && c.Name != "control/host-with-port" && c.Name != "authority/port-http"
		},
		open: func(t testing.TB, sc *sidecar, authority string) any { return sc.connectTo(t, authority+":80") },
		send: func(_ *sidecar, conn any, c corpus.Case) (reply, error) {
			return askRaw(conn, c.Bytes(corpus.Connect, "", ""))
		},
	},
	{
		name: "reverse-path", door: "reverse", carries: carriesH1(corpus.Reverse),
		open: func(t testing.TB, sc *sidecar, _ string) any { return dialH1(t, sc.revers) },
		send: func(sc *sidecar, conn any, c corpus.Case) (reply, error) {
			return askRaw(conn, c.Bytes(corpus.Reverse, sc.revers, "/stripe"))
		},
	},
	{
		name: "reverse-host", door: "reverse", carries: carriesH1(corpus.Reverse),
		open: func(t testing.TB, sc *sidecar, _ string) any { return dialH1(t, sc.revers) },
		send: func(sc *sidecar, conn any, c corpus.Case) (reply, error) {
			_, port, _ := net.SplitHostPort(sc.revers)
			raw := c.Bytes(corpus.Reverse, "stripe.localhost:"+port, "")
			// Where a line does not end as it should, Bytes does not find the Host.
			return askRaw(conn, bytes.Replace(raw, []byte("Host: api.stripe.com\n"), []byte("Host: stripe.localhost:"+port+"\n"), 1))
		},
	},
}

func loadCorpus(t testing.TB) []corpus.Case {
	t.Helper()
	cases, err := corpus.Load(os.DirFS("../mapping/testdata"), "corpus")
	must(t, err)
	if len(cases) < 500 {
		t.Fatalf("%d cases, want at least 500", len(cases))
	}
	return cases
}

// goodCase is a call that the policy allows, in the form of a case.
func goodCase(authority string) corpus.Case {
	raw := "GET /v1/charges/ch_123 HTTP/1.1\r\nHost: " + authority + "\r\n\r\n"
	return corpus.Case{Name: "good", Authority: authority, Raw: []byte(raw), Tool: "stripe.charge.retrieve", Expect: corpus.Allow}
}

// notHTTP are the cases whose first bytes are no HTTP. In a tunnel, plain or
// not, nobody can say what they are: the tunnel is judged as http.connect.
var notHTTP = []string{"framing/first-line-folded", "method/not-a-token"}

// answeredByLibrary are the HTTP/2 header lists that net/http answers with a
// 400 of its own before a handler can be had; their events are the lint's.
var answeredByLibrary = []string{"h2/transfer-encoding", "h2/connection", "h2/te", "h2/proxy-connection", "h2/keep-alive", "h2/upgrade"}

// result is what one case came to.
type result struct {
	corpus.Case
	reply
	passage  string
	upstream []seen // what arrived there of it
	conns    int64
	bytes    int64
}

// opaque says whether the case is no call but the bytes of an opaque tunnel.
func (r result) opaque() bool {
	switch r.passage {
	case "connect-plain":
		return slices.Contains(notHTTP, r.Name)
	case "transparent-plain": // where HTTP/2's preface is the beginning of a stream that is not read
		return slices.Contains(notHTTP, r.Name) || r.Name == "method/pri"
	}
	return false
}

// drive puts every case that a passage carries through it, each followed by a
// good call on the same connection where that stayed open.
func drive(t *testing.T, p passage, sc *sidecar, u *upstream, cases []corpus.Case) (results []result, good int) {
	t.Helper()
	var conn any
	at := "" // authority that conn was opened for
	shut := func() {
		if conn != nil {
			_ = conn.(io.Closer).Close()
		}
		conn = nil
	}
	defer shut()
	ask := func(c corpus.Case) result {
		t.Helper()
		if conn != nil && at != c.Authority {
			shut()
		}
		if conn == nil {
			conn, at = p.open(t, sc, c.Authority), c.Authority
		}
		r := result{Case: c, passage: p.name}
		conns, bytes, requests := u.conns.Load(), u.bytes.Load(), len(u.requestsSeen())
		var err error
		if r.reply, err = p.send(sc, conn, c); err != nil {
			t.Errorf("%s: %v", c.Name, err)
			shut()
		}
		r.conns, r.bytes, r.upstream = u.conns.Load()-conns, u.bytes.Load()-bytes, u.requestsSeen()[requests:]
		if r.closes || r.reset != "" {
			shut() // what was still sent on a stream that was reset may end an HTTP/2 connection
		}
		return r
	}
	for i, c := range cases {
		if !p.carries(c) {
			continue
		}
		if slices.Contains(notHTTP, c.Name) {
			shut() // what a tunnel is, is told by its first bytes
		}
		results = append(results, ask(c))
		if c.Wire && c.Carrier == corpus.H1 {
			shut() // what is left of its bytes would stand before the next call
		}
		if c.Authority != "api.stripe.com" || conn == nil && i%20 != 0 {
			continue
		}
		g := ask(goodCase(c.Authority))
		good++
		if g.status != http.StatusOK || len(g.upstream) != 1 {
			t.Errorf("%s: the good call after it: %s", c.Name, g.reply)
		}
	}
	return results, good
}

// TestCorpusThroughEveryDoor puts every evasion, byte for byte, to every door
// that can carry it. Nothing of what is refused may be seen by the upstream.
func TestCorpusThroughEveryDoor(t *testing.T) {
	cases := loadCorpus(t)
	for _, p := range passages {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			u := newPlainUpstream(t, corpusHosts)
			sc := startCorpus(t, "enforce", u)
			began := time.Now()
			results, good := drive(t, p, sc, u, cases)
			took := time.Since(began)
			checkEvents(t, sc, p, results, good, func(r result, e *event) {
				for _, problem := range enforced(r, e) {
					t.Errorf("%s (%s): %s\n  %s\n  event %+v", r.Name, r.Why, problem, r.reply, e)
				}
			})
			t.Logf("%d cases in %v", len(results), took)
		})
	}
}

// checkEvents looks every answer's event up, and holds that there are no more
// events than calls.
func checkEvents(t *testing.T, sc *sidecar, p passage, results []result, good int, check func(r result, e *event)) {
	t.Helper()
	events := sc.events()
	byID := make(map[string]*event, len(events))
	for i := range events {
		if byID[events[i].ID] != nil {
			t.Errorf("event %s is there twice", events[i].ID)
		}
		byID[events[i].ID] = &events[i]
		if d := events[i].Door; d != p.door && (d != "connect" || p.door == "transparent") {
			t.Errorf("event %s has the door %q", events[i].ID, d)
		}
	}
	want := good
	for _, r := range results {
		var e *event
		switch id := r.header.Get("ActPass-Evidence"); {
		case id != "":
			want++
			if e = byID[id]; e == nil {
				t.Errorf("%s: event %s is not on record", r.Name, id)
				continue
			}
			delete(byID, id)
		case r.opaque():
			want++ // it is answered by nobody of ours; its event is that of the tunnel
		case r.reset != "" || slices.Contains(answeredByLibrary, r.Name):
			want++ // net/http answered; its lint has recorded why, or the handler that was reading
		}
		check(r, e)
	}
	if len(events) != want {
		t.Errorf("%d events, want %d", len(events), want)
	}
	opaque := 0
	for _, e := range byID {
		if (e.Tool == "http.connect" || e.Tool == "tcp.connect" && p.door == "transparent") && slices.Contains(e.Flags, "opaque") {
			opaque++
		}
	}
	for _, r := range results {
		if r.opaque() {
			opaque--
		}
	}
	if opaque != 0 {
		t.Errorf("%+d events of opaque tunnels beyond the tunnels that were", opaque)
	}
}

// enforced says what is wrong with the result of a case under enforce.
func enforced(r result, e *event) (problems []string) {
	fail := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if r.Expect == corpus.Allow {
		if r.status != http.StatusOK || len(r.upstream) != 1 {
			fail("the control did not arrive: %d requests", len(r.upstream))
			return problems
		}
		if want := plainBody(r.Case); !bytes.Equal(r.upstream[0].Body, want) {
			fail("the upstream saw the body %q, want %q", r.upstream[0].Body, want)
		}
		if e == nil || e.Tool != r.Tool || e.Outcome.State != "forwarded" {
			fail("want an event of %s that was forwarded", r.Tool)
		}
		return problems
	}
	if r.conns != 0 || r.bytes != 0 || len(r.upstream) != 0 {
		fail("THE UPSTREAM SAW IT: %d connections, %d bytes, %+v", r.conns, r.bytes, r.upstream)
	}
	if r.reset != "" {
		// RFC 9113 section 8.1.1: a malformed request is a stream error.
		if r.Expect == corpus.Canonical || !slices.Contains(r.Statuses, 400) {
			fail("reset (%s), want an answer", r.reset)
		}
		return problems
	}
	if r.gone != r.opaque() {
		fail("no answer")
	}
	if r.gone {
		return problems
	}
	if slices.Contains(answeredByLibrary, r.Name) {
		if r.status != 400 || e != nil {
			fail("want a plain 400")
		}
		return problems
	}
	d, err := r.decision()
	switch {
	case strings.HasPrefix(string(r.Raw), "HEAD "):
	case err != nil:
		fail("no decision: %v", err)
	case d.Decision != "deny" || d.ReasonCode == "" || d.Evidence != r.header.Get("ActPass-Evidence"):
		fail("decision %+v", d)
	}
	if e == nil {
		fail("no event")
		return problems
	}
	if e.Decision != "deny" || e.Enforcement != "block" || e.ReasonCode == "" || e.ReasonCode != r.header.Get("ActPass-Reason") || e.Outcome.Status != r.status {
		fail("the event does not say what the answer said")
	}
	refused := slices.Contains(r.Statuses, r.status) && e.Outcome.State == "refused"
	canonical := r.status == http.StatusForbidden && e.Tool == r.Tool && e.Outcome.State == "blocked"
	switch r.Expect {
	case corpus.Refuse:
		if !refused {
			fail("want it refused with one of %v", r.Statuses)
		}
	case corpus.Canonical:
		if !canonical {
			fail("want it judged as %s and denied", r.Tool)
		}
	case corpus.Either:
		if !refused && !canonical {
			fail("want it refused with one of %v, or judged as %s and denied", r.Statuses, r.Tool)
		}
	}
	return problems
}

// plainBody is the body of a sound case without its framing.
func plainBody(c corpus.Case) []byte {
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(c.Raw)))
	if err != nil {
		return nil
	}
	b, _ := io.ReadAll(req.Body)
	return b
}
