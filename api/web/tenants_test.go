package web

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/actpass/sidecar/gate"
)

// reach is what a page or form answers to whom.
type reach struct {
	method, path                     string
	gateway, approver, admin, others int // others: the best role of the other tenant
}

// TestWhoReachesWhat is the table of two tenants and three roles: what each page
// and form answers, about the own tenant's things and about the other's.
func TestWhoReachesWhat(t *testing.T) {
	r := newRig(t)
	withPassports(r)
	type tenant struct{ event, approval string }
	things := map[string]*tenant{}
	browsers := map[string]*browser{}
	for _, name := range []string{"acme", "globex"} {
		_, agent := r.key(name, gate.RoleGateway)
		a := refund(9000)
		a.Resource, a.AgentID = "stripe:charge:secret_of_"+name, "secret_of_"+name
		th := &tenant{}
		th.event, th.approval = r.ask(agent, a)
		things[name] = th
		r.issue(name, gate.NewPassport{AgentID: "secret_of_" + name, AllowedTools: []string{"t"}, AllowedResources: []string{"*"}})
		browsers[name+" gateway"] = r.signedIn(agent)
		for _, role := range []string{gate.RoleApprover, gate.RoleAdmin} {
			_, secret := r.key(name, role, "support-leads")
			browsers[name+" "+role] = r.signedIn(secret)
		}
	}
	const ok, no, none, bad, led = http.StatusOK, http.StatusForbidden, http.StatusNotFound, http.StatusBadRequest, http.StatusSeeOther
	table := []reach{
		{"GET", "/ui/", led, led, led, led}, // to the first page of the role
		{"GET", "/ui/overview", no, ok, ok, ok},
		{"GET", "/ui/policies", no, ok, ok, ok},
		{"GET", "/ui/try", no, ok, ok, ok},
		{"GET", "/ui/keys", no, no, ok, ok},
		{"POST", "/ui/keys", no, no, bad, bad}, // without a name
		{"POST", "/ui/keys/key_none/revoke", no, no, none, none},
		{"GET", "/ui/passports", no, ok, ok, ok},
		{"POST", "/ui/passports", no, bad, bad, bad},       // for no agent
		{"POST", "/ui/passports/revoke", no, no, bad, bad}, // not confirmed
		{"GET", "/ui/stream", ok, ok, ok, ok},
		{"GET", "/ui/events", no, ok, ok, ok},
		{"GET", "/ui/events/EVENT", no, ok, ok, none},
		{"POST", "/ui/events/EVENT/verify", no, ok, ok, none},
		{"GET", "/ui/approvals", ok, ok, ok, ok},
		{"GET", "/ui/approvals/APPROVAL", ok, ok, ok, none},
		{"GET", "/ui/readiness", no, ok, ok, ok},
		{"GET", "/ui/review", no, ok, ok, ok},
		{"GET", "/ui/review/patch", no, none, none, none}, // nothing is answered
		{"GET", "/ui/policies/suggested.yaml", no, none, none, none},
		{"POST", "/ui/try", no, bad, bad, bad},
		{"GET", "/ui/approvals/APPROVAL/grant", no, ok, ok, none},
		{"POST", "/ui/approvals/APPROVAL/grant", no, bad, bad, none},
		{"POST", "/ui/grants/grt_none/revoke", no, bad, bad, bad}, // not confirmed
		{"GET", "/ui/modes/new?mode=strict&tool=stripe.*", no, no, ok, ok},
		{"POST", "/ui/modes", no, no, bad, bad},                       // not confirmed
		{"POST", "/ui/modes/mod_none/clear", no, no, bad, bad},        // likewise
		{"POST", "/ui/approvals/APPROVAL/decide", no, bad, bad, none}, // without a decision
	}
	// Nothing that the tenant's own calls were about is on these.
	silent := []string{"/ui/policies", "/ui/try", "/ui/keys", "/ui/stream"}
	for _, c := range table {
		for _, name := range []string{"acme", "globex"} {
			other := map[string]string{"acme": "globex", "globex": "acme"}[name]
			for who, want := range map[string]int{name + " gateway": c.gateway, name + " approver": c.approver, name + " admin": c.admin, other + " admin": c.others} {
				path := strings.NewReplacer("EVENT", things[name].event, "APPROVAL", things[name].approval).Replace(c.path)
				b := browsers[who]
				var got reply
				switch {
				case c.path == "/ui/stream":
					got.status = b.begins(path)
				case c.method == "GET":
					got = b.get(path)
				default:
					got = b.post(path, url.Values{"csrf": {b.token("/ui/approvals")}})
				}
				if got.status != want {
					t.Errorf("%s: %s %s answers %d, want %d", who, c.method, c.path, got.status, want)
				}
				if foreign := "secret_of_" + map[bool]string{true: "globex", false: "acme"}[strings.HasPrefix(who, "acme")]; strings.Contains(got.body, foreign) {
					t.Errorf("%s sees %s at %s", who, foreign, c.path)
				}
				if got.status == ok && !strings.HasPrefix(who, other) && !slices.Contains(silent, c.path) && !strings.Contains(got.body, "secret_of_"+name) {
					t.Errorf("%s does not see its own at %s", who, c.path)
				}
			}
		}
	}
	// Every page and form stands in the table. Whoever is signed in may sign out.
	ids := strings.NewReplacer("EVENT", "{id}", "APPROVAL", "{id}", "grt_none", "{id}", "mod_none", "{id}", "key_none", "{id}")
	for _, rt := range r.dash.table() {
		if rt.pattern == "/ui/signout" {
			continue
		}
		if !slices.ContainsFunc(table, func(c reach) bool {
			path, _, _ := strings.Cut(ids.Replace(c.path), "?")
			return c.method == rt.method && (path == rt.pattern || path+"{$}" == rt.pattern)
		}) {
			t.Errorf("%s %s is not in the table", rt.method, rt.pattern)
		}
	}
}

// begins is the status of an answer that does not end by itself.
func (b *browser) begins(path string) int {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}
