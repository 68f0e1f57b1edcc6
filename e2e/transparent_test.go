package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pod is a network namespace with addresses of both families, no way out but
// the loopback, and names: what a pod with a sidecar is, as far as sockets see.
type pod struct {
	t    testing.TB
	name string
}

var pods atomic.Int64 // made so far; they may run side by side

const (
	agentUID   = 10001
	sidecarUID = 65532
)

// newPod makes one, or skips where that is not possible.
func newPod(t testing.TB) *pod {
	t.Helper()
	missing := ""
	for _, tool := range []string{"ip", "nft", "setpriv", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = tool
		}
	}
	p := &pod{t: t, name: fmt.Sprintf("actpass-%d-%d", os.Getpid(), pods.Add(1))}
	var err error
	if os.Getuid() != 0 {
		missing = "root"
	} else if missing == "" {
		var out []byte
		if out, err = exec.Command("ip", "netns", "add", p.name).CombinedOutput(); err != nil {
			missing = "a network namespace: " + string(out)
		}
	}
	if missing != "" {
		if os.Getenv("ACTPASS_E2E_REQUIRE") != "" {
			t.Fatalf("%s is needed", missing)
		}
		t.Skipf("%s is needed", missing)
	}
	etc := filepath.Join("/etc/netns", p.name)
	t.Cleanup(func() {
		_ = exec.Command("ip", "netns", "del", p.name).Run()
		_ = os.RemoveAll(etc)
	})
	must(t, os.MkdirAll(etc, 0o755))
	hosts := "127.0.0.1 localhost\n"
	for i, h := range upstreamHosts {
		hosts += fmt.Sprintf("203.0.113.%d %s\n2001:db8::%d %s\n", 10+i, h, 10+i, h)
	}
	must(t, os.WriteFile(filepath.Join(etc, "hosts"), []byte(hosts), 0o644))
	must(t, os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte("nameserver 192.0.2.53\n"), 0o644))
	for _, line := range []string{
		"link set lo up", "link add out type veth peer name far", "link set far up", "link set out up", "addr add 198.51.100.2/24 dev out", "-6 addr add 2001:db8:1::2/64 dev out nodad",
		"route add default dev out", "-6 route add default dev out",
	} {
		out, err := exec.Command("ip", append([]string{"-n", p.name}, strings.Fields(line)...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %s: %v %s", line, err, out)
		}
	}
	return p
}

// in runs f on a thread inside the pod: sockets that it opens stay there.
func (p *pod) in(f func()) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		h, err := os.Open("/run/netns/" + p.name)
		if err == nil {
			err = unix.Setns(int(h.Fd()), unix.CLONE_NEWNET)
			_ = h.Close()
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	must(p.t, <-done)
}

func (p *pod) command(uid int, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{
		"netns", "exec", p.name, "setpriv", fmt.Sprint("--reuid=", uid), fmt.Sprint("--regid=", uid), "--clear-groups", "--no-new-privs", "--inh-caps=-all",
	}, args...)...)
}

// run runs an agent's command, with none of the proxy variables.
func (p *pod) run(env []string, args ...string) (string, error) {
	p.t.Helper()
	cmd := p.command(agentUID, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/tmp"}, env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(p.t, cmd.Start())
	timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	return out.String(), err
}

// forced is a pod in which everything is led to a sidecar.
func forced(t *testing.T, s settings) (*pod, *sidecar, *upstream) {
	t.Helper()
	p := newPod(t)
	p.in(func() { s.front = newUpstream(t) })
	sc := &sidecar{t: t, dir: t.TempDir()}
	sc.config = s.write(t, sc.dir)
	p.serve(sc, s.front)
	return p, sc, s.front
}

// serve starts a sidecar of the pod under its own uid, and has everything led to it.
func (p *pod) serve(sc *sidecar, front *upstream) {
	t := p.t
	t.Helper()
	for _, file := range []string{front.caFile, binary, sc.config} {
		for dir := filepath.Dir(file); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
			must(t, os.Chmod(dir, 0o755))
		}
	}
	must(t, os.Chown(sc.dir, sidecarUID, sidecarUID))
	sc.launch(p.command(sidecarUID, binary, "serve", "--config", sc.config, "--listen.transparent", "localhost:15001", "--listen.api", "127.0.0.1:8090"))
	t.Cleanup(sc.stop)
	out, err := p.redirect("--dns", "192.0.2.53")
	if err != nil {
		t.Fatalf("redirect: %v %s", err, out)
	}
}

func (p *pod) redirect(args ...string) ([]byte, error) {
	return exec.Command("ip", append([]string{"netns", "exec", p.name, binary, "redirect"}, args...)...).CombinedOutput()
}

// key makes an administrator's key as the sidecar's own user.
func (p *pod) key(sc *sidecar) string {
	p.t.Helper()
	key, err := p.command(sidecarUID, binary, "keys", "create", "--config", sc.config, "--name", "test", "--role", "admin").Output()
	must(p.t, err)
	return strings.TrimSpace(string(key))
}

// record stops the sidecar of a pod and gives the events that it recorded.
func (p *pod) record(sc *sidecar) []event {
	p.t.Helper()
	key := p.key(sc)
	tail := p.command(sidecarUID, binary, "evidence", "tail", "--config", sc.config, "--json", "--limit", "200")
	tail.Env = append(os.Environ(), "ACTPASS_API_KEY="+key, "ACTPASS_API_URL=http://127.0.0.1:8090")
	time.Sleep(300 * time.Millisecond) // the index follows the log
	b, err := tail.CombinedOutput()
	if err != nil {
		p.t.Fatalf("evidence tail: %v %s", err, b)
	}
	sc.stop()
	out := string(b)
	var list []event
	for line := range strings.Lines(out) {
		var e event
		must(p.t, json.Unmarshal([]byte(line), &e))
		list = append(list, e)
	}
	return list
}

const tcpPolicy = `policies:
  - name: tcp
    version: 1
    tools: ["tcp.connect"]
    rules:
      - { name: raw_db, when: resource == "203.0.113.77:5432", decision: allow, reason_code: test.db }
`

// TestForcedPath is what redirection is for: no program, whatever it makes of
// proxy variables, gets out of a pod without being judged.
func TestForcedPath(t *testing.T) {
	db := make(chan string, 8)
	pol := map[string]string{"reads.yaml": readsPolicy, "tcp.yaml": tcpPolicy}
	refund, err := os.ReadFile("../policies/refund_policy.yaml")
	must(t, err)
	pol["refund.yaml"] = string(refund)
	p, sc, up := forced(t, settings{mode: "enforce", policies: pol, upstream: "    - { host: 203.0.113.77, port: 5432, address: 127.0.0.1:5432 }"})
	p.in(func() {
		ln, err := net.Listen("tcp", "127.0.0.1:5432")
		must(t, err)
		t.Cleanup(func() { _ = ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				b := make([]byte, 64)
				n, _ := c.Read(b)
				db <- string(b[:n])
				_, _ = io.WriteString(c, "pong")
				_ = c.Close()
			}
		}()
	})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	pem, err := os.ReadFile(filepath.Join(sc.dir, "data", "ca", "ca.pem"))
	must(t, err)
	must(t, os.WriteFile(ca, pem, 0o644))
	must(t, os.Chmod(filepath.Dir(ca), 0o755))
	must(t, os.Chmod(filepath.Dir(filepath.Dir(ca)), 0o755))

	node := `fetch(process.argv[1], {method: 'POST', headers: {'content-type': 'application/x-www-form-urlencoded', authorization: 'Bearer sk_test_1'}, body: 'charge=ch_1&currency=usd&amount=75000'}).then(r => console.log(r.status, r.headers.get('actpass-reason')))`
	python := `
import sys, urllib.request, urllib.error
try:
    print(urllib.request.urlopen(urllib.request.Request(sys.argv[1], data=b'charge=ch_1&currency=usd&amount=75000', headers={'Authorization': 'Bearer sk_test_1'})).status)
except urllib.error.HTTPError as e:
    print(e.code, e.headers['ActPass-Reason'])
`
	url := "https://api.stripe.com/v1/refunds"
	curl := []string{"curl", "-sS", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code} %header{actpass-reason}", "--cacert", ca, "-d", "charge=ch_1&currency=usd&amount=75000", url}
	goProgram := filepath.Join(filepath.Dir(binary), "post")
	if out, err := exec.Command("go", "build", "-o", goProgram, "./agent").CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v %s", err, out)
	}
	for _, c := range []struct {
		name string
		env  []string
		args []string
	}{
		{"curl over IPv4", nil, append(slices.Clone(curl), "-4")},
		{"curl over IPv6", nil, append(slices.Clone(curl), "-6")},
		{"node fetch", []string{"NODE_EXTRA_CA_CERTS=" + ca}, []string{"node", "-e", node, url}},
		{"python", []string{"SSL_CERT_FILE=" + ca}, []string{"/usr/bin/python3", "-c", python, url}},
		{"go", []string{"SSL_CERT_FILE=" + ca}, []string{goProgram, url}},
		{"plain http", nil, append(slices.Clone(curl[:len(curl)-1]), "-d", "x=1", "http://other.example.com/v1")},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := exec.LookPath(c.args[0]); err != nil {
				if os.Getenv("ACTPASS_E2E_REQUIRE") != "" {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			args := c.args
			if c.name == "plain http" {
				args = append(args, "--resolve", "other.example.com:80:203.0.113.99")
			}
			up.quiet(t, c.name, func() {
				out, _ := p.run(c.env, args...)
				want := "403 refund.over_limit"
				if c.name == "plain http" {
					want = "403 policy.default"
				}
				if !strings.HasPrefix(out, want) {
					t.Errorf("the agent saw %q, want %q", out, want)
				}
			})
		})
	}
	t.Run("allowed", func(t *testing.T) {
		for _, family := range []string{"-4", "-6"} {
			out, err := p.run(nil, "curl", "-sS", family, "--max-time", "10", "-w", " %{http_code}", "--cacert", ca, "https://echo.example.test/hello")
			if err != nil || !strings.HasSuffix(out, "200") {
				t.Errorf("%s: %q %v", family, out, err)
			}
		}
	})
	t.Run("a false server name leads to the host that it names", func(t *testing.T) {
		n := len(up.requestsSeen())
		out, err := p.run(nil, "curl", "-sS", "--max-time", "10", "-w", " %{http_code}", "--cacert", ca, "--resolve", "echo.example.test:443:203.0.113.66", "https://echo.example.test/lie")
		seen := up.requestsSeen()
		if err != nil || len(seen) != n+1 || seen[n].Host != "echo.example.test" || !strings.HasSuffix(out, "200") {
			t.Errorf("%q %v; the upstream saw %v", out, err, seen[n:])
		}
		up.quiet(t, "another Host inside", func() {
			out, _ := p.run(nil, "curl", "-sS", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", ca, "-H", "Host: other.example.test", "https://echo.example.test/x")
			if out != "421" {
				t.Errorf("another Host than the server name: %q, want 421", out)
			}
		})
	})
	t.Run("a raw socket", func(t *testing.T) {
		raw := `
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5); s.settimeout(12)
s.sendall(b'\x00\x00\x00\x08ping'); print(s.recv(16))`
		out, _ := p.run(nil, "/usr/bin/python3", "-c", raw, "203.0.113.77", "5432")
		if !strings.Contains(out, "pong") || <-db != "\x00\x00\x00\x08ping" {
			t.Errorf("an allowed connection: %q", out)
		}
		for _, dst := range []string{"203.0.113.78", "2001:db8::78"} {
			if out, _ := p.run(nil, "/usr/bin/python3", "-c", raw, dst, "5432"); strings.TrimSpace(out) != "b''" && !strings.Contains(out, "reset") {
				t.Errorf("a denied connection to %s: %q", dst, out)
			}
		}
	})
	t.Run("UDP", func(t *testing.T) {
		udp := `
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)
try:
    s.connect((sys.argv[1], int(sys.argv[2]))); s.send(b'x'); s.send(b'x'); print('sent'); s.recv(1)
except TimeoutError: print('silence')
except OSError as e: print('refused', e.errno)`
		for _, c := range []struct{ dst, port, want string }{
			{"203.0.113.5", "443", "refused"}, {"2001:db8::5", "443", "refused"}, {"203.0.113.5", "53", "refused"}, {"192.0.2.53", "53", "sent"},
		} {
			out, _ := p.run(nil, "/usr/bin/python3", "-c", udp, c.dst, c.port)
			if refused := strings.Contains(out, "refused"); refused != (c.want == "refused") {
				t.Errorf("UDP to %s:%s: %q, want %s", c.dst, c.port, out, c.want)
			}
		}
	})
	t.Run("the door itself", func(t *testing.T) {
		// Without a redirect there is nowhere to go, and no way to loop.
		out, _ := p.run(nil, "curl", "-sS", "--max-time", "5", "http://127.0.0.1:15001/")
		if !strings.Contains(out, "Empty reply") && !strings.Contains(out, "reset") {
			t.Errorf("a connection that was not redirected: %q", out)
		}
	})

	counts := map[string]int{}
	for _, e := range p.record(sc) {
		if e.Kind != "action" {
			continue
		}
		counts[e.Tool+" "+e.ReasonCode]++
		if e.Door != "transparent" {
			t.Errorf("door %q in %+v", e.Door, e)
		}
	}
	for what, want := range map[string]int{"stripe.refund.create refund.over_limit": 5, "tcp.connect test.db": 1, "tcp.connect policy.default": 2, "http.connect request.not_redirected": 1} {
		if counts[what] != want {
			t.Errorf("%d events %q, want %d; all: %v", counts[what], what, want, counts)
		}
	}
}

// TestRedirectedToItself: rules that forget the sidecar must not make it call
// itself without end.
func TestRedirectedToItself(t *testing.T) {
	p, sc, _ := forced(t, settings{mode: "monitor", upstream: "    - { host: 203.0.113.80, port: 8080, address: 9.9.9.9:8080 }"})
	if out, err := p.redirect("--dns", "192.0.2.53", "--uid", "4242"); err != nil {
		t.Fatalf("redirect: %v %s", err, out)
	}
	_, _ = p.run(nil, "curl", "-sS", "--max-time", "8", "http://203.0.113.80:8080/")
	loops, calls := 0, 0
	for _, e := range p.record(sc) {
		switch e.ReasonCode {
		case "request.loop":
			loops++
		default:
			calls++
		}
	}
	if loops == 0 || calls > 10 {
		t.Errorf("%d loops were seen, and %d other events", loops, calls)
	}
}

// TestRedirectRules: what is loaded over netlink is what --print says, to the rule.
func TestRedirectRules(t *testing.T) {
	p := newPod(t)
	list := func() string {
		t.Helper()
		out, err := exec.Command("ip", "netns", "exec", p.name, "nft", "-s", "list", "ruleset").CombinedOutput()
		must(t, err)
		return string(out)
	}
	args := []string{"--uid", "4242", "--port", "15002", "--mark", "7", "--dns", "192.0.2.53,2001:db8::53"}
	for range 2 { // the second replaces the first
		if out, err := p.redirect(args...); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	loaded := list()
	script, err := p.redirect(append(args, "--print")...)
	must(t, err)
	load := exec.Command("ip", "netns", "exec", p.name, "nft", "-f", "-")
	load.Stdin = bytes.NewReader(script)
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if printed := list(); loaded != printed || strings.Count(loaded, "dport 53 accept") != 8 {
		t.Errorf("over netlink:\n%s\nby the script:\n%s", loaded, printed)
	}
	if out, err := p.redirect("--remove"); err != nil || list() != "" {
		t.Errorf("not removed: %v %s %s", err, out, list())
	}
}
