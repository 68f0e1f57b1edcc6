package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
)

// TestDashboard walks the pages of the real binary in a real browser: axe-core's
// WCAG rules on each, in both widths and schemes, hostile text from an agent, and
// an approval that is given without script while somebody else looks on.
func TestDashboard(t *testing.T) {
	need(t, "node", "npm", "chromium")
	sc := start(t, settings{mode: "enforce"})
	for i, evil := range []string{`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, "a\u202eb"} {
		_, _, err := sc.client().Preflight(context.Background(), api.Action{
			Tool: "stripe.refund.create", Resource: "stripe:charge:" + evil, AgentID: "support_agent", UserID: evil, Goal: evil,
			Args: map[string]any{"amount": 9000 + i, "currency": "usd", "metadata": map[string]any{"note": evil}},
		})
		must(t, err)
	}
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "walk.mjs"} {
		data, err := os.ReadFile(filepath.Join("web", name))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir, npm.Env = dir, presetEnv()
	if out, err := npm.CombinedOutput(); err != nil {
		missing(t, "npm ci: "+string(out))
	}
	chromium, err := exec.LookPath("chromium")
	must(t, err)
	walk := exec.CommandContext(ctx, "node", "walk.mjs")
	walk.Dir = dir
	walk.Env = append(os.Environ(), "BASE=http://"+sc.api, "CHROMIUM="+chromium, "ADMIN="+sc.admin, "APPROVER="+sc.key("--name", "sam", "--role", "approver", "--group", "support-leads"))
	out, err := walk.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "fine" {
		t.Errorf("%v\n%s", err, out)
	}
}
