package web

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/whatif"
)

// TestReviewPage goes a review by its links: each answer is an address, and
// nothing is kept.
func TestReviewPage(t *testing.T) {
	r := newRig(t)
	rules := *r.gate.Rules()
	rules.Mode = gate.ModeMonitor
	r.gate.Load(&rules)
	_, agent := r.key("acme", gate.RoleGateway)
	_, human := r.key("acme", gate.RoleApprover)
	_, rival := r.key("globex", gate.RoleAdmin)
	b, other := r.signedIn(human), r.signedIn(rival)
	if got := r.signedIn(agent).get("/ui/review"); got.status != http.StatusForbidden {
		t.Errorf("an agent's key gets %d", got.status)
	}
	if got := r.browser().get("/ui/review/patch"); got.status != http.StatusSeeOther {
		t.Errorf("nobody gets %d", got.status)
	}
	if got := b.get("/ui/review"); !strings.Contains(got.body, "Nothing to review yet") {
		t.Errorf("the empty state says nothing: %s", got.body)
	}
	const evil = "<script>alert(1)</script>"
	for _, amount := range []int{100, 9000, 9500, 750000} {
		a := refund(amount)
		a.Resource, a.Goal = "stripe:charge:"+evil, evil
		a.Args["<img src=x>"] = "a\u202eb"
		r.ask(agent, a)
	}
	visit := func(path string, texts ...string) string {
		t.Helper()
		got := b.get(path)
		if got.status != http.StatusOK {
			t.Fatalf("%s answers %d: %s", path, got.status, got.body)
		}
		for _, text := range texts {
			if !strings.Contains(got.body, text) {
				t.Errorf("%s: no %q", path, text)
			}
		}
		for _, bad := range []string{"<script>alert", "<img", "\u202e"} {
			if strings.Contains(got.body, bad) {
				t.Errorf("%s: %q stands there", path, bad)
			}
		}
		return got.body
	}
	// link is the nth address on a page whose last answer is word.
	link := func(body, word string, nth int) string {
		t.Helper()
		for _, m := range regexp.MustCompile(`href="(/ui/review\?[^"#]*)`).FindAllStringSubmatch(body, -1) {
			u, err := url.Parse(html.UnescapeString(m[1]))
			if err != nil {
				t.Fatal(err)
			}
			if a := u.Query()["a"]; len(a) > 0 && strings.HasPrefix(a[len(a)-1], word+".") {
				if nth--; nth < 0 {
					return u.String()
				}
			}
		}
		t.Fatalf("too few links say %s", word)
		return ""
	}
	body := visit("/ui/review?last=24h", "4 calls from", "2 would wait for a human", "1 would be blocked", "18,500 usd", "amount: 9000 to 9500", "U+202E", "medium_refund_needs_approval", "2 groups to answer", "/ui/events/ev_")
	if got := other.get("/ui/review"); !strings.Contains(got.body, "Nothing to review yet") {
		t.Errorf("another tenant sees %s", got.body)
	}
	if strings.Contains(body, "review.patch") {
		t.Error("there is a patch before anything is answered")
	}

	accepted := link(body, "accept", 0)
	body = visit(accepted, "The rule <code>accepted_", "goes above", "args.amount &gt;= 9000", "1 of 2 groups answered", "Download review.patch", "expect: { decision: allow", `name="a" value="accept.`, "last=24h")
	blocked := link(body, "blocked", 0)
	body = visit(blocked, "rightly stopped</span>", "Nothing is left to answer", "/ui/readiness?last=24h&amp;mode=enforce")
	if undo := link(body, "accept", 0); undo != accepted {
		t.Errorf("taking the last answer back leads to %s, not %s", undo, accepted)
	}
	u, _ := url.Parse(blocked)
	patch := b.get("/ui/review/patch?" + u.RawQuery)
	if patch.status != http.StatusOK || !strings.HasPrefix(patch.body, "--- a/refund_policy.yaml\n") || patch.header.Get("Content-Disposition") != `attachment; filename="review.patch"` || !strings.HasPrefix(patch.header.Get("Content-Type"), "text/x-patch") {
		t.Errorf("the patch answers %d %v: %s", patch.status, patch.header, patch.body)
	}
	if got := b.get("/ui/review/patch"); got.status != http.StatusNotFound {
		t.Errorf("no answers, and the patch answers %d", got.status)
	}
	visit(link(visit("/ui/review"), "ignore", 1), "ignored</span>", "1 group to answer")

	// What is in the address can be anything.
	for _, q := range []string{"a=accept.zz", "a=yes.0123456789abcdef", "a=", "mode=monitor", "last=-1h", "since=soon", "tool=" + url.QueryEscape(evil), "a=accept.0123456789abcdef"} {
		if got := b.get("/ui/review?" + q); got.status != http.StatusOK || strings.Contains(got.body, evil) {
			t.Errorf("%s answers %d", q, got.status)
		}
	}
	visit("/ui/review?a=accept.0123456789abcdef", "nothing on record is stopped like this any more")
}

func TestAnswersOf(t *testing.T) {
	q := url.Values{"a": {"accept.0123456789abcdef", "ignore.0123456789abcdef", "blocked.0123456789abcdeF", "no.0123456789abcde0", "ignore.0123456789abcde1", "accept"}}
	got := answersOf(q)
	if len(got) != 2 || got[0] != (whatif.Answer{Group: "0123456789abcdef", Answer: "accept"}) || got[1].Group != "0123456789abcde1" {
		t.Errorf("%v", got)
	}
}

// TestALongReviewIsJudgedMeanwhile: a page that waited long enough says so, the judging
// goes on without it, and its result is for who asked, and for once.
func TestALongReviewIsJudgedMeanwhile(t *testing.T) {
	r := newRig(t)
	_, agent := r.key("acme", gate.RoleGateway)
	a := refund(9000)
	a.Tool = slowTool
	r.ask(agent, a)
	_, secret := r.key("acme", gate.RoleApprover)
	_, other := r.key("acme", gate.RoleApprover)
	b, c := r.signedIn(secret), r.signedIn(other)
	const path = "/ui/review?tool=" + slowTool
	shows := func(who *browser, want bool) {
		t.Helper()
		got := who.get(path)
		if got.status != http.StatusOK || strings.Contains(got.body, "Judging the record again") != want || strings.Contains(got.body, "data-again") != want ||
			strings.Contains(got.body, "http-equiv") != want || strings.Contains(got.body, "would be blocked") == want {
			t.Errorf("judging %v: %d %s", want, got.status, got.body)
		}
	}
	began := time.Now()
	shows(b, true)
	shows(b, false)
	if took := time.Since(began); took > judgeWait+1500*time.Millisecond {
		t.Errorf("the second page had it judged anew: %s", took)
	}
	shows(c, true)
	r.dash.judgings.mu.Lock()
	n := len(r.dash.judgings.m)
	r.dash.judgings.mu.Unlock()
	if n != 1 {
		t.Errorf("%d reviews are under way or kept, want that of the second alone", n)
	}
	for i := range maxJudging {
		_, err := r.dash.judgings.begin(fmt.Sprint(i), time.Now(), func(*judging) { <-r.dash.closed })
		if (err == nil) != (i < maxJudging-1) {
			t.Errorf("review %d: %v", i, err)
		}
	}
}
