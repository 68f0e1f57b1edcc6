package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSDKQuickstart runs the first snippet of each SDK's README, as it stands, with
// the provider's own SDK, inside `actpass run`: guard asks the sidecar, and the
// refund itself goes through it, too, to stripe-mock. It needs the SDK built, which
// .ci/sdk does first.
func TestSDKQuickstart(t *testing.T) {
	if os.Getenv("ACTPASS_SDK") == "" {
		t.Skip("ACTPASS_SDK=1 says that sdk/typescript is built, with its packages")
	}
	needStripeMock(t)
	python := "/usr/bin/python3" // Debian's, which python3-stripe is for
	// stripe-python trusts the certificates that it brings along, and no variable.
	site := t.TempDir()
	must(t, os.WriteFile(filepath.Join(site, "sitecustomize.py"), []byte("import os, stripe\nstripe.ca_bundle_path = os.environ['SSL_CERT_FILE']\n"), 0o644))
	for _, c := range []struct {
		readme, lang string
		command      func(snippet string) []string
		dir          string
	}{
		{"../sdk/typescript/README.md", "js", func(s string) []string { return []string{"node", "--input-type=module", "-e", s} }, "../sdk/typescript"},
		{"../sdk/python/README.md", "python", func(s string) []string { return []string{python, "-B", "-c", s} }, "../sdk/python"},
	} {
		t.Run(c.lang, func(t *testing.T) {
			text, err := os.ReadFile(c.readme)
			must(t, err)
			first := fence.FindStringSubmatch(string(text))
			if first == nil || first[1] != c.lang {
				t.Fatalf("%s does not begin with a snippet in %s", c.readme, c.lang)
			}
			for _, run := range []struct {
				snippet, out, err string
				code              int
				refunds           int
			}{
				{first[2], `^refunded re_\w+ because refund\.small_in_scope\n$`, ``, 0, 1},
				{strings.ReplaceAll(first[2], "4900", "75000"), `^$`, `RefusedError.*large_refund`, 1, 0},
			} {
				u := newUpstream(t)
				sc := idle(t, settings{front: u})
				key := sc.key("--name", "agent", "--role", "gateway", "--agent", "support_agent")
				dir, err := filepath.Abs(c.dir)
				must(t, err)
				inner := append([]string{"env", "-C", dir, "ACTPASS_API_KEY=" + key, "STRIPE_KEY=sk_test_123", "PYTHONPATH=" + dir + ":" + site}, c.command(run.snippet)...)
				b := sc.around(t, nil, inner...)
				if code := b.wait(t); code != run.code || !regexp.MustCompile(run.out).MatchString(b.stdout.String()) || !regexp.MustCompile(run.err).MatchString(b.stderr.String()) {
					t.Fatalf("exit code %d, printed %q\n%s", code, b.stdout.String(), b.stderr.String())
				}
				refunds := 0
				for _, r := range u.requestsSeen() {
					if r.Method == "POST" && r.Target == "/v1/refunds" {
						refunds++
					}
				}
				if refunds != run.refunds {
					t.Errorf("%d refunds reached Stripe, want %d", refunds, run.refunds)
				}
			}
		})
	}
}
