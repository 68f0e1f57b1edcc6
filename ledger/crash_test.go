package ledger

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// build makes a log on a memory disk: three acknowledged batches, and one more
// that was not. It gives the disk at rest with all four, without what the
// publisher wrote, and the length of the segment before the last batch.
func build(t *testing.T, dir string, async bool) (m *memFS, good int) {
	t.Helper()
	m = newMemFS()
	l, err := Open(dir, Options{fs: m, Async: async})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		mustAppend(t, l, action(fmt.Sprintf("ev_%d", i)))
	}
	seg := m.segments()[0]
	good = len(m.content(seg))
	l.Later(asRecord(outcome("ev_0")))
	l.Later(asRecord(action("ev_3")))
	if err := l.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	m = m.clone()
	delete(m.names, filepath.Join(dir, checkpointName))
	delete(m.names, filepath.Join(dir, stateName))
	return m, good
}

func TestCrashAtEveryByteOfABatch(t *testing.T) {
	dir := t.TempDir()
	m, good := build(t, dir, false)
	seg := m.segments()[0]
	whole := m.content(seg)
	for n := good; n <= len(whole); n++ {
		if n%stride != 0 && n != len(whole) {
			continue
		}
		// Zeros behind the cut: a length that reached the disk before the data, or
		// the room that was written ahead. They are nobody's.
		for _, zeros := range []int{0, len(whole) - n}[:1+min(1, n%7/6)] {
			d := m.clone()
			d.put(seg, append(bytes.Clone(whole[:n]), make([]byte, zeros)...))
			l, err := Open(dir, Options{fs: d})
			if err != nil {
				t.Fatalf("cut at %d: %v", n, err)
			}
			want := uint64(3)
			if n == len(whole) {
				want = 5
			}
			if l.Size() != want {
				t.Fatalf("cut at %d: %d records, want %d", n, l.Size(), want)
			}
			if left := len(d.content(seg)); want == 3 && left != good {
				t.Fatalf("cut at %d: %d bytes are left, %d are good", n, left, good)
			}
			rec := l.Recovered()
			torn := n - good
			if want == 5 {
				torn = 0
			}
			if rec.TruncatedBytes != int64(torn) || (torn > 0) != (rec.Saved != "") {
				t.Fatalf("cut at %d: recovery %+v, want %d bytes", n, rec, torn)
			}
			if torn > 0 && !bytes.Equal(d.content(rec.Saved), whole[good:n]) {
				t.Fatalf("cut at %d: the torn tail was not kept", n)
			}
			if want == 3 && len(l.Unfinished()) != 3 {
				t.Fatalf("cut at %d: unfinished %v", n, l.Unfinished())
			}
			mustAppend(t, l, action("ev_9"))
			closeLog(t, l)
			if rep, err := verifyDir(d, dir); err != nil || rep.Fault != nil || rep.Size != want+1 {
				t.Fatalf("cut at %d: %+v %v", n, rep, err)
			}
		}
	}
}

// The batch's pages reach the disk in any order: a hole in front of its own
// checkpoint is still a torn batch.
func TestCrashWithHoles(t *testing.T) {
	dir := t.TempDir()
	m, good := build(t, dir, false)
	seg := m.segments()[0]
	whole := m.content(seg)
	for at := good; at < good+600; at += 37 {
		d := m.clone()
		b := bytes.Clone(whole)
		clear(b[at : at+20])
		d.put(seg, b)
		l, err := Open(dir, Options{fs: d})
		if err != nil {
			t.Fatalf("hole at %d: %v", at, err)
		}
		if l.Size() != 3 || l.Recovered().TruncatedBytes == 0 {
			t.Fatalf("hole at %d: %d records, %+v", at, l.Size(), l.Recovered())
		}
		closeLog(t, l)
	}
}

// Damage to what was acknowledged is not a torn tail: nothing is cut, nothing is
// appended.
func TestDamageIsNotATail(t *testing.T) {
	dir := t.TempDir()
	m, good := build(t, dir, false)
	seg := m.segments()[0]
	whole := m.content(seg)
	second := bytes.Index(whole, []byte(`"ev_1"`))

	t.Run("two checkpoints behind it", func(t *testing.T) {
		d := m.clone()
		b := bytes.Clone(whole)
		b[second+2] ^= 1
		d.put(seg, b)
		_, err := Open(dir, Options{fs: d})
		var dmg *DamagedError
		if !errors.As(err, &dmg) || dmg.Fault.Index != 1 {
			t.Fatalf("opened: %v", err)
		}
		if !bytes.Equal(d.content(seg), b) {
			t.Error("the segment was changed")
		}
	})
	t.Run("async batches may all be torn", func(t *testing.T) {
		dir := t.TempDir()
		m, _ := build(t, dir, true)
		seg := m.segments()[0]
		b := m.content(seg)
		b[bytes.Index(b, []byte(`"ev_1"`))+2] ^= 1
		m.put(seg, b)
		l, err := Open(dir, Options{fs: m, Async: true})
		if err != nil {
			t.Fatal(err)
		}
		if l.Size() != 1 {
			t.Errorf("size %d", l.Size())
		}
		closeLog(t, l)
	})
	// A published checkpoint tells that the last batch was acknowledged.
	d := m.clone()
	l := open(t, dir, Options{fs: d})
	closeLog(t, l)
	for name, b := range map[string][]byte{
		"end cut off":      whole[:good],
		"last byte gone":   whole[:len(whole)-1],
		"last batch flips": append(bytes.Clone(whole[:good+60]), append([]byte{whole[good+60] ^ 1}, whole[good+61:]...)...),
		"empty":            {},
	} {
		t.Run(name, func(t *testing.T) {
			for _, state := range []bool{true, false} {
				x := d.clone()
				x.put(seg, b)
				if !state {
					delete(x.names, filepath.Join(dir, stateName))
				}
				l, err := Open(dir, Options{fs: x})
				var dmg *DamagedError
				switch {
				case err == nil && state && name == "last batch flips":
					// Nothing behind the state is left to read: finding it is for verify.
					closeLog(t, l)
				case !errors.As(err, &dmg):
					t.Fatalf("state %v: opened: %v", state, err)
				}
				if rep, err := verifyDir(x, dir); err != nil || rep.Fault == nil {
					t.Errorf("verify sees nothing: %+v %v", rep, err)
				}
			}
		})
	}
	t.Run("all segments gone", func(t *testing.T) {
		x := d.clone()
		delete(x.names, seg)
		if _, err := Open(dir, Options{fs: x}); err == nil {
			t.Error("opened")
		}
	})
	t.Run("key gone", func(t *testing.T) {
		x := d.clone()
		delete(x.names, filepath.Join(dir, keyName))
		if _, err := Open(dir, Options{fs: x}); err == nil || !strings.Contains(err.Error(), "restore it") {
			t.Errorf("opened: %v", err)
		}
	})
}

// Flip every byte of a sealed log: verification must name the record whose line
// it stood in.
func TestFlipEveryByte(t *testing.T) {
	dir := t.TempDir()
	m := newMemFS()
	l := open(t, dir, Options{fs: m, SegmentBytes: 1})
	for i := range 3 {
		mustAppend(t, l, action(fmt.Sprintf("ev_%d", i)))
	}
	l.Later(asRecord(action("ev_3")))
	l.Later(asRecord(outcome("ev_3")))
	l.Later(asRecord(action("ev_4")))
	if err := l.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, action("ev_5"))
	closeLog(t, l)
	if rep, err := verifyDir(m, dir); err != nil || rep.Fault != nil || rep.Size != 7 || rep.Segments != 5 {
		t.Fatalf("%+v %v", rep, err)
	}
	for _, seg := range m.segments()[2:] {
		whole := m.content(seg)
		line := 0
		lines := bytes.Split(bytes.TrimSuffix(whole, []byte("\n")), []byte("\n"))
		for i, c := range whole {
			if i%stride != 0 && c != '\n' {
				continue
			}
			// Every byte; the second mask where it changes case, which base64 and
			// hexadecimal are read with.
			for _, mask := range []byte{0x01, 0x20}[:1+min(1, i%5/4)] {
				b := bytes.Clone(whole)
				b[i] ^= mask
				d := m.clone()
				d.put(seg, b)
				rep, err := verifyDir(d, dir)
				if err != nil {
					t.Fatal(err)
				}
				if rep.Fault == nil {
					t.Fatalf("%s: byte %d (%q) flipped by %#x, and nothing is seen", filepath.Base(seg), i, c, mask)
				}
				if index, ok := evidence.LineIndex(lines[line]); ok && rep.Fault.Index != index {
					t.Fatalf("byte %d (%q) of the line of record %d flipped by %#x: the fault is %+v", i, c, index, mask, rep.Fault)
				}
			}
			if c == '\n' {
				line++
			}
		}
	}
}

// What is done to whole lines and segments.
func TestEditedLog(t *testing.T) {
	dir := t.TempDir()
	m := newMemFS()
	l := open(t, dir, Options{fs: m, SegmentBytes: 2500})
	for i := range 9 {
		mustAppend(t, l, action(fmt.Sprintf("ev_%d", i)))
	}
	closeLog(t, l)
	segs := m.segments()
	if len(segs) < 3 {
		t.Fatalf("%d segments", len(segs))
	}
	second, _ := strconv.ParseUint(strings.TrimSuffix(filepath.Base(segs[1]), segmentExt), 10, 64)
	edit := func(seg string, change func(lines []string) []string) func(*memFS) {
		return func(d *memFS) {
			lines := strings.SplitAfter(string(d.content(seg)), "\n")
			d.put(seg, []byte(strings.Join(change(lines[:len(lines)-1]), "")))
		}
	}
	for name, c := range map[string]struct {
		change func(*memFS)
		index  uint64
		why    string
	}{
		"record removed":              {edit(segs[0], func(l []string) []string { return append(l[:3:3], l[4:]...) }), 1, "missing"},
		"record and checkpoint":       {edit(segs[0], func(l []string) []string { return append(l[:3:3], l[5:]...) }), 1, "missing"},
		"record twice":                {edit(segs[0], func(l []string) []string { return append(l[:2:2], l[1:]...) }), 1, "out of order"},
		"checkpoint of another place": {edit(segs[0], func(l []string) []string { l[4] = l[2]; return l }), 1, "inserted"},
		"header removed":              {edit(segs[1], func(l []string) []string { return l[1:] }), second, "header"},
		"second header":               {edit(segs[0], func(l []string) []string { return append(l[:3:3], append([]string{l[0]}, l[3:]...)...) }), 1, "header"},
		"segment removed":             {func(d *memFS) { delete(d.names, segs[1]) }, second, "missing"},
		"first segment removed":       {func(d *memFS) { delete(d.names, segs[0]) }, 3, ""},
		"segments swapped": {func(d *memFS) {
			a, b := d.content(segs[0]), d.content(segs[1])
			d.put(segs[0], b)
			d.put(segs[1], a)
		}, 0, "named"},
		"end cut off": {edit(segs[len(segs)-1], func(l []string) []string { return l[:len(l)-2] }), 8, "missing"},
		"replaced with its hash": {edit(segs[0], func(l []string) []string {
			rec := action("ev_forged")
			l[3] = string(evidence.AppendRecordLine(nil, 1, evidence.LeafHash(rec), rec))
			return l
		}), 1, "replaced"},
	} {
		d := m.clone()
		c.change(d)
		rep, err := verifyDir(d, dir)
		if err != nil {
			t.Fatal(err)
		}
		if name == "first segment removed" {
			// Retention looks like this: what is left verifies, and says where it begins.
			if rep.Fault != nil || rep.First == 0 {
				t.Errorf("%s: %+v", name, rep)
			}
			continue
		}
		if rep.Fault == nil || (rep.Fault.Index != c.index) || !strings.Contains(rep.Fault.Reason, c.why) {
			t.Errorf("%s: %+v", name, rep.Fault)
		}
	}
}

// Another key's log in the place of this one is seen by who knows the key.
func TestForgedLog(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	mustAppend(t, l, action("ev_0"))
	key := l.PublicKey()
	closeLog(t, l)
	if rep, err := VerifyDir(dir, key); err != nil || rep.Fault != nil {
		t.Fatalf("%+v %v", rep, err)
	}
	forged := t.TempDir()
	l = open(t, forged, Options{})
	mustAppend(t, l, action("ev_0"))
	closeLog(t, l)
	if rep, err := VerifyDir(forged, key); err != nil || rep.Fault == nil {
		t.Fatalf("a forged log passes: %+v %v", rep, err)
	}
	if err := os.Remove(filepath.Join(forged, checkpointName)); err != nil {
		t.Fatal(err)
	}
	if rep, err := VerifyDir(forged, key); err != nil || rep.Fault == nil {
		t.Fatalf("a forged log without its checkpoint passes: %+v %v", rep, err)
	}
}

func TestReadAndVerifyWhileWriting(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{SegmentBytes: 16 << 10})
	mustAppend(t, l, action("ev_0"))
	r, err := OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 60 {
				if _, err := l.Append(context.Background(), asRecord(action(fmt.Sprintf("ev_%d_%d", g, i)))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() { wg.Wait(); close(done) }()
	seen := uint64(0)
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if rep, err := VerifyDir(dir); err != nil || rep.Fault != nil {
			t.Fatalf("%+v %v", rep.Fault, err)
		}
		for {
			es, err := r.Read(seen, 50)
			if err != nil {
				t.Fatal(err)
			}
			if len(es) == 0 {
				break
			}
			for _, e := range es {
				if e.Index != seen {
					t.Fatalf("read %d, want %d", e.Index, seen)
				}
				seen++
			}
		}
	}
	if seen != l.Size() {
		t.Errorf("the reader saw %d of %d", seen, l.Size())
	}
	if n, err := r.Size(); err != nil || n != l.Size() {
		t.Errorf("the reader says %d (%v)", n, err)
	}
}

const childDir = "LEDGER_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		return
	}
	os.Exit(m.Run())
}

// child appends until it is killed, and prints what was acknowledged.
func child(dir string) {
	l, err := Open(dir, Options{SegmentBytes: 64 << 10})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var mu sync.Mutex
	for g := range 16 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("ev_%d_%d_%d", os.Getpid(), g, i)
				e, err := l.Append(context.Background(), asRecord(action(id)))
				mu.Lock()
				if err != nil {
					fmt.Println("error", err)
				} else {
					fmt.Println("ack", e.Index, id)
				}
				mu.Unlock()
				switch i % 3 {
				case 0:
					l.Later(asRecord(outcome(id)))
				case 1:
					if l.Soon(asRecord(outcome(id))) == nil {
						mu.Lock()
						fmt.Println("handed", 0, id)
						mu.Unlock()
					}
				}
			}
		}()
	}
	select {}
}

func TestKillNine(t *testing.T) {
	dir := t.TempDir()
	acked, handed := map[uint64]string{}, map[string]bool{}
	for round := range 4 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		n := 0
		for lines.Scan() {
			var index uint64
			var what, id string
			if _, err := fmt.Sscanf(lines.Text(), "%s %d %s", &what, &index, &id); err != nil || what != "ack" && what != "handed" {
				t.Fatalf("child: %s", lines.Text())
			}
			if what == "handed" {
				handed[id] = true
				continue
			}
			acked[index] = id
			if n++; n == 100+round*77 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // killed
		start := time.Now()
		l, err := Open(dir, Options{SegmentBytes: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("round %d: %d acknowledged, %d in the log, opened in %v, %+v", round, len(acked), l.Size(), time.Since(start), l.Recovered())
		openIDs := map[string]bool{}
		for _, e := range all(t, l) {
			s, _ := evidence.Look(e.Record)
			if s.Open() {
				openIDs[s.ID] = true
			} else {
				delete(openIDs, s.EventID)
				delete(handed, s.EventID)
			}
			if id, ok := acked[e.Index]; ok && id != s.ID {
				t.Fatalf("record %d is %s, acknowledged was %s", e.Index, s.ID, id)
			}
			delete(acked, e.Index)
		}
		if len(acked) > 0 {
			t.Fatalf("acknowledged and lost: %v", acked)
		}
		if len(handed) > 0 {
			t.Fatalf("handed to the system and lost: %v", handed)
		}
		un := l.Unfinished()
		if len(un) != len(openIDs) {
			t.Errorf("%d unfinished, %d have no outcome", len(un), len(openIDs))
		}
		for _, id := range un {
			if !openIDs[id] {
				t.Errorf("%s is not unfinished", id)
			}
			if !l.Later(asRecord(outcome(id))) {
				t.Fatal("refused")
			}
		}
		closeLog(t, l)
		if rep, err := VerifyDir(dir); err != nil || rep.Fault != nil {
			t.Fatalf("%+v %v", rep.Fault, err)
		}
	}
}
