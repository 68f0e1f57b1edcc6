package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// need skips a test whose outside world is not there; ACTPASS_E2E_REQUIRE makes
// that a failure.
func need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, fmt.Sprintf("%s is needed: %v", tool, err))
		}
	}
}

func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("ACTPASS_E2E_REQUIRE") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// nodePackages installs the locked packages of ./node once a lock file, in the
// user's cache.
var nodePackages = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	lock, err := os.ReadFile("node/package-lock.json")
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(cache, "actpass-e2e", "node-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, name := range []string{"package.json", "package-lock.json"} {
		data, err := os.ReadFile(filepath.Join("node", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o644)
		}
		if err != nil {
			return "", err
		}
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir, cmd.Env = dir, presetEnv()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return dir, os.WriteFile(filepath.Join(dir, "complete"), nil, 0o644)
})

// nodeScript gives the path of a script of ./node that finds its packages.
func nodeScript(t testing.TB, name string) string {
	t.Helper()
	need(t, "node", "npm")
	packages, err := nodePackages()
	if err != nil {
		missing(t, err.Error())
	}
	dir := t.TempDir()
	data, err := os.ReadFile(filepath.Join("node", name))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	must(t, os.Symlink(filepath.Join(packages, "node_modules"), filepath.Join(dir, "node_modules")))
	return filepath.Join(dir, name)
}

// idle writes a sidecar's configuration and starts nothing.
func idle(t testing.TB, s settings) *sidecar {
	t.Helper()
	sc := &sidecar{t: t, dir: t.TempDir()}
	sc.config = s.write(t, sc.dir)
	return sc
}

// began is a command that runs beside the test.
type began struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	ended          chan struct{}
}

func begin(t testing.TB, env []string, args ...string) *began {
	t.Helper()
	b := &began{cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{})}
	b.cmd.Env = append(os.Environ(), env...)
	b.cmd.Stdout, b.cmd.Stderr = &b.stdout, &b.stderr
	b.cmd.WaitDelay = 5 * time.Second
	must(t, b.cmd.Start())
	go func() { defer close(b.ended); _ = b.cmd.Wait() }()
	t.Cleanup(func() { _ = b.cmd.Process.Kill(); <-b.ended })
	return b
}

// wait gives the exit code. What was printed may be read afterwards.
func (b *began) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-b.ended:
	case <-time.After(60 * time.Second):
		t.Fatalf("%v does not end", b.cmd.Args)
	}
	return b.cmd.ProcessState.ExitCode()
}

// around runs a command in `actpass run`.
func (sc *sidecar) around(t testing.TB, env []string, args ...string) *began {
	t.Helper()
	return begin(t, env, append([]string{binary, "run", "--config", sc.config, "--"}, args...)...)
}

// pending waits for the one open approval.
func (sc *sidecar) pending() string {
	sc.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		page, err := sc.client().Approvals(context.Background(), "pending", "", "", 10)
		must(sc.t, err)
		if len(page.Data) == 1 {
			return page.Data[0].ID
		}
		if len(page.Data) > 1 {
			sc.t.Fatalf("%d approvals are open, want one: %+v", len(page.Data), page.Data)
		}
	}
	sc.t.Fatal("no approval was opened")
	return ""
}

// approve decides from the command line, as an approver does.
func (sc *sidecar) approve(id string) {
	sc.t.Helper()
	if out, code := sc.cli("approvals", "approve", id, "--reason", "checked"); code != 0 {
		sc.t.Errorf("approvals approve: %d %s", code, out)
	}
}

// sdkResult is the line that the SDK scripts print.
type sdkResult struct {
	OK          bool   `json:"ok"`
	Object      string `json:"object"`
	Type        string `json:"type"`
	Constructor string `json:"constructor"`
	Status      int    `json:"status"`
	Code        string `json:"code"`
	Message     string `json:"message"`
}

func (b *began) result(t testing.TB) (r sdkResult) {
	t.Helper()
	if code := b.wait(t); code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, &b.stdout, &b.stderr)
	}
	if err := json.Unmarshal(b.stdout.Bytes(), &r); err != nil {
		t.Fatalf("%v: standard output %q, standard error %s", err, &b.stdout, &b.stderr)
	}
	return r
}

// sdk is a Stripe SDK with its way through a sidecar.
type sdk struct {
	// around: the SDK runs inside `actpass run`, which brings its own sidecar.
	around bool
	// command is one refund; retries < 0 leaves the SDK's default.
	command func(t testing.TB, sc *sidecar, amount string, retries int) (env, args []string)
	// denied checks the error of a refusal.
	denied func(r sdkResult) bool
}

func (s sdk) sidecar(t testing.TB, set settings) *sidecar {
	t.Helper()
	if s.around {
		return idle(t, set)
	}
	return start(t, set)
}

func (s sdk) call(t testing.TB, sc *sidecar, amount string, retries int) *began {
	t.Helper()
	env, args := s.command(t, sc, amount, retries)
	if !s.around {
		return begin(t, env, args...)
	}
	at := filepath.Join(sc.dir, "api-url")
	b := sc.around(t, env, append([]string{"sh", "-c", `printf %s "$ACTPASS_API_URL" >"$0.part" && mv "$0.part" "$0" && exec "$@"`, at}, args...)...)
	eventually(t, "actpass run starts its command", func() bool {
		text, err := os.ReadFile(at)
		sc.api = strings.TrimPrefix(string(text), "http://")
		return err == nil
	})
	sc.admin = sc.key("--name", "admin", "--role", "admin")
	return b
}

// look makes the record readable after the SDK has ended.
func (s sdk) look(sc *sidecar) {
	sc.t.Helper()
	if s.around {
		sc.run()
		sc.t.Cleanup(sc.stop)
	}
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in 30 s it did not come true that %s", what)
		}
	}
}

// testSDK holds an SDK to what an agent that uses it is promised.
func testSDK(t *testing.T, s sdk) {
	needStripeMock(t)
	t.Run("allow", func(t *testing.T) {
		t.Parallel()
		u := newUpstream(t)
		sc := s.sidecar(t, settings{front: u})
		if r := s.call(t, sc, "4900", -1).result(t); !r.OK || r.Object != "refund" {
			t.Errorf("%+v", r)
		}
		if n := len(u.requestsSeen()); n != 1 {
			t.Errorf("the upstream saw %d calls", n)
		}
	})
	t.Run("deny", func(t *testing.T) {
		t.Parallel()
		u := newUpstream(t)
		sc := s.sidecar(t, settings{front: u})
		var r sdkResult
		u.quiet(t, "a denied refund", func() { r = s.call(t, sc, "75000", 3).result(t) })
		if r.OK || r.Status != 403 || r.Code != "refund.over_limit" || !s.denied(r) ||
			!strings.Contains(r.Message, "ActPass blocked this call and did not send it: stripe.refund.create") || !strings.Contains(r.Message, "large_refund") {
			t.Errorf("%+v", r)
		}
		s.look(sc)
		if events := sc.events(); len(events) != 1 {
			t.Errorf("%d attempts, and a refusal is not to be retried: %+v", len(events), events)
		}
	})
	t.Run("held and approved", func(t *testing.T) {
		t.Parallel()
		u := newUpstream(t)
		sc := s.sidecar(t, settings{front: u, hold: "20s"})
		call := s.call(t, sc, "25000", 0)
		id := sc.pending()
		select {
		case <-call.ended:
			t.Fatalf("the call did not wait: %s", &call.stdout)
		case <-time.After(150 * time.Millisecond):
		}
		if n := u.conns.Load(); n != 0 {
			t.Errorf("the upstream saw %d connections of a held call", n)
		}
		sc.approve(id)
		if r := call.result(t); !r.OK || r.Object != "refund" {
			t.Errorf("%+v", r)
		}
		if n := len(u.requestsSeen()); n != 1 {
			t.Errorf("the upstream saw %d calls", n)
		}
		s.look(sc)
		if events := sc.events(); len(events) != 1 || events[0].Outcome.State != "forwarded" || events[0].Outcome.Status != 200 {
			t.Errorf("%+v", events)
		}
	})
	t.Run("retry attaches", func(t *testing.T) {
		t.Parallel()
		u := newUpstream(t)
		sc := s.sidecar(t, settings{front: u, hold: "300ms"})
		call := s.call(t, sc, "25000", 10)
		eventually(t, "the SDK comes back by itself", func() bool {
			select {
			case <-call.ended:
				t.Fatalf("the SDK gave up: %s", &call.stdout)
			default:
			}
			return len(sc.events()) >= 2
		})
		sc.approve(sc.pending())
		if r := call.result(t); !r.OK || r.Object != "refund" {
			t.Errorf("%+v", r)
		}
		if n := len(u.requestsSeen()); n != 1 {
			t.Errorf("the upstream saw %d calls, want exactly one", n)
		}
		s.look(sc)
		page, err := sc.client().Approvals(t.Context(), "", "", "", 10)
		must(t, err)
		if len(page.Data) != 1 || page.Data[0].State != "consumed" {
			t.Errorf("approvals %+v, want one, consumed", page.Data)
		}
	})
}

func nodeCommand(t testing.TB, amount string, retries int) (env, args []string) {
	if retries >= 0 {
		env = append(env, fmt.Sprintf("STRIPE_RETRIES=%d", retries))
	}
	return env, []string{"node", nodeScript(t, "refund.mjs"), amount}
}

func TestStripeNode(t *testing.T) {
	t.Parallel()
	denied := func(r sdkResult) bool {
		return r.Type == "StripePermissionError" && r.Constructor == "StripePermissionError"
	}
	t.Run("forward", func(t *testing.T) {
		t.Parallel()
		testSDK(t, sdk{around: true, denied: denied, command: func(t testing.TB, _ *sidecar, amount string, retries int) (env, args []string) {
			return nodeCommand(t, amount, retries)
		}})
	})
	t.Run("reverse", func(t *testing.T) {
		t.Parallel()
		testSDK(t, sdk{denied: denied, command: func(t testing.TB, sc *sidecar, amount string, retries int) (env, args []string) {
			env, args = nodeCommand(t, amount, retries)
			_, port, _ := strings.Cut(sc.revers, ":")
			return append(env, "STRIPE_BASE=http://stripe.localhost:"+port), args
		}})
	})
}

func TestCurl(t *testing.T) {
	t.Parallel()
	needStripeMock(t)
	need(t, "curl")
	u := newUpstream(t)
	sc := start(t, settings{front: u})
	curl := func(url, amount string) *began {
		return begin(t, []string{"HTTPS_PROXY=http://" + sc.proxy, "CURL_CA_BUNDLE=" + filepath.Join(sc.dir, "data", "ca", "ca.pem")},
			"curl", "-sS", "-w", "\n%{http_code}", url, "-u", "sk_test_123:", "-d", "charge=ch_123", "-d", "currency=usd", "-d", "amount="+amount)
	}
	for i, base := range []string{"https://api.stripe.com", "http://" + sc.revers + "/stripe"} {
		if b := curl(base+"/v1/refunds", "4900"); b.wait(t) != 0 || !strings.HasSuffix(b.stdout.String(), "\n200") || !strings.Contains(b.stdout.String(), `"refund"`) {
			t.Errorf("%s: %s %s", base, &b.stdout, &b.stderr)
		}
		u.quiet(t, "a denied refund", func() {
			if b := curl(base+"/v1/refunds", "75000"); b.wait(t) != 0 || !strings.HasSuffix(b.stdout.String(), "\n403") || !strings.Contains(b.stdout.String(), "ActPass blocked this call") {
				t.Errorf("%s: %s %s", base, &b.stdout, &b.stderr)
			}
		})
		call := curl(base+"/v1/refunds", fmt.Sprint(25000+i))
		sc.approve(sc.pending())
		if call.wait(t) != 0 || !strings.HasSuffix(call.stdout.String(), "\n200") {
			t.Errorf("%s: %s %s", base, &call.stdout, &call.stderr)
		}
	}
}

// TestRunCommand holds `actpass run` to what it promises a command.
func TestRunCommand(t *testing.T) {
	t.Parallel()
	const target = "https://echo.example.test/hello?a=1"
	python := `import sys, urllib.request
body = urllib.request.urlopen(sys.argv[1]).read()
sys.stdout.buffer.write(body)
sys.stderr.write("mine\n")
sys.exit(7)`
	node := `fetch(process.argv[1]).then(r => r.text()).then(s => { process.stdout.write(s); process.stderr.write("mine\n"); process.exitCode = 7 })`
	for _, c := range []struct {
		tool string
		args []string
		code int
	}{
		{"curl", []string{"-sS", target}, 0},
		{"curl", []string{"-sS", "--fail", "https://echo.example.test/status/404"}, 22},
		{"python3", []string{"-c", python, target}, 7},
		{"node", []string{"-e", node, target}, 7},
	} {
		t.Run(c.tool, func(t *testing.T) {
			t.Parallel()
			need(t, c.tool)
			u := newUpstream(t)
			if c.code == 22 {
				u.handle(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
			}
			sc := idle(t, settings{front: u})
			b := sc.around(t, nil, append([]string{c.tool}, c.args...)...)
			if code := b.wait(t); code != c.code {
				t.Errorf("exit code %d, want %d\n%s", code, c.code, &b.stderr)
			}
			if c.code != 22 {
				var echo struct{ Host, Target string }
				if err := json.Unmarshal(b.stdout.Bytes(), &echo); err != nil || echo.Target != "/hello?a=1" || echo.Host != "echo.example.test" {
					t.Errorf("standard output is not the answer alone: %q", &b.stdout)
				}
			}
			if c.code == 7 && !strings.Contains(b.stderr.String(), "mine\n") {
				t.Errorf("the command's own standard error is missing: %q", &b.stderr)
			}
			if !strings.Contains(b.stderr.String(), "actpass: 1 call, 0 stopped (mode enforce)") {
				t.Errorf("no summary: %q", &b.stderr)
			}
		})
	}
	t.Run("signals", func(t *testing.T) {
		t.Parallel()
		need(t, "bash")
		for _, c := range []struct {
			script string
			signal syscall.Signal
			code   int
		}{
			{`trap 'echo got it; exit 9' TERM; echo up; while :; do sleep 0.05; done`, syscall.SIGTERM, 9},
			{`trap 'echo got it; exit 9' INT; echo up; while :; do sleep 0.05; done`, syscall.SIGINT, 9},
			{`echo up; exec sleep 60`, syscall.SIGTERM, 128 + 15},
		} {
			sc := idle(t, settings{})
			var up atomic.Bool
			out := &watched{seen: func(s string) {
				if strings.Contains(s, "up") {
					up.Store(true)
				}
			}}
			b := &began{cmd: exec.Command(binary, "run", "--config", sc.config, "--", "bash", "-c", c.script), ended: make(chan struct{})}
			b.cmd.Stdout, b.cmd.Stderr = out, &b.stderr
			must(t, b.cmd.Start())
			go func() { defer close(b.ended); _ = b.cmd.Wait() }()
			t.Cleanup(func() { _ = b.cmd.Process.Kill() })
			eventually(t, "the command is up", up.Load)
			must(t, b.cmd.Process.Signal(c.signal))
			if code := b.wait(t); code != c.code {
				t.Errorf("%s after %v: exit code %d, want %d", c.script, c.signal, code, c.code)
			}
			if want := "actpass: no calls went through the sidecar (mode enforce)\n"; b.stderr.String() != want {
				t.Errorf("standard error %q, want %q", &b.stderr, want)
			}
		}
	})
	t.Run("not there", func(t *testing.T) {
		t.Parallel()
		sc := idle(t, settings{})
		if code := sc.around(t, nil, "no-such-command-at-all").wait(t); code != 127 {
			t.Errorf("exit code %d, want 127", code)
		}
	})
}

// watched tells of what is written as it is written.
type watched struct{ seen func(string) }

func (w *watched) Write(p []byte) (int, error) {
	w.seen(string(p))
	return len(p), nil
}
