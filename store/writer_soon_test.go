package store

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"
)

// TestSoonAnswersBeforeTheDisk: what soon says holds once it is settled, and not
// where its transaction is lost afterwards.
func TestSoonAnswersBeforeTheDisk(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "x.db"))
	ctx := context.Background()
	put := func(key string) func(*batch) error {
		return func(b *batch) error {
			return b.run(`INSERT INTO limit_sums (tenant_id, limit_key, span, since, seen, total) VALUES ('acme', ?, 1, 1, 1, 1)`, key)
		}
	}
	has := func(key string) (n int) {
		if err := s.read.QueryRow(`SELECT count(*) FROM limit_sums WHERE limit_key = ?`, key).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	settled, err := s.w.soon(ctx, put("kept"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(settled(), settled()); err != nil || has("kept") != 1 {
		t.Errorf("%v, %d rows", err, has("kept"))
	}

	// The transaction ends under it: its COMMIT fails.
	settled, err = s.w.soon(ctx, func(b *batch) error { return errors.Join(put("lost")(b), b.run("ROLLBACK")) })
	if err != nil {
		t.Fatal(err)
	}
	if err := settled(); err == nil || has("lost") != 0 {
		t.Errorf("a lost transaction is settled as %v, with %d rows", err, has("lost"))
	}

	// An error of its own is told at once, and nothing of it is kept, alone or not.
	own := errors.New("own")
	fails := func(b *batch) error { return errors.Join(put("failed")(b), own) }
	if _, err := s.w.soon(ctx, fails); !errors.Is(err, own) {
		t.Errorf("%v", err)
	}
	begun, goOn := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() { first <- s.w.do(ctx, func(*batch) error { close(begun); <-goOn; return nil }) }()
	<-begun
	second, third := make(chan error, 1), make(chan error, 1)
	go func() { _, err := s.w.soon(ctx, fails); second <- err }()
	go func() { third <- s.w.do(ctx, put("beside")) }()
	for len(s.w.queue) < 2 { // both go into the next transaction
		time.Sleep(time.Millisecond)
	}
	close(goOn)
	if err := <-second; !errors.Is(err, own) || <-first != nil || <-third != nil || has("failed") != 0 || has("beside") != 1 {
		t.Errorf("%v; %d rows of what failed, %d beside it", err, has("failed"), has("beside"))
	}

	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.w.soon(gone, put("gone")); !errors.Is(err, context.Canceled) || has("gone") != 0 {
		t.Errorf("%v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.w.soon(ctx, put("closed")); !errors.Is(err, errClosed) {
		t.Errorf("%v", err)
	}
}
