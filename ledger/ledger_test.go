package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// action makes the record of an action that awaits its outcome.
func action(id string) []byte {
	e := &evidence.Event{
		ID: id, Kind: evidence.KindAction, Time: evidence.Time{Time: time.Unix(1_700_000_000, 0)}, TenantID: "acme",
		Decision: evidence.Decision{Decision: "allow", Tool: "stripe.refund.create"},
		Args:     map[string]any{"amount": int64(4900)}, Outcome: &evidence.Outcome{State: evidence.StatePending},
	}
	b, err := e.Encode()
	if err != nil {
		panic(err)
	}
	return b
}

func outcome(id string) []byte {
	b, err := (&evidence.OutcomeRecord{EventID: id, Outcome: evidence.Outcome{State: evidence.StateForwarded, Status: 200}}).Encode()
	if err != nil {
		panic(err)
	}
	return b
}

func open(t testing.TB, dir string, opt Options) *Log {
	t.Helper()
	l, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func mustAppend(t testing.TB, l *Log, rec []byte) evidence.Entry {
	t.Helper()
	e, err := l.Append(context.Background(), asRecord(rec))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// all reads every record of the log.
func all(t testing.TB, l *Log) []evidence.Entry {
	t.Helper()
	var out []evidence.Entry
	for uint64(len(out)) < l.Size() {
		es, err := l.Read(uint64(len(out)), 7)
		if err != nil {
			t.Fatal(err)
		}
		if len(es) == 0 {
			t.Fatalf("nothing at %d of %d", len(out), l.Size())
		}
		out = append(out, es...)
	}
	return out
}

func TestAppendReadReopen(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{SegmentBytes: 4096})
	var want []string
	for i := range 50 {
		rec := action(fmt.Sprintf("ev_%d", i))
		e := mustAppend(t, l, rec)
		if e.Index != uint64(i) || e.LeafHash != evidence.LeafHash(rec).String() {
			t.Fatalf("entry %d: %+v", i, e)
		}
		want = append(want, string(rec))
	}
	check := func() {
		t.Helper()
		got := all(t, l)
		if len(got) != len(want) {
			t.Fatalf("%d records, want %d", len(got), len(want))
		}
		for i, e := range got {
			if string(e.Record) != want[i] || e.Index != uint64(i) {
				t.Fatalf("record %d is %s", e.Index, e.Record)
			}
		}
	}
	check()
	key := l.PublicKey()
	closeLog(t, l)
	l = open(t, dir, Options{SegmentBytes: 4096})
	if l.PublicKey() != key || l.Recovered().TruncatedBytes != 0 || l.Recovered().Rescanned != 0 {
		t.Errorf("reopened: key %s, %+v", l.PublicKey(), l.Recovered())
	}
	check()
	if n := len(l.Unfinished()); n != 50 {
		t.Errorf("%d unfinished", n)
	}
	want = append(want, string(outcome("ev_7")))
	mustAppend(t, l, outcome("ev_7"))
	check()
}

func TestAppendTogether(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[uint64]string{}
	for g := range 64 {
		wg.Go(func() {
			for i := range 20 {
				id := fmt.Sprintf("ev_%d_%d", g, i)
				e, err := l.Append(context.Background(), asRecord(action(id)))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if other, ok := seen[e.Index]; ok {
					t.Errorf("%s and %s both have index %d", id, other, e.Index)
				}
				seen[e.Index] = string(action(id))
				mu.Unlock()
				if !l.Later(asRecord(outcome(id))) {
					t.Error("Later refused")
				}
			}
		})
	}
	wg.Wait()
	if err := l.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if l.Size() != 2*64*20 {
		t.Errorf("size %d", l.Size())
	}
	for _, e := range all(t, l) {
		if want, ok := seen[e.Index]; ok && want != string(e.Record) {
			t.Errorf("index %d: %s", e.Index, e.Record)
		}
	}
}

func TestLaterIsPrompt(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	start := time.Now()
	if !l.Later(asRecord(outcome("ev_1"))) {
		t.Fatal("refused")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := l.Wait(ctx, 0); err != nil {
		t.Fatal(err)
	}
	t.Logf("durable after %v", time.Since(start))
}

func TestAppendRefuses(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	ctx := context.Background()
	for _, bad := range []string{"", "{}", "x", "{\"kind\":\"a\"}\n", `{"kind":"a"}{"kind":"b"}`} {
		if _, err := l.Append(ctx, asRecord([]byte(bad))); err == nil {
			t.Errorf("%q was taken", bad)
		}
		if l.Later(asRecord([]byte(bad))) {
			t.Errorf("%q was queued", bad)
		}
	}
	if _, err := l.Append(ctx, asRecord([]byte(`{"kind":"system","message":"`+strings.Repeat("x", MaxRecord)+`"}`))); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := l.Append(done, asRecord(action("ev_1"))); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if l.Size() != 0 {
		t.Errorf("size %d", l.Size())
	}
	closeLog(t, l)
	if _, err := l.Append(ctx, asRecord(action("ev_1"))); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if l.Later(asRecord(action("ev_1"))) {
		t.Error("queued after Close")
	}
	if err := l.Flush(ctx); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := l.Wait(ctx, 0); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestOneWriter(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	if _, err := Open(dir, Options{}); err == nil {
		t.Fatal("a second writer got in")
	}
	closeLog(t, l)
	open(t, dir, Options{})
}

// asRecord takes bytes as they come; what is no record gives none.
func asRecord(b []byte) evidence.Record {
	r, _ := evidence.ReadRecord(b)
	return r
}

// TestSlab: copies are apart from each other, and from what they were made of.
func TestSlab(t *testing.T) {
	var s slab
	var got [][]byte
	line := make([]byte, 0, 300)
	for i := range 500 {
		line = append(line[:0], bytes.Repeat([]byte{byte(i)}, i%300)...)
		c := s.of(line)
		_ = append(c, 'x')
		got = append(got, c)
	}
	for i, c := range got {
		if !bytes.Equal(c, bytes.Repeat([]byte{byte(i)}, i%300)) {
			t.Fatalf("copy %d is %q", i, c)
		}
	}
	if n := testing.AllocsPerRun(10, func() {
		var s slab
		for range 1000 {
			s.of(line)
		}
	}); n > 12 {
		t.Errorf("%v allocations for a thousand records", n)
	}
}
