package notify_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/notify"
	"github.com/actpass/sidecar/notify/slacktest"
)

// withSlack is a bench with a conversation of three people.
func withSlack(t *testing.T) (*bench, *slacktest.Server) {
	b, s := newBench(t), slacktest.New()
	t.Cleanup(s.Close)
	b.loadSlack(s)
	b.key("ann", gate.RoleApprover, "leads")
	b.key("bob", gate.RoleApprover, "leads")
	b.key("eve", gate.RoleApprover, "others")
	return b, s
}

func (b *bench) loadSlack(s *slacktest.Server) {
	b.t.Helper()
	b.must(b.n.Load(b.t.Context(), notify.Settings{Tenant: "acme", MaxAttempts: 20, Slack: &notify.Slack{
		BotToken: []byte(s.Token), SigningSecret: []byte(s.Secret), Channel: s.Channel, APIURL: s.URL + "/api",
		Actors: map[string]string{"UANN": "key_ann", "UBOB": "key_bob", "UEVE": "key_eve"},
	}}))
}

// press sends a genuine interaction.
func (b *bench) press(s *slacktest.Server, m slacktest.Message, user, action string) error {
	body := s.Payload(m, user, action)
	return b.n.Interaction(b.t.Context(), s.Sign(body, time.Now()), []byte(body))
}

// TestSlackLife: asked, half approved, approved, used; one message, kept up to
// date, whose buttons go when there is nothing to decide.
func TestSlackLife(t *testing.T) {
	b, s := withSlack(t)
	a := b.ask(func(a *gate.Approval) { a.Required = 2 })
	shows := func(what string) {
		t.Helper()
		until(t, what, func() bool { return len(s.Messages()) == 1 && strings.Contains(s.Messages()[0].Shown(), what) })
	}
	shows("Approval needed (high risk)")
	m := s.Messages()[0]
	if m.Find("actpass_approve") != a.ID || m.Find("actpass_deny") != a.ID || !strings.Contains(m.Shown(), "stripe.refund.create") || !strings.Contains(m.Shown(), `{"amount":12000}`) {
		t.Errorf("%s", m.Shown())
	}
	b.must(b.press(s, m, "UANN", "actpass_approve"))
	shows("Approvals: 1 of 2")
	b.must(b.press(s, m, "UBOB", "actpass_approve"))
	shows("Approved, not used yet")
	if m := s.Messages()[0]; m.Find("actpass_approve") != "" || m.Find("actpass_deny") != "" || !strings.Contains(m.Shown(), "bob: approve (UBOB by slack)") {
		t.Errorf("%s", m.Shown())
	}
	_, err := b.store.Consume(t.Context(), "acme", a.ID, "ev_1", time.Now())
	b.must(err)
	shows("Approved and used")
	two := b.ask(nil)
	until(t, "the second message", func() bool { return len(s.Messages()) == 2 })
	b.must(b.press(s, s.Messages()[1], "UANN", "actpass_deny"))
	until(t, "its denial", func() bool { return strings.Contains(s.Messages()[1].Shown(), "Denied") })
	if b.state(two.ID) != gate.ApprovalDenied {
		t.Error(b.state(two.ID))
	}
	if p := s.Problems(); len(p) != 0 {
		t.Errorf("Slack would not have it: %q", p)
	}
}

// TestSlackRefusals: who may not decide does not, is told, and is on record;
// forged, old and replayed interactions change nothing.
func TestSlackRefusals(t *testing.T) {
	b, s := withSlack(t)
	a := b.ask(func(a *gate.Approval) { a.Required = 3 })
	until(t, "the message", func() bool { return len(s.Messages()) == 1 })
	m := s.Messages()[0]
	if err := b.press(s, m, "UMALLORY", "actpass_approve"); !errors.Is(err, notify.ErrActor) {
		t.Errorf("an unmapped user: %v", err)
	}
	if err := b.press(s, m, "UEVE", "actpass_approve"); !errors.Is(err, gate.ErrNotAllowed) {
		t.Errorf("another group: %v", err)
	}
	if p := s.Private(); len(p) != 2 || !strings.HasPrefix(p[0], "UMALLORY: Nothing was decided") || !strings.HasPrefix(p[1], "UEVE: ") {
		t.Errorf("%q", p)
	}
	if notes := b.notes(); len(notes) != 2 || notes[0]["actor"] != "UMALLORY" || notes[0]["channel"] != "slack" {
		t.Errorf("%v", notes)
	}
	body := s.Payload(m, "UANN", "actpass_approve")
	good := s.Sign(body, time.Now())
	another := &slacktest.Server{Secret: "another secret"}
	send := func(h http.Header, body string) error { return b.n.Interaction(t.Context(), h, []byte(body)) }
	for name, c := range map[string]struct {
		h    http.Header
		body string
	}{
		"none":             {http.Header{}, body},
		"another secret":   {another.Sign(body, time.Now()), body},
		"altered":          {good, strings.Replace(body, "UANN", "UBOB", 1)},
		"old":              {s.Sign(body, time.Now().Add(-5*time.Minute-2*time.Second)), body},
		"early":            {s.Sign(body, time.Now().Add(5*time.Minute+2*time.Second)), body},
		"another time":     {http.Header{"X-Slack-Signature": good["X-Slack-Signature"], "X-Slack-Request-Timestamp": {"1767225600"}}, body},
		"another version":  {http.Header{"X-Slack-Signature": {strings.Replace(good.Get("X-Slack-Signature"), "v0=", "v1=", 1)}, "X-Slack-Request-Timestamp": good["X-Slack-Request-Timestamp"]}, body},
		"without version":  {http.Header{"X-Slack-Signature": {strings.TrimPrefix(good.Get("X-Slack-Signature"), "v0=")}, "X-Slack-Request-Timestamp": good["X-Slack-Request-Timestamp"]}, body},
		"several of them":  {http.Header{"X-Slack-Signature": {good.Get("X-Slack-Signature"), good.Get("X-Slack-Signature")}, "X-Slack-Request-Timestamp": good["X-Slack-Request-Timestamp"]}, body},
		"our other scheme": {headers(notify.Sign([]byte(s.Secret), time.Now(), []byte(body)), "x"), body},
	} {
		if err := send(c.h, c.body); !errors.Is(err, notify.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, body := range map[string]string{
		"no payload": "x=1", "two payloads": body + "&" + body, "not JSON": "payload=x", "another button": strings.Replace(body, "actpass_approve", "other", 2),
		"another kind": strings.Replace(body, "block_actions", "view_submission", 1), "another id": strings.Replace(body, a.ID, "key_1", 9),
	} {
		var field *gate.FieldError
		if err := send(s.Sign(body, time.Now()), body); !errors.As(err, &field) {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, err := b.store.GetApproval(t.Context(), "acme", a.ID)
	b.must(err)
	if len(got.Votes) != 0 || got.State != gate.ApprovalPending {
		t.Fatalf("%+v", got)
	}
	b.must(send(good, body))
	if err := send(good, body); !errors.Is(err, notify.ErrReplayed) {
		t.Errorf("a replay: %v", err)
	}
	if got, _ = b.store.GetApproval(t.Context(), "acme", a.ID); len(got.Votes) != 1 {
		t.Errorf("%+v", got.Votes)
	}
}

// TestSlackIsNotSpokenTo: whatever an agent writes is shown as text, under a line
// that says whose it is, within Slack's bounds.
func TestSlackIsNotSpokenTo(t *testing.T) {
	b, s := withSlack(t)
	evil := "<!channel> <@UANN> <https://evil.example|*Approved by the CFO*> &lt; ``` *x* \u202egnp.exe \x1b[2J\n\u2028*Supplied by the operator:*\x00\xff"
	n := 0
	for _, s := range []string{evil, strings.Repeat("<&>", 4000), strings.Repeat("é\u202e", 4000), strings.Repeat("&", 2994) + "<<<", strings.Repeat("x", 2990) + "&&&&&&", ""} {
		n++
		b.ask(func(a *gate.Approval) {
			a.Tool, a.AgentID, a.Resource, a.Goal, a.UserID, a.Summary = "t"+s, "a"+s, s, s, s, s
			a.Args = map[string]any{"note": s, s: 1, "card": "hmac:1a2b3c"}
			a.Request = &evidence.Request{Method: "POST", Authority: "api.example", Path: "/" + s}
			a.Policy, a.Rule, a.Approvers, a.Risk = s, s, []string{s}, "high"
		})
	}
	until(t, "all messages", func() bool { return len(s.Messages()) == n })
	if p := s.Problems(); len(p) != 0 {
		t.Errorf("Slack would not have it, or reads more than text: %q", p)
	}
	m := s.Messages()[0]
	shown := m.Shown()
	label := strings.Index(shown, "*Supplied by the agent, not verified:*")
	for _, part := range []string{"Goal: ", "Arguments: ", "Resource: ", "User: ", "Request: "} {
		if i := strings.Index(shown, "\n"+part); i < label || label < 0 {
			t.Errorf("%s stands above the label", part)
		}
	}
	if !strings.Contains(shown, `Goal: <!channel> <@UANN>`) || !strings.Contains(shown, `\u202egnp.exe \x1b[2J\n\u2028`) || !strings.Contains(shown, `\x00\xff`) {
		t.Errorf("%s", shown)
	}
	for _, block := range m.Blocks { // our own words alone are formatted
		for _, e := range block.Elements {
			if e.Type == "mrkdwn" && (strings.Contains(string(e.Text), "evil") || strings.Contains(string(e.Text), "channel")) {
				t.Errorf("the agent's words are formatted: %s", e.Text)
			}
		}
	}
}

// TestSlackDown: failures, a rate limit and a deleted message do no harm.
func TestSlackDown(t *testing.T) {
	b, s := withSlack(t)
	s.Fail(func(_ string, w http.ResponseWriter) bool {
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	b.ask(nil)
	b.ask(nil)
	until(t, "the rate limit", func() bool { return s.Calls() > 0 })
	time.Sleep(600 * time.Millisecond)
	if s.Calls() != 1 {
		t.Errorf("%d calls within a rate limit", s.Calls())
	}
	s.Fail(func(_ string, w http.ResponseWriter) bool {
		_, _ = w.Write([]byte(`{"ok":false,"error":"internal_error"}`))
		return true
	})
	b.skew.Add(int64(time.Minute))
	until(t, "more attempts", func() bool { return s.Calls() >= 3 })
	s.Fail(nil)
	b.skew.Add(int64(time.Hour))
	until(t, "both messages", func() bool { return len(s.Messages()) == 2 })
	list, _, err := b.n.Deliveries(t.Context(), notify.DeliveryQuery{TenantID: "acme"})
	b.must(err)
	if !strings.Contains(list[0].LastError+list[1].LastError, "internal_error") && list[0].State == notify.Queued {
		t.Errorf("%+v", list)
	}
	s.Delete()
	ann, err := b.gate.KeyIdentity(t.Context(), "key_ann")
	b.must(err)
	b.decide(ann, "apr_1", gate.Escalate, "leads")
	until(t, "a new message for what is still open", func() bool { return len(s.Messages()) == 1 })
	s.Delete()
	b.decide(ann, "apr_2", gate.DenyIt)
	until(t, "delivered", func() bool {
		list, _, err := b.n.Deliveries(t.Context(), notify.DeliveryQuery{TenantID: "acme", State: notify.Queued})
		b.must(err)
		return len(list) == 0
	})
	if len(s.Messages()) != 0 {
		t.Error("a message about what nobody can decide any more")
	}
}
