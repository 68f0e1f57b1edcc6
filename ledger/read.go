package ledger

import (
	"bytes"
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
		return readBatches(batches, from, max)
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

// recentBytes bounds the lines that are kept in memory for followers.
const recentBytes = 4 << 20

// recent keeps the last batches as they were written. Followers live here.
type recent struct {
	batches []written
	bytes   int
}

// written is one batch; its bytes do not change any more.
type written struct {
	first, end uint64
	lines      []byte
}

func (r *recent) add(first, end uint64, lines []byte) {
	r.batches = append(r.batches, written{first, end, lines})
	r.bytes += len(lines)
	drop := 0
	for r.bytes > recentBytes && drop < len(r.batches)-1 {
		r.bytes -= len(r.batches[drop].lines)
		r.batches[drop] = written{}
		drop++
	}
	r.batches = r.batches[drop:]
}

// from gives some batches from the one that holds index on; none when it is older.
func (r *recent) from(index uint64) []written {
	lo, hi := 0, len(r.batches)
	if hi == 0 || r.batches[0].first > index {
		return nil
	}
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; r.batches[mid].first <= index {
			lo = mid
		} else {
			hi = mid
		}
	}
	// A copy: add empties the batches that it drops.
	n := min(len(r.batches), lo+64)
	return append([]written(nil), r.batches[lo:n]...)
}

func readBatches(batches []written, from uint64, max int) ([]evidence.Entry, error) {
	out := make([]evidence.Entry, 0, min(max, int(batches[len(batches)-1].end-from)))
	size := 0
	for _, b := range batches {
		for rest := b.lines; len(rest) > 0 && len(out) < max && size < maxRead; {
			line, after, _ := bytes.Cut(rest, []byte("\n"))
			rest = after
			i, ok := evidence.LineIndex(line)
			if !ok || i < from {
				continue
			}
			l, err := evidence.ParseLine(line)
			if err != nil {
				return nil, fmt.Errorf("ledger: read record %d: %w", i, err)
			}
			// Clipped, so that a caller who appends to a record does not write into
			// what others read.
			l.Entry.Record = l.Entry.Record[:len(l.Entry.Record):len(l.Entry.Record)]
			out = append(out, *l.Entry)
			size += len(line)
		}
	}
	return out, nil
}
