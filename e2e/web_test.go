package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/doctor"
)

// TestDashboard walks the pages of the real binary in a real browser: axe-core's
// WCAG rules on each, in both widths and schemes, hostile text from an agent, and
// an approval that is given without script while somebody else looks on.
func TestDashboard(t *testing.T) {
	need(t, "node", "npm", "chromium", "curl", "patch")
	// A week in monitor, until yesterday; today it enforces.
	const calls = 3000
	sc := &sidecar{t: t, dir: t.TempDir()}
	sc.config = settings{mode: "enforce"}.write(t, sc.dir)
	weekOfTraffic(t, filepath.Join(sc.dir, "data"), []byte(fenced(t, "../docs/review.md", "yaml", 0)), time.Now().Add(-7*24*time.Hour-26*time.Hour), calls, 1)
	sc.run()
	t.Cleanup(sc.stop)
	sc.admin = sc.key("--name", "admin", "--role", "admin")
	empty := start(t, settings{mode: "enforce"})
	for i, evil := range []string{`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, "a\u202eb"} {
		_, _, err := sc.client().Preflight(context.Background(), api.Action{
			Tool: "stripe.refund.create", Resource: "stripe:charge:" + evil, AgentID: "support_agent", UserID: evil, Goal: evil,
			Args: map[string]any{"amount": 9000 + i, "currency": "usd", "metadata": map[string]any{"note": evil}},
		})
		must(t, err)
	}
	_, _, err := sc.client().Preflight(context.Background(), api.Action{
		Tool: "stripe.refund.create", Resource: "stripe:charge:ch_9", AgentID: "support_agent", Args: map[string]any{"amount": 900000, "currency": "usd"},
	})
	must(t, err)
	_, err = sc.client().ReportDoctor(context.Background(), doctor.Report{Verdict: doctor.Open, Paths: []doctor.Path{
		{Path: "tcp", Target: "1.1.1.1:443", Verdict: doctor.Open, Certain: true, Detail: "answered by somebody else <script>alert(1)</script>"},
		{Path: "udp443", Target: "1.1.1.1:443", Verdict: doctor.Enforced, Detail: "nothing answers"},
		{Path: "variables", Verdict: doctor.Advisory, Detail: "HTTPS_PROXY leads to the sidecar"},
	}})
	must(t, err)
	// Calls that no mapping rule names, one of them hostile. They are blocked.
	for _, path := range []string{"/v9/things/4711", "/v9/things/4712", "/v9/things/<script>alert(1)</script>"} {
		out, err := exec.Command("curl", "-s", "-m", "20", "-x", "http://"+sc.proxy, "-d", "a=1", "http://api.acme.test"+path).CombinedOutput()
		if err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	// A refund on the wire, blocked by a rule.
	refund := exec.Command("curl", "-s", "-m", "20", "-x", "http://"+sc.proxy, "--cacert", filepath.Join(sc.dir, "data", "ca", "ca.pem"),
		"-d", "charge=ch_7", "-d", "amount=800000", "-d", "currency=usd", "-d", "reason=<script>alert(1)</script>", "https://api.stripe.com/v1/refunds")
	if out, err := refund.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	_, err = sc.client().IssuePassport(context.Background(), api.NewPassport{
		AgentID: "<script>alert(1)</script>", UserID: "a\u202eb", AllowedTools: []string{"stripe.*", `"><img src=x onerror=alert(1)>`}, AllowedResources: []string{"*"},
		ResourceConstraints: api.Constraints{"equals": map[string]any{"note": "<script>alert(1)</script>"}},
	})
	must(t, err)
	dir := webDir(t)
	chromium, err := exec.LookPath("chromium")
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	walk := exec.CommandContext(ctx, "node", "walk.mjs")
	walk.Dir = dir
	walk.Env = append(os.Environ(), "BASE=http://"+sc.api, "CHROMIUM="+chromium, "ADMIN="+sc.admin, "DIR="+dir, fmt.Sprint("CALLS=", calls), "EMPTY=http://"+empty.api, "EMPTY_ADMIN="+empty.admin, "APPROVER="+sc.key("--name", "sam", "--role", "approver", "--group", "support-leads"))
	out, err := walk.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "fine" {
		t.Errorf("%v\n%s", err, out)
	}

	// What the event's page gives to copy: a fixture that passes, and a command that
	// comes to the same decision.
	if out, code := sc.cli("test", filepath.Join(dir, "fixture.yaml")); code != 0 || !strings.Contains(out, "1 passed, 0 failed") {
		t.Errorf("the fixture: %d %s", code, out)
	}
	command, err := os.ReadFile(filepath.Join(dir, "explain.sh"))
	must(t, err)
	explain := exec.Command("sh", "-c", strings.Replace(string(command), "actpass ", binary+" ", 1)+" --config "+sc.config)
	if out, err := explain.CombinedOutput(); err == nil || !strings.Contains(string(out), "refund.over_limit") || !strings.Contains(string(out), "800000") {
		t.Errorf("%s: %v %s", command, err, out)
	}

	// What the review page made goes in, and holds: the sidecar's own files are as
	// they were, and the fixtures pass with the patch and not without it.
	if out, code := sc.cli("review", "--since", "24h"); code != 0 || !strings.Contains(out, "blocks 5 and holds 3") {
		t.Errorf("%d %s", code, out)
	}
	patch := exec.Command("patch", "-s", "-p1", "-d", sc.dir, "-i", filepath.Join(dir, "review.patch"))
	if out, err := patch.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if out, code := sc.cli("test"); code != 0 || !strings.Contains(out, " 0 failed") {
		t.Errorf("%d %s", code, out)
	}
}

// webDir is a new directory with the scripts of web and what they need.
func webDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS("web")))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir, npm.Env = dir, presetEnv()
	if out, err := npm.CombinedOutput(); err != nil {
		missing(t, "npm ci: "+string(out))
	}
	return dir
}
