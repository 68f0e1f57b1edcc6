package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// maxEncodeDepth bounds the nesting of args: Redact cuts far earlier, so only a
// value that refers to itself gets here.
const maxEncodeDepth = 100

// MarshalText renders TimeLayout.
func (t Time) MarshalText() ([]byte, error) { return t.AppendText(nil) }

// AppendText appends TimeLayout to b.
func (t Time) AppendText(b []byte) ([]byte, error) { return appendTime(b, t.Time), nil }

// MarshalJSON renders TimeLayout. Without it the embedded time.Time's own
// method would be used, which drops trailing zeros, and times would no longer
// sort as text.
func (t Time) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, len(TimeLayout)+2)
	return append(appendTime(append(b, '"'), t.Time), '"'), nil
}

// Encode gives the canonical bytes of an event or an outcome record: the bytes
// that are hashed, stored and verified. Control characters (CR, LF, ESC,
// U+2028 ...) in any text are escaped, so one record is one line.
func (e *Event) Encode() ([]byte, error) {
	if e.Kind == "" || e.ID == "" {
		return nil, errors.New("evidence: encode an event: it needs a kind and an id")
	}
	if e.Kind == KindOutcome {
		return nil, errors.New("evidence: encode an event: an outcome is an OutcomeRecord")
	}
	w, _ := writers.Get().(*writer)
	defer w.release()
	w.open()
	w.decision(&e.Decision)
	w.str("id", e.ID)
	w.str("kind", e.Kind)
	w.time("time", e.Time)
	w.str("tenant_id", e.TenantID)
	w.str("agent_id", e.AgentID)
	w.optional("user_id", e.UserID)
	w.optional("goal", e.Goal)
	w.optional("identity_source", e.IdentitySource)
	w.optional("key_id", e.KeyID)
	w.optional("door", e.Door)
	if r := e.Request; r != nil {
		w.key("request")
		w.open()
		w.str("method", r.Method)
		w.str("authority", r.Authority)
		w.str("path", r.Path)
		w.optional("content_type", r.ContentType)
		w.optional("body_sha256", r.BodySHA256)
		w.int("bytes", r.Bytes)
		w.close()
	}
	if len(e.Args) > 0 {
		w.key("args")
		if err := w.object(e.Args, 0); err != nil {
			return nil, fmt.Errorf("evidence: encode the args of %s: %w", e.ID, err)
		}
	}
	if len(e.Unusable) > 0 {
		w.stringMap("unusable", e.Unusable)
	}
	w.position("rule", e.Rule)
	w.position("mapping_rule", e.MappingRule)
	if len(e.Flags) > 0 {
		w.strings("flags", e.Flags)
	}
	if len(e.Notes) > 0 {
		w.strings("notes", e.Notes)
	}
	if e.Outcome != nil {
		w.outcome(e.Outcome)
	}
	if a := e.Approval; a != nil {
		w.key("approval")
		w.open()
		w.str("id", a.ID)
		w.str("state", a.State)
		w.optional("from", a.From)
		w.optional("actor", a.Actor)
		w.optional("reason", a.Reason)
		w.optional("event_id", a.EventRef)
		w.close()
	}
	w.optional("passport_jti", e.PassportJTI)
	if g := e.Grant; g != nil {
		w.key("grant")
		w.open()
		w.str("id", g.ID)
		w.int("use", g.Use)
		w.int("of", g.Of)
		if g.Amount != 0 {
			w.int("amount", g.Amount)
		}
		w.close()
	}
	w.optional("message", e.Message)
	if len(e.Data) > 0 {
		w.stringMap("data", e.Data)
	}
	w.close()
	return bytes.Clone(w.b), nil
}

// Encode is as for Event.
func (o *OutcomeRecord) Encode() ([]byte, error) {
	if o.EventID == "" {
		return nil, errors.New("evidence: encode an outcome: it needs the id of its event")
	}
	if o.Kind != "" && o.Kind != KindOutcome {
		return nil, fmt.Errorf("evidence: encode an outcome: its kind is %q", o.Kind)
	}
	w, _ := writers.Get().(*writer)
	defer w.release()
	w.open()
	w.str("kind", KindOutcome)
	w.str("event_id", o.EventID)
	w.time("time", o.Time)
	w.outcome(&o.Outcome)
	w.close()
	return bytes.Clone(w.b), nil
}

// writer appends canonical JSON.
type writer struct{ b []byte }

// writers keeps their buffers, which must be larger than most records are.
var writers = sync.Pool{New: func() any { return &writer{make([]byte, 0, 2048)} }}

func (w *writer) release() {
	if cap(w.b) <= 64<<10 {
		w.b = w.b[:0]
		writers.Put(w)
	}
}

func (w *writer) open()  { w.b = append(w.b, '{') }
func (w *writer) close() { w.b = append(w.b, '}') }

// key appends a member name of this package: plain ASCII, no escaping needed.
func (w *writer) key(name string) {
	if w.b[len(w.b)-1] != '{' {
		w.b = append(w.b, ',')
	}
	w.b = append(w.b, '"')
	w.b = append(w.b, name...)
	w.b = append(w.b, '"', ':')
}

func (w *writer) str(name, v string) {
	w.key(name)
	w.b = appendString(w.b, v)
}

func (w *writer) optional(name, v string) {
	if v != "" {
		w.str(name, v)
	}
}

func (w *writer) int(name string, v int64) {
	w.key(name)
	w.b = strconv.AppendInt(w.b, v, 10)
}

func (w *writer) time(name string, t Time) {
	w.key(name)
	w.b = append(w.b, '"')
	w.b = appendTime(w.b, t.Time)
	w.b = append(w.b, '"')
}

func (w *writer) strings(name string, v []string) {
	w.key(name)
	w.b = append(w.b, '[')
	for i, s := range v {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.b = appendString(w.b, s)
	}
	w.b = append(w.b, ']')
}

func (w *writer) stringMap(name string, m map[string]string) {
	w.key(name)
	w.open()
	var room [8]string
	for i, k := range sortedKeys(m, room[:0]) {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.b = appendString(w.b, k)
		w.b = append(w.b, ':')
		w.b = appendString(w.b, m[k])
	}
	w.close()
}

func (w *writer) decision(d *Decision) {
	w.str("decision", d.Decision)
	w.str("reason_code", d.ReasonCode)
	w.str("risk_tier", d.RiskTier)
	w.key("explain")
	w.open()
	w.str("summary", d.Explain.Summary)
	w.strings("matched_rules", d.Explain.MatchedRules)
	w.strings("next_steps", d.Explain.NextSteps)
	w.close()
	w.str("evidence_event_id", d.EvidenceEventID)
	w.str("mode", d.Mode)
	w.str("enforcement", d.Enforcement)
	w.stringMap("would", d.Would)
	w.optional("approval_request_id", d.ApprovalRequestID)
	w.optional("policy_hash", d.PolicyHash)
	w.optional("mapping_hash", d.MappingHash)
	w.str("tool", d.Tool)
	w.str("resource", d.Resource)
}

func (w *writer) position(name string, p *Position) {
	if p == nil {
		return
	}
	w.key(name)
	w.open()
	w.str("file", p.File)
	w.int("line", int64(p.Line))
	w.optional("name", p.Name)
	w.close()
}

func (w *writer) outcome(o *Outcome) {
	w.key("outcome")
	w.open()
	w.str("state", o.State)
	if o.Status != 0 {
		w.int("status", int64(o.Status))
	}
	w.int("bytes", o.Bytes)
	if o.DurationMS != 0 {
		w.key("duration_ms")
		w.b = appendFloat(w.b, o.DurationMS)
	}
	w.optional("error", o.Error)
	w.close()
}

func (w *writer) object(m map[string]any, depth int) error {
	if depth > maxEncodeDepth {
		return errors.New("nested too deeply")
	}
	w.open()
	var room [16]string
	for i, k := range sortedKeys(m, room[:0]) {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.b = appendString(w.b, k)
		w.b = append(w.b, ':')
		if err := w.value(m[k], depth+1); err != nil {
			return fmt.Errorf("%q: %w", k, err)
		}
	}
	w.close()
	return nil
}

func (w *writer) value(v any, depth int) error {
	switch v := v.(type) {
	case nil:
		w.b = append(w.b, "null"...)
	case string:
		w.b = appendString(w.b, v)
	case bool:
		w.b = strconv.AppendBool(w.b, v)
	case int64:
		w.b = strconv.AppendInt(w.b, v, 10)
	case int:
		w.b = strconv.AppendInt(w.b, int64(v), 10)
	case uint64:
		w.b = strconv.AppendUint(w.b, v, 10)
	case float64:
		w.b = appendFloat(w.b, v)
	case json.Number:
		if !validNumber(string(v)) {
			return fmt.Errorf("%q is not a JSON number", string(v))
		}
		w.b = append(w.b, v...)
	case map[string]any:
		return w.object(v, depth)
	case []any:
		if depth > maxEncodeDepth {
			return errors.New("nested too deeply")
		}
		w.b = append(w.b, '[')
		for i, e := range v {
			if i > 0 {
				w.b = append(w.b, ',')
			}
			if err := w.value(e, depth+1); err != nil {
				return fmt.Errorf("element %d: %w", i, err)
			}
		}
		w.b = append(w.b, ']')
	default:
		return fmt.Errorf("a value of Go type %T has no canonical form", v)
	}
	return nil
}

func sortedKeys[V any](m map[string]V, room []string) []string {
	for k := range m {
		room = append(room, k)
	}
	slices.Sort(room)
	return room
}

// appendFloat writes a float64 so that it reads back as one: 4900.0 keeps its
// point, because 4900 is an integer. NaN and the infinities have no JSON number
// and become strings.
func appendFloat(b []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		b = append(b, '"')
		b = strconv.AppendFloat(b, f, 'g', -1, 64)
		return append(b, '"')
	}
	start := len(b)
	b = strconv.AppendFloat(b, f, 'g', -1, 64)
	for _, c := range b[start:] {
		if c == '.' || c == 'e' {
			return b
		}
	}
	return append(b, '.', '0')
}

// appendTime writes TimeLayout; AppendFormat would parse the layout each time.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(b, TimeLayout)
	}
	hour, minute, sec := t.Clock()
	b = appendDigits(b, year, 4)
	b = appendDigits(append(b, '-'), int(month), 2)
	b = appendDigits(append(b, '-'), day, 2)
	b = appendDigits(append(b, 'T'), hour, 2)
	b = appendDigits(append(b, ':'), minute, 2)
	b = appendDigits(append(b, ':'), sec, 2)
	b = appendDigits(append(b, '.'), t.Nanosecond()/1000, 6)
	return append(b, 'Z')
}

func appendDigits(b []byte, v, width int) []byte {
	var d [6]byte
	for i := width - 1; i >= 0; i-- {
		d[i] = byte('0' + v%10)
		v /= 10
	}
	return append(b, d[:width]...)
}

// plainASCII are the bytes that stand for themselves in a string.
var plainASCII = func() (t [256]bool) {
	for c := 0x20; c < 0x7f; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

const hexDigits = "0123456789abcdef"

// appendString writes a JSON string. Escaped as \u00xx are: quotes and backslash
// (in their short form), C0, DEL and C1 controls, U+2028 and U+2029, and the
// invisible marks that reorder or hide text on a terminal. Invalid UTF-8 becomes
// U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plainASCII[c] {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(b, s[start:i]...)
			b = append(b, "\uFFFD"...)
			i += size
			start = i
		case hidden(r):
			b = append(b, s[start:i]...)
			b = append(b, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
			i += size
			start = i
		default:
			i += size
		}
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// hidden says whether a rune of the basic plane acts on its surroundings instead
// of being seen: C1 controls, line and paragraph separator, directional marks,
// zero-width characters and the byte order mark.
func hidden(r rune) bool {
	switch {
	case r >= 0x80 && r <= 0x9f, r == 0xad, r == 0x61c, r == 0x180e,
		r >= 0x200b && r <= 0x200f, r >= 0x2028 && r <= 0x202e,
		r >= 0x2060 && r <= 0x206f, r == 0xfeff, r >= 0xfff9 && r <= 0xfffb:
		return true
	}
	return false
}
