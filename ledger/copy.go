package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/mod/sumdb/note"

	"github.com/actpass/sidecar/evidence"
)

// Copy is a log that is kept elsewhere, as records and a checkpoint of its own key:
// such as the database that sidecars share. Nothing of it is believed: proofs are
// made from the records as they are read, and hold to the checkpoint or are not given
// out.
type Copy struct {
	PublicKey  string        // verifier key of its checkpoints, note format
	Checkpoint []byte        // signed
	First      evidence.Tree // over the records that were removed from the copy
	// Read gives up to max records from index from on, in order.
	Read func(from uint64, max int) ([]evidence.Entry, error)
	// Temp is the directory of a temporary file, 64 bytes a record of the log; "": the
	// system's.
	Temp string
}

// ErrUnsigned says that the copy has no checkpoint which covers what is asked for:
// nothing was shipped yet, or the rest of the log is on its way, or all that was
// covered has been removed.
var ErrUnsigned = errors.New("the copy of the log has no checkpoint that covers it")

// ExportSelected is Log.ExportSelected.
func (c Copy) ExportSelected(ctx context.Context, w io.Writer, s Selection) (n int, err error) {
	e, closing, err := c.exporter()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, closing()) }()
	return e.selected(ctx, w, c.PublicKey, s)
}

// Proof is Log.Proof. It reads the copy from its beginning.
func (c Copy) Proof(index uint64) (p evidence.Proof, err error) {
	e, closing, err := c.exporter()
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, closing()) }()
	if index >= e.to.check.Size || index < e.first.Size() {
		return p, fmt.Errorf("ledger: prove record %d: %w", index, ErrUnsigned)
	}
	entries, err := c.Read(index, 1)
	if err != nil {
		return p, err
	}
	if len(entries) != 1 || entries[0].Index != index {
		return p, fmt.Errorf("ledger: prove record %d: it is not there", index)
	}
	return e.nodes.prove(e.read, e.first, e.to, entries[0])
}

// exporter is the copy as proofs need it; closing removes what it needs meanwhile.
func (c Copy) exporter() (e *exporter, closing func() error, err error) {
	verifier, err := note.NewVerifier(c.PublicKey)
	if err != nil {
		return nil, nil, fmt.Errorf("ledger: the log's verifier key: %w", err)
	}
	if c.Checkpoint == nil {
		return nil, nil, ErrUnsigned
	}
	check, err := evidence.OpenCheckpoint(c.Checkpoint, verifier)
	if err != nil {
		return nil, nil, err
	}
	if check.Size < c.First.Size() {
		return nil, nil, ErrUnsigned
	}
	f, err := os.CreateTemp(c.Temp, "actpass-hashes-*")
	if err != nil {
		return nil, nil, fmt.Errorf("ledger: a file for the hashes of the tree: %w", err)
	}
	// It has no name from here on, so that a crash leaves none behind.
	if err := os.Remove(f.Name()); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("ledger: a file for the hashes of the tree: %w", err), f.Close())
	}
	nd := new(nodes)
	if err := nd.open(diskFile{f}); err != nil {
		return nil, nil, err
	}
	return &exporter{nodes: nd, read: c.Read, first: c.First, to: target{c.Checkpoint, check}}, nd.close, nil
}
