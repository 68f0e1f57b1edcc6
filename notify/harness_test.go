package notify_test

import (
	"context"
	"crypto/sha256"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/notify"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/store"
)

const secret = "0123456789abcdef0123456789abcdef"

// bench is a notifier over a real store, gate and log, in one directory that
// survives restarts.
type bench struct {
	t     *testing.T
	dir   string
	store *store.SQLite
	gate  *gate.Gate
	log   *ledger.Log
	n     *notify.Notifier
	keys  map[string]string // name to id
	skew  atomic.Int64      // of the notifier's clock
	stop  func()
	count int
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, dir: t.TempDir(), keys: map[string]string{}}
	b.open()
	t.Cleanup(func() { b.close() })
	return b
}

func (b *bench) open() {
	b.t.Helper()
	var err error
	b.store, err = store.OpenSQLite(filepath.Join(b.dir, "actpass.db"), store.Options{})
	b.must(err)
	b.log, err = ledger.Open(filepath.Join(b.dir, "ledger"), ledger.Options{Async: true})
	b.must(err)
	b.gate, err = gate.New(gate.Options{Store: b.store, Recorder: b.log, RedactKey: make([]byte, 32)})
	b.must(err)
	maps, err := mapping.Compile(nil, mapping.Options{})
	b.must(err)
	policies, err := policy.Compile(nil, policy.Options{})
	b.must(err)
	b.gate.Load(&gate.Rules{Mapping: maps, Policy: policies, Mode: gate.ModeEnforce, MaxHolds: 100, MaxHoldsPerAgent: 100, Identity: gate.Identity{TenantID: "acme", AgentID: "bot"}})
	b.n = notify.New(notify.Options{
		Outbox: b.store, Gate: b.gate, Now: func() time.Time { return time.Now().Add(time.Duration(b.skew.Load())) },
		Client:  &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		Render:  func(a gate.Approval) any { return api.ApprovalOf(a, time.Now()) },
		Timeout: 500 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); b.n.Run(ctx) }()
	b.stop = func() { cancel(); <-done }
}

func (b *bench) close() {
	b.stop()
	if err := b.store.Close(); err != nil {
		b.t.Error(err)
	}
	if err := b.log.Close(); err != nil {
		b.t.Error(err)
	}
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// hook is a webhook to url with all events.
func hook(url string) notify.Webhook {
	return notify.Webhook{Name: "ops", URL: url, Secret: []byte(secret), Events: notify.Events}
}

func (b *bench) load(attempts int, hooks ...notify.Webhook) {
	b.t.Helper()
	b.must(b.n.Load(b.t.Context(), notify.Settings{Tenant: "acme", MaxAttempts: attempts, Webhooks: hooks}))
}

// ask opens an approval.
func (b *bench) ask(change func(*gate.Approval)) gate.Approval {
	b.t.Helper()
	b.count++
	now := time.Now()
	a := gate.Approval{
		ID: "apr_" + strconv.Itoa(b.count), TenantID: "acme", AgentID: "bot", KeyID: "key_bot", Fingerprint: "f" + strconv.Itoa(b.count),
		Tool: "stripe.refund.create", Resource: "stripe:charge:ch_1", Risk: "high", Goal: "help", UserID: "user_1",
		Args: map[string]any{"amount": int64(12000)}, Summary: "Policy p v1: require_approval.", Required: 1,
		CreatedAt: now, ExpiresAt: now.Add(time.Hour), UseWithin: time.Minute, Approvers: []string{"leads"},
	}
	if change != nil {
		change(&a)
	}
	got, _, err := b.store.OpenApproval(b.t.Context(), a, gate.Room{Tenant: 1000, Agent: 1000})
	b.must(err)
	return got
}

// key makes a key.
func (b *bench) key(name, role string, groups ...string) gate.Identity {
	b.t.Helper()
	k := gate.Key{ID: "key_" + name, TenantID: "acme", Name: name, Role: role, Groups: groups, CreatedAt: time.Now()}
	b.must(b.store.CreateKey(b.t.Context(), k, sha256.Sum256([]byte(name))))
	id, err := b.gate.KeyIdentity(b.t.Context(), k.ID)
	b.must(err)
	return id
}

func (b *bench) decide(id gate.Identity, approval, decision string, to ...string) {
	b.t.Helper()
	_, err := b.gate.Decide(b.t.Context(), id, approval, decision, "because", to)
	b.must(err)
}

// state is the state of an approval.
func (b *bench) state(id string) string {
	b.t.Helper()
	a, err := b.store.GetApproval(b.t.Context(), "acme", id)
	b.must(err)
	return a.State
}

// received is one delivery as a receiver saw it.
type received struct {
	id, event, signature string
	body                 []byte
}

// receiver keeps what arrives, and answers as it is told.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	got    []received
	answer func(w http.ResponseWriter, r *http.Request)
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		r.got = append(r.got, received{req.Header.Get(notify.HeaderDelivery), req.Header.Get(notify.HeaderEvent), req.Header.Get(notify.HeaderSignature), body})
		answer := r.answer
		r.mu.Unlock()
		if answer != nil {
			answer(w, req)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) say(f func(http.ResponseWriter, *http.Request)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]received(nil), r.got...)
}

// until waits for something to become true.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatal("never came: " + what)
}
