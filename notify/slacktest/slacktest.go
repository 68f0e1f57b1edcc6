// Package slacktest stands in for Slack in tests: the methods of the Web API that
// the notifier calls, with the checks that Slack makes of them, and buttons that
// can be pressed. What it checks is from Slack's reference, not from a call to it:
// https://docs.slack.dev/reference/methods and .../reference/block-kit.
package slacktest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Server is a workspace with one conversation.
type Server struct {
	*httptest.Server
	Token, Secret, Channel string

	mu       sync.Mutex
	messages []*Message
	private  []string // ephemeral messages, "USER: text"
	problems []string
	calls    int
	fail     func(method string, w http.ResponseWriter) bool
}

// Message is a message as it stands.
type Message struct {
	TS      string
	Text    string
	Blocks  []Block
	Updates int
}

// Block is a block of Block Kit, of the kinds that the notifier uses.
type Block struct {
	Type     string    `json:"type"`
	BlockID  string    `json:"block_id"`
	Text     *Text     `json:"text"`
	Fields   []Text    `json:"fields"`
	Elements []Element `json:"elements"`
}

// Text is a text object.
type Text struct {
	Type  string `json:"type"`
	Text  string `json:"text"`
	Emoji *bool  `json:"emoji"`
}

// Element is a button, or a text of a context block.
type Element struct {
	Type     string          `json:"type"`
	ActionID string          `json:"action_id"`
	Value    string          `json:"value"`
	Style    string          `json:"style"`
	Text     json.RawMessage `json:"text"`
}

// New starts one; close it with Close. Its API is at URL + "/api".
func New() *Server {
	s := &Server{Token: "xoxb-0123456789-abcdefghij", Secret: "8f742231b10e8888abcd99yyyzzz85a5", Channel: "C0123456789"}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	return s
}

// Fail lets f answer calls instead; it says whether it did. nil: no longer.
func (s *Server) Fail(f func(method string, w http.ResponseWriter) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// Messages are those that stand in the conversation, oldest first.
func (s *Server) Messages() (out []Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.messages {
		out = append(out, *m)
	}
	return out
}

// Delete removes all messages, as a person can.
func (s *Server) Delete() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages = nil
}

// Private are the messages that only one person sees, as "USER: text".
func (s *Server) Private() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.private...)
}

// Calls is how many calls arrived.
func (s *Server) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// Problems are what Slack would have refused, or shown as something else than
// text.
func (s *Server) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.problems...)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	method := strings.TrimPrefix(r.URL.Path, "/api/")
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.fail != nil && s.fail(method, w) {
		return
	}
	answer := map[string]any{"ok": true}
	if code := s.method(method, r, body, answer); code != "" {
		s.problems = append(s.problems, method+": "+code)
		code, _, _ = strings.Cut(code, ":")
		answer = map[string]any{"ok": false, "error": code}
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *Server) method(method string, r *http.Request, body []byte, answer map[string]any) (code string) {
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		return "invalid_post_type"
	}
	if r.Header.Get("Authorization") != "Bearer "+s.Token {
		return "invalid_auth"
	}
	var in struct {
		Channel     string          `json:"channel"`
		TS          string          `json:"ts"`
		User        string          `json:"user"`
		Text        string          `json:"text"`
		Blocks      json.RawMessage `json:"blocks"`
		Parse       string          `json:"parse"`
		LinkNames   bool            `json:"link_names"`
		Mrkdwn      *bool           `json:"mrkdwn"`
		UnfurlLinks *bool           `json:"unfurl_links"`
		UnfurlMedia *bool           `json:"unfurl_media"`
	}
	if err := strict(body, &in); err != nil {
		return "invalid_arguments: " + err.Error()
	}
	if in.Channel != s.Channel {
		return "channel_not_found"
	}
	if in.Text == "" || len(in.Text) > 4000 {
		return "no_text"
	}
	if p := formatted(in.Text); p != "" || in.LinkNames || in.Parse != "none" {
		s.problems = append(s.problems, "text is parsed: "+p)
	}
	if method == "chat.postEphemeral" {
		if in.User == "" {
			return "user_not_in_channel"
		}
		s.private = append(s.private, in.User+": "+in.Text)
		return ""
	}
	blocks, err := s.blocks(in.Blocks)
	if err != nil {
		return "invalid_blocks: " + err.Error()
	}
	answer["channel"] = s.Channel
	switch method {
	case "chat.postMessage":
		m := &Message{TS: fmt.Sprintf("1767225600.%06d", len(s.messages)+1), Text: in.Text, Blocks: blocks}
		s.messages = append(s.messages, m)
		answer["ts"] = m.TS
		return ""
	case "chat.update":
		for _, m := range s.messages {
			if m.TS == in.TS {
				m.Text, m.Blocks = in.Text, blocks
				m.Updates++
				answer["ts"] = m.TS
				return ""
			}
		}
		return "message_not_found"
	}
	return "unknown_method"
}

func strict(b []byte, v any) error {
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// blocks checks blocks as Slack does.
func (s *Server) blocks(raw json.RawMessage) ([]Block, error) {
	var list []Block
	if err := strict(raw, &list); err != nil {
		return nil, err
	}
	if len(list) == 0 || len(list) > 50 {
		return nil, fmt.Errorf("%d blocks", len(list))
	}
	ids := map[string]bool{}
	unique := func(id string) error {
		if len(id) > 255 || id != "" && ids[id] {
			return fmt.Errorf("the id %q is too long or there twice", id)
		}
		ids[id] = true
		return nil
	}
	for i, b := range list {
		err := unique(b.BlockID)
		switch {
		case err != nil:
		case b.Type == "header":
			err = s.text(b.Text, 150, "plain_text")
		case b.Type == "section" && b.Text != nil:
			err = s.text(b.Text, 3000, "plain_text", "mrkdwn")
		case b.Type == "section" && len(b.Fields) > 0 && len(b.Fields) <= 10:
			for j := range b.Fields {
				if err = s.text(&b.Fields[j], 2000, "plain_text", "mrkdwn"); err != nil {
					break
				}
			}
		case b.Type == "context" && len(b.Elements) > 0 && len(b.Elements) <= 10:
			for _, e := range b.Elements {
				var text string
				if err = json.Unmarshal(e.Text, &text); err == nil {
					err = s.text(&Text{Type: e.Type, Text: text}, 3000, "plain_text", "mrkdwn")
				}
			}
		case b.Type == "actions" && len(b.Elements) > 0 && len(b.Elements) <= 25:
			for _, e := range b.Elements {
				var text Text
				switch {
				case e.Type != "button" || e.ActionID == "" || len(e.Value) > 2000 || e.Style != "" && e.Style != "primary" && e.Style != "danger":
					err = fmt.Errorf("not a button: %+v", e)
				case strict(e.Text, &text) != nil:
					err = fmt.Errorf("the button has no text: %s", e.Text)
				default:
					if err = s.text(&text, 75, "plain_text"); err == nil {
						err = unique(e.ActionID)
					}
				}
			}
		default:
			err = fmt.Errorf("type %q, or the wrong number of members", b.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", i, err)
		}
	}
	return list, nil
}

func (s *Server) text(t *Text, most int, types ...string) error {
	if t == nil || t.Text == "" || len([]rune(t.Text)) > most {
		return fmt.Errorf("a text is missing, empty or longer than %d", most)
	}
	for _, kind := range types {
		if t.Type == kind {
			if p := formatted(t.Text); p != "" {
				s.problems = append(s.problems, "not only text: "+p)
			}
			return nil
		}
	}
	return fmt.Errorf("type %s here", t.Type)
}

// formatted is what in a text Slack would read as a mention, a link or a broken
// entity, or a terminal as a control character; "" for nothing.
func formatted(text string) string {
	for _, r := range text {
		if r < ' ' || r >= 0x7f && r <= 0x9f || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2060 && r <= 0x206f || r == 0xfeff {
			return fmt.Sprintf("%U in %q", r, text)
		}
	}
	rest := text
	for {
		i := strings.IndexAny(rest, "&<>")
		if i < 0 {
			return ""
		}
		rest = rest[i:]
		switch {
		case strings.HasPrefix(rest, "&amp;"), strings.HasPrefix(rest, "&lt;"), strings.HasPrefix(rest, "&gt;"):
			rest = rest[1:]
		default:
			return strconv.Quote(text)
		}
	}
}

// Find is the value of the button with an action id, "" when there is none.
func (m Message) Find(action string) string {
	for _, b := range m.Blocks {
		for _, e := range b.Elements {
			if e.ActionID == action {
				return e.Value
			}
		}
	}
	return ""
}

// Shown is all text of the message as a reader sees it, a line for each.
func (m Message) Shown() string {
	var lines []string
	for _, b := range m.Blocks {
		if b.Text != nil {
			lines = append(lines, b.Text.Text)
		}
		for _, f := range b.Fields {
			lines = append(lines, f.Text)
		}
		for _, e := range b.Elements {
			var text string
			if json.Unmarshal(e.Text, &text) == nil {
				lines = append(lines, text)
			}
		}
	}
	return strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&").Replace(strings.Join(lines, "\n"))
}

// Payload is the form that Slack sends when user presses a button of m.
func (s *Server) Payload(m Message, user, action string) string {
	p, err := json.Marshal(map[string]any{
		"type": "block_actions", "user": map[string]any{"id": user, "username": "somebody", "team_id": "T1"}, "api_app_id": "A1", "trigger_id": "1.2.x",
		"container": map[string]any{"type": "message", "message_ts": m.TS, "channel_id": s.Channel}, "channel": map[string]any{"id": s.Channel, "name": "refunds"},
		"message":      map[string]any{"ts": m.TS, "text": m.Text, "blocks": m.Blocks},
		"response_url": s.URL + "/response",
		"actions":      []any{map[string]any{"type": "button", "action_id": action, "block_id": "b", "value": m.Find(action), "action_ts": "1.0"}},
	})
	if err != nil {
		panic(err)
	}
	return url.Values{"payload": {string(p)}}.Encode()
}

// Sign gives the headers of a request of Slack.
func (s *Server) Sign(body string, at time.Time) http.Header {
	stamp := strconv.FormatInt(at.Unix(), 10)
	h := hmac.New(sha256.New, []byte(s.Secret))
	fmt.Fprintf(h, "v0:%s:%s", stamp, body)
	return http.Header{
		"Content-Type": {"application/x-www-form-urlencoded"}, "X-Slack-Request-Timestamp": {stamp},
		"X-Slack-Signature": {"v0=" + hex.EncodeToString(h.Sum(nil))},
	}
}

// Press presses a button: it sends the signed interaction to address, and fails,
// as Slack does, when there is no answer within three seconds.
func (s *Server) Press(address string, m Message, user, action string) (status int, err error) {
	body := s.Payload(m, user, action)
	req, err := http.NewRequest(http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header = s.Sign(body, time.Now())
	resp, err := (&http.Client{Timeout: 3 * time.Second}).Do(req)
	if err != nil {
		return 0, err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Body.Close()
}
