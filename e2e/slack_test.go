package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/actpass/sidecar/notify/slacktest"
)

// TestSlack: a held call, a button pressed in Slack, one request at the upstream,
// and a message that says so.
func TestSlack(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	u, s := newUpstream(t), slacktest.New()
	t.Cleanup(s.Close)
	u.handle(refunded)
	secrets := t.TempDir()
	must(t, os.WriteFile(filepath.Join(secrets, "token"), []byte(s.Token+"\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(secrets, "signing"), []byte(s.Secret), 0o600))
	sc, _ := withKey(t, settings{front: u, hold: "30s"}, func(key string) string {
		return "notify:\n  slack:\n    channel: " + s.Channel + "\n    bot_token_file: " + secrets + "/token\n    signing_secret_file: " + secrets + "/signing\n" +
			"    api_url: " + s.URL + "/api\n    actors: [{ slack_user: U0ALICE, key: " + key + " }]\n"
	}, "--name", "alice", "--role", "approver", "--group", "support-leads")
	interactions := "http://" + sc.api + "/api/v1/slack/interactions"
	call := sc.heldCurl(t, "ch_slack")
	eventually(t, "the message", func() bool { return len(s.Messages()) == 1 })
	m := s.Messages()[0]
	if shown := m.Shown(); !strings.Contains(shown, "Goal: give it <!channel> back") || !strings.Contains(shown, `"amount":12000`) || m.Find("actpass_approve") != sc.pending() {
		t.Errorf("%s", shown)
	}
	if status, err := s.Press(interactions, m, "U0MALLORY", "actpass_approve"); err != nil || status != 403 {
		t.Errorf("an unmapped user: %d %v", status, err)
	}
	forged := &slacktest.Server{Server: s.Server, Secret: "not the secret", Channel: s.Channel}
	if status, err := forged.Press(interactions, m, "U0ALICE", "actpass_approve"); err != nil || status != 401 {
		t.Errorf("a forged one: %d %v", status, err)
	}
	if n := len(u.requestsSeen()); n != 0 {
		t.Fatalf("%d requests went out", n)
	}
	if status, err := s.Press(interactions, m, "U0ALICE", "actpass_approve"); err != nil || status != 200 {
		t.Fatalf("%d %v", status, err)
	}
	if code := call.wait(t); code != 0 || !strings.HasSuffix(call.stdout.String(), "\n200") {
		t.Fatalf("curl: %d %s %s", code, &call.stdout, &call.stderr)
	}
	eventually(t, "the update", func() bool {
		m := s.Messages()[0]
		return strings.Contains(m.Shown(), "Approved and used") && m.Find("actpass_approve") == ""
	})
	if n := len(u.requestsSeen()); n != 1 || len(s.Messages()) != 1 {
		t.Errorf("%d requests reached the upstream, %d messages", n, len(s.Messages()))
	}
	if status, err := s.Press(interactions, m, "U0ALICE", "actpass_deny"); err != nil || status != 409 {
		t.Errorf("a button of an old copy of the message: %d %v", status, err)
	}
	if p := s.Problems(); len(p) != 0 {
		t.Errorf("Slack would not have it: %q", p)
	}
	for _, line := range sc.log() {
		if strings.Contains(line, s.Token) || strings.Contains(line, s.Secret) {
			t.Errorf("the log holds a secret: %s", line)
		}
	}
}
