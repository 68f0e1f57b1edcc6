package ledger

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// item is a record on its way into the log.
type item struct {
	record []byte // nil: withdrawn
	leaf   evidence.Hash
	text   string // of leaf, base64
	sum    evidence.Summary
	index  uint64  // set by the writer
	handed *handed // who waits for it to be written, nil for nobody
}

// handed is what Soon waits for. The writer tells it once.
type handed struct {
	told bool // the writer's
	err  error
	done chan struct{}
}

func (h *handed) tell(err error) {
	h.told, h.err = true, err
	close(h.done)
}

// waitedFor says that nobody was told yet of a record of Soon.
func (it *item) waitedFor() bool { return it.handed != nil && !it.handed.told }

func newItem(r evidence.Record) (item, error) {
	record := r.Bytes()
	switch {
	case len(record) > MaxRecord:
		return item{}, ErrTooLarge
	case len(record) == 0:
		return item{}, errNoRecord
	}
	leaf := evidence.LeafHash(record)
	return item{record: record, leaf: leaf, text: leaf.String(), sum: r.Summary()}, nil
}

var errNoRecord = errors.New("ledger: append: an empty record")

// batch is what is written and synced together. Its fields belong to whoever
// holds Log.mu until taken is set, then to the writer, and after done is closed
// to nobody: they do not change any more.
type batch struct {
	items []item
	flush bool // sync even with Options.Async
	taken bool
	err   error
	done  chan struct{}
}

// maxLaterBatch bounds the queued records that go into one batch, so that a
// backlog after an outage does not make every Append wait for all of it.
const (
	maxLaterBatch      = 4096
	maxLaterBatchBytes = 4 << 20
)

// keepBuffer bounds the buffer that is kept from batch to batch.
const keepBuffer = 256 << 10

// writer is the state of the writing goroutine.
type writer struct {
	file    file // nil before the first segment of a new log
	segment uint64
	offset  int64         // end of the last good batch; nothing behind it counts
	filled  int64         // end of the zeros that were written ahead, if more than offset
	noRoom  time.Time     // none are written before this
	commit  int64         // where that batch's checkpoint line begins
	note    []byte        // that checkpoint
	tree    evidence.Tree // over the records up to offset
	durable int64         // what an fsync has confirmed; less than offset only with Async
	since   time.Time     // when the oldest unsynced byte was written
	buf     []byte        // for the next batch
	ended   time.Time     // the last one
	alone   time.Time     // no batch waits for company before this
	broken  bool          // the file must be repaired before it is written again
	retry   time.Time     // not before this for records that nobody waits for
	probe   time.Time     // when to try a disk that refused; zero while it takes everything
}

func (w *writer) close() error {
	if w.file == nil {
		return nil
	}
	f := w.file
	w.file = nil
	if err := f.Close(); err != nil {
		return fmt.Errorf("ledger: close the segment: %w", err)
	}
	return nil
}

// write is the one goroutine that writes.
func (l *Log) write() {
	defer close(l.stopped)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		l.gather()
		b, later, wait, done := l.take()
		if done {
			if l.w.broken || l.w.unsynced() {
				l.settle(l.sync())
			}
			return
		}
		if b == nil && len(later) == 0 {
			if l.w.due() {
				l.settle(l.sync())
				continue
			}
			if l.w.probe.IsZero() {
				wait = min(wait, l.w.untilDue())
			} else if wait = min(wait, time.Until(l.w.probe)); wait <= 0 {
				l.settle(l.tryDisk())
				continue
			}
			timer.Reset(wait)
			select {
			case <-l.wake:
			case <-timer.C:
			}
			continue
		}
		l.run(b, later)
		if l.w.due() {
			l.settle(l.sync())
		}
	}
}

// gather lets others into the next batch as long as more of them come: whoever can
// run runs before this goroutine does again. So those who call at once share one
// fsync, which costs the processor time of several calls, and nobody waits for a
// clock. It does so only when others are about, and not while what else runs takes
// long: who calls alone goes on at once.
func (l *Log) gather() {
	w, began := &l.w, time.Now()
	n := l.company()
	if n == 0 || n == 1 && began.Sub(w.ended) > maxCompany || began.Before(w.alone) {
		return
	}
	for {
		runtime.Gosched()
		more, took := l.company(), time.Since(began)
		if took > longCompany {
			w.alone = time.Now().Add(aloneFor)
		}
		if more <= n || took > maxCompany {
			return
		}
		n = more
	}
}

// company is how many wait for the next batch, 0 when it must not wait for others.
func (l *Log) company() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.rush || l.closing:
		return 0
	case l.next == nil:
		return l.soon
	case l.next.flush:
		return 0
	}
	return len(l.next.items) + l.soon
}

// take gives the next work: a batch of Append, records of Later, or how long to
// wait for them.
func (l *Log) take() (b *batch, later []item, wait time.Duration, done bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wait = time.Hour
	b = l.next
	if b == nil && l.soon == 0 && len(l.later) > 0 && !l.closing && !l.rush {
		// Company is welcome: the next Append's fsync serves these too.
		ready := l.laterSince.Add(laterWindow)
		if len(l.later) >= maxLaterBatch {
			ready = l.w.retry
		} else if l.w.retry.After(ready) {
			ready = l.w.retry
		}
		if d := time.Until(ready); d > 0 {
			return nil, nil, d, false
		}
	}
	if b == nil && len(l.later) == 0 {
		l.rush = false
		return nil, nil, wait, l.closing
	}
	if b != nil {
		b.taken = true
		l.next = nil
	}
	size, n := 0, 0
	for n < maxLaterBatch && n < len(l.later) && size < maxLaterBatchBytes {
		size += len(l.later[n].record)
		n++
	}
	// A copy: Later may move the queue while the batch is being written.
	return b, slices.Clone(l.later[:n]), wait, false
}

// run commits one batch and tells its waiters.
func (l *Log) run(b *batch, later []item) {
	var waiting []item
	if b != nil {
		waiting = b.items
	}
	done, err := l.commit(later, waiting)
	l.w.ended = time.Now()
	if err == nil && b != nil && b.flush {
		err = l.sync()
	}
	l.mu.Lock()
	if err == nil {
		l.accept(done, later, waiting)
	} else {
		l.rush = false
		l.withdraw(err)
	}
	if err != nil || len(done.entries) > 0 { // a batch of nothing says nothing about the disk
		l.fate(err)
	}
	closing := l.closing
	l.mu.Unlock()
	if b != nil {
		b.err = err
		close(b.done)
	}
	switch {
	case err == nil:
		l.touchPublisher()
	case closing && b == nil:
		l.abandon()
	}
}

// withdraw takes back the records of Soon that nobody was told of yet, because
// the disk refuses, and tells those who wait. l.mu is held.
func (l *Log) withdraw(err error) {
	for i := range l.later {
		it := &l.later[i]
		if l.soon == 0 || !it.waitedFor() {
			continue
		}
		l.laterBytes -= len(it.record)
		it.record = nil
		l.soon--
		it.handed.tell(err)
	}
}

// hand tells those who wait for records of Soon that the system has them.
func (l *Log) hand(later []item) {
	told := 0
	for i := range later {
		if later[i].waitedFor() {
			later[i].handed.tell(nil)
			told++
		}
	}
	if told > 0 {
		l.mu.Lock()
		l.soon -= told
		l.mu.Unlock()
	}
}

// abandon ends the attempts to write what Later queued: the log is being closed
// and the disk refuses. Close reports it.
func (l *Log) abandon() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.laterBytes = 0
	for i := range l.later {
		if l.later[i].record != nil { // else it was withdrawn
			l.lost++
		}
	}
	l.later = nil
}

// accept makes a committed batch visible. l.mu is held.
func (l *Log) accept(done written, later, waiting []item) {
	for _, list := range [2][]item{later, waiting} {
		for i := range list {
			if list[i].record != nil {
				l.open.note(list[i].sum, list[i].index)
			}
		}
	}
	for i := range later {
		l.laterBytes -= len(later[i].record)
	}
	clear(l.later[:len(later)]) // let the records go
	l.later = l.later[len(later):]
	if len(l.later) == 0 {
		l.later = nil
	}
	l.laterDone += uint64(len(later))
	if n := l.w.tree.Size(); n > l.size {
		l.recent.add(done)
		l.size = n
		if len(l.segs) == 0 || l.segs[len(l.segs)-1] != l.w.segment {
			l.segs = append(l.segs[:len(l.segs):len(l.segs)], l.w.segment)
		}
		l.announce()
	}
	if !l.w.unsynced() {
		l.synced = l.snapshot()
	}
}

// settle takes note of an fsync that nobody waited for.
func (l *Log) settle(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fate(err)
	if err == nil {
		l.synced = l.snapshot()
		l.touchPublisher()
	}
}

// fate takes note of whether the disk can be written. l.mu is held.
func (l *Log) fate(err error) {
	l.err = err
	if err == nil {
		l.w.retry, l.w.probe = time.Time{}, time.Time{}
		return
	}
	now := time.Now()
	l.w.retry, l.w.probe = now.Add(retryEvery), now.Add(probeEvery)
}

// commit writes the records with their checkpoint and syncs. It gives what it
// wrote. On an error nothing of the batch counts.
func (l *Log) commit(later, waiting []item) (done written, err error) {
	w := &l.w
	if w.broken {
		if err := l.repair(); err != nil {
			return done, fmt.Errorf("ledger: repair the log after a failed write: %w", err)
		}
	}
	size, n := 0, 0
	for _, list := range [2][]item{later, waiting} {
		for i := range list {
			if list[i].record != nil {
				size += evidence.RecordLineSize(len(list[i].record))
				n++
			}
		}
	}
	if n == 0 {
		return done, nil
	}
	if w.file == nil || w.offset >= l.opt.SegmentBytes {
		if err := l.roll(); err != nil {
			return done, err
		}
	}
	buf := slices.Grow(w.buf[:0], size+1024)
	if w.offset == 0 {
		if buf, err = evidence.AppendHeaderLine(buf, evidence.NewHeader(l.keys.public, l.keys.origin, w.tree)); err != nil {
			return done, err
		}
	}
	tree := w.tree.Clone()
	entries := make([]evidence.Entry, 0, n)
	for _, list := range [2][]item{later, waiting} {
		for i := range list {
			it := &list[i]
			if it.record == nil {
				continue
			}
			it.index = tree.Size()
			buf = evidence.AppendRecordLine(buf, it.index, it.leaf, it.record)
			tree.Add(it.leaf)
			// Clipped, so that a caller who appends to a record does not write into what
			// others read.
			entries = append(entries, evidence.Entry{Index: it.index, LeafHash: it.text, Record: slices.Clip(it.record)})
		}
	}
	signed, err := evidence.Checkpoint{
		Origin: l.keys.origin, Size: tree.Size(), Root: tree.Root(), Time: l.opt.Now(),
	}.Sign(l.keys.signer)
	if err != nil {
		return done, err
	}
	commit := w.offset + int64(len(buf))
	buf = evidence.AppendCommitLine(buf, signed, l.opt.Async)
	if cap(buf) <= keepBuffer {
		w.buf = buf
	}

	wrote, err := w.file.WriteAt(buf, w.offset)
	if err == nil && wrote < len(buf) {
		err = io.ErrShortWrite
	}
	if err == nil {
		// If the process dies from here on, the system has the batch, whole; if the
		// machine does, it can be torn, and Open sets it aside.
		l.hand(later)
		filled := l.fill(w.offset+int64(len(buf)), n)
		if !l.opt.Async {
			if err = w.file.Sync(); err != nil {
				// What the kernel did with the pages is unknown.
				w.broken = true
				if filled { // for want of that room, perhaps
					w.noRoom = time.Now().Add(noRoomFor)
				}
			}
		}
	}
	if err != nil {
		return done, errors.Join(fmt.Errorf("ledger: write %d records: %w", n, err), l.undo())
	}
	// The old tree's edge may be shared with a snapshot: it is replaced, not changed.
	w.tree, w.commit, w.note = tree, commit, signed
	w.offset += int64(len(buf))
	if !l.opt.Async {
		w.durable = w.offset
	} else if w.since.IsZero() {
		w.since = time.Now()
	}
	return written{entries, len(buf)}, nil
}

// fill writes zeros behind a batch of n records that ends there and is about to be
// synced, when those of before are used up. They are room, not a part of the log: a
// disk that refuses to write them, or takes some of them, refuses nothing else. One
// that says so only when it syncs refuses the batch too, and is not asked again for
// a while. None are written where the next segment begins, so that a sealed one has
// none.
func (l *Log) fill(end int64, n int) bool {
	ahead := int64(aheadBytes)
	if l.opt.ahead > 0 {
		ahead = l.opt.ahead
	} else if n < aheadFrom {
		return false
	}
	w := &l.w
	if l.opt.Async || end <= w.filled || end+ahead > l.opt.SegmentBytes || time.Now().Before(w.noRoom) {
		return false
	}
	w.filled = end + ahead
	_, _ = w.file.WriteAt(make([]byte, ahead), end)
	return true
}

// trim cuts off what was filled ahead, for a file that is not written any more.
func (l *Log) trim() error {
	w := &l.w
	if w.file == nil || w.broken || w.filled <= w.offset {
		return nil
	}
	if err := w.file.Truncate(w.offset); err != nil {
		return fmt.Errorf("ledger: cut off the room behind the log: %w", err)
	}
	if err := w.file.Sync(); err != nil {
		w.broken = true
		return fmt.Errorf("ledger: cut off the room behind the log: %w", err)
	}
	w.filled = 0
	return nil
}

// roll begins a new segment. The old one is complete and is never written again.
func (l *Log) roll() error {
	w := &l.w
	if err := l.sync(); err != nil {
		return err
	}
	segment := w.tree.Size()
	// An earlier attempt may have left an empty file, or one with a batch that
	// failed; no record of it was acknowledged.
	f, err := l.fs.OpenFile(segmentPath(l.dir, segment), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("ledger: begin a segment: %w", err)
	}
	err = f.Truncate(0)
	if err == nil {
		// If we crash before this, the segment is gone, and no batch in it was
		// acknowledged: the batch's fsync comes after.
		err = l.fs.SyncDir(filepath.Join(l.dir, segmentsDir))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("ledger: begin a segment: %w", err), f.Close())
	}
	old := w.file
	w.file, w.segment, w.offset, w.filled, w.commit, w.durable, w.since = f, segment, 0, 0, 0, 0, time.Time{}
	if old != nil {
		// Everything in it is synced.
		if err := old.Close(); err != nil {
			return fmt.Errorf("ledger: close the old segment: %w", err)
		}
	}
	return nil
}

// sync makes what was written durable (Async); nothing to do otherwise.
func (l *Log) sync() error {
	w := &l.w
	if w.broken {
		if err := l.repair(); err != nil {
			w.since = time.Now() // try again in a while
			return fmt.Errorf("ledger: repair the log after a failed write: %w", err)
		}
	}
	if !w.unsynced() {
		return nil
	}
	if err := w.file.Sync(); err != nil {
		w.broken, w.since = true, time.Now()
		return fmt.Errorf("ledger: sync: %w", err)
	}
	w.durable, w.since = w.offset, time.Time{}
	return nil
}

func (w *writer) unsynced() bool { return w.durable < w.offset }

// due says that unsynced bytes have waited long enough.
func (w *writer) due() bool { return w.unsynced() && time.Since(w.since) >= asyncWindow }

func (w *writer) untilDue() time.Duration {
	if !w.unsynced() {
		return time.Hour
	}
	return max(asyncWindow-time.Since(w.since), 0)
}
