package evidence

import (
	"crypto/sha256"
	"fmt"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a SHA-256 hash of a leaf or an inner node (RFC 6962 section 2.1).
type Hash = tlog.Hash

// LeafHash is the RFC 6962 hash of a record: SHA-256(0x00 || record).
func LeafHash(record []byte) Hash {
	// The prefix needs a copy; on the stack for ordinary records.
	var room [2048]byte
	if len(record) < len(room) {
		return sha256.Sum256(append(append(room[:0], 0), record...))
	}
	return tlog.RecordHash(record)
}

// Tree is the Merkle tree over a log, held as its right edge only: the roots of
// its complete subtrees, the largest first. A tree of n records has as many of
// them as n has bits set, so a tree of a billion records takes a kilobyte. The
// zero value is the empty tree.
type Tree struct {
	size uint64
	edge []Hash
}

// NewTree makes a tree of size records from its right edge, as Edge gave it.
func NewTree(size uint64, edge []Hash) (Tree, error) {
	if len(edge) != bits.OnesCount64(size) {
		return Tree{}, fmt.Errorf("evidence: a tree of %d records has a right edge of %d hashes, not %d",
			size, bits.OnesCount64(size), len(edge))
	}
	return Tree{size: size, edge: slices.Clone(edge)}, nil
}

// Size is the number of records.
func (t Tree) Size() uint64 { return t.size }

// Edge is the right edge: the roots of the complete subtrees, the largest first.
func (t Tree) Edge() []Hash { return slices.Clone(t.edge) }

// Clone is an independent copy.
func (t Tree) Clone() Tree { return Tree{size: t.size, edge: slices.Clone(t.edge)} }

// Append adds a leaf. The hashes of the nodes that it completes, the leaf first,
// are appended to nodes in the order of tlog.StoredHashIndex; on average there
// are two.
func (t *Tree) Append(leaf Hash, nodes []Hash) []Hash {
	nodes = append(nodes, leaf)
	h := leaf
	for n := t.size; n&1 == 1; n >>= 1 {
		h = tlog.NodeHash(t.edge[len(t.edge)-1], h)
		t.edge = t.edge[:len(t.edge)-1]
		nodes = append(nodes, h)
	}
	t.edge = append(t.edge, h)
	t.size++
	return nodes
}

// Add is Append for those who keep no nodes.
func (t *Tree) Add(leaf Hash) {
	h := leaf
	for n := t.size; n&1 == 1; n >>= 1 {
		h = tlog.NodeHash(t.edge[len(t.edge)-1], h)
		t.edge = t.edge[:len(t.edge)-1]
	}
	t.edge = append(t.edge, h)
	t.size++
}

// Root is the tree's hash; of the empty tree it is SHA-256 of nothing.
func (t Tree) Root() Hash {
	if t.size == 0 {
		return sha256.Sum256(nil)
	}
	h := t.edge[len(t.edge)-1]
	for i := len(t.edge) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.edge[i], h)
	}
	return h
}

func (t Tree) equal(o Tree) bool {
	return t.size == o.size && slices.Equal(t.edge, o.edge)
}
