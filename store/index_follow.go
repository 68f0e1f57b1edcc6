package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// Source is the log that an Index follows; ledger.Log is one. A source that also
// has PublicKey() string or First() uint64 is asked for them: the first tells two
// logs apart, the second is the oldest record that retention left.
type Source interface {
	// Read gives up to max entries from index from, in order.
	Read(from uint64, max int) ([]evidence.Entry, error)
	// Size is the number of records.
	Size() uint64
	// Wait returns when Size is greater than n, or with ctx's error.
	Wait(ctx context.Context, n uint64) error
}

const (
	// batchRecords bounds one transaction of the index.
	batchRecords = 2000
	// followPause is the least time between two batches while the log grows slower
	// than batches fill: it lets records collect, so that a busy sidecar spends its
	// processor on calls. CatchUp cuts it short.
	followPause = 250 * time.Millisecond
	// firstRetry is the pause after a failure; it doubles with each that follows.
	firstRetry = 40 * time.Millisecond
)

// Follow keeps the index up to date with src until ctx ends, whose error it then
// returns. What else goes wrong is shown by Err and tried again, because a
// follower that gives up is a dashboard that lies.
func (ix *Index) Follow(ctx context.Context, src Source) error {
	ix.mu.Lock()
	if ix.following {
		ix.mu.Unlock()
		return errors.New("follow the log: this index follows one already")
	}
	ix.following = true
	ix.mu.Unlock()
	defer func() {
		ix.mu.Lock()
		ix.following = false
		ix.mu.Unlock()
	}()

	f := &follower{ix: ix, src: src}
	defer f.end()
	backoff := firstRetry
	for {
		err := f.run(ctx, func() { backoff = firstRetry; ix.setErr(nil) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		ix.mu.Lock()
		closed := ix.closed
		ix.mu.Unlock()
		if closed {
			return errClosed
		}
		f.end()
		if unusable(err) {
			if again := ix.startAfresh(); again != nil {
				err = errors.Join(err, again)
			}
		}
		ix.setErr(err)
		select {
		case <-time.After(backoff):
			backoff = min(2*backoff, 5*time.Second)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (ix *Index) setErr(err error) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.err = err
}

// follower is one run of Follow.
type follower struct {
	ix    *Index
	src   Source
	conn  *sql.Conn
	stmts map[string]*sql.Stmt

	forgotten uint64 // what first was when forget ran

	rolls  *rollup
	blocks map[uint64]*block // the newest, and those that outcomes in this batch fell into
	places map[eventKey]place
}

// run follows until something fails. progress is called after every batch.
func (f *follower) run(ctx context.Context, progress func()) error {
	if err := f.begin(ctx); err != nil {
		return err
	}
	if err := f.align(ctx); err != nil {
		return err
	}
	progress()
	for {
		from := f.ix.Position()
		if err := f.src.Wait(ctx, from); err != nil {
			return err
		}
		began := time.Now()
		// Full batches follow each other at once; each leaves room for the calls
		// that made it necessary.
		entries, err := f.src.Read(from, batchRecords)
		if err != nil {
			return fmt.Errorf("read the log from record %d: %w", from, err)
		}
		if len(entries) == 0 {
			return fmt.Errorf("read the log from record %d: it has %d, and gave none", from, f.src.Size())
		}
		if err := f.apply(ctx, entries); err != nil {
			return fmt.Errorf("index from record %d: %w", from, err)
		}
		if err := f.forget(ctx); err != nil {
			return fmt.Errorf("forget what the log no longer has: %w", err)
		}
		f.ix.advance(entries[len(entries)-1].Index + 1)
		progress()
		if len(entries) == batchRecords {
			continue
		}
		if err := f.pause(ctx, followPause-time.Since(began)); err != nil {
			return err
		}
	}
}

// pause waits for d, or for somebody in a hurry.
func (f *follower) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-f.ix.hurry:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

func (f *follower) begin(ctx context.Context) error {
	f.ix.db.RLock()
	defer f.ix.db.RUnlock()
	if f.ix.write == nil {
		return errClosed
	}
	conn, err := f.ix.write.Conn(ctx)
	if err != nil {
		return fmt.Errorf("open the index for writing: %w", err)
	}
	f.conn, f.stmts = conn, map[string]*sql.Stmt{}
	f.blocks, f.places = nil, nil
	f.rolls, err = loadRollup(ctx, conn, f.exec)
	return err
}

func (f *follower) end() {
	if f.conn == nil {
		return
	}
	for _, st := range f.stmts {
		st.Close()
	}
	f.conn.Close()
	f.conn = nil
}

// errAlien says that the index is not of this log.
var errAlien = fmt.Errorf("%w: it belongs to another log, or is ahead of this one", errOtherSchema)

// align makes sure that the index is a prefix of this log: same key, not longer,
// and the same last record. If not, the caller rebuilds.
func (f *follower) align(ctx context.Context) error {
	var id string
	if k, ok := f.src.(interface{ PublicKey() string }); ok {
		id = k.PublicKey()
	}
	var have, leaf string
	var position uint64
	if err := f.conn.QueryRowContext(ctx, `SELECT log, position, leaf FROM meta WHERE id = 1`).Scan(&have, &position, &leaf); err != nil {
		return fmt.Errorf("read the position of the index: %w", err)
	}
	first := firstOf(f.src)
	switch {
	case position > f.src.Size(), position > 0 && have != id:
		return errAlien
	case position > first:
		last, err := f.src.Read(position-1, 1)
		if err != nil {
			return fmt.Errorf("read record %d of the log: %w", position-1, err)
		}
		b, err := f.block(ctx, (position-1)/blockSize)
		if err != nil {
			return err
		}
		if len(last) != 1 || last[0].LeafHash != leaf || b.end != position {
			return errAlien
		}
	}
	// Retention may have gone on while the index was away.
	position = max(position, first)
	if _, err := f.conn.ExecContext(ctx, `UPDATE meta SET log = ?, position = ? WHERE id = 1`, id, position); err != nil {
		return fmt.Errorf("claim the index for this log: %w", err)
	}
	f.ix.attach(f.src)
	f.ix.advance(position)
	return nil
}

// firstOf is the oldest record that the log still has.
func firstOf(src Source) uint64 {
	if r, ok := src.(interface{ First() uint64 }); ok {
		return r.First()
	}
	return 0
}

// forget drops what retention took from the log, so that the index does not
// outgrow it. A crash in between leaves some for the next time.
func (f *follower) forget(ctx context.Context) error {
	first := firstOf(f.src)
	if first == f.forgotten {
		return nil
	}
	for _, table := range []string{"blocks", "columns"} {
		if err := f.exec(ctx, `DELETE FROM `+table+` WHERE (block + 1) * `+strconv.Itoa(blockSize)+` <= ?`, int64(first)); err != nil {
			return err
		}
	}
	if err := f.rolls.forget(ctx); err != nil {
		return err
	}
	for number, b := range f.blocks {
		if (number+1)*blockSize <= first {
			for i := range b.rows {
				delete(f.places, b.rows[i].key)
			}
			delete(f.blocks, number)
		}
	}
	f.forgotten = first
	return nil
}

// apply writes one batch in one transaction, its position included: a crash
// leaves the batch before it.
func (f *follower) apply(ctx context.Context, entries []evidence.Entry) (err error) {
	if err := f.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.blocks, f.places, f.rolls = nil, nil, nil // they are ahead of the file; begin reads them again
			_ = f.exec(context.WithoutCancel(ctx), "ROLLBACK")
		}
	}()
	var r reading
	for i := range entries {
		if err := f.take(ctx, &entries[i], &r); err != nil {
			return err
		}
	}
	if err := f.keep(ctx, keepBlocks); err != nil {
		return err
	}
	if err := f.rolls.flush(ctx); err != nil {
		return err
	}
	last := entries[len(entries)-1]
	if err := f.exec(ctx, `UPDATE meta SET position = ?, leaf = ? WHERE id = 1`, int64(last.Index+1), last.LeafHash); err != nil {
		return err
	}
	return f.exec(ctx, "COMMIT")
}

// keepBlocks is how many blocks stay in memory, so that an outcome finds its
// event there; maxBlocks bounds what outcomes of old events may add in a batch.
const (
	keepBlocks = 16
	maxBlocks  = 128
)

// place is where an event stands in the blocks in memory.
type place struct {
	block *block
	row   int
}

// take puts one record into its block.
func (f *follower) take(ctx context.Context, e *evidence.Entry, r *reading) error {
	b, err := f.block(ctx, e.Index/blockSize)
	if err != nil {
		return err
	}
	b.end, b.dirty = e.Index+1, true
	if !r.read(e.Record) {
		// A record that this version cannot read is not found. It must not stop
		// those after it.
		return nil
	}
	if !r.outcome() {
		row := b.add(e.Index, r)
		f.rolls.add(b, row)
		f.places[row.key] = place{b, len(b.rows) - 1}
		return nil
	}
	key := keyOf(r.of)
	at, ok := f.places[key]
	if !ok {
		if at, ok, err = f.find(ctx, key); err != nil || !ok {
			return err
		}
	}
	at.block.settle(&at.block.rows[at.row], e.Index, r)
	return nil
}

// block gives the block of that number, from memory, the file, or new.
func (f *follower) block(ctx context.Context, number uint64) (*block, error) {
	if b := f.blocks[number]; b != nil {
		return b, nil
	}
	if len(f.blocks) >= maxBlocks {
		if err := f.keep(ctx, keepBlocks); err != nil {
			return nil, err
		}
	}
	b := newBlock(number)
	var content []byte
	var end int64
	err := f.conn.QueryRowContext(ctx, `SELECT b.records, c.content FROM blocks b JOIN columns c USING (block) WHERE b.block = ?`, int64(number)).Scan(&end, &content)
	switch {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return nil, err
	default:
		if b, err = decodeBlock(number, content); err != nil {
			return nil, err
		}
		b.end = uint64(end)
		b.know()
	}
	if f.blocks == nil {
		f.blocks, f.places = map[uint64]*block{}, map[eventKey]place{}
	}
	f.blocks[number] = b
	for i := range b.rows {
		f.places[b.rows[i].key] = place{b, i}
	}
	return b, nil
}

// find looks for an event that is not in memory, in the newest blocks first.
func (f *follower) find(ctx context.Context, key eventKey) (place, bool, error) {
	rows, err := f.conn.QueryContext(ctx, `SELECT block FROM blocks WHERE min_key <= ? AND max_key >= ? ORDER BY block DESC`, key[:], key[:])
	if err != nil {
		return place{}, false, err
	}
	var candidates []uint64
	err = eachRow(rows, func(s scanner) error {
		var n int64
		err := s.Scan(&n)
		candidates = append(candidates, uint64(n))
		return err
	})
	if err != nil {
		return place{}, false, err
	}
	for _, n := range candidates {
		if f.blocks[n] != nil {
			continue
		}
		b, err := f.block(ctx, n)
		if err != nil {
			return place{}, false, err
		}
		if at, ok := f.places[key]; ok && at.block == b {
			return at, true, nil
		}
	}
	return place{}, false, nil
}

// keep writes what has changed, and leaves the n newest blocks in memory.
func (f *follower) keep(ctx context.Context, n int) error {
	numbers := slices.Sorted(maps.Keys(f.blocks))
	for i, number := range numbers {
		b := f.blocks[number]
		if b.dirty {
			s := b.summary()
			args := []any{int64(number), int64(b.end), s.minTime, s.maxTime, s.minKey[:], s.maxKey[:]}
			for _, m := range s.masks {
				args = append(args, int64(m))
			}
			for _, m := range s.pairs {
				args = append(args, int64(m))
			}
			if err := f.exec(ctx, `INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?, ?`+strings.Repeat(", ?", numMasked+pairWords)+`)`, args...); err != nil {
				return err
			}
			if err := f.exec(ctx, `INSERT OR REPLACE INTO columns VALUES (?, ?)`, int64(number), b.encode()); err != nil {
				return err
			}
			b.dirty = false
		}
		if i < len(numbers)-n {
			for i := range b.rows {
				delete(f.places, b.rows[i].key)
			}
			delete(f.blocks, number)
		}
	}
	return nil
}

func (f *follower) exec(ctx context.Context, query string, args ...any) error {
	st := f.stmts[query]
	if st == nil {
		var err error
		if st, err = f.conn.PrepareContext(ctx, query); err != nil {
			return err
		}
		f.stmts[query] = st
	}
	_, err := st.ExecContext(ctx, args...)
	return err
}
