// Package e2e drives the real binary from outside: real listeners, real TLS,
// real clients, real upstreams. Nothing of ours is linked in but the API client.
package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
)

var (
	binary     string // the built actpass
	stripeMock string // base URL of a running stripe-mock, "" if it cannot be had
)

func TestMain(m *testing.M) { os.Exit(mainCode(m)) }

func mainCode(m *testing.M) int {
	dir, err := os.MkdirTemp("", "actpass-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// The machine's own presets would make "does not trust the CA" test nothing.
	for _, name := range []string{
		"SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE",
		"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy",
		"NODE_OPTIONS", "ACTPASS_CONFIG", "ACTPASS_API_KEY", "ACTPASS_MODE",
	} {
		preset[name] = os.Getenv(name)
	}
	binary = filepath.Join(dir, "actpass")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/actpass").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the binary: %v\n%s", err, out)
		return 1
	}
	stop, err := startStripeMock(dir)
	if err != nil {
		if os.Getenv("ACTPASS_E2E_REQUIRE") != "" {
			fmt.Fprintf(os.Stderr, "stripe-mock: %v\n", err)
			return 1
		}
		fmt.Fprintf(os.Stderr, "stripe-mock cannot be had, tests that need it are skipped: %v\n", err)
	} else {
		defer stop()
	}
	for name := range preset {
		os.Unsetenv(name)
	}
	return m.Run()
}

// preset is what the machine's environment said before TestMain cleared it; the
// Go and npm tools need it.
var preset = map[string]string{}

func presetEnv() []string {
	env := os.Environ()
	for k, v := range preset {
		if v != "" {
			env = append(env, k+"="+v)
		}
	}
	return env
}

const stripeMockVersion = "v0.203.0"

func startStripeMock(dir string) (stop func(), err error) {
	bin, err := goTool("stripe-mock", "github.com/stripe/stripe-mock@"+stripeMockVersion)
	if err != nil {
		return nil, err
	}
	// Without an address for HTTPS it takes port 12112 of all interfaces, and ends
	// when another run of these tests has it.
	cmd := exec.Command(bin, "-http-addr", "127.0.0.1:0", "-https-addr", "127.0.0.1:0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	// It compiles a large document first.
	timer := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if addr, ok := strings.CutPrefix(lines.Text(), "Listening for HTTP at address: "); ok {
			stripeMock = "http://" + addr
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return stop, nil
		}
	}
	stop()
	return nil, errors.New("stripe-mock ended before it listened")
}

// goTool installs a tool once into the user's cache.
func goTool(name, module string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "actpass-e2e", strings.NewReplacer("/", "_", "@", "_").Replace(module))
	bin := filepath.Join(dir, name)
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	cmd := exec.Command("go", "install", module)
	cmd.Env = append(presetEnv(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s: %w\n%s", module, err, out)
	}
	return bin, nil
}

func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

func needStripeMock(t testing.TB) {
	t.Helper()
	if stripeMock == "" {
		t.Skip("stripe-mock cannot be had")
	}
}

// sidecar is a running binary.
type sidecar struct {
	t      testing.TB
	dir    string
	config string
	cmd    *exec.Cmd
	proxy  string // host:port
	revers string
	api    string
	admin  string       // API key
	http   *http.Client // to the API; nil: any

	mu   sync.Mutex
	logs []string
	done chan struct{}
	exit error
}

// settings of a test's sidecar; the rest is the example configuration.
type settings struct {
	mode     string
	hold     string            // default 5s
	extra    string            // further top-level YAML
	policies map[string]string // file name to YAML; default: the example policies and reads.yaml
	inspect  string
	holds    int       // at a time, of all and of each agent
	front    *upstream // where api.stripe.com and *.example.test are
	upstream string    // further YAML below upstream:
}

// readsPolicy lets reads through, so that tests see more than refunds.
const readsPolicy = `policies:
  - name: reads
    version: 1
    tools: ["*"]
    rules:
      - { name: low_risk, when: risk_tier == "low", decision: allow, reason_code: read.low_risk }
      - { name: echo_upstream, when: resource.contains(".example.test"), decision: allow, reason_code: test.echo }
`

func (s settings) write(t testing.TB, dir string) string {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(dir, "policies"), 0o755))
	policies := s.policies
	if policies == nil {
		example, err := os.ReadFile("../policies/refund_policy.yaml")
		must(t, err)
		// The day's limit is high enough to stay out of the way of tests about rules.
		text := strings.Replace(string(example), "max: 100000", "max: 1000000000", 1)
		policies = map[string]string{"refund_policy.yaml": text, "reads.yaml": readsPolicy}
	}
	for name, text := range policies {
		must(t, os.WriteFile(filepath.Join(dir, "policies", name), []byte(text), 0o644))
	}
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("mode: %s", orElse(s.mode, "enforce"))
	p("identity: { tenant_id: acme, agent_id: support_agent }")
	p("listen: { proxy: 127.0.0.1:0, reverse: 127.0.0.1:0, api: 127.0.0.1:0 }")
	p("mapping: { packs: [stripe] }")
	p("policy: { files: [./policies/*.yaml] }")
	more := ""
	if s.holds > 0 {
		// Decisions come as fast as they can: the API's own bound is not what is tested.
		more = fmt.Sprintf(", max_holds: %d, max_holds_per_agent: %d, api_rate: 0", s.holds, s.holds)
	}
	p("limits: { hold: %s, max_inspect_bytes: %s%s }", orElse(s.hold, "5s"), orElse(s.inspect, "1MiB"), more)
	p("upstream:")
	p("  allow_private: [127.0.0.0/8]")
	if s.front != nil {
		p("  ca_file: %s", s.front.caFile)
		p("  connect_to:")
		for _, host := range upstreamHosts {
			p("    - { host: %s, port: 443, address: %q }", host, s.front.tls)
			p("    - { host: %s, port: 80, address: %q }", host, s.front.plain)
		}
	}
	if s.upstream != "" {
		p("%s", s.upstream)
	}
	p("routes:")
	p("  - { name: stripe, upstream: https://api.stripe.com }")
	p("  - { name: echo, upstream: https://echo.example.test }")
	p("%s", s.extra)
	file := filepath.Join(dir, "config.yaml")
	must(t, os.WriteFile(file, []byte(b.String()), 0o644))
	return file
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// start runs a sidecar in a new directory and stops it with the test.
func start(t testing.TB, s settings) *sidecar {
	t.Helper()
	sc := &sidecar{t: t, dir: t.TempDir()}
	sc.config = s.write(t, sc.dir)
	sc.run()
	sc.admin = sc.key("--name", "admin", "--role", "admin")
	t.Cleanup(sc.stop)
	return sc
}

// run starts the process and waits until it is ready.
func (sc *sidecar) run(env ...string) {
	sc.t.Helper()
	cmd := exec.Command(binary, "serve", "--config", sc.config)
	cmd.Env = append(os.Environ(), env...)
	sc.launch(cmd)
}

// launch starts a sidecar's command and waits until it is ready.
func (sc *sidecar) launch(cmd *exec.Cmd) {
	sc.t.Helper()
	sc.cmd = cmd
	stderr, err := sc.cmd.StderrPipe()
	must(sc.t, err)
	must(sc.t, sc.cmd.Start())
	ready := make(chan map[string]any, 1)
	sc.done = make(chan struct{})
	done := sc.done
	go func() {
		defer close(done)
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			line := lines.Text()
			sc.mu.Lock()
			sc.logs = append(sc.logs, line)
			sc.mu.Unlock()
			var m map[string]any
			if json.Unmarshal([]byte(line), &m) == nil && m["msg"] == "ready" {
				ready <- m
			}
		}
		_, _ = io.Copy(io.Discard, stderr)
		sc.exit = cmd.Wait()
	}()
	select {
	case m := <-ready:
		sc.proxy, sc.revers, sc.api = m["proxy"].(string), m["reverse"].(string), m["api"].(string)
	case <-done:
		sc.t.Fatalf("the sidecar ended:\n%s", strings.Join(sc.log(), "\n"))
	case <-time.After(20 * time.Second):
		sc.t.Fatalf("the sidecar is not ready:\n%s", strings.Join(sc.log(), "\n"))
	}
}

func (sc *sidecar) log() []string {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return append([]string(nil), sc.logs...)
}

// stop ends the sidecar in order and checks that the log verifies.
func (sc *sidecar) stop() {
	sc.t.Helper()
	if sc.cmd == nil {
		return
	}
	_ = sc.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-sc.done:
		if sc.exit != nil {
			sc.t.Errorf("the sidecar ended with %v:\n%s", sc.exit, tail(sc.log(), 20))
		}
	case <-time.After(40 * time.Second):
		_ = sc.cmd.Process.Kill()
		<-sc.done
		sc.t.Errorf("the sidecar did not stop:\n%s", tail(sc.log(), 20))
	}
	sc.cmd = nil
	if out, code := sc.cli("evidence", "verify"); code != 0 {
		sc.t.Errorf("evidence verify: %d\n%s", code, out)
	}
	for _, line := range sc.log() {
		if strings.Contains(line, "panic") {
			sc.t.Errorf("panic: %s", line)
		}
	}
}

// kill ends it as a power cut would.
func (sc *sidecar) kill() {
	_ = sc.cmd.Process.Kill()
	<-sc.done
	sc.cmd = nil
}

func tail(lines []string, n int) string {
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

// cli runs a command on the sidecar's configuration.
func (sc *sidecar) cli(args ...string) (out string, code int) {
	sc.t.Helper()
	cmd := exec.Command(binary, append(args, "--config", sc.config)...)
	cmd.Env = append(os.Environ(), "ACTPASS_API_KEY="+sc.admin, "ACTPASS_API_URL=http://"+sc.api)
	b, err := cmd.CombinedOutput()
	if ee, ok := err.(*exec.ExitError); ok {
		return string(b), ee.ExitCode()
	}
	must(sc.t, err)
	return string(b), 0
}

// key makes a key on the data directory and gives its secret.
func (sc *sidecar) key(args ...string) string {
	sc.t.Helper()
	cmd := exec.Command(binary, append([]string{"keys", "create", "--config", sc.config}, args...)...)
	out, err := cmd.Output()
	must(sc.t, err)
	secret := strings.TrimSpace(string(out))
	if !strings.HasPrefix(secret, "sk_live_") || strings.ContainsAny(secret, " \n") {
		sc.t.Fatalf("keys create printed %q", out)
	}
	return secret
}

func (sc *sidecar) client() *api.Client { return api.NewClient("http://"+sc.api, sc.admin, sc.http) }

// event is what the tests look at of an evidence event.
type event struct {
	ID          string            `json:"id"`
	Time        time.Time         `json:"time"`
	Kind        string            `json:"kind"`
	Decision    string            `json:"decision"`
	ReasonCode  string            `json:"reason_code"`
	Enforcement string            `json:"enforcement"`
	Mode        string            `json:"mode"`
	Would       map[string]string `json:"would"`
	Tool        string            `json:"tool"`
	Resource    string            `json:"resource"`
	RiskTier    string            `json:"risk_tier"`
	Door        string            `json:"door"`
	AgentID     string            `json:"agent_id"`
	UserID      string            `json:"user_id"`
	Goal        string            `json:"goal"`
	Source      string            `json:"identity_source"`
	Flags       []string          `json:"flags"`
	Notes       []string          `json:"notes"`
	Args        map[string]any    `json:"args"`
	Request     struct {
		Method, Authority, Path string
		BodySHA256              string `json:"body_sha256"`
		Bytes                   int64
	} `json:"request"`
	Outcome struct {
		State  string
		Status int
		Bytes  int64
		Error  string
	} `json:"outcome"`
	Log struct {
		Index    *uint64 `json:"index"`
		LeafHash string  `json:"leaf_hash"`
	} `json:"log"`
}

// events lists the actions on record, oldest first.
func (sc *sidecar) events() []event {
	sc.t.Helper()
	var out []event
	cursor := ""
	for {
		page, err := sc.client().Events(context.Background(), api.EventQuery{Kind: "action", Cursor: cursor, Limit: 200})
		must(sc.t, err)
		for _, raw := range page.Data {
			var e event
			must(sc.t, json.Unmarshal(raw, &e))
			out = append([]event{e}, out...)
		}
		if cursor = page.Next; cursor == "" {
			return out
		}
	}
}

// since gives the events after the first n.
func (sc *sidecar) since(n int) []event {
	sc.t.Helper()
	all := sc.events()
	if len(all) < n {
		sc.t.Fatalf("%d events, and there were %d", len(all), n)
	}
	return all[n:]
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
