package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// Reader reads a log that another process may be writing. It takes no lock. A
// batch that is being written is not seen before its checkpoint is whole; should
// its fsync then fail, the reader has seen records that the writer takes back.
// Safe for concurrent use.
type Reader struct {
	dir string
	fs  fileSystem
	key string

	mu   sync.Mutex
	hint cursor
	end  cursor // behind the last checkpoint that was seen; index is the size there
	last []byte // that checkpoint
	line []byte // its line, with the newline
}

// OpenReader opens the log in dir for reading.
func OpenReader(dir string) (*Reader, error) {
	r := &Reader{dir: dir, fs: disk{}}
	var err error
	if r.key, err = readPublicKey(r.fs, dir); err != nil {
		return nil, err
	}
	if _, err := r.Size(); err != nil {
		return nil, err
	}
	return r, nil
}

// PublicKey is the log's verifier key as it stands beside the log.
func (r *Reader) PublicKey() string { return r.key }

// Size is the number of records that a checkpoint covers by now. Checkpoints
// are not verified here; see VerifyDir.
func (r *Reader) Size() (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	segs, err := listSegments(r.fs, r.dir)
	if err != nil {
		return 0, err
	}
	return r.refresh(segs)
}

// refresh moves r.end forward. r.mu is held.
func (r *Reader) refresh(segs []uint64) (uint64, error) {
	start := len(segs) - 1
	if i := findSegment(segs, r.end.segment); r.end.offset > 0 && i >= 0 && segs[i] == r.end.segment {
		start = i
	} else {
		r.end = cursor{}
		// The last segment may have no whole batch yet.
		start = max(start-1, 0)
	}
	for ; start < len(segs); start++ {
		if err := r.advance(segs[start]); err != nil {
			return 0, err
		}
	}
	return r.end.index, nil
}

func (r *Reader) advance(segment uint64) (err error) {
	f, err := r.fs.OpenFile(segmentPath(r.dir, segment), os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("ledger: open a segment: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	offset := int64(0)
	if r.end.segment == segment {
		offset = r.end.offset
	}
	if offset > 0 {
		before := make([]byte, len(r.line))
		if _, err := f.ReadAt(before, offset-int64(len(before))); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("ledger: read a segment: %w", err)
		}
		if !bytes.Equal(before, r.line) {
			offset = 0 // a failed batch was taken back, and perhaps another stands there
		}
	}
	next := max(segment, r.end.index)
	for lines := newRawReader(f, offset, scanChunk); ; {
		line, _, whole, err := lines.line()
		if errors.Is(err, io.EOF) || (err == nil && !whole) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("ledger: read the segment %d: %w", segment, err)
		}
		if i, ok := evidence.LineIndex(line); ok {
			next = i + 1
			continue
		}
		l, err := evidence.ParseLine(line)
		if err != nil {
			// Damage, or a batch on its way: what is behind it is not shown.
			return nil
		}
		if l.Commit != nil {
			r.end = cursor{segment: segment, offset: lines.next, index: next}
			r.last, r.line = l.Commit, append(append(r.line[:0], line...), '\n')
		}
	}
}

// Read gives up to max entries from index from, in order; none when from is not
// in the log yet.
func (r *Reader) Read(from uint64, max int) ([]evidence.Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	segs, err := listSegments(r.fs, r.dir)
	if err != nil {
		return nil, err
	}
	if from >= r.end.index {
		if _, err := r.refresh(segs); err != nil {
			return nil, err
		}
	}
	if from >= r.end.index || max <= 0 {
		return nil, nil
	}
	if len(segs) > 0 && from < segs[0] {
		return nil, fmt.Errorf("%w: the oldest left is %d", ErrRemoved, segs[0])
	}
	out, hint, err := readSegments(r.fs, r.dir, segs, from, r.end.index, max, r.hint)
	if err != nil {
		return nil, err
	}
	r.hint = hint
	return out, nil
}

// Report is what VerifyDir found.
type Report struct {
	Origin      string        `json:"origin"`
	PublicKey   string        `json:"public_key"`
	First       uint64        `json:"first"` // more than 0 when old segments were removed
	Size        uint64        `json:"size"`  // records that a checkpoint covers, counted from 0
	Root        string        `json:"root"`  // base64
	Checkpoints int           `json:"checkpoints"`
	Segments    int           `json:"segments"`
	Bytes       int64         `json:"bytes"`
	Last        time.Time     `json:"last_checkpoint"`
	Pending     int64         `json:"pending_bytes"` // at the end: a batch that is being written, or a torn one
	Took        time.Duration `json:"-"`

	Fault *Fault `json:"fault,omitempty"` // nil: the log is what its key vouches for
}

// Fault is where a log is not what its key vouches for.
type Fault struct {
	Segment string `json:"segment"` // file name; "" when it is missing
	Index   uint64 `json:"index"`
	EventID string `json:"event_id,omitempty"`
	Reason  string `json:"reason"`
}

// VerifyDir reads the whole log in dir, also while another process writes it, and
// compares it with the checkpoint that was published beside it. vkey is the
// verifier key that is known from elsewhere; with none, the one beside the log is
// used, which shows damage but not a log that was made anew with another key. A
// fault in the log is in the report; the error is for a log that cannot be read.
func VerifyDir(dir string, vkey ...string) (Report, error) {
	return verifyDir(disk{}, dir, vkey...)
}

func verifyDir(fsys fileSystem, dir string, vkey ...string) (rep Report, err error) {
	start := time.Now()
	key := ""
	if len(vkey) > 0 && vkey[0] != "" {
		key = vkey[0]
	} else if key, err = readPublicKey(fsys, dir); err != nil {
		return rep, err
	}
	v, err := evidence.NewVerifier(key)
	if err != nil {
		return rep, err
	}
	// Before the segments: the log only grows, so it must hold what was published
	// before it was read.
	published, err := readCheckpoint(fsys, dir)
	if err != nil {
		return rep, err
	}
	var fault *evidence.Fault
	if published != nil {
		if err := v.Expect(published); err != nil {
			fault = &evidence.Fault{Reason: fmt.Sprintf("the published checkpoint is not of the log's key, or was altered: %v", err)}
		}
	}
	segs, err := listSegments(fsys, dir)
	if err != nil {
		return rep, err
	}
	name := ""
	for i, segment := range segs {
		if fault != nil {
			break
		}
		name = segmentPath(dir, segment)
		if fault, err = verifySegment(fsys, v, name, segment, i == len(segs)-1, &rep); err != nil {
			return rep, err
		}
		if _, short := v.Short(); fault != nil && !short && i == len(segs)-1 {
			fault.Reason += "; nothing published covers it: after a crash it may be the torn tail, which the next start sets aside"
		}
	}
	if fault == nil {
		fault = v.End()
	}
	good := v.Good()
	last, _ := v.Checkpoint()
	rep.Origin, rep.PublicKey = last.Origin, v.Key()
	rep.First, rep.Size, rep.Root = v.First(), good.Size(), good.Root().String()
	rep.Checkpoints, rep.Segments, rep.Last = v.Commits(), len(segs), last.Time
	rep.Took = time.Since(start)
	if fault != nil {
		rep.Fault = &Fault{Segment: name, Index: fault.Index, EventID: fault.EventID, Reason: fault.Reason}
	}
	return rep, nil
}

func verifySegment(fsys fileSystem, v *evidence.Verifier, name string, segment uint64, last bool, rep *Report) (fault *evidence.Fault, err error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("ledger: verify: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	committed, zero := int64(0), int64(-1)
	for lines := newLineReader(f, 0, scanChunk); ; {
		line, at, whole, err := lines.line()
		if lines.zero && !whole && (err == nil || errors.Is(err, io.EOF)) {
			end, err := zerosTo(f, lines.next)
			if err != nil {
				return nil, fmt.Errorf("ledger: verify %s: %w", name, err)
			}
			if !last || end > lines.next && zero == lines.next {
				return zerosInside(v), nil
			}
			if end > lines.next { // it may have been written meanwhile
				zero, lines = lines.next, newLineReader(f, at, scanChunk)
				continue
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, errLongLine) {
			return nil, fmt.Errorf("ledger: verify %s: %w", name, err)
		}
		if err == nil && !whole && last {
			// Being written, or torn; v.End tells when a published record is gone.
			rep.Pending = lines.next - committed
			break
		}
		if err != nil || !whole {
			line = bytes.Clone(line)
		}
		l, fault := v.Line(line)
		if fault != nil {
			return fault, nil
		}
		if f := misnamed(l, segment); f != nil {
			return f, nil
		}
		if l.Commit != nil {
			committed = lines.next
		}
		if last {
			rep.Pending = lines.next - committed
		}
	}
	rep.Bytes += committed
	if !last {
		return v.Seal(), nil
	}
	return nil, nil
}

// misnamed compares a segment's header with the name of its file.
func misnamed(l evidence.Line, segment uint64) *evidence.Fault {
	if l.Header == nil || l.Header.First == segment {
		return nil
	}
	return &evidence.Fault{Index: min(segment, l.Header.First), Reason: fmt.Sprintf(
		"the segment's file is named for record %d, its header says that it begins with record %d", segment, l.Header.First)}
}
