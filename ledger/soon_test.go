package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// heldSync makes a segment's fsync wait.
type heldSync struct {
	*memFS
	begun, goOn chan struct{}
}

type heldFile struct {
	file
	of *heldSync
}

func (h *heldSync) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	f, err := h.memFS.OpenFile(name, flag, perm)
	if err != nil || !isSegment(name) {
		return f, err
	}
	return heldFile{f, h}, nil
}

func (f heldFile) Sync() error {
	select {
	case f.of.begun <- struct{}{}:
		<-f.of.goOn
	default: // nobody looks
	}
	return f.file.Sync()
}

// TestSoonDoesNotWaitForTheDisk: a record of Soon is written when it returns, and
// not synced; one of Append is.
func TestSoonDoesNotWaitForTheDisk(t *testing.T) {
	fs := &heldSync{memFS: newMemFS(), begun: make(chan struct{}), goOn: make(chan struct{})}
	dir := t.TempDir()
	l := open(t, dir, Options{fs: fs})
	mustAppend(t, l, action("ev_0"))
	returned := make(chan error, 1)
	go func() { returned <- l.Soon(asRecord(outcome("ev_0"))) }()
	<-fs.begun
	select {
	case err := <-returned:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		close(fs.goOn)
		t.Fatal("it waits for the fsync")
	}
	if n := l.Size(); n != 1 {
		t.Errorf("%d records are called durable before the fsync", n)
	}
	// The process dies here: the system has it. The machine dies: it is not lost that
	// there was an action.
	for keep, want := range map[bool]int{true: 2, false: 1} {
		after := fs.crash(func() bool { return keep })
		l2 := open(t, t.TempDir(), Options{fs: &moved{after, dir}})
		if got := all(t, l2); len(got) != want {
			t.Errorf("pages kept %v: %d records, want %d", keep, len(got), want)
		}
		closeLog(t, l2)
	}
	close(fs.goOn)
	if err := l.Flush(context.Background()); err != nil || l.Size() != 2 {
		t.Errorf("%v, %d records", err, l.Size())
	}
}

// TestSoonOnADiskThatRefuses: who waits is told, and the record does not come
// later; one whose fsync fails is written again.
func TestSoonOnADiskThatRefuses(t *testing.T) {
	for name, inject := range map[string]func(*memFS){
		"full":        func(m *memFS) { m.failWrites = 1 },
		"short write": func(m *memFS) { m.failWrite = 100 },
	} {
		m := newMemFS()
		l := open(t, t.TempDir(), Options{fs: m})
		mustAppend(t, l, action("ev_0"))
		m.mu.Lock()
		inject(m)
		m.mu.Unlock()
		if err := l.Soon(asRecord(outcome("ev_lost"))); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
		if err := l.Soon(asRecord(outcome("ev_0"))); err != nil {
			t.Errorf("%s: does not recover: %v", name, err)
		}
		if err := l.Flush(context.Background()); err != nil {
			t.Error(err)
		}
		if got := all(t, l); len(got) != 2 {
			t.Errorf("%s: %d records, want the action and its outcome", name, len(got))
		}
		if l.laterBytes != 0 || l.soon != 0 {
			t.Errorf("%s: %d bytes are still counted, %d waited for", name, l.laterBytes, l.soon)
		}
	}

	m, dir := newMemFS(), t.TempDir()
	l := open(t, dir, Options{fs: m})
	mustAppend(t, l, action("ev_0"))
	m.mu.Lock()
	m.failSync = 1
	m.mu.Unlock()
	if err := l.Soon(asRecord(outcome("ev_0"))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := l.Wait(ctx, 1); err != nil {
		t.Fatalf("what was handed over is not written again after a failed fsync: %v", err)
	}
	l2 := open(t, t.TempDir(), Options{fs: &moved{m.crash(func() bool { return false }), dir}})
	if got := all(t, l2); len(got) != 2 {
		t.Errorf("%d records", len(got))
	}
}

// TestSoonOfMany: all are told, beside Appends and Later, and stand in the log.
func TestSoonOfMany(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Go(func() {
			for i := range 10 {
				id := fmt.Sprintf("ev_%d_%d", g, i)
				mustAppend(t, l, action(id))
				if i%2 == 0 {
					if err := l.Soon(asRecord(outcome(id))); err != nil {
						t.Error(err)
					}
				} else if !l.Later(asRecord(outcome(id))) {
					t.Error("refused")
				}
			}
		})
	}
	wg.Wait()
	if err := l.Flush(context.Background()); err != nil || l.Size() != 2*64*10 {
		t.Errorf("%v, %d records", err, l.Size())
	}
	closeLog(t, l)
	if err := l.Soon(asRecord(outcome("ev_0"))); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := l.Soon(asRecord([]byte("x"))); err == nil {
		t.Error("what is no record was taken")
	}
}
