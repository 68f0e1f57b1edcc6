package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
)

// sliceLog is a log in memory.
type sliceLog struct {
	mu      sync.Mutex
	key     string
	first   uint64
	records [][]byte
	grown   chan struct{}
	fail    error
}

func newSliceLog(key string) *sliceLog { return &sliceLog{key: key, grown: make(chan struct{})} }

func (l *sliceLog) add(records ...[]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, records...)
	close(l.grown)
	l.grown = make(chan struct{})
}

func (l *sliceLog) PublicKey() string { return l.key }

func (l *sliceLog) First() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}

func (l *sliceLog) Size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.records))
}

func (l *sliceLog) Wait(ctx context.Context, n uint64) error {
	for {
		l.mu.Lock()
		size, grown := uint64(len(l.records)), l.grown
		l.mu.Unlock()
		if size > n {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *sliceLog) Read(from uint64, max int) ([]evidence.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return nil, l.fail
	}
	var out []evidence.Entry
	for i := from; i < uint64(len(l.records)) && len(out) < max; i++ {
		out = append(out, evidence.Entry{Index: i, LeafHash: evidence.LeafHash(l.records[i]).String(), Record: l.records[i]})
	}
	return out, nil
}

var _ Source = (*ledger.Log)(nil)

func encode(t testing.TB, r interface{ Encode() ([]byte, error) }) []byte {
	t.Helper()
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func record(t testing.TB, r interface {
	Record() (evidence.Record, error)
},
) evidence.Record {
	t.Helper()
	rec, err := r.Record()
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

var indexStart = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func action(i int, change ...func(*evidence.Event)) *evidence.Event {
	e := &evidence.Event{
		Decision: evidence.Decision{
			Decision: "allow", ReasonCode: "refund.small_in_scope", RiskTier: "high", EvidenceEventID: fmt.Sprintf("ev_%06d", i),
			Explain: evidence.Explain{Summary: "Policy refund_policy v3: allow.", MatchedRules: []string{"small_refund_auto_approve"}, NextSteps: []string{}},
			Mode:    "monitor", Enforcement: "none", Would: map[string]string{"enforce": "none", "strict": "block", "warn": "none"},
			PolicyHash: "sha256:0123456789abcdef", MappingHash: "sha256:0123456789abcdef",
			Tool: "stripe.refund.create", Resource: "stripe:charge:ch_123",
		},
		ID: fmt.Sprintf("ev_%06d", i), Kind: evidence.KindAction, Time: evidence.Time{Time: indexStart.Add(time.Duration(i) * time.Second)},
		TenantID: "acme", AgentID: "support_agent", UserID: "user_456", Goal: "resolve_refund_request", IdentitySource: "config", Door: "forward",
		Request: &evidence.Request{Method: "POST", Authority: "api.stripe.com", Path: "/v1/refunds", ContentType: "application/x-www-form-urlencoded", BodySHA256: strings.Repeat("ab", 32), Bytes: 44},
		Args:    map[string]any{"amount": int64(4900 + i), "currency": "usd", "charge": "ch_123"},
		Rule:    &evidence.Position{File: "policies/refunds.yaml", Line: 6, Name: "small_refund_auto_approve"},
		Outcome: &evidence.Outcome{State: evidence.StatePending},
	}
	for _, c := range change {
		c(e)
	}
	return e
}

func outcomeOf(i int, state string, status int) *evidence.OutcomeRecord {
	return &evidence.OutcomeRecord{
		Kind: evidence.KindOutcome, EventID: fmt.Sprintf("ev_%06d", i), Time: evidence.Time{Time: indexStart.Add(time.Hour)},
		Outcome: evidence.Outcome{State: state, Status: status, Bytes: 311, DurationMS: 1.25},
	}
}

// follow runs Follow until the test ends and returns what stops it.
func follow(t testing.TB, ix *Index, src Source) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ix.Follow(ctx, src) }()
	once := sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { once() })
	return once
}

func openIndex(t testing.TB, path string) *Index {
	t.Helper()
	ix, err := OpenIndex(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ix.Close() })
	return ix
}

func catchUp(t testing.TB, ix *Index, n uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := ix.CatchUp(ctx, n); err != nil {
		t.Fatalf("%v (%v)", err, ix.Err())
	}
}

func ids(list []View) (ids []string) {
	for _, v := range list {
		ids = append(ids, v.ID)
	}
	return ids
}

func TestIndexFollowsTheLedger(t *testing.T) {
	dir := t.TempDir()
	log, err := ledger.Open(filepath.Join(dir, "evidence"), ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ix := openIndex(t, filepath.Join(dir, "index.db"))
	stop := follow(t, ix, log)

	ctx := context.Background()
	e := action(1)
	entry, err := log.Append(ctx, record(t, e))
	if err != nil {
		t.Fatal(err)
	}
	catchUp(t, ix, log.Size())
	got, err := ix.Event(ctx, "acme", e.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := View{Event: *e, Log: LogPosition{Index: entry.Index, LeafHash: entry.LeafHash}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("event (-want +got):\n%s", d)
	}

	// The outcome comes in a later batch, and a later outcome wins.
	for _, o := range []*evidence.OutcomeRecord{outcomeOf(1, evidence.StateAmbiguous, 0), outcomeOf(1, evidence.StateForwarded, 200)} {
		if _, err := log.Append(ctx, record(t, o)); err != nil {
			t.Fatal(err)
		}
		catchUp(t, ix, log.Size())
		if got, err = ix.Event(ctx, "acme", e.ID); err != nil {
			t.Fatal(err)
		}
		want.Outcome = &o.Outcome
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("event with outcome (-want +got):\n%s", d)
		}
	}
	// As JSON it is the event's own object and log.
	raw, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var flat map[string]any
	if err := json.Unmarshal(raw, &flat); err != nil {
		t.Fatal(err)
	}
	if flat["id"] != e.ID || flat["decision"] != "allow" || flat["time"] != "2026-03-01T12:00:01.000000Z" ||
		flat["outcome"].(map[string]any)["state"] != "forwarded" || flat["log"].(map[string]any)["leaf_hash"] != entry.LeafHash {
		t.Errorf("as JSON: %s", raw)
	}

	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("follow ended with %v", err)
	}
	if err := ix.Close(); err != nil {
		t.Fatal(err)
	}
	// It goes on where it was.
	ix = openIndex(t, filepath.Join(dir, "index.db"))
	if ix.Position() != log.Size() {
		t.Errorf("position %d after reopening, the log has %d", ix.Position(), log.Size())
	}
	follow(t, ix, log)
	if _, err := log.Append(ctx, record(t, action(2))); err != nil {
		t.Fatal(err)
	}
	catchUp(t, ix, log.Size())
	list, _, err := ix.Events(ctx, Query{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"ev_000002", "ev_000001"}, ids(list)); d != "" {
		t.Errorf("after reopening (-want +got):\n%s", d)
	}
}

func TestIndexQueries(t *testing.T) {
	log := newSliceLog("k")
	var all []*evidence.Event
	states := map[string]string{}
	ix := openIndex(t, filepath.Join(t.TempDir(), "index.db"))
	follow(t, ix, log)
	for i := range 2200 {
		e := action(i, func(e *evidence.Event) {
			switch {
			case i%10 == 0:
				e.Tool = "stripe.charge.retrieve"
			case i%10 == 1:
				e.Tool, e.AgentID = "github.issue.create", "triage"
			}
			if i%7 == 0 {
				e.Decision.Decision, e.ReasonCode = "deny", "refund.over_limit"
				e.Outcome.State = evidence.StateBlocked
			}
			if i%100 == 3 {
				e.Kind, e.Outcome = evidence.KindSystem, nil
			}
			if i%100 == 4 {
				e.TenantID = "other"
			}
			if i%100 == 5 { // written late: times need not rise
				e.Time.Time = e.Time.Add(-20 * time.Minute)
			}
		})
		all = append(all, e)
		states[e.ID] = ""
		log.add(encode(t, e))
		if e.Outcome != nil {
			states[e.ID] = e.Outcome.State
			if e.Outcome.State == evidence.StatePending && i%3 == 0 {
				log.add(encode(t, outcomeOf(i, evidence.StateForwarded, 200)))
				states[e.ID] = evidence.StateForwarded
			}
		}
		if i%300 == 0 { // several batches to a block
			catchUp(t, ix, log.Size())
		}
	}
	catchUp(t, ix, log.Size())

	// Bare ones are the same, without what their outcomes and places cost to read.
	whole, _, err := ix.Events(t.Context(), Query{Tenant: "acme", Limit: 20})
	bare, next, berr := ix.Events(t.Context(), Query{Tenant: "acme", Limit: 20, Bare: true})
	if err != nil || berr != nil || len(bare) != 20 || next == "" {
		t.Fatalf("%d bare events, %v %v", len(bare), err, berr)
	}
	forwarded := 0
	for i, v := range bare {
		if o := whole[i].Outcome; o != nil && o.State == evidence.StateForwarded {
			forwarded++
		}
		if v.ID != whole[i].ID || v.Log.Index != whole[i].Log.Index || v.Log.LeafHash != "" || v.Outcome != nil && v.Outcome.State == evidence.StateForwarded {
			t.Errorf("bare: %+v", v)
		}
	}
	if forwarded == 0 {
		t.Error("no outcome was left out")
	}

	for name, c := range map[string]struct {
		q     Query
		match func(e *evidence.Event) bool
	}{
		"all":          {Query{Kind: KindAll}, func(*evidence.Event) bool { return true }},
		"default":      {Query{}, func(e *evidence.Event) bool { return e.Kind != "system" }},
		"system":       {Query{Kind: "system"}, func(e *evidence.Event) bool { return e.Kind == "system" }},
		"tool":         {Query{Kind: KindAll, Tool: "stripe.charge.retrieve"}, func(e *evidence.Event) bool { return e.Tool == "stripe.charge.retrieve" }},
		"tool glob":    {Query{Kind: KindAll, Tool: "stripe.*"}, func(e *evidence.Event) bool { return strings.HasPrefix(e.Tool, "stripe.") }},
		"no such tool": {Query{Tool: "stripe"}, func(*evidence.Event) bool { return false }},
		"agent":        {Query{Kind: KindAll, Agent: "triage"}, func(e *evidence.Event) bool { return e.AgentID == "triage" }},
		"decision": {Query{Kind: KindAll, Decision: "deny", Reason: "refund.over_limit"}, func(e *evidence.Event) bool {
			return e.Decision.Decision == "deny"
		}},
		"state":   {Query{State: "forwarded"}, func(e *evidence.Event) bool { return states[e.ID] == "forwarded" && e.Kind != "system" }},
		"pending": {Query{State: "pending"}, func(e *evidence.Event) bool { return states[e.ID] == "pending" && e.Kind != "system" }},
		"time": {
			Query{Kind: KindAll, Since: indexStart.Add(500 * time.Second), Until: indexStart.Add(1600 * time.Second)},
			func(e *evidence.Event) bool {
				return !e.Time.Before(indexStart.Add(500*time.Second)) && e.Time.Before(indexStart.Add(1600*time.Second))
			},
		},
		"before everything": {Query{Until: indexStart.Add(-time.Hour)}, func(*evidence.Event) bool { return false }},
		"after everything":  {Query{Since: indexStart.Add(time.Hour)}, func(*evidence.Event) bool { return false }},
	} {
		var want []string
		for _, e := range all {
			if e.TenantID == "acme" && c.match(e) {
				want = append(want, e.ID)
			}
		}
		slices.Reverse(want)
		for _, limit := range []int{97, 1000} {
			q := c.q
			q.Tenant, q.Limit = "acme", limit
			var got []string
			for {
				list, next, err := ix.Events(context.Background(), q)
				if err != nil {
					t.Fatal(err)
				}
				if len(list) > limit {
					t.Fatalf("%s: %d with limit %d", name, len(list), limit)
				}
				for _, v := range list {
					state := ""
					if v.Outcome != nil {
						state = v.Outcome.State
					}
					if state != states[v.ID] {
						t.Fatalf("%s: %s is %s, want %s", name, v.ID, state, states[v.ID])
					}
				}
				got = append(got, ids(list)...)
				if next == "" {
					break
				}
				q.Cursor = next
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s, by %d (-want +got):\n%s", name, limit, d)
			}
		}
	}
	var fe *gate.FieldError
	if _, _, err := ix.Events(context.Background(), Query{Tenant: "acme", Cursor: "-1"}); !errors.As(err, &fe) {
		t.Errorf("a made up cursor: %v", err)
	}
	for _, q := range []struct{ tenant, id string }{{"other", "ev_000001"}, {"acme", "ev_none"}, {"acme", ""}} {
		if _, err := ix.Event(context.Background(), q.tenant, q.id); !errors.Is(err, gate.ErrNotFound) {
			t.Errorf("event %q of %q: %v", q.id, q.tenant, err)
		}
	}
}

// TestIndexRebuilds: whatever stands in the file, the index ends up as the log.
func TestIndexRebuilds(t *testing.T) {
	log := newSliceLog("key one")
	for i := range 40 {
		log.add(encode(t, action(i)))
	}
	other := newSliceLog("key one")
	for i := range 40 {
		other.add(encode(t, action(i+1)))
	}
	foreign := newSliceLog("key two")
	for i := range 39 {
		foreign.add(encode(t, action(1000+i)))
	}
	foreign.add(log.records[39])
	long := newSliceLog("key one")
	long.add(log.records...)
	long.add(encode(t, action(99)))

	filled := func(src *sliceLog) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			ix := openIndex(t, path)
			stop := follow(t, ix, src)
			catchUp(t, ix, src.Size())
			stop()
			if err := ix.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	exec := func(path, query string) error {
		db, err := openSQL(path, 1, time.Second)
		if err != nil {
			return err
		}
		defer db.Close()
		_, err = db.Exec(query)
		return err
	}
	for name, c := range map[string]struct {
		fill  func(t *testing.T, path string)
		spoil func(path string) error
	}{
		"nothing there":                 {},
		"already right":                 {fill: filled(log)},
		"another log, same key":         {fill: filled(other)},
		"another key, same last record": {fill: filled(foreign)},
		"ahead of the log":              {fill: filled(long)},
		"not a database":                {spoil: func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("no database ", 500)), 0o600) }},
		"another schema":                {fill: filled(log), spoil: func(p string) error { return exec(p, "PRAGMA user_version = 99") }},
		"somebody else's tables":        {spoil: func(p string) error { return exec(p, "CREATE TABLE x (y); PRAGMA user_version = 1") }},
		"no position":                   {fill: filled(log), spoil: func(p string) error { return exec(p, "DELETE FROM meta") }},
		"position set back":             {fill: filled(log), spoil: func(p string) error { return exec(p, "UPDATE meta SET position = 20") }},
		"position set forward":          {fill: filled(log), spoil: func(p string) error { return exec(p, "DELETE FROM blocks") }},
		"cut off": {fill: filled(log), spoil: func(p string) error {
			return os.Truncate(p, 8192)
		}},
		"overwritten in the middle": {fill: filled(log), spoil: func(p string) error {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			st, err := f.Stat()
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte(strings.Repeat("\xff", int(st.Size())-4096)), 4096)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "index.db")
			if c.fill != nil {
				c.fill(t, path)
			}
			if c.spoil != nil {
				if err := c.spoil(path); err != nil {
					t.Fatal(err)
				}
			}
			src := newSliceLog(log.key)
			src.add(log.records...)
			ix := openIndex(t, path)
			follow(t, ix, src)
			// One more record makes sure that Follow has looked at the file.
			src.add(encode(t, action(40)))
			catchUp(t, ix, 41)
			var want []string
			for i := range 41 {
				want = append([]string{fmt.Sprintf("ev_%06d", i)}, want...)
			}
			deadline := time.Now().Add(5 * time.Second)
			for {
				list, _, err := ix.Events(context.Background(), Query{Tenant: "acme"})
				d := cmp.Diff(want, ids(list))
				if err == nil && d == "" {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("%v (-want +got):\n%s", err, d)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
}

func TestIndexSurvivesWhatItCannotRead(t *testing.T) {
	log := newSliceLog("k")
	log.add([]byte(`{"kind":"action"`), []byte(`[]`), encode(t, outcomeOf(7, "forwarded", 200)), encode(t, action(1)))
	ix := openIndex(t, filepath.Join(t.TempDir(), "index.db"))
	follow(t, ix, log)
	catchUp(t, ix, 4)
	list, _, err := ix.Events(context.Background(), Query{Tenant: "acme", Kind: KindAll})
	if err != nil || len(list) != 1 || list[0].ID != "ev_000001" {
		t.Errorf("%v, %v", ids(list), err)
	}
}

func TestIndexTriesAgain(t *testing.T) {
	log := newSliceLog("k")
	log.fail = errors.New("the disk is away")
	log.add(encode(t, action(1)))
	ix := openIndex(t, filepath.Join(t.TempDir(), "index.db"))
	follow(t, ix, log)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := ix.CatchUp(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("catch up with a log that cannot be read: %v", err)
	}
	if err := ix.Err(); !errors.Is(err, log.fail) {
		t.Errorf("Err is %v", err)
	}
	log.mu.Lock()
	log.fail = nil
	log.mu.Unlock()
	catchUp(t, ix, 1)
	if err := ix.Err(); err != nil {
		t.Errorf("Err is %v after recovery", err)
	}
	if err := ix.Follow(context.Background(), log); err == nil {
		t.Error("a second Follow began")
	}
}

// TestIndexAfterRetention: the log begins behind where the index stood.
func TestIndexAfterRetention(t *testing.T) {
	log := newSliceLog("k")
	for i := range 10 {
		log.add(encode(t, action(i)))
	}
	log.first = 6
	ix := openIndex(t, filepath.Join(t.TempDir(), "index.db"))
	follow(t, ix, log)
	catchUp(t, ix, 10)
	list, _, err := ix.Events(context.Background(), Query{Tenant: "acme"})
	if err != nil || len(list) != 4 {
		t.Errorf("%v, %v", ids(list), err)
	}
	// And while it follows, what the log drops goes.
	log.mu.Lock()
	log.first = 9
	log.mu.Unlock()
	log.add(encode(t, action(10)), encode(t, outcomeOf(2, "forwarded", 200)))
	catchUp(t, ix, 12)
	list, _, err = ix.Events(context.Background(), Query{Tenant: "acme", Since: indexStart})
	if d := cmp.Diff([]string{"ev_000010", "ev_000009"}, ids(list)); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
}
