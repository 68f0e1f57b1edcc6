package ledger

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// TestCompany: a batch waits for others only after one that several waited for,
// and no longer than an fsync takes.
func TestCompany(t *testing.T) {
	var w writer
	for range 20 {
		w.await(1, time.Now().Add(-time.Millisecond))
	}
	if w.company != 0 {
		t.Errorf("after single calls, a batch waits %v", w.company)
	}
	w.await(2, time.Now().Add(-time.Millisecond))
	if w.company <= 0 || w.company > w.took || w.took > 2*time.Millisecond {
		t.Errorf("after a batch of two with an fsync of 1 ms, the next waits %v", w.company)
	}
	for range 50 {
		w.await(2, time.Now().Add(-time.Second))
	}
	if w.company != maxCompany {
		t.Errorf("on a disk that takes a second, a batch waits %v", w.company)
	}
	w.await(1, time.Now())
	if w.company != 0 {
		t.Errorf("alone again, a batch waits %v", w.company)
	}
}

// TestCompanyArrives: what comes while a batch waits goes into it, and who wants
// a flush does not wait at all.
func TestCompanyArrives(t *testing.T) {
	l, err := Open(filepath.Join(t.TempDir(), "log"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	for range 50 { // rounds of eight at once
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := l.Append(context.Background(), asRecord([]byte(`{"kind":"system","id":"ev_1"}`))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	if err := l.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := l.Size(); n != 400 {
		t.Errorf("%d records of 400", n)
	}
}
