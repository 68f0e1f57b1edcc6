package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/store"
)

var weekBegins = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

type weekBody []byte

func (b weekBody) Peek(int64) ([]byte, bool, error) { return b, true, nil }

// weekOfTraffic puts n calls of a week into an evidence log, through the gate, in
// monitor mode, by a set clock: agents on three providers, with mistakes that a
// person would believe. The same seed makes the same calls.
func weekOfTraffic(t testing.TB, dir string, policies []byte, begins time.Time, n int, seed uint64) {
	t.Helper()
	log, err := ledger.Open(filepath.Join(dir, "ledger"), ledger.Options{Async: true})
	must(t, err)
	defer func() { must(t, log.Close()) }()
	var packs []mapping.Source
	for _, name := range []string{"stripe", "github", "slack"} {
		p, err := mapping.Pack(name)
		must(t, err)
		packs = append(packs, p)
	}
	m, err := mapping.Compile(packs, mapping.Options{})
	must(t, err)
	p, err := policy.Compile([]policy.Source{{Name: "policy.yaml", Data: policies}}, policy.Options{})
	must(t, err)
	now := begins
	g, err := gate.New(gate.Options{Store: store.NewMemory(), Recorder: log, RedactKey: make([]byte, 32), Now: func() time.Time { return now }})
	must(t, err)
	g.Load(&gate.Rules{Mapping: m, Policy: p, Mode: gate.ModeMonitor, MaxInspect: 1 << 20, Hold: time.Nanosecond, MaxHolds: 10})
	r := rand.New(rand.NewPCG(seed, 7))
	for i := range n {
		now = begins.Add(time.Duration(i) * (7 * 24 * time.Hour / time.Duration(n)))
		agent, method, host, target, body := call(r, i)
		header := map[string][]string{}
		if body != "" {
			header["Content-Type"] = []string{"application/x-www-form-urlencoded"}
			if strings.HasPrefix(body, "{") {
				header["Content-Type"] = []string{"application/json"}
			}
		}
		permit, _ := g.Check(context.Background(), &gate.Request{
			Door: gate.DoorForward, Identity: gate.Identity{TenantID: "acme", AgentID: agent, Source: gate.SourceKey},
			Head: mapping.Request{Method: method, Scheme: "https", Authority: host, Host: host, Target: target, Header: header, ContentLength: int64(len(body))},
			Body: weekBody(body),
		})
		if permit == nil {
			t.Fatalf("monitor stopped %s %s%s", method, host, target)
		}
		permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200})
	}
}

// call is one of an agent's calls. One in a hundred or so is a mistake.
func call(r *rand.Rand, i int) (agent, method, host, target, body string) {
	switch kind := r.IntN(1000); {
	case kind < 400:
		form := url.Values{"charge": {fmt.Sprintf("ch_%d", i)}, "amount": {fmt.Sprint(100 * (1 + r.IntN(50)))}, "currency": {"usd"}}
		return "support_agent", "POST", "api.stripe.com", "/v1/refunds", form.Encode()
	case kind < 430: // the medium refunds of a sale
		form := url.Values{"charge": {fmt.Sprintf("ch_%d", i)}, "amount": {fmt.Sprint(100 * (80 + r.IntN(41)))}, "currency": {"usd"}}
		return "support_agent", "POST", "api.stripe.com", "/v1/refunds", form.Encode()
	case kind < 434: // dollars where cents were asked for
		form := url.Values{"charge": {fmt.Sprintf("ch_%d", i)}, "amount": {fmt.Sprint(10000 * (10 + r.IntN(50)))}, "currency": {"usd"}}
		return "support_agent", "POST", "api.stripe.com", "/v1/refunds", form.Encode()
	case kind < 700:
		return "triage_agent", "POST", "api.github.com", fmt.Sprintf("/repos/acme/shop/issues/%d/comments", 1+r.IntN(300)), `{"body":"looked at"}`
	case kind < 706: // a clean-up script that goes too far
		return "triage_agent", "DELETE", "api.github.com", "/repos/acme/shop", ""
	case kind < 990:
		return "report_agent", "POST", "slack.com", "/api/chat.postMessage", fmt.Sprintf(`{"channel":"C0REPORTS","text":"report %d"}`, i)
	default: // the wrong channel
		return "report_agent", "POST", "slack.com", "/api/chat.postMessage", `{"channel":"C0CUSTOMERS","text":"internal figures"}`
	}
}

var eventID = regexp.MustCompile(`ev_[0-9a-f-]{36}`)

// TestWeekReviewed takes a week from monitor to enforce by the review that stands
// in docs/review.md, and holds the document to what is printed.
func TestWeekReviewed(t *testing.T) {
	t.Parallel()
	need(t, "patch")
	n := 5000
	if os.Getenv("ACTPASS_LONG") != "" {
		n = 200_000
	}
	const doc = "../docs/review.md"
	dir := t.TempDir()
	policies := []byte(fenced(t, doc, "yaml", 0))
	must(t, os.WriteFile(filepath.Join(dir, "policy.yaml"), policies, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "config.yaml"), []byte("mapping:\n  packs: [stripe, github, slack]\npolicy:\n  files: [policy.yaml]\n"), 0o600))
	weekOfTraffic(t, filepath.Join(dir, "data"), policies, weekBegins, n, 1)
	actpass := func(stdin string, args ...string) string {
		cmd := exec.Command(binary, args...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), "TZ=UTC", "ACTPASS_API_KEY=", "ACTPASS_CONFIG=")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("actpass %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	period := []string{"--since", "2026-03-02", "--until", "2026-03-09"}
	const answers = "accept\naccept\naccept\nblocked\nblocked\nblocked\nblocked\nblocked\nblocked\n"
	got := eventID.ReplaceAllString(actpass(answers, append([]string{"review", "--out", "review.patch", "--fixtures", "fixtures/review.yaml"}, period...)...), "ev_...")
	cmd := exec.Command("patch", "-s", "-p1", "-i", "review.patch")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if out := actpass("", "test"); !strings.Contains(out, " 0 failed") {
		t.Errorf("%s", out)
	}
	if !strings.HasPrefix(got, fmt.Sprintf("%d actions from", n)) {
		t.Errorf("not all %d calls are reviewed:\n%s", n, got)
	}
	if n != 5000 {
		t.Logf("%s", got)
		return
	}
	text, err := os.ReadFile(doc)
	must(t, err)
	_, after, _ := strings.Cut(string(text), "<!-- transcript -->\n```\n")
	want, _, _ := strings.Cut(after, "```\n<!-- end -->")
	if want != got {
		t.Errorf("docs/review.md has another transcript; this is it:\n%s", got)
	}
}
