package config

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestExampleEqualsDefaults(t *testing.T) {
	data, err := os.ReadFile("../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Load(Source{Embedded: data})
	if err != nil {
		t.Fatal(err)
	}
	// The example is complete: every setting that has a text form stands in it.
	for _, key := range Keys() {
		if _, ok := c.places[key]; !ok {
			t.Errorf("config.example.yaml does not show `%s`", key)
		}
	}
	d := Default()
	if c.Mode != d.Mode || c.DataDir != d.DataDir || c.Listen != d.Listen || c.Limits != d.Limits || c.Evidence != d.Evidence ||
		c.Log != d.Log || c.Passport != d.Passport || c.Store != d.Store || c.Notify.MaxAttempts != d.Notify.MaxAttempts || c.Notify.Slack.APIURL != d.Notify.Slack.APIURL || c.Policy.Default != d.Policy.Default || c.Mapping.Unmapped != d.Mapping.Unmapped ||
		c.Upstream.ConnectTimeout != d.Upstream.ConnectTimeout || c.Upstream.ResponseTimeout != d.Upstream.ResponseTimeout {
		t.Errorf("the example says it shows the defaults, and does not:\n%+v\n%+v", c, d)
	}
}

func TestPrecedence(t *testing.T) {
	f := write(t, t.TempDir(), "config.yaml", "mode: warn\nlisten: {api: 127.0.0.1:1}\n")
	flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
	flags.String("mode", "", "")
	env := []string{"ACTPASS_MODE=enforce", "ACTPASS_LISTEN_API=127.0.0.1:2", "ACTPASS_LIMITS_HOLD=3s", "ACTPASS_UPSTREAM_ALLOW_PRIVATE=127.0.0.0/8, 10.0.0.1", "ACTPASS_SERVICE_HOST=10.0.0.1", "ACTPASS_UPSTREAM_CONNECT_TO=a.example:443:127.0.0.1:1,b.example:80:[::1]:2"}
	c, err := Load(Source{File: f, Environ: env, Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	if c.Mode != "enforce" || c.Listen.API != "127.0.0.1:2" || c.Listen.Proxy != "127.0.0.1:8080" || c.Limits.Hold.D() != 3*time.Second || len(c.Upstream.AllowPrivate) != 2 ||
		len(c.Upstream.ConnectTo) != 2 || c.Upstream.ConnectTo[1] != (ConnectTo{"b.example", 80, "[::1]:2"}) {
		t.Fatalf("%+v", c)
	}
	if err := flags.Set("mode", "strict"); err != nil {
		t.Fatal(err)
	}
	if c, err = Load(Source{File: f, Environ: env, Flags: flags}); err != nil || c.Mode != "strict" {
		t.Fatalf("%v %v", c, err)
	}
}

func TestFaults(t *testing.T) {
	tests := []struct {
		name, in string
		env      []string
		want     []string
	}{
		{"empty", "", nil, []string{"config.yaml:1:1: the file is empty"}},
		{"unknown key", "mdoe: enforce\n", nil, []string{"config.yaml:1:1: unknown key `mdoe`: did you mean `mode`?"}},
		{"two spellings", "mode: monitor\nMODE: enforce\n", nil, []string{"config.yaml:2:1: unknown key `MODE`"}},
		{"second document", "mode: monitor\n---\nmode: enforce\n", nil, []string{"second YAML document"}},
		{"mode", "mode: enforced\n", nil, []string{"config.yaml:1:7: `mode` must be one of monitor, warn, enforce, strict, not \"enforced\": did you mean `enforce`?"}},
		{"bare number", "limits: {hold: 30}\n", nil, []string{"config.yaml:1:16: `limits.hold`: \"30\" has no unit"}},
		{"size", "limits: {max_inspect_bytes: big}\n", nil, []string{"`limits.max_inspect_bytes`: \"big\" is not a size"}},
		{"same address", "listen: {proxy: 127.0.0.1:1, api: 127.0.0.1:1}\n", nil, []string{"are the same address"}},
		{"looser override", "mode: enforce\nmode_overrides: [{tool: x, mode: warn}]\n", nil, []string{"can only tighten"}},
		{
			"all at once", "mode: x\npolicy: {default: maybe}\nroutes: [{name: A, upstream: nope}]\n", nil,
			[]string{"`mode`", "`policy.default`", "`routes[0].name`", "`routes[0].upstream`"},
		},
		{"env", "mode: monitor\n", []string{"ACTPASS_LIMITS_HOLD=5"}, []string{"environment variable ACTPASS_LIMITS_HOLD: \"5\" has no unit"}},
		{"env value", "mode: monitor\n", []string{"ACTPASS_MODE=loud"}, []string{"environment variable ACTPASS_MODE: `mode` must be one of"}},
		{"env misspelt", "mode: monitor\n", []string{"ACTPASS_MOED=enforce"}, []string{"ACTPASS_MOED: is not a setting: did you mean `ACTPASS_MODE`?"}},
		{"cidr", "upstream: {allow_private: [10.0.0.0/99]}\n", nil, []string{"config.yaml:1:28: \"10.0.0.0/99\" is not a CIDR"}},
		{"issuer", "passport: {issuer: \"\"}\n", nil, []string{"config.yaml:1:20: `passport.issuer` must have 1 to 256"}},
		{"audience", "passport: {audience: \"a b\"}\n", nil, []string{"`passport.audience` must have 1 to 256"}},
		{"attempts", "notify: {max_attempts: 0}\n", nil, []string{"config.yaml:1:24: `notify.max_attempts` must be between 1 and 100"}},
		{
			"webhook", "notify:\n  webhooks:\n    - { name: Ops, url: ftp://x/t0ken, secret_file: none, events: [opend], actors: [{ actor: \"\", key: sk_live_x }] }\n    - { name: slack, url: \"https://x.example/\", secret_env: NOT-A-NAME }\n    - { name: b, url: \"https://x.example/\" }\n    - { name: c, url: \"https://x.example/\", secret_env: A, secret_file: b }\n", nil,
			[]string{
				"config.yaml:3:15: `notify.webhooks[0].name` \"Ops\"", "config.yaml:3:25: `notify.webhooks[0].url`",
				"config.yaml:3:68: `notify.webhooks[0].events[0]` must be one of opened, voted, escalated, decided, expired, consumed, cancelled, not \"opend\": did you mean `opened`?",
				"`notify.webhooks[0].actors[0].actor` must have", "`notify.webhooks[0].actors[0].key` must be the id of a key",
				"`notify.webhooks[1].name` must not be slack", "`notify.webhooks[1].secret_env`: \"NOT-A-NAME\" is not the name", "`notify.webhooks[3].secret_env`: give a file or", "`notify.webhooks[2].secret_file`: a secret is needed",
			},
		},
		{"slack without a channel", "notify: {slack: {bot_token_env: X}}\n", nil, []string{"`notify.slack.channel` must name the conversation"}},
		{
			"slack", "notify:\n  slack:\n    channel: \"#refunds\"\n    bot_token_env: NOT_SET_ANYWHERE\n    api_url: http://slack.example/api\n    actors: [{ slack_user: \"@alice\", key: k }, { slack_user: U012AB3CD, key: key_1 }, { slack_user: U012AB3CD, key: key_2 }]\n", nil,
			[]string{
				"config.yaml:3:14: `notify.slack.channel` \"#refunds\" must be the id",
				"`notify.slack.signing_secret_file`: a secret is needed", "config.yaml:5:14: `notify.slack.api_url`", "config.yaml:6:28: `notify.slack.actors[0].slack_user`",
				"`notify.slack.actors[0].key`", "`notify.slack.actors[2].slack_user` \"U012AB3CD\" is there twice",
			},
		},
		{"short keep", "store: {driver: postgres, dsn: x, evidence_keep: 1h}\n", nil, []string{"config.yaml:1:50: `store.evidence_keep` must be at least 1d, or 0"}},
		{"keep of no copy", "store: {evidence_keep: 30d}\n", nil, []string{"`store.evidence_keep` is about the copy of the evidence in a shared database"}},
		{"keep of a copy that is not made", "store: {driver: postgres, dsn: x, evidence: local, evidence_keep: 30d}\n", nil, []string{"`store.evidence_keep` is about the copy of the evidence in a shared database"}},
		{"pack", "mapping: {packs: [strip]}\n", nil, []string{"strip"}},
		{"connect_to", "upstream: {connect_to: [{host: a.b, port: 0, address: x}]}\n", nil, []string{"`upstream.connect_to[0].port`", "`upstream.connect_to[0].address`"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			f := write(t, dir, "config.yaml", tt.in)
			_, err := Load(Source{File: f, Environ: tt.env})
			if err == nil {
				t.Fatal("accepted")
			}
			for _, leak := range []string{"t0ken", "sk_live_x"} {
				if strings.Contains(err.Error(), leak) {
					t.Errorf("%q is shown in:\n%v", leak, err)
				}
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("missing %q in:\n%v", w, err)
				}
			}
		})
	}
}

func TestCompileReportsEveryFile(t *testing.T) {
	dir := t.TempDir()
	f := write(t, dir, "config.yaml", "mapping: {files: [m/*.yaml]}\npolicy: {files: [p/*.yaml, q/*.yaml]}\n")
	write(t, dir, "m/a.yaml", "rules: [{match: {host: a.b, path: /x}, tol: t}]\n")
	write(t, dir, "p/a.yaml", "policies:\n  - name: a\n    version: 1\n    tools: [\"*\"]\n    rules: [{name: r, when: 1 +, decision: allow, reason_code: a.b}]\n")
	c, err := Load(Source{File: f})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Compile(nil)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, w := range []string{"m/a.yaml:1:", "`rules[0].tol`", "p/a.yaml:5:", "q/*.yaml matches no file"} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("missing %q in:\n%v", w, err)
		}
	}
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	f := write(t, dir, "config.yaml", "mode: monitor\npolicy: {files: [p/*.yaml]}\n")
	write(t, dir, "p/a.yaml", "a: 1\n")
	c, err := Load(Source{File: f})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	changed := make(chan struct{}, 8)
	done := make(chan error, 1)
	go func() { done <- Watch(ctx, c.Watched, func() { changed <- struct{}{} }) }()
	time.Sleep(100 * time.Millisecond)
	expect := func(what string) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(5 * time.Second):
			t.Fatal("not noticed: " + what)
		}
	}
	write(t, dir, "config.yaml", "mode: enforce\npolicy: {files: [p/*.yaml]}\n")
	expect("a changed configuration")
	write(t, dir, "p/b.yaml", "a: 2\n")
	expect("a new policy file")
	if err := os.Rename(write(t, dir, "p/tmp", "a: 3\n"), filepath.Join(dir, "p/a.yaml")); err != nil {
		t.Fatal(err)
	}
	expect("a file that was replaced")
	write(t, dir, "p/a.yaml", "a: 3\n")
	select {
	case <-changed:
		t.Fatal("the same content is not a change")
	case <-time.After(2 * settle):
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestSecrets: whether secrets are there is not for the settings themselves, which
// other commands read too; what is wrong with them is told with its place.
func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "good", "0123456789abcdef\r\n")
	t.Setenv("SECRET_THAT_IS_SHORT", "hush")
	f := write(t, dir, "config.yaml", "notify:\n  webhooks:\n    - { name: a, url: https://x.example/, secret_file: good }\n    - { name: b, url: https://x.example/, secret_file: none }\n    - { name: c, url: https://x.example/, secret_env: SECRET_THAT_IS_SHORT }\n  slack: { channel: C012, bot_token_env: NOT_SET_ANYWHERE, signing_secret_file: good }\n")
	c, err := Load(Source{File: f})
	if err != nil {
		t.Fatal(err)
	}
	err = c.CheckSecrets()
	if err == nil || strings.Contains(err.Error(), "hush") || strings.Count(err.Error(), "\n") != 2 {
		t.Fatal(err)
	}
	for _, want := range []string{"config.yaml:4:56: `notify.webhooks[1].secret_file`: open ", "config.yaml:5:55: `notify.webhooks[2].secret_env`: the secret must have at least 16", "config.yaml:6:42: `notify.slack.bot_token_env`: the environment variable NOT_SET_ANYWHERE is not set"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%v", want, err)
		}
	}
	if s, err := c.Secret("good", ""); err != nil || string(s) != "0123456789abcdef" {
		t.Errorf("%q %v", s, err)
	}
	paths, _ := c.Watched()
	if !strings.Contains(strings.Join(paths, " "), filepath.Join(dir, "good")) {
		t.Errorf("a changed secret is not noticed: %v", paths)
	}
}
