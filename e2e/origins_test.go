package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/mapping/corpus"
)

// originsMapping gives every kind of arguments a host of its own, and nothing a
// type: whatever the origins read is compared.
const originsMapping = `name: origins
rules:
  - { match: { host: path.example.test, path: "/{p...}" }, tool: t.path, resource: "p:{path.p}" }
  - { match: { host: query.example.test, path: "/{p...}" }, tool: t.query, args: query }
  - { match: { host: form.example.test, path: "/{p...}" }, tool: t.form, args: form }
  - { match: { host: json.example.test, path: "/{p...}" }, tool: t.json, args: json }
  - { match: { host: multipart.example.test, path: "/{p...}" }, tool: t.multipart, args: multipart }
  - match: { host: typed.example.test, path: "/{p...}" }
    tool: t.typed
    args: json
    optional: [{ name: amount, type: integer }, { name: customer }, { name: kind }]
`

const allowAll = "policies:\n  - name: all\n    version: 1\n    tools: [\"*\"]\n    rules:\n      - { name: all, decision: allow, reason_code: test.all }\n"

var originsHosts = append([]string{
	"path.example.test", "query.example.test", "form.example.test", "json.example.test", "multipart.example.test", "typed.example.test",
}, corpusHosts...)

// tap is an upstream that keeps each request that leaves the sidecar byte for
// byte, one a connection.
type tap struct {
	tls, plain, caFile string
	mu                 sync.Mutex
	raw                [][]byte
}

func newTap(t testing.TB) *tap {
	t.Helper()
	tp := &tap{}
	cert, ca := testCertificate(t, originsHosts)
	tp.caFile = filepath.Join(t.TempDir(), "tap-ca.pem")
	must(t, os.WriteFile(tp.caFile, ca, 0o644))
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		t.Cleanup(func() { _ = ln.Close() })
		return ln
	}
	secure, plain := listen(), listen()
	tp.tls, tp.plain = secure.Addr().String(), plain.Addr().String()
	go tp.serve(tls.NewListener(secure, &tls.Config{Certificates: []tls.Certificate{cert}}))
	go tp.serve(plain)
	return tp
}

func (tp *tap) serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go tp.take(c)
	}
}

// take keeps all bytes of a connection: what is beyond the one request would
// show in the copy.
func (tp *tap) take(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	var all bytes.Buffer
	req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(c, &all)))
	if err != nil {
		return
	}
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return
	}
	tp.mu.Lock()
	tp.raw = append(tp.raw, all.Bytes())
	tp.mu.Unlock()
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

// last gives and forgets what was taken.
func (tp *tap) last() [][]byte {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	out := tp.raw
	tp.raw = nil
	return out
}

func startOrigins(t testing.TB, mode string, tp *tap) *sidecar {
	t.Helper()
	sc := &sidecar{t: t, dir: t.TempDir()}
	corpusMap, err := filepath.Abs("../mapping/testdata/corpus/mapping.yaml")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(sc.dir, "mapping.yaml"), []byte(originsMapping), 0o644))
	must(t, os.WriteFile(filepath.Join(sc.dir, "policy.yaml"), []byte(allowAll), 0o644))
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("mode: %s", mode)
	p("identity: { tenant_id: acme, agent_id: support_agent }")
	p("listen: { proxy: 127.0.0.1:0, reverse: 127.0.0.1:0, api: 127.0.0.1:0 }")
	p("mapping: { packs: [stripe], files: [%q, ./mapping.yaml] }", corpusMap)
	p("policy: { files: [./policy.yaml] }")
	p("upstream:")
	p("  allow_private: [127.0.0.0/8]")
	p("  ca_file: %s", tp.caFile)
	p("  connect_to:")
	for _, host := range originsHosts {
		p("    - { host: %s, port: 443, address: %q }", host, tp.tls)
		p("    - { host: %s, port: 80, address: %q }", host, tp.plain)
	}
	sc.config = filepath.Join(sc.dir, "config.yaml")
	must(t, os.WriteFile(sc.config, []byte(b.String()), 0o644))
	sc.run()
	sc.admin = sc.key("--name", "admin", "--role", "admin")
	t.Cleanup(sc.stop)
	return sc
}

// left is one request that the sidecar let through: the bytes that left, and
// what was judged.
type left struct {
	corpus.Case
	passage string
	raw     []byte
	event   judgedEvent
}

func (l left) String() string { return l.passage + " " + l.Name }

// judgedEvent is what an event says of the call, its numbers as they stand.
type judgedEvent struct {
	ID       string         `json:"id"`
	Tool     string         `json:"tool"`
	Resource string         `json:"resource"`
	Args     map[string]any `json:"args"`
	Flags    []string       `json:"flags"`
	Request  struct{ Method, Authority, Path string }
}

// letThrough puts every case to the sidecar and keeps those that pass.
func letThrough(t testing.TB, sc *sidecar, tp *tap, p passage, cases []corpus.Case) (passed []left) {
	t.Helper()
	var conn any
	at := ""
	shut := func() {
		if conn != nil {
			_ = conn.(io.Closer).Close()
		}
		conn = nil
	}
	defer shut()
	ids := map[string]int{}
	for _, c := range cases {
		if !p.carries(c) {
			continue
		}
		if conn == nil || at != c.Authority {
			shut()
			conn, at = p.open(t, sc, c.Authority), c.Authority
		}
		tp.last()
		r, err := p.send(sc, conn, c)
		if err != nil || r.closes || r.gone || r.reset != "" {
			shut()
		}
		raws, id := tp.last(), r.header.Get("ActPass-Evidence")
		if len(raws) == 0 || id == "" || r.header.Get("ActPass-Decision") == "" {
			continue
		}
		if len(raws) != 1 {
			t.Errorf("%s %s: %d requests left", p.name, c.Name, len(raws))
		}
		ids[id] = len(passed)
		passed = append(passed, left{Case: c, passage: p.name, raw: raws[0]})
	}
	found := 0
	for cursor := ""; ; {
		page, err := sc.client().Events(context.Background(), api.EventQuery{Kind: "action", Cursor: cursor, Limit: 200})
		must(t, err)
		for _, raw := range page.Data {
			var e judgedEvent
			d := json.NewDecoder(bytes.NewReader(raw))
			d.UseNumber()
			must(t, d.Decode(&e))
			if i, ok := ids[e.ID]; ok {
				passed[i].event = e
				found++
			}
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if found != len(passed) {
		t.Errorf("%s: %d calls left, and %d of them are on record", p.name, len(passed), found)
	}
	return passed
}

// origin is a real server that says what it understood.
type origin struct {
	name  string
	addr  string
	once  bool                            // it closes after each answer
	wait  bool                            // it takes no request before it has answered the one before
	hangs func(raw []byte) bool           // it gives no answer to such a request
	read  func(body []byte) understanding // of its answer
}

// originProgram is a program that is an origin once it runs; need[0] is started.
type originProgram struct {
	name  string
	need  []string
	files []string // of ./origins, filled in and put beside the process
	args  func(dir string, port string) []string
	port  int // of the two that are filled in: which one it answers on
	read  func(body []byte) understanding
	once  bool
	wait  bool
	hangs func(raw []byte) bool
}

const apacheModules = "/usr/lib/apache2/modules"

var originPrograms = []originProgram{
	{
		name: "nginx", need: []string{"nginx"}, files: []string{"nginx.conf"}, read: readLines,
		args: func(dir, _ string) []string { return []string{"-p", dir, "-e", "/dev/null", "-c", dir + "/nginx.conf"} },
	},
	{
		name: "nginx before go", need: []string{"nginx"}, files: []string{"nginx.conf"}, read: readJSON, port: 1,
		args: func(dir, _ string) []string { return []string{"-p", dir, "-e", "/dev/null", "-c", dir + "/nginx.conf"} },
	},
	{
		name: "apache", need: []string{"apache2", apacheModules + "/mod_lua.so"}, files: []string{"apache.conf", "understood.lua"}, read: readJSON,
		args: func(dir, _ string) []string { return []string{"-X", "-f", dir + "/apache.conf"} },
	},
	{
		name: "haproxy", need: []string{"haproxy"}, files: []string{"haproxy.cfg"}, read: readLines,
		args: func(dir, _ string) []string { return []string{"-db", "-q", "-f", dir + "/haproxy.cfg"} },
	},
	{
		name: "node", need: []string{"node"}, files: []string{"node.cjs"}, read: readJSON,
		args: func(dir, port string) []string { return []string{dir + "/node.cjs", port} },
	},
	{
		name: "python", need: []string{"python3"}, files: []string{"python.py"}, read: readJSON,
		args: func(dir, port string) []string { return []string{dir + "/python.py", port} },
	},
	{
		name: "php", need: []string{"php"}, files: []string{"understood.php"}, read: readJSON, once: true,
		args: func(dir, port string) []string { return []string{"-S", "127.0.0.1:" + port, dir + "/understood.php"} },
	},
	{
		name: "rack", need: []string{"puma"}, files: []string{"config.ru"}, read: readJSON, wait: true,
		hangs: func(raw []byte) bool {
			line, _, _ := bytes.Cut(raw, []byte("\r\n"))
			// Puma refuses what RFC 3986 does not have, and more than 10 KiB, and then waits.
			return bytes.ContainsAny(line, "\"<>`") || len(line) > 10<<10
		},
		args: func(dir, port string) []string {
			return []string{"-q", "-e", "production", "-t", "1:2", "-b", "tcp://127.0.0.1:" + port, dir + "/config.ru"}
		},
	},
}

// startOrigin gives nil when the program is not there and need not be.
func startOrigin(t testing.TB, p originProgram, back string) *origin {
	t.Helper()
	for _, need := range p.need {
		if _, err := exec.LookPath(need); err != nil && !exists(need) {
			if os.Getenv("ACTPASS_E2E_REQUIRE") != "" {
				t.Errorf("%s is needed for the origin %s: %v", need, p.name, err)
			}
			t.Logf("skipped the origin %s: %v", p.name, err)
			return nil
		}
	}
	dir := t.TempDir()
	var ports [2]string
	for i := range ports {
		addr, err := freeAddress()
		must(t, err)
		_, ports[i], _ = net.SplitHostPort(addr)
	}
	_, backPort, _ := net.SplitHostPort(back)
	fill := strings.NewReplacer("@DIR@", dir, "@PORT@", ports[0], "@PORT2@", ports[1], "@BACK@", backPort, "@MODULES@", apacheModules)
	for _, name := range p.files {
		text, err := os.ReadFile(filepath.Join("origins", name))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(fill.Replace(string(text))), 0o644))
	}
	cmd := exec.Command(p.need[0], p.args(dir, ports[0])...)
	if p.name == "node" {
		packages, err := nodePackages()
		if err != nil {
			if os.Getenv("ACTPASS_E2E_REQUIRE") != "" {
				t.Error(err)
			}
			t.Logf("node goes without qs: %v", err)
		}
		cmd.Env = append(os.Environ(), "NODE_PATH="+filepath.Join(packages, "node_modules"))
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &said, &said, time.Second
	must(t, cmd.Start())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	o := &origin{name: p.name, addr: net.JoinHostPort("127.0.0.1", ports[p.port]), once: p.once, wait: p.wait, hangs: p.hangs, read: p.read}
	eventually(t, p.name+" listens", func() bool {
		select {
		case <-ended:
			t.Fatalf("%s ended: %s", p.name, &said)
		default:
		}
		c, err := net.Dial("tcp", o.addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return o
}

func exists(file string) bool { _, err := os.Stat(file); return err == nil }

// startOrigins starts all that can be had, Go's own server first.
func startAllOrigins(t testing.TB) []*origin {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(goUnderstood), DisableGeneralOptionsHandler: true}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	all := []*origin{{name: "go", addr: ln.Addr().String(), read: readJSON}}
	for _, p := range originPrograms {
		if o := startOrigin(t, p, ln.Addr().String()); o != nil {
			all = append(all, o)
		}
	}
	return all
}

// replay sends the bytes of every request, each with another request right
// behind it, and gives what the origin understood. A framing that it reads
// otherwise would swallow or split the second.
func (o *origin) replay(t testing.TB, requests []left, each func(l left, u understanding)) {
	t.Helper()
	var c *h1
	defer func() {
		if c != nil {
			_ = c.Close()
		}
	}()
	for i, l := range requests {
		method, _, _ := strings.Cut(string(l.raw[:min(len(l.raw), 32)]), " ")
		if method == http.MethodHead { // its answer says nothing
			continue
		}
		if o.hangs != nil && o.hangs(l.raw) {
			each(l, understanding{Error: "it would not answer"})
			continue
		}
		if c == nil {
			c = dialH1(t, o.addr)
		}
		raw, sentinel := l.raw, "/sentinel/"+strconv.Itoa(i)
		behind := "GET " + sentinel + " HTTP/1.1\r\nHost: sentinel.example.test\r\n\r\n"
		if !o.once && !o.wait {
			raw = append(append([]byte(nil), raw...), behind...)
		}
		rep, err := c.ask(raw, method)
		switch {
		case err != nil:
			t.Fatalf("%s: %s: %v\n  sent %.600q", o.name, l, err, l.raw)
		case rep.gone:
			each(l, understanding{Error: "it hung up"})
		case rep.status != http.StatusOK:
			each(l, understanding{Error: fmt.Sprintf("%d %.100s", rep.status, rep.body)})
		default:
			each(l, o.read(rep.body))
		}
		if o.once || rep.closes || rep.gone {
			_ = c.Close()
			c = nil
			continue
		}
		if o.wait {
			_, _ = io.WriteString(c, behind)
		}
		second, err := c.answer(http.MethodGet)
		if u := o.read(second.body); err != nil || u.Path != sentinel || u.Method != http.MethodGet {
			t.Errorf("%s: %s: what came behind it was understood as %q %+v, %v", o.name, l, u.Path, second, err)
			_ = c.Close()
			c = nil
		}
	}
}

// TestOriginsUnderstandWhatWasJudged lets through what the sidecar lets through,
// of the corpus and of generated spellings, and has real servers say how they
// read the very bytes that left. A word of theirs that differs from the judgement
// is a way around the policy.
func TestOriginsUnderstandWhatWasJudged(t *testing.T) {
	origins := startAllOrigins(t)
	tp := newTap(t)
	sc := startOrigins(t, "enforce", tp)
	var passed []left
	tried := 0
	for _, p := range passages {
		if p.name != "forward" && p.name != "connect-tls-h1" && p.name != "connect-tls-h2" {
			continue
		}
		cases := loadCorpus(t)
		if p.name == "connect-tls-h1" { // the rest came through forward
			cases = slices.DeleteFunc(cases, passages[0].carries)
		} else {
			cases = append(cases, generated(t, p.name == "connect-tls-h2")...)
		}
		tried += len(cases)
		passed = append(passed, letThrough(t, sc, tp, p, cases)...)
	}
	t.Logf("%d of %d requests were let through", len(passed), tried)
	if len(passed) < 400 {
		t.Errorf("only %d requests were let through: that proves little", len(passed))
	}
	for _, l := range passed {
		if len(l.event.Flags) > 0 {
			t.Errorf("%s was let through with the flags %v", l, l.event.Flags)
		}
	}
	for _, o := range origins {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			compared, refused, shown := 0, 0, 0
			o.replay(t, passed, func(l left, u understanding) {
				if u.Error != "" {
					refused++ // what is not understood at all is not misunderstood
					return
				}
				differences, readers := u.differences(l)
				compared += readers
				for _, d := range differences {
					if shown++; shown <= 25 {
						t.Errorf("%s: %s\n  judged %s %s %v\n  sent %.600q", l, d, l.event.Tool, l.event.Resource, l.event.Args, l.raw)
					}
				}
			})
			t.Logf("%d readings compared, %d requests refused by the origin", compared, refused)
			if compared < 200 || refused > len(passed)/5 {
				t.Errorf("%d readings were compared and %d requests refused", compared, refused)
			}
		})
	}
}

// warranted are evasions of the corpus, each with an origin that reads it as
// something else than what would have been judged.
var warranted = map[string]string{
	"aws/twice": "go", "form/twice-escaped": "go", "json/twice-escaped": "go", "json/second-document": "go", "jsonrpc/arguments-twice": "go",
	"multipart/twice": "go", "multipart/name-star": "go", "form/semicolon": "haproxy", "form/list-and-scalar": "php", "form/stop-clash": "php",
	"form/equals-in-name": "apache", "json/comment": "rack", "json/bom": "python", "multipart/empty-filename": "php", "multipart/epilogue": "php",
	"path/dot-dot": "nginx", "path/dot-dot-escaped": "node", "path/double-slash": "apache", "path/backslash": "node", "path/fragment": "rack",
}

// TestRefusedForReason lets evasions pass, under monitor, and holds that an
// origin reads each otherwise: what is refused is refused for a reason, and the
// comparison can fail.
func TestRefusedForReason(t *testing.T) {
	origins := startAllOrigins(t)
	tp := newTap(t)
	sc := startOrigins(t, "monitor", tp)
	cases := slices.DeleteFunc(loadCorpus(t), func(c corpus.Case) bool { return warranted[c.Name] == "" })
	if len(cases) != len(warranted) {
		t.Errorf("%d of %d cases are in the corpus", len(cases), len(warranted))
	}
	passed := letThrough(t, sc, tp, passages[0], cases)
	if connect := passages[1]; len(passed) < len(cases) { // not every case is for every door
		passed = append(passed, letThrough(t, sc, tp, connect, slices.DeleteFunc(cases, passages[0].carries))...)
	}
	for _, o := range origins {
		o.once = true // what comes behind such a request may be anything
		mine := slices.DeleteFunc(slices.Clone(passed), func(l left) bool { return warranted[l.Name] != o.name })
		o.replay(t, mine, func(l left, u understanding) {
			if differences, _ := u.differences(l); len(differences) == 0 || u.Error != "" || len(l.event.Flags) == 0 {
				t.Errorf("%s: %s understood what would have been judged %v: %+v", l, o.name, l.event.Flags, u)
			}
		})
	}
}

// decodedPath is the path of a target, decoded once.
func decodedPath(raw string) string {
	p, err := url.PathUnescape(raw)
	if err != nil {
		return raw
	}
	return p
}
