package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const hookSecret = "e2e-secret-0123456789abcdef"

// withKey writes a sidecar's directory with one key before it runs, because the
// channels of the configuration name the key. extra is given the key's id.
func withKey(t testing.TB, s settings, extra func(key string) string, keyArgs ...string) (sc *sidecar, keyID string) {
	t.Helper()
	sc = &sidecar{t: t, dir: t.TempDir()}
	sc.config = s.write(t, sc.dir)
	out, err := exec.Command(binary, append([]string{"keys", "create", "--config", sc.config, "--json"}, keyArgs...)...).Output()
	must(t, err)
	var k struct{ ID string }
	must(t, json.Unmarshal(out, &k))
	must(t, os.WriteFile(filepath.Join(sc.dir, "hook.secret"), []byte(hookSecret+"\n"), 0o600))
	s.extra += extra(k.ID)
	sc.config = s.write(t, sc.dir)
	sc.run()
	sc.admin = sc.key("--name", "admin", "--role", "admin")
	t.Cleanup(sc.stop)
	return sc, k.ID
}

// signHook signs as docs/approvals.md says, without the product's own code.
func signHook(at time.Time, body string) string {
	h := hmac.New(sha256.New, []byte(hookSecret))
	stamp := strconv.FormatInt(at.Unix(), 10)
	fmt.Fprintf(h, "%s.%s", stamp, body)
	return "t=" + stamp + ",v1=" + hex.EncodeToString(h.Sum(nil))
}

// hookCall is one delivery at a receiver.
type hookCall struct {
	id, event string
	approval  struct {
		ID    string
		State string
		Goal  string
		Args  map[string]any
	}
}

// hooks is a webhook receiver that checks signatures.
type hooks struct {
	*httptest.Server
	mu     sync.Mutex
	calls  []hookCall
	answer func(hookCall) int // status; nil: 204
}

func newHooks(t testing.TB) *hooks {
	h := &hooks{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		stamp, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("ActPass-Signature"), "t="), ",")
		at, _ := strconv.ParseInt(stamp, 10, 64)
		if age := time.Since(time.Unix(at, 0)).Abs(); err != nil || r.Header.Get("ActPass-Signature") != signHook(time.Unix(at, 0), string(body)) || age > time.Minute {
			t.Errorf("a delivery that is not signed: %v %s", r.Header, body)
		}
		var m struct {
			ID, Event string
			Approval  json.RawMessage
		}
		c := hookCall{id: r.Header.Get("ActPass-Delivery"), event: r.Header.Get("ActPass-Event")}
		if json.Unmarshal(body, &m) != nil || json.Unmarshal(m.Approval, &c.approval) != nil || m.ID != c.id || m.Event != c.event {
			t.Errorf("header and body differ: %+v %s", c, body)
		}
		h.mu.Lock()
		h.calls = append(h.calls, c)
		answer := h.answer
		h.mu.Unlock()
		status := 204
		if answer != nil {
			status = answer(c)
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hooks) say(f func(hookCall) int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = f
}

func (h *hooks) seen() []hookCall {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]hookCall(nil), h.calls...)
}

// callBack sends a signed callback and gives the status.
func (sc *sidecar) callBack(name, id, signature, body string) answer {
	sc.t.Helper()
	a, err := trySend(http.DefaultClient, http.MethodPost, "http://"+sc.api+"/api/v1/callbacks/"+name, "application/json", body,
		http.Header{"Actpass-Signature": {signature}, "Actpass-Delivery": {id}})
	must(sc.t, err)
	return a
}

// heldCurl starts a refund that needs a human, through the forward door.
func (sc *sidecar) heldCurl(t testing.TB, charge string) *began {
	return begin(t, nil, "curl", "-sS", "--proxy", "http://"+sc.proxy, "--cacert", filepath.Join(sc.dir, "data", "ca", "ca.pem"),
		"-w", "\n%{http_code}", "https://api.stripe.com/v1/refunds", "-H", "ActPass-Goal: give it <!channel> back", "-d", "charge="+charge, "-d", "currency=usd", "-d", "amount=12000")
}

// TestWebhookAndCallback: a held call, a receiver that approves by callback, one
// request at the upstream.
func TestWebhookAndCallback(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	u, h := newUpstream(t), newHooks(t)
	u.handle(refunded)
	sc, key := withKey(t, settings{front: u, hold: "30s"}, func(key string) string {
		return "notify:\n  webhooks:\n    - { name: ops, url: \"" + h.URL + "\", secret_file: ./hook.secret, actors: [{ actor: alice@example.com, key: " + key + " }] }\n"
	}, "--name", "alice", "--role", "approver", "--group", "support-leads")
	h.say(func(c hookCall) int {
		if c.event == "opened" {
			body := `{"approval_request_id":"` + c.approval.ID + `","decision":"approve","reason":"fine","actor":"alice@example.com"}`
			if a := sc.callBack("ops", "cb-"+c.id, signHook(time.Now(), body), body); a.status != 200 || !strings.Contains(string(a.body), `"state":"approved"`) {
				t.Errorf("the callback: %d %s", a.status, a.body)
			}
			// The same again, and one by somebody else, change nothing.
			if a := sc.callBack("ops", "cb-"+c.id, signHook(time.Now(), body), body); a.status != 409 || !strings.Contains(string(a.body), "callback.replayed") {
				t.Errorf("a replay: %d %s", a.status, a.body)
			}
			other := strings.Replace(body, "alice", "mallory", 1)
			if a := sc.callBack("ops", "cb2-"+c.id, signHook(time.Now(), other), other); a.status != 403 || !strings.Contains(string(a.body), "callback.unknown_actor") {
				t.Errorf("an unmapped actor: %d %s", a.status, a.body)
			}
			if a := sc.callBack("ops", "cb3-"+c.id, signHook(time.Now(), other), body); a.status != 401 || !strings.Contains(string(a.body), "callback.signature") {
				t.Errorf("a forged one: %d %s", a.status, a.body)
			}
			if a := sc.callBack("nobody", "cb4-"+c.id, signHook(time.Now(), body), body); a.status != 401 {
				t.Errorf("an unknown channel: %d %s", a.status, a.body)
			}
		}
		return 204
	})
	call := sc.heldCurl(t, "ch_hook")
	if code := call.wait(t); code != 0 || !strings.HasSuffix(call.stdout.String(), "\n200") {
		t.Fatalf("curl: %d %s %s", code, &call.stdout, &call.stderr)
	}
	if n := len(u.requestsSeen()); n != 1 {
		t.Errorf("%d requests reached the upstream", n)
	}
	eventually(t, "opened, decided and consumed are told", func() bool { return len(h.seen()) >= 3 })
	var told []string
	for _, c := range h.seen() {
		told = append(told, c.event)
		if c.approval.Args["amount"] == nil || c.approval.Goal != "give it <!channel> back" {
			t.Errorf("%+v", c)
		}
	}
	if got := strings.Join(told, " "); !strings.HasPrefix(got, "opened") || !strings.Contains(got, "decided") || !strings.Contains(got, "consumed") || len(told) != 3 {
		t.Errorf("told: %s", got)
	}
	page, err := sc.client().Approvals(context.Background(), "consumed", "", "", 5)
	must(t, err)
	if len(page.Data) != 1 || page.Data[0].Votes[0].KeyID != key || page.Data[0].Votes[0].Reason != "fine (alice@example.com by ops)" {
		t.Errorf("%+v", page.Data)
	}
	for _, line := range sc.log() {
		if strings.Contains(line, hookSecret) || strings.Contains(line, h.URL) {
			t.Errorf("the log holds the secret or the address: %s", line)
		}
	}
}

// TestWebhookOverKill: what the receiver did not take before a kill -9 it gets
// from the next process, under the same id; what it never takes is seen as dead
// and sent again from the command line.
func TestWebhookOverKill(t *testing.T) {
	t.Parallel()
	u, h := newUpstream(t), newHooks(t)
	h.say(func(hookCall) int { return 500 })
	config := func(attempts int) func(string) string {
		return func(string) string {
			return "notify:\n  max_attempts: " + strconv.Itoa(attempts) + "\n  webhooks:\n    - { name: ops, url: \"" + h.URL + "\", secret_file: ./hook.secret, events: [opened] }\n"
		}
	}
	s := settings{front: u, hold: "1s"}
	sc, _ := withKey(t, s, config(50), "--name", "x", "--role", "approver")
	ask := func(charge string) {
		a, err := trySend(http.DefaultClient, http.MethodPost, "http://"+sc.revers+"/stripe/v1/refunds", form, "charge="+charge+"&currency=usd&amount=12000", nil)
		must(t, err)
		if a.status != 503 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	ask("ch_kill")
	eventually(t, "an attempt", func() bool { return len(h.seen()) > 0 })
	sc.kill()
	before := len(h.seen())
	h.say(nil)
	sc.run()
	eventually(t, "the delivery", func() bool { return len(h.seen()) > before })
	calls := h.seen()
	if last := calls[len(calls)-1]; last.id != calls[0].id || last.id == "" || last.event != "opened" {
		t.Errorf("%+v", calls)
	}

	h.say(func(hookCall) int { return 500 })
	s.extra = config(1)("")
	s.write(t, sc.dir) // reloaded by itself
	eventually(t, "the reload", func() bool { return strings.Contains(strings.Join(sc.log(), "\n"), "configuration reloaded") })
	ask("ch_dead")
	var id string
	eventually(t, "a dead letter", func() bool {
		out, code := sc.cli("approvals", "deliveries", "--dead")
		id = strings.TrimSpace(out[max(strings.Index(out, "dlv_"), 0):])
		id, _, _ = strings.Cut(id, " ")
		return code == 0 && strings.HasPrefix(id, "dlv_") && strings.Contains(out, "the receiver answered 500")
	})
	h.say(nil)
	before = len(h.seen())
	if out, code := sc.cli("approvals", "deliveries", "retry", id); code != 0 || !strings.Contains(out, id+" is queued") {
		t.Fatalf("%d %s", code, out)
	}
	eventually(t, "the second delivery", func() bool { return len(h.seen()) > before })
	if calls := h.seen(); calls[len(calls)-1].id != id {
		t.Errorf("%+v", calls)
	}
	if out, code := sc.cli("approvals", "deliveries", "retry", id); code != 1 {
		t.Errorf("retry of what is not dead: %d %s", code, out)
	}
}

// TestWebhookStaysOut: a webhook reaches no address that an agent may not reach.
func TestWebhookStaysOut(t *testing.T) {
	t.Parallel()
	u, h := newUpstream(t), newHooks(t)
	// 127.0.0.0/8 is allowed in these tests, ::1 is not.
	_, port, _ := strings.Cut(strings.TrimPrefix(h.URL, "http://"), ":")
	sc, _ := withKey(t, settings{front: u, hold: "1s"}, func(string) string {
		return "notify:\n  max_attempts: 1\n  webhooks:\n    - { name: ops, url: \"http://[::1]:" + port + "/\", secret_file: ./hook.secret }\n    - { name: meta, url: \"http://169.254.169.254/\", secret_file: ./hook.secret }\n"
	}, "--name", "x", "--role", "approver")
	_, err := trySend(http.DefaultClient, http.MethodPost, "http://"+sc.revers+"/stripe/v1/refunds", form, "charge=ch_1&currency=usd&amount=12000", nil)
	must(t, err)
	eventually(t, "both are dead", func() bool {
		p, err := sc.client().Deliveries(context.Background(), "dead", "", 10)
		must(t, err)
		refused := 0
		for _, d := range p.Data {
			if strings.Contains(d.LastError, "is not a public address") {
				refused++
			}
		}
		return refused == 2
	})
}

// TestWebhookOverKills: kill -9 at random moments while approvals are opened and
// the receiver answers, fails and stalls: in the end each approval that exists was
// told, under one id.
func TestWebhookOverKills(t *testing.T) {
	t.Parallel()
	rounds := 3
	if os.Getenv("ACTPASS_LONG") != "" {
		rounds = 40
	}
	u, h := newUpstream(t), newHooks(t)
	h.say(func(hookCall) int {
		switch rand.IntN(4) {
		case 0:
			return 500
		case 1:
			time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
		}
		return 204
	})
	sc, _ := withKey(t, settings{front: u, hold: "100ms"}, func(string) string {
		return "notify:\n  max_attempts: 50\n  webhooks:\n    - { name: ops, url: \"" + h.URL + "\", secret_file: ./hook.secret, events: [opened] }\n"
	}, "--name", "x", "--role", "approver")
	for round := range rounds {
		stop := time.After(time.Duration(100+rand.IntN(900)) * time.Millisecond)
		revers := sc.revers
		for i := range 8 {
			go func() { // cut off by the kill, or told to come back
				_, _ = trySend(http.DefaultClient, http.MethodPost, "http://"+revers+"/stripe/v1/refunds", form, fmt.Sprintf("charge=ch_%d_%d&currency=usd&amount=12000", round, i), nil)
			}()
		}
		<-stop
		sc.kill()
		sc.run()
	}
	h.say(nil)
	eventually(t, "an empty queue", func() bool {
		p, err := sc.client().Deliveries(context.Background(), "queued", "", 1)
		must(t, err)
		return len(p.Data) == 0
	})
	page, err := sc.client().Approvals(context.Background(), "", "", "", 200)
	must(t, err)
	told := map[string]string{}
	for _, c := range h.seen() {
		if id, before := told[c.approval.ID]; before && id != c.id {
			t.Errorf("%s was told under %s and %s", c.approval.ID, id, c.id)
		}
		told[c.approval.ID] = c.id
	}
	for _, a := range page.Data {
		if told[a.ID] == "" {
			t.Errorf("%s was never told", a.ID)
		}
	}
	if len(page.Data) == 0 || len(told) != len(page.Data) {
		t.Errorf("%d approvals, %d told", len(page.Data), len(told))
	}
	t.Logf("%d kills, %d approvals, %d attempts", rounds, len(page.Data), len(h.seen()))
}
