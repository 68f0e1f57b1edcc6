package notify_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/notify"
)

// wordOn is the body of a callback.
func wordOn(approval, decision, actor string, to ...string) string {
	b, err := json.Marshal(map[string]any{"approval_request_id": approval, "decision": decision, "actor": actor, "reason": "looked at it", "to": to})
	if err != nil {
		panic(err)
	}
	return strings.Replace(string(b), `,"to":null`, "", 1)
}

func headers(signature, id string) http.Header {
	h := http.Header{}
	h.Set(notify.HeaderSignature, signature)
	h.Set(notify.HeaderDelivery, id)
	return h
}

// call sends a callback as a genuine sender does.
func (b *bench) call(id, body string) (gate.Approval, error) {
	return b.n.Callback(b.t.Context(), "ops", headers(notify.Sign([]byte(secret), time.Now(), []byte(body)), id), []byte(body))
}

// withActors is a bench with a webhook of three people.
func withActors(t *testing.T) *bench {
	b := newBench(t)
	h := hook("http://127.0.0.1:1/")
	h.Actors = map[string]string{"ann@x": "key_ann", "bob@x": "key_bob", "eve@x": "key_eve", "bot@x": "key_bot", "gone@x": "key_gone"}
	b.load(100, h)
	b.key("ann", gate.RoleApprover, "leads")
	b.key("bob", gate.RoleApprover, "leads", "bosses")
	b.key("eve", gate.RoleApprover, "others")
	b.key("bot", gate.RoleAdmin)
	return b
}

// notes are the refused words on record.
func (b *bench) notes() (out []map[string]string) {
	b.t.Helper()
	b.must(b.log.Flush(b.t.Context()))
	r, err := ledger.OpenReader(filepath.Join(b.dir, "ledger"))
	b.must(err)
	list, err := r.Read(0, 1000)
	b.must(err)
	for _, entry := range list {
		var e evidence.Event
		if json.Unmarshal(entry.Record, &e) == nil && e.Message == "word on an approval refused" {
			out = append(out, e.Data)
		}
	}
	return out
}

func TestCallbackDecides(t *testing.T) {
	b := withActors(t)
	a := b.ask(func(a *gate.Approval) { a.Required = 2 })
	got, err := b.call("c1", wordOn(a.ID, "approve", "ann@x"))
	b.must(err)
	if got.State != gate.ApprovalPending {
		t.Fatalf("one of two: %s", got.State)
	}
	if _, err := b.call("c2", " "+wordOn(a.ID, "approve", "ann@x")); !errors.Is(err, gate.ErrIllegalState) {
		t.Errorf("the same key twice: %v", err)
	}
	got, err = b.call("c3", wordOn(a.ID, "escalate", "bob@x", "bosses"))
	b.must(err)
	if got.Approvers[0] != "bosses" {
		t.Errorf("%v", got.Approvers)
	}
	got, err = b.call("c4", wordOn(a.ID, "approve", "bob@x"))
	b.must(err)
	last := got.Votes[len(got.Votes)-1]
	if got.State != gate.ApprovalPending || last.KeyID != "key_bob" || last.Reason != "looked at it (bob@x by ops)" {
		t.Errorf("one of two bosses, and a word of before the escalation: %+v", got)
	}
	other := b.ask(func(a *gate.Approval) { a.Approvers = []string{"bosses"} })
	got, err = b.call("c5", wordOn(other.ID, "approve", "bob@x"))
	b.must(err)
	if got.State != gate.ApprovalApproved {
		t.Errorf("the one boss who was asked: %s", got.State)
	}
	third := b.ask(nil)
	got, err = b.call("c6", wordOn(third.ID, "cancel", "ann@x"))
	b.must(err)
	if got.State != gate.ApprovalCancelled || got.Votes[0].Reason != "looked at it (ann@x by ops)" {
		t.Errorf("cancelled: %+v", got)
	}
	if _, err := b.call("c7", wordOn(third.ID, "cancel", "ann@x", "bosses")); err == nil {
		t.Error("groups belong to escalate")
	}
}

// TestWordsThatDoNotCount: the rules for who may decide hold as on the API, and
// each such word is on record.
func TestWordsThatDoNotCount(t *testing.T) {
	b := withActors(t)
	a := b.ask(nil)
	cases := []struct {
		actor string
		want  error
	}{
		{"mallory@x", notify.ErrActor},
		{"ANN@x", notify.ErrActor},
		{"eve@x", gate.ErrNotAllowed},  // another group
		{"bot@x", gate.ErrNotAllowed},  // the agent's own key, admin or not
		{"gone@x", gate.ErrNotAllowed}, // there is no such key
	}
	for i, c := range cases {
		if _, err := b.call(fmt.Sprint("c", i), wordOn(a.ID, "approve", c.actor)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.actor, err)
		}
	}
	_, err := b.gate.RevokeKey(t.Context(), gate.Identity{TenantID: "acme"}, "key_ann")
	b.must(err)
	if _, err := b.call("c9", wordOn(a.ID, "approve", "ann@x")); !errors.Is(err, gate.ErrNotAllowed) {
		t.Errorf("a revoked key: %v", err)
	}
	if b.state(a.ID) != gate.ApprovalPending {
		t.Error(b.state(a.ID))
	}
	notes := b.notes()
	if len(notes) != len(cases)+1 || notes[0]["actor"] != "mallory@x" || notes[0]["approval_id"] != a.ID || notes[0]["channel"] != "ops" {
		t.Errorf("on record: %v", notes)
	}
}

// TestForgedCallbacks: forged, altered, old, early and reflected ones change
// nothing, and leave nothing behind.
func TestForgedCallbacks(t *testing.T) {
	b := withActors(t)
	r := newReceiver(t)
	h := hook(r.URL)
	h.Actors = map[string]string{"ann@x": "key_ann"}
	b.load(3, h)
	a := b.ask(nil)
	body := wordOn(a.ID, "approve", "ann@x")
	now := time.Now()
	sign := func(key string, at time.Time, body string) string { return notify.Sign([]byte(key), at, []byte(body)) }
	good := sign(secret, now, body)
	_, mac, _ := strings.Cut(good, ",v1=")
	until(t, "our own delivery", func() bool { return len(r.all()) == 1 })
	ours := r.all()[0]
	cases := map[string]struct {
		name, signature, body string
		field                 bool
	}{
		"none":                  {"ops", "", body, false},
		"another secret":        {"ops", sign("another secret of 32 characters!", now, body), body, false},
		"no secret":             {"ops", sign("", now, body), body, false},
		"altered body":          {"ops", good, strings.Replace(body, "approve", "deny", 1), false},
		"a space more":          {"ops", good, body + " ", false},
		"another time":          {"ops", fmt.Sprintf("t=%d,v1=%s", now.Unix()+1, mac), body, false},
		"two times":             {"ops", fmt.Sprintf("t=%d,%s", now.Unix()+1, good), body, false},
		"spelt time":            {"ops", strings.Replace(good, "t=", "t=+", 1), body, false},
		"cut":                   {"ops", good[:len(good)-2], body, false},
		"no v1":                 {"ops", strings.Replace(good, "v1", "v0", 1), body, false},
		"too many":              {"ops", strings.Repeat("v1=00,", 5) + good, body, false},
		"old":                   {"ops", sign(secret, now.Add(-5*time.Minute-2*time.Second), body), body, false},
		"early":                 {"ops", sign(secret, now.Add(5*time.Minute+2*time.Second), body), body, false},
		"another channel":       {"other", good, body, false},
		"our own, sent back":    {"ops", ours.signature, string(ours.body), true},
		"unknown member":        {"ops", sign(secret, now, `{"x":1,`+body[1:]), `{"x":1,` + body[1:], true},
		"a member twice":        {"ops", sign(secret, now, `{"actor":"x",`+body[1:]), `{"actor":"x",` + body[1:], true},
		"another word":          {"ops", sign(secret, now, wordOn(a.ID, "allow", "ann@x")), wordOn(a.ID, "allow", "ann@x"), true},
		"groups without escape": {"ops", sign(secret, now, wordOn(a.ID, "approve", "ann@x", "g")), wordOn(a.ID, "approve", "ann@x", "g"), true},
	}
	for name, c := range cases {
		_, err := b.n.Callback(t.Context(), c.name, headers(c.signature, "c1"), []byte(c.body))
		var field *gate.FieldError
		if c.field && !errors.As(err, &field) || !c.field && !errors.Is(err, notify.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	twice := headers(good, "c1")
	twice[http.CanonicalHeaderKey(notify.HeaderSignature)] = []string{good, good}
	if _, err := b.n.Callback(t.Context(), "ops", twice, []byte(body)); !errors.Is(err, notify.ErrSignature) {
		t.Errorf("two headers: %v", err)
	}
	if b.state(a.ID) != gate.ApprovalPending || len(b.notes()) != 0 {
		t.Errorf("%s, on record: %v", b.state(a.ID), b.notes())
	}
	// And it was refused for these reasons, not for others.
	if _, err := b.n.Callback(t.Context(), "ops", headers(good, "c1"), []byte(body)); err != nil {
		t.Errorf("the genuine one: %v", err)
	}
}

// TestReplays: a callback counts once, whichever part of it comes again.
func TestReplays(t *testing.T) {
	b := withActors(t)
	a := b.ask(func(a *gate.Approval) { a.Required = 3 })
	body := wordOn(a.ID, "escalate", "ann@x", "leads") // may be said many times
	signature := notify.Sign([]byte(secret), time.Now(), []byte(body))
	send := func(signature, id string) error {
		_, err := b.n.Callback(context.Background(), "ops", headers(signature, id), []byte(body))
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = send(signature, "c1") })
	}
	wg.Wait()
	taken := 0
	for _, err := range errs {
		switch {
		case err == nil:
			taken++
		case !errors.Is(err, notify.ErrReplayed):
			t.Error(err)
		}
	}
	if taken != 1 {
		t.Errorf("%d of 8 copies were taken", taken)
	}
	for name, err := range map[string]error{
		"under another id":     send(signature, "c2"),
		"spelt otherwise":      send(strings.ToUpper(signature[strings.Index(signature, "v1=")+3:]), "c3"),
		"upper case, with t":   send(signature[:strings.Index(signature, "v1=")+3]+strings.ToUpper(signature[strings.Index(signature, "v1=")+3:]), "c4"),
		"with one more v1":     send(signature+",v1=00", "c5"),
		"signed anew, same id": send(notify.Sign([]byte(secret), time.Now().Add(-time.Minute), []byte(body)), "c1"),
	} {
		if name == "spelt otherwise" {
			if !errors.Is(err, notify.ErrSignature) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, notify.ErrReplayed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.close() // and it is remembered
	b.open()
	h := hook("http://127.0.0.1:1/")
	h.Actors = map[string]string{"ann@x": "key_ann"}
	b.load(100, h)
	if err := send(signature, "c6"); !errors.Is(err, notify.ErrReplayed) {
		t.Errorf("after a restart: %v", err)
	}
	got, err := b.store.GetApproval(t.Context(), "acme", a.ID)
	b.must(err)
	if len(got.Votes) != 1 {
		t.Errorf("%d votes", len(got.Votes))
	}
	if err := send(notify.Sign([]byte(secret), time.Now().Add(time.Second), []byte(body)), "c7"); err != nil {
		t.Errorf("a new one: %v", err)
	}
}

// brokenGate cannot reach its store.
type brokenGate struct {
	notify.Gate
	broken bool
}

func (g *brokenGate) Decide(ctx context.Context, actor gate.Identity, id, decision, reason string, to []string) (gate.Approval, error) {
	if g.broken {
		return gate.Approval{}, errors.New("disk full")
	}
	return g.Gate.Decide(ctx, actor, id, decision, reason, to)
}

// TestStoreDown: a word that could not be stored can be sent again as it is.
func TestStoreDown(t *testing.T) {
	b := withActors(t)
	a := b.ask(nil)
	broken := &brokenGate{b.gate, true}
	b.n.Gate = broken
	body := wordOn(a.ID, "approve", "ann@x")
	signature := notify.Sign([]byte(secret), time.Now(), []byte(body))
	send := func() error {
		_, err := b.n.Callback(t.Context(), "ops", headers(signature, "c1"), []byte(body))
		return err
	}
	if err := send(); err == nil || errors.Is(err, notify.ErrReplayed) {
		t.Fatal(err)
	}
	broken.broken = false
	if err := send(); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := send(); !errors.Is(err, notify.ErrReplayed) {
		t.Errorf("a third time: %v", err)
	}
}
