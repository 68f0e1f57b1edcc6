package web

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/whatif"
)

// event is an event as the API gives it.
type event struct {
	evidence.Event
	Log struct {
		Index    uint64 `json:"index"`
		LeafHash string `json:"leaf_hash"`
		Origin   string `json:"origin"` // with Source, "" for the own log
		Source   string `json:"source"`
	} `json:"log"`
}

// decode reads an event with its numbers as they are on record.
func decode(raw json.RawMessage) (event, error) {
	var e event
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&e); err != nil {
		return e, fmt.Errorf("web: read an event: %w", err)
	}
	return e, nil
}

// filters are what the address of the events page selects by.
var filters = []string{"tool", "agent_id", "decision", "state", "kind", "reason_code", "since", "until", "last"}

type eventPage struct {
	Events    []event
	Filter    map[string]string
	Filtered  bool
	Older     string
	Newest    string // "" on the first page
	Addresses Addresses
	Spans     []span
}

type span struct{ Value, Name string }

var spans = []span{{"15m", "15 minutes"}, {"1h", "hour"}, {"24h", "24 hours"}, {"168h", "7 days"}}

func (d *Dashboard) eventList(w http.ResponseWriter, r *http.Request, v *visit) error {
	in := r.URL.Query()
	b := eventPage{Filter: map[string]string{}, Addresses: d.Addresses(), Spans: spans}
	f := api.EventQuery{Cursor: in.Get("cursor"), Limit: 50}
	for _, name := range filters {
		if text := strings.TrimSpace(strings.Map(seen, in.Get(name))); text != "" {
			b.Filter[name], b.Filtered = text, true
		}
	}
	f.Tool, f.Agent, f.Decision, f.State, f.Kind, f.Reason = b.Filter["tool"], b.Filter["agent_id"], b.Filter["decision"], b.Filter["state"], b.Filter["kind"], b.Filter["reason_code"]
	p := &page{Title: "Events", Nav: "events", Live: f.Cursor == ""}
	err := b.period(&f, d.Now())
	var list api.Page[json.RawMessage]
	if err == nil {
		list, err = v.api.Events(r.Context(), f)
	}
	if err != nil {
		if p.Problem, err = problemOf(err); err != nil {
			return err
		}
	}
	for _, raw := range list.Data {
		e, err := decode(raw)
		if err != nil {
			return err
		}
		b.Events = append(b.Events, e)
	}
	if list.Next != "" {
		b.Older = with(r.URL, "cursor", list.Next)
	}
	if f.Cursor != "" {
		b.Newest = with(r.URL, "cursor", "")
	}
	p.Body = b
	return d.show(w, r, v, "events", p)
}

// period reads since and until, or last (a duration).
func (b *eventPage) period(f *api.EventQuery, now time.Time) (err error) {
	for _, t := range []struct {
		name string
		to   *time.Time
	}{{"since", &f.Since}, {"until", &f.Until}} {
		if *t.to, err = api.When(b.Filter[t.name], now); err != nil {
			return &api.Error{Status: http.StatusBadRequest, Code: "invalid_request", Field: t.name, Message: err.Error()}
		}
	}
	if last, err := time.ParseDuration(b.Filter["last"]); err == nil && last > 0 && f.Since.IsZero() {
		f.Since = now.Add(-last)
	}
	return nil
}

type eventView struct {
	event
	Fields  []field
	More    bool
	Would   []stricter
	Source  *excerpt
	Fixture string
	Command string
	Raw     string
	Proof   *proof
}

type stricter struct{ Mode, Does string }

func (d *Dashboard) findEvent(r *http.Request, v *visit) (*eventView, error) {
	id := r.PathValue("id")
	if !strings.HasPrefix(id, "ev_") || len(id) > 64 {
		return nil, notFound("event")
	}
	raw, err := v.api.Event(r.Context(), id)
	if err != nil {
		return nil, err
	}
	e, err := decode(raw)
	if err != nil {
		return nil, err
	}
	b := &eventView{event: e}
	b.Fields, b.More = fields(e.Args)
	for _, mode := range []string{"warn", "enforce", "strict"} {
		if does, ok := e.Would[mode]; ok {
			b.Would = append(b.Would, stricter{mode, does})
		}
	}
	b.Source = d.source(e.Rule, e.PolicyHash)
	if e.Kind == evidence.KindAction {
		if exact, _, err := evidence.DecodeRecord(raw); err == nil && exact != nil {
			b.Fixture, _ = whatif.FixtureOf(exact)
		}
		b.Command = explainCommand(&e)
	}
	var indented bytes.Buffer
	if json.Indent(&indented, raw, "", "  ") == nil {
		b.Raw = ascii(indented.String())
	}
	return b, nil
}

func (d *Dashboard) eventDetail(w http.ResponseWriter, r *http.Request, v *visit) error {
	b, err := d.findEvent(r, v)
	if err != nil {
		return err
	}
	pending := b.Outcome != nil && (b.Outcome.State == evidence.StatePending || b.Outcome.State == evidence.StateHeld)
	return d.show(w, r, v, "event", &page{Title: "Event", Nav: "events", Body: b, Live: pending})
}

// proof is what a verification found.
type proof struct {
	OK         bool
	Problem    string
	Leaf       string
	Index      uint64
	Hashes     []string
	Checkpoint string
	Key        string
	Whole      *api.VerifyReport // of the whole log, when that was asked for
	Took       time.Duration
}

// eventVerify proves that the event is in the log as the signed checkpoint has
// it, from the bytes on disk, and for "whole" reads every record besides.
func (d *Dashboard) eventVerify(w http.ResponseWriter, r *http.Request, v *visit) error {
	b, err := d.findEvent(r, v)
	if err != nil {
		return err
	}
	started := time.Now()
	pr := &proof{Leaf: b.Log.LeafHash, Index: b.Log.Index}
	if err := d.prove(r.Context(), b.Log.Origin, pr); err != nil {
		pr.Problem = sentence(&api.Error{Message: err.Error()})
	}
	pr.OK = pr.Problem == ""
	if r.PostForm.Get("whole") != "" {
		report, err := v.api.Verify(r.Context())
		if err != nil {
			return err
		}
		pr.Whole = &report
	}
	pr.Took = time.Since(started)
	b.Proof = pr
	return d.show(w, r, v, "event", &page{Title: "Event", Nav: "events", Body: b})
}

func (d *Dashboard) prove(ctx context.Context, origin string, pr *proof) error {
	p, key, err := d.Evidence.Proof(ctx, origin, pr.Index)
	pr.Key = key
	if err != nil {
		return err
	}
	for _, h := range p.Hashes {
		pr.Hashes = append(pr.Hashes, base64.StdEncoding.EncodeToString(h[:]))
	}
	pr.Checkpoint = string(p.Checkpoint)
	verifier, err := note.NewVerifier(pr.Key)
	if err != nil {
		return err
	}
	sum, err := base64.StdEncoding.DecodeString(pr.Leaf)
	var leaf evidence.Hash
	if err != nil || len(sum) != len(leaf) {
		return fmt.Errorf("the event's leaf hash is not one")
	}
	copy(leaf[:], sum)
	return p.Check(leaf, verifier)
}

// excerpt is a rule as its file has it.
type excerpt struct {
	File  string
	Lines []sourceLine
}

type sourceLine struct {
	Number int
	Text   string
	Hit    bool
}

// source shows the lines of a rule, when the policy that decided is the one in
// force: another version of the file would show what did not decide.
func (d *Dashboard) source(pos *evidence.Position, hash string) *excerpt {
	rules := d.Gate.Rules()
	if pos == nil || rules == nil || rules.Policy == nil || rules.Policy.Hash() != hash {
		return nil
	}
	return excerptOf(rules, pos.File, pos.Line)
}

func excerptOf(rules *gate.Rules, file string, at int) *excerpt {
	text, from := rules.Policy.Source(file, at)
	if text == "" {
		return nil
	}
	x := &excerpt{File: file}
	for i, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		x.Lines = append(x.Lines, sourceLine{from + i, line, from+i == at})
	}
	return x
}

// explainCommand is the command that judges the recorded request again, "" where
// there was no request. What is not on record (the query, redacted values) is
// not in it.
func explainCommand(e *event) string {
	q := e.Request
	if q == nil || q.Method == "" || q.Method == http.MethodConnect || len(e.Flags) > 0 && slices.Contains(e.Flags, "request.ambiguous") {
		return ""
	}
	u := url.URL{Scheme: "https", Host: q.Authority, Path: q.Path}
	if strings.HasSuffix(q.Authority, ":80") || e.MappingRule == nil && strings.HasPrefix(e.Resource, "http://") {
		u.Scheme = "http" // which the record does not say of itself
	}
	cmd := "actpass explain " + shell(q.Method) + " " + shell(u.String())
	if len(e.Args) == 0 || q.Bytes == 0 {
		return cmd
	}
	if strings.HasPrefix(q.ContentType, "application/x-www-form-urlencoded") {
		form := url.Values{}
		list, _ := fields(e.Args)
		for _, f := range list {
			name, rest, nested := strings.Cut(f.Path, ".")
			if nested {
				name += "[" + strings.ReplaceAll(rest, ".", "][") + "]"
			}
			form.Set(name, value(f.Value))
		}
		return cmd + " -d " + shell(form.Encode())
	}
	return cmd + " -H 'Content-Type: application/json' -d " + shell(ascii(jsonText(e.Args)))
}

// ascii writes everything beyond ASCII in a JSON text as escapes.
func ascii(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r < 0x7f:
			b.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// shell quotes one word for a POSIX shell; what is no printable ASCII is left
// out, so that a pasted line holds no surprise.
func shell(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
