package web

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
)

// TestOverviewTellsOfHealth: what fails, what was counted, and what the doctor of
// each workload last said; never another tenant's.
func TestOverviewTellsOfHealth(t *testing.T) {
	now := time.Now()
	broken := false
	r := newRig(t, func(o *Options) { o.Now = func() time.Time { return now } })
	r.remake(func(o *api.Options) {
		o.Ready = func() []api.Check {
			if broken {
				return []api.Check{{Name: "store", Err: errors.New("secret cause")}, {Name: "evidence"}}
			}
			return []api.Check{{Name: "store"}, {Name: "evidence"}}
		}
		o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("actpass_faults_total{kind=\"clock\"} 0\nactpass_faults_total{kind=\"reload\"} 2\nother_total{kind=\"x\"} 9\n"))
		})
	})
	_, human := r.key("acme", gate.RoleApprover)
	_, rival := r.key("globex", gate.RoleApprover)
	b, other := r.signedIn(human), r.signedIn(rival)
	has := func(who *browser, want bool, texts ...string) {
		t.Helper()
		body := who.get("/ui/overview").body
		for _, text := range texts {
			if strings.Contains(body, text) != want {
				t.Errorf("%q is there: %v\n%s", text, !want, body)
			}
		}
	}
	has(b, true, "store: ok", "evidence: ok", "Faults since the start: <b>2</b> reload", "No workload has tried yet", "actpass doctor")
	report := func(agent, key, verdict string, paths map[string]string) {
		t.Helper()
		if _, err := r.gate.RecordDoctor(context.Background(), gate.Identity{TenantID: "acme", AgentID: agent, KeyID: key}, verdict, paths); err != nil {
			t.Fatal(err)
		}
	}
	report("support_agent", "key_1", "open", map[string]string{"tcp": "open: 1.1.1.1:443: an older report"})
	report("support_agent", "key_1", "advisory", map[string]string{"tcp": "enforced: 1.1.1.1:443: led to the sidecar", "udp443": "advisory: : <script>alert(1)</script>", "variables": "a\u202eb"})
	report("<b>other", "key_2", "enforced", nil)
	has(b, true, "advisory</span>", "1.1.1.1:443: led to the sidecar", "&lt;script&gt;alert(1)", "U+202E", "&lt;b&gt;other", "The report on record", "from the workload")
	has(b, false, "an older report", "<script>alert", "\u202e", "run it again", "No workload")
	has(other, false, "led to the sidecar")
	has(other, true, "No workload has tried yet")
	now = now.Add(8 * 24 * time.Hour)
	b = r.signedIn(human)
	has(b, true, "run it again")
	broken = true
	has(b, true, "The sidecar is not ready: <b>store</b> fails", "store: failing")
	has(b, false, "secret cause")
}
