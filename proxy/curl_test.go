package proxy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A client that nobody here wrote, by every way in.
func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed")
	}
	w := newWorld(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, w.ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		cmd := exec.Command(curl, append([]string{"-sS", "--max-time", "5", "-w", "\n%{http_code} %{http_version}"}, args...)...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("curl %v: %v %s", args, err, out)
		}
		return string(out)
	}
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, []byte(strings.Repeat("x", 2<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	proxied := []string{"-x", "http://" + w.front, "--cacert", ca}
	for _, c := range []struct {
		args []string
		want string
	}{
		{append(proxied, "http://api.test/x"), "200 1.1"},
		{append(proxied, "--http1.1", "https://api.test/x"), "200 1.1"},
		{append(proxied, "--http2", "https://api.test/x"), "200 2"},
		{append(proxied, "--proxytunnel", "http://api.test/x"), "200 1.1"},
		{append(proxied, "--http2", "-d", "amount=4900&charge=ch_1", "https://api.test/v1/refunds"), "200 2"},
		{append(proxied, "-d", "amount=90000&charge=ch_1", "https://api.test/v1/refunds"), "403 2"},
		{append(proxied, "-T", big, "https://api.test/x"), "200 2"},
		{append(proxied, "--http1.1", "-T", big, "-H", "Expect: 100-continue", "https://api.test/x"), "200 1.1"},
		{append(proxied, "--http1.1", "-T", big, "-H", "Transfer-Encoding: chunked", "https://api.test/x"), "200 1.1"},
		{[]string{"http://" + w.reverse + "/stripe/x"}, "200 1.1"},
		{[]string{"-H", "Host: stripe.localhost", "http://" + w.reverse + "/x"}, "200 1.1"},
		{[]string{"-I", "http://" + w.reverse + "/stripe/x"}, "200 1.1"},
		{[]string{"-0", "http://" + w.reverse + "/stripe/x"}, "200 1"},
	} {
		if out := run(c.args...); !strings.HasSuffix(out, "\n"+c.want) {
			t.Errorf("curl %v: %.300s", c.args, out[max(0, len(out)-300):])
		}
	}
}
