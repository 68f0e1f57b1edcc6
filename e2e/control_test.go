package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/store/pgtest"
)

// controlled is a fleet of n sidecars with a control, all of the same settings. The
// first key is made at the control.
func controlled(t *testing.T, n int, dsn string, s settings) (ctl *sidecar, list []*sidecar) {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "dsn")
	must(t, os.WriteFile(secret, []byte(dsn+"\n"), 0o600))
	must(t, os.WriteFile(secret+".key", []byte("a secret of thirty-two characters\n"), 0o600))
	s.extra += "\nstore: { driver: postgres, dsn_file: " + secret + ", key_file: " + secret + ".key, evidence_keep: 1d }"
	ctl = &sidecar{t: t, dir: t.TempDir()}
	ctl.config = s.write(t, ctl.dir)
	ctl.launch(exec.Command(binary, "serve", "--role", "control", "--config", ctl.config))
	ctl.admin = ctl.key("--name", "admin", "--role", "admin")
	t.Cleanup(ctl.stop)
	for range n {
		sc := &sidecar{t: t, dir: t.TempDir(), admin: ctl.admin}
		sc.config = s.write(t, sc.dir)
		sc.run()
		t.Cleanup(sc.stop)
		list = append(list, sc)
	}
	return ctl, list
}

// atControl is an event with its place in the log, as the API gives it.
type atControl struct {
	ID       string `json:"id"`
	Resource string `json:"resource"`
	Log      struct {
		Index    uint64 `json:"index"`
		LeafHash string `json:"leaf_hash"`
		Origin   string `json:"origin"`
		Source   string `json:"source"`
		Seq      uint64 `json:"seq"`
	} `json:"log"`
}

// becomes waits until ok holds, at most d.
func becomes(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %s still not: %s", d, what)
		}
	}
}

// TestControl: what is made, decided and set at a control holds at the sidecars that
// share its database, and it opens no door itself.
func TestControl(t *testing.T) {
	pg := pgtest.Start(t)
	u := newUpstream(t)
	u.handle(refunded)
	ctl, list := controlled(t, 2, pg.Database(t), settings{front: u, hold: "20s", policies: map[string]string{"p.yaml": hundredPolicy, "q.yaml": asksPolicy}})
	ctx := context.Background()
	admin := ctl.client()

	t.Run("doors", func(t *testing.T) {
		if ctl.proxy != "" || ctl.revers != "" {
			t.Errorf("open: proxy %q, reverse %q", ctl.proxy, ctl.revers)
		}
		if _, err := os.Stat(filepath.Join(ctl.dir, "data", "ca")); !os.IsNotExist(err) {
			t.Errorf("there is a CA: %v", err)
		}
		for path, want := range map[string]string{"/healthz": "ok", "/readyz": `"status":"ready"`, "/metrics": "actpass_faults_total", "/ui/": ""} {
			a, err := trySend(http.DefaultClient, http.MethodGet, "http://"+ctl.api+path, "", "", nil)
			must(t, err)
			if !strings.Contains(string(a.body), want) || a.status != 200 && path != "/ui/" {
				t.Errorf("%s: %d %s", path, a.status, a.body)
			}
			if path == "/readyz" && strings.Contains(string(a.body), `"ca"`) {
				t.Errorf("it answers for a CA that it has not: %s", a.body)
			}
		}
	})

	t.Run("keys", func(t *testing.T) {
		k, err := admin.CreateKey(ctx, api.NewKey{Name: "reader", Role: "approver"})
		must(t, err)
		ask := func() int {
			a, err := trySend(http.DefaultClient, http.MethodGet, "http://"+list[1].api+"/api/v1/approvals", "", "", http.Header{"Authorization": {"Bearer " + k.Key}})
			must(t, err)
			return a.status
		}
		if got := ask(); got != 200 {
			t.Errorf("a key of the control is answered %d at a sidecar", got)
		}
		must(t, admin.RevokeKey(ctx, k.ID))
		becomes(t, 10*time.Second, "the revoked key is refused at a sidecar", func() bool { return ask() == 401 })
	})

	t.Run("approvals", func(t *testing.T) {
		k, err := admin.CreateKey(ctx, api.NewKey{Name: "lead", Role: "approver", Groups: []string{"support-leads"}})
		must(t, err)
		lead := api.NewClient("http://"+ctl.api, k.Key, nil)
		for i, sc := range list {
			charge := "ch_ctl_" + string(rune('a'+i))
			answered := make(chan answer, 1)
			go func() {
				a, err := trySend(http.DefaultClient, http.MethodPost, "http://"+sc.revers+"/stripe/v1/refunds", form, "charge="+charge+"&currency=usd&amount=500", http.Header{"Actpass-User": {charge}})
				if err != nil {
					t.Errorf("held call: %v", err)
				}
				answered <- a
			}()
			var id string
			becomes(t, 10*time.Second, "the control lists what waits at a sidecar", func() bool {
				p, err := lead.Approvals(ctx, "pending", "", "", 100)
				must(t, err)
				for _, a := range p.Data {
					if strings.Contains(a.Resource, charge) {
						id = a.ID
					}
				}
				return id != ""
			})
			time.Sleep(100 * time.Millisecond) // it waits, and its sidecar listens
			decided := time.Now()
			_, err := lead.Decide(ctx, id, api.Verdict{Decision: "approve", Reason: "fine"})
			must(t, err)
			a := <-answered
			took := time.Since(decided)
			t.Logf("approved at the control, answered at the sidecar after %s", took)
			if a.status != 200 || took > time.Second {
				t.Errorf("%d %s after %s", a.status, a.body, took)
			}
		}
	})

	t.Run("grants", func(t *testing.T) {
		_, err := admin.CreateGrant(ctx, api.NewGrant{
			AgentID: "support_agent", Tool: "stripe.refund.create", Resource: "stripe:charge:ch_granted_*", Policy: "asks", Rule: "asks", Count: 1, TTL: 600,
			ResourceConstraints: api.Constraints{"max": map[string]any{"amount": 600}, "equals": map[string]any{"currency": "usd"}}, FreeArgs: []string{"charge"},
		})
		must(t, err)
		if a, err := refundOf(list[0], "ch_granted_1", 550); err != nil || a.status != 200 {
			t.Errorf("granted at the control: %+v, %v", a, err)
		}
	})

	t.Run("limits", func(t *testing.T) {
		if ok, refused := dollars(list[0], "eve", "one", 101); ok != 100 || refused != 1 {
			t.Fatalf("%d passed, %d were refused", ok, refused)
		}
		if got := ctl.held("eve"); got != 100 {
			t.Errorf("at the control the limit holds %d", got)
		}
		p, err := admin.Limits(ctx, "hundred", "", "", 10)
		must(t, err)
		if len(p.Data) == 0 {
			t.Fatal("the control lists no limit")
		}
		for _, l := range p.Data {
			_, err = admin.ResetLimit(ctx, api.LimitReset{Limit: l.Limit, All: true, Reason: "again"})
			must(t, err)
		}
		if ok, _ := dollars(list[1], "eve", "two", 1); ok != 1 {
			t.Error("what was reset at the control is still used up at a sidecar")
		}
	})

	// The control shows what happened at every sidecar, and whose record it is; each
	// log verifies in the database under its sidecar's own key.
	t.Run("events", func(t *testing.T) {
		for i, sc := range list {
			a, err := refundOf(sc, fmt.Sprintf("ch_shown_%d", i), 100+i)
			must(t, err)
			if a.status != 200 {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
		list[1].kill() // what it recorded is on its disk, and comes when it is back
		list[1].run()
		shown := map[string]atControl{}
		becomes(t, 30*time.Second, "the events of both are shown at the control", func() bool {
			p, err := admin.Events(ctx, api.EventQuery{Kind: "action", Limit: 200})
			must(t, err)
			seen := map[string]bool{}
			for _, raw := range p.Data {
				var e atControl
				must(t, json.Unmarshal(raw, &e))
				if seen[e.ID] {
					t.Fatalf("%s is shown twice", e.ID)
				}
				seen[e.ID] = true
				for i := range list {
					if strings.HasSuffix(e.Resource, fmt.Sprintf("ch_shown_%d", i)) {
						shown[e.Resource] = e
					}
				}
			}
			return len(shown) == 2
		})
		origins := map[string]bool{}
		host, _ := os.Hostname()
		for i, sc := range list {
			e := shown[fmt.Sprintf("stripe:charge:ch_shown_%d", i)]
			origins[e.Log.Origin] = true
			if e.Log.Source != host || e.Log.Seq == 0 {
				t.Errorf("%s is at %+v", e.ID, e.Log)
			}
			var own atControl
			raw, err := sc.client().Event(ctx, e.ID)
			must(t, err)
			must(t, json.Unmarshal(raw, &own))
			if own.Log.Index != e.Log.Index || own.Log.LeafHash != e.Log.LeafHash || own.Log.Source != "" {
				t.Errorf("at the sidecar %+v, at the control %+v", own.Log, e.Log)
			}
		}
		if len(origins) != 2 {
			t.Errorf("the logs are %v", origins)
		}
		r, err := admin.Verify(ctx)
		must(t, err)
		if !r.OK || len(r.Logs) != 3 {
			t.Errorf("verified: %+v", r)
		}
		for _, l := range r.Logs {
			if !l.OK || l.Verified == 0 || l.Verified > l.Records {
				t.Errorf("log %+v", l)
			}
		}
		out, code := ctl.cli("evidence", "tail", "--limit", "200", "--tool", "stripe.refund.create")
		if code != 0 || !strings.Contains(out, "ch_shown_0") || !strings.Contains(out, "ch_shown_1") || !strings.Contains(out, "at="+host) {
			t.Errorf("evidence tail: %d %s", code, out)
		}
		if err := admin.Export(ctx, io.Discard, api.ExportQuery{}); err == nil || !strings.Contains(err.Error(), "a bundle is of one log") {
			t.Errorf("export: %v", err)
		}
		if err := admin.Export(ctx, io.Discard, api.ExportQuery{Log: "actpass/0000"}); err == nil || !strings.Contains(err.Error(), "no such log") {
			t.Errorf("export of another log: %v", err)
		}
		// The log of each sidecar, from the control alone, under the sidecar's own key.
		for i, sc := range list {
			e := shown[fmt.Sprintf("stripe:charge:ch_shown_%d", i)]
			key := strings.TrimSpace(string(contents(t, filepath.Join(sc.dir, "data", "ledger", "key.pub"))))
			file := filepath.Join(t.TempDir(), "bundle")
			if out, code := ctl.cli("evidence", "export", "--log", e.Log.Origin, "--out", file, "--api", "http://"+ctl.api); code != 0 || !strings.Contains(out, "exported") {
				t.Fatalf("export: %d %s", code, out)
			}
			if !strings.Contains(string(contents(t, file)), `"id":"`+e.ID+`"`) {
				t.Error("the bundle lacks " + e.ID)
			}
			if out, code := ctl.cli("evidence", "verify", "--bundle", file, "--public-key", key); code != 0 {
				t.Errorf("verify: %d %s", code, out)
			}
			if out, code := ctl.cli("evidence", "export", "--log", e.Log.Origin, "--api", "http://"+sc.api); code != 0 || strings.Count(out, e.ID) == 0 {
				t.Errorf("the same of the sidecar itself: %d %s", code, out)
			}
			if page := proofPage(t, ctl, e.ID); !strings.Contains(page, "The event is in the log, unchanged") || !strings.Contains(page, key) {
				t.Errorf("the dashboard's proof: %s", page)
			}
		}
		counts, err := admin.Counts(ctx, time.Now().Add(-time.Hour), "minute")
		must(t, err)
		n := int64(0)
		for _, c := range counts {
			if c.Tool == "stripe.refund.create" {
				n += int64(c.Count)
			}
		}
		if n < 100 {
			t.Errorf("%d calls are counted at the control", n)
		}
		judged := func(when string, least int) {
			t.Helper()
			sim, err := admin.Simulate(ctx, api.Simulation{Mode: "strict", Tool: "stripe.refund.create"})
			must(t, err)
			ready, err := admin.Readiness(ctx, api.ReadinessQuery{Tool: "stripe.refund.create"})
			must(t, err)
			review, err := admin.Review(ctx, api.NewReview{Mode: "strict", Tool: "stripe.refund.create"})
			must(t, err)
			if sim.Totals.Events < least || ready.Calls < least || review.Totals.Events < least {
				t.Errorf("%s: judged again are %d, %d, %d of %d or more", when, sim.Totals.Events, ready.Calls, review.Totals.Events, least)
			}
		}
		judged("the calls of all", int(n))
		// What is kept long enough is removed by the control, and by it alone; the rest
		// verifies as before.
		pg.Exec(t, "test_1", `UPDATE evidence_batches SET shipped_at = shipped_at - 2 * 86400000000 WHERE seq <= (SELECT min(seq) FROM evidence_batches WHERE records > 20)`)
		list[0].kill()
		list[0].run()
		time.Sleep(500 * time.Millisecond) // it looks through the store as it starts
		if r, err = admin.Verify(ctx); err != nil || !r.OK || len(r.Notes) != 1 {
			t.Fatalf("after the start of a sidecar: %+v, %v", r, err)
		}
		ctl.stop()
		ctl.launch(exec.Command(binary, "serve", "--role", "control", "--config", ctl.config))
		admin = ctl.client()
		becomes(t, 20*time.Second, "the old copies were removed", func() bool {
			r, err = admin.Verify(ctx)
			must(t, err)
			return len(r.Notes) > 1
		})
		if !r.OK || !strings.Contains(r.Notes[1], "were removed") {
			t.Errorf("verified: %+v", r)
		}
		becomes(t, 10*time.Second, "that is on record", func() bool {
			out, code := ctl.cli("evidence", "tail", "--kind", "system", "--limit", "50")
			return code == 0 && strings.Contains(out, "old copies of evidence were removed")
		})
		judged("without the oldest", 1)
	})

	// A passport of the control is believed at every sidecar, used at one of them once,
	// and so is one that another key has signed since.
	t.Run("passports", func(t *testing.T) {
		issue := func(from *sidecar, charge string) string {
			p, err := from.client().IssuePassport(ctx, api.NewPassport{
				AgentID: "support_agent", AllowedTools: []string{"stripe.refund.create"}, AllowedResources: []string{"stripe:charge:" + charge}, TTL: 300,
			})
			must(t, err)
			return p.Token
		}
		show := func(sc *sidecar, token, charge string) answer {
			a, err := trySend(http.DefaultClient, http.MethodPost, "http://"+sc.revers+"/stripe/v1/refunds", form, "charge="+charge+"&currency=usd&amount=100", http.Header{"Actpass-Passport": {token}, "Actpass-User": {"pat"}})
			must(t, err)
			return a
		}
		token := issue(ctl, "ch_pass")
		if a := show(list[0], token, "ch_pass"); a.status != 200 {
			t.Fatalf("a passport of the control: %d %s", a.status, a.body)
		}
		if a := show(list[1], token, "ch_pass"); a.status != 403 || a.header.Get("ActPass-Reason") != "passport.replayed" {
			t.Errorf("used again at another: %d %s", a.status, a.header.Get("ActPass-Reason"))
		}
		if a := show(list[1], issue(list[0], "ch_pass2"), "ch_pass2"); a.status != 200 {
			t.Errorf("a passport of another sidecar: %d %s", a.status, a.body)
		}
		before, err := list[1].client().JWKS(ctx)
		must(t, err)
		if out, code := list[0].cli("passport", "rotate"); code != 0 {
			t.Fatalf("rotate: %s", out)
		}
		for _, sc := range []*sidecar{ctl, list[0], list[1]} {
			becomes(t, 30*time.Second, "the new key is everywhere", func() bool {
				set, err := sc.client().JWKS(ctx)
				must(t, err)
				return len(set.Keys) == len(before.Keys)+1
			})
		}
		if a := show(list[1], issue(ctl, "ch_pass3"), "ch_pass3"); a.status != 200 {
			t.Errorf("signed with the new key: %d %s", a.status, a.body)
		}
		for _, sc := range []*sidecar{ctl, list[0]} {
			if _, err := os.Stat(filepath.Join(sc.dir, "data", "redact.key")); !os.IsNotExist(err) {
				t.Errorf("%s has a key of its own: %v", sc.dir, err)
			}
		}
	})

	t.Run("modes", func(t *testing.T) {
		m, err := admin.SetMode(ctx, api.NewMode{Tool: "stripe.refund.create", Mode: "strict", Reason: "passports only"})
		must(t, err)
		for _, sc := range list {
			becomes(t, 15*time.Second, "the mode that was set at the control holds", func() bool {
				a, err := refundOf(sc, "ch_mode", 100)
				must(t, err)
				return a.status == 403 && a.header.Get("ActPass-Reason") == "passport.required"
			})
		}
		must(t, admin.ClearMode(ctx, m.ID, "enough"))
	})

	// A changed file is taken up here too, and what it says of doors is not.
	t.Run("reload", func(t *testing.T) {
		raw, err := os.ReadFile(ctl.config)
		must(t, err)
		must(t, os.WriteFile(ctl.config, []byte(strings.Replace(string(raw), "hold: 20s", "hold: 21s", 1)), 0o644))
		becomes(t, 30*time.Second, "the file was read again", func() bool {
			for _, line := range ctl.log() {
				var m map[string]any
				if json.Unmarshal([]byte(line), &m) == nil && m["msg"] == "configuration reloaded" {
					return true
				}
			}
			return false
		})
	})
}

// proofPage is what the dashboard says to "Verify this event".
func proofPage(t *testing.T, sc *sidecar, id string) string {
	t.Helper()
	jar, err := cookiejar.New(nil)
	must(t, err)
	c := &http.Client{Jar: jar, Timeout: 20 * time.Second}
	page := func(path string, form url.Values) string {
		ask := func() (*http.Response, error) { return c.Get("http://" + sc.api + path) }
		if form != nil {
			ask = func() (*http.Response, error) { return c.PostForm("http://"+sc.api+path, form) }
		}
		resp, err := ask()
		must(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		must(t, err)
		return string(b)
	}
	token := func(path string) string {
		m := regexp.MustCompile(`name="csrf" value="([^"]+)"`).FindStringSubmatch(page(path, nil))
		if m == nil {
			t.Fatal("there is no form at " + path)
		}
		return m[1]
	}
	page("/ui/signin", url.Values{"csrf": {token("/ui/signin")}, "to": {"/ui/"}, "key": {sc.admin}})
	return html.UnescapeString(page("/ui/events/"+id+"/verify", url.Values{"csrf": {token("/ui/events/" + id)}}))
}

func contents(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	return b
}
