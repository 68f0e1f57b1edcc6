package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// vector is a case of sdk/vectors/guard.json; its README says what each part means.
type vector struct {
	Name, Mode, OnApproval, Execute string
	ApprovalTimeoutMS, AbortAfterMS int
	Preflight, Approval, Report     []vectorAnswer
	Expect                          struct {
		Executed            int
		Decision, Error     *string
		Outcome             map[string]any
		Warning, OneKey     bool
		Preflights, Reports int
		Reported            *bool
	}
}

type vectorAnswer struct {
	Status                    int
	Headers                   map[string]*string
	Body                      json.RawMessage
	Unreachable, Timeout, Cut bool
}

type declined struct{ StatusCode int }

func (declined) Error() string { return "card 4242 declined" }

// TestGuardVectors holds the Go client to what both SDKs are held to.
func TestGuardVectors(t *testing.T) {
	text, err := os.ReadFile("../sdk/vectors/guard.json")
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Decisions map[string]map[string]any
		Cases     []vector
	}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	if len(all.Cases) < 100 {
		t.Fatalf("only %d cases", len(all.Cases))
	}
	// Most of their time is waiting, which t.Parallel shares among the processors.
	var wg sync.WaitGroup
	for _, v := range all.Cases {
		wg.Go(func() { t.Run(v.Name, func(t *testing.T) { v.run(t, all.Decisions) }) })
	}
	wg.Wait()
}

func (v *vector) run(t *testing.T, decisions map[string]map[string]any) {
	var mu sync.Mutex
	var keys []string
	var outcomes []map[string]any
	looks := 0
	over := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var in map[string]any
		if len(body) > 0 && json.Unmarshal(body, &in) != nil {
			t.Errorf("the body of %s is not JSON: %s", r.URL, body)
		}
		a := vectorAnswer{Status: 200, Body: json.RawMessage(`{"evidence_event_id":"ev_1","state":"succeeded"}`)}
		mu.Lock()
		switch {
		case r.URL.Path == "/api/v1/actions/preflight":
			a = v.Preflight[min(len(keys), len(v.Preflight)-1)]
			keys = append(keys, r.Header.Get("Idempotency-Key"))
			if mode, _ := in["mode"].(string); in["intent"] != "execute" || mode != v.Mode {
				t.Errorf("asked %s", body)
			}
		case strings.HasPrefix(r.URL.String(), "/api/v1/approvals/apr_1?wait="):
			a = v.Approval[min(looks, len(v.Approval)-1)]
			looks++
		default:
			if ok, _ := path.Match("/api/v1/actions/ev_[1-3]/outcome", r.URL.Path); !ok {
				t.Errorf("asked for %s", r.URL)
			}
			if len(v.Report) > 0 {
				a = v.Report[min(len(outcomes), len(v.Report)-1)]
			}
			outcomes = append(outcomes, in)
			if strings.Contains(string(body), "4242") {
				t.Errorf("the report has the error's text: %s", body)
			}
		}
		mu.Unlock()
		switch {
		case a.Unreachable:
			panic(http.ErrAbortHandler)
		case a.Timeout:
			select {
			case <-over:
			case <-r.Context().Done():
			}
			panic(http.ErrAbortHandler)
		}
		raw := vectorBody(t, a.Body, decisions)
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("X-Request-Id", r.Header.Get("X-Request-Id"))
		h.Set("Content-Length", strconv.Itoa(len(raw)))
		for name, value := range a.Headers {
			h[http.CanonicalHeaderKey(name)] = nil // nor is one guessed
			if value != nil {
				h.Set(name, *value)
			}
		}
		w.WriteHeader(a.Status)
		if a.Cut {
			w.Write(raw[:len(raw)/2])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		w.Write(raw)
	}))
	defer server.Close()
	defer close(over)

	own := map[string]error{"throws": errors.New("card 4242 declined"), "throws 402": fmt.Errorf("refund: %w", &declined{402})}[v.Execute]
	executed := 0
	ctx, enough := t.Context(), errors.New("enough")
	if v.AbortAfterMS > 0 {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		time.AfterFunc(time.Duration(v.AbortAfterMS)*time.Millisecond, func() { cancel(enough) })
	}
	r, err := Guard(ctx, NewClient(server.URL, "sk_live_test_secret", nil),
		Action{Tool: "stripe.refund.create", Resource: "stripe:charge:ch_123", Args: map[string]any{"amount": 4900}, AgentID: "support_agent", Mode: v.Mode},
		GuardOptions{Wait: v.OnApproval == "wait", WaitFor: time.Duration(v.ApprovalTimeoutMS) * time.Millisecond, Attempt: time.Second},
		func(context.Context, *evidence.Decision) (string, error) { executed++; return "done", own })

	mu.Lock()
	defer mu.Unlock()
	e := v.Expect
	if executed != e.Executed || r.Executed != (e.Executed == 1) {
		t.Errorf("executed %d times, said %v; want %d", executed, r.Executed, e.Executed)
	}
	var word, kind *string
	if r.Decision != nil {
		word = &r.Decision.Decision
	}
	var fault *GuardError
	switch {
	case err == nil:
	case own != nil && errors.Is(err, own):
		kind = new("own")
	case errors.Is(err, enough):
		kind, word = new("aborted"), nil
	case errors.As(err, &fault):
		kind = &fault.Kind
		if fault.Decision != r.Decision || len(fault.Error()) < 20 || strings.Contains(fault.Error(), "sk_live") {
			t.Errorf("the error %q is about %v", fault, fault.Decision)
		}
	default:
		t.Errorf("error %v", err)
	}
	want := []map[string]any{}
	for range max(e.Reports, 1) {
		if e.Outcome != nil {
			want = append(want, e.Outcome)
		}
	}
	if e.Reported != nil && e.Reports == 0 {
		want = want[:0]
		for range outcomes {
			want = append(want, e.Outcome)
		}
	}
	reported := e.Outcome != nil
	if e.Reported != nil {
		reported = *e.Reported
	}
	got := []map[string]any{}
	for _, o := range outcomes {
		delete(o, "error")
		got = append(got, o)
	}
	if diff := cmp.Diff([]any{e.Decision, e.Error, e.Warning, want}, []any{word, kind, r.Warning != "", got}); diff != "" {
		t.Errorf("decision, error, warning, outcome (-want +got):\n%s%v", diff, err)
	}
	if err == nil && r.Result != "done" || r.Reported != reported {
		t.Errorf("%+v", r)
	}
	if e.Preflights > 0 && len(keys) != e.Preflights {
		t.Errorf("asked %d times", len(keys))
	}
	for _, k := range keys {
		if e.OneKey && (k == "" || k != keys[0]) {
			t.Errorf("keys %q", keys)
		}
	}
}

// vectorBody fills in the decision that "$d" names.
func vectorBody(t *testing.T, raw json.RawMessage, decisions map[string]map[string]any) []byte {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return []byte(text)
	}
	var b map[string]any
	if err := json.Unmarshal(raw, &b); err != nil {
		t.Error(err)
	}
	if name, ok := b["$d"].(string); ok {
		whole := map[string]any{}
		for _, m := range []map[string]any{decisions[name], b} {
			for k, v := range m {
				if whole[k] = v; v == nil {
					delete(whole, k)
				}
			}
		}
		delete(whole, "$d")
		b = whole
	}
	out, err := json.Marshal(b)
	if err != nil {
		t.Error(err)
	}
	return out
}

// TestGuardOnTheRealAPI lets Guard act on what ships: held, approved while it
// waits, and run once; a panic and an abort are on record.
func TestGuardOnTheRealAPI(t *testing.T) {
	r := newReal(t, gate.ModeEnforce)
	admin := NewClient(r.server.URL, r.admin, nil)
	k, err := admin.CreateKey(t.Context(), NewKey{Name: "agent", Role: "gateway", AgentID: "support_agent"})
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(r.server.URL, k.Key, nil)
	refund := func(amount int) Action {
		return Action{Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", AgentID: "support_agent", Args: map[string]any{"amount": amount, "currency": "usd"}}
	}
	run := func(context.Context, *evidence.Decision) (int, error) { return 7, nil }
	var fault *GuardError

	got, err := Guard(t.Context(), c, refund(60000), GuardOptions{}, run)
	if !errors.As(err, &fault) || fault.Kind != GuardRefused || got.Executed || !strings.Contains(err.Error(), "large_refund") {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = Guard(t.Context(), c, refund(20000), GuardOptions{Wait: true, WaitFor: 10 * time.Millisecond}, run)
	if !errors.As(err, &fault) || fault.Kind != GuardExpired {
		t.Error(err)
	}
	_, err = Guard(t.Context(), c, refund(20000), GuardOptions{}, run)
	if !errors.As(err, &fault) || fault.Kind != GuardHeld || fault.ApprovalID == "" {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(50 * time.Millisecond)
		if _, err := admin.Decide(t.Context(), fault.ApprovalID, Verdict{Decision: "approve", Reason: "fine"}); err != nil {
			t.Error(err)
		}
	}()
	got, err = Guard(t.Context(), c, refund(20000), GuardOptions{Wait: true, WaitFor: 20 * time.Second}, run)
	if err != nil || got.Result != 7 || !got.Reported || got.Decision.ApprovalRequestID == "" {
		t.Errorf("%+v, %v", got, err)
	}

	outcome := func(id string) string {
		t.Helper()
		raw, err := admin.Event(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var e evidence.Event
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		return e.Outcome.State + " " + e.Outcome.Error
	}
	var d *evidence.Decision
	func() {
		defer func() { _ = recover() }()
		_, _ = Guard(t.Context(), c, refund(100), GuardOptions{}, func(_ context.Context, got *evidence.Decision) (int, error) {
			d = got
			panic("card 4242")
		})
		t.Error("the panic was swallowed")
	}()
	if said := outcome(d.EvidenceEventID); said != evidence.StateAmbiguous+" panic" {
		t.Error(said)
	}

	// The caller stops between the answer and the action.
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	stops := NewClient(r.server.URL, k.Key, &http.Client{Transport: after(func() { cancel(enough) })})
	got, err = Guard(ctx, stops, refund(101), GuardOptions{}, run)
	if !errors.Is(err, enough) || got.Executed || got.Decision == nil {
		t.Fatalf("%+v, %v", got, err)
	}
	if said := outcome(got.Decision.EvidenceEventID); said != evidence.StateForwarded+" aborted before it was run" {
		t.Error(said)
	}
	if got, err := Guard(ctx, c, refund(102), GuardOptions{}, run); !errors.Is(err, enough) || got.Executed {
		t.Errorf("%+v, %v", got, err)
	}
	for _, wrong := range []Action{{AgentID: "a"}, {Tool: "t"}, {Tool: "t", AgentID: "a", Mode: "loose"}, {Tool: "t", AgentID: "a", Args: map[string]any{"f": func() {}}}} {
		if _, err := Guard(t.Context(), c, wrong, GuardOptions{}, run); !errors.As(err, &fault) || fault.Kind != GuardMisused {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
}

// after reads an answer whole, and calls itself before it is handed over.
type after func()

func (f after) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	resp.Body = io.NopCloser(strings.NewReader(string(text)))
	f()
	return resp, err
}
