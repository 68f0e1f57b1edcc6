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
	"testing"
)

// appendTogether appends n records at once, so that they share a batch.
func appendTogether(t *testing.T, l *Log, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := l.Append(context.Background(), asRecord(action(fmt.Sprintf("ev_%d", i)))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestAhead: many who call at once find room written ahead; it is nobody's record
// for those who read beside the writer or after its end, and is gone from a file
// that is not written any more.
func TestAhead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	const sealAt = 3 << 20
	l, err := Open(dir, Options{SegmentBytes: sealAt})
	if err != nil {
		t.Fatal(err)
	}
	first := segmentPath(dir, 0)
	room := func() int64 {
		b, err := os.ReadFile(first)
		if err != nil {
			t.Fatal(err)
		}
		return int64(len(b) - len(bytes.TrimRight(b, "\x00")))
	}
	mustAppend(t, l, action("ev_alone"))
	if n := room(); n != 0 {
		t.Errorf("who calls alone leaves %d zeros", n)
	}
	for i := 0; room() == 0; i++ {
		if i == 100 {
			t.Fatal("a hundred times 64 at once, and no room was written ahead")
		}
		appendTogether(t, l, 64)
	}
	if n := room(); n > aheadBytes {
		t.Errorf("%d zeros", n)
	}
	look := func(when string) {
		t.Helper()
		size := l.Size()
		rep, err := VerifyDir(dir)
		if err != nil || rep.Fault != nil || rep.Size != size || rep.Pending != 0 {
			t.Errorf("%s: %+v %+v %v, want %d records", when, rep, rep.Fault, err, size)
		}
		r, err := OpenReader(dir)
		if err != nil {
			t.Fatal(err)
		}
		if es, err := r.Read(size-1, 10); err != nil || len(es) != 1 {
			t.Errorf("%s: the last record: %d, %v", when, len(es), err)
		}
		if es, err := r.Read(size, 10); err != nil || len(es) != 0 {
			t.Errorf("%s: behind the last record: %d, %v", when, len(es), err)
		}
	}
	look("while it is open")

	// What a kill leaves: the file as it is. The next start goes on behind the log.
	other := filepath.Join(t.TempDir(), "log")
	if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	killed := open(t, other, Options{})
	if r := killed.Recovered(); killed.Size() != l.Size() || r.TruncatedBytes != 0 || r.Saved != "" {
		t.Errorf("%d of %d records, %+v", killed.Size(), l.Size(), r)
	}
	mustAppend(t, killed, action("ev_after"))

	// Who verifies meanwhile meets lines that are half written over zeros.
	stop, verified := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { verified <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if rep, err := VerifyDir(dir); err != nil || rep.Fault != nil {
				t.Errorf("while it is written: %+v %v", rep.Fault, err)
				return
			}
			n++
		}
	}()
	for l.Size() < 10_000 && len(segmentsOf(t, dir)) == 1 {
		appendTogether(t, l, 256)
	}
	close(stop)
	if n := <-verified; n == 0 {
		t.Error("never verified meanwhile")
	}
	if segs := segmentsOf(t, dir); len(segs) != 2 {
		t.Fatalf("%d segments", len(segs))
	}
	if n := room(); n != 0 {
		t.Errorf("a sealed segment ends in %d zeros", n)
	}
	look("in the second segment")
	closeLog(t, l)
	for _, s := range segmentsOf(t, dir) {
		if b, err := os.ReadFile(segmentPath(dir, s)); err != nil || !strings.HasSuffix(string(b), "}\n") {
			t.Errorf("segment %d of a closed log does not end with its last line: %v", s, err)
		}
	}
	look("closed")
}

func segmentsOf(t *testing.T, dir string) []uint64 {
	t.Helper()
	segs, err := listSegments(disk{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	return segs
}

// TestZerosInside: zeros are room at the end of the last segment and nowhere else.
func TestZerosInside(t *testing.T) {
	dir := t.TempDir()
	m := newMemFS()
	l := open(t, dir, Options{fs: m, SegmentBytes: 2500, ahead: 700})
	for i := range 9 {
		mustAppend(t, l, action(fmt.Sprintf("ev_%d", i)))
	}
	closeLog(t, l)
	segs := m.segments()
	last := m.content(segs[len(segs)-1])
	lineOf := func(b []byte, n int) int {
		at := 0
		for range n {
			at += bytes.IndexByte(b[at:], '\n') + 1
		}
		return at
	}
	second := lineOf(last, 1) // the first record of the last segment
	hole := bytes.Clone(last)
	clear(hole[second+10 : second+40])
	wiped := bytes.Clone(last)
	clear(wiped[second : second+lineOf(last[second:], 1)])
	for name, change := range map[string]func(*memFS){
		"in a record":                func(d *memFS) { d.put(segs[len(segs)-1], hole) },
		"instead of a record":        func(d *memFS) { d.put(segs[len(segs)-1], wiped) },
		"behind a sealed segment":    func(d *memFS) { d.put(segs[0], append(d.content(segs[0]), 0, 0)) },
		"instead of what was signed": func(d *memFS) { d.put(segs[len(segs)-1], make([]byte, len(last))) },
	} {
		t.Run(name, func(t *testing.T) {
			d := m.clone()
			delete(d.names, filepath.Join(dir, stateName)) // or the start need not read what is before it
			change(d)
			if rep, err := verifyDir(d, dir); err != nil || rep.Fault == nil {
				t.Errorf("verify sees nothing: %+v %v", rep, err)
			}
			var dmg *DamagedError
			if _, err := Open(dir, Options{fs: d}); !errors.As(err, &dmg) {
				t.Errorf("opened: %v", err)
			}
		})
	}
}

// TestLongGarbage: signed checkpoints are found behind more bytes than a line may
// have, so that what they cover is not cut off as a torn tail.
func TestLongGarbage(t *testing.T) {
	dir := t.TempDir()
	m, good := build(t, dir, false)
	seg := m.segments()[0]
	whole := m.content(seg)
	d := m.clone()
	second := bytes.Index(whole[:good], []byte(`"ev_1"`))
	d.put(seg, append(append(bytes.Clone(whole[:second]), make([]byte, 2*maxLine)...), whole[second:]...))
	var dmg *DamagedError
	if _, err := Open(dir, Options{fs: d}); !errors.As(err, &dmg) {
		t.Errorf("opened: %v", err)
	}
}
