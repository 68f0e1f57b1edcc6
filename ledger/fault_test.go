package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
)

func TestWriteFaults(t *testing.T) {
	for _, c := range []struct {
		name   string
		inject func(*memFS)
		want   error
	}{
		{"disk full", func(m *memFS) { m.failWrites = 1 }, syscall.ENOSPC},
		{"nothing written", func(m *memFS) { m.failWrite = 0 }, syscall.ENOSPC},
		{"short write", func(m *memFS) { m.failWrite = 100 }, syscall.ENOSPC},
		{"all written, still an error", func(m *memFS) { m.failWrite = 1 << 20 }, syscall.ENOSPC},
		{"fsync fails, pages lost", func(m *memFS) { m.failSync = 1 }, syscall.EIO},
		{"fsync fails twice", func(m *memFS) { m.failSync = 2 }, syscall.EIO},
		{"fsync fails, pages persisted", func(m *memFS) { m.failSyncLie = 1 }, syscall.EIO},
		{"short write, and the cut fails", func(m *memFS) { m.failWrite, m.failTruncate = 100, 1 }, syscall.ENOSPC},
		{"whole write fails, and the cut fails twice", func(m *memFS) { m.failWrite, m.failTruncate = 1<<20, 2 }, syscall.ENOSPC},
		{"fsync fails, and the cut fails", func(m *memFS) { m.failSync, m.failTruncate = 1, 1 }, syscall.EIO},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, dir := newMemFS(), t.TempDir()
			l := open(t, dir, Options{fs: m})
			mustAppend(t, l, action("ev_0"))
			c.inject(m)
			_, err := l.Append(context.Background(), asRecord(action("ev_lost")))
			if !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if l.Err() == nil {
				t.Error("Err is nil after a failure")
			}
			if l.Size() != 1 {
				t.Errorf("size %d after a failure", l.Size())
			}
			// It recovers by itself. Where the cut fails again, so does the Append.
			for i := 0; ; i++ {
				_, err := l.Append(context.Background(), asRecord(action("ev_1")))
				if err == nil {
					break
				}
				if i == 3 {
					t.Fatalf("does not recover: %v", err)
				}
			}
			if l.Err() != nil {
				t.Errorf("Err %v after recovery", l.Err())
			}
			// What was acknowledged is on the disk, not only in memory.
			after := m.crash(func() bool { return false })
			closeLog(t, l)
			for _, fs := range []*memFS{m, after} {
				l := open(t, t.TempDir(), Options{fs: &moved{fs, dir}})
				got := all(t, l)
				if len(got) != 2 || !bytes.Equal(got[0].Record, action("ev_0")) || !bytes.Equal(got[1].Record, action("ev_1")) {
					t.Errorf("the log holds %d records: %v", len(got), got)
				}
				closeLog(t, l)
			}
		})
	}
}

// moved lets a disk be opened under another directory, since the lock is on the
// real disk, and names are in memory.
type moved struct {
	*memFS
	dir string
}

// name maps .../segments/x, .../torn/x and .../x into dir.
func (m *moved) name(n string) string {
	parent := filepath.Base(filepath.Dir(n))
	if parent == segmentsDir || parent == "torn" {
		return filepath.Join(m.dir, parent, filepath.Base(n))
	}
	return filepath.Join(m.dir, filepath.Base(n))
}

func (m *moved) OpenFile(n string, flag int, perm os.FileMode) (file, error) {
	return m.memFS.OpenFile(m.name(n), flag, perm)
}
func (m *moved) Rename(a, b string) error { return m.memFS.Rename(m.name(a), m.name(b)) }
func (m *moved) Remove(n string) error    { return m.memFS.Remove(m.name(n)) }
func (m *moved) SyncDir(n string) error {
	if filepath.Base(n) == segmentsDir || filepath.Base(n) == "torn" {
		return m.memFS.SyncDir(filepath.Join(m.dir, filepath.Base(n)))
	}
	return m.memFS.SyncDir(m.dir)
}

func (m *moved) ReadDir(n string) ([]string, error) {
	return m.memFS.ReadDir(filepath.Join(m.dir, filepath.Base(n)))
}

// A failed fsync can ruin the page that the failed batch shares with acknowledged
// records. When the next batch goes into a new segment nothing would ever write it
// again, unless the repair does.
func TestFsyncTearsTheSharedPage(t *testing.T) {
	m, dir := newMemFS(), t.TempDir()
	l := open(t, dir, Options{fs: m, SegmentBytes: 1500})
	mustAppend(t, l, action("ev_0"))
	m.mu.Lock()
	m.failSyncTear = 1
	m.mu.Unlock()
	if _, err := l.Append(context.Background(), asRecord(action("ev_x"))); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	l.opt.SegmentBytes = 1 // the writer is idle: the next batch begins a segment
	mustAppend(t, l, action("ev_1"))
	if n := len(m.segments()); n != 2 {
		t.Fatalf("%d segments", n)
	}
	l2 := open(t, t.TempDir(), Options{fs: &moved{m.crash(func() bool { return false }), dir}})
	if got := all(t, l2); len(got) != 2 {
		t.Errorf("%d records", len(got))
	}
}

// What Open has found must last, also where the process before it died between
// its write and its fsync.
func TestOpenSyncsWhatItFound(t *testing.T) {
	dir := t.TempDir()
	m, good := build(t, dir, false)
	seg := m.segments()[0]
	f := m.names[seg]
	f.disk = bytes.Clone(f.cache[:good])
	for p := int64(good / pageSize); p*pageSize < int64(len(f.cache)); p++ {
		f.dirty[p] = true
	}
	l := open(t, dir, Options{fs: m})
	if l.Size() != 5 {
		t.Fatalf("%d records", l.Size())
	}
	after := m.crash(func() bool { return false })
	l2 := open(t, t.TempDir(), Options{fs: &moved{after, dir}})
	if l2.Size() != 5 {
		t.Errorf("%d records after a power cut, Open had said 5", l2.Size())
	}
}

func TestLaterOutlivesAFullDisk(t *testing.T) {
	m := newMemFS()
	l := open(t, t.TempDir(), Options{fs: m})
	mustAppend(t, l, action("ev_0"))
	m.mu.Lock()
	m.failWrites = 1 << 30
	m.mu.Unlock()
	for i := range 10 {
		if !l.Later(asRecord(outcome(fmt.Sprintf("ev_%d", i)))) {
			t.Fatal("refused")
		}
	}
	if err := l.Flush(context.Background()); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("flush on a full disk: %v", err)
	}
	time.Sleep(10 * time.Millisecond)
	m.mu.Lock()
	tries := m.writes
	m.failWrites = 0
	m.mu.Unlock()
	if tries > 20 {
		t.Errorf("%d attempts in 10 ms", tries)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := l.Wait(ctx, 10); err != nil {
		t.Fatalf("what was queued is not written when space returns: %v", err)
	}
	for i, e := range all(t, l)[1:] {
		if !bytes.Equal(e.Record, outcome(fmt.Sprintf("ev_%d", i))) {
			t.Errorf("out of order: %s", e.Record)
		}
	}
	if l.Err() != nil {
		t.Error(l.Err())
	}
}

// A health check that reads Err may keep all traffic away: the log must find out by
// itself that the disk is well again.
func TestErrClearsWithoutTraffic(t *testing.T) {
	for name, inject := range map[string]func(*memFS){
		"full for a while": func(m *memFS) { m.failWrites = 2 },
		"fsync fails":      func(m *memFS) { m.failSync = 1 },
		"cannot be cut":    func(m *memFS) { m.failWrite, m.failTruncate = 10, 1 },
		"never written":    func(m *memFS) { m.failCreate = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, dir := newMemFS(), t.TempDir()
			l := open(t, dir, Options{fs: m})
			if name != "never written" {
				mustAppend(t, l, action("ev_0"))
			}
			m.mu.Lock()
			inject(m)
			m.mu.Unlock()
			if _, err := l.Append(context.Background(), asRecord(action("ev_x"))); err == nil || l.Err() == nil {
				t.Fatal("no error")
			}
			for deadline := time.Now().Add(10 * time.Second); l.Err() != nil; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal(l.Err())
				}
			}
			size := l.Size()
			if rep, err := verifyDir(m, dir); err != nil || rep.Fault != nil || rep.Pending != 0 {
				t.Errorf("%+v %v", rep, err)
			}
			mustAppend(t, l, action("ev_1"))
			l2 := open(t, t.TempDir(), Options{fs: &moved{m.crash(func() bool { return false }), dir}})
			if l2.Size() != size+1 || l2.Recovered().TruncatedBytes != 0 {
				t.Errorf("%d records, %+v", l2.Size(), l2.Recovered())
			}
		})
	}
}

func TestLaterIsBounded(t *testing.T) {
	m := newMemFS()
	l := open(t, t.TempDir(), Options{fs: m})
	mustAppend(t, l, action("ev_0"))
	m.mu.Lock()
	m.failWrites = 1 << 30
	m.mu.Unlock()
	rec, n := outcome("ev_0"), 0
	for l.Later(asRecord(rec)) {
		if n++; n > maxLater {
			t.Fatal("no bound")
		}
	}
	if n != maxLater {
		t.Errorf("only %d were kept", n)
	}
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), "100000 queued records") {
		t.Errorf("close says %v", err)
	}
}

func TestRollFault(t *testing.T) {
	m := newMemFS()
	l := open(t, t.TempDir(), Options{fs: m, SegmentBytes: 1})
	mustAppend(t, l, action("ev_0"))
	m.mu.Lock()
	m.failCreate = 1
	m.mu.Unlock()
	if _, err := l.Append(context.Background(), asRecord(action("ev_x"))); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	mustAppend(t, l, action("ev_1"))
	// The first batch of a new segment fails: its file stays behind, empty.
	m.mu.Lock()
	m.failWrite = 50
	m.mu.Unlock()
	if _, err := l.Append(context.Background(), asRecord(action("ev_y"))); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	mustAppend(t, l, action("ev_2"))
	if got := all(t, l); len(got) != 3 {
		t.Errorf("%d records", len(got))
	}
	if n := len(m.segments()); n != 3 {
		t.Errorf("%d segments", n)
	}
}

// Appends under a disk that fails now and then: whoever got nil is in the log,
// once; whoever got an error is not.
func TestFaultsUnderLoad(t *testing.T) {
	m, dir := newMemFS(), t.TempDir()
	l := open(t, dir, Options{fs: m, SegmentBytes: 32 << 10})
	var stop atomic.Bool
	var faults sync.WaitGroup
	faults.Go(func() {
		for i := 0; !stop.Load(); i++ {
			m.mu.Lock()
			switch i % 5 {
			case 0:
				m.failWrite = i * 13 % 3000
			case 1:
				m.failSync = 1
			case 2:
				m.failSyncLie = 1
			case 3:
				m.failWrite, m.failTruncate = i*7%3000, 1
			case 4:
				m.failCreate = 1
			}
			m.mu.Unlock()
			time.Sleep(200 * time.Microsecond)
		}
	})
	var mu sync.Mutex
	acked, failed := map[string]uint64{}, map[string]bool{}
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Go(func() {
			for i := range 25 {
				id := fmt.Sprintf("ev_%d_%d", g, i)
				e, err := l.Append(context.Background(), asRecord(action(id)))
				mu.Lock()
				if err == nil {
					acked[id] = e.Index
				} else {
					failed[id] = true
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	stop.Store(true)
	faults.Wait()
	m.mu.Lock()
	m.failWrite, m.failTruncate, m.failSync, m.failSyncLie, m.failCreate = -1, 0, 0, 0, 0
	m.mu.Unlock()
	mustAppend(t, l, action("ev_end"))
	if len(failed) == 0 || len(acked) == 0 {
		t.Fatalf("%d acknowledged, %d failed: nothing was tried", len(acked), len(failed))
	}
	acked["ev_end"] = l.Size() - 1
	check := func(l *Log) {
		t.Helper()
		got := all(t, l)
		if len(got) != len(acked) {
			t.Errorf("%d records, %d acknowledged", len(got), len(acked))
		}
		for _, e := range got {
			s, _ := evidence.Look(e.Record)
			if at, ok := acked[s.ID]; !ok || at != e.Index {
				t.Errorf("record %d is %s, which was acknowledged at %d (%v)", e.Index, s.ID, at, ok)
			}
		}
	}
	check(l)
	after := m.crash(func() bool { return false })
	l2 := open(t, t.TempDir(), Options{fs: &moved{after, dir}})
	check(l2)
	if rep, err := verifyDir(&moved{after, dir}, dir); err != nil || rep.Fault != nil {
		t.Errorf("%+v %v", rep.Fault, err)
	}
}

func TestWithdraw(t *testing.T) {
	m := newMemFS()
	l := open(t, t.TempDir(), Options{fs: m})
	// Many contexts that end while their records wait: an error means absent.
	var wg sync.WaitGroup
	var mu sync.Mutex
	acked := map[string]bool{}
	for g := range 200 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(g)*5*time.Microsecond)
			defer cancel()
			id := fmt.Sprintf("ev_%d", g)
			if _, err := l.Append(ctx, asRecord(action(id))); err == nil {
				mu.Lock()
				acked[id] = true
				mu.Unlock()
			} else if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got := map[string]bool{}
	for _, e := range all(t, l) {
		s, _ := evidence.Look(e.Record)
		got[s.ID] = true
	}
	if len(got) != len(acked) {
		t.Errorf("%d in the log, %d acknowledged", len(got), len(acked))
	}
	for id := range got {
		if !acked[id] {
			t.Errorf("%s is in the log though its Append failed", id)
		}
	}
}
