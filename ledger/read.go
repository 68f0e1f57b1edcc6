package ledger

import (
	"fmt"

	"github.com/actpass/sidecar/evidence"
)

// Read gives up to max durable entries from index from, in order; none when from
// is not in the log yet, ErrRemoved when it is not in it any more. It may give
// fewer than there are: at most about 8 MiB at a time.
func (l *Log) Read(from uint64, max int) ([]evidence.Entry, error) {
	l.mu.Lock()
	size, segs := l.size, l.segs
	if from >= size || max <= 0 {
		l.mu.Unlock()
		return nil, nil
	}
	batches := l.recent.from(from)
	l.mu.Unlock()
	if len(batches) > 0 {
		return readBatches(batches, from, max), nil
	}
	if from < segs[0] {
		return nil, fmt.Errorf("%w: the oldest left is %d", ErrRemoved, segs[0])
	}
	l.readMu.Lock()
	hint := l.hint
	l.readMu.Unlock()
	out, hint, err := readSegments(l.fs, l.dir, segs, from, size, max, hint)
	if err != nil {
		return nil, err
	}
	l.readMu.Lock()
	l.hint = hint
	l.readMu.Unlock()
	return out, nil
}

// recentBytes bounds what is kept in memory for followers: what a quarter of a second,
// after which the index follows, has of twenty thousand calls a second.
const recentBytes = 8 << 20

// recent keeps the entries of the last batches. Followers live here.
type recent struct {
	batches []written
	bytes   int
}

// written is one batch; it does not change any more, nor do the bytes of its records.
type written struct {
	entries []evidence.Entry // one at least
	bytes   int
}

func (b *written) first() uint64 { return b.entries[0].Index }
func (b *written) end() uint64   { return b.first() + uint64(len(b.entries)) }

// add takes in a batch. One before it may be missing, when its sync was asked for
// later and failed: then those before the hole are dropped, and read from the file.
func (r *recent) add(b written) {
	if n := len(r.batches); n > 0 && r.batches[n-1].end() != b.first() {
		*r = recent{}
	}
	r.batches = append(r.batches, b)
	r.bytes += b.bytes
	drop := 0
	for r.bytes > recentBytes && drop < len(r.batches)-1 {
		r.bytes -= r.batches[drop].bytes
		r.batches[drop] = written{}
		drop++
	}
	r.batches = r.batches[drop:]
}

// from gives some batches from the one that holds index on; none when it is older,
// or newer.
func (r *recent) from(index uint64) []written {
	lo, hi := 0, len(r.batches)
	if hi == 0 || r.batches[0].first() > index || r.batches[hi-1].end() <= index {
		return nil
	}
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; r.batches[mid].first() <= index {
			lo = mid
		} else {
			hi = mid
		}
	}
	// A copy: add empties the batches that it drops.
	n := min(len(r.batches), lo+64)
	return append([]written(nil), r.batches[lo:n]...)
}

func readBatches(batches []written, from uint64, max int) []evidence.Entry {
	out := make([]evidence.Entry, 0, min(max, int(batches[len(batches)-1].end()-from)))
	size := 0
	for i, b := range batches {
		entries := b.entries
		if i == 0 {
			entries = entries[from-b.first():]
		}
		for j := 0; j < len(entries) && len(out) < max && size < maxRead; j++ {
			out = append(out, entries[j])
			size += len(entries[j].Record)
		}
	}
	return out
}
