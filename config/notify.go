package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/actpass/sidecar/strictyaml"
)

// Notify says who is told of approvals, and who may answer from there.
type Notify struct {
	// MaxAttempts of one delivery before it counts as dead, default 12: about half
	// an hour.
	MaxAttempts int       `yaml:"max_attempts"`
	Webhooks    []Webhook `yaml:"webhooks"`
	Slack       Slack     `yaml:"slack"`
}

// Webhook is a receiver of events, which may answer by callbacks.
type Webhook struct {
	Name string `yaml:"name"` // a lower-case DNS label; callbacks come to /api/v1/callbacks/NAME
	URL  string `yaml:"url"`
	// SecretFile holds the secret of the signatures, SecretEnv names an environment
	// variable that does; one of them. At least 16 characters.
	SecretFile string         `yaml:"secret_file"`
	SecretEnv  string         `yaml:"secret_env"`
	Events     []string       `yaml:"events"` // none: all
	Actors     []WebhookActor `yaml:"actors"` // who may decide by callback; none: nobody
}

// WebhookActor speaks with a gateway key.
type WebhookActor struct {
	Actor string `yaml:"actor"` // as the callback names it
	Key   string `yaml:"key"`   // id of a key: key_...
}

// Slack is a conversation with a message for each approval. Its interactivity
// request URL is /api/v1/slack/interactions of the API.
type Slack struct {
	Channel           string       `yaml:"channel"`        // id of the conversation, C...; "" is off
	BotTokenFile      string       `yaml:"bot_token_file"` // holds xoxb-...; or BotTokenEnv names a variable
	BotTokenEnv       string       `yaml:"bot_token_env"`
	SigningSecretFile string       `yaml:"signing_secret_file"` // of the app; or SigningSecretEnv
	SigningSecretEnv  string       `yaml:"signing_secret_env"`
	APIURL            string       `yaml:"api_url"` // default https://slack.com/api
	Actors            []SlackActor `yaml:"actors"`  // whose buttons count; none: nobody's
}

// SlackActor speaks with a gateway key.
type SlackActor struct {
	SlackUser string `yaml:"slack_user"` // member id, U... or W...
	Key       string `yaml:"key"`        // id of a key: key_...
}

// NotifyEvents are the events that a channel can ask for.
var NotifyEvents = []string{"opened", "voted", "escalated", "decided", "expired", "consumed", "cancelled"}

var (
	keyID        = regexp.MustCompile(`^key_[A-Za-z0-9_-]{1,60}$`)
	slackUser    = regexp.MustCompile(`^[UW][A-Z0-9]{2,30}$`)
	slackChannel = regexp.MustCompile(`^[CGD][A-Z0-9]{2,30}$`)
	envName      = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

func (c *Config) validateNotify(at func(string) strictyaml.Pos, faults *strictyaml.Faults) {
	if n := c.Notify.MaxAttempts; n < 1 || n > 100 {
		faults.Addf(at("notify.max_attempts"), "`notify.max_attempts` must be between 1 and 100")
	}
	c.validateSlack(at, faults)
	names := map[string]bool{}
	for i, w := range c.Notify.Webhooks {
		p := "notify.webhooks[" + strconv.Itoa(i) + "]"
		switch {
		case !routeName.MatchString(w.Name):
			faults.Addf(at(p+".name"), "`%s.name` %q must be a lower-case DNS label, such as ops", p, w.Name)
		case w.Name == "slack":
			faults.Addf(at(p+".name"), "`%s.name` must not be slack, which `notify.slack` is called", p)
		case names[w.Name]:
			faults.Addf(at(p+".name"), "`%s.name` %q is used twice", p, w.Name)
		}
		names[w.Name] = true
		u, err := url.Parse(w.URL)
		switch {
		case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
			// Not shown: such an address often holds a token.
			faults.Addf(at(p+".url"), "`%s.url` must be a URL such as https://hooks.example.com/actpass", p)
		case u.User != nil || u.Fragment != "":
			faults.Addf(at(p+".url"), "`%s.url` must not have user or fragment", p)
		}
		validateSecret(at, faults, p, "secret", w.SecretFile, w.SecretEnv)
		for j, e := range w.Events {
			if !slices.Contains(NotifyEvents, e) {
				ep := p + ".events[" + strconv.Itoa(j) + "]"
				faults.Addf(at(ep), "`%s` must be one of %s, not %q%s", ep, strings.Join(NotifyEvents, ", "), e, did(e, NotifyEvents))
			}
		}
		actors := map[string]bool{}
		for j, a := range w.Actors {
			ap := p + ".actors[" + strconv.Itoa(j) + "]"
			if a.Actor == "" || len(a.Actor) > 200 {
				faults.Addf(at(ap+".actor"), "`%s.actor` must have 1 to 200 characters", ap)
			}
			if actors[a.Actor] {
				faults.Addf(at(ap+".actor"), "`%s.actor` %q is there twice", ap, a.Actor)
			}
			actors[a.Actor] = true
			validateKeyID(at, faults, ap+".key", a.Key)
		}
	}
}

// loopbackURL says that plain HTTP to u stays on this machine.
func loopbackURL(u *url.URL) bool {
	addr, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

func (c *Config) validateSlack(at func(string) strictyaml.Pos, faults *strictyaml.Faults) {
	s, p := c.Notify.Slack, "notify.slack"
	if s.Channel == "" {
		if s.BotTokenFile != "" || s.BotTokenEnv != "" || s.SigningSecretFile != "" || s.SigningSecretEnv != "" || len(s.Actors) > 0 {
			faults.Addf(at(p+".channel"), "`%s.channel` must name the conversation, such as C0123456789, or the rest of `%s` does nothing", p, p)
		}
		return
	}
	if !slackChannel.MatchString(s.Channel) {
		faults.Addf(at(p+".channel"), "`%s.channel` %q must be the id of a conversation, such as C0123456789: names change, and chat.update takes none", p, s.Channel)
	}
	validateSecret(at, faults, p, "bot_token", s.BotTokenFile, s.BotTokenEnv)
	validateSecret(at, faults, p, "signing_secret", s.SigningSecretFile, s.SigningSecretEnv)
	u, err := url.Parse(s.APIURL)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && (u.Scheme != "http" || !loopbackURL(u)) {
		faults.Addf(at(p+".api_url"), "`%s.api_url` %q must be a URL such as https://slack.com/api: the token goes there", p, s.APIURL)
	}
	users := map[string]bool{}
	for i, a := range s.Actors {
		ap := p + ".actors[" + strconv.Itoa(i) + "]"
		if !slackUser.MatchString(a.SlackUser) {
			faults.Addf(at(ap+".slack_user"), "`%s.slack_user` %q must be a member id, such as U0123456789: names can be changed by their owners", ap, a.SlackUser)
		}
		if users[a.SlackUser] {
			faults.Addf(at(ap+".slack_user"), "`%s.slack_user` %q is there twice", ap, a.SlackUser)
		}
		users[a.SlackUser] = true
		validateKeyID(at, faults, ap+".key", a.Key)
	}
}

func validateKeyID(at func(string) strictyaml.Pos, faults *strictyaml.Faults, path, id string) {
	if !keyID.MatchString(id) {
		// Not shown: it may be the key itself, by mistake.
		faults.Addf(at(path), "`%s` must be the id of a key, key_..., as `actpass keys list` shows it", path)
	}
}

// validateSecret checks that a secret is to come from exactly one place. Whether
// it is there is for CheckSecrets: other commands than serve read the settings
// too, in environments that must not hold it.
func validateSecret(at func(string) strictyaml.Pos, faults *strictyaml.Faults, path, name, file, env string) {
	p := path + "." + name
	switch {
	case file == "" && env == "":
		faults.Addf(at(path), "`%s_file`: a secret is needed: name a file that holds it, or an environment variable in `%s_env`", p, name)
	case file != "" && env != "":
		faults.Addf(at(p+"_env"), "`%s_env`: give a file or an environment variable, not both", p)
	case env != "" && !envName.MatchString(env):
		faults.Addf(at(p+"_env"), "`%s_env`: %q is not the name of an environment variable", p, env)
	}
}

// CheckSecrets reads the secrets that the settings name, and reports all that
// cannot be used, as strictyaml.Faults.
func (c *Config) CheckSecrets() error {
	var faults strictyaml.Faults
	check := func(path, file, env string) {
		if _, err := c.Secret(file, env); err != nil {
			path += map[bool]string{true: "_file", false: "_env"}[file != ""]
			faults.Addf(c.at(c.File, path), "`%s`: %v", path, err)
		}
	}
	for i, w := range c.Notify.Webhooks {
		check("notify.webhooks["+strconv.Itoa(i)+"].secret", w.SecretFile, w.SecretEnv)
	}
	if s := c.Notify.Slack; s.Channel != "" {
		check("notify.slack.bot_token", s.BotTokenFile, s.BotTokenEnv)
		check("notify.slack.signing_secret", s.SigningSecretFile, s.SigningSecretEnv)
	}
	return faults.Err()
}

// minSecret is the least length of a secret, in bytes.
const minSecret = 16

// Secret reads a secret from a file or an environment variable, whichever is
// named, without the line's end. Its errors do not hold it.
func (c *Config) Secret(file, env string) ([]byte, error) {
	raw := os.Getenv(env)
	if file != "" {
		b, err := os.ReadFile(c.Path(file))
		if err != nil {
			return nil, err
		}
		raw = string(b)
	} else if raw == "" {
		return nil, fmt.Errorf("the environment variable %s is not set", env)
	}
	raw = strings.TrimRight(raw, "\r\n")
	if len(raw) < minSecret {
		return nil, fmt.Errorf("the secret must have at least %d characters; `openssl rand -hex 32` makes one", minSecret)
	}
	return []byte(raw), nil
}

// secretFiles are the files of the channels' secrets, for the watcher.
func (n Notify) secretFiles() (out []string) {
	for _, w := range n.Webhooks {
		if w.SecretFile != "" {
			out = append(out, w.SecretFile)
		}
	}
	for _, f := range []string{n.Slack.BotTokenFile, n.Slack.SigningSecretFile} {
		if f != "" {
			out = append(out, f)
		}
	}
	return out
}
