package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/actpass/sidecar/evidence"
)

const (
	segmentsDir = "segments"
	segmentExt  = ".log"
	// maxLine bounds a line of a segment. Longer ones are not ours.
	maxLine = 2*MaxRecord + 4096
	// scanChunk is how much a scan reads at a time.
	scanChunk = 64 << 10
)

func segmentPath(dir string, first uint64) string {
	return filepath.Join(dir, segmentsDir, fmt.Sprintf("%020d%s", first, segmentExt))
}

// listSegments gives the first indexes of the segments in dir, in rising order.
func listSegments(fsys fileSystem, dir string) ([]uint64, error) {
	names, err := fsys.ReadDir(filepath.Join(dir, segmentsDir))
	if err != nil {
		return nil, fmt.Errorf("ledger: list the segments: %w", err)
	}
	var list []uint64
	for _, n := range names {
		digits, ok := strings.CutSuffix(n, segmentExt)
		if !ok || len(digits) != 20 {
			continue
		}
		first, err := strconv.ParseUint(digits, 10, 63)
		if err != nil {
			continue
		}
		list = append(list, first)
	}
	return list, nil
}

// lineReader gives the lines of a file from an offset on. A zero byte, which no
// line has, ends it like the end of the file: behind it is room that was written
// ahead, or else damage, see zerosTo.
type lineReader struct {
	r     io.ReaderAt
	next  int64 // offset of buf[pos]
	buf   []byte
	pos   int
	chunk int
	zero  bool // a zero byte was met: nothing behind buf is read
	raw   bool // zero bytes are bytes like others
}

var errLongLine = errors.New("a line is longer than any record may be")

func newLineReader(r io.ReaderAt, offset int64, chunk int) *lineReader {
	return &lineReader{r: r, next: offset, chunk: chunk}
}

// newRawReader is one for which zero bytes are bytes like others: for those who know
// from elsewhere where the log ends, or look for it by its checkpoints.
func newRawReader(r io.ReaderAt, offset int64, chunk int) *lineReader {
	return &lineReader{r: r, next: offset, chunk: chunk, raw: true}
}

// line gives the next line without its newline, the offset at which it begins,
// and whether it has a newline. io.EOF when nothing is left. The line is valid
// until the next call.
func (l *lineReader) line() (line []byte, at int64, whole bool, err error) {
	searched := l.pos
	for {
		if i := bytes.IndexByte(l.buf[searched:], '\n'); i >= 0 {
			line, at = l.buf[l.pos:searched+i], l.next
			l.next += int64(len(line)) + 1
			l.pos = searched + i + 1
			return line, at, true, nil
		}
		if len(l.buf)-l.pos > maxLine {
			return nil, l.next, false, errLongLine
		}
		// Keep the unfinished line, read more behind it.
		l.buf = append(l.buf[:0], l.buf[l.pos:]...)
		l.pos, searched = 0, len(l.buf)
		have := len(l.buf)
		if cap(l.buf)-have < l.chunk {
			l.buf = append(make([]byte, 0, 2*have+l.chunk), l.buf...)
		}
		n, err := 0, error(nil)
		if !l.zero {
			n, err = l.r.ReadAt(l.buf[have:have+l.chunk], l.next+int64(have))
		}
		if i := bytes.IndexByte(l.buf[have:have+n], 0); i >= 0 && !l.raw {
			n, l.zero = i, true
		}
		l.buf = l.buf[:have+n]
		if n == 0 {
			if err != nil && !errors.Is(err, io.EOF) {
				return nil, l.next, false, err
			}
			if have == 0 {
				return nil, l.next, false, io.EOF
			}
			line, at = l.buf, l.next
			l.next += int64(have)
			l.pos = have
			return line, at, false, nil
		}
	}
}

// zerosTo gives the offset behind the last byte of a file that is not zero, from
// an offset on; that offset itself when all the rest is zeros.
func zerosTo(f file, from int64) (int64, error) {
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	buf := make([]byte, scanChunk)
	for end := size; end > from; {
		at := max(from, end-int64(len(buf)))
		n, err := f.ReadAt(buf[:end-at], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if text := bytes.TrimRight(buf[:n], "\x00"); len(text) > 0 {
			return at + int64(len(text)), nil
		}
		end = at
	}
	return from, nil
}

// zerosInside is the fault of a segment that has zeros where only the last one may.
func zerosInside(v *evidence.Verifier) *evidence.Fault {
	return &evidence.Fault{Index: v.Good().Size() + v.Pending(), Reason: "zeros stand in its place"}
}

// seekRecord finds the offset of the line of a record in a segment, by bisection:
// the lines carry their index and records hold no newline. The last chunk is
// scanned line by line.
func seekRecord(f io.ReaderAt, size int64, index uint64) (int64, error) {
	const chunk = 16 << 10
	lo, hi := int64(0), size
	for hi-lo > 2*chunk {
		mid := lo + (hi-lo)/2
		at, found, ok, err := firstRecordAfter(f, mid, hi, chunk)
		switch {
		case err != nil:
			return 0, err
		case !ok || found > index:
			hi = mid
		default:
			lo = at
		}
	}
	for r := newRawReader(f, lo, chunk); ; {
		line, at, whole, err := r.line()
		if errors.Is(err, io.EOF) || (err == nil && !whole) {
			return 0, fmt.Errorf("ledger: record %d is not where it belongs: run `actpass evidence verify`", index)
		}
		if err != nil {
			return 0, fmt.Errorf("ledger: find record %d: %w", index, err)
		}
		if i, ok := evidence.LineIndex(line); ok && i == index {
			return at, nil
		}
	}
}

// firstRecordAfter finds the first record's line that begins behind offset from
// and before end.
func firstRecordAfter(f io.ReaderAt, from, end int64, chunk int) (at int64, index uint64, ok bool, err error) {
	r := newRawReader(f, from, chunk)
	if _, _, _, err = r.line(); err != nil { // the rest of a line
		return 0, 0, false, ignoreEOF(err)
	}
	for {
		line, at, whole, err := r.line()
		if err != nil || !whole || at >= end {
			return 0, 0, false, ignoreEOF(err)
		}
		if i, ok := evidence.LineIndex(line); ok {
			return at, i, true, nil
		}
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// cursor remembers where a read ended, so that a follower which reads on needs no
// search.
type cursor struct {
	segment uint64
	offset  int64
	index   uint64 // of the record whose line begins at offset or behind it
}

// maxRead bounds the bytes of one Read.
const maxRead = 8 << 20

// readSegments reads up to max entries from index from to below end out of the
// segments. hint may be the zero value.
func readSegments(fsys fileSystem, dir string, segs []uint64, from, end uint64, max int, hint cursor) ([]evidence.Entry, cursor, error) {
	out := make([]evidence.Entry, 0, min(uint64(max), end-from))
	bytesRead := 0
	for s := findSegment(segs, from); s >= 0 && s < len(segs) && from < end && len(out) < max && bytesRead < maxRead; s++ {
		f, err := fsys.OpenFile(segmentPath(dir, segs[s]), os.O_RDONLY, 0)
		if err != nil {
			return nil, cursor{}, fmt.Errorf("ledger: read record %d: %w", from, err)
		}
		last := end
		if s+1 < len(segs) && segs[s+1] < end {
			last = segs[s+1]
		}
		out, hint, bytesRead, err = readSegment(f, segs[s], out, from, last, max, hint, bytesRead)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, cursor{}, err
		}
		from = hint.index
	}
	return out, hint, nil
}

func readSegment(f file, segment uint64, out []evidence.Entry, from, end uint64, max int, hint cursor, bytesRead int) ([]evidence.Entry, cursor, int, error) {
	at := int64(0)
	switch {
	case hint.segment == segment && hint.index == from && hint.offset > 0:
		at = hint.offset
	case from > segment:
		size, err := f.Size()
		if err == nil {
			at, err = seekRecord(f, size, from)
		}
		if err != nil {
			return nil, cursor{}, 0, err
		}
	}
	r := newRawReader(f, at, scanChunk)
	var copies slab
	for from < end && len(out) < max && bytesRead < maxRead {
		line, _, whole, err := r.line()
		if errors.Is(err, io.EOF) || (err == nil && !whole) {
			return nil, cursor{}, 0, fmt.Errorf("ledger: record %d is missing: run `actpass evidence verify`", from)
		}
		if err != nil {
			return nil, cursor{}, 0, fmt.Errorf("ledger: read record %d: %w", from, err)
		}
		if _, ok := evidence.LineIndex(line); !ok {
			continue
		}
		l, err := evidence.ParseLine(line)
		if err != nil || l.Entry.Index != from || evidence.LeafHash(l.Entry.Record) != l.Leaf {
			return nil, cursor{}, 0, fmt.Errorf("ledger: record %d was altered on disk: run `actpass evidence verify`", from)
		}
		l.Entry.Record = copies.of(l.Entry.Record)
		out = append(out, *l.Entry)
		bytesRead += len(line)
		from++
	}
	return out, cursor{segment: segment, offset: r.next, index: from}, bytesRead, nil
}

// slab copies records to where they stay: the first by itself, further ones some at
// a time, so that reading thousands takes few allocations.
type slab struct {
	buf  []byte
	grow int
}

func (s *slab) of(b []byte) []byte {
	if cap(s.buf)-len(s.buf) < len(b) {
		s.buf = make([]byte, 0, max(len(b), s.grow))
		s.grow = min(64<<10, 4*max(len(b), s.grow))
	}
	at := len(s.buf)
	s.buf = append(s.buf, b...)
	// Clipped, so that who appends to a record does not write into the next.
	return s.buf[at:len(s.buf):len(s.buf)]
}

// findSegment gives the position of the segment that holds index, -1 when it is
// older than the first.
func findSegment(segs []uint64, index uint64) int {
	i := len(segs) - 1
	for i >= 0 && segs[i] > index {
		i--
	}
	return i
}
