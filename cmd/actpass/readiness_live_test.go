package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/policy"
)

// recordLog is a log in memory that counts what is read of it.
type recordLog struct {
	list  [][]byte
	first uint64
	reads int
}

func (l *recordLog) add(t *testing.T, at time.Time, tool string) {
	t.Helper()
	e := evidence.Event{ID: fmt.Sprintf("ev_%d", len(l.list)), Kind: evidence.KindAction, Time: evidence.Time{Time: at}, TenantID: "acme", AgentID: "a", Door: "forward"}
	e.Decision = evidence.Decision{Decision: "deny", ReasonCode: "policy.default", RiskTier: "low", Mode: "monitor", Enforcement: "none", Tool: tool}
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	l.list = append(l.list, b)
}

func (l *recordLog) read(from uint64, most int) (out []evidence.Entry, err error) {
	if from < l.first {
		return nil, ledger.ErrRemoved
	}
	for i := from; i < uint64(len(l.list)) && len(out) < min(most, 10); i++ {
		out = append(out, evidence.Entry{Index: i, Record: l.list[i]})
	}
	if most > 1 { // seek reads one at a time
		l.reads += len(out)
	}
	return out, nil
}

func (l *recordLog) size() uint64 { return uint64(len(l.list)) }

func rulesText(t *testing.T, decision string, overrides ...gate.Override) *gate.Rules {
	t.Helper()
	set, err := policy.Compile([]policy.Source{{Name: "p.yaml", Data: []byte(`
policies:
  - name: p
    version: 1
    tools: ["t*"]
    rules: [{ name: r, decision: ` + decision + `, reason_code: r.r }]
`)}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &gate.Rules{Policy: set, Mode: gate.ModeMonitor, Overrides: overrides, Identity: gate.Identity{TenantID: "acme"}}
}

func TestReadinessReadsWhatIsNew(t *testing.T) {
	now := time.Date(2026, 3, 9, 12, 30, 0, 0, time.UTC)
	log := &recordLog{}
	for i := range 100 {
		log.add(t, now.Add(time.Duration(i-100)*time.Minute), "t1")
	}
	var l studies
	rules := rulesText(t, "allow")
	ask := func(want, reads int, change func(q *api.ReadinessQuery)) {
		t.Helper()
		q := api.ReadinessQuery{Tenant: "acme", Mode: gate.ModeEnforce, Since: now.Add(-24 * time.Hour), Now: now}
		if change != nil {
			change(&q)
		}
		log.reads = 0
		got, err := l.ask(t.Context(), rules, q, log.read, log.size())
		if err != nil || got.Calls != want || log.reads != reads {
			t.Errorf("%d calls after %d reads, %v; want %d after %d", got.Calls, log.reads, err, want, reads)
		}
	}
	ask(100, 100, nil)
	ask(100, 0, nil)
	log.add(t, now, "t2")
	ask(101, 1, nil)
	ask(1, 0, func(q *api.ReadinessQuery) { q.Tool = "t2" })
	// By the hour, from within the last one.
	ask(31, 0, func(q *api.ReadinessQuery) { q.Since = now.Add(-10 * time.Minute) })
	// Earlier than what is kept.
	ask(101, 101, func(q *api.ReadinessQuery) { q.Since = now.Add(-48 * time.Hour) })
	ask(0, 101, func(q *api.ReadinessQuery) { q.Tenant = "globex" })
	ask(101, 101, func(q *api.ReadinessQuery) { q.Mode = gate.ModeStrict })
	ask(101, 0, nil)

	// An override that does not judge otherwise, and one that does.
	rules = rulesText(t, "allow", gate.Override{Tool: "t*", Mode: gate.ModeEnforce})
	ask(101, 0, nil)
	rules = rulesText(t, "allow", gate.Override{Tool: "t*", Mode: gate.ModeStrict})
	ask(101, 101, nil)
	rules = rulesText(t, "deny")
	ask(101, 101, nil)

	// Retention took what was next, while nobody asked.
	for i := range 20 {
		log.add(t, now.Add(time.Duration(i)*time.Second), "t1")
	}
	log.first, now = 110, now.Add(time.Minute)
	ask(11, 11, nil)

	// The study that was asked longest ago makes room.
	for _, tenant := range []string{"b", "c", "d", "e"} {
		ask(0, 11, func(q *api.ReadinessQuery) { q.Tenant = tenant })
	}
	if len(l.list) != maxStudies {
		t.Errorf("%d studies are kept", len(l.list))
	}
	l.mu.Lock() // each of them takes itself off the list
	for _, s := range l.list {
		s.idle.Reset(0)
	}
	l.mu.Unlock()
	for range 100 {
		if l.mu.Lock(); len(l.list) == 0 {
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("what nobody asks is kept")
}

// TestReadinessGoesOnByItself: a question that gave up is told how far the record is
// read; the reading goes on without it, once, and the next question finds it done.
func TestReadinessGoesOnByItself(t *testing.T) {
	now := time.Date(2026, 3, 9, 12, 30, 0, 0, time.UTC)
	log := &recordLog{}
	for range 3*piece - 10 {
		log.add(t, now.Add(-time.Minute), "t1")
	}
	var l studies
	at, on := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	slow := func(from uint64, most int) ([]evidence.Entry, error) {
		if most > 1 && from == piece {
			close(at)
			<-on
		}
		mu.Lock()
		defer mu.Unlock()
		return log.read(from, most)
	}
	q := api.ReadinessQuery{Tenant: "acme", Mode: gate.ModeEnforce, Since: now.Add(-24 * time.Hour), Now: now}
	rules := rulesText(t, "allow")
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-at; cancel() }()
		_, err := l.ask(ctx, rules, q, slow, log.size())
		var behind *api.Behind
		if !errors.As(err, &behind) || behind.Read != piece || behind.Size != log.size() || !errors.Is(err, context.Canceled) {
			t.Fatalf("it is not read yet, and says %v", err)
		}
	}
	close(on)
	s := l.list[0]
	read := func() uint64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.next
	}
	for range 500 {
		if read() == log.size() {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if read() != log.size() {
		t.Fatalf("nobody asks, and it is read up to %d", read())
	}
	got, err := l.ask(t.Context(), rules, q, slow, log.size())
	if err != nil || got.Calls != 3*piece-10 || log.reads > 3*piece+10 { // a few at the end of a piece are looked at twice
		t.Errorf("%d calls after %d reads, %v", got.Calls, log.reads, err)
	}
}

// TestAStudyThatEndsLetsGo: whoever waits for a study whose place is taken is told to
// ask again, and nobody goes on reading for it.
func TestAStudyThatEndsLetsGo(t *testing.T) {
	now := time.Date(2026, 3, 9, 12, 30, 0, 0, time.UTC)
	log := &recordLog{}
	for range 2 * piece {
		log.add(t, now.Add(-time.Minute), "t1")
	}
	var l studies
	at, on := make(chan struct{}), make(chan struct{})
	slow := func(from uint64, most int) ([]evidence.Entry, error) {
		if most > 1 && from == 0 {
			close(at)
			<-on
		}
		return log.read(from, most)
	}
	q := api.ReadinessQuery{Tenant: "acme", Mode: gate.ModeEnforce, Since: now.Add(-24 * time.Hour), Now: now}
	told := make(chan error)
	go func() {
		_, err := l.ask(t.Context(), rulesText(t, "allow"), q, slow, log.size())
		told <- err
	}()
	<-at
	s := l.list[0]
	l.drop(s)
	var behind *api.Behind
	if err := <-told; !errors.As(err, &behind) {
		t.Errorf("%v", err)
	}
	close(on)
	for range 500 { // the piece that was under way is read
		s.mu.Lock()
		next, reading := s.next, s.reading
		s.mu.Unlock()
		if next == piece && !reading {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("it is read up to %d, and on: %v", s.next, s.reading)
}
