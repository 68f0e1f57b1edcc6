package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// internet puts a second namespace at the far end of the pod's link, with servers
// that answer as those do that the doctor asks: TLS, QUIC, DNS, cloud metadata.
func (p *pod) internet() {
	t := p.t
	t.Helper()
	far := &pod{t: t, name: p.name + "-far"}
	ip := func(line string) {
		t.Helper()
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v %s", line, err, out)
		}
	}
	ip("netns add " + far.name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", far.name).Run() })
	ip("-n " + p.name + " link set far netns " + far.name)
	for _, line := range []string{
		"link set lo up", "link set far up", "addr add 203.0.113.200/32 dev far", "addr add 169.254.169.254/32 dev far",
		"-6 addr add 2001:db8::200/128 dev far nodad", "route add 198.51.100.0/24 dev far", "-6 route add 2001:db8:1::/64 dev far",
	} {
		ip("-n " + far.name + " " + line)
	}
	far.in(func() {
		for _, addr := range []string{"203.0.113.200:443", "[2001:db8::200]:443"} {
			ln, err := net.Listen("tcp", addr)
			must(t, err)
			s := httptest.NewUnstartedServer(http.NotFoundHandler())
			_ = s.Listener.Close()
			s.Listener = ln
			s.StartTLS()
			t.Cleanup(s.Close)
			echoUDP(t, addr)
		}
		echoUDP(t, "203.0.113.200:53")
		for _, addr := range []string{"203.0.113.200:53", "169.254.169.254:80"} {
			ln, err := net.Listen("tcp", addr)
			must(t, err)
			serveAll(t, ln)
		}
	})
}

func serveAll(t testing.TB, ln net.Listener) {
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })}
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { _ = s.Close() })
}

func echoUDP(t testing.TB, addr string) {
	c, err := net.ListenPacket("udp", addr)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(b[:n], from)
		}
	}()
}

// TestDoctor: it tells apart a workload that nothing leads to the sidecar, one that
// is only asked to go there, and one that is forced to.
func TestDoctor(t *testing.T) {
	p, sc, _ := forced(t, settings{mode: "monitor"})
	p.internet()
	remove := func() {
		t.Helper()
		if out, err := p.redirect("--remove"); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	pem, err := os.ReadFile(filepath.Join(sc.dir, "data", "ca", "ca.pem"))
	must(t, err)
	must(t, os.WriteFile(ca, pem, 0o644))
	must(t, os.Chmod(filepath.Dir(ca), 0o755))
	must(t, os.Chmod(filepath.Dir(filepath.Dir(ca)), 0o755))
	examine := func(exit int, env ...string) (string, map[string]string) {
		t.Helper()
		out, err := p.run(env, binary, "doctor", "--json", "--no-report", "--ca", ca,
			"--target", "tcp=203.0.113.200:443", "--target", "tcp6=[2001:db8::200]:443", "--target", "udp443=203.0.113.200:443", "--target", "udp443_6=[2001:db8::200]:443",
			"--target", "dns=203.0.113.200:53", "--target", "metadata=169.254.169.254:80")
		code := 0
		if e, ok := err.(*exec.ExitError); ok {
			code = e.ExitCode()
		}
		var r struct {
			Verdict string
			Paths   []struct {
				Path, Verdict, Detail string
				Certain               bool
			}
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != exit {
			t.Fatalf("exit %d, want %d: %s", code, exit, out)
		}
		got := map[string]string{}
		for _, path := range r.Paths {
			got[path.Path] = path.Verdict
			if !path.Certain {
				t.Errorf("%s is uncertain: %s", path.Path, path.Detail)
			}
		}
		return r.Verdict, got
	}
	ways := []string{"tcp", "tcp6", "udp443", "udp443_6", "dns_udp", "dns_tcp", "metadata"}
	check := func(name, want, variables string, exit int, env ...string) {
		t.Helper()
		verdict, got := examine(exit, env...)
		for _, way := range ways {
			if got[way] != want {
				t.Errorf("%s: %s is %q, want %s", name, way, got[way], want)
			}
		}
		if verdict != want || got["variables"] != variables {
			t.Errorf("%s: %s, variables %s", name, verdict, got["variables"])
		}
	}
	check("forced", "enforced", "open", 0)
	proxy := fmt.Sprint("HTTPS_PROXY=http://", sc.proxy)
	check("forced, with variables", "enforced", "advisory", 0, proxy)
	remove()
	check("variables only", "advisory", "advisory", 1, proxy)
	check("nothing", "open", "open", 1)
}
