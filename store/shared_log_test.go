package store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/store/pgtest"
)

// testLog is a real log of n actions, named by who.
func testLog(t *testing.T, who string, n int) *ledger.Log {
	t.Helper()
	l, err := ledger.Open(filepath.Join(t.TempDir(), "ledger"), ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	grow(t, l, who, 0, n)
	return l
}

func grow(t *testing.T, l *ledger.Log, who string, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		l.Later(record(t, action(i, func(e *evidence.Event) {
			e.ID = fmt.Sprintf("ev_%s_%06d", who, i)
			e.EvidenceEventID, e.AgentID = e.ID, who
		})))
	}
	if err := l.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// readShared reads everything that is in the database, as what each log has.
func readShared(t *testing.T, p *Postgres) (by map[string][]string, log *SharedLog) {
	t.Helper()
	log = p.SharedLog()
	if err := log.Begin(context.Background()); err != nil {
		t.Fatal(err)
	}
	by = map[string][]string{}
	for at := uint64(0); at < log.Size(); {
		list, err := log.Read(at, 700)
		if err != nil || len(list) == 0 {
			t.Fatalf("read from %d of %d: %d records, %v", at, log.Size(), len(list), err)
		}
		for _, e := range list {
			if e.Index != at {
				t.Fatalf("record %d in the place of %d", e.Index, at)
			}
			place, err := log.Place(at)
			if err != nil || place.LeafHash != e.LeafHash || place.Seq != at+1 || place.Index != uint64(len(by[place.Origin])) {
				t.Fatalf("record %d is at %+v, after %d of that log, %v", at, place, len(by[place.Origin]), err)
			}
			by[place.Origin] = append(by[place.Origin], e.LeafHash)
			at++
		}
	}
	return by, log
}

// same says that the database has the first n records of l, and vouches for them.
func same(t *testing.T, p *Postgres, l *ledger.Log, n uint64) {
	t.Helper()
	by, _ := readShared(t, p)
	origin, err := LogName{PublicKey: l.PublicKey()}.Origin()
	if err != nil {
		t.Fatal(err)
	}
	entries := []evidence.Entry{}
	for at := uint64(0); at < n; {
		list, err := l.Read(at, 5000)
		if err != nil || len(list) == 0 {
			t.Fatal(at, err)
		}
		entries = append(entries, list...)
		at += uint64(len(list))
	}
	if len(by[origin]) != int(n) {
		t.Fatalf("the database has %d records of %s, not %d", len(by[origin]), origin, n)
	}
	for i, hash := range by[origin] {
		if entries[i].LeafHash != hash {
			t.Fatalf("record %d is another one", i)
		}
	}
	checked, fault, err := p.VerifyShared(context.Background(), status(t, p, origin))
	if err != nil || fault != nil || checked != n {
		t.Errorf("verified %d of %d: %v, %v", checked, n, fault, err)
	}
}

func status(t *testing.T, p *Postgres, origin string) SharedLogStatus {
	t.Helper()
	list, err := p.SharedLogs(context.Background(), "", 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Origin == origin {
			return s
		}
	}
	t.Fatalf("%s is not listed", origin)
	return SharedLogStatus{}
}

// TestShip: two logs come into one database, each in its order, once, under its own
// checkpoints; a page of the index says whose an event is.
func TestShip(t *testing.T) {
	p := openPostgres(t, postgres(t).Database(t), PostgresOptions{})
	ctx := context.Background()
	ann, bob := testLog(t, "ann", 2500), testLog(t, "bob", 10)
	a, b := &Shipper{To: p, From: ann, Source: "pod-a"}, &Shipper{To: p, From: bob, Source: "pod-b"}
	for round := range 3 {
		for _, s := range []*Shipper{a, b} {
			if err := s.Ship(ctx); err != nil {
				t.Fatal(err)
			}
			if s.Behind() != 0 {
				t.Errorf("%d behind", s.Behind())
			}
		}
		same(t, p, ann, ann.Size())
		same(t, p, bob, bob.Size())
		grow(t, ann, "ann", 2500+10*round, 10)
		grow(t, bob, "bob", 10+10*round, 10)
		// Another process on the same log begins where this one ended.
		a = &Shipper{To: p, From: ann, Source: "pod-a"}
	}
	key := bob.PublicKey()
	if err := p.Ship(ctx, LogName{PublicKey: key}, 5, [][]byte{[]byte("{}")}, nil); !errors.Is(err, ErrElsewhere) {
		t.Errorf("in the middle: %v", err)
	}
	origin, _ := LogName{PublicKey: key}.Origin()
	_, other, err := evidence.NewKey(neverEnding{}, origin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.JoinLog(ctx, LogName{PublicKey: other, Source: "pod-c"}); err == nil || !strings.Contains(err.Error(), "another log") {
		t.Errorf("another key under the name: %v", err)
	}
	if err := p.Ship(ctx, LogName{PublicKey: other}, bob.Size(), [][]byte{[]byte("{}")}, nil); !errors.Is(err, ErrElsewhere) {
		t.Errorf("a shipment with another key: %v", err)
	}

	_, log := readShared(t, p)
	ix := openIndex(t, filepath.Join(t.TempDir(), "index.db"))
	stop := follow(t, ix, log)
	defer func() { _ = stop() }()
	catchUp(t, ix, log.Size())
	list, next, err := ix.Events(ctx, Query{Tenant: "acme", Agent: "bob", Limit: 7})
	if err != nil || len(list) != 7 || next == "" {
		t.Fatalf("%d events, next %q, %v", len(list), next, err)
	}
	for _, v := range list {
		if v.Log.Source != "pod-b" || v.Log.Origin != origin || v.ID != fmt.Sprintf("ev_bob_%06d", v.Log.Index) {
			t.Errorf("%s is at %+v", v.ID, v.Log)
		}
	}
	if v, err := ix.Event(ctx, "acme", "ev_ann_000003"); err != nil || v.Log.Source != "pod-a" || v.Log.Index != 3 {
		t.Errorf("%+v, %v", v.Log, err)
	}
}

// neverEnding is no random source, which a test needs none of.
type neverEnding struct{}

func (neverEnding) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 7
	}
	return len(b), nil
}

// TestShipTampered: what is changed, taken away or added in the database does not
// verify.
func TestShipTampered(t *testing.T) {
	pg := postgres(t)
	forged, err := pack([][]byte{[]byte(`{"kind":"action"}`)})
	if err != nil {
		t.Fatal(err)
	}
	for name, statement := range map[string]string{
		"a record of another text": fmt.Sprintf(`UPDATE evidence_batches SET content = '\x%x', records = 1 WHERE first = (SELECT max(first) FROM evidence_batches)`, forged),
		"a batch away":             `DELETE FROM evidence_batches WHERE first = (SELECT max(first) FROM evidence_batches)`,
		"a damaged batch":          `UPDATE evidence_batches SET content = '\x00' WHERE first = 0`,
		"another count":            `UPDATE evidence_batches SET records = 999 WHERE first = 0`,
		"another key":              `UPDATE evidence_logs SET public_key = 'x+00000000+Aaaa'`,
		"another checkpoint":       `UPDATE evidence_logs SET checkpoint = replace(checkpoint, E'\n1500\n', E'\n1000\n')`,
	} {
		t.Run(name, func(t *testing.T) {
			dsn := pg.Database(t)
			p := openPostgres(t, dsn, PostgresOptions{})
			l := testLog(t, "ann", 1500)
			if err := (&Shipper{To: p, From: l, Source: "pod"}).Ship(context.Background()); err != nil {
				t.Fatal(err)
			}
			same(t, p, l, 1500)
			pg.Exec(t, dsn[strings.LastIndex(dsn, "/")+1:strings.Index(dsn, "?")], statement)
			origin, _ := LogName{PublicKey: l.PublicKey()}.Origin()
			if _, fault, err := p.VerifyShared(context.Background(), status(t, p, origin)); fault == nil || err != nil {
				t.Errorf("it verifies: %v, %v", fault, err)
			}
		})
	}
}

// TestShipTogether: many ship at once while somebody reads: nobody ever sees a hole,
// and the order that was seen stays.
func TestShipTogether(t *testing.T) {
	dsn := postgres(t).Database(t)
	const logs, each = 6, 150
	reader := openPostgres(t, dsn, PostgresOptions{})
	_, log := readShared(t, reader)
	var wg sync.WaitGroup
	var all []*ledger.Log
	for i := range logs {
		l := testLog(t, fmt.Sprint("w", i), 0)
		all = append(all, l)
		s := &Shipper{To: openPostgres(t, dsn, PostgresOptions{Owner: fmt.Sprint(i)}), From: l, Source: fmt.Sprint("pod-", i)}
		wg.Go(func() {
			for n := range each / 10 {
				grow(t, l, fmt.Sprint("w", i), 10*n, 10)
				if err := s.Ship(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var seen []string
	deadline := time.Now().Add(30 * time.Second)
	for len(seen) < logs*each {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d after 30 s", len(seen), logs*each)
		}
		if err := log.Look(context.Background()); err != nil {
			t.Fatal(err)
		}
		list, err := log.Read(uint64(len(seen)), 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			seen = append(seen, e.LeafHash)
		}
	}
	wg.Wait()
	for _, l := range all {
		same(t, reader, l, each)
	}
	again, err := log.Read(0, 1)
	if err != nil || again[0].LeafHash != seen[0] {
		t.Errorf("the first record has changed: %v", err)
	}
}

// TestShipThroughStop: the database is stopped, as by a crash, while records are
// shipped. Afterwards it has all of them, each once, and a page that is asked for
// meanwhile says that the database is away, not that the evidence is damaged.
func TestShipThroughStop(t *testing.T) {
	pg := pgtest.Start(t)
	p := openPostgres(t, pg.Database(t), PostgresOptions{})
	l := testLog(t, "ann", 100)
	faults := 0
	s := &Shipper{To: p, From: l, Source: "pod", Fault: func(err error) { faults++; t.Log(err) }}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("never: " + what)
			}
		}
	}
	until("shipped", func() bool { return s.next.Load() == 100 })
	_, log := readShared(t, p)
	ix := openIndex(t, filepath.Join(t.TempDir(), "index.db"))
	stop := follow(t, ix, log)
	defer func() { _ = stop() }()
	catchUp(t, ix, 100)

	stopped := make(chan struct{})
	wg.Go(func() {
		defer close(stopped)
		time.Sleep(300 * time.Millisecond)
		if err := pg.Stop(); err != nil {
			t.Error(err)
		}
	})
	for n := 0; ; n++ {
		grow(t, l, "ann", 100+20*n, 20)
		time.Sleep(20 * time.Millisecond)
		select {
		case <-stopped:
		default:
			continue
		}
		break
	}
	log.mu.Lock()
	log.batches, log.order = map[uint64]*sharedBatch{}, nil // what was read lately would hide it
	log.mu.Unlock()
	if list, _, err := ix.Events(ctx, Query{Tenant: "acme", Limit: 5}); !errors.Is(err, ErrAway) {
		t.Errorf("a page while the database is away: %d events, %v", len(list), err)
	}
	grow(t, l, "late", 0, 500)
	if err := pg.Restart(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	until("caught up", func() bool { return s.next.Load() == l.Size() })
	t.Logf("%d records; caught up %s after its return", l.Size(), time.Since(began).Round(time.Millisecond))
	same(t, p, l, l.Size())
	if faults > 0 {
		t.Errorf("%d faults were told of a database that is only away", faults)
	}
}

// TestShipOnADeadConnection: connections that ended while they lay idle, as those
// through a firewall do, are no sign that the database is away.
func TestShipOnADeadConnection(t *testing.T) {
	pg := postgres(t)
	x := newToxic(t, fmt.Sprintf("127.0.0.1:%d", pg.Port))
	dsn := strings.Replace(pg.Database(t), fmt.Sprint(pg.Port), fmt.Sprint(x.ln.Addr().(*net.TCPAddr).Port), 1)
	var away atomic.Int64
	p := openPostgres(t, dsn, PostgresOptions{Changed: func(why error) {
		if why != nil {
			away.Add(1)
		}
	}})
	l := testLog(t, "ann", 3)
	s := &Shipper{To: p, From: l, Source: "pod"}
	for round := range 3 {
		if err := s.Ship(context.Background()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		x.cut()
		grow(t, l, "ann", 3+round, 1)
	}
	if away.Load() > 0 {
		t.Errorf("the database was taken for away %d times", away.Load())
	}
}
