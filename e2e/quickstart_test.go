package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// block is one fenced block of the README.
type block struct{ kind, text string }

var fence = regexp.MustCompile("(?s)```(\\w+)\n(.*?)```")

func quickstart(t *testing.T) []block {
	t.Helper()
	readme, err := os.ReadFile("../README.md")
	must(t, err)
	_, rest, ok := strings.Cut(string(readme), "## Quickstart")
	if !ok {
		t.Fatal("the README has no quickstart")
	}
	section, _, _ := strings.Cut(rest, "\n## ")
	var out []block
	for _, m := range fence.FindAllStringSubmatch(section, -1) {
		out = append(out, block{m[1], m[2]})
	}
	return out
}

// TestQuickstart runs the README's quickstart word for word, in one shell, in a
// fresh copy of the repository. Only the world around it is set by environment:
// where api.stripe.com is, and whom to trust for it. Each text block is what the
// commands above it must have shown.
func TestQuickstart(t *testing.T) {
	needStripeMock(t)
	for _, tool := range []string{"bash", "curl", "git"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is needed: %v", tool, err)
		}
	}
	u := newUpstream(t)
	dir := filepath.Join(t.TempDir(), "sidecar")
	copyTree(t, "..", dir)

	script := "set -e\ntrap 'kill $(jobs -p) 2>/dev/null; true' EXIT\n"
	blocks := quickstart(t)
	for i, b := range blocks {
		if b.kind == "sh" {
			script += fmt.Sprintf("echo '==== %d'\n%s", i, b.text)
		}
	}
	script = withFreePorts(t, script)
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = dir
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(),
		"ACTPASS_UPSTREAM_CONNECT_TO=api.stripe.com:443:"+u.tls,
		"ACTPASS_UPSTREAM_ALLOW_PRIVATE=127.0.0.0/8",
		"ACTPASS_UPSTREAM_CA_FILE="+u.caFile)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for i, b := range blocks {
		if b.kind != "text" {
			continue
		}
		shown := section(out.String(), i-1)
		for _, line := range strings.Split(strings.TrimSpace(b.text), "\n") {
			if !strings.Contains(strings.ReplaceAll(shown, `\"`, `"`), strings.TrimSpace(line)) {
				t.Errorf("the README shows %q, and the commands gave:\n%s", line, shown)
			}
		}
	}
	if seen := u.requestsSeen(); len(seen) != 1 {
		t.Errorf("the upstream saw %d calls, want the one of monitor mode", len(seen))
	}
}

// section is what the commands of block i printed.
func section(out string, i int) string {
	_, rest, _ := strings.Cut(out, fmt.Sprintf("==== %d\n", i))
	s, _, _ := strings.Cut(rest, "==== ")
	return s
}

// withFreePorts leaves the text as it is where its ports are free; on a machine
// where something else has one of them, it takes others.
func withFreePorts(t *testing.T, script string) string {
	t.Helper()
	for _, port := range []string{"8080", "8081", "8090"} {
		ln, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			must(t, ln.Close())
			continue
		}
		addr, err := freeAddress()
		must(t, err)
		_, other, _ := net.SplitHostPort(addr)
		name := map[string]string{"8080": "PROXY", "8081": "REVERSE", "8090": "API"}[port]
		script = "export ACTPASS_LISTEN_" + name + "=127.0.0.1:" + other + "\n" + strings.ReplaceAll(script, "127.0.0.1:"+port, "127.0.0.1:"+other)
	}
	return script
}

// copyTree copies what git knows, as a clone would, with the working tree's
// content.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = from
	out, err := cmd.Output()
	must(t, err)
	for _, name := range strings.Split(strings.TrimRight(string(out), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join(from, name))
		if os.IsNotExist(err) {
			continue // deleted in the working tree
		}
		must(t, err)
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(to, name), data, 0o755))
	}
}
