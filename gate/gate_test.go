package gate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/store"
)

// recorder keeps records, and fails when it is told to.
type recorder struct {
	mu      sync.Mutex
	records [][]byte
	err     error
}

func (r *recorder) Append(_ context.Context, rec evidence.Record) (evidence.Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return evidence.Entry{}, r.err
	}
	r.records = append(r.records, append([]byte(nil), rec.Bytes()...))
	return evidence.Entry{Index: uint64(len(r.records) - 1), Record: rec.Bytes()}, nil
}

func (r *recorder) Later(rec evidence.Record) bool {
	_, err := r.Append(context.Background(), rec)
	return err == nil
}

func (r *recorder) Soon(rec evidence.Record) error {
	_, err := r.Append(context.Background(), rec)
	return err
}

func (r *recorder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// log gives the events, and the outcomes by event id, in order.
func (r *recorder) log(t testing.TB) (events []*evidence.Event, outcomes map[string][]evidence.Outcome) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	outcomes = make(map[string][]evidence.Outcome)
	for _, b := range r.records {
		e, o, err := evidence.DecodeRecord(b)
		if err != nil {
			t.Fatalf("record %s: %v", b, err)
		}
		if e != nil {
			events = append(events, e)
		} else {
			outcomes[o.EventID] = append(outcomes[o.EventID], o.Outcome)
		}
	}
	return events, outcomes
}

func (r *recorder) actions(t testing.TB) (list []*evidence.Event) {
	events, _ := r.log(t)
	for _, e := range events {
		if e.Kind == evidence.KindAction {
			list = append(list, e)
		}
	}
	return list
}

const testRules = `
rules:
  - match: { host: api.stripe.com, methods: [POST], path: /v1/refunds }
    tool: stripe.refund.create
    risk: high
    args: form
    require: [{ name: amount, type: integer }]
    resource: "stripe:charge:{args.charge}"
  - match: { host: api.stripe.com, methods: [GET], path: "/v1/charges/{charge}" }
    tool: stripe.charge.retrieve
    risk: low
    resource: "stripe:charge:{path.charge}"
`

type fixture struct {
	*gate.Gate
	rec   *recorder
	store *store.Memory
	rules *gate.Rules
	clock sync.Mutex
	now   time.Time
}

// later moves the clock on.
func (f *fixture) later(d time.Duration) {
	f.clock.Lock()
	defer f.clock.Unlock()
	f.now = f.now.Add(d)
}

func (f *fixture) time() time.Time {
	f.clock.Lock()
	defer f.clock.Unlock()
	return f.now
}

func newGate(t testing.TB, mode string, edit func(*gate.Rules)) *fixture {
	t.Helper()
	f := &fixture{rec: &recorder{}, store: store.NewMemory(), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	t.Cleanup(func() { _ = f.store.Close() }) // which polices its caller
	g, err := gate.New(gate.Options{Store: f.store, Recorder: f.rec, RedactKey: make([]byte, 32), Now: f.time})
	if err != nil {
		t.Fatal(err)
	}
	f.Gate = g
	f.rules = rules(t, mode, examplePolicy(t))
	if edit != nil {
		edit(f.rules)
	}
	g.Load(f.rules)
	return f
}

func examplePolicy(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile("../policies/refund_policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func rules(t testing.TB, mode, policies string) *gate.Rules {
	t.Helper()
	m, err := mapping.Compile([]mapping.Source{{Name: "rules.yaml", Data: []byte(testRules)}}, mapping.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile([]policy.Source{{Name: "policy.yaml", Data: []byte(policies)}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &gate.Rules{
		Mapping: m, Policy: p, Mode: mode, MaxInspect: 1 << 16, Hold: 50 * time.Millisecond, MaxHolds: 10, MaxHoldsPerAgent: 10,
		Identity: gate.Identity{TenantID: "acme", AgentID: "support_agent", Source: gate.SourceConfig},
	}
}

type text string

func (b text) Peek(max int64) ([]byte, bool, error) {
	if int64(len(b)) > max {
		return []byte(b[:max]), false, nil
	}
	return []byte(b), true, nil
}

type broken struct{}

func (broken) Peek(int64) ([]byte, bool, error) {
	return []byte("amount=1"), false, io.ErrUnexpectedEOF
}

func (f *fixture) request(method, target string, body gate.Body) *gate.Request {
	h := map[string][]string{}
	if body != nil {
		h["Content-Type"] = []string{"application/x-www-form-urlencoded"}
	}
	return &gate.Request{
		Door: gate.DoorConnect, Identity: f.ConfigIdentity(), Body: body,
		Head: mapping.Request{
			Method: method, Scheme: "https", Authority: "api.stripe.com:443", Host: "api.stripe.com", Target: target,
			Header: h, ContentLength: -1,
		},
	}
}

func (f *fixture) refund(amount string) *gate.Request {
	return f.request("POST", "/v1/refunds", text("charge=ch_1&currency=usd&amount="+amount))
}

// TestModeTable is the table of the contract's first section, line by line.
func TestModeTable(t *testing.T) {
	type want struct {
		enforcement, decision, reason string
		would                         map[string]string
	}
	w := func(enforcement, decision, reason string, would ...string) want {
		m := map[string]string{}
		names := []string{"warn", "enforce", "strict"}[3-len(would):]
		for i, x := range would {
			m[names[i]] = x
		}
		return want{enforcement, decision, reason, m}
	}
	cases := []struct {
		name string
		req  func(f *fixture) *gate.Request
		want map[string]want
	}{
		{"policy allows a risky tool", func(f *fixture) *gate.Request { return f.refund("4900") }, map[string]want{
			"monitor": w("none", "allow", "refund.small_in_scope", "warn", "none", "block"),
			"warn":    w("warn", "allow", "refund.small_in_scope", "none", "block"),
			"enforce": w("none", "allow", "refund.small_in_scope", "block"),
			"strict":  w("block", "deny", "passport.required"),
		}},
		{"policy requires approval", func(f *fixture) *gate.Request { return f.refund("25000") }, map[string]want{
			"monitor": w("none", "require_approval", "refund.medium_needs_approval", "warn", "hold", "block"),
			"warn":    w("warn", "warn", "refund.medium_needs_approval", "hold", "block"),
			"enforce": w("hold", "require_approval", "refund.medium_needs_approval", "block"),
			"strict":  w("block", "deny", "passport.required"),
		}},
		{"policy denies", func(f *fixture) *gate.Request { return f.refund("75000") }, map[string]want{
			"monitor": w("none", "deny", "refund.over_limit", "warn", "block", "block"),
			"warn":    w("warn", "warn", "refund.over_limit", "block", "block"),
			"enforce": w("block", "deny", "refund.over_limit", "block"),
			"strict":  w("block", "deny", "passport.required"),
		}},
		{"a read that no rule covers", func(f *fixture) *gate.Request { return f.request("GET", "/v1/charges/ch_1", nil) }, map[string]want{
			"monitor": w("none", "deny", "policy.default", "warn", "block", "block"),
			"strict":  w("block", "deny", "policy.default"),
		}},
		{"an argument that is not a number", func(f *fixture) *gate.Request { return f.refund("1e6") }, map[string]want{
			"monitor": w("none", "deny", "policy.error", "warn", "block", "block"),
			"warn":    w("warn", "warn", "policy.error", "block", "block"),
			"enforce": w("block", "deny", "policy.error", "block"),
		}},
		{"ambiguous", func(f *fixture) *gate.Request { return f.refund("1&amount=75000") }, map[string]want{
			"enforce": w("block", "deny", "request.ambiguous", "block"),
			"strict":  w("block", "deny", "request.ambiguous"),
		}},
		{"a broken body", func(f *fixture) *gate.Request { return f.request("POST", "/v1/refunds", broken{}) }, map[string]want{
			"enforce": w("block", "deny", "request.ambiguous", "block"),
		}},
		{"an invalid passport", func(f *fixture) *gate.Request {
			r := f.refund("4900")
			r.Passport = "nonsense"
			return r
		}, map[string]want{
			"monitor": w("none", "allow", "refund.small_in_scope", "warn", "block", "block"),
			"enforce": w("block", "deny", "passport.invalid", "block"),
		}},
	}
	for _, tt := range cases {
		for mode, want := range tt.want {
			t.Run(tt.name+"/"+mode, func(t *testing.T) {
				f := newGate(t, mode, nil)
				permit, refusal := f.Check(t.Context(), tt.req(f))
				if (permit == nil) == (refusal == nil) {
					t.Fatalf("permit %v, refusal %v", permit, refusal)
				}
				var d evidence.Decision
				if permit != nil {
					d = permit.Decision()
				} else {
					d = refusal.Decision
				}
				if got := (permit != nil); got != (want.enforcement == "none" || want.enforcement == "warn") {
					t.Errorf("forwarded: %v", got)
				}
				if d.Enforcement != want.enforcement || d.Decision != want.decision || d.ReasonCode != want.reason || d.Mode != mode {
					t.Errorf("got %s %s %s in %s, want %+v", d.Enforcement, d.Decision, d.ReasonCode, d.Mode, want)
				}
				if fmt.Sprint(d.Would) != fmt.Sprint(want.would) {
					t.Errorf("would %v, want %v", d.Would, want.would)
				}
				if permit != nil && (permit.Warning() != "") != (want.enforcement == "warn") {
					t.Errorf("warning %q", permit.Warning())
				}
				if a := f.rec.actions(t); len(a) != 1 || a[0].ID != d.EvidenceEventID {
					t.Errorf("want exactly one event, got %d", len(a))
				}
			})
		}
	}
}

func TestIntentIsDurableBeforeThePermit(t *testing.T) {
	f := newGate(t, "enforce", nil)
	permit, _ := f.Check(t.Context(), f.refund("4900"))
	events, outcomes := f.rec.log(t)
	if len(events) != 1 || events[0].Outcome.State != evidence.StatePending || len(outcomes) != 0 {
		t.Fatalf("events %+v, outcomes %v", events, outcomes)
	}
	permit.Done(gate.Outcome{State: evidence.StateForwarded, Status: 200, Bytes: 7})
	permit.Done(gate.Outcome{State: evidence.StateAmbiguous})
	_, outcomes = f.rec.log(t)
	if o := outcomes[events[0].ID]; len(o) != 1 || o[0].State != evidence.StateForwarded || o[0].Status != 200 {
		t.Fatalf("%v", outcomes)
	}
}

func TestWhatCannotBeRecordedDoesNotLeave(t *testing.T) {
	full := errors.New("no space left on device")
	for _, mode := range []string{"monitor", "warn", "enforce", "strict"} {
		f := newGate(t, mode, nil)
		f.rec.fail(full)
		r := f.refund("4900")
		if mode == "strict" {
			r = f.request("GET", "/v1/charges/ch_1", nil)
		}
		permit, refusal := f.Check(t.Context(), r)
		if loose := mode == "monitor" || mode == "warn"; loose != (permit != nil) {
			t.Errorf("%s: permit %v", mode, permit)
		} else if !loose && (refusal.Status != 503 || refusal.Decision.ReasonCode != "evidence.unavailable") {
			t.Errorf("%s: %+v", mode, refusal)
		}
		f.rec.fail(nil)
		if mode == "enforce" {
			if permit, _ := f.Check(t.Context(), f.refund("4900")); permit == nil {
				t.Error("did not recover")
			}
		}
	}
}

func TestZeroValuesRefuse(t *testing.T) {
	var p gate.Permit
	p.Done(gate.Outcome{})
	if out := p.Outbound(); out.Head.Method != "" || out.Head.Authority != "" {
		t.Error("a zero permit holds a request")
	}
	g, err := gate.New(gate.Options{Store: store.NewMemory(), Recorder: &recorder{}, RedactKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	permit, refusal := g.Check(t.Context(), &gate.Request{})
	if permit != nil || refusal == nil {
		t.Error("a gate without rules lets a call through")
	}
	if g.ModeFor(gate.Identity{}) != gate.ModeStrict {
		t.Error("a gate without rules must be strict")
	}
}

func TestOverridesAndKeysOnlyTighten(t *testing.T) {
	f := newGate(t, "monitor", func(r *gate.Rules) {
		r.Overrides = []gate.Override{{Tool: "stripe.refund.*", Agent: "support_*", Mode: "enforce"}}
	})
	if _, refusal := f.Check(t.Context(), f.refund("75000")); refusal == nil || refusal.Decision.Mode != "enforce" {
		t.Error("the override for the tool does not hold")
	}
	if permit, _ := f.Check(t.Context(), f.request("GET", "/v1/charges/ch_1", nil)); permit == nil {
		t.Error("the override reaches other tools")
	}
	r := f.request("GET", "/v1/charges/ch_1", nil)
	r.Identity.KeyMode = "enforce"
	if _, refusal := f.Check(t.Context(), r); refusal == nil {
		t.Error("the key's mode does not hold")
	}
	r = f.refund("75000")
	r.Identity.KeyMode = "monitor"
	if _, refusal := f.Check(t.Context(), r); refusal == nil {
		t.Error("a key loosened the mode")
	}
}

func TestSecretsAreRedacted(t *testing.T) {
	f := newGate(t, "monitor", nil)
	r := f.request("POST", "/v1/refunds?api_key=hush", text("amount=1&charge=c&password=hush&card[number]=4242424242424242"))
	r.Head.Header["Authorization"] = []string{"Bearer hush"}
	r.Head.Header["Cookie"] = []string{"s=hush"}
	f.Check(t.Context(), r)
	for _, b := range f.rec.records {
		for _, s := range []string{"hush", "4242424242424242"} {
			if strings.Contains(string(b), s) {
				t.Errorf("%q in %s", s, b)
			}
		}
	}
}

func TestPanicCostsOneRequest(t *testing.T) {
	f := newGate(t, "monitor", nil)
	permit, refusal := f.Check(t.Context(), f.request("POST", "/v1/refunds", panicky{}))
	if permit != nil || refusal == nil || refusal.Status != 500 {
		t.Fatalf("%v %+v", permit, refusal)
	}
	if permit, _ := f.Check(t.Context(), f.refund("1")); permit == nil {
		t.Error("the next call suffers")
	}
}

type panicky struct{}

func (panicky) Peek(int64) ([]byte, bool, error) { panic("boom") }

func TestRejectIsOneEvent(t *testing.T) {
	f := newGate(t, "monitor", nil)
	r := &gate.Request{Door: gate.DoorForward, Identity: f.ConfigIdentity(), Head: mapping.Request{Method: "P\x00ST", Scheme: "http"}}
	ref := f.Reject(t.Context(), r, 431, gate.ReasonHeadTooLarge, "the head is too large\r\nX: y")
	if ref.Status != 431 || ref.Decision.ReasonCode != "request.head_too_large" || ref.Decision.Enforcement != "block" {
		t.Errorf("%+v", ref)
	}
	a := f.rec.actions(t)
	if len(a) != 1 || a[0].Outcome.State != evidence.StateRefused || a[0].Outcome.Status != 431 {
		t.Errorf("%+v", a)
	}
}
