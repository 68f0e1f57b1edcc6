// Package ledger is the durable evidence log on local disk: append-only
// segments, one fsync shared by all that wait (group commit), recovery of a torn
// tail, signed checkpoints, and readers that follow from a durable cursor.
//
// The package comment of evidence is the format of the segments. Around them a
// log's directory holds
//
//	key           the signing key (note format, 0600); whoever has it can forge
//	key.pub       its verifier key
//	lock          held by the one process that writes
//	segments/     the log
//	checkpoint    the last published checkpoint: shows when the end was cut off
//	state         derived: where to go on after a restart
//	hashes        derived: the tree's nodes, for proofs; made when first asked for
//	torn/         tails that were cut off after a crash, kept for inspection
//
// # How a batch lives
//
//  1. Append checks and hashes its record and joins the batch that is being
//     collected. If we crash here nothing is on disk and nobody was told otherwise.
//  2. The writer takes the batch, adds it to the tree, signs the root, and writes
//     all lines and the checkpoint with one write. If we crash here a part of the
//     batch is on disk, perhaps all of it: no Append has returned, so the next
//     Open may keep it when it is whole, and sets it aside in torn/ when not.
//  3. One fdatasync. If it fails, the batch is cut off again, every Append of it
//     gets the error, and the file is not trusted before it was opened anew, its
//     tail rewritten, synced, dropped from memory and read back: a second fsync
//     alone would report success for pages that the kernel has thrown away.
//  4. The Appends return. If we crash from here on the records are there.
//
// Should the cut of step 3 fail as well and the machine crash before a later one
// succeeds, the next Open can find a whole batch whose Appends returned an
// error. It keeps it: an event of a call that was then refused stands without an
// outcome and becomes ambiguous. The record claims more than happened, never less.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// Limits of what is kept.
const (
	// MaxRecord is the size in bytes of the largest record that is taken.
	MaxRecord = 1 << 20
	// maxLater and maxLaterBytes bound the records of Later that wait.
	maxLater      = 100_000
	maxLaterBytes = 128 << 20

	defaultSegmentBytes = 64 << 20
	// laterWindow is how long a record of Later waits for an Append to ride with.
	laterWindow = 5 * time.Millisecond
	// maxCompany bounds how long a batch waits while others come. After a wait that
	// took longCompany, because something else would not give way, none does for
	// aloneFor.
	maxCompany  = 2 * time.Millisecond
	longCompany = 5 * time.Millisecond
	aloneFor    = 100 * time.Millisecond
	// aheadBytes is how far the segment is filled with zeros ahead of a batch of at
	// least aheadFrom records: an fsync of bytes that the file has already needs half
	// the time, because where they are and how long the file is does not change.
	aheadBytes = 1 << 20
	aheadFrom  = 4
	// noRoomFor is how long nothing is written ahead after a disk refused it.
	noRoomFor = time.Minute
	// asyncWindow is how long written bytes may stay unsynced with Options.Async.
	asyncWindow = 50 * time.Millisecond
	// retryEvery is the pause between attempts to write what only Later queued.
	retryEvery = 100 * time.Millisecond
	// probeEvery is the pause between attempts to find out whether a disk that
	// refused can be written again, and probeBytes is what it must take.
	probeEvery = time.Second
	probeBytes = 64 << 10
	// publishEvery bounds how often checkpoint and state are written.
	publishEvery = time.Second
)

// Errors that callers tell apart. A failed disk comes as the system's error:
// errors.Is(err, syscall.ENOSPC).
var (
	ErrClosed   = errors.New("ledger: the log is closed")
	ErrTooLarge = fmt.Errorf("ledger: a record may have %d bytes", MaxRecord)
	ErrRemoved  = errors.New("ledger: these records were removed by retention")

	errBacklog = errors.New("ledger: the disk refuses, and no more records can wait for it")
)

// Options of Open. The zero value is usable.
type Options struct {
	// Async: Append returns when the bytes are handed to the operating system; an
	// fsync follows within 100 ms. The default waits for the fsync. A crash of the
	// machine, not of the process, can then lose what the last 100 ms acknowledged.
	Async bool
	// SegmentBytes seals a segment past this size; 64 MiB when 0.
	SegmentBytes int64
	// Now is the clock of checkpoints; time.Now when nil.
	Now func() time.Time

	fs    fileSystem // the disk when nil
	ahead int64      // of tests: fill so far ahead of every batch
}

// Log is the open log. Safe for concurrent use. One process holds it at a time.
type Log struct {
	dir  string
	opt  Options
	fs   fileSystem
	keys keys
	lock *os.File

	wake    chan struct{} // something for the writer to do
	publish chan struct{} // something for the publisher to do
	stopped chan struct{} // the writer has ended
	quiet   chan struct{} // the publisher has ended

	recovered  Recovery
	unfinished []Intent

	readMu sync.Mutex
	hint   cursor // where the last Read from disk ended

	proofs nodes

	mu         sync.Mutex
	closing    bool
	next       *batch // what Append collects
	later      []item // what Later collects
	laterBytes int    // of later
	laterSince time.Time
	laterSeq   uint64 // records ever queued by Later
	laterDone  uint64 // of these, durable
	soon       int    // of later, not written yet, and waited for
	rush       bool   // a Flush waits: do not wait for company
	lost       int    // records of Later that Close could not write
	size       uint64
	segs       []uint64
	recent     recent
	open       intents
	grown      chan struct{} // closed when size or err changes; nil when nobody waits
	err        error
	synced     snapshot // what may be published
	publishErr error

	w writer // the writer goroutine's own, save in Open and Close
}

// Open opens or creates the log in dir (mode 0700), takes its lock, and recovers
// the tail: an incomplete last batch was never acknowledged and is cut off.
//
// A log that is damaged before its tail, or shorter than its published
// checkpoint, is not opened: the error is a *DamagedError. What was recorded must
// be looked at before anything is recorded after it.
func Open(dir string, opt Options) (*Log, error) {
	if opt.SegmentBytes <= 0 {
		opt.SegmentBytes = defaultSegmentBytes
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.fs == nil {
		opt.fs = disk{}
	}
	if err := os.MkdirAll(filepath.Join(dir, segmentsDir), 0o700); err != nil {
		return nil, fmt.Errorf("ledger: make the log's directory: %w", err)
	}
	lock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	l := &Log{
		dir: dir, opt: opt, fs: opt.fs, lock: lock,
		wake: make(chan struct{}, 1), publish: make(chan struct{}, 1),
		stopped: make(chan struct{}), quiet: make(chan struct{}),
		open: intents{},
	}
	if err := l.recover(); err != nil {
		return nil, errors.Join(err, l.w.close(), lock.Close())
	}
	go l.write()
	go l.publisher()
	return l, nil
}

// Append adds one record and returns when it is durable. On any error the
// record is not in the log and will not appear in it later. After a failed
// write or fsync the log repairs itself on the next Append that can.
//
// When ctx ends while the record still waits for its batch, it is withdrawn;
// once its batch is being written, Append waits for what becomes of it. The record
// must not be changed afterwards.
func (l *Log) Append(ctx context.Context, record evidence.Record) (evidence.Entry, error) {
	it, err := newItem(record)
	if err != nil {
		return evidence.Entry{}, err
	}
	if err := ctx.Err(); err != nil {
		return evidence.Entry{}, fmt.Errorf("ledger: append: %w", err)
	}
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return evidence.Entry{}, ErrClosed
	}
	b := l.collect()
	pos := len(b.items)
	b.items = append(b.items, it)
	l.mu.Unlock()
	if pos == 0 { // the writer knows of the batch otherwise
		l.signal()
	}

	select {
	case <-b.done:
	case <-ctx.Done():
		l.mu.Lock()
		if !b.taken {
			b.items[pos].record = nil
			l.mu.Unlock()
			return evidence.Entry{}, fmt.Errorf("ledger: append: %w", ctx.Err())
		}
		l.mu.Unlock()
		<-b.done
	}
	if b.err != nil {
		return evidence.Entry{}, b.err
	}
	return evidence.Entry{Index: b.items[pos].index, LeafHash: it.text, Record: it.record}, nil
}

// Later queues a record for the next batch without waiting. It is for outcomes:
// records whose loss on a crash has a defined meaning (ambiguous). While the
// disk refuses, queued records are kept, up to a bound, and written when it
// recovers; false when the bound is reached and the record was dropped, when it
// is not a record, and after Close. Records of Later stand in the log in the
// order in which they were queued. The record must not be changed afterwards.
func (l *Log) Later(record evidence.Record) bool {
	it, err := newItem(record)
	return err == nil && l.queue(it) == nil
}

// Soon queues a record like Later, and returns when the operating system has it
// and its fsync is under way: a crash of the process does not lose it, one of the
// machine within that fsync can. On an error it is not in the log and will not
// appear in it later. Should the fsync fail, it is kept and written again, as what
// Later queued is. The record must not be changed afterwards.
func (l *Log) Soon(record evidence.Record) error {
	it, err := newItem(record)
	if err != nil {
		return err
	}
	it.handed = &handed{done: make(chan struct{})}
	if err := l.queue(it); err != nil {
		return err
	}
	<-it.handed.done
	return it.handed.err
}

func (l *Log) queue(it item) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closing:
		return ErrClosed
	case len(l.later) >= maxLater || l.laterBytes+len(it.record) > maxLaterBytes:
		return errBacklog
	}
	if it.handed != nil {
		l.soon++
	}
	if len(l.later) == 0 {
		l.laterSince = time.Now()
	}
	if len(l.later) == 0 || l.soon == 1 {
		defer l.signal()
	}
	l.later = append(l.later, it)
	l.laterBytes += len(it.record)
	l.laterSeq++
	return nil
}

// Flush waits until everything queued before is durable, also with
// Options.Async. An error says that it is not yet; what Later queued is kept.
func (l *Log) Flush(ctx context.Context) error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return ErrClosed
	}
	target := l.laterSeq
	for {
		// A batch without records: the writer takes what is queued with it.
		b := l.collect()
		b.flush = true
		l.rush = true
		l.mu.Unlock()
		l.signal()
		select {
		case <-b.done:
		case <-ctx.Done():
			return fmt.Errorf("ledger: flush: %w", ctx.Err())
		}
		if b.err != nil {
			return b.err
		}
		l.mu.Lock()
		if l.laterDone >= target {
			l.mu.Unlock()
			return nil
		}
		if l.closing {
			l.mu.Unlock()
			return ErrClosed
		}
	}
}

// Size is the number of durable records: with Options.Async, of written ones.
func (l *Log) Size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

// First is the index of the oldest record that is still there.
func (l *Log) First() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.segs) == 0 {
		return 0
	}
	return l.segs[0]
}

// Wait returns when Size is greater than n, or with ctx's error.
func (l *Log) Wait(ctx context.Context, n uint64) error {
	for {
		l.mu.Lock()
		if l.size > n {
			l.mu.Unlock()
			return nil
		}
		if l.closing {
			l.mu.Unlock()
			return ErrClosed
		}
		if l.grown == nil {
			l.grown = make(chan struct{})
		}
		grown := l.grown
		l.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
			return fmt.Errorf("ledger: wait for record %d: %w", n, ctx.Err())
		}
	}
}

// Err is nil while the log can be written, else the last failure.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// PublishErr is nil while checkpoints reach their file beside the log. Without
// them the log is whole, but records cut off its end could go unseen.
func (l *Log) PublishErr() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.publishErr
}

// PublicKey is the verifier key of this log's checkpoints, in the note format
// (golang.org/x/mod/sumdb/note).
func (l *Log) PublicKey() string { return l.keys.public }

// Checkpoint is the last signed checkpoint, which covers Size records; nil while
// the log is empty.
func (l *Log) Checkpoint() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.synced.note
}

// Recovered tells what Open found at the tail.
func (l *Log) Recovered() Recovery { return l.recovered }

// Unfinished gives the ids of the actions that had no outcome when the log was
// opened, oldest first: their process ended between intent and outcome. Whoever
// opens the log records what became of them (ambiguous).
func (l *Log) Unfinished() []string {
	ids := make([]string, len(l.unfinished))
	for i, in := range l.unfinished {
		ids[i] = in.ID
	}
	return ids
}

// Intents is Unfinished with what is known of each.
func (l *Log) Intents() []Intent { return append([]Intent(nil), l.unfinished...) }

// Close flushes and releases the lock. Waiting Appends are still served.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return nil
	}
	l.closing = true
	l.announce()
	l.mu.Unlock()
	l.signal()
	<-l.stopped
	close(l.publish)
	<-l.quiet
	err := errors.Join(l.err, l.trim(), l.publishNow(), l.w.close(), l.proofs.close(), l.lock.Close())
	if l.lost > 0 {
		err = errors.Join(fmt.Errorf("ledger: close: %d queued records could not be written", l.lost), err)
	}
	return err
}

// collect gives the batch that Append joins. l.mu is held.
func (l *Log) collect() *batch {
	if l.next == nil {
		l.next = &batch{done: make(chan struct{})}
	}
	return l.next
}

func (l *Log) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// announce wakes those in Wait. l.mu is held.
func (l *Log) announce() {
	if l.grown != nil {
		close(l.grown)
		l.grown = nil
	}
}
