package evidence

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// sample is an event with every field set.
func sample() *Event {
	return &Event{
		Decision: Decision{
			Decision: "allow", ReasonCode: "refund.small_in_scope", RiskTier: "high",
			Explain: Explain{
				Summary:      "Policy refund_policy v3: allow.",
				MatchedRules: []string{"small_refund_auto_approve"}, NextSteps: []string{},
			},
			EvidenceEventID: "ev_0190c7a2-7b1e-7c3e-9d10-2b8a5b6f0001",
			Mode:            "monitor", Enforcement: "none",
			Would:             map[string]string{"warn": "none", "strict": "block", "enforce": "none"},
			ApprovalRequestID: "apr_1", PolicyHash: "sha256:aa", MappingHash: "sha256:bb",
			Tool: "stripe.refund.create", Resource: "stripe:charge:ch_123",
		},
		ID: "ev_0190c7a2-7b1e-7c3e-9d10-2b8a5b6f0001", Kind: KindAction,
		Time:     Time{time.Date(2026, 3, 4, 5, 6, 7, 120000, time.UTC)},
		TenantID: "acme", AgentID: "support_agent", UserID: "user_456", Goal: "resolve_refund_request",
		IdentitySource: "api_key", KeyID: "key_1", Door: "connect",
		Request: &Request{
			Method: "POST", Authority: "api.stripe.com", Path: "/v1/refunds",
			ContentType: "application/x-www-form-urlencoded", BodySHA256: strings.Repeat("ab", 32), Bytes: 44,
		},
		Args: map[string]any{
			"amount": int64(4900), "currency": "usd", "ratio": 1.5, "whole": float64(3), "max": int64(math.MaxInt64),
			"min": int64(math.MinInt64), "ok": true, "none": nil, "big": json.Number("123456789012345678901234567890"),
			"metadata": map[string]any{"order": "A-1", "list": []any{int64(1), "two", nil}},
		},
		Rule:        &Position{File: "policies/refund.yaml", Line: 7, Name: "small_refund_auto_approve"},
		MappingRule: &Position{File: "stripe.yaml", Line: 12},
		Flags:       []string{"request.ambiguous"}, Notes: []string{"two content types"},
		Outcome:     &Outcome{State: StatePending, Status: 200, Bytes: 12, DurationMS: 3, Error: "x"},
		Approval:    &Approval{ID: "apr_1", State: "approved", From: "pending", Actor: "key_2", Reason: "ok", EventRef: "ev_1"},
		PassportJTI: "ap_1", Message: "m", Data: map[string]string{"b": "2", "a": "1"},
	}
}

func TestEventRoundTrip(t *testing.T) {
	e := sample()
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, o, err := DecodeRecord(b)
	if err != nil || o != nil {
		t.Fatalf("decode: %v, outcome %v", err, o)
	}
	if d := cmp.Diff(e, got); d != "" {
		t.Error(d)
	}
	again, err := got.Encode()
	if err != nil || string(again) != string(b) {
		t.Errorf("encoding is not stable:\n%s\n%s", b, again)
	}
	if !jsontext.Value(b).IsValid() {
		t.Errorf("not valid JSON: %s", b)
	}
}

// The hand-written encoder and encoding/json must agree on names, order and
// what is left out, because the API marshals the same structs.
func TestEncodeAgreesWithTags(t *testing.T) {
	for name, e := range map[string]*Event{
		"full": sample(),
		"bare": {
			ID: "ev_1", Kind: KindSystem,
			Decision: Decision{Explain: Explain{MatchedRules: []string{}, NextSteps: []string{}}, Would: map[string]string{}},
		},
	} {
		delete(e.Args, "whole") // encoding/json writes 3.0 as 3
		if e.Outcome != nil {
			e.Outcome.DurationMS = 3.25
		}
		want, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		got, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
	o := &OutcomeRecord{Kind: KindOutcome, EventID: "ev_1", Outcome: Outcome{State: StateForwarded, Status: 200, Bytes: 5, DurationMS: 1.5}}
	want, _ := json.Marshal(o)
	if got, err := o.Encode(); err != nil || string(got) != string(want) {
		t.Errorf("outcome: %v\n got %s\nwant %s", err, got, want)
	}
}

func TestEncodeNeverNull(t *testing.T) {
	b, err := (&Event{ID: "ev_1", Kind: KindAction}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"would":{}`, `"matched_rules":[]`, `"next_steps":[]`, `"time":"0001-01-01T00:00:00.000000Z"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s is missing in %s", want, b)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	loop := map[string]any{}
	loop["self"] = loop
	ring := []any{nil}
	ring[0] = ring
	for name, e := range map[string]*Event{
		"no kind":          {ID: "ev_1"},
		"no id":            {Kind: KindAction},
		"outcome":          {ID: "ev_1", Kind: KindOutcome},
		"strange type":     {ID: "ev_1", Kind: KindAction, Args: map[string]any{"c": make(chan int)}},
		"bad number":       {ID: "ev_1", Kind: KindAction, Args: map[string]any{"n": json.Number("01")}},
		"empty number":     {ID: "ev_1", Kind: KindAction, Args: map[string]any{"n": json.Number("")}},
		"map loop":         {ID: "ev_1", Kind: KindAction, Args: loop},
		"array loop":       {ID: "ev_1", Kind: KindAction, Args: map[string]any{"a": ring}},
		"injecting number": {ID: "ev_1", Kind: KindAction, Args: map[string]any{"n": json.Number("1,\"x\":2")}},
	} {
		if b, err := e.Encode(); err == nil {
			t.Errorf("%s: encoded as %s", name, b)
		}
	}
	if _, err := (&OutcomeRecord{}).Encode(); err == nil {
		t.Error("an outcome without an event was encoded")
	}
	if _, err := (&OutcomeRecord{Kind: KindAction, EventID: "ev_1"}).Encode(); err == nil {
		t.Error("an outcome of kind action was encoded")
	}
}

func TestStringsAreOneHarmlessLine(t *testing.T) {
	nasty := "a\r\nb\x1b[31m\x00\x7f\u0085\u2028\u2029\u202e\u200b\ufeff\"\\\xff\xc3é漢\U0001F600<&>"
	e := &Event{ID: "ev_1", Kind: KindAction, Goal: nasty, Args: map[string]any{nasty: nasty}}
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range string(b) {
		if r < 0x20 || r == 0x7f || hidden(r) || (r == utf8.RuneError && !strings.HasPrefix(string(b[i:]), "\uFFFD")) {
			t.Fatalf("rune %U stands bare at %d: %s", r, i, b)
		}
	}
	got, _, err := DecodeRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.ToValidUTF8(strings.ReplaceAll(nasty, "\xff\xc3", "\uFFFD\uFFFD"), "")
	if got.Goal != want || got.Args[want] != want {
		t.Errorf("got %q, want %q", got.Goal, want)
	}
}

func TestFloatsStayFloats(t *testing.T) {
	for _, f := range []float64{0, 1, -1, 4900, 1e21, 1e-7, 0.1, math.MaxFloat64, math.SmallestNonzeroFloat64, 1 << 53} {
		e := &Event{ID: "ev_1", Kind: KindAction, Args: map[string]any{"f": f}}
		b, _ := e.Encode()
		got, _, err := DecodeRecord(b)
		if err != nil || got.Args["f"] != f {
			t.Errorf("%v came back as %v (%v): %s", f, got.Args["f"], err, b)
		}
	}
	b, _ := (&Event{ID: "ev_1", Kind: KindAction, Args: map[string]any{"n": math.NaN(), "i": math.Inf(-1)}}).Encode()
	if !strings.Contains(string(b), `{"i":"-Inf","n":"NaN"}`) {
		t.Errorf("NaN and -Inf: %s", b)
	}
}

func TestDecodeTable(t *testing.T) {
	for _, c := range []struct {
		name, in string
		ok       bool
	}{
		{"unknown members", `{"id":"ev_1","kind":"action","future":{"x":[1]}}`, true},
		{"unknown kind", `{"id":"ev_1","kind":"dream"}`, true},
		{"outcome, any order", `{"event_id":"ev_1","kind":"outcome","outcome":{"state":"forwarded","bytes":1}}`, true},
		{"duplicate member", `{"id":"ev_1","id":"ev_2","kind":"action"}`, false},
		{"duplicate in args", `{"id":"ev_1","kind":"action","args":{"a":1,"a":2}}`, false},
		{"case variant is not the member", `{"ID":"ev_1","kind":"action"}`, false},
		{"no kind", `{"id":"ev_1"}`, false},
		{"no id", `{"kind":"action"}`, false},
		{"outcome of nothing", `{"kind":"outcome","outcome":{"state":"forwarded"}}`, false},
		{"trailing document", `{"id":"ev_1","kind":"action"}{}`, false},
		{"bad UTF-8", "{\"id\":\"ev_1\",\"kind\":\"action\",\"goal\":\"\xff\"}", false},
		{"empty", ``, false},
		{"array", `[]`, false},
		{"null", `null`, false},
		{"wrong type", `{"id":1,"kind":"action"}`, false},
	} {
		e, o, err := DecodeRecord([]byte(c.in))
		if (err == nil) != c.ok {
			t.Errorf("%s: error %v", c.name, err)
		}
		if (e != nil || o != nil) != c.ok || (e != nil && o != nil) {
			t.Errorf("%s: event %v, outcome %v", c.name, e, o)
		}
	}
}

func TestTime(t *testing.T) {
	at := Time{time.Date(2026, 1, 2, 3, 4, 5, 999, time.FixedZone("x", 3600))}
	j, err := json.Marshal(map[string]any{"t": at, "p": &at})
	if want := `{"p":"2026-01-02T02:04:05.000000Z","t":"2026-01-02T02:04:05.000000Z"}`; err != nil || string(j) != want {
		t.Errorf("got %s (%v), want %s", j, err, want)
	}
	text, err := at.MarshalText()
	if err != nil || string(text) != at.UTC().Format(TimeLayout) {
		t.Errorf("MarshalText: %s %v", text, err)
	}
	var back Time
	if err := json.Unmarshal([]byte(`"2026-01-02T02:04:05.123456Z"`), &back); err != nil || back.Nanosecond() != 123456000 {
		t.Errorf("Unmarshal: %v %v", back, err)
	}
	rapid.Check(t, func(t *rapid.T) {
		tm := time.Unix(rapid.Int64Range(-62135596800, 253402300799).Draw(t, "s"), rapid.Int64Range(0, 999999999).Draw(t, "ns"))
		if got, want := string(appendTime(nil, tm)), tm.UTC().Format(TimeLayout); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	})
}

func anyValue(depth int) *rapid.Generator[any] {
	leaf := []*rapid.Generator[any]{
		rapid.Just[any](nil),
		rapid.Bool().AsAny(), rapid.Int64().AsAny(),
		rapid.Float64Range(-1e300, 1e300).AsAny(), rapid.String().AsAny(),
	}
	if depth == 0 {
		return rapid.OneOf(leaf...)
	}
	return rapid.OneOf(append(leaf,
		rapid.SliceOfN(anyValue(depth-1), 0, 4).AsAny(),
		rapid.MapOfN(rapid.String(), anyValue(depth-1), 0, 4).AsAny())...)
}

func TestArgsRoundTripProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := &Event{
			ID: "ev_1", Kind: KindAction, Args: map[string]any{"v": anyValue(3).Draw(t, "v")},
			Goal: rapid.String().Draw(t, "goal"), Time: Time{time.Unix(0, 0).UTC()},
			Decision: Decision{Explain: Explain{MatchedRules: []string{}, NextSteps: []string{}}, Would: map[string]string{}},
		}
		b, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Look(b); err != nil {
			t.Fatalf("Look refuses what Encode wrote: %v: %s", err, b)
		}
		e.Kind = rapid.SampledFrom([]string{KindAction, KindApproval, KindSystem}).Draw(t, "kind")
		if rapid.Bool().Draw(t, "completed") {
			e.Outcome = &Outcome{State: rapid.SampledFrom([]string{StatePending, StateForwarded, StateRefused, ""}).Draw(t, "state"), Error: rapid.String().Draw(t, "error")}
		}
		sameSummary(t, e)
		sameSummary(t, &OutcomeRecord{EventID: "ev_1", Outcome: Outcome{State: StateAmbiguous, Error: rapid.String().Draw(t, "error")}})
		e.Kind, e.Outcome = KindAction, nil
		if b, err = e.Encode(); err != nil {
			t.Fatal(err)
		}
		got, _, err := DecodeRecord(b)
		if err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		if d := cmp.Diff(e, got); d != "" {
			t.Fatal(d)
		}
	})
}

func TestLook(t *testing.T) {
	b, _ := sample().Encode()
	s, err := Look(b)
	if err != nil || s.Kind != KindAction || s.ID != sample().ID || s.State != StatePending || !s.Open() {
		t.Errorf("%+v %v", s, err)
	}
	o, _ := (&OutcomeRecord{EventID: "ev_9", Outcome: Outcome{State: StateForwarded}}).Encode()
	s, err = Look(o)
	if err != nil || s.Kind != KindOutcome || s.EventID != "ev_9" || s.Open() {
		t.Errorf("%+v %v", s, err)
	}
	// Whatever an agent puts into args, it is not the event's own outcome or id.
	e := &Event{ID: "ev_1", Kind: KindAction, Args: map[string]any{
		"outcome": map[string]any{"state": "pending"}, "kind": "outcome", "event_id": "ev_other", "id": "ev_other",
	}}
	b, _ = e.Encode()
	if s, err = Look(b); err != nil || s.Open() || s.ID != "ev_1" || s.Kind != KindAction || s.EventID != "" {
		t.Errorf("args were taken for members: %+v %v", s, err)
	}
	for _, bad := range []string{
		``, `[]`, `{}`, `{"kind":"x"`, `{"kind":"x"}}`, `{"kind":"x"} `, ` {"kind":"x"}`, "{\"kind\":\n\"x\"}",
		`{"kind":"x","a":01}`, `{"kind":"x","a":1.}`, `{"kind":"x","a":"\x"}`, `{"kind":"x","a":"\u12g4"}`, `{"kind":"x",}`, `{"kind":"x","a":[1,]}`,
		`{"kind":"x","a":tru}`, `{"kind":"x","a":-}`, `{"kind":"x","a":1e}`, "{\"kind\":\"a\nb\"}", `{"kind":"x","a":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `}`,
	} {
		if s, err := Look([]byte(bad)); err == nil {
			t.Errorf("%q passed: %+v", bad, s)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	b, _ := sample().Encode()
	f.Add(b)
	f.Add([]byte(`{"kind":"outcome","event_id":"ev_1","time":"2026-01-01T00:00:00.000000Z","outcome":{"state":"ambiguous","bytes":0}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, o, err := DecodeRecord(b)
		if err != nil {
			return
		}
		var again []byte
		if e != nil {
			again, err = e.Encode()
		} else {
			again, err = o.Encode()
		}
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, _, err := DecodeRecord(again); err != nil {
			t.Fatalf("what was written cannot be read: %v: %s", err, again)
		}
	})
}

// Look must never accept what a full JSON parser refuses.
func FuzzLook(f *testing.F) {
	b, _ := sample().Encode()
	f.Add(b)
	f.Add([]byte(`{"kind":"x","a":[1,-0.5e+3,"\ud83d\ude00",{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Look(b); err != nil {
			return
		}
		if !json.Valid(b) {
			t.Fatalf("accepted %q", b)
		}
		for _, c := range b {
			if c < 0x20 {
				t.Fatalf("control byte in %q", b)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	e := sample()
	delete(e.Args, "metadata")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Encode(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLook(b *testing.B) {
	r, _ := sample().Encode()
	b.SetBytes(int64(len(r)))
	for b.Loop() {
		if _, err := Look(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLeafHash(b *testing.B) {
	r, _ := sample().Encode()
	b.SetBytes(int64(len(r)))
	b.ReportAllocs()
	for b.Loop() {
		LeafHash(r)
	}
}

func BenchmarkDecode(b *testing.B) {
	r, _ := sample().Encode()
	for b.Loop() {
		if _, _, err := DecodeRecord(r); err != nil {
			b.Fatal(err)
		}
	}
}

// sameSummary: what Record knows is what Look reads.
func sameSummary(t *rapid.T, r interface{ Record() (Record, error) }) {
	t.Helper()
	rec, err := r.Record()
	if err != nil {
		t.Fatal(err)
	}
	read, err := ReadRecord(rec.Bytes())
	if err != nil || read.Summary() != rec.Summary() {
		t.Fatalf("%+v, read back as %+v (%v): %s", rec.Summary(), read.Summary(), err, rec.Bytes())
	}
}

// TestEncodedStays: the bytes of a record are its own, whatever is encoded after it.
func TestEncodedStays(t *testing.T) {
	event := Event{ID: "ev_1", Kind: KindAction, TenantID: "acme"}
	outcome := OutcomeRecord{EventID: "ev_1", Outcome: Outcome{State: StateForwarded}}
	a, err := event.Encode()
	if err != nil {
		t.Fatal(err)
	}
	b, err := outcome.Encode()
	if err != nil {
		t.Fatal(err)
	}
	first, second := string(a), string(b)
	for range 100 {
		for _, id := range []string{"ev_2", "ev_3"} {
			if _, err := (&Event{ID: id, Kind: KindSystem, Message: "another"}).Encode(); err != nil {
				t.Fatal(err)
			}
			if _, err := (&OutcomeRecord{EventID: id, Outcome: Outcome{State: StateBlocked}}).Encode(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if string(a) != first || string(b) != second {
		t.Errorf("they became %s and %s", a, b)
	}
}
