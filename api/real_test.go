package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/store"
)

// real is the API over a real gate, log and index, with the Stripe pack and the
// example policy.
type real struct {
	*api
	gate  *gate.Gate
	log   *ledger.Log
	rules gate.Rules
	admin string
}

// index is an EventSource over the store's event index.
type index struct {
	*store.Index
	log  *ledger.Log
	dir  string
	gate *gate.Gate
}

func (x index) Event(ctx context.Context, tenant, id string) ([]byte, error) {
	v, err := x.Index.Event(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func (x index) Events(ctx context.Context, q EventQuery) ([]json.RawMessage, string, error) {
	list, next, err := x.Index.Events(ctx, store.Query{
		Tenant: q.Tenant, Since: q.Since, Until: q.Until, Tool: q.Tool, Agent: q.Agent, Decision: q.Decision,
		Kind: q.Kind, State: q.State, Reason: q.Reason, Cursor: q.Cursor, Limit: q.Limit,
	})
	var items []json.RawMessage
	for _, v := range list {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, "", err
		}
		items = append(items, b)
	}
	return items, next, err
}

func (x index) Decided(ctx context.Context, q DecidedQuery) (Decided, error) {
	list, _, err := x.Index.Events(ctx, store.Query{Tenant: q.Tenant, Kind: evidence.KindAction, Limit: q.Last, Bare: true})
	var actions []evidence.Event
	for _, v := range list {
		actions = append(actions, v.Event)
	}
	return CountDecided(actions), err
}

func (x index) Counts(ctx context.Context, tenant string, since time.Time, minutes bool) ([]Count, error) {
	list, err := x.Index.Counts(ctx, tenant, since, minutes)
	var out []Count
	for _, c := range list {
		out = append(out, Count{Start: evidence.Time{Time: c.Start}, Tool: c.Tool, AgentID: c.Agent, Mode: c.Mode, Decision: c.Decision, Enforcement: c.Enforcement, Would: CountWould{Enforce: c.WouldEnforce, Strict: c.WouldStrict}, Mapping: c.Mapping, Count: c.N})
	}
	return out, err
}

func (x index) CatchUp(ctx context.Context) error {
	if err := x.log.Flush(ctx); err != nil {
		return err
	}
	return x.Index.CatchUp(ctx, x.log.Size())
}

func (x index) Export(ctx context.Context, w io.Writer, q ExportQuery) error {
	if err := x.log.Flush(ctx); err != nil {
		return err
	}
	_, err := x.log.ExportSelected(ctx, w, ledger.Selection{Tenant: q.Tenant, Since: q.Since, Until: q.Until, Owns: func(id string) (bool, error) {
		_, err := x.Index.Event(ctx, q.Tenant, id)
		if errors.Is(err, gate.ErrNotFound) {
			return false, nil
		}
		return err == nil, err
	}})
	return err
}

func (x index) Verify(context.Context) (VerifyReport, error) {
	r, err := ledger.VerifyDir(x.dir)
	return VerifyReport{OK: r.Fault == nil, Records: r.Size - r.First, TreeSize: r.Size, Root: r.Root, PublicKey: r.PublicKey}, err
}

func newReal(t *testing.T, mode string) *real {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pack, err := mapping.Pack("stripe")
	must(err)
	mapped, err := mapping.Compile([]mapping.Source{pack}, mapping.Options{})
	must(err)
	text, err := os.ReadFile("../policies/refund_policy.yaml")
	must(err)
	policies, err := policy.Compile([]policy.Source{{Name: "refund_policy.yaml", Data: text}}, policy.Options{})
	must(err)

	r := &real{}
	dir := t.TempDir()
	r.log, err = ledger.Open(filepath.Join(dir, "ledger"), ledger.Options{})
	must(err)
	ix, err := store.OpenIndex(filepath.Join(dir, "index.db"))
	must(err)
	r.gate, err = gate.New(gate.Options{Store: store.NewMemory(), Recorder: r.log, RedactKey: make([]byte, 32)})
	must(err)
	r.rules = gate.Rules{
		Mapping: mapped, Policy: policies, Mode: mode, MaxInspect: 1 << 20, MaxHolds: 100, MaxHoldsPerAgent: 100,
		Identity: gate.Identity{TenantID: "acme", AgentID: "support_agent", Source: gate.SourceConfig},
	}
	r.gate.Load(&r.rules)
	ctx, stop := context.WithCancel(context.Background())
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		if err := ix.Follow(ctx, r.log); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		stop()
		<-followed
		if err := errors.Join(ix.Close(), r.log.Close()); err != nil && !errors.Is(err, ledger.ErrClosed) {
			t.Error(err)
		}
	})
	r.api = newAPI(t, func(o *Options) { o.Gate, o.Events = r.gate, index{ix, r.log, filepath.Join(dir, "ledger"), r.gate} })
	_, r.admin, err = r.gate.CreateKey(ctx, gate.Identity{TenantID: "acme", Role: gate.RoleAdmin}, gate.NewKey{Name: "admin", Role: gate.RoleAdmin})
	must(err)
	return r
}

// key makes a key through the API.
func (r *real) key(t *testing.T, body string) (secret, id string) {
	t.Helper()
	got := r.call("POST", "/api/v1/keys", r.admin, body)
	got.want(t, 201, "", "")
	return got.at("key").(string), got.at("id").(string)
}

// refund is the body of a preflight of the contract's example, with an amount.
func refund(amount, more string) string {
	return `{"tool":"stripe.refund.create","resource":"stripe:charge:ch_123","args":{"amount":` + amount + `,"currency":"usd"},"agent_id":"support_agent","user_id":"user_456","goal":"resolve_refund_request"` + more + `}`
}

func TestTheContractsExample(t *testing.T) {
	r := newReal(t, gate.ModeMonitor)
	agent, _ := r.key(t, `{"name":"agent","role":"gateway"}`)
	got := r.call("POST", preflightPath, agent, refund("4900", `,"mode":"monitor"`))
	got.want(t, 200, "", "")
	var five map[string]any
	if err := json.Unmarshal([]byte(got.body), &five); err != nil {
		t.Fatal(err)
	}
	event := five["evidence_event_id"].(string)
	want := map[string]any{
		"decision": "allow", "reason_code": "refund.small_in_scope", "risk_tier": "high",
		"explain": map[string]any{"summary": "Policy refund_policy v3: allow.", "matched_rules": []any{"small_refund_auto_approve"}, "next_steps": []any{}},
	}
	for name, v := range want {
		if d := cmp.Diff(v, five[name]); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	if five["resource"] != "stripe:charge:ch_123" || five["tool"] != "stripe.refund.create" {
		t.Errorf("tool and resource: %s", got.body)
	}
	on := r.call("GET", "/api/v1/evidence/events/"+event, r.admin, "")
	on.want(t, 200, "", "")
	if on.at("door") != "api" || on.at("agent_id") != "support_agent" || on.at("user_id") != "user_456" || on.at("reason_code") != "refund.small_in_scope" {
		t.Error(on.body)
	}
}

func TestAnApprovalFromQuestionToAnswer(t *testing.T) {
	r := newReal(t, gate.ModeEnforce)
	agent, _ := r.key(t, `{"name":"agent","role":"gateway","agent_id":"support_agent"}`)
	lead, _ := r.key(t, `{"name":"Ann","role":"approver","group":"support-leads"}`)
	other, _ := r.key(t, `{"name":"Bob","role":"approver","group":"marketing"}`)

	got := r.call("POST", preflightPath, agent, refund("20000", ""))
	got.want(t, 200, "", "")
	id, _ := got.at("approval_request_id").(string)
	if got.at("decision") != "require_approval" || got.at("enforcement") != "hold" || !strings.HasPrefix(id, "apr_") {
		t.Fatal(got.body)
	}
	if again := r.call("POST", preflightPath, agent, refund("20000", "")); again.at("approval_request_id") != id {
		t.Errorf("the same question opened another approval: %s", again.body)
	}
	if bigger := r.call("POST", preflightPath, agent, refund("20001", "")); bigger.at("approval_request_id") == id {
		t.Error("another amount attached to the same approval")
	}

	path := "/api/v1/approvals/" + id
	r.call("POST", path+"/decide", agent, `{"decision":"approve"}`).want(t, 403, "forbidden", "")
	r.call("POST", path+"/decide", agent, `{"decision":"cancel","to":["support-leads"]}`).want(t, 400, "invalid_request", "to")
	r.call("POST", path+"/decide", other, `{"decision":"approve"}`).want(t, 403, "approval.not_allowed", "")
	done := make(chan answer)
	go func() { done <- r.call("GET", path+"?wait=20s", agent, "") }()
	time.Sleep(20 * time.Millisecond)
	r.call("POST", path+"/decide", lead, `{"decision":"approve","reason":"checked with the customer"}`).want(t, 200, "", "")
	seen := <-done
	if seen.at("state") != "approved" || seen.at("use_before") == nil {
		t.Error(seen.body)
	}
	r.call("POST", path+"/decide", lead, `{"decision":"deny"}`).want(t, 409, "approval.illegal_state", "")
	if got := ids(t, r.call("GET", "/api/v1/approvals?state=approved", agent, "")); len(got) != 1 || got[0] != id {
		t.Errorf("approved ones: %v", got)
	}
	moves := r.call("GET", "/api/v1/evidence/events?kind=approval", lead, "")
	moves.want(t, 200, "", "")
	if !strings.Contains(moves.body, "checked with the customer") {
		t.Errorf("the reason is not on record: %s", moves.body)
	}
}

// TestAKeyOfNoAgentCancelsItsOwnQuestionsOnly: a gateway key that is bound to no
// agent may name any in a question, and takes back none but its own.
func TestAKeyOfNoAgentCancelsItsOwnQuestionsOnly(t *testing.T) {
	r := newReal(t, gate.ModeEnforce)
	bound, _ := r.key(t, `{"name":"bound","role":"gateway","agent_id":"support_agent"}`)
	free, _ := r.key(t, `{"name":"free","role":"gateway"}`)
	other, _ := r.key(t, `{"name":"other","role":"gateway"}`)
	stranger, _ := r.key(t, `{"name":"stranger","role":"gateway","agent_id":"billing_agent"}`)
	const cancel = `{"decision":"cancel","reason":"mine"}`
	for asker, key := range map[string]string{"a bound key": bound, "an unbound key": free} {
		amount := map[string]string{"a bound key": "20000", "an unbound key": "20001"}[asker]
		id := r.call("POST", preflightPath, key, refund(amount, "")).at("approval_request_id").(string)
		path := "/api/v1/approvals/" + id
		for who, k := range map[string]string{"an unbound key": other, "another agent's key": stranger} {
			// As if there were no such question: whether there is one is not theirs to know.
			r.call("POST", path+"/decide", k, cancel).want(t, 404, "not_found", "")
			if state := r.call("GET", path, r.admin, "").at("state"); state != "pending" {
				t.Fatalf("%s made what %s asked %v", who, asker, state)
			}
		}
		r.call("POST", path+"/decide", key, cancel).want(t, 200, "", "")
		if state := r.call("GET", path, r.admin, "").at("state"); state != "cancelled" {
			t.Errorf("%s cancelled its own question, and it is %v", asker, state)
		}
	}
}

func TestARefusalIsTheSameObject(t *testing.T) {
	r := newReal(t, gate.ModeEnforce)
	agent, _ := r.key(t, `{"name":"agent","role":"gateway"}`)
	got := r.call("POST", preflightPath, agent, refund("60000", ""))
	got.want(t, 403, "", "")
	if got.at("decision") != "deny" || got.at("reason_code") != "refund.over_limit" {
		t.Error(got.body)
	}
	// A wrong type is judged as in traffic: it never allows.
	got = r.call("POST", preflightPath, agent, refund(`"1e3"`, ""))
	if got.status != 403 || got.at("decision") != "deny" {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestAKeyOfOneAgentDoesNotSpeakForAnother(t *testing.T) {
	r := newReal(t, gate.ModeMonitor)
	agent, _ := r.key(t, `{"name":"agent","role":"gateway","agent_id":"billing_agent"}`)
	r.call("POST", preflightPath, agent, refund("4900", "")).want(t, 403, "action.not_allowed", "")
}

func TestAnExecutedActionAwaitsItsOutcome(t *testing.T) {
	r := newReal(t, gate.ModeEnforce)
	agent, _ := r.key(t, `{"name":"agent","role":"gateway"}`)
	stranger, _ := r.key(t, `{"name":"stranger","role":"gateway"}`)
	event := r.call("POST", preflightPath, agent, refund("4900", `,"intent":"execute"`)).at("evidence_event_id").(string)
	question := r.call("POST", preflightPath, agent, refund("4900", "")).at("evidence_event_id").(string)
	r.call("POST", outcomePath(question), agent, `{"state":"succeeded"}`).want(t, 409, "action.illegal_state", "")
	r.call("POST", outcomePath(event), stranger, `{"state":"failed","status":402}`).want(t, 404, "not_found", "")
	r.call("POST", outcomePath(event), agent, `{"state":"succeeded","status":200}`).want(t, 200, "", "")
	r.call("POST", outcomePath(event), agent, `{"state":"succeeded","status":200}`).want(t, 200, "", "")
	r.call("POST", outcomePath(event), agent, `{"state":"failed","status":402}`).want(t, 409, "action.illegal_state", "")
	on := r.call("GET", "/api/v1/evidence/events/"+event, r.admin, "")
	if on.at("outcome.state") != "forwarded" || on.at("outcome.status") != float64(200) {
		t.Error(on.body)
	}
}

func TestARevokedKeyIsNoKey(t *testing.T) {
	r := newReal(t, gate.ModeMonitor)
	agent, id := r.key(t, `{"name":"agent","role":"gateway"}`)
	r.call("POST", preflightPath, agent, refund("1", "")).want(t, 200, "", "")
	r.call("DELETE", "/api/v1/keys/"+id, r.admin, "").want(t, 204, "", "")
	r.call("POST", preflightPath, agent, refund("1", "")).want(t, 401, "unauthenticated", "")
	listed := r.call("GET", "/api/v1/keys", r.admin, "")
	if strings.Contains(listed.body, agent) || !strings.Contains(listed.body, id) {
		t.Error(listed.body)
	}
}

func TestWithoutALogNothingIsDecided(t *testing.T) {
	r := newReal(t, gate.ModeEnforce)
	agent, _ := r.key(t, `{"name":"agent","role":"gateway"}`)
	if err := r.log.Close(); err != nil {
		t.Fatal(err)
	}
	r.call("POST", preflightPath, agent, refund("4900", "")).want(t, 503, "evidence.unavailable", "")
	r.call("POST", "/api/v1/keys", r.admin, `{"name":"n","role":"admin"}`).want(t, 503, "store.unavailable", "")
}

func TestTheLogVerifies(t *testing.T) {
	r := newReal(t, gate.ModeMonitor)
	r.key(t, `{"name":"agent","role":"gateway"}`)
	got := r.call("GET", "/api/v1/evidence/verify", r.admin, "")
	if got.at("ok") != true || got.at("records") != float64(2) {
		t.Error(got.body)
	}
}
