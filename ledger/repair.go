package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// tryDisk finds out whether a disk that refused takes a page again, so that Err
// says so although nobody appends any more, because Err made them stop. If we
// crash here, zeros are a torn tail.
func (l *Log) tryDisk() error {
	w := &l.w
	if w.broken {
		if err := l.repair(); err != nil {
			return fmt.Errorf("ledger: repair the log after a failed write: %w", err)
		}
	}
	if w.file == nil {
		return l.roll()
	}
	_, err := w.file.WriteAt(make([]byte, probeBytes), w.offset)
	if err == nil {
		err = w.file.Sync()
		w.broken = err != nil
	}
	if err != nil {
		err = fmt.Errorf("ledger: try the disk again: %w", err)
	}
	if uerr := l.undo(); err == nil {
		err = uerr
	}
	if err == nil {
		w.durable, w.since = w.offset, time.Time{}
	}
	return err
}

// undo cuts off what a failed write left behind. Should that fail too, the file
// stays marked, and no batch is written before the cut has succeeded.
func (l *Log) undo() error {
	w := &l.w
	wasBroken := w.broken
	w.broken = true
	if err := w.file.Truncate(w.offset); err != nil {
		return fmt.Errorf("ledger: cut off a failed batch: %w", err)
	}
	if err := w.file.Sync(); err != nil {
		return fmt.Errorf("ledger: sync the cut of a failed batch: %w", err)
	}
	w.filled = 0
	w.broken = wasBroken
	return nil
}

// repair brings the file back into a state that is known: opened anew, ending at
// the last good batch, with every byte that an fsync has not confirmed, and the
// page that it shares with confirmed ones, written again, synced, and read back
// from the disk.
func (l *Log) repair() error {
	w := &l.w
	path := segmentPath(l.dir, w.segment)
	f, err := l.fs.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if w.file != nil {
		_ = w.file.Close() // it has failed already; nothing of it is relied on
	}
	w.file = f
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size < w.offset {
		return fmt.Errorf("%s has %d bytes, %d were written: it was cut by someone else", path, size, w.offset)
	}
	if size > w.offset {
		if err := f.Truncate(w.offset); err != nil {
			return err
		}
	}
	const page = 4096
	from := min(w.durable&^(page-1), w.commit)
	tail := make([]byte, w.offset-from)
	if _, err := f.ReadAt(tail, from); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if w.offset > 0 {
		last, err := evidence.ParseLine(bytes.TrimSuffix(tail[w.commit-from:], []byte("\n")))
		if err != nil || !bytes.Equal(last.Commit, w.note) {
			return fmt.Errorf("%s does not end with its last checkpoint any more", path)
		}
		if _, err := f.WriteAt(tail, from); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	f.Forget()
	back := make([]byte, len(tail))
	if _, err := f.ReadAt(back, from); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !bytes.Equal(back, tail) {
		return fmt.Errorf("%s reads back other bytes than were written", path)
	}
	w.durable, w.filled, w.since, w.broken = w.offset, 0, time.Time{}, false
	return nil
}
