package ledger

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// model is what the log must hold, by what its callers were told.
type model struct {
	dir   string
	fs    *memFS
	l     *Log
	async bool
	ahead int64

	log   [][]byte // records known to be durable, in order
	doubt [][]byte // told to have failed, or to nobody, since the log was last whole
	queue [][]byte // taken by Later, not known to be durable
	next  int
}

func (m *model) record() []byte {
	m.next++
	return action(fmt.Sprintf("ev_%d", m.next))
}

func (m *model) open(t *rapid.T) {
	l, err := Open(m.dir, Options{fs: m.fs, SegmentBytes: 3000, Async: m.async, ahead: m.ahead})
	if err != nil {
		t.Fatal(err)
	}
	m.l = l
}

// settle compares the log with the model. What was queued may be in it by now, in
// order; what failed may not.
func (m *model) settle(t *rapid.T, doubtful bool) {
	size := m.l.Size()
	if size < uint64(len(m.log)) {
		t.Fatalf("%d records, %d were acknowledged", size, len(m.log))
	}
	for i := uint64(0); i < size; {
		es, err := m.l.Read(i, 3)
		if err != nil || len(es) == 0 {
			t.Fatalf("read %d of %d: %v", i, size, err)
		}
		for _, e := range es {
			if e.Index != i {
				t.Fatalf("index %d where %d belongs", e.Index, i)
			}
			switch {
			case i < uint64(len(m.log)):
				if !bytes.Equal(e.Record, m.log[i]) {
					t.Fatalf("record %d is not what was acknowledged", i)
				}
			case len(m.queue) > 0 && bytes.Equal(e.Record, m.queue[0]):
				m.log = append(m.log, m.queue[0])
				m.queue = m.queue[1:]
			case doubtful && slices.ContainsFunc(m.doubt, func(d []byte) bool { return bytes.Equal(d, e.Record) }):
				// A whole batch whose error was told after the disk had it, and that
				// could not be cut off before the power went.
				m.log = append(m.log, e.Record)
				m.doubt = nil
			default:
				t.Fatalf("record %d is nobody's: %s", i, e.Record)
			}
			i++
		}
	}
}

func (m *model) faults(f func(fs *memFS)) {
	m.fs.mu.Lock()
	defer m.fs.mu.Unlock()
	f(m.fs)
}

// Any order of appends, queued records, faults, restarts and power cuts: what was
// acknowledged stays, what was refused does not come, and the log verifies.
func TestModel(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		m := &model{dir: dir, fs: newMemFS(), ahead: rapid.SampledFrom([]int64{0, 700, 1500}).Draw(t, "ahead")}
		m.open(t)
		defer func() { _ = m.l.Close() }()
		broken := func() bool { return m.l.Err() != nil }
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				rec := m.record()
				m.settle(t, false)
				e, err := m.l.Append(context.Background(), asRecord(rec))
				if err != nil {
					m.doubt = append(m.doubt, rec)
					return
				}
				// Queued records that rode along stand before it.
				for uint64(len(m.log)) < e.Index && len(m.queue) > 0 {
					m.log = append(m.log, m.queue[0])
					m.queue = m.queue[1:]
				}
				if e.Index != uint64(len(m.log)) {
					t.Fatalf("index %d, want %d", e.Index, len(m.log))
				}
				m.log = append(m.log, rec)
				m.doubt = nil
			},
			"later": func(t *rapid.T) {
				rec := m.record()
				if !m.l.Later(asRecord(rec)) {
					t.Fatal("refused")
				}
				m.queue = append(m.queue, rec)
			},
			"soon": func(t *rapid.T) {
				rec := m.record()
				if err := m.l.Soon(asRecord(rec)); err != nil {
					m.doubt = append(m.doubt, rec)
					return
				}
				m.queue = append(m.queue, rec)
			},
			"flush": func(t *rapid.T) {
				if err := m.l.Flush(context.Background()); err != nil {
					return
				}
				m.log = append(m.log, m.queue...)
				m.queue, m.doubt = nil, nil
				m.settle(t, false)
			},
			"short write": func(t *rapid.T) {
				n := rapid.IntRange(0, 2000).Draw(t, "n")
				m.faults(func(fs *memFS) { fs.failWrite = n })
			},
			"fsync loses pages": func(t *rapid.T) { m.faults(func(fs *memFS) { fs.failSync = 1 }) },
			"fsync lies":        func(t *rapid.T) { m.faults(func(fs *memFS) { fs.failSyncLie = 1 }) },
			"truncate fails":    func(t *rapid.T) { m.faults(func(fs *memFS) { fs.failTruncate = 1 }) },
			"create fails":      func(t *rapid.T) { m.faults(func(fs *memFS) { fs.failCreate = 1 }) },
			"restart": func(t *rapid.T) {
				m.faults(func(fs *memFS) {
					fs.failWrite, fs.failSync, fs.failSyncLie, fs.failTruncate, fs.failCreate = -1, 0, 0, 0, 0
				})
				was := broken()
				err := m.l.Close()
				if err != nil && !was {
					t.Fatalf("close: %v", err)
				}
				m.fs = m.fs.clone()
				m.open(t)
				m.settle(t, was)
				m.queue, m.doubt = nil, nil
			},
			"power cut": func(t *rapid.T) {
				was := broken()
				keep := rapid.SampledFrom([]string{"none", "all", "some"}).Draw(t, "keep")
				after := m.fs.crash(func() bool {
					return keep == "all" || (keep == "some" && rapid.Bool().Draw(t, "page"))
				})
				_ = m.l.Close() // on the old disk, which nobody will see again
				m.fs = after
				m.open(t)
				m.settle(t, was)
				m.queue, m.doubt = nil, nil
			},
			"": func(t *rapid.T) {
				m.settle(t, false)
				if broken() {
					return
				}
				rep, err := verifyDir(m.fs, m.dir)
				if err != nil {
					t.Fatal(err)
				}
				if rep.Fault != nil {
					t.Fatalf("%+v", rep.Fault)
				}
			},
		})
	})
}

// The same order of events with Async: a power cut may take what an fsync has not
// confirmed, but only from the end, and what is left verifies.
func TestAsyncPowerCut(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		m := &model{dir: dir, fs: newMemFS(), async: true}
		m.open(t)
		var durable int
		for range rapid.IntRange(1, 12).Draw(t, "appends") {
			rec := m.record()
			if _, err := m.l.Append(context.Background(), asRecord(rec)); err != nil {
				t.Fatal(err)
			}
			m.log = append(m.log, rec)
			if rapid.IntRange(0, 4).Draw(t, "flush") == 0 {
				if err := m.l.Flush(context.Background()); err != nil {
					t.Fatal(err)
				}
				durable = len(m.log)
			}
		}
		after := m.fs.crash(func() bool { return rapid.Bool().Draw(t, "page") })
		if err := m.l.Close(); err != nil {
			t.Fatal(err)
		}
		m.fs = after
		m.open(t)
		defer func() { _ = m.l.Close() }()
		size := int(m.l.Size())
		if size < durable || size > len(m.log) {
			t.Fatalf("%d records, %d were durable, %d acknowledged", size, durable, len(m.log))
		}
		m.log = m.log[:size]
		m.settle(t, false)
		if rep, err := verifyDir(m.fs, m.dir); err != nil || rep.Fault != nil {
			t.Fatal(rep.Fault, err)
		}
		if _, err := m.l.Append(context.Background(), asRecord(m.record())); err != nil {
			t.Fatal(err)
		}
	})
}

// An fsync that fails in the background must neither lose what was acknowledged
// while the machine lives nor hide.
func TestAsyncFsyncFails(t *testing.T) {
	m := newMemFS()
	dir := t.TempDir()
	l := open(t, dir, Options{fs: m, Async: true})
	mustAppend(t, l, action("ev_0"))
	m.mu.Lock()
	m.failSync = 1
	m.mu.Unlock()
	mustAppend(t, l, action("ev_1"))
	if err := l.Flush(context.Background()); err == nil {
		t.Fatal("flush hides the failed fsync")
	}
	mustAppend(t, l, action("ev_2"))
	if err := l.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	after := m.crash(func() bool { return false })
	l2 := open(t, t.TempDir(), Options{fs: &moved{after, dir}, Async: true})
	if got := all(t, l2); len(got) != 3 || !bytes.Equal(got[1].Record, action("ev_1")) {
		t.Errorf("%d records", len(got))
	}
}
