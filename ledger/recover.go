package ledger

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// Recovery is what Open found behind the last good batch.
type Recovery struct {
	TruncatedBytes int64  // length of the torn tail, 0 when there was none
	Saved          string // the file in torn/ that holds it
	Reason         string // why it was not whole
	Size           uint64 // records after recovery
	Rescanned      uint64 // records read again because the state was older or absent
}

// DamagedError says that the log is not what was acknowledged.
type DamagedError struct {
	Dir     string
	Segment uint64
	Fault   *evidence.Fault
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("ledger: the log in %s is damaged: %v; nothing is appended to it: look at it with `actpass evidence verify`, keep a copy, then restore it from a backup or move it away to begin a new one",
		e.Dir, e.Fault)
}

func (e *DamagedError) Unwrap() error { return e.Fault }

// recover finds the end of the log and gets ready to write behind it.
func (l *Log) recover() error {
	published, err := readCheckpoint(l.fs, l.dir)
	if err != nil {
		return err
	}
	segs, err := listSegments(l.fs, l.dir)
	if err != nil {
		return err
	}
	if l.keys, err = loadKeys(l.fs, l.dir, len(segs) == 0 && published == nil); err != nil {
		return err
	}
	var promised evidence.Checkpoint
	if published != nil {
		if promised, err = evidence.OpenCheckpoint(published, l.keys.verifier); err != nil {
			return fmt.Errorf("ledger: the published checkpoint %s is not of this log's key: %w", filepath.Join(l.dir, checkpointName), err)
		}
	}
	s := scan{log: l, segs: segs, promised: promised}
	if err := s.run(); err != nil {
		return err
	}
	l.segs = s.segs
	l.size = l.w.tree.Size()
	l.recovered.Size = l.size
	l.unfinished = l.open.sorted()
	l.synced = l.snapshot()
	return nil
}

// scan reads the log from the last known good point to its end.
type scan struct {
	log      *Log
	segs     []uint64
	promised evidence.Checkpoint
	v        *evidence.Verifier
}

func (s *scan) run() error {
	l := s.log
	if err := s.dropEmpty(); err != nil {
		return err
	}
	if len(s.segs) == 0 {
		if s.promised.Size > 0 {
			return s.damaged(0, &evidence.Fault{Index: 0, Reason: fmt.Sprintf(
				"it is missing: a published checkpoint covers %d records, there are no segments", s.promised.Size)})
		}
		return nil
	}
	start, offset := 0, int64(0)
	state, ok := loadState(l.fs, l.dir, l.keys)
	if ok {
		start = findSegment(s.segs, state.segment)
		ok = start >= 0 && s.segs[start] == state.segment
	}
	var err error
	if ok {
		offset = state.offset
		s.v, err = evidence.ResumeVerifier(l.keys.public, state.tree)
		for _, in := range state.open {
			l.open[in.ID] = in
		}
		l.w.tree, l.w.note, l.w.segment, l.w.offset, l.w.commit = state.tree, state.note, state.segment, state.offset, state.commit
	} else {
		start = 0
		s.v, err = evidence.NewVerifier(l.keys.public)
	}
	if err != nil {
		return err
	}
	for i := start; i < len(s.segs); i++ {
		if err := s.segment(i, offset); err != nil {
			return err
		}
		offset = 0
	}
	return s.finish()
}

// dropEmpty removes an empty last segment: a crash between its creation and the
// first batch in it.
func (s *scan) dropEmpty() error {
	if len(s.segs) == 0 {
		return nil
	}
	last := s.segs[len(s.segs)-1]
	f, err := s.log.fs.OpenFile(segmentPath(s.log.dir, last), os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("ledger: open the last segment: %w", err)
	}
	size, err := f.Size()
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("ledger: open the last segment: %w", err)
	}
	if size > 0 {
		return nil
	}
	if err := s.log.fs.Remove(segmentPath(s.log.dir, last)); err != nil {
		return fmt.Errorf("ledger: remove an empty segment: %w", err)
	}
	s.segs = s.segs[:len(s.segs)-1]
	return nil
}

// segment reads one segment from offset on and leaves l.w at the end of its last
// good batch.
func (s *scan) segment(i int, offset int64) (err error) {
	l := s.log
	f, err := l.fs.OpenFile(segmentPath(l.dir, s.segs[i]), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("ledger: open a segment: %w", err)
	}
	if l.w.file != nil {
		_ = l.w.file.Close() // only read so far
	}
	l.w.file = f
	var (
		pending []evidence.Summary
		first   uint64
		bad     *evidence.Fault
	)
	for r := newLineReader(f, offset, scanChunk); ; {
		line, at, whole, err := r.line()
		if errors.Is(err, io.EOF) {
			if r.zero && i < len(s.segs)-1 {
				bad = zerosInside(s.v)
			}
			break
		}
		if err != nil && !errors.Is(err, errLongLine) {
			return fmt.Errorf("ledger: read the segment %d: %w", s.segs[i], err)
		}
		if err != nil || !whole {
			bad = &evidence.Fault{Index: s.v.Good().Size() + s.v.Pending(), Reason: "its line has no end"}
			break
		}
		var p evidence.Line
		if p, bad = s.v.Line(line); bad == nil {
			bad = misnamed(p, s.segs[i])
		}
		if bad != nil {
			break
		}
		switch {
		case p.Entry != nil:
			if len(pending) == 0 {
				first = p.Entry.Index
			}
			sum, err := evidence.Look(p.Entry.Record)
			if err != nil {
				sum = evidence.Summary{} // of a newer program; it is no intent that we know
			}
			pending = append(pending, sum)
		case p.Commit != nil:
			for j, sum := range pending {
				l.open.note(sum, first+uint64(j))
			}
			l.recovered.Rescanned += uint64(len(pending))
			pending = pending[:0]
			l.w.segment, l.w.offset, l.w.commit = s.segs[i], r.next, at
			_, l.w.note = s.v.Checkpoint()
			l.w.tree = s.v.Good()
		}
	}
	if i < len(s.segs)-1 {
		if bad == nil {
			bad = s.v.Seal()
		}
		if bad != nil {
			return s.damaged(s.segs[i], bad)
		}
		return nil
	}
	return s.tail(f, s.segs[i], bad)
}

// tail decides what the bytes behind the last good batch of the last segment
// are: the one batch that a crash interrupted, or damage to acknowledged records.
func (s *scan) tail(f file, segment uint64, bad *evidence.Fault) error {
	l := s.log
	good := int64(0)
	if l.w.segment == segment {
		good = l.w.offset
	}
	size, err := f.Size()
	if err != nil {
		return fmt.Errorf("ledger: read the last segment: %w", err)
	}
	if size == good {
		return nil
	}
	if bad == nil {
		bad = &evidence.Fault{Index: s.v.Good().Size(), Reason: "its batch has no checkpoint"}
	}
	if s.promised.Size > s.v.Good().Size() {
		return s.damaged(segment, bad)
	}
	// Zeros at the end are the room that was written ahead.
	end, err := zerosTo(f, good)
	if err != nil {
		return fmt.Errorf("ledger: read the last segment: %w", err)
	}
	if end == good {
		return s.truncate(f, segment, good)
	}
	// Only one batch is ever on its way (Async may have several): a second signed
	// checkpoint behind the bad place means that the first was acknowledged.
	synced := 0
	for r := newRawReader(f, good, scanChunk); ; {
		line, at, whole, err := r.line()
		if errors.Is(err, errLongLine) {
			r = newRawReader(f, at+maxLine, scanChunk) // no line of ours
			continue
		}
		if err != nil || !whole {
			break
		}
		p, err := evidence.ParseLine(line)
		if err != nil || p.Commit == nil {
			continue
		}
		c, err := evidence.OpenCheckpoint(p.Commit, l.keys.verifier)
		if err != nil || c.Size <= s.v.Good().Size() || p.Async {
			continue
		}
		if synced++; synced > 1 {
			return s.damaged(segment, bad)
		}
	}
	return s.cut(f, segment, good, end, bad)
}

// cut moves the torn tail, up to end, to torn/. If we crash between saving and cutting it is
// saved a second time.
func (s *scan) cut(f file, segment uint64, good, end int64, bad *evidence.Fault) error {
	l := s.log
	dir := filepath.Join(l.dir, "torn")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("ledger: set a torn tail aside: %w", err)
	}
	name := filepath.Join(dir, fmt.Sprintf("%020d-%d-%d", segment, good, time.Now().UnixNano()))
	out, err := l.fs.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("ledger: set a torn tail aside: %w", err)
	}
	_, err = io.Copy(io.NewOffsetWriter(out, 0), io.NewSectionReader(f, good, end-good))
	if err == nil {
		err = out.Sync()
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = l.fs.SyncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("ledger: set a torn tail aside in %s: %w", name, err)
	}
	l.recovered.TruncatedBytes, l.recovered.Saved, l.recovered.Reason = end-good, name, bad.Error()
	return s.truncate(f, segment, good)
}

// truncate ends the last segment behind its last good batch.
func (s *scan) truncate(f file, segment uint64, good int64) error {
	if err := f.Truncate(good); err != nil {
		return fmt.Errorf("ledger: cut off what is behind the last batch: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("ledger: cut off what is behind the last batch: %w", err)
	}
	if good == 0 {
		return s.dropTornSegment(segment)
	}
	return nil
}

// dropTornSegment goes back to the segment before one that held nothing good.
func (s *scan) dropTornSegment(segment uint64) error {
	l := s.log
	err := l.w.close()
	if err == nil {
		err = l.fs.Remove(segmentPath(l.dir, segment))
	}
	if err != nil {
		return fmt.Errorf("ledger: remove a torn segment: %w", err)
	}
	s.segs = s.segs[:len(s.segs)-1]
	if len(s.segs) == 0 {
		return nil
	}
	if l.w.file, err = l.fs.OpenFile(segmentPath(l.dir, l.w.segment), os.O_RDWR, 0); err != nil {
		return fmt.Errorf("ledger: open the last segment: %w", err)
	}
	return nil
}

// finish compares with what was published, and makes sure that what was read is
// what the disk holds.
func (s *scan) finish() error {
	l := s.log
	if size := l.w.tree.Size(); s.promised.Size > size {
		return s.damaged(l.w.segment, &evidence.Fault{Index: size, Reason: fmt.Sprintf(
			"it is missing: a published checkpoint covers %d records, the log ends after %d", s.promised.Size, size)})
	}
	if l.w.file == nil {
		return nil
	}
	// The whole last batch may have been written but never synced.
	if err := l.w.file.Sync(); err != nil {
		return fmt.Errorf("ledger: sync the recovered log: %w", err)
	}
	l.w.durable = l.w.offset
	return nil
}

func (s *scan) damaged(segment uint64, f *evidence.Fault) error {
	return &DamagedError{Dir: s.log.dir, Segment: segment, Fault: f}
}
