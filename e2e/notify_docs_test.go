package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fenced is the n-th fenced block of a language in a document.
func fenced(t testing.TB, file, language string, n int) string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	parts := strings.Split(string(text), "\n```"+language+"\n")
	if len(parts) <= n+1 {
		t.Fatalf("%s has %d blocks of %s", file, len(parts)-1, language)
	}
	body, _, _ := strings.Cut(parts[n+1], "\n```")
	return body + "\n"
}

// TestApprovalsDocument runs the examples of docs/approvals.md as they stand
// there: the signature as a receiver checks it, and a callback from a shell.
func TestApprovalsDocument(t *testing.T) {
	t.Parallel()
	need(t, "python3", "bash", "curl", "openssl")
	const doc = "../docs/approvals.md"
	body := `{"id":"dlv_1"}`
	check := fenced(t, doc, "python", 0) + "import sys\nprint(genuine(sys.argv[1].encode(), sys.argv[2], sys.argv[3].encode()))\n"
	now := time.Now()
	for _, c := range []struct{ secret, signature, body, want string }{
		{hookSecret, signHook(now, body), body, "True"},
		{hookSecret, signHook(now, body), body + " ", "False"},
		{"another secret", signHook(now, body), body, "False"},
		{hookSecret, signHook(now.Add(-6*time.Minute), body), body, "False"},
	} {
		out, err := exec.Command("python3", "-c", check, c.secret, c.signature, c.body).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != c.want {
			t.Errorf("%+v: %s %v", c, out, err)
		}
	}

	u := newUpstream(t)
	u.handle(refunded)
	sc, _ := withKey(t, settings{front: u, hold: "20s"}, func(key string) string {
		return "notify:\n  webhooks:\n    - { name: ops, url: \"http://127.0.0.1:1/\", secret_file: ./hook.secret, actors: [{ actor: alice@example.com, key: " + key + " }] }\n"
	}, "--name", "alice", "--role", "approver", "--group", "support-leads")
	call := sc.heldCurl(t, "ch_doc")
	cmd := exec.Command("bash", "-eu", "-c", fenced(t, doc, "sh", 1))
	cmd.Dir = t.TempDir()
	must(t, os.WriteFile(filepath.Join(cmd.Dir, "ops.secret"), []byte(hookSecret+"\n"), 0o600))
	cmd.Env = append(os.Environ(), "api=http://"+sc.api, "approval="+sc.pending())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"state":"approved"`) {
		t.Fatalf("%s %v", out, err)
	}
	if code := call.wait(t); code != 0 || !strings.HasSuffix(call.stdout.String(), "\n200") {
		t.Errorf("curl: %d %s", code, &call.stdout)
	}
	// The commands about dead letters parse and reach the API.
	for line := range strings.SplitSeq(fenced(t, doc, "sh", 0), "\n") {
		words := strings.Fields(strings.Split(line, "#")[0])
		if len(words) == 0 {
			continue
		}
		if out, code := sc.cli(words[1:]...); code == 2 || strings.Contains(out, "unknown") {
			t.Errorf("%s: %d %s", line, code, out)
		}
	}
}
