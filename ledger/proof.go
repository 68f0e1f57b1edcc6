package ledger

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"sync"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/actpass/sidecar/evidence"
)

const hashesName = "hashes"

// readFunc is Log.Read or Reader.Read.
type readFunc func(from uint64, max int) ([]evidence.Entry, error)

// nodes are the hashes of the tree, 32 bytes each in the order of
// tlog.StoredHashIndex, in a file that is derived from the log: made when a proof
// is first asked for, and carried on from there. The call path never waits for it.
// Every proof is checked before it is given out, so a damaged file can only
// cost the time to make it anew.
type nodes struct {
	mu   sync.Mutex
	file file
	tree evidence.Tree // over the records whose nodes are in file
}

// target is what proofs lead to.
type target struct {
	note  []byte
	check evidence.Checkpoint
}

// open reads how far the file goes. n.mu is held.
func (n *nodes) open(f file) error {
	size, err := f.Size()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	n.file = f
	have := size / tlog.HashSize
	// The most records whose nodes are all there.
	records := sort.Search(int(have)+1, func(r int) bool { return tlog.StoredHashCount(int64(r)) > have }) - 1
	edge, err := n.edge(uint64(max(records, 0)))
	if err == nil {
		n.tree, err = evidence.NewTree(uint64(max(records, 0)), edge)
	}
	if err != nil {
		n.tree = evidence.Tree{} // from the beginning
	}
	return nil
}

// edge reads the right edge of a tree of size records.
func (n *nodes) edge(size uint64) ([]evidence.Hash, error) {
	var at []int64
	done := uint64(0)
	for level := 62; level >= 0; level-- {
		if w := uint64(1) << level; size&w != 0 {
			at = append(at, tlog.StoredHashIndex(level, int64(done>>level)))
			done += w
		}
	}
	return n.ReadHashes(at)
}

// ReadHashes is tlog.HashReader.
func (n *nodes) ReadHashes(indexes []int64) ([]evidence.Hash, error) {
	out := make([]evidence.Hash, len(indexes))
	for i, at := range indexes {
		if _, err := n.file.ReadAt(out[i][:], at*tlog.HashSize); err != nil {
			return nil, fmt.Errorf("ledger: read a hash of the tree: %w", err)
		}
	}
	return out, nil
}

// extend adds the nodes of the records up to c.Size, and compares the root.
func (n *nodes) extend(read readFunc, first evidence.Tree, c evidence.Checkpoint) error {
	if n.tree.Size() < first.Size() || n.tree.Size() > c.Size {
		if err := n.begin(first); err != nil {
			return err
		}
	}
	for n.tree.Size() < c.Size {
		from := n.tree.Size()
		entries, err := read(from, int(min(c.Size-from, 4096)))
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return fmt.Errorf("ledger: record %d cannot be read", from)
		}
		at := tlog.StoredHashIndex(0, int64(from))
		var hashes []evidence.Hash
		tree := n.tree.Clone()
		for _, e := range entries {
			hashes = tree.Append(evidence.LeafHash(e.Record), hashes)
		}
		b := make([]byte, 0, len(hashes)*tlog.HashSize)
		for _, h := range hashes {
			b = append(b, h[:]...)
		}
		if _, err := n.file.WriteAt(b, at*tlog.HashSize); err != nil {
			return fmt.Errorf("ledger: write the hashes of the tree: %w", err)
		}
		n.tree = tree
	}
	if n.tree.Root() != c.Root {
		return errors.New("ledger: the hashes of the tree do not have the root of the checkpoint: run `actpass evidence verify`")
	}
	return nil
}

// begin empties the file and puts in what is known of the records before the
// oldest segment: the roots of its complete subtrees, which is all that proofs for
// later records need of them.
func (n *nodes) begin(first evidence.Tree) error {
	if err := n.file.Truncate(0); err != nil {
		return fmt.Errorf("ledger: make the hashes of the tree anew: %w", err)
	}
	edge, done := first.Edge(), uint64(0)
	for level := 62; level >= 0 && len(edge) > 0; level-- {
		w := uint64(1) << level
		if first.Size()&w == 0 {
			continue
		}
		at := tlog.StoredHashIndex(level, int64(done>>level))
		if _, err := n.file.WriteAt(edge[0][:], at*tlog.HashSize); err != nil {
			return fmt.Errorf("ledger: make the hashes of the tree anew: %w", err)
		}
		edge = edge[1:]
		done += w
	}
	n.tree = first.Clone()
	return nil
}

// prove gives the inclusion proof of a record in the tree of c. Should the file
// be damaged, it is made anew once.
func (n *nodes) prove(read readFunc, first evidence.Tree, t target, e evidence.Entry) (evidence.Proof, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := evidence.Proof{Index: e.Index, Checkpoint: t.note}
	err := n.twice(read, first, t.check, func() error {
		var err error
		if p.Hashes, err = tlog.ProveRecord(int64(t.check.Size), int64(e.Index), n); err != nil {
			return err
		}
		return tlog.CheckRecord(p.Hashes, int64(t.check.Size), t.check.Root, int64(e.Index), evidence.LeafHash(e.Record))
	})
	if err != nil {
		return evidence.Proof{}, fmt.Errorf("ledger: prove record %d: %w", e.Index, err)
	}
	return p, nil
}

func (n *nodes) twice(read readFunc, first evidence.Tree, c evidence.Checkpoint, f func() error) error {
	err := n.extend(read, first, c)
	if err == nil {
		err = f()
	}
	if err == nil {
		return nil
	}
	if err := n.begin(first); err != nil {
		return err
	}
	if err := n.extend(read, first, c); err != nil {
		return err
	}
	return f()
}

func (n *nodes) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.file == nil {
		return nil
	}
	f := n.file
	n.file = nil
	if err := f.Close(); err != nil {
		return fmt.Errorf("ledger: close the hashes of the tree: %w", err)
	}
	return nil
}

// firstTree is the tree over the records that retention has removed.
func firstTree(fsys fileSystem, dir string, segs []uint64) (evidence.Tree, error) {
	if len(segs) == 0 || segs[0] == 0 {
		return evidence.Tree{}, nil
	}
	f, err := fsys.OpenFile(segmentPath(dir, segs[0]), os.O_RDONLY, 0)
	if err != nil {
		return evidence.Tree{}, fmt.Errorf("ledger: read the oldest segment: %w", err)
	}
	line, _, _, err := newLineReader(f, 0, scanChunk).line()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	var l evidence.Line
	if err == nil {
		l, err = evidence.ParseLine(line)
	}
	if err == nil && l.Header == nil {
		err = errors.New("its header is missing")
	}
	if err != nil {
		return evidence.Tree{}, fmt.Errorf("ledger: read the oldest segment: %w", err)
	}
	return l.Header.Tree()
}

// Proof shows that a record is in the log as the last checkpoint has it.
func (l *Log) Proof(index uint64) (evidence.Proof, error) {
	e, err := l.exporter()
	if err != nil {
		return evidence.Proof{}, err
	}
	entries, err := l.Read(index, 1)
	if err != nil {
		return evidence.Proof{}, err
	}
	if len(entries) == 0 || index >= e.to.check.Size {
		return evidence.Proof{}, fmt.Errorf("ledger: prove record %d: the last checkpoint covers %d records", index, e.to.check.Size)
	}
	return e.nodes.prove(e.read, e.first, e.to, entries[0])
}

// Consistency shows that the log begins with all the records of an older
// checkpoint of size records (RFC 6962 section 2.1.2), and gives the newer
// checkpoint that the proof leads to.
func (l *Log) Consistency(size uint64) (proof []evidence.Hash, checkpoint []byte, err error) {
	e, err := l.exporter()
	if err != nil {
		return nil, nil, err
	}
	if size > e.to.check.Size {
		return nil, nil, fmt.Errorf("ledger: prove consistency: the log has %d records, the older checkpoint %d", e.to.check.Size, size)
	}
	if size == 0 {
		return nil, e.to.note, nil
	}
	e.nodes.mu.Lock()
	defer e.nodes.mu.Unlock()
	err = e.nodes.twice(e.read, e.first, e.to.check, func() error {
		proof, err = tlog.ProveTree(int64(e.to.check.Size), int64(size), e.nodes)
		if err != nil {
			return err
		}
		old, err := tlog.TreeHash(int64(size), e.nodes)
		if err != nil {
			return err
		}
		return tlog.CheckTree(proof, int64(e.to.check.Size), e.to.check.Root, int64(size), old)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("ledger: prove consistency with %d records: %w", size, err)
	}
	return proof, e.to.note, nil
}

// Export writes a bundle (see package evidence) with the records from index from
// to below to that keep wants, all when keep is nil, each with its proof. It
// verifies offline, without the rest of the log. It gives the number of records.
func (l *Log) Export(w io.Writer, from, to uint64, keep func(evidence.Entry) bool) (int, error) {
	e, err := l.exporter()
	if err != nil {
		return 0, err
	}
	return e.export(w, l.keys.public, from, to, keep)
}

// exporter is a log as proofs need it.
type exporter struct {
	nodes *nodes
	read  readFunc
	first evidence.Tree
	to    target
}

func (l *Log) exporter() (exporter, error) {
	l.mu.Lock()
	signed, segs := l.synced.note, l.segs
	l.mu.Unlock()
	if signed == nil {
		return exporter{}, errors.New("ledger: the log is empty: there is nothing to prove")
	}
	check, err := evidence.OpenCheckpoint(signed, l.keys.verifier)
	if err != nil {
		return exporter{}, err
	}
	first, err := firstTree(l.fs, l.dir, segs)
	if err != nil {
		return exporter{}, err
	}
	l.proofs.mu.Lock()
	defer l.proofs.mu.Unlock()
	if l.proofs.file == nil {
		f, err := l.fs.OpenFile(filepath.Join(l.dir, hashesName), os.O_RDWR|os.O_CREATE, 0o600)
		if err == nil {
			err = l.proofs.open(f)
		}
		if err != nil {
			return exporter{}, fmt.Errorf("ledger: open the hashes of the tree: %w", err)
		}
	}
	return exporter{nodes: &l.proofs, read: l.Read, first: first, to: target{signed, check}}, nil
}

// Export is Log.Export for a log that another process may be writing. The tree's
// hashes go into a temporary file.
func (r *Reader) Export(w io.Writer, from, to uint64, keep func(evidence.Entry) bool) (n int, err error) {
	if _, err := r.Size(); err != nil {
		return 0, err
	}
	r.mu.Lock()
	signed := r.last
	r.mu.Unlock()
	if signed == nil {
		return 0, errors.New("ledger: the log is empty: there is nothing to export")
	}
	verifier, err := note.NewVerifier(r.key)
	if err != nil {
		return 0, fmt.Errorf("ledger: the log's verifier key: %w", err)
	}
	check, err := evidence.OpenCheckpoint(signed, verifier)
	if err != nil {
		return 0, err
	}
	segs, err := listSegments(r.fs, r.dir)
	if err != nil {
		return 0, err
	}
	first, err := firstTree(r.fs, r.dir, segs)
	if err != nil {
		return 0, err
	}
	f, err := os.CreateTemp("", "actpass-hashes-*")
	if err != nil {
		return 0, fmt.Errorf("ledger: export: %w", err)
	}
	var nd nodes
	if err := nd.open(diskFile{f}); err != nil {
		return 0, errors.Join(fmt.Errorf("ledger: export: %w", err), os.Remove(f.Name()))
	}
	defer func() { err = errors.Join(err, nd.close(), os.Remove(f.Name())) }()
	e := exporter{nodes: &nd, read: r.Read, first: first, to: target{signed, check}}
	return e.export(w, r.key, from, to, keep)
}

func (e *exporter) export(w io.Writer, vkey string, from, to uint64, keep func(evidence.Entry) bool) (int, error) {
	b, err := evidence.AppendBundleHeader(nil, vkey, e.to.note)
	if err != nil {
		return 0, err
	}
	n := 0
	from, to = max(from, e.first.Size()), min(to, e.to.check.Size)
	for {
		if _, err := w.Write(b); err != nil {
			return n, fmt.Errorf("ledger: export: %w", err)
		}
		if from >= to {
			return n, nil
		}
		entries, err := e.read(from, int(min(to-from, 512)))
		if err != nil {
			return n, err
		}
		if len(entries) == 0 {
			return n, fmt.Errorf("ledger: export: record %d cannot be read", from)
		}
		b = b[:0]
		for _, entry := range entries {
			from = entry.Index + 1
			if keep != nil && !keep(entry) {
				continue
			}
			p, err := e.nodes.prove(e.read, e.first, e.to, entry)
			if err != nil {
				return n, err
			}
			b = evidence.AppendBundleLine(b, entry, p.Hashes)
			n++
		}
	}
}

// Remove deletes the sealed segments whose records are all before index before,
// the oldest first, and gives how many. What is left verifies as before and says
// where it begins. It is for retention; record elsewhere what was removed and why.
func (l *Log) Remove(before uint64) (int, error) {
	n := 0
	for {
		l.mu.Lock()
		// The last segment is being written, and needs no successor to be read.
		if len(l.segs) < 2 || l.segs[1] > before || l.synced.segment <= l.segs[0] {
			l.mu.Unlock()
			return n, nil
		}
		oldest := l.segs[0]
		l.segs = l.segs[1:]
		l.mu.Unlock()
		// If we crash before the file is gone, it is simply still there.
		if err := l.fs.Remove(segmentPath(l.dir, oldest)); err != nil {
			return n, fmt.Errorf("ledger: remove the segment %d: %w", oldest, err)
		}
		n++
	}
}
