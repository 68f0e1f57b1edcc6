package notify_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/notify"
)

// TestEveryMoveIsTold: each move of an approval reaches the receiver once, in
// order, signed, with the approval as the API shows it.
func TestEveryMoveIsTold(t *testing.T) {
	b := newBench(t)
	r := newReceiver(t)
	b.load(3, hook(r.URL))
	ann, bob := b.key("ann", gate.RoleApprover, "leads", "bosses"), b.key("bob", gate.RoleApprover, "bosses")

	one := b.ask(func(a *gate.Approval) { a.Required = 2 })
	b.decide(ann, one.ID, gate.Escalate, "bosses")
	b.decide(ann, one.ID, gate.Approve)
	b.decide(bob, one.ID, gate.Approve)
	_, err := b.store.Consume(t.Context(), "acme", one.ID, "ev_1", time.Now())
	b.must(err)
	two := b.ask(nil)
	b.decide(ann, two.ID, gate.DenyIt)
	three := b.ask(nil)
	_, err = b.store.Cancel(t.Context(), "acme", three.ID, gate.Vote{KeyID: "system", Reason: "gone", Time: time.Now()})
	b.must(err)
	four := b.ask(nil)
	_, err = b.store.ExpireApprovals(t.Context(), four.ExpiresAt.Add(time.Second))
	b.must(err)

	want := []string{"apr_1 opened", "apr_1 escalated", "apr_1 voted", "apr_1 decided", "apr_1 consumed", "apr_2 opened", "apr_2 decided", "apr_3 opened", "apr_3 cancelled", "apr_4 opened", "apr_4 expired"}
	until(t, "all events", func() bool { return len(r.all()) >= len(want) })
	var got []string
	ids := map[string]bool{}
	for _, d := range r.all() {
		if err := notify.Verify([]byte(secret), d.signature, d.body, time.Now()); err != nil {
			t.Errorf("%s: %v", d.id, err)
		}
		var m struct {
			ID       string `json:"id"`
			Event    string `json:"event"`
			Approval struct {
				ID   string         `json:"id"`
				Args map[string]any `json:"args"`
			} `json:"approval"`
		}
		b.must(json.Unmarshal(d.body, &m))
		if m.ID != d.id || m.Event != d.event || m.Approval.Args["amount"] != 12000.0 {
			t.Errorf("header and body differ: %+v %s", d, d.body)
		}
		ids[d.id] = true
		got = append(got, m.Approval.ID+" "+m.Event)
	}
	// Up to eight are under way at once.
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || len(ids) != len(want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestOnlyWhatWasAskedFor(t *testing.T) {
	b := newBench(t)
	before := b.ask(nil) // nobody listens yet
	r := newReceiver(t)
	h := hook(r.URL)
	h.Events = []string{notify.EventDecided}
	b.load(3, h)
	admin := b.key("admin", gate.RoleAdmin)
	b.decide(admin, before.ID, gate.Approve)
	until(t, "the decision", func() bool { return len(r.all()) == 1 })
	time.Sleep(2 * 250 * time.Millisecond)
	if got := r.all(); len(got) != 1 || got[0].event != "decided" {
		t.Errorf("%+v", got)
	}
}

// TestFailingReceiver: down, 500, slow, redirecting: put off, with the same id
// and bytes, until it works.
func TestFailingReceiver(t *testing.T) {
	b := newBench(t)
	r := newReceiver(t)
	elsewhere := newReceiver(t)
	h := hook(r.URL)
	h.Events = []string{notify.EventOpened}
	b.load(10, h)
	fails := []func(http.ResponseWriter, *http.Request){
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, elsewhere.URL, http.StatusTemporaryRedirect)
		},
		func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() },
	}
	for _, f := range fails {
		r.say(f)
		n := len(r.all())
		if n == 0 {
			b.ask(nil)
		}
		until(t, "an attempt", func() bool { return len(r.all()) > n })
		until(t, "the delay", func() bool { // and go on without waiting for it
			list, _, err := b.store.Deliveries(t.Context(), notify.DeliveryQuery{TenantID: "acme"})
			b.must(err)
			return list[0].Attempts == n+1
		})
		if n == 0 { // what it is by now does not change what is being sent
			_, err := b.store.Cancel(t.Context(), "acme", "apr_1", gate.Vote{KeyID: "system", Reason: "gone", Time: time.Now()})
			b.must(err)
		}
		b.skew.Add(int64(20 * time.Minute))
	}
	r.say(nil)
	until(t, "the delivery", func() bool {
		list, _, err := b.store.Deliveries(t.Context(), notify.DeliveryQuery{TenantID: "acme", State: notify.Delivered})
		b.must(err)
		return len(list) == 1
	})
	got := r.all()
	for _, d := range got {
		if d.id != got[0].id || string(d.body) != string(got[0].body) {
			t.Errorf("another id or body: %+v", d)
		}
	}
	if len(got) != 5 || len(elsewhere.all()) != 0 {
		t.Errorf("%d attempts, %d at the address of the redirect", len(got), len(elsewhere.all()))
	}
	if got[0].signature == got[4].signature {
		t.Error("the signature's time did not move with the attempt")
	}
}

// TestDeadAndRetried: after the last attempt a delivery is dead, seen as such,
// and can be sent again by hand, under the same id.
func TestDeadAndRetried(t *testing.T) {
	b := newBench(t)
	r := newReceiver(t)
	r.say(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	b.load(1, hook(r.URL))
	b.ask(nil)
	var dead []notify.Delivery
	until(t, "the end", func() bool {
		var err error
		dead, _, err = b.n.Deliveries(t.Context(), notify.DeliveryQuery{TenantID: "acme", State: notify.Dead})
		b.must(err)
		return len(dead) == 1
	})
	if d := dead[0]; d.LastStatus != 503 || d.Attempts != 1 || !strings.Contains(d.LastError, "503") {
		t.Errorf("%+v", d)
	}
	if other, _, err := b.n.Deliveries(t.Context(), notify.DeliveryQuery{TenantID: "other"}); err != nil || len(other) != 0 {
		t.Errorf("another tenant sees it: %v %v", other, err)
	}
	r.say(nil)
	admin := b.key("admin", gate.RoleAdmin)
	if _, err := b.n.Retry(t.Context(), gate.Identity{TenantID: "other"}, dead[0].ID); !errors.Is(err, gate.ErrNotFound) {
		t.Errorf("another tenant retries it: %v", err)
	}
	_, err := b.n.Retry(t.Context(), admin, dead[0].ID)
	b.must(err)
	until(t, "the delivery", func() bool { return len(r.all()) == 2 })
	if got := r.all(); got[0].id != got[1].id {
		t.Errorf("another id: %+v", got)
	}
	until(t, "delivered", func() bool {
		_, err := b.n.Retry(t.Context(), admin, dead[0].ID)
		return errors.Is(err, gate.ErrIllegalState)
	})
}

// TestRestart: what was not delivered when the process ended is delivered by the
// next one, under the same id.
func TestRestart(t *testing.T) {
	b := newBench(t)
	r := newReceiver(t)
	arrived, hang := make(chan struct{}, 8), make(chan struct{})
	r.say(func(_ http.ResponseWriter, req *http.Request) {
		arrived <- struct{}{}
		select {
		case <-hang:
		case <-req.Context().Done():
		}
	})
	b.load(5, hook(r.URL))
	b.ask(nil)
	<-arrived
	b.close() // in the middle of the attempt
	close(hang)
	r.say(nil)
	b.open()
	b.load(5, hook(r.URL))
	until(t, "the second attempt", func() bool { return len(r.all()) == 2 })
	if got := r.all(); got[0].id != got[1].id || got[0].id == "" {
		t.Errorf("%+v", got)
	}
}

// TestChannelGone: a channel that left the configuration leaves dead letters, not
// a queue that nobody empties.
func TestChannelGone(t *testing.T) {
	b := newBench(t)
	b.load(5, hook("http://127.0.0.1:1/"))
	b.ask(nil)
	b.load(5)
	dead, _, err := b.store.Deliveries(t.Context(), notify.DeliveryQuery{TenantID: "acme", State: notify.Dead})
	b.must(err)
	if len(dead) != 1 || !strings.Contains(dead[0].LastError, "not configured") {
		t.Fatalf("%+v", dead)
	}
	if _, err := b.n.Retry(t.Context(), gate.Identity{TenantID: "acme"}, dead[0].ID); !errors.Is(err, gate.ErrIllegalState) {
		t.Errorf("%v", err)
	}
	b.ask(nil)
	list, _, err := b.store.Deliveries(t.Context(), notify.DeliveryQuery{TenantID: "acme"})
	b.must(err)
	if len(list) != 1 {
		t.Errorf("%+v", list)
	}
	if err := b.store.Forget(t.Context(), time.Now(), time.Now().Add(time.Hour), time.Now()); err != nil {
		t.Fatal(err)
	}
	if list, _, _ = b.store.Deliveries(t.Context(), notify.DeliveryQuery{TenantID: "acme"}); len(list) != 0 {
		t.Errorf("not forgotten: %+v", list)
	}
}

// TestForgetsWithoutAChannel: what channels of before left goes too, after the time
// that is set, and never where none is.
func TestForgetsWithoutAChannel(t *testing.T) {
	for keep, want := range map[time.Duration]bool{0: false, 10 * 24 * time.Hour: true, -1: false} {
		out := &forgetful{asked: make(chan time.Time, 1)}
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		n := notify.New(notify.Options{
			Outbox: out, Keep: keep, Now: func() time.Time { return now },
			Gate: (*gate.Gate)(nil), Client: http.DefaultClient, Render: func(gate.Approval) any { return nil },
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); n.Run(ctx) }()
		dead := <-out.asked
		stop()
		<-ended
		// Given up twenty days ago.
		if got := now.Add(-20 * 24 * time.Hour).Before(dead); got != want {
			t.Errorf("kept for %s: forgets what was given up before %s", keep, dead)
		}
	}
}

type forgetful struct {
	notify.Outbox
	asked chan time.Time
}

func (f *forgetful) Forget(_ context.Context, _, dead, _ time.Time) error {
	select {
	case f.asked <- dead:
	default:
	}
	return nil
}
