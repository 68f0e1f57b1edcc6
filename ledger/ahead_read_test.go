package ledger

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// zeroed is a log of n records on a memory disk, closed, with six zero bytes in the
// one that a later start would not read.
func zeroed(t *testing.T, n, in int) (dir string, m *memFS) {
	t.Helper()
	dir, m = t.TempDir(), newMemFS()
	l := open(t, dir, Options{fs: m})
	for i := range n {
		mustAppend(t, l, action(fmt.Sprintf("ev_%d", i)))
	}
	closeLog(t, l)
	seg := m.segments()[0]
	b := m.content(seg)
	at := bytes.Index(b, fmt.Appendf(nil, `"ev_%d"`, in))
	clear(b[at : at+6])
	m.put(seg, b)
	return dir, m
}

// TestReaderSeesZeroDamage: a record with zeros in it is an error, also for who reads
// beside the writer, and its neighbours are read.
func TestReaderSeesZeroDamage(t *testing.T) {
	const n, in = 200, 3
	dir, m := zeroed(t, n, in)
	r := &Reader{dir: dir, fs: m}
	if size, err := r.Size(); err != nil || size != n {
		t.Errorf("%d records, %v", size, err)
	}
	for i := range uint64(n) {
		r.hint = cursor{} // each is looked for
		es, err := r.Read(i, 1)
		switch {
		case i == in && err == nil:
			t.Errorf("%d records read of the damaged one, and no error", len(es))
		case i != in && (err != nil || len(es) != 1):
			t.Errorf("record %d: %d, %v", i, len(es), err)
		}
	}
	if _, err := r.Export(&bytes.Buffer{}, 0, 1<<60, nil); err == nil {
		t.Error("exported without an error")
	}
}

// TestReaderAfterTakenBack: a reader that has seen a batch whose fsync then failed
// goes on with what was written in its place, though the file is longer by the room.
func TestReaderAfterTakenBack(t *testing.T) {
	dir, m := t.TempDir(), newMemFS()
	l := open(t, dir, Options{fs: m, ahead: 5000})
	mustAppend(t, l, action("ev_0"))
	seg := m.segments()[0]
	good := bytes.TrimRight(m.content(seg), "\x00")
	mustAppend(t, l, action("ev_long_"+string(bytes.Repeat([]byte("x"), 200))))
	r := &Reader{dir: dir, fs: m.clone()}
	if size, err := r.Size(); err != nil || size != 2 {
		t.Fatal(size, err)
	}
	closeLog(t, l)
	m = m.clone()
	m.put(seg, good)
	delete(m.names, filepath.Join(dir, checkpointName))
	delete(m.names, filepath.Join(dir, stateName))
	l = open(t, dir, Options{fs: m, ahead: 5000})
	r.fs = m
	for i := range 30 {
		mustAppend(t, l, action(fmt.Sprintf("ev_%d", i)))
		if size, err := r.Size(); err != nil || size != l.Size() {
			t.Fatalf("the reader has %d of %d records, %v", size, l.Size(), err)
		}
	}
}

// TestReadAfterHole: a batch whose fsync was asked for later, and failed, is not among
// those in memory; what is behind it is read all the same.
func TestReadAfterHole(t *testing.T) {
	m := newMemFS()
	l := open(t, t.TempDir(), Options{fs: m, Async: true})
	mustAppend(t, l, action("ev_0"))
	if err := l.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.failSync = 1
	m.mu.Unlock()
	for i := range 3 {
		l.Later(asRecord(action(fmt.Sprintf("ev_%d", i+1))))
	}
	_ = l.Flush(context.Background()) // it may meet the failure, or another sync did
	if err := l.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i := range l.Size() {
		if es, err := l.Read(i, 1); err != nil || len(es) != 1 || es[0].Index != i {
			t.Errorf("record %d of %d: %v, %v", i, l.Size(), es, err)
		}
	}
}

// lateFS has room for so many bytes of a segment, and says so at fsync only.
type lateFS struct {
	*memFS
	room int64
}

type lateFile struct {
	file
	room int64
}

func (f lateFS) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	g, err := f.memFS.OpenFile(name, flag, perm)
	if err == nil && isSegment(name) {
		g = lateFile{g, f.room}
	}
	return g, err
}

func (f lateFile) Sync() error {
	if n, _ := f.Size(); n > f.room {
		return syscall.ENOSPC
	}
	return f.file.Sync()
}

// TestRoomRefusedAtSync: a disk that has room for the records and not for what is
// written ahead, and says so when it syncs, refuses one batch, not all.
func TestRoomRefusedAtSync(t *testing.T) {
	l := open(t, t.TempDir(), Options{fs: lateFS{newMemFS(), 512 << 10}})
	var refused atomic.Int64
	const rounds, together = 5, 64
	for range rounds {
		var wg sync.WaitGroup
		for i := range together {
			wg.Go(func() {
				if _, err := l.Append(context.Background(), asRecord(action(fmt.Sprintf("ev_%d", i)))); err != nil {
					refused.Add(1)
				}
			})
		}
		wg.Wait()
	}
	if n := refused.Load(); n > together {
		t.Errorf("%d of %d refused", n, rounds*together)
	}
}
