package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/passport"
)

// fakeGate answers as it is told and keeps what it was asked. It is for what a
// real gate does not do on demand: fail, panic, hang.
type fakeGate struct {
	mu        sync.Mutex
	keys      map[string]gate.Identity
	approvals map[string]gate.Approval
	asked     []gate.Preflight
	queries   []gate.ApprovalQuery
	outcomes  []string
	decision  evidence.Decision
	refused   bool
	err       error // of every call but Authenticate
	mintErr   error // of PassportFor
	wishes    []gate.NewPassport
	authErr   error
	panics    bool
	faults    []string
	came      *evidence.Outcome // of CameOf
	byAgent   bool
	cameErr   error
	changed   chan struct{}
}

const (
	gatewayKey  = "sk_live_gateway"
	unboundKey  = "sk_live_unbound"
	approverKey = "sk_live_approver"
	adminKey    = "sk_live_admin"
)

func newFakeGate() *fakeGate {
	return &fakeGate{
		keys: map[string]gate.Identity{
			gatewayKey:  {TenantID: "acme", AgentID: "support_agent", KeyID: "key_gateway", Role: gate.RoleGateway, Source: "api_key"},
			unboundKey:  {TenantID: "acme", KeyID: "key_unbound", Role: gate.RoleGateway, Source: "api_key"},
			approverKey: {TenantID: "acme", KeyID: "key_approver", Role: gate.RoleApprover, Groups: []string{"support-leads"}, Source: "api_key"},
			adminKey:    {TenantID: "acme", KeyID: "key_admin", Role: gate.RoleAdmin, Source: "api_key"},
		},
		approvals: map[string]gate.Approval{
			"apr_support": approval("apr_support", "support_agent", "key_gateway"),
			"apr_billing": approval("apr_billing", "billing_agent", "key_billing"),
			"apr_unbound": approval("apr_unbound", "any_agent", "key_unbound"),
		},
		decision: evidence.Decision{
			Decision: "allow", ReasonCode: "refund.small_in_scope", RiskTier: "high",
			Explain:         evidence.Explain{Summary: "Policy refund_policy v3: allow.", MatchedRules: []string{"small_refund_auto_approve"}},
			EvidenceEventID: "ev_1", Mode: "monitor", Enforcement: "none", Tool: "stripe.refund.create", Resource: "stripe:charge:ch_123",
		},
		changed: make(chan struct{}),
	}
}

func approval(id, agent, key string) gate.Approval {
	at := time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)
	return gate.Approval{
		ID: id, TenantID: "acme", AgentID: agent, KeyID: key, Tool: "stripe.refund.create", Resource: "stripe:charge:ch_123", Risk: "high",
		Args: map[string]any{"amount": int64(9007199254740993)}, Required: 1, State: gate.ApprovalPending, CreatedAt: at, ExpiresAt: at.Add(time.Hour),
		Approvers: []string{"support-leads"}, EventID: "ev_1",
		Request: &evidence.Request{Method: "POST", Authority: "api.stripe.com:443", Path: "/v1/refunds", Bytes: 30},
		Votes:   []gate.Vote{{KeyID: "key_other", Name: "Ann", Decision: "approve", Time: at}},
	}
}

func (g *fakeGate) Authenticate(_ context.Context, secret, _ string) (gate.Identity, error) {
	if g.authErr != nil {
		return gate.Identity{}, g.authErr
	}
	id, ok := g.keys[secret]
	if !ok {
		return gate.Identity{}, fmt.Errorf("%w: unknown key", gate.ErrNotAllowed)
	}
	return id, nil
}

func (g *fakeGate) Preflight(_ context.Context, _ gate.Identity, p gate.Preflight) (evidence.Decision, bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.panics {
		panic("a fault in the gate")
	}
	g.asked = append(g.asked, p)
	return g.decision, g.refused, g.err
}

func (g *fakeGate) ReportOutcome(_ context.Context, _ gate.Identity, id, _, state string, status int, message string) error {
	time.Sleep(5 * time.Millisecond) // as a disk does, so that reports can overtake each other
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.outcomes = append(g.outcomes, fmt.Sprintf("%s %s %d %s", id, state, status, message))
	}
	return g.err
}

func (g *fakeGate) CreateKey(_ context.Context, actor gate.Identity, n gate.NewKey) (gate.Key, string, error) {
	k := gate.Key{ID: "key_new", TenantID: actor.TenantID, Name: n.Name, Role: n.Role, AgentID: n.AgentID, Groups: n.Groups, Mode: n.Mode, Prefix: "sk_live_abcd", CreatedAt: time.Now()}
	if n.TTL > 0 {
		k.ExpiresAt = k.CreatedAt.Add(n.TTL)
	}
	return k, "sk_live_abcdefgh", g.err
}

func (g *fakeGate) Keys(_ context.Context, actor gate.Identity, cursor string, limit int) ([]gate.Key, string, error) {
	if g.err != nil || cursor == "end" {
		return nil, "", g.err
	}
	return []gate.Key{{ID: "key_1", Name: "one", Role: gate.RoleAdmin, CreatedAt: time.Now(), RevokedAt: time.Now()}}, "end", nil
}

func (g *fakeGate) RevokeKey(_ context.Context, _ gate.Identity, id string) (gate.Key, error) {
	if g.err == nil && id != "key_1" {
		return gate.Key{}, fmt.Errorf("revoke key %s: %w", id, gate.ErrNotFound)
	}
	return gate.Key{}, g.err
}

func (g *fakeGate) Approvals(_ context.Context, actor gate.Identity, q gate.ApprovalQuery) ([]gate.Approval, string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queries = append(g.queries, q)
	var list []gate.Approval
	for _, a := range g.approvals {
		if q.AgentID == "" || a.AgentID == q.AgentID {
			list = append(list, a)
		}
	}
	return list, "", g.err
}

func (g *fakeGate) Approval(ctx context.Context, actor gate.Identity, id string, wait time.Duration) (gate.Approval, error) {
	if wait > 0 {
		select {
		case <-g.changed:
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	a, ok := g.approvals[id]
	if !ok {
		return gate.Approval{}, gate.ErrNotFound
	}
	return a, g.err
}

func (g *fakeGate) CameOf(context.Context, gate.Approval) (evidence.Outcome, bool, error) {
	if g.came == nil {
		return evidence.Outcome{}, false, cmp.Or(g.cameErr, gate.ErrNotFound)
	}
	return *g.came, g.byAgent, nil
}

func (g *fakeGate) Decide(_ context.Context, actor gate.Identity, id, decision, reason string, to []string) (gate.Approval, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a, ok := g.approvals[id]
	if !ok {
		return gate.Approval{}, gate.ErrNotFound
	}
	if g.err == nil {
		a.State = gate.ApprovalApproved
		a.Votes = append(a.Votes, gate.Vote{KeyID: actor.KeyID, Decision: decision, Reason: reason, Time: time.Now()})
		g.approvals[id] = a
		close(g.changed)
	}
	return a, g.err
}

func (g *fakeGate) PassportFor(_ context.Context, _ gate.Identity, a gate.Approval) (gate.Issued, error) {
	return gate.Issued{Token: "a.b.c", ID: "ap_" + a.ID, ExpiresAt: time.Now().Add(time.Minute)}, g.mintErr
}

func (g *fakeGate) IssuePassport(_ context.Context, _ gate.Identity, n gate.NewPassport) (gate.Issued, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wishes = append(g.wishes, n)
	return gate.Issued{Token: "a.b.c", ID: "ap_1", ExpiresAt: time.Now().Add(time.Minute)}, g.err
}

func (g *fakeGate) VerifyPassport(_ context.Context, _ gate.Identity, token, _ string) (*passport.Claims, error) {
	if g.err != nil || token != "a.b.c" {
		return nil, cmp.Or(g.err, error(&passport.Error{Code: passport.ReasonMalformed, Detail: "it is not a token of this form"}))
	}
	return &passport.Claims{ID: "ap_1", AllowedTools: []string{"t"}, AllowedResources: []string{"*"}}, nil
}

func (g *fakeGate) Passports(_ context.Context, _ gate.Identity, q gate.PassportQuery) ([]gate.Passport, string, error) {
	return []gate.Passport{{ID: "ap_1", AgentID: q.AgentID, IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Minute)}}, "", g.err
}

func (g *fakeGate) RevokePassport(context.Context, gate.Identity, string, string) error { return g.err }

func (g *fakeGate) JWKS() passport.JWKS { return passport.JWKS{Keys: []passport.JWK{}} }

func (g *fakeGate) Fault(kind string, _ error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.faults = append(g.faults, kind)
}

// fakeEvents is an index with a few events in it.
type fakeEvents struct {
	mu     sync.Mutex
	events map[string]string
	asked  []EventQuery
	behind error
	err    error
	report VerifyReport
	export func(context.Context, io.Writer, ExportQuery) error
}

func newFakeEvents() *fakeEvents {
	event := func(id, door, agent, key, rest string) string {
		return `{"decision":"allow","reason_code":"r","risk_tier":"high","explain":{"summary":"s","matched_rules":[],"next_steps":[]},"evidence_event_id":"` + id +
			`","mode":"monitor","enforcement":"none","would":{},"tool":"t","resource":"r","id":"` + id + `","kind":"action","time":"2026-01-31T09:00:00.000000Z","tenant_id":"acme","agent_id":"` + agent +
			`","key_id":"` + key + `","door":"` + door + `"` + rest + `,"log":{"index":3,"leaf_hash":"aGFzaA=="}}`
	}
	return &fakeEvents{
		events: map[string]string{
			"ev_pending":  event("ev_pending", "api", "support_agent", "key_gateway", `,"outcome":{"state":"pending","bytes":0}`),
			"ev_other":    event("ev_other", "api", "billing_agent", "key_billing", `,"outcome":{"state":"pending","bytes":0}`),
			"ev_question": event("ev_question", "api", "support_agent", "key_gateway", ``),
			"ev_carried":  event("ev_carried", "forward", "support_agent", "key_gateway", `,"outcome":{"state":"pending","bytes":0}`),
			"ev_blocked":  event("ev_blocked", "api", "support_agent", "key_gateway", `,"outcome":{"state":"blocked","bytes":0}`),
			"ev_done":     event("ev_done", "api", "support_agent", "key_gateway", `,"outcome":{"state":"forwarded","bytes":0}`),
			"ev_failed":   event("ev_failed", "api", "support_agent", "key_gateway", `,"outcome":{"state":"forwarded","bytes":0,"error":"failed"}`),
			"ev_unknown":  event("ev_unknown", "api", "support_agent", "key_gateway", `,"outcome":{"state":"ambiguous","bytes":0}`),
		},
		report: VerifyReport{OK: true, Records: 4, TreeSize: 7, Root: "cm9vdA=="},
	}
}

func (e *fakeEvents) Event(_ context.Context, tenant, id string) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return nil, e.err
	}
	b, ok := e.events[id]
	if !ok || tenant != "acme" {
		return nil, gate.ErrNotFound
	}
	return []byte(b), nil
}

func (e *fakeEvents) Events(_ context.Context, q EventQuery) ([]json.RawMessage, string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, q)
	if q.Cursor == "end" || e.err != nil {
		return nil, "", e.err
	}
	return []json.RawMessage{json.RawMessage(e.events["ev_pending"])}, "end", nil
}

func (e *fakeEvents) Decided(_ context.Context, q DecidedQuery) (Decided, error) {
	return CountDecided([]evidence.Event{{Kind: evidence.KindAction, TenantID: q.Tenant, Time: evidence.Time{Time: time.Now()}}}), e.err
}

func (e *fakeEvents) Counts(_ context.Context, tenant string, since time.Time, minutes bool) ([]Count, error) {
	if tenant != "acme" || e.err != nil {
		return nil, e.err
	}
	return []Count{{
		Start: evidence.Time{Time: since.Truncate(time.Hour)}, Tool: "stripe.refund.create", AgentID: "support_agent", Mode: "monitor",
		Decision: "deny", Enforcement: "none", Would: CountWould{Enforce: "block", Strict: "block"}, Mapping: "rule", Count: 3,
	}}, nil
}

func (e *fakeEvents) CatchUp(context.Context) error { return e.behind }
func (e *fakeEvents) Export(ctx context.Context, w io.Writer, q ExportQuery) error {
	if e.export == nil {
		_, err := io.WriteString(w, "{}\n")
		return err
	}
	return e.export(ctx, w, q)
}

func (e *fakeEvents) Verify(context.Context) (VerifyReport, error) { return e.report, e.err }

// api is an API under test, over fakes, at a real listener.
type api struct {
	t      *testing.T
	gate   *fakeGate
	events *fakeEvents
	opt    Options
	server *httptest.Server
}

func newAPI(t *testing.T, change ...func(*Options)) *api {
	a := &api{t: t, gate: newFakeGate(), events: newFakeEvents()}
	a.opt = Options{Gate: a.gate, Events: a.events, Version: "v0.0.0-test"}
	for _, f := range change {
		f(&a.opt)
	}
	a.server = httptest.NewUnstartedServer(nil)
	a.server.Config = NewServer(New(a.opt))
	a.server.Start()
	t.Cleanup(a.server.Close)
	return a
}

type answer struct {
	status int
	header http.Header
	body   string
}

// json reads a path like error.code out of the answer.
func (a answer) at(path string) any {
	var v any
	if json.Unmarshal([]byte(a.body), &v) != nil {
		return "not JSON: " + a.body
	}
	for name := range strings.SplitSeq(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(at) {
				return nil
			}
			v = at[i]
		default:
			return nil
		}
	}
	return v
}

func (a *api) call(method, path, key, body string, headers ...string) answer {
	a.t.Helper()
	req, err := http.NewRequest(method, a.server.URL+path, bytes.NewReader([]byte(body)))
	if err != nil {
		a.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	return a.send(req)
}

func (a *api) send(req *http.Request) answer {
	a.t.Helper()
	resp, err := a.server.Client().Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	checkAnswer(a.t, req.Method, req.URL.Path, resp, b)
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
		if got := resp.Header.Get(name); got != want {
			a.t.Errorf("%s %s: %s is %q", req.Method, req.URL.Path, name, got)
		}
	}
	if resp.Header.Get("X-Request-Id") == "" {
		a.t.Errorf("%s %s: no X-Request-Id", req.Method, req.URL.Path)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// want checks status, and for errors code and field.
func (a answer) want(t *testing.T, status int, code, field string) {
	t.Helper()
	if a.status != status {
		t.Errorf("status %d, want %d: %s", a.status, status, a.body)
		return
	}
	if code == "" {
		return
	}
	if got := a.at("error.code"); got != code {
		t.Errorf("code %v, want %s: %s", got, code, a.body)
	}
	if got, _ := a.at("error.field").(string); got != field {
		t.Errorf("field %q, want %q: %s", got, field, a.body)
	}
	if m, _ := a.at("error.message").(string); m == "" {
		t.Errorf("no message: %s", a.body)
	}
}
