package web

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

func TestSignIn(t *testing.T) {
	r := newRig(t)
	id, secret := r.key("acme", gate.RoleAdmin)
	b := r.browser()
	if got := b.get("/"); got.status != http.StatusSeeOther || got.header.Get("Location") != "/ui/" {
		t.Errorf("/ answers %d to %q", got.status, got.header.Get("Location"))
	}
	if got := b.get("/ui/events?tool=x"); got.status != http.StatusSeeOther || got.header.Get("Location") != "/ui/signin?to=%2Fui%2Fevents%3Ftool%3Dx" {
		t.Errorf("without a session: %d to %q", got.status, got.header.Get("Location"))
	}
	page := b.get("/ui/signin")
	if got := page.header.Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'; script-src 'self'; style-src 'self'") || strings.Contains(got, "unsafe") {
		t.Errorf("CSP is %q", got)
	}
	if strings.Contains(page.body, " style=") || strings.Contains(page.body, "<script>") {
		t.Error("the page has inline style or script, which its CSP refuses")
	}
	if got := b.post("/ui/signin", url.Values{"key": {secret}, "csrf": {"x"}}); got.status != http.StatusForbidden {
		t.Errorf("a sign-in without the form's token answers %d", got.status)
	}
	if got := r.browser().post("/ui/signin", url.Values{"key": {secret}, "csrf": {b.token("/ui/signin")}}); got.status != http.StatusForbidden {
		t.Errorf("a sign-in with another browser's token answers %d", got.status)
	}
	for _, to := range []string{"https://evil.example/", "//evil.example/", "/\\evil.example", "/ui/../x", "javascript:alert(1)"} {
		got := r.browser()
		back := got.post("/ui/signin", url.Values{"key": {secret}, "csrf": {got.token("/ui/signin")}, "to": {to}})
		if where := back.header.Get("Location"); !strings.HasPrefix(where, "/ui/") {
			t.Errorf("to=%q leads to %q", to, where)
		}
	}
	got := b.post("/ui/signin", url.Values{"key": {secret}, "csrf": {b.token("/ui/signin")}, "to": {"/ui/events?tool=x"}})
	if got.status != http.StatusSeeOther || got.header.Get("Location") != "/ui/events?tool=x" {
		t.Fatalf("sign-in answers %d to %q", got.status, got.header.Get("Location"))
	}
	cookie := got.header.Values("Set-Cookie")[0]
	for _, want := range []string{"HttpOnly", "SameSite=Strict", "Path=/ui/"} {
		if !strings.Contains(cookie, want) {
			t.Errorf("the cookie %q lacks %s", cookie, want)
		}
	}
	if strings.Contains(cookie, secret) || strings.Contains(cookie, "Secure") {
		t.Errorf("the cookie is %q", cookie)
	}
	if got := b.get("/ui/events"); got.status != http.StatusOK || strings.Contains(got.body, secret) || !strings.Contains(got.body, "Waiting for the first call") || !strings.Contains(got.body, "http://127.0.0.1:8080") {
		t.Errorf("the events page answers %d: %s", got.status, got.body)
	}
	// A revoked key ends at once, and so does its session.
	if _, err := r.gate.RevokeKey(context.Background(), gate.Identity{TenantID: "acme", Role: gate.RoleAdmin, KeyID: "key_root"}, id); err != nil {
		t.Fatal(err)
	}
	if got := b.get("/ui/events"); got.status != http.StatusSeeOther {
		t.Errorf("a revoked key's session answers %d", got.status)
	}
	if got := b.get("/ui/events", fragmentHeader, "1"); got.status != http.StatusUnauthorized {
		t.Errorf("a revoked key's script answers %d", got.status)
	}
}

func TestSecureCookieBehindTLS(t *testing.T) {
	r := newRig(t)
	got := r.browser().get("/ui/signin", "X-Forwarded-Proto", "https")
	if c := got.header.Get("Set-Cookie"); !strings.Contains(c, "Secure") {
		t.Errorf("the cookie is %q", c)
	}
}

func TestSignInIsLimited(t *testing.T) {
	now := time.Now()
	r := newRig(t, func(o *Options) { o.Now = func() time.Time { return now } })
	_, secret := r.key("acme", gate.RoleAdmin)
	b := r.browser()
	token := b.token("/ui/signin")
	for i := range attemptsPerWindow + 3 {
		want := http.StatusUnauthorized
		if i >= attemptsPerWindow {
			want = http.StatusTooManyRequests
		}
		if got := b.post("/ui/signin", url.Values{"csrf": {token}, "key": {"sk_live_wrong"}}); got.status != want {
			t.Fatalf("wrong key number %d answers %d, want %d", i+1, got.status, want)
		}
	}
	r.signedIn(secret) // others behind the address are not locked out
	now = now.Add(attemptWindow)
	if got := b.post("/ui/signin", url.Values{"csrf": {token}, "key": {"sk_live_wrong"}}); got.status != http.StatusUnauthorized {
		t.Errorf("a window later: %d", got.status)
	}
}

func TestSessionEnds(t *testing.T) {
	now := time.Now()
	r := newRig(t, func(o *Options) { o.Now = func() time.Time { return now } })
	_, secret := r.key("acme", gate.RoleAdmin)
	b := r.signedIn(secret)
	for range 5 { // used, it lives up to its end
		now = now.Add(sessionIdle - time.Minute)
		if got := b.get("/ui/events"); got.status != http.StatusOK {
			t.Fatalf("a session in use answers %d", got.status)
		}
	}
	b = r.signedIn(secret)
	now = now.Add(sessionIdle / 2)
	b.get("/ui/events", fragmentHeader, "1") // a page that looks by itself is no use
	now = now.Add(sessionIdle / 2)
	if got := b.get("/ui/events"); got.status != http.StatusSeeOther {
		t.Errorf("an idle session answers %d", got.status)
	}
	b = r.signedIn(secret)
	for range 7 {
		now = now.Add(sessionLife / 7)
		b.get("/ui/events")
	}
	now = now.Add(time.Second)
	if got := b.get("/ui/events"); got.status != http.StatusSeeOther {
		t.Errorf("a session past its life answers %d", got.status)
	}
	b = r.signedIn(secret)
	if got := b.post("/ui/signout", url.Values{"csrf": {b.token("/ui/events")}}); got.status != http.StatusSeeOther {
		t.Errorf("sign-out answers %d", got.status)
	}
	if got := b.get("/ui/events"); got.status != http.StatusSeeOther {
		t.Errorf("after sign-out: %d", got.status)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	s, now := newSessions(), time.Now()
	for range maxSessions + 5 {
		now = now.Add(time.Millisecond)
		s.add("sk", now)
	}
	if len(s.m) != maxSessions {
		t.Errorf("%d sessions", len(s.m))
	}
}

func TestHostAndOrigin(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Hosts = func() []string { return []string{"actpass.example"} } })
	_, secret := r.key("acme", gate.RoleAdmin)
	b := r.signedIn(secret)
	for host, ok := range map[string]bool{
		"localhost:8090": true, "127.0.0.1:8090": true, "[::1]:8090": true, "x.localhost": true, "10.0.0.7:8090": true, "ActPass.example:443": true, "localhost.": true,
		"evil.example": false, "127.0.0.1.evil.example": false, "localhost.evil.example": false, "": false, "notlocalhost": false,
	} {
		if got := r.dash.hostAllowed(host); got != ok {
			t.Errorf("host %q is allowed: %v", host, got)
		}
	}
	req, _ := http.NewRequest(http.MethodGet, r.url+"/ui/signin", nil)
	req.Host = "evil.example"
	if got := b.do(req); got.status != http.StatusMisdirectedRequest {
		t.Errorf("another host answers %d", got.status)
	}
	form := url.Values{"csrf": {b.token("/ui/events")}}
	for _, h := range [][]string{{"Origin", "https://evil.example"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "http://127.0.0.1:1"}} {
		if got := b.post("/ui/signout", form, h...); got.status != http.StatusForbidden {
			t.Errorf("a form with %v answers %d", h, got.status)
		}
	}
	if got := b.post("/ui/signout", form, "Origin", r.url); got.status != http.StatusSeeOther {
		t.Errorf("our own form answers %d", got.status)
	}
}

func TestEveryFormNeedsItsToken(t *testing.T) {
	r := newRig(t)
	_, agent := r.key("acme", gate.RoleGateway)
	event, approval := r.ask(agent, refund(9000))
	_, secret := r.key("acme", gate.RoleAdmin)
	b, other := r.signedIn(secret), r.signedIn(secret)
	forms := 0
	for _, rt := range r.dash.table() {
		if rt.method != http.MethodPost {
			continue
		}
		forms++
		kind := "events"
		id := event
		if strings.Contains(rt.pattern, "approvals") {
			kind, id = "approvals", approval
		}
		path := strings.Replace(rt.pattern, "{id}", id, 1)
		for what, form := range map[string]url.Values{"no": {}, "a wrong": {"csrf": {"x"}}, "another session's": {"csrf": {other.token("/ui/" + kind)}}} {
			form.Set("decision", "approve")
			if got := b.post(path, form); got.status != http.StatusForbidden || !strings.Contains(got.body, "nothing was done") {
				t.Errorf("%s with %s token answers %d", rt.pattern, what, got.status)
			}
		}
	}
	if forms < 3 {
		t.Fatalf("only %d forms", forms)
	}
	if got := b.get("/ui/approvals/" + approval); !strings.Contains(got.body, ">pending<") {
		t.Error("a form without its token decided")
	}
}

func TestDecide(t *testing.T) {
	r := newRig(t)
	_, agent := r.key("acme", gate.RoleGateway)
	_, approval := r.ask(agent, refund(9000))
	_, leads := r.key("acme", gate.RoleApprover, "support-leads")
	_, sales := r.key("acme", gate.RoleApprover, "sales")
	first, second, wrong := r.signedIn(leads), r.signedIn(leads), r.signedIn(sales)
	path := "/ui/approvals/" + approval
	if got := wrong.post(path+"/decide", url.Values{"csrf": {wrong.token(path)}, "decision": {"approve"}, "reason": {"kept text"}}); got.status != http.StatusForbidden || !strings.Contains(got.body, "support-leads") || !strings.Contains(got.body, "kept text") {
		t.Errorf("the wrong group answers %d", got.status)
	}
	token := second.token(path)
	got := first.post(path+"/decide", url.Values{"csrf": {first.token(path)}, "decision": {"approve"}, "reason": {"customer is <right>"}})
	if got.status != http.StatusSeeOther || got.header.Get("Location") != path+"?done=approve" {
		t.Fatalf("approve answers %d: %s", got.status, got.body)
	}
	page := first.get(path + "?done=approve")
	for _, want := range []string{"Your approval is on record.", ">approved<", "customer is &lt;right&gt;"} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(page.body, `value="approve"`) {
		t.Error("a decided approval still has buttons")
	}
	if got := second.post(path+"/decide", url.Values{"csrf": {token}, "decision": {"deny"}}); got.status != http.StatusConflict || !strings.Contains(got.body, ">approved<") {
		t.Errorf("the second decision answers %d", got.status)
	}
	if list := second.get("/ui/approvals"); !strings.Contains(list.body, "Nothing waits for you") {
		t.Error("it still waits in the second person's list")
	}
	_, approval = r.ask(agent, refund(9001))
	path = "/ui/approvals/" + approval
	if got := first.post(path+"/decide", url.Values{"csrf": {first.token(path)}, "decision": {"escalate"}, "to": {"sales, finance"}}); got.status != http.StatusSeeOther {
		t.Errorf("escalate answers %d: %s", got.status, got.body)
	}
	if got := wrong.post(path+"/decide", url.Values{"csrf": {wrong.token(path)}, "decision": {"deny"}}); got.status != http.StatusSeeOther {
		t.Errorf("the new group answers %d", got.status)
	}
}

// TestAmountsAreExact: 2^53+1 is not a floating point number.
func TestAmountsAreExact(t *testing.T) {
	r := newRig(t)
	_, agent := r.key("acme", gate.RoleGateway)
	a := refund(9000)
	a.Args["metadata"] = map[string]any{"n": int64(9007199254740993)}
	event, approval := r.ask(agent, a)
	_, secret := r.key("acme", gate.RoleAdmin)
	b := r.signedIn(secret)
	for _, path := range []string{"/ui/events/" + event, "/ui/approvals/" + approval} {
		if got := b.get(path); !strings.Contains(got.body, "9007199254740993") {
			t.Errorf("%s does not show the number as it is", path)
		}
	}
}

func TestVerify(t *testing.T) {
	r := newRig(t)
	_, agent := r.key("acme", gate.RoleGateway)
	event, _ := r.ask(agent, refund(9000))
	_, secret := r.key("acme", gate.RoleAdmin)
	b := r.signedIn(secret)
	path := "/ui/events/" + event
	got := b.post(path+"/verify", url.Values{"csrf": {b.token(path)}, "whole": {"1"}})
	for _, want := range []string{"The event is in the log, unchanged", "The whole log is as it was written", r.log.PublicKey()[:20]} {
		if !strings.Contains(got.body, want) {
			t.Errorf("the proof lacks %q", want)
		}
	}
	// A leaf that is not the record's is no proof.
	pr := &proof{Index: 0, Leaf: strings.Repeat("A", 43) + "=", Key: r.log.PublicKey()}
	if err := r.dash.prove(t.Context(), "", pr); err == nil {
		t.Error("a wrong leaf was proved")
	}
}

func TestStream(t *testing.T) {
	r := newRig(t)
	_, agent := r.key("acme", gate.RoleGateway)
	id, secret := r.key("acme", gate.RoleAdmin)
	b := r.signedIn(secret)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	open := func() (*http.Response, *bufio.Scanner) {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/ui/stream", nil)
		resp, err := b.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp, bufio.NewScanner(resp.Body)
	}
	next := func(s *bufio.Scanner) string {
		for s.Scan() {
			if name, ok := strings.CutPrefix(s.Text(), "event: "); ok {
				return name
			}
		}
		return "end"
	}
	resp, s := open()
	defer resp.Body.Close()
	if got := next(s); got != "hello" {
		t.Fatalf("the stream begins with %q", got)
	}
	r.ask(agent, refund(100))
	if got := next(s); got != "changed" {
		t.Errorf("after a call: %q", got)
	}
	var more []*http.Response
	for range streamsPerKey - 1 {
		resp, _ := open()
		more = append(more, resp)
	}
	last, _ := open()
	if last.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one stream too many answers %d", last.StatusCode)
	}
	_ = last.Body.Close()
	for _, resp := range more {
		_ = resp.Body.Close()
	}
	if _, err := r.gate.RevokeKey(ctx, gate.Identity{TenantID: "acme", Role: gate.RoleAdmin, KeyID: "key_root"}, id); err != nil {
		t.Fatal(err)
	}
	if got := next(s); got != "signed-out" {
		t.Errorf("after the revocation: %q", got)
	}
	if got := next(s); got != "end" {
		t.Errorf("then: %q", got)
	}
}

func TestCloseEndsStreams(t *testing.T) {
	r := newRig(t)
	_, secret := r.key("acme", gate.RoleAdmin)
	b := r.signedIn(secret)
	resp, err := b.client.Get(r.url + "/ui/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	time.AfterFunc(50*time.Millisecond, r.dash.Close)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
		}
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("the stream is still open")
	}
}

// TestNothingThatAnAgentSendsActs puts markup, quotes, controls and direction
// marks into each field that an agent chooses, and looks at each page.
func TestNothingThatAnAgentSendsActs(t *testing.T) {
	r := newRig(t)
	_, agent := r.key("acme", gate.RoleGateway)
	_, secret := r.key("acme", gate.RoleAdmin)
	b := r.signedIn(secret)
	for i, evil := range []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' autofocus onfocus='alert(1)`, `</code></pre><h1>`, `javascript:alert(1)`, `{{.CSRF}}`, `</textarea><b>`, `<!--`, "a\u202eb\u2066c\u200bd\u0007e\u001bf\u2028g",
	} {
		a := refund(9000 + i)
		a.Resource, a.UserID, a.Goal = "stripe:charge:"+evil, evil, evil
		a.AgentID = strings.Map(func(r rune) rune { // the API takes nothing else as an agent's name
			if !unicode.IsPrint(r) {
				return -1
			}
			return r
		}, evil)
		a.Args["metadata"] = map[string]any{evil: evil}
		event, approval := r.ask(agent, a)
		for _, path := range []string{"/ui/overview", "/ui/policies", "/ui/events", "/ui/events/" + event, "/ui/approvals", "/ui/approvals/" + approval, "/ui/events?tool=" + url.QueryEscape(evil) + "&agent_id=" + url.QueryEscape(evil), "/ui/events?cursor=" + url.QueryEscape(evil), "/ui/events?since=" + url.QueryEscape(evil), "/ui/readiness", "/ui/readiness?tool=" + url.QueryEscape(evil) + "&mode=" + url.QueryEscape(evil), "/ui/modes/new?mode=enforce&tool=" + url.QueryEscape(evil) + "&agent_id=" + url.QueryEscape(evil)} {
			got := b.get(path)
			if got.status != http.StatusOK {
				t.Errorf("%s answers %d", path, got.status)
			}
			low := strings.ToLower(got.body)
			for _, bad := range []string{"<script>", "<img", "onfocus='", "</pre><h1>", "<b>&", "\u202e", "\u2066", "\u200b", "\u0007", "\u001b", "\u2028"} {
				if strings.Contains(low, bad) {
					t.Errorf("%s holds %q", path, bad)
				}
			}
			if strings.Contains(got.body, `href="javascript:`) {
				t.Errorf("%s links to a script", path)
			}
		}
	}
}

func TestClaim(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                           "plain",
		"a<b>&\"'":                        "a&lt;b&gt;&amp;&#34;&#39;",
		"x\u202ey":                        `x<span class="odd">U+202E</span>y`,
		"a\x00b":                          `a<span class="odd">U+0000</span>b`,
		"a\u200bb":                        `a<span class="odd">U+200B</span>b`,
		"a\xffb":                          `a<span class="odd">\xFF</span>b`,
		"a\u00a0b":                        `a<span class="odd">U+00A0</span>b`,
		"a\u3164b":                        `a<span class="odd">U+3164</span>b`,
		"a\U000E0041b":                    `a<span class="odd">U+E0041</span>b`,
		"a\nb":                            `a<span class="odd">\n</span><wbr>b`,
		"e\u0301 größe":                   "e\u0301 größe",
		"日本語 🙂":                           "日本語 🙂",
		"z" + strings.Repeat("\u0300", 5): "z" + strings.Repeat("\u0300", 3) + strings.Repeat(`<span class="odd">U+0300</span>`, 2),
	} {
		if got := string(claim(in)); got != `<bdi class="claim">`+want+`</bdi>` {
			t.Errorf("%q is shown as %s", in, got)
		}
	}
}

func TestExplainCommand(t *testing.T) {
	e, err := decode([]byte(`{"kind":"action","request":{"method":"POST","authority":"api.stripe.com","path":"/v1/re'funds\u202e","content_type":"application/x-www-form-urlencoded","bytes":9},"args":{"amount":75000,"metadata":{"a":"x'; rm -rf ~"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := `actpass explain POST 'https://api.stripe.com/v1/re%27funds%E2%80%AE' -d 'amount=75000&metadata%5Ba%5D=x%27%3B+rm+-rf+~'`
	if got := explainCommand(&e); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	// The record has no scheme; a port or the generic name may tell.
	for authority, resource := range map[string]string{"api.acme.test:80": "x", "api.acme.test": "http://api.acme.test/a"} {
		plain := e
		plain.Resource, plain.Request = resource, &evidence.Request{Method: "GET", Authority: authority, Path: "/a"}
		if got := explainCommand(&plain); got != "actpass explain GET http://"+authority+"/a" {
			t.Error(got)
		}
	}
	e.Request.ContentType = "application/json"
	want = `-d '{"amount":75000,"metadata":{"a":"x'\''; rm -rf ~"}}'`
	if got := explainCommand(&e); !strings.HasSuffix(got, want) {
		t.Errorf("%s\nwant it to end with\n%s", got, want)
	}
}

func TestPagingAndFilters(t *testing.T) {
	r := newRig(t)
	_, agent := r.key("acme", gate.RoleGateway)
	for i := range 60 {
		a := refund(100)
		a.Resource = fmt.Sprintf("stripe:charge:ch_%03d", i)
		r.ask(agent, a)
	}
	_, secret := r.key("acme", gate.RoleAdmin)
	b := r.signedIn(secret)
	page := b.get("/ui/events?tool=stripe.refund.*&last=1h")
	if !strings.Contains(page.body, "ch_059") || strings.Contains(page.body, "ch_009<") || !strings.Contains(page.body, `value="stripe.refund.*"`) {
		t.Error("the first page is not the newest fifty")
	}
	_, rest, ok := strings.Cut(page.body, `class="button" href="`)
	older, _, _ := strings.Cut(rest, `"`)
	if !ok || !strings.Contains(older, "cursor=") || !strings.Contains(older, "tool=stripe.refund") {
		t.Fatalf("older is %q", older)
	}
	page = b.get(strings.ReplaceAll(older, "&amp;", "&"))
	if !strings.Contains(page.body, "ch_009<") || strings.Contains(page.body, "data-stream") {
		t.Error("the second page is not the older ones, or is live")
	}
	if got := b.get("/ui/events?decision=deny"); !strings.Contains(got.body, "Nothing matches") {
		t.Error("a filter without a match says nothing")
	}
	if got := b.get("/ui/events?decision=nonsense"); got.status != http.StatusOK || !strings.Contains(got.body, "must be one of") {
		t.Error("a filter that is none is not named")
	}
}
