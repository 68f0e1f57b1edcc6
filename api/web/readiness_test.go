package web

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/actpass/sidecar/gate"
)

func TestReadinessAndTheSwitch(t *testing.T) {
	r := newRig(t)
	rules := *r.gate.Rules()
	rules.Mode = gate.ModeMonitor
	r.gate.Load(&rules)
	_, agent := r.key("acme", gate.RoleGateway)
	_, secret := r.key("acme", gate.RoleAdmin)
	_, human := r.key("acme", gate.RoleApprover)
	_, rival := r.key("globex", gate.RoleAdmin)
	b, looker, other := r.signedIn(secret), r.signedIn(human), r.signedIn(rival)
	has := func(who *browser, path string, want bool, texts ...string) string {
		t.Helper()
		got := who.get(path)
		if got.status != http.StatusOK {
			t.Fatalf("%s answers %d: %s", path, got.status, got.body)
		}
		for _, text := range texts {
			if strings.Contains(got.body, text) != want {
				t.Errorf("%s: %q is there: %v", path, text, !want)
			}
		}
		return got.body
	}
	has(b, "/ui/readiness", true, "Nothing to judge yet", "Nothing was tightened beyond the configuration")
	r.ask(agent, refund(100))
	a := refund(100)
	a.Tool = "chat.message.post"
	r.ask(agent, a)

	body := has(b, "/ui/readiness", true, "not ready</span>", "2 calls since", "policy.default", "seen on 1 of the 3 days", "For example", "/ui/modes/new?agent_id=support_agent&amp;mode=enforce&amp;tool=stripe.refund.create")
	if strings.Contains(body, "<script>") {
		t.Error("the page has a script of its own")
	}
	has(looker, "/ui/readiness", true, "chat.message.post")
	has(looker, "/ui/readiness", false, "/ui/modes/new")
	has(other, "/ui/readiness", false, "chat.message.post")
	has(b, "/ui/readiness?tool=stripe.*", false, "chat.message.post")

	// A long record is read while the page asks again.
	if got := b.get("/ui/readiness?tool=" + unreadTool); got.status != http.StatusOK || !strings.Contains(got.body, `<noscript><meta http-equiv="refresh" content="1"></noscript>`) || !strings.Contains(got.body, "data-again") || !strings.Contains(got.body, "25% is read") || !strings.Contains(got.body, `value="0.25"`) || strings.Contains(got.body, "Nothing to judge yet") {
		t.Errorf("%d %v %s", got.status, got.header, got.body)
	}

	// A form that may be half filled in is not taken away, and still there meanwhile.
	if got := b.get("/ui/modes/new?mode=enforce&tool=" + unreadTool); got.status != http.StatusOK || strings.Contains(got.body, "http-equiv") || !strings.Contains(got.body, "data-again") || !strings.Contains(got.body, "25% is read") || !strings.Contains(got.body, `name="confirm"`) {
		t.Errorf("%d %v %s", got.status, got.header, got.body)
	}
	if got := b.get("/ui/readiness"); strings.Contains(got.body, "data-again") || strings.Contains(got.body, "http-equiv") {
		t.Error("a page that shows all asks again")
	}

	// Asked for, seen, confirmed.
	ask := "/ui/modes/new?agent_id=support_agent&mode=enforce&tool=stripe.refund.create"
	has(b, ask, true, "What the last seven days say", "1 call on 1 day", `name="confirm"`)
	form := url.Values{"csrf": {b.token(ask)}, "tool": {"stripe.refund.create"}, "agent_id": {"support_agent"}, "mode": {"enforce"}, "reason": {"a <quiet> week"}}
	if got := b.post("/ui/modes", form); got.status != http.StatusBadRequest || !strings.Contains(got.body, "Nothing was set") || !strings.Contains(got.body, "a &lt;quiet&gt; week") {
		t.Errorf("an unconfirmed form answers %d", got.status)
	}
	mode := func(want string) {
		t.Helper()
		if got := r.gate.Rules().ModeOf("stripe.refund.create", "support_agent"); got != want {
			t.Errorf("it is judged in %s, want %s", got, want)
		}
	}
	mode(gate.ModeMonitor)
	form.Set("confirm", "yes")
	if got := b.post("/ui/modes", form); got.status != http.StatusSeeOther || got.header.Get("Location") != "/ui/readiness?done=tightened" {
		t.Fatalf("%d: %s", got.status, got.body)
	}
	mode(gate.ModeEnforce)
	page := has(b, "/ui/readiness?done=tightened", true, "Tightened, from the next call on.", "in force</span>", "a &lt;quiet&gt; week", "acme admin")
	has(other, "/ui/readiness", false, "&lt;quiet&gt;", "stripe.refund.create")
	if got := b.post("/ui/modes", url.Values{"csrf": form["csrf"], "mode": {"monitor"}, "confirm": {"yes"}}); got.status != http.StatusBadRequest || !strings.Contains(got.body, "does not tighten") {
		t.Errorf("a looser mode answers %d", got.status)
	}

	id := regexp.MustCompile(`/ui/modes/(mod_[0-9a-f-]+)/clear`).FindStringSubmatch(page)
	if id == nil {
		t.Fatal("no override can be cleared")
	}
	if got := other.post("/ui/modes/"+id[1]+"/clear", url.Values{"csrf": {other.token("/ui/readiness")}, "confirm": {"yes"}}); got.status != http.StatusNotFound {
		t.Errorf("another tenant's clearing answers %d", got.status)
	}
	if got := b.post("/ui/modes/"+id[1]+"/clear", url.Values{"csrf": form["csrf"]}); got.status != http.StatusBadRequest {
		t.Errorf("an unconfirmed clearing answers %d", got.status)
	}
	mode(gate.ModeEnforce)
	if got := b.post("/ui/modes/"+id[1]+"/clear", url.Values{"csrf": form["csrf"], "confirm": {"yes"}, "reason": {"early"}}); got.status != http.StatusSeeOther {
		t.Errorf("clearing answers %d: %s", got.status, got.body)
	}
	mode(gate.ModeMonitor)
	has(b, "/ui/readiness?done=cleared", true, "Cleared. The configured mode applies again.", "Nothing was tightened")
}
