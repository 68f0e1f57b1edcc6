package e2e

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// shared copies a file to where every uid can read it.
func shared(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	dir := t.TempDir()
	to := filepath.Join(dir, filepath.Base(file))
	must(t, os.WriteFile(to, b, 0o644))
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	return to
}

// speakTLS connects to an address, sends one request, and prints who issued the
// certificate and how the answer begins. Python sends no server name when it is
// given an address.
const speakTLS = `
import socket, ssl, sys
ca, address, host, method = sys.argv[1:5]
c = ssl.create_default_context(cafile=ca) if ca else ssl._create_unverified_context()
s = c.wrap_socket(socket.create_connection((address, 443), 5), server_hostname=address); s.settimeout(8)
s.sendall(f'{method} / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'.encode())
answer = b''
while True:
    b = s.recv(4096)
    if not b: break
    answer += b
head = answer.split(b'\r\n\r\n')[0].decode().split('\r\n')
print(head[0].split(' ')[1], *[h.split(': ')[1] for h in head if h.lower().startswith('actpass-reason')])
`

const passedPolicy = `policies:
  - name: tcp
    version: 1
    tools: ["tcp.connect"]
    rules:
      - { name: passed, when: resource == "203.0.113.77:443", decision: allow, reason_code: test.passed }
`

// TestTransparentWithoutAName: what begins as TLS or HTTP/2 and names no host is
// judged by the address that was dialled, and by no other.
func TestTransparentWithoutAName(t *testing.T) {
	p, sc, up := forced(t, settings{
		mode: "enforce", policies: map[string]string{"reads.yaml": readsPolicy, "tcp.yaml": passedPolicy},
		extra:    `intercept: { passthrough: ["203.0.113.77"] }`,
		upstream: "    - { host: 203.0.113.77, port: 443, address: 127.0.0.1:5443 }",
	})
	p.in(func() {
		ln, err := net.Listen("tcp", "127.0.0.1:5443")
		must(t, err)
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
		_ = s.Listener.Close()
		s.Listener = ln
		s.StartTLS()
		t.Cleanup(s.Close)
	})
	ca := shared(t, filepath.Join(sc.dir, "data", "ca", "ca.pem"))
	speak := func(ca, address, host, method string) string {
		t.Helper()
		out, _ := p.run(nil, "/usr/bin/python3", "-c", speakTLS, ca, address, host, method)
		return strings.TrimSpace(out)
	}
	up.quiet(t, "no name", func() {
		// The certificate is for the address, by the sidecar's CA; the call is judged, and goes nowhere else.
		for _, address := range []string{"203.0.113.90", "2001:db8::90"} {
			host := address
			if strings.Contains(address, ":") {
				host = "[" + address + "]"
			}
			if got := speak(ca, address, host, "GET"); got != "403 request.address_refused" {
				t.Errorf("TLS without a name to %s: %q", address, got)
			}
			if got := speak(ca, address, host, "POST"); got != "403 policy.default" {
				t.Errorf("TLS without a name to %s, denied: %q", address, got)
			}
			if got := speak(ca, address, "echo.example.test", "GET"); !strings.HasPrefix(got, "421") {
				t.Errorf("TLS without a name to %s, a Host inside: %q", address, got)
			}
		}
		out, _ := p.run(nil, "openssl", "s_client", "-connect", "203.0.113.90:443", "-servername", "203.0.113.91")
		if !strings.Contains(out, "alert") || strings.Contains(out, "BEGIN CERTIFICATE") {
			t.Errorf("another address as name: %s", out)
		}
		out, _ = p.run(nil, "curl", "-sS", "--max-time", "8", "--http2-prior-knowledge", "http://203.0.113.92/")
		if strings.Contains(out, "HTTP") && !strings.Contains(out, "curl:") || out == "" {
			t.Errorf("h2c: %q", out)
		}
	})
	// Passed through by its address: the server's own certificate is seen.
	if got := speak(ca, "203.0.113.77", "203.0.113.77", "GET"); !strings.Contains(got, "CERTIFICATE_VERIFY_FAILED") {
		t.Errorf("passthrough by address, with the sidecar's CA only: %q", got)
	}
	if got := speak("", "203.0.113.77", "203.0.113.77", "GET"); got != "204" {
		t.Errorf("passthrough by address: %q", got)
	}
	var seen []string
	for _, e := range p.record(sc) {
		if e.Kind == "action" {
			seen = append(seen, e.Tool+" "+e.Resource+" "+e.ReasonCode)
		}
	}
	for _, want := range []string{
		"http.get https://203.0.113.90/ read.low_risk", "http.post https://[2001:db8::90]/ policy.default", "tcp.connect 203.0.113.92:80 policy.default",
		"tcp.connect 203.0.113.77:443 test.passed",
	} {
		if !slices.Contains(seen, want) {
			t.Errorf("no event %q in\n%s", want, strings.Join(seen, "\n"))
		}
	}
	if n := strings.Count(strings.Join(seen, "\n"), "request.misdirected"); n != 3 {
		t.Errorf("%d misdirected, want 3:\n%s", n, strings.Join(seen, "\n"))
	}
}

// TestTransparentDistrust: a client that does not trust the CA passes unread under
// monitor, on record as opaque, and stays outside under enforce.
func TestTransparentDistrust(t *testing.T) {
	for mode, want := range map[string]string{"monitor": "200", "enforce": "000"} {
		t.Run(mode, func(t *testing.T) {
			p, sc, up := forced(t, settings{mode: mode})
			ca := shared(t, up.caFile)
			status := func() string {
				out, _ := p.run(nil, "curl", "-sS", "-4", "--max-time", "8", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", ca, "https://echo.example.test/x")
				return out
			}
			if got := status(); !strings.Contains(got, "unable to get local issuer certificate") && !strings.Contains(got, "self-signed certificate") {
				t.Errorf("the first, which finds out: %q", got)
			}
			if got := status(); !strings.HasSuffix(got, want) {
				t.Errorf("the second: %q, want %s", got, want)
			}
			list := p.record(sc)
			opaque := 0
			for _, e := range list {
				if e.Tool == "http.connect" && e.Resource == "echo.example.test:443" && slices.Contains(e.Flags, "opaque") {
					opaque++
				}
			}
			if (opaque == 1) != (mode == "monitor") {
				t.Errorf("%d events say opaque: %+v", opaque, list)
			}
		})
	}
}

// TestTransparentMark: where agent and sidecar share a uid, the rules know the
// sidecar's connections by their mark.
func TestTransparentMark(t *testing.T) {
	p, sc, _ := forced(t, settings{mode: "monitor"})
	sc.stop()
	p.internet()
	sc = &sidecar{t: t, dir: t.TempDir(), config: sc.config}
	cmd := exec.Command("ip", "netns", "exec", p.name, binary, "serve", "--config", sc.config, "--data_dir", sc.dir, "--listen.transparent", "localhost:15001",
		"--upstream.mark", "7", "--upstream.allow_private", "203.0.113.0/24")
	sc.launch(cmd)
	t.Cleanup(sc.stop)
	get := func() string {
		out, _ := exec.Command("ip", "netns", "exec", p.name, "curl", "-sS", "--max-time", "8", "-w", " %{http_code} %header{actpass-decision}", "http://203.0.113.200:53/").CombinedOutput()
		return string(out)
	}
	for _, mark := range []string{"8", "7"} { // the wrong one first: a kept connection would pass
		// Both run as root: no uid of the rules is theirs.
		if out, err := p.redirect("--dns", "192.0.2.53", "--uid", "4242", "--mark", mark); err != nil {
			t.Fatalf("redirect: %v %s", err, out)
		}
		if got := get(); (got == "hello 200 allow") != (mark == "7") {
			t.Errorf("rules for mark %s: %q", mark, got)
		}
	}
}
