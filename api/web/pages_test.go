package web

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// TestWhoReachesThePagesOfASidecar: the pages that are about no single event.
func TestWhoReachesThePagesOfASidecar(t *testing.T) {
	r := newRig(t)
	for _, tenant := range []string{"acme", "globex"} {
		_, agent := r.key(tenant, gate.RoleGateway)
		a := refund(9000)
		a.AgentID = "agent_of_" + tenant
		r.ask(agent, a)
		for role, want := range map[string]map[string]int{
			gate.RoleGateway:  {"/ui/overview": 403, "/ui/policies": 403, "/ui/keys": 403},
			gate.RoleApprover: {"/ui/overview": 200, "/ui/policies": 200, "/ui/keys": 403},
			gate.RoleAdmin:    {"/ui/overview": 200, "/ui/policies": 200, "/ui/keys": 200},
		} {
			_, secret := r.key(tenant, role)
			b := r.signedIn(secret)
			for path, status := range want {
				got := b.get(path)
				if got.status != status {
					t.Errorf("%s %s: %s answers %d, want %d", tenant, role, path, got.status, status)
				}
				other := map[string]string{"acme": "globex", "globex": "acme"}[tenant]
				if strings.Contains(got.body, "agent_of_"+other) || strings.Contains(got.body, other+" admin") {
					t.Errorf("%s %s sees %s at %s", tenant, role, other, path)
				}
			}
			if b.get("/ui/overview").status == 200 && !strings.Contains(b.get("/ui/overview").body, "agent_of_"+tenant) {
				t.Errorf("%s %s does not see its own", tenant, role)
			}
		}
	}
}

// TestKeysPage makes a key, sees its secret once, uses it and revokes it.
func TestKeysPage(t *testing.T) {
	r := newRig(t)
	_, admin := r.key("acme", gate.RoleAdmin)
	b := r.signedIn(admin)
	token := b.token("/ui/keys")
	got := b.post("/ui/keys", url.Values{"csrf": {token}, "name": {"<b>new"}, "role": {"gateway"}, "agent_id": {"support_agent"}, "ttl": {"24h"}})
	secret := regexp.MustCompile(`sk_live_[A-Za-z0-9_-]+`).FindString(got.body)
	if got.status != http.StatusOK || len(secret) < 40 || strings.Contains(got.body, "<b>new") {
		t.Fatalf("%d %q", got.status, secret)
	}
	if again := b.get("/ui/keys"); strings.Contains(again.body, secret) || !strings.Contains(again.body, "support_agent") {
		t.Error("the secret is shown again, or the key is not listed")
	}
	r.ask(secret, refund(100)) // it is good
	bad := b.post("/ui/keys", url.Values{"csrf": {token}, "name": {"x"}, "role": {"emperor"}})
	if bad.status != http.StatusBadRequest || !strings.Contains(bad.body, "role") {
		t.Errorf("a bad role: %d", bad.status)
	}
	id := regexp.MustCompile(`/ui/keys/(key_[^/]+)/revoke`).FindAllStringSubmatch(b.get("/ui/keys").body, -1)
	if len(id) < 2 {
		t.Fatal("no key can be revoked")
	}
	_, doomed := r.key("acme", gate.RoleApprover)
	other := r.signedIn(doomed)
	for _, m := range regexp.MustCompile(`/ui/keys/(key_[^/]+)/revoke`).FindAllStringSubmatch(b.get("/ui/keys").body, -1) {
		if k, err := r.gate.Authenticate(t.Context(), doomed, ""); err == nil && k.KeyID == m[1] {
			if got := b.post("/ui/keys/"+m[1]+"/revoke", url.Values{"csrf": {token}}); got.status != http.StatusOK && got.status != http.StatusSeeOther {
				t.Errorf("revoke answers %d", got.status)
			}
		}
	}
	if got := other.get("/ui/overview"); strings.Contains(got.body, "Policies") {
		t.Errorf("a revoked key still sees pages: %d", got.status)
	}
}

func TestOverviewCounts(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 34, 0, 0, time.UTC)
	at := func(ago time.Duration) evidence.Time { return evidence.Time{Time: now.Add(-ago).Truncate(time.Hour)} }
	b := overviewPage{Span: overviewSpans[1]}
	b.count([]api.Count{
		{Start: at(0), Tool: "a", AgentID: "x", Decision: "allow", Enforcement: "none", Mapping: "rule", Count: 7},
		{Start: at(time.Hour), Tool: "a", AgentID: "x", Decision: "deny", Enforcement: "none", Would: api.CountWould{Enforce: "block", Strict: "block"}, Mapping: "none", Count: 2},
		{Start: at(23 * time.Hour), Tool: "b", AgentID: "y", Decision: "deny", Enforcement: "block", Would: api.CountWould{Strict: "block"}, Mapping: "caller", Count: 1},
		{Start: at(90 * time.Hour), Tool: "old", AgentID: "y", Decision: "allow", Enforcement: "none", Mapping: "rule", Count: 1},
	}, now)
	if b.Total != 11 || b.Traffic != 10 || b.Mapped != 8 || b.Kinds[0].N != 8 || b.Kinds[2].N != 2 || b.Kinds[4].N != 1 {
		t.Errorf("%+v", b)
	}
	if len(b.Charts[0].Bars) != 3 || len(b.Would) != 1 || b.Would[0].Block != 2 || b.Tools[0].Name != "a" || b.Tools[0].N != 9 {
		t.Errorf("%+v", b)
	}
	for i, width := range []int{chartWidth, chartNarrow} {
		for _, bb := range b.Charts[i].Bars {
			for _, p := range bb.Parts {
				if bb.X < chartLeft || bb.X+bb.W > width || p.Y < 0 || p.H < 1 || p.Y+p.H > chartBottom+1 {
					t.Errorf("a bar leaves the chart: %+v %+v", bb, p)
				}
			}
		}
		if n := len(b.Charts[i].Ticks); n < 3 || n > width/90 {
			t.Errorf("%d ticks on %d", n, width)
		}
	}
	for _, v := range []int64{0, 1, 2, 3, 7, 11, 99, 4321} {
		if got := nice(v); got < v || got > 10*max(v, 1) {
			t.Errorf("nice(%d) is %d", v, got)
		}
	}
	if share(1, 0) != "–" || share(999, 1000) != "99.9 %" || share(1, 2) != "50 %" || thousands(1234567) != "1,234,567" {
		t.Error(share(1, 0), share(999, 1000), share(1, 2), thousands(1234567))
	}
}
