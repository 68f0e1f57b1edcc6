package ledger

import (
	"context"
	"path/filepath"
	"runtime"
	"testing"
)

// TestCompany: those who append at once share their fsyncs, on a disk that is so
// fast that none of them would meet another during one.
func TestCompany(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // who runs when is clear then
	m := newMemFS()
	l := open(t, t.TempDir(), Options{fs: m})
	const rounds, together = 20, 32
	syncs := func() int {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.syncs
	}
	before := syncs()
	for range rounds {
		appendTogether(t, l, together)
	}
	if n := syncs() - before; n > rounds*together/8 {
		t.Errorf("%d records, %d at a time, took %d fsyncs", rounds*together, together, n)
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
		appendTogether(t, l, 8)
	}
	if err := l.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := l.Size(); n != 400 {
		t.Errorf("%d records of 400", n)
	}
}
