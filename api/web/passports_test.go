package web

import (
	"crypto/ed25519"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/passport"
)

func withPassports(r *rig) *rig {
	r.gate.SetAuthority(&gate.Authority{
		Issuer: "actpass", Audience: "actpass",
		Keys: []passport.Key{{ID: "k1", Private: ed25519.NewKeyFromSeed([]byte(strings.Repeat("s", 32)))}},
	})
	return r
}

func (r *rig) issue(tenant string, n gate.NewPassport) gate.Issued {
	r.t.Helper()
	p, err := r.gate.IssuePassport(r.t.Context(), gate.Identity{TenantID: tenant, Role: gate.RoleAdmin, KeyID: "key_root", Name: "root of " + tenant}, n)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// TestPassportsPage issues a passport, sees its token once and what it says in plain
// words, uses it, and revokes another.
func TestPassportsPage(t *testing.T) {
	r := withPassports(newRig(t))
	_, admin := r.key("acme", gate.RoleAdmin)
	_, lead := r.key("acme", gate.RoleApprover)
	b, other := r.signedIn(admin), r.signedIn(lead)
	if got := b.get("/ui/passports"); !strings.Contains(got.body, "No passport was issued in the last week") || !strings.Contains(got.body, "actpass passport issue") {
		t.Error("the empty page does not say what to do")
	}
	form := url.Values{
		"csrf": {b.token("/ui/passports")}, "agent_id": {"support_agent"}, "user_id": {"<b>user"}, "goal": {"<script>alert(1)</script>\u202e"}, "for": {"15m"}, "risk": {"high"},
		"tools": {"stripe.refund.create, stripe.refund.list"}, "resources": {"stripe:charge:*"}, "max_amount": {"9007199254740993"}, "currency": {"usd"},
		"more": {`{"min":{"amount":100},"prefix":{"charge":"ch_"},"one_of":{"reason":["duplicate","fraudulent"]},"equals":{"note":"<i>"}}`},
	}
	got := b.post("/ui/passports", form)
	token := regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+`).FindString(got.body)
	if got.status != http.StatusOK || token == "" || got.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d: %s", got.status, got.body)
	}
	again := b.get("/ui/passports")
	text := strings.Join(strings.Fields(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(again.body, "")), " ")
	for _, want := range []string{
		"support_agent in force 1 use left may call stripe.refund.create, stripe.refund.list for &lt;b&gt;user on stripe:charge:*",
		"amount at least 100", "amount at most 9007199254740993", "currency usd", "charge beginning with ch_", "reason one of duplicate, fraudulent", "note &lt;i&gt;",
		"&lt;script&gt;alert(1)&lt;/script&gt;U+202E", "risk up to high", "issued just now by acme admin", "never used", "expires in 14 min",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the list does not say %q: %s", want, text)
		}
	}
	if strings.Contains(again.body, token) || strings.Contains(again.body, token[strings.LastIndexByte(token, '.'):]) {
		t.Error("the token is shown again")
	}
	seen := other.get("/ui/passports")
	if seen.status != http.StatusOK || strings.Contains(seen.body, token) || !strings.Contains(seen.body, "may call") || strings.Contains(seen.body, "Revoke") || strings.Contains(seen.body, "Issue a passport") {
		t.Errorf("an approver sees %d: %s", seen.status, seen.body)
	}
	jti := regexp.MustCompile(`name="jti" value="(ap_[^"]+)"`).FindStringSubmatch(again.body)[1]
	word := url.Values{"csrf": {b.token("/ui/passports")}, "jti": {jti}, "reason": {"seen in <a log>"}}
	if got := b.post("/ui/passports/revoke", word); got.status != http.StatusBadRequest || !strings.Contains(got.body, "not confirmed") || !strings.Contains(b.get("/ui/passports").body, "1 use left") {
		t.Errorf("without a confirmation: %d", got.status)
	}
	word.Set("confirm", "yes")
	mine := url.Values{"csrf": {other.token("/ui/passports")}, "jti": {jti}, "confirm": {"yes"}}
	if got := other.post("/ui/passports/revoke", mine); got.status != http.StatusForbidden {
		t.Errorf("an approver revokes: %d", got.status)
	}
	if got := b.post("/ui/passports/revoke", word); got.status != http.StatusSeeOther || got.header.Get("Location") != "/ui/passports?done=revoked" {
		t.Errorf("revoke answers %d", got.status)
	}
	gone := b.get("/ui/passports?state=revoked")
	if !strings.Contains(gone.body, "seen in &lt;a log&gt;") || !strings.Contains(gone.body, "no use left") || strings.Contains(gone.body, "Revoke for good") {
		t.Errorf("%s", gone.body)
	}
	for path, want := range map[string]string{"?state=live": "Nothing matches", "?agent_id=nobody": "Nothing matches", "?agent_id=support_agent": jti} {
		if got := b.get("/ui/passports" + path); !strings.Contains(got.body, want) {
			t.Errorf("%s does not show %s", path, want)
		}
	}

	// A use names the event that it was for.
	used := r.issue("acme", gate.NewPassport{AgentID: "support_agent", AllowedTools: []string{"*"}, AllowedResources: []string{"*"}})
	event := r.execute(used.Token)
	if got := b.get("/ui/passports?state=used"); !strings.Contains(got.body, `href="/ui/events/`+event+`"`) || !strings.Contains(got.body, "with any arguments") {
		t.Errorf("%s", got.body)
	}

	for name, bad := range map[string][2]string{"max_amount": {"5.0", "whole number"}, "more": {"[]", "JSON object"}, "for": {"2h", "ttl"}, "agent_id": {"", "agent_id"}, "risk": {"odd", "risk_tier"}} {
		f := url.Values{}
		for k, v := range form {
			f[k] = v
		}
		f.Set(name, bad[0])
		if got := b.post("/ui/passports", f); got.status != http.StatusBadRequest || !strings.Contains(got.body, bad[1]) || !strings.Contains(got.body, "stripe.refund.create, stripe.refund.list") {
			t.Errorf("%s=%s: %d, and what was typed is kept: %v", name, bad[0], got.status, strings.Contains(got.body, "stripe.refund.create, stripe.refund.list"))
		}
	}
	mine = url.Values{"csrf": mine["csrf"], "agent_id": {"a"}, "tools": {"t"}, "resources": {"r"}, "for": {"5m"}}
	if got := other.post("/ui/passports", mine); got.status != http.StatusForbidden {
		t.Errorf("a key without a ceiling issues: %d", got.status)
	}
	_, planner, err := r.gate.CreateKey(t.Context(), gate.Identity{TenantID: "acme", Role: gate.RoleAdmin, KeyID: "key_root"},
		gate.NewKey{Name: "planner", Role: gate.RoleApprover, Ceiling: &gate.Ceiling{AllowedTools: []string{"t"}, AllowedResources: []string{"r"}}})
	if err != nil {
		t.Fatal(err)
	}
	below := r.signedIn(planner)
	mine.Set("csrf", below.token("/ui/passports"))
	if got := below.post("/ui/passports", mine); got.status != http.StatusOK || !strings.Contains(got.body, "Within the ceiling of your key") {
		t.Errorf("below its ceiling: %d", got.status)
	}
	mine.Set("tools", "u")
	if got := below.post("/ui/passports", mine); got.status != http.StatusForbidden {
		t.Errorf("over its ceiling: %d", got.status)
	}
}

// execute uses a passport for a small refund, and gives its event.
func (r *rig) execute(token string) string {
	r.t.Helper()
	_, agent := r.key("acme", gate.RoleGateway)
	a := refund(100)
	a.Passport, a.Intent = token, "execute"
	event, _ := r.ask(agent, a)
	return event
}

// TestPassportsAreInPages: 50 a page, each once.
func TestPassportsAreInPages(t *testing.T) {
	r := withPassports(newRig(t))
	_, lead := r.key("acme", gate.RoleApprover)
	b := r.signedIn(lead)
	for i := range 53 {
		r.issue("acme", gate.NewPassport{AgentID: fmt.Sprintf("agent-%02d", i), AllowedTools: []string{"t"}, AllowedResources: []string{"*"}, TTL: time.Minute})
	}
	seen := map[string]int{}
	pages := 0
	for path := "/ui/passports?state=live"; path != ""; pages++ {
		got := b.get(path)
		for _, m := range regexp.MustCompile(`agent-\d\d`).FindAllString(got.body, -1) {
			seen[m]++
		}
		path = ""
		if m := regexp.MustCompile(`href="([^"]+)" rel="next"`).FindStringSubmatch(got.body); m != nil {
			path = strings.ReplaceAll(m[1], "&amp;", "&")
		}
	}
	if pages != 2 || len(seen) != 53 {
		t.Errorf("%d pages show %d of 53", pages, len(seen))
	}
	for name, n := range seen {
		if n != 1 {
			t.Errorf("%s is shown %d times", name, n)
		}
	}
}

func TestBoundsInWords(t *testing.T) {
	got := strings.Join(bounds(api.Constraints{"max_amount": 5, "min": map[string]any{"a": 1}, "max": "odd", "later": []any{1}}), "; ")
	if want := "amount at most 5; a at least 1; max odd; later [1]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
