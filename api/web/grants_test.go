package web

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/actpass/sidecar/gate"
)

// TestGrantFromAnApproval makes one within bounds, sees it used, and revokes it.
func TestGrantFromAnApproval(t *testing.T) {
	r := newRig(t)
	_, agent := r.key("acme", gate.RoleGateway)
	_, lead := r.key("acme", gate.RoleApprover, "support-leads")
	_, outsider := r.key("acme", gate.RoleApprover, "others")
	_, rival := r.key("globex", gate.RoleAdmin)
	b, other, foreign := r.signedIn(lead), r.signedIn(outsider), r.signedIn(rival)
	a := refund(9000)
	a.Args["metadata"] = map[string]any{"note": "<img src=x>", "big": 9007199254740993}
	a.Args["veil"] = "a\u202eb"
	a.Args["list"] = []any{"<script>alert(1)</script>"}
	_, approval := r.ask(agent, a)
	path := "/ui/approvals/" + approval + "/grant"
	if got := r.signedIn(agent).get(path); got.status != http.StatusForbidden {
		t.Errorf("an agent's key gets %d", got.status)
	}
	if got := foreign.get(path); got.status != http.StatusNotFound {
		t.Errorf("another tenant gets %d", got.status)
	}
	page := b.get(path)
	for _, want := range []string{"metadata.big", "9007199254740993", "can be no bound", `value="max" selected`, "&lt;img src=x&gt;", "and approve this call itself", "as it is: <bdi class=\"claim\">a<span class=\"odd\">U+202E</span>b"} {
		if !strings.Contains(page.body, want) {
			t.Errorf("no %q in %s", want, page.body)
		}
	}
	for _, bad := range []string{"<script>alert", "<img"} {
		if strings.Contains(page.body, bad) {
			t.Errorf("%q stands there", bad)
		}
	}
	index := func(name string) string {
		t.Helper()
		m := regexp.MustCompile(`(?s)` + regexp.QuoteMeta(name) + `</bdi></legend>.*?name="bound\.(\d+)"`).FindStringSubmatch(page.body)
		if m == nil {
			t.Fatalf("the form has no %s", name)
		}
		return m[1]
	}
	form := func(who *browser, pairs ...string) url.Values {
		f := url.Values{"csrf": {who.token("/ui/approvals")}, "resource": {"stripe:charge:*"}, "count": {"2"}, "for": {"8h"}, "reason": {"a <sale>"}, "sum_arg": {"amount"}, "sum_max": {"20000"}}
		f.Set("bound."+index("metadata.note"), "free")
		f.Set("bound."+index("veil"), "free")
		f.Set("bound."+index("amount"), "max")
		f.Set("value."+index("amount"), "9500")
		for i := 0; i < len(pairs); i += 2 {
			f.Set(pairs[i], pairs[i+1])
		}
		return f
	}
	if got := other.post(path, form(other)); got.status != http.StatusForbidden || !strings.Contains(got.body, `value="9500"`) {
		t.Errorf("who may not approve gets %d", got.status)
	}
	for field, value := range map[string]string{"count": "many", "for": "soon", "sum_max": "1.5", "value." + index("amount"): "<b>"} {
		if got := b.post(path, form(b, field, value)); got.status != http.StatusBadRequest {
			t.Errorf("%s %s answers %d", field, value, got.status)
		}
	}
	if got := b.post(path, url.Values{"resource": {"*"}, "count": {"1"}, "for": {"1h"}}); got.status != http.StatusForbidden {
		t.Errorf("a form without its token answers %d", got.status)
	}
	if got := b.post(path, form(b)); got.status != http.StatusSeeOther {
		t.Fatalf("granting answers %d: %s", got.status, got.body)
	}
	// Within the bounds it goes; the call itself still waits.
	within := refund(9400)
	within.Resource, within.Intent = "stripe:charge:ch_2", gate.IntentExecute
	within.Args["metadata"], within.Args["list"] = map[string]any{"note": "other", "big": 9007199254740993}, []any{1}
	if _, id := r.ask(agent, within); id != "" {
		t.Errorf("a call within the bounds opened %s", id)
	}
	within.Args["amount"] = 9501
	if _, id := r.ask(agent, within); id == "" {
		t.Error("a call over the bound went")
	}
	if got, err := r.gate.Approval(context.Background(), gate.Identity{TenantID: "acme", Role: gate.RoleAdmin}, approval, 0); err != nil || got.State != gate.ApprovalPending {
		t.Errorf("%v %s", err, got.State)
	}
	list := b.get("/ui/approvals?done=granted")
	for _, want := range []string{"Granted. Calls within its bounds", "1 of 2 used", "9400 of 20000", "amount at most 9500", "currency usd", "a &lt;sale&gt;", "metadata.note anything", "ends in 7 h", "like this one"} {
		if !strings.Contains(list.body, want) {
			t.Errorf("no %q in the list", want)
		}
	}
	if strings.Contains(foreign.get("/ui/approvals").body, "&lt;sale&gt;") || strings.Contains(r.signedIn(agent).get("/ui/approvals").body, "&lt;sale&gt;") {
		t.Error("others see the grant")
	}
	id := regexp.MustCompile(`/ui/grants/(grt_[0-9a-f-]+)/revoke`).FindStringSubmatch(list.body)
	if id == nil {
		t.Fatal("no grant can be revoked")
	}
	revoke := "/ui/grants/" + id[1] + "/revoke"
	if got := foreign.post(revoke, url.Values{"csrf": {foreign.token("/ui/approvals")}, "confirm": {"yes"}}); got.status != http.StatusNotFound {
		t.Errorf("another tenant's revoking answers %d", got.status)
	}
	if got := b.post(revoke, url.Values{"csrf": form(b)["csrf"]}); got.status != http.StatusBadRequest {
		t.Errorf("an unconfirmed revoking answers %d", got.status)
	}
	if got := b.post(revoke, url.Values{"csrf": form(b)["csrf"], "confirm": {"yes"}, "reason": {"over"}}); got.status != http.StatusSeeOther {
		t.Errorf("revoking answers %d: %s", got.status, got.body)
	}
	within.Args["amount"] = 9300
	if _, id := r.ask(agent, within); id == "" {
		t.Error("a revoked grant still holds")
	}
	if body := b.get("/ui/approvals").body; !strings.Contains(body, "None is in force") {
		t.Error("the revoked one is in force")
	}
	if body := b.get("/ui/approvals?grants=all").body; !strings.Contains(body, "revoked just now") {
		t.Error("what ended is not shown")
	}

	// Granted together with the word on the call.
	if got := b.post(path, form(b, "also", "yes")); got.status != http.StatusSeeOther {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if got, err := r.gate.Approval(context.Background(), gate.Identity{TenantID: "acme", Role: gate.RoleAdmin}, approval, 0); err != nil || got.State != gate.ApprovalApproved {
		t.Errorf("%v %s", err, got.State)
	}
}
