package evidence

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

// hashes is a plain store of the tree's nodes, as tlog wants it.
type hashes []Hash

func (h hashes) ReadHashes(indexes []int64) ([]Hash, error) {
	out := make([]Hash, len(indexes))
	for i, at := range indexes {
		out[i] = h[at]
	}
	return out, nil
}

// Tree must be the tree of the reference implementation, at every size.
func TestTreeAgainstTlog(t *testing.T) {
	var tree Tree
	var ref, ours hashes
	for n := range int64(300) {
		want, err := tlog.TreeHash(n, ref)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 && tree.Root() != want {
			t.Fatalf("root of %d records: %v, want %v", n, tree.Root(), want)
		}
		again, err := NewTree(tree.Size(), tree.Edge())
		if err != nil || again.Root() != tree.Root() {
			t.Fatalf("a tree made from its edge differs: %v", err)
		}
		rec := fmt.Appendf(nil, "record %d", n)
		stored, err := tlog.StoredHashes(n, rec, ref)
		if err != nil {
			t.Fatal(err)
		}
		ref = append(ref, stored...)
		before := tree.Clone()
		ours = tree.Append(LeafHash(rec), ours)
		before.Add(LeafHash(rec))
		if !before.equal(tree) {
			t.Fatal("Add and Append differ")
		}
		if len(ref) != len(ours) || ref[len(ref)-1] != ours[len(ours)-1] {
			t.Fatalf("nodes after %d records differ", n+1)
		}
	}
	if got, want := (Tree{}).Root().String(), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="; got != want {
		t.Errorf("root of nothing: %s", got)
	}
	if _, err := NewTree(3, nil); err == nil {
		t.Error("a tree without its edge was made")
	}
}

func TestLeafHash(t *testing.T) {
	for _, n := range []int{0, 1, 100, 2046, 2047, 2048, 2049, 100_000} {
		b := []byte(strings.Repeat("x", n))
		if LeafHash(b) != tlog.RecordHash(b) {
			t.Errorf("%d bytes", n)
		}
	}
}

func testKeys(t testing.TB, origin string) (note.Signer, note.Verifier, string) {
	t.Helper()
	skey, vkey, err := NewKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	derived, err := PublicKey(skey)
	if err != nil || derived != vkey {
		t.Fatalf("derived %s, want %s (%v)", derived, vkey, err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return s, v, vkey
}

func TestCheckpoint(t *testing.T) {
	s, v, _ := testKeys(t, "actpass/a")
	other, otherV, _ := testKeys(t, "actpass/a")
	c := Checkpoint{Origin: "actpass/a", Size: 17, Root: LeafHash([]byte("x")), Time: time.Date(2026, 3, 4, 5, 6, 7, 120_000, time.UTC)}
	signed, err := c.Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenCheckpoint(signed, v); err != nil || got != c {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := OpenCheckpoint(signed, otherV); err == nil {
		t.Error("another key of the same name opens it")
	}
	forged, _ := c.Sign(other)
	if _, err := OpenCheckpoint(forged, v); err == nil {
		t.Error("signed by another key")
	}
	misnamed, _ := Checkpoint{Origin: "actpass/b", Size: 1}.Sign(s)
	if _, err := OpenCheckpoint(misnamed, v); err == nil {
		t.Error("of another log")
	}
	for _, text := range []string{
		"", "\n", "actpass/a\n", "actpass/a\n1\n", "actpass/a\n01\n" + c.Root.String() + "\n", "actpass/a\n-1\n" + c.Root.String() + "\n",
		"actpass/a\n1\nAAAA\n", "actpass/a\n99999999999999999999\n" + c.Root.String() + "\n", "actpass/a\n1\n" + c.Root.String() + "\ntime yesterday\n",
	} {
		signed, err := note.Sign(&note.Note{Text: text}, s)
		if err != nil {
			continue // no note can hold it
		}
		if got, err := OpenCheckpoint(signed, v); err == nil {
			t.Errorf("%q opens as %+v", text, got)
		}
	}
	// Extension lines that we do not know are for others.
	signed, _ = note.Sign(&note.Note{Text: "actpass/a\n1\n" + c.Root.String() + "\nother 1\n"}, s)
	if got, err := OpenCheckpoint(signed, v); err != nil || got.Size != 1 {
		t.Errorf("%+v %v", got, err)
	}
}

// testLog writes a log of batches of the given sizes, one segment each.
func testLog(t testing.TB, batches ...int) (segments [][]string, vkey string, checkpoints [][]byte) {
	t.Helper()
	s, _, vkey := testKeys(t, "actpass/a")
	var tree Tree
	for _, n := range batches {
		b, err := AppendHeaderLine(nil, NewHeader(vkey, "actpass/a", tree))
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			rec, err := (&Event{ID: fmt.Sprintf("ev_%d", tree.Size()), Kind: KindAction}).Encode()
			if err != nil {
				t.Fatal(err)
			}
			b = AppendRecordLine(b, tree.Size(), LeafHash(rec), rec)
			tree.Add(LeafHash(rec))
		}
		signed, err := Checkpoint{Origin: "actpass/a", Size: tree.Size(), Root: tree.Root()}.Sign(s)
		if err != nil {
			t.Fatal(err)
		}
		checkpoints = append(checkpoints, signed)
		b = AppendCommitLine(b, signed, false)
		lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
		segments = append(segments, lines)
	}
	return segments, vkey, checkpoints
}

func feed(v *Verifier, segments [][]string) *Fault {
	for i, seg := range segments {
		for _, line := range seg {
			if _, f := v.Line([]byte(line)); f != nil {
				return f
			}
		}
		if i < len(segments)-1 {
			if f := v.Seal(); f != nil {
				return f
			}
		}
	}
	return v.End()
}

func TestVerifier(t *testing.T) {
	segs, vkey, notes := testLog(t, 3, 1, 5)
	v, err := NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range notes {
		if err := v.Expect(n); err != nil {
			t.Fatal(err)
		}
	}
	if f := feed(v, segs); f != nil {
		t.Fatal(f)
	}
	if good := v.Good(); good.Size() != 9 || v.Commits() != 3 || v.First() != 0 || v.Pending() != 0 {
		t.Errorf("%d records, %d checkpoints", good.Size(), v.Commits())
	}
	// Without a key known from elsewhere, the log's own is used.
	v, _ = NewVerifier("")
	if f := feed(v, segs); f != nil || v.Key() != vkey {
		t.Errorf("%v %s", f, v.Key())
	}
	if err := (&Verifier{}).Expect(notes[0]); err == nil {
		t.Error("expected something of nobody")
	}
	// Resumed in the middle of a segment.
	var tree Tree
	for _, line := range segs[0][1:3] {
		l, err := ParseLine([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		tree.Add(l.Leaf)
	}
	v, _ = ResumeVerifier(vkey, tree)
	if f := feed(v, append([][]string{segs[0][3:]}, segs[1:]...)); f != nil {
		t.Error(f)
	}
}

func TestVerifierFaults(t *testing.T) {
	segs, vkey, notes := testLog(t, 3, 1, 5)
	other, _, otherNotes := testLog(t, 3, 1, 5)
	s2, _, _ := testKeys(t, "actpass/a")
	resigned := func(text string) string {
		signed, err := note.Sign(&note.Note{Text: text}, s2)
		if err != nil {
			t.Fatal(err)
		}
		line := string(AppendCommitLine(nil, signed, false))
		return line[:len(line)-1]
	}
	text, _, _ := strings.Cut(string(notes[1]), "\n\n")
	twoSigs := func() string {
		l, err := ParseLine([]byte(segs[1][2]))
		if err != nil {
			t.Fatal(err)
		}
		extra, err := note.Sign(&note.Note{Text: text + "\n"}, s2)
		if err != nil {
			t.Fatal(err)
		}
		_, sig, _ := strings.Cut(string(extra), "\n\n")
		line := string(AppendCommitLine(nil, append(append([]byte(nil), l.Commit...), sig...), false))
		return line[:len(line)-1]
	}
	for name, c := range map[string]struct {
		edit  func(s [][]string)
		index uint64
		id    string
		why   string
	}{
		"signed by another key": {func(s [][]string) { s[1][2] = resigned(text + "\n") }, 3, "ev_3", "not signed"},
		"a second signature":    {func(s [][]string) { s[1][2] = twoSigs() }, 3, "ev_3", "second signature"},
		"another log's segment": {func(s [][]string) { s[1] = other[1] }, 3, "", "another log"},
		"edge altered": {func(s [][]string) {
			s[1][0] = strings.Replace(s[1][0], `"edge":["`, `"edge":["`+LeafHash(nil).String()+`","`, 1)
			s[1][0] = dropLastEdge(s[1][0])
		}, 3, "", "header"},
		"record of another log":    {func(s [][]string) { s[2][3] = strings.Replace(other[2][3], `"id":"ev_6"`, `"id":"ev_9"`, 1) }, 6, "ev_9", "altered"},
		"commit before any record": {func(s [][]string) { s[1][1], s[1][2] = s[1][2], s[1][1] }, 3, "", "missing"},
		"future format":            {func(s [][]string) { s[1][0] = strings.Replace(s[1][0], `{"s":1`, `{"s":2`, 1) }, 3, "", "newer"},
		"commit spelled otherwise": {func(s [][]string) { s[1][2] = strings.Replace(s[1][2], `actpass/a`, `actpass\/a`, 1) }, 3, "ev_3", "cannot be read"},
		"no commit in a segment":   {func(s [][]string) { s[0] = s[0][:4] }, 0, "ev_0", "no checkpoint"},
		"white space":              {func(s [][]string) { s[2][2] = strings.Replace(s[2][2], `,"h"`, `, "h"`, 1) }, 5, "ev_5", "altered"},
		"index with a zero":        {func(s [][]string) { s[2][2] = strings.Replace(s[2][2], `"i":5`, `"i":05`, 1) }, 5, "ev_5", "altered"},
		"empty line":               {func(s [][]string) { s[2][2] = "" }, 5, "", "altered"},
	} {
		x := make([][]string, len(segs))
		for i := range segs {
			x[i] = append([]string(nil), segs[i]...)
		}
		c.edit(x)
		v, _ := NewVerifier(vkey)
		f := feed(v, x)
		if f == nil || f.Index != c.index || f.EventID != c.id || !strings.Contains(f.Reason, c.why) {
			t.Errorf("%s: %v", name, f)
			continue
		}
		if _, again := v.Line([]byte(segs[0][0])); again != f || v.Seal() != f || v.End() != f {
			t.Errorf("%s: the fault is forgotten", name)
		}
	}

	// What the log alone cannot show: rewritten, or cut off, by who holds the key.
	v, _ := NewVerifier(vkey)
	if err := v.Expect(notes[2]); err != nil {
		t.Fatal(err)
	}
	if f := feed(v, segs[:2]); f == nil || f.Index != 4 || !strings.Contains(f.Reason, "published checkpoint") {
		t.Errorf("cut off: %v", f)
	}
	v, _ = NewVerifier(vkey)
	if err := v.Expect(otherNotes[0]); err == nil {
		t.Error("a checkpoint of another key is expected")
	}
	v, _ = NewVerifier(vkey)
	v.expect = []Checkpoint{{Origin: "actpass/a", Size: 4, Root: LeafHash(nil)}}
	if f := feed(v, segs); f == nil || !strings.Contains(f.Reason, "rewritten") {
		t.Errorf("rewritten: %v", f)
	}
}

// dropLastEdge keeps the number of hashes when one was put in front.
func dropLastEdge(line string) string {
	i := strings.LastIndex(line, `,"`)
	return line[:i] + `]}`
}

func TestProofsAgainstTlog(t *testing.T) {
	s, v, _ := testKeys(t, "actpass/a")
	var tree Tree
	var nodes hashes
	var leaves []Hash
	for i := range 50 {
		leaf := LeafHash(fmt.Appendf(nil, "r%d", i))
		leaves = append(leaves, leaf)
		nodes = tree.Append(leaf, nodes)
	}
	signed, _ := Checkpoint{Origin: "actpass/a", Size: 50, Root: tree.Root()}.Sign(s)
	rapid.Check(t, func(t *rapid.T) {
		i := rapid.Int64Range(0, 49).Draw(t, "i")
		p, err := tlog.ProveRecord(50, i, nodes)
		if err != nil {
			t.Fatal(err)
		}
		proof := Proof{Index: uint64(i), Hashes: p, Checkpoint: signed}
		if err := proof.Check(leaves[i], v); err != nil {
			t.Fatal(err)
		}
		j := rapid.Int64Range(0, 49).Filter(func(j int64) bool { return j != i }).Draw(t, "j")
		if proof.Check(leaves[j], v) == nil {
			t.Fatal("holds for another record")
		}
		proof.Index = uint64(j)
		if proof.Check(leaves[i], v) == nil {
			t.Fatal("holds at another index")
		}
		proof.Index = 50
		if proof.Check(leaves[i], v) == nil {
			t.Fatal("holds outside of the log")
		}
	})
	if err := CheckConsistency(Checkpoint{Origin: "a"}, Checkpoint{Origin: "b"}, nil); err == nil {
		t.Error("two logs are consistent")
	}
	if err := CheckConsistency(Checkpoint{Size: 2}, Checkpoint{Size: 1}, nil); err == nil {
		t.Error("the older is longer")
	}
}

func FuzzVerifierLine(f *testing.F) {
	segs, vkey, _ := testLog(f, 2)
	for _, l := range segs[0] {
		f.Add([]byte(l))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		v, err := NewVerifier(vkey)
		if err != nil {
			t.Fatal(err)
		}
		if _, fault := v.Line([]byte(segs[0][0])); fault != nil {
			t.Fatal(fault)
		}
		l, fault := v.Line(line)
		// Only the record that belongs here, or a record that hashes to what it says
		// at index 0, can pass; and no checkpoint over nothing.
		if fault == nil && (l.Entry == nil || l.Entry.Index != 0 || LeafHash(l.Entry.Record) != l.Leaf) {
			t.Fatalf("passes: %q", line)
		}
	})
}
