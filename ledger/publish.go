package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/actpass/sidecar/evidence"
)

const (
	checkpointName = "checkpoint"
	stateName      = "state"
)

// snapshot is a durable point of the log.
type snapshot struct {
	note    []byte
	segment uint64
	offset  int64
	commit  int64
	tree    evidence.Tree // shared, never changed
	open    []Intent      // as of this point; nil: as of now
}

// snapshot is called when everything up to the writer's offset is durable. l.mu
// is held.
func (l *Log) snapshot() snapshot {
	w := &l.w
	s := snapshot{note: w.note, segment: w.segment, offset: w.offset, commit: w.commit, tree: w.tree}
	if l.opt.Async {
		// An outcome that is written but not yet durable must not close its intent
		// in the state: a crash could lose the one and keep the other.
		s.open = l.open.sorted()
	}
	return s
}

// publisher writes the checkpoint and the state at most once in publishEvery, so
// that the writer never waits for it.
func (l *Log) publisher() {
	defer close(l.quiet)
	for range l.publish {
		for l.publishOnce() != nil {
			select {
			case <-l.stopped: // Close tries once more, and tells
				return
			default:
			}
		}
	}
}

// publishOnce publishes and keeps the pace.
func (l *Log) publishOnce() error {
	err := l.publishNow()
	l.mu.Lock()
	l.publishErr = err
	l.mu.Unlock()
	t := time.NewTimer(publishEvery)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.stopped:
	}
	return err
}

func (l *Log) touchPublisher() {
	select {
	case l.publish <- struct{}{}:
	default:
	}
}

// publishNow writes the checkpoint, which must last, and the state, which need
// not: Open believes it only where it fits a signed checkpoint in the log.
func (l *Log) publishNow() error {
	l.mu.Lock()
	s := l.synced
	if s.open == nil {
		s.open = l.open.sorted()
	}
	l.mu.Unlock()
	if s.note == nil {
		return nil
	}
	if err := writeFile(l.fs, filepath.Join(l.dir, checkpointName), s.note, 0o644, true); err != nil {
		return err
	}
	return s.save(l.fs, l.dir)
}

// state is snapshot on disk.
type state struct {
	Version int      `json:"v"`
	Segment uint64   `json:"segment"`
	Offset  int64    `json:"offset"`
	Commit  int64    `json:"commit"`
	Size    uint64   `json:"size"`
	Edge    []string `json:"edge"`
	Open    []Intent `json:"open"`
}

func (s *snapshot) save(fsys fileSystem, dir string) error {
	st := state{Version: 1, Segment: s.segment, Offset: s.offset, Commit: s.commit, Size: s.tree.Size(), Open: s.open}
	for _, h := range s.tree.Edge() {
		st.Edge = append(st.Edge, h.String())
	}
	b, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("ledger: render the state: %w", err)
	}
	return writeFile(fsys, filepath.Join(dir, stateName), b, 0o600, false)
}

// loadState reads the state back. Any doubt makes it absent: it is derived.
func loadState(fsys fileSystem, dir string, k keys) (snapshot, bool) {
	var s snapshot
	b, err := readFile(fsys, filepath.Join(dir, stateName))
	if err != nil {
		return s, false
	}
	var st state
	if err := json.Unmarshal(b, &st); err != nil || st.Version != 1 || st.Commit <= 0 || st.Offset <= st.Commit || st.Offset-st.Commit > maxLine {
		return s, false
	}
	edge := make([]evidence.Hash, len(st.Edge))
	for i, e := range st.Edge {
		if edge[i], err = tlog.ParseHash(e); err != nil {
			return s, false
		}
	}
	if s.tree, err = evidence.NewTree(st.Size, edge); err != nil {
		return s, false
	}
	s.segment, s.offset, s.commit, s.open = st.Segment, st.Offset, st.Commit, st.Open
	s.note, err = readCommit(fsys, dir, st.Segment, st.Commit, st.Offset)
	if err != nil {
		return s, false
	}
	c, err := evidence.OpenCheckpoint(s.note, k.verifier)
	if err != nil || c.Size != st.Size || c.Root != s.tree.Root() {
		return s, false
	}
	return s, true
}

// readCommit reads the checkpoint line that stands at [from, to) of a segment.
func readCommit(fsys fileSystem, dir string, segment uint64, from, to int64) (signed []byte, err error) {
	f, err := fsys.OpenFile(segmentPath(dir, segment), 0, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := make([]byte, to-from)
	if _, err := f.ReadAt(b, from); err != nil {
		return nil, err
	}
	if b[len(b)-1] != '\n' {
		return nil, errors.New("ledger: the line has no end")
	}
	l, err := evidence.ParseLine(b[:len(b)-1])
	if err != nil {
		return nil, err
	}
	if l.Commit == nil {
		return nil, errors.New("ledger: the line is not a checkpoint")
	}
	return l.Commit, nil
}

// readCheckpoint reads the published checkpoint; nil when there is none.
func readCheckpoint(fsys fileSystem, dir string) ([]byte, error) {
	b, err := readFile(fsys, filepath.Join(dir, checkpointName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ledger: read the published checkpoint: %w", err)
	}
	return b, nil
}
