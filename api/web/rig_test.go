package web

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/store"
	"github.com/actpass/sidecar/whatif"
)

// rig is the dashboard over a real API, gate, log and index.
// unreadTool is one whose record takes longer to read than a page waits.
const unreadTool = "unread.tool"

// slowTool is one whose review takes longer than a page waits.
const slowTool = "slow.tool"

type rig struct {
	t    *testing.T
	gate *gate.Gate
	log  *ledger.Log
	opt  api.Options
	api  http.Handler
	dash *Dashboard
	url  string
}

type events struct {
	*store.Index
	log             *ledger.Log
	dir             string
	gate            *gate.Gate
	api.EventSource // Simulate is not asked
}

func (e events) Readiness(_ context.Context, q api.ReadinessQuery) (out whatif.Readiness, err error) {
	if q.Tool == unreadTool {
		return out, &api.Behind{Read: 1, Size: 4, Err: context.DeadlineExceeded}
	}
	s, err := whatif.NewReadiness(whatif.ReadinessOptions{
		Rules: e.gate.Rules(), Mode: q.Mode, Tenant: q.Tenant, Since: q.Since, Now: q.Now, Tool: q.Tool, Agent: q.Agent, MinDays: q.MinDays, MaxHolds: q.MaxHolds, Limit: q.Limit,
	})
	if err != nil {
		return out, err
	}
	list, err := e.log.Read(0, 1000)
	for _, entry := range list {
		err = errors.Join(err, s.Add(entry.Record))
	}
	return s.Report(), err
}

func (e events) Review(ctx context.Context, q api.ReviewQuery) (out whatif.ReviewReport, err error) {
	if q.Tool == slowTool {
		select {
		case <-time.After(judgeWait + 500*time.Millisecond):
		case <-ctx.Done():
			return out, ctx.Err()
		}
	}
	inForce := e.gate.Rules()
	walk, err := whatif.NewWalk(inForce.With(inForce.Policy, q.Mode, q.Tenant), func(s []policy.Source) (*policy.Set, error) { return policy.Compile(s, policy.Options{}) }, nil)
	if err != nil {
		return out, err
	}
	out, err = walk.Retrace(q.Answers, q.Limit, func(rules *gate.Rules) (*whatif.Review, error) {
		s, err := whatif.NewReview(whatif.Options{Rules: rules, Tenant: q.Tenant, Since: q.Since, Until: q.Until, Tool: q.Tool, Agent: q.Agent})
		if err != nil {
			return nil, err
		}
		list, err := e.log.Read(0, 1000)
		for _, entry := range list {
			err = errors.Join(err, s.Add(entry.Record))
		}
		return s, err
	})
	for name, text := range walk.Texts() {
		out.Patch += text.Patch(name)
	}
	return out, err
}

func (e events) Event(ctx context.Context, tenant, id string) ([]byte, error) {
	v, err := e.Index.Event(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func (e events) Events(ctx context.Context, q api.EventQuery) (items []json.RawMessage, next string, err error) {
	list, next, err := e.Index.Events(ctx, store.Query{
		Tenant: q.Tenant, Since: q.Since, Until: q.Until, Tool: q.Tool, Agent: q.Agent, Decision: q.Decision,
		Kind: q.Kind, State: q.State, Reason: q.Reason, Cursor: q.Cursor, Limit: q.Limit,
	})
	for _, v := range list {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, "", err
		}
		items = append(items, b)
	}
	return items, next, err
}

func (e events) Counts(ctx context.Context, tenant string, since time.Time, minutes bool) (out []api.Count, err error) {
	list, err := e.Index.Counts(ctx, tenant, since, minutes)
	for _, c := range list {
		out = append(out, api.Count{
			Start: evidence.Time{Time: c.Start}, Tool: c.Tool, AgentID: c.Agent, Mode: c.Mode, Decision: c.Decision, Enforcement: c.Enforcement,
			Would: api.CountWould{Enforce: c.WouldEnforce, Strict: c.WouldStrict}, Mapping: c.Mapping, Count: c.N,
		})
	}
	return out, err
}

func (e events) Decided(ctx context.Context, q api.DecidedQuery) (api.Decided, error) {
	list, _, err := e.Index.Events(ctx, store.Query{Tenant: q.Tenant, Kind: evidence.KindAction, Limit: q.Last, Bare: true})
	var actions []evidence.Event
	for _, v := range list {
		actions = append(actions, v.Event)
	}
	return api.CountDecided(actions), err
}

func (e events) CatchUp(ctx context.Context) error {
	if err := e.log.Flush(ctx); err != nil {
		return err
	}
	return e.Index.CatchUp(ctx, e.log.Size())
}

func (e events) Verify(context.Context) (api.VerifyReport, error) {
	r, err := ledger.VerifyDir(e.dir)
	return api.VerifyReport{OK: r.Fault == nil, Records: r.Size - r.First, TreeSize: r.Size, Root: r.Root, PublicKey: r.PublicKey}, err
}

func newRig(t *testing.T, change ...func(*Options)) *rig {
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
	text, err := os.ReadFile("../../policies/refund_policy.yaml")
	must(err)
	policies, err := policy.Compile([]policy.Source{{Name: "refund_policy.yaml", Data: text}}, policy.Options{})
	must(err)
	r := &rig{t: t}
	dir := t.TempDir()
	r.log, err = ledger.Open(filepath.Join(dir, "ledger"), ledger.Options{})
	must(err)
	ix, err := store.OpenIndex(filepath.Join(dir, "index.db"))
	must(err)
	r.gate, err = gate.New(gate.Options{Store: store.NewMemory(), Recorder: r.log, RedactKey: make([]byte, 32)})
	must(err)
	r.gate.Load(&gate.Rules{
		Mapping: mapped, Policy: policies, Mode: "enforce", MaxInspect: 1 << 20, MaxHolds: 100, MaxHoldsPerAgent: 100,
		Identity: gate.Identity{TenantID: "acme", AgentID: "support_agent", Source: gate.SourceConfig},
	})
	ctx, stop := context.WithCancel(context.Background())
	followed := make(chan struct{})
	go func() { defer close(followed); _ = ix.Follow(ctx, r.log) }()
	r.opt = api.Options{Gate: r.gate, Events: events{Index: ix, gate: r.gate, log: r.log, dir: filepath.Join(dir, "ledger")}}
	r.api = api.New(r.opt)
	o := Options{API: r.api, Gate: r.gate, Evidence: oneLog{r.log}, Version: "test", Addresses: func() Addresses {
		return Addresses{Proxy: "127.0.0.1:8080", API: "127.0.0.1:8090", CAFile: "ca.pem"}
	}}
	for _, f := range change {
		f(&o)
	}
	r.dash = New(o)
	srv := httptest.NewServer(r.dash)
	r.url = srv.URL
	t.Cleanup(func() {
		r.dash.Close()
		srv.Close()
		stop()
		<-followed
		_ = ix.Close()
		_ = r.log.Close()
	})
	return r
}

// remake gives the dashboard another API over the same gate and log.
func (r *rig) remake(change func(*api.Options)) {
	change(&r.opt)
	r.api = api.New(r.opt)
	r.dash.API = r.api
}

// key makes a key of a tenant.
func (r *rig) key(tenant, role string, groups ...string) (id, secret string) {
	r.t.Helper()
	k, secret, err := r.gate.CreateKey(context.Background(), gate.Identity{TenantID: tenant, Role: gate.RoleAdmin, KeyID: "key_root"}, gate.NewKey{Name: tenant + " " + role, Role: role, Groups: groups})
	if err != nil {
		r.t.Fatal(err)
	}
	return k.ID, secret
}

// ask puts a preflight and gives the decision's ids.
func (r *rig) ask(secret string, a api.Action) (event, approval string) {
	r.t.Helper()
	d, _, err := api.NewClient("http://api.invalid", secret, &http.Client{Transport: inProcess{r.api, "127.0.0.1:1"}}).Preflight(context.Background(), a)
	if err != nil {
		r.t.Fatal(err)
	}
	return d.EvidenceEventID, d.ApprovalRequestID
}

func refund(amount int) api.Action {
	return api.Action{Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", Args: map[string]any{"amount": amount, "currency": "usd"}, AgentID: "support_agent", UserID: "user_1", Goal: "a goal"}
}

// browser keeps cookies and follows no redirects.
type browser struct {
	*rig
	client *http.Client
}

func (r *rig) browser() *browser {
	jar, _ := cookiejar.New(nil)
	return &browser{r, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

type reply struct {
	status int
	header http.Header
	body   string
}

func (b *browser) do(req *http.Request) reply {
	b.t.Helper()
	resp, err := b.client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(body)}
}

func (b *browser) get(path string, headers ...string) reply {
	b.t.Helper()
	req, err := http.NewRequest(http.MethodGet, b.url+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return b.do(req)
}

func (b *browser) post(path string, form url.Values, headers ...string) reply {
	b.t.Helper()
	req, err := http.NewRequest(http.MethodPost, b.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return b.do(req)
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

func (b *browser) token(path string) string {
	b.t.Helper()
	m := csrfField.FindStringSubmatch(b.get(path).body)
	if m == nil {
		b.t.Fatalf("%s has no form", path)
	}
	return m[1]
}

// signedIn is a browser with a session.
func (r *rig) signedIn(secret string) *browser {
	r.t.Helper()
	b := r.browser()
	got := b.post("/ui/signin", url.Values{"csrf": {b.token("/ui/signin")}, "key": {secret}})
	if got.status != http.StatusSeeOther {
		r.t.Fatalf("sign-in answers %d: %s", got.status, got.body)
	}
	return b
}

// oneLog is a log as the dashboard asks of it.
type oneLog struct{ *ledger.Log }

func (l oneLog) Proof(_ context.Context, _ string, index uint64) (evidence.Proof, string, error) {
	p, err := l.Log.Proof(index)
	return p, l.PublicKey(), err
}
