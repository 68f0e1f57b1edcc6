package store

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/store/pgtest"
)

// ago makes what is there look as if it had come so much earlier.
func ago(t *testing.T, pg *pgtest.Cluster, dsn, which string) {
	t.Helper()
	pg.Exec(t, dsn[strings.LastIndex(dsn, "/")+1:strings.Index(dsn, "?")], `UPDATE evidence_batches SET shipped_at = shipped_at - 7200000000 WHERE `+which)
}

// trimmed is TrimShared until there is no more.
func trimmed(t *testing.T, p *Postgres) (all Trimmed) {
	t.Helper()
	for {
		n, err := p.TrimShared(context.Background(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if n.Batches == 0 {
			return all
		}
		all.Records, all.Batches, all.Until = all.Records+n.Records, all.Batches+n.Batches, n.Until
	}
}

func copyOf(t *testing.T, p *Postgres, l *ledger.Log) ledger.Copy {
	t.Helper()
	origin, _ := LogName{PublicKey: l.PublicKey()}.Origin()
	s, err := p.SharedLogNamed(context.Background(), origin)
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.Before()
	if err != nil {
		t.Fatal(err)
	}
	return ledger.Copy{PublicKey: s.PublicKey, Checkpoint: s.Checkpoint, First: first, Temp: t.TempDir(), Read: func(from uint64, max int) ([]evidence.Entry, error) {
		return p.ReadCopy(context.Background(), origin, from, max)
	}}
}

// TestTrimShared: what came longer ago than it is kept goes, oldest first and no more,
// and what is left of each log verifies, is exported and goes on.
func TestTrimShared(t *testing.T) {
	pg := postgres(t)
	dsn := pg.Database(t)
	p := openPostgres(t, dsn, PostgresOptions{})
	ctx := context.Background()
	ann, bob := testLog(t, "ann", 500), testLog(t, "bob", 7)
	a, b := &Shipper{To: p, From: ann, Source: "pod-a"}, &Shipper{To: p, From: bob, Source: "pod-b"}
	ship := func() {
		t.Helper()
		for _, s := range []*Shipper{a, b} {
			if err := s.Ship(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 2 {
		if err := a.Ship(ctx); err != nil {
			t.Fatal(err)
		}
		grow(t, ann, "ann", 500*(i+1), 500)
	}
	ship() // three of ann's 500, and 7 of bob's
	_, log := readShared(t, p)
	ix := openIndex(t, filepath.Join(t.TempDir(), "index.db"))
	stop := follow(t, ix, log)
	defer func() { _ = stop() }()
	catchUp(t, ix, log.Size())

	if n := trimmed(t, p); n.Batches != 0 {
		t.Fatalf("%+v of what came now", n)
	}
	// The third is old, the second is not: what came later stays, whatever its clock says.
	ago(t, pg, dsn, `seq IN (0, 1000)`)
	if n := trimmed(t, p); n != (Trimmed{Records: 500, Batches: 1, Until: 501}) {
		t.Fatalf("%+v", n)
	}
	grow(t, ann, "ann", 1500, 10)
	grow(t, bob, "bob", 7, 5)
	ship()
	verified := func(l *ledger.Log, begins uint64) {
		t.Helper()
		origin, _ := LogName{PublicKey: l.PublicKey()}.Origin()
		s := status(t, p, origin)
		checked, fault, err := p.VerifyShared(ctx, s)
		if s.Begins != begins || checked != l.Size()-begins || fault != nil || err != nil {
			t.Fatalf("begins at %d, %d verified, %v, %v", s.Begins, checked, fault, err)
		}
		var bundle bytes.Buffer
		c := copyOf(t, p, l)
		n, err := c.ExportSelected(ctx, &bundle, ledger.Selection{Tenant: "acme", Owns: func(string) (bool, error) { return true, nil }})
		if err != nil || n != int(checked) {
			t.Errorf("%d exported, %v", n, err)
		}
		rep, err := evidence.VerifyBundle(&bundle, l.PublicKey(), nil)
		if err != nil || rep.Records != checked || rep.Checkpoint.Size != l.Size() {
			t.Errorf("the bundle: %+v, %v", rep, err)
		}
		if checked == 0 {
			return
		}
		proof, err := c.Proof(l.Size() - 1)
		own, again := l.Proof(l.Size() - 1)
		if err != nil || again != nil || len(proof.Hashes) != len(own.Hashes) {
			t.Errorf("the proof: %v, %v", err, again)
		}
	}
	verified(ann, 500)
	verified(bob, 0)

	// All of bob's but the last five, and most of ann's.
	ago(t, pg, dsn, `seq < 1507`)
	if n := trimmed(t, p); n.Records != 1007 || n.Until != 1508 {
		t.Fatalf("%+v", n)
	}
	verified(ann, 1500)
	verified(bob, 7)
	if err := log.Look(ctx); err != nil || log.First() != 1507 || log.Size() != 1522 {
		t.Errorf("%d to %d, %v", log.First(), log.Size(), err)
	}
	// Another reader begins with what is left.
	fresh := openIndex(t, filepath.Join(t.TempDir(), "index.db"))
	stopFresh := follow(t, fresh, log)
	defer func() { _ = stopFresh() }()
	catchUp(t, fresh, log.Size())
	list, _, err := fresh.Events(ctx, Query{Tenant: "acme", Limit: 100})
	if err != nil || len(list) != 15 {
		t.Errorf("%d events are left, %v", len(list), err)
	}

	// Everything; a sidecar that was silent meanwhile goes on where it was.
	ago(t, pg, dsn, `true`)
	if n := trimmed(t, p); n.Records != 15 {
		t.Fatalf("%+v", n)
	}
	verified(bob, 12)
	again := &Shipper{To: p, From: bob, Source: "pod-b"}
	grow(t, bob, "bob", 12, 3)
	if err := again.Ship(ctx); err != nil {
		t.Fatal(err)
	}
	verified(bob, 12)
	if err := log.Look(ctx); err != nil || log.First() != 1522 || log.Size() != 1525 {
		t.Errorf("%d to %d, %v", log.First(), log.Size(), err)
	}
}

// TestTrimSharedTampered: what cannot be read is not removed, and what was changed
// before it was removed still shows in what is left.
func TestTrimSharedTampered(t *testing.T) {
	pg := postgres(t)
	forged, err := pack([][]byte{[]byte(`{"kind":"action"}`)})
	if err != nil {
		t.Fatal(err)
	}
	shipped := func(t *testing.T) (string, *Postgres, *ledger.Log) {
		dsn := pg.Database(t)
		p := openPostgres(t, dsn, PostgresOptions{})
		l := testLog(t, "ann", 1)
		s := &Shipper{To: p, From: l, Source: "pod"}
		for i := range 3 {
			if err := s.Ship(context.Background()); err != nil {
				t.Fatal(err)
			}
			grow(t, l, "ann", 1+i, 1)
		}
		return dsn, p, l
	}
	name := func(dsn string) string { return dsn[strings.LastIndex(dsn, "/")+1 : strings.Index(dsn, "?")] }
	fault := func(t *testing.T, p *Postgres, l *ledger.Log) *evidence.Fault {
		origin, _ := LogName{PublicKey: l.PublicKey()}.Origin()
		_, fault, err := p.VerifyShared(context.Background(), status(t, p, origin))
		if err != nil {
			t.Fatal(err)
		}
		return fault
	}
	t.Run("damaged", func(t *testing.T) {
		dsn, p, l := shipped(t)
		pg.Exec(t, name(dsn), `UPDATE evidence_batches SET content = '\x00' WHERE first = 0`)
		ago(t, pg, dsn, "true")
		if n, err := p.TrimShared(context.Background(), time.Hour); err == nil || n.Batches != 0 || !strings.Contains(err.Error(), "record 0 of the log actpass/") {
			t.Errorf("%+v, %v", n, err)
		}
		if fault(t, p, l) == nil {
			t.Error("it verifies")
		}
	})
	t.Run("another text", func(t *testing.T) {
		dsn, p, l := shipped(t)
		pg.Exec(t, name(dsn), `UPDATE evidence_batches SET content = decode('`+fmt.Sprintf("%x", forged)+`', 'hex') WHERE first = 0`)
		ago(t, pg, dsn, "first = 0")
		if n := trimmed(t, p); n.Records != 1 {
			t.Fatalf("%+v", n)
		}
		if fault(t, p, l) == nil {
			t.Error("what is left verifies")
		}
		if _, err := copyOf(t, p, l).Proof(2); err == nil {
			t.Error("it is proved")
		}
	})
	t.Run("taken by hand", func(t *testing.T) {
		dsn, p, l := shipped(t)
		pg.Exec(t, name(dsn), `DELETE FROM evidence_batches WHERE first = 0`)
		ago(t, pg, dsn, "first = 1")
		if n := trimmed(t, p); n.Records != 1 {
			t.Fatalf("%+v", n)
		}
		if f := fault(t, p, l); f == nil || f.Index != 0 {
			t.Errorf("the hole does not show: %v", f)
		}
	})
}
