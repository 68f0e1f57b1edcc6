package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/actpass/sidecar/evidence"
)

func verifier(t *testing.T, l *Log) note.Verifier {
	t.Helper()
	v, err := note.NewVerifier(l.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestProofs(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{SegmentBytes: 4096})
	v := verifier(t, l)
	type old struct {
		size uint64
		note []byte
	}
	var olds []old
	fill := func(n int) {
		for range n {
			l.Later(asRecord(action(fmt.Sprintf("ev_%d", l.Size()))))
			if err := l.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
			olds = append(olds, old{l.Size(), l.Checkpoint()})
		}
	}
	prove := func() {
		t.Helper()
		for i := l.First(); i < l.Size(); i++ {
			p, err := l.Proof(i)
			if err != nil {
				t.Fatal(err)
			}
			es, err := l.Read(i, 1)
			if err != nil {
				t.Fatal(err)
			}
			leaf := evidence.LeafHash(es[0].Record)
			if err := p.Check(leaf, v); err != nil {
				t.Fatal(err)
			}
			if err := p.Check(evidence.LeafHash([]byte("another")), v); err == nil {
				t.Fatal("the proof holds for another record")
			}
		}
	}
	fill(13)
	prove()
	fill(20)
	prove()
	if _, err := l.Proof(l.Size()); err == nil {
		t.Error("proved a record that is not there")
	}
	newest, err := evidence.OpenCheckpoint(l.Checkpoint(), v)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range olds {
		c, err := evidence.OpenCheckpoint(o.note, v)
		if err != nil || c.Size != o.size {
			t.Fatal(c, err)
		}
		proof, _, err := l.Consistency(o.size)
		if err != nil {
			t.Fatal(err)
		}
		if err := evidence.CheckConsistency(c, newest, proof); err != nil {
			t.Fatal(err)
		}
		c.Root[3] ^= 1
		if err := evidence.CheckConsistency(c, newest, proof); err == nil {
			t.Fatal("the log is consistent with another one")
		}
	}
	// A damaged file of hashes is made anew.
	closeLog(t, l)
	name := filepath.Join(dir, hashesName)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] ^= byte(i%251 + 1)
	}
	for _, cut := range []int{len(b), len(b) / 2, 5} {
		if err := os.WriteFile(name, b[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l = open(t, dir, Options{SegmentBytes: 4096})
		prove()
		closeLog(t, l)
	}
	// After retention the rest can still be proved, with the hashes and without.
	l = open(t, dir, Options{SegmentBytes: 4096})
	n, err := l.Remove(20)
	if err != nil || n == 0 || l.First() == 0 || l.First() > 20 {
		t.Fatalf("removed %d, first %d: %v", n, l.First(), err)
	}
	prove()
	closeLog(t, l)
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, Options{SegmentBytes: 4096})
	prove()
	if _, err := l.Read(0, 1); !errors.Is(err, ErrRemoved) {
		t.Errorf("reading what was removed: %v", err)
	}
	if rep, err := VerifyDir(dir, l.PublicKey()); err != nil || rep.Fault != nil || rep.First != l.First() {
		t.Errorf("%+v %v", rep, err)
	}
}

func TestExport(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{SegmentBytes: 4096})
	for i := range 40 {
		l.Later(asRecord(action(fmt.Sprintf("ev_%d", i))))
	}
	if err := l.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	odd := func(e evidence.Entry) bool { return e.Index%2 == 1 }
	var fromLog, fromReader bytes.Buffer
	if n, err := l.Export(&fromLog, 5, 1000, odd); err != nil || n != 18 {
		t.Fatal(n, err)
	}
	r, err := OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := r.Export(&fromReader, 5, 1000, odd); err != nil || n != 18 {
		t.Fatal(n, err)
	}
	if fromLog.String() != fromReader.String() {
		t.Error("the log and a reader export different bundles")
	}
	var got []uint64
	rep, err := evidence.VerifyBundle(bytes.NewReader(fromLog.Bytes()), l.PublicKey(), func(e evidence.Entry) error {
		got = append(got, e.Index)
		return nil
	})
	if err != nil || rep.Records != 18 || rep.Checkpoint.Size != 40 || got[0] != 5 || got[17] != 39 {
		t.Fatalf("%+v %v %v", rep, got, err)
	}
	// Any flipped byte is seen.
	whole := fromLog.Bytes()
	for i := range whole {
		if i%stride != 0 || (i > 3000 && i%11 != 0) {
			continue
		}
		b := bytes.Clone(whole)
		b[i] ^= 1
		if _, err := evidence.VerifyBundle(bytes.NewReader(b), l.PublicKey(), nil); err == nil {
			t.Fatalf("byte %d (%q) was flipped, and nothing is seen", i, whole[i])
		}
	}
	lines := strings.SplitAfter(fromLog.String(), "\n")
	for name, text := range map[string]string{
		"empty": "", "cut off": fromLog.String()[:fromLog.Len()-1],
		"order":    lines[0] + lines[2] + lines[1],
		"repeated": lines[0] + lines[1] + lines[1],
	} {
		if _, err := evidence.VerifyBundle(strings.NewReader(text), "", nil); err == nil {
			t.Errorf("%s: passes", name)
		}
	}
}
