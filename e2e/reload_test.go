package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
)

// configEvents are the config events on record, oldest first.
func (sc *sidecar) configEvents() (out []string) {
	sc.t.Helper()
	page, err := sc.client().Events(context.Background(), api.EventQuery{Kind: "config", Limit: 200})
	must(sc.t, err)
	for _, raw := range page.Data {
		var e struct {
			Message string
			Data    map[string]string
		}
		must(sc.t, json.Unmarshal(raw, &e))
		out = append([]string{e.Message + ": " + e.Data["faults"] + e.Data["mode"] + " after " + e.Data["because"]}, out...)
	}
	return out
}

// edit replaces text in the configuration or another file of the sidecar.
func (sc *sidecar) edit(t testing.TB, name, old, with string) {
	t.Helper()
	file := filepath.Join(sc.dir, name)
	text, err := os.ReadFile(file)
	must(t, err)
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s does not say %q", name, old)
	}
	must(t, os.WriteFile(file, []byte(strings.Replace(string(text), old, with, 1)), 0o644))
}

func TestReload(t *testing.T) {
	t.Parallel()
	needStripeMock(t)
	u := newUpstream(t)
	sc := start(t, settings{mode: "monitor", front: u, hold: "200ms"})
	refundStatus := func(amount string) string {
		t.Helper()
		a := doors[1].send(t, sc, "POST", "api.stripe.com", "/v1/refunds", form, refund(amount), stripeAuth)
		return fmt.Sprint(a.status, " ", a.header.Get("ActPass-Reason"))
	}
	recorded := 0
	// reloaded waits for the config event of one reload.
	reloaded := func(want string) {
		t.Helper()
		var events []string
		eventually(t, "the reload is on record", func() bool { events = sc.configEvents(); return len(events) > recorded })
		if len(events) != recorded+1 || !strings.Contains(events[recorded], want) {
			t.Fatalf("config events %q, want one more that says %q", events[recorded:], want)
		}
		recorded++
		if status, body := sc.get(t, "/readyz"); status != 200 {
			t.Errorf("readyz after %s: %d %s", want, status, body)
		}
	}
	expectRefund := func(amount, want string) {
		t.Helper()
		if got := refundStatus(amount); got != want {
			t.Errorf("a refund of %s: %s, want %s", amount, got, want)
		}
	}
	expectRefund("75000", "200 refund.over_limit")

	// A changed file is enough.
	sc.edit(t, "config.yaml", "mode: monitor", "mode: enforce")
	reloaded("configuration reloaded: enforce after file change")
	expectRefund("75000", "403 refund.over_limit")
	expectRefund("4900", "200 refund.small_in_scope")

	sc.edit(t, "policies/refund_policy.yaml", "args.amount <= 5000 ", "args.amount <= 1000 ")
	reloaded("configuration reloaded")
	expectRefund("4900", "503 refund.medium_needs_approval")

	// A bad file changes nothing, and says so.
	sc.edit(t, "policies/refund_policy.yaml", "args.amount <= 1000 ", "args.amount <<= 90000 ")
	reloaded("refund_policy.yaml:")
	expectRefund("4901", "503 refund.medium_needs_approval")
	expectRefund("75000", "403 refund.over_limit")
	if !logged(sc, `"level":"error"`, "the last good configuration stays in force", "refund_policy.yaml:") {
		t.Errorf("no loud line in the log:\n%s", tail(sc.log(), 5))
	}
	if sc.metric(t, `actpass_faults_total{kind="reload"}`) != 1 {
		t.Error("the fault is not counted")
	}

	// All or nothing: the mode in the same reload as a bad policy stays too.
	sc.edit(t, "config.yaml", "mode: enforce", "mode: monitor")
	reloaded("refund_policy.yaml:")
	expectRefund("75001", "403 refund.over_limit")
	sc.edit(t, "policies/refund_policy.yaml", "args.amount <<= 90000 ", "args.amount <= 5000 ")
	reloaded("configuration reloaded: monitor")
	expectRefund("75002", "200 refund.over_limit")

	// SIGHUP reads again although nothing changed.
	must(t, sc.cmd.Process.Signal(syscall.SIGHUP))
	reloaded("configuration reloaded: monitor after SIGHUP")

	// What cannot change while it runs is refused, with what to do.
	sc.edit(t, "config.yaml", "api: 127.0.0.1:0", "api: 127.0.0.1:1")
	reloaded("`listen` cannot change while the sidecar runs: restart it, or put the old value back")
	expectRefund("75003", "200 refund.over_limit")
}

// logged says whether one log line holds all of parts.
func logged(sc *sidecar, parts ...string) bool {
	for _, line := range sc.log() {
		all := true
		for _, p := range parts {
			all = all && strings.Contains(line, p)
		}
		if all {
			return true
		}
	}
	return false
}

// TestConfigFaults: serve and check report everything that is wrong, at once, by
// file, line and column, and serve does not start.
func TestConfigFaults(t *testing.T) {
	t.Parallel()
	const policyHead = "policies:\n  - name: p\n    version: 1\n    tools: [\"stripe.refund.*\"]\n    rules:\n"
	place := regexp.MustCompile(`^\S+\.yaml:\d+:\d+: `)
	for _, c := range []struct {
		name   string
		config string
		policy string
		want   []string // of the fault lines, each with its place
	}{
		{"empty file", "", "", []string{"config.yaml:1:1: "}},
		{
			"unknown keys and values", "mode: enforced\nlisten: { prox: 127.0.0.1:0 }\nlimits: { hold: 50 }\n", "",
			[]string{"config.yaml:1:7: `mode` must be one of", "config.yaml:2:11: ", "config.yaml:3:17: "},
		},
		{"duplicate key", "mode: enforce\nmode: monitor\n", "", []string{"config.yaml:2:1: "}},
		{"bad glob", "mode: enforce\npolicy:\n  files: [\"./policies/[.yaml\"]\n", "", []string{"config.yaml:3:11: "}},
		{"glob without files", "policy: { files: [./nowhere/*.yaml] }\n", "", []string{"config.yaml:1:19: "}},
		{
			"CEL type error", "mapping: { packs: [stripe] }\npolicy: { files: [./policies/*.yaml] }\n",
			policyHead + "      - { name: a, when: args.amount + 1, decision: allow, reason_code: x.a }\n      - { name: b, when: \"amount > 5\", decision: allow, reason_code: x.b }\n",
			[]string{"policies/p.yaml:6:", "policies/p.yaml:7:"},
		},
		{
			"duplicate rule name", "mapping: { packs: [stripe] }\npolicy: { files: [./policies/*.yaml] }\n",
			policyHead + "      - { name: a, when: args.amount > 5, decision: deny, reason_code: x.a }\n      - { name: a, decision: deny, reason_code: x.b }\n",
			[]string{"policies/p.yaml:7:"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "config.yaml")
			must(t, os.WriteFile(file, []byte(c.config), 0o644))
			if c.policy != "" {
				must(t, os.MkdirAll(filepath.Join(dir, "policies"), 0o755))
				must(t, os.WriteFile(filepath.Join(dir, "policies", "p.yaml"), []byte(c.policy), 0o644))
			}
			outputs := map[string]string{}
			for _, command := range []string{"check", "serve"} {
				cmd := exec.Command(binary, command, "--config", file)
				out, err := cmd.CombinedOutput()
				if ee, ok := err.(*exec.ExitError); !ok || ee.ExitCode() != 1 {
					t.Fatalf("%s: %v, want exit code 1\n%s", command, err, out)
				}
				outputs[command] = string(out)
				var faults []string
				for line := range strings.Lines(string(out)) {
					if place.MatchString(line) {
						faults = append(faults, strings.TrimPrefix(strings.TrimSpace(line), dir+"/"))
					}
				}
				if len(faults) != len(c.want) {
					t.Errorf("%s: %d faults, want %d:\n%s", command, len(faults), len(c.want), out)
					continue
				}
				for i, want := range c.want {
					if !strings.HasPrefix(faults[i], want) {
						t.Errorf("%s: fault %q, want %q", command, faults[i], want)
					}
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
				t.Error("a sidecar that did not start left a data directory")
			}
		})
	}
}

// TestGracefulStop: a call that is under way ends in order, a held one is told
// to come back, and its approval outlives the process.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	entered, goOn := make(chan struct{}), make(chan struct{})
	u.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			fmt.Fprint(w, "the beginning, ")
			_ = http.NewResponseController(w).Flush()
			close(entered)
			<-goOn
			fmt.Fprint(w, "the end")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"object":"refund"}`)
	})
	sc := start(t, settings{front: u, hold: "30s"})
	ask := func(method, url, ct, body string, h http.Header) chan answerOr {
		client := sc.proxied(t, false)
		ch := make(chan answerOr, 1)
		go func() {
			a, err := trySend(client, method, url, ct, body, h)
			ch <- answerOr{a, err}
		}()
		return ch
	}
	key := http.Header{"Idempotency-Key": {"one"}}
	slow := ask(http.MethodGet, "https://echo.example.test/slow", "", "", nil)
	<-entered
	held := ask(http.MethodPost, "https://api.stripe.com/v1/refunds", form, refund("25000"), key)
	id := sc.pending()
	stopped := make(chan struct{})
	must(t, sc.cmd.Process.Signal(syscall.SIGTERM))
	began := time.Now()
	go func() { <-sc.done; close(stopped) }()

	r := <-held
	if r.err != nil || r.status != 503 || r.header.Get("ActPass-Approval") != id || r.header.Get("Stripe-Should-Retry") != "true" {
		t.Errorf("the held call: %v %d %v", r.err, r.status, r.header)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the held call was told after %v", took)
	}
	if _, err := trySend(&http.Client{Timeout: 2 * time.Second}, http.MethodGet, "http://"+sc.revers+"/echo/", "", "", nil); err == nil {
		t.Error("a stopping sidecar took a new connection")
	}
	select {
	case <-stopped:
		t.Fatal("the sidecar ended before its call did")
	case <-time.After(200 * time.Millisecond):
	}
	close(goOn)
	if r := <-slow; r.err != nil || string(r.body) != "the beginning, the end" {
		t.Errorf("the call under way: %v %q", r.err, r.body)
	}
	<-stopped
	if sc.exit != nil {
		t.Errorf("exit: %v", sc.exit)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the stop took %v", took)
	}

	sc.run()
	events := sc.events()
	if len(events) != 2 || events[0].Outcome.State != "forwarded" || events[0].Outcome.Status != 200 || events[1].Outcome.State != "held" {
		t.Fatalf("%+v", events)
	}
	if got := sc.pending(); got != id {
		t.Fatalf("approval %s stands, want %s", got, id)
	}
	sc.approve(id)
	seen := len(u.requestsSeen())
	a := <-ask(http.MethodPost, "https://api.stripe.com/v1/refunds", form, refund("25000"), key)
	if a.err != nil || a.status != 200 {
		t.Errorf("the retry: %v %d %s", a.err, a.status, a.body)
	}
	// A second retry gets no second refund.
	<-ask(http.MethodPost, "https://api.stripe.com/v1/refunds", form, refund("25000"), key)
	if got := len(u.requestsSeen()) - seen; got != 1 {
		t.Errorf("the upstream saw %d refunds", got)
	}
}
