package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"

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
	return nil
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
	var have string
	var position uint64
	if err := f.conn.QueryRowContext(ctx, `SELECT log, position FROM meta WHERE id = 1`).Scan(&have, &position); err != nil {
		return fmt.Errorf("read the position of the index: %w", err)
	}
	first := f.first()
	switch {
	case position > f.src.Size(), position > 0 && have != id:
		return errAlien
	case position > first:
		last, err := f.src.Read(position-1, 1)
		if err != nil {
			return fmt.Errorf("read record %d of the log: %w", position-1, err)
		}
		var record []byte
		err = f.conn.QueryRowContext(ctx, `SELECT record FROM records WHERE log_index = ?`, position-1).Scan(&record)
		if errors.Is(err, sql.ErrNoRows) {
			return errAlien
		}
		if err != nil {
			return fmt.Errorf("read record %d of the index: %w", position-1, err)
		}
		if len(last) != 1 || last[0].LeafHash != evidence.LeafHash(record).String() {
			return errAlien
		}
	}
	// Retention may have gone on while the index was away.
	position = max(position, first)
	if _, err := f.conn.ExecContext(ctx, `UPDATE meta SET log = ?, position = ? WHERE id = 1`, id, position); err != nil {
		return fmt.Errorf("claim the index for this log: %w", err)
	}
	f.ix.advance(position)
	return nil
}

// first is the oldest record that the log still has.
func (f *follower) first() uint64 {
	if r, ok := f.src.(interface{ First() uint64 }); ok {
		return r.First()
	}
	return 0
}

// forget drops what retention took from the log, so that the index does not
// outgrow it. A crash in between leaves some for the next time.
func (f *follower) forget(ctx context.Context) error {
	first := f.first()
	if first == f.forgotten {
		return nil
	}
	for _, query := range []string{
		`DELETE FROM events WHERE log_index < ?`,
		`DELETE FROM records WHERE log_index < ?`,
		`DELETE FROM blocks WHERE (block + 1) * ` + strconv.Itoa(blockSize) + ` <= ?`,
	} {
		if err := f.exec(ctx, query, int64(first)); err != nil {
			return err
		}
	}
	f.forgotten = first
	return nil
}

// row is what queries filter an event by.
type row struct {
	index   uint64
	c       columns
	time    int64
	state   string
	outcome sql.NullInt64
}

// columns are the members of a record that the index looks at; reading only
// them costs a third of reading the whole event.
type columns struct {
	ID          string        `json:"id"`
	Kind        string        `json:"kind"`
	Time        evidence.Time `json:"time"`
	TenantID    string        `json:"tenant_id"`
	AgentID     string        `json:"agent_id"`
	Tool        string        `json:"tool"`
	Resource    string        `json:"resource"`
	Decision    string        `json:"decision"`
	Enforcement string        `json:"enforcement"`
	Mode        string        `json:"mode"`
	ReasonCode  string        `json:"reason_code"`
}

// late is an outcome whose event is not in the same batch.
type late struct {
	event, state string
	index        uint64
}

// apply writes one batch in one transaction, its position included: a crash
// leaves the batch before it.
func (f *follower) apply(ctx context.Context, entries []evidence.Entry) (err error) {
	rows := make([]row, 0, len(entries))
	byID := make(map[string]int, len(entries))
	var outcomes []late
	for _, e := range entries {
		// A record that this version cannot read is kept, but not found. It must not
		// stop those after it.
		look, err := evidence.Look(e.Record)
		if err != nil {
			continue
		}
		if look.Kind == evidence.KindOutcome {
			if i, ok := byID[look.EventID]; ok {
				rows[i].state = look.State
				rows[i].outcome = sql.NullInt64{Int64: int64(e.Index), Valid: true}
			} else {
				outcomes = append(outcomes, late{event: look.EventID, state: look.State, index: e.Index})
			}
			continue
		}
		var c columns
		if err := jsonv2.Unmarshal(e.Record, &c); err != nil {
			continue
		}
		byID[c.ID] = len(rows)
		rows = append(rows, row{index: e.Index, c: c, time: c.Time.UnixMicro(), state: look.State})
	}

	if err := f.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.exec(context.WithoutCancel(ctx), "ROLLBACK")
		}
	}()
	if err := f.insertRecords(ctx, entries); err != nil {
		return err
	}
	if err := f.insertEvents(ctx, rows); err != nil {
		return err
	}
	for _, o := range outcomes {
		if err := f.exec(ctx, `UPDATE events SET state = ?, outcome = ? WHERE id = ?`, o.state, int64(o.index), o.event); err != nil {
			return err
		}
	}
	if err := f.bound(ctx, rows); err != nil {
		return err
	}
	if err := f.exec(ctx, `UPDATE meta SET position = ? WHERE id = 1`, int64(entries[len(entries)-1].Index+1)); err != nil {
		return err
	}
	return f.exec(ctx, "COMMIT")
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

// insertMany is how many rows one statement inserts; what is left over goes one
// by one.
const insertMany = 16

const (
	recordColumns = 2
	eventColumns  = 14
)

var (
	insertRecord  = "INSERT INTO records VALUES (?, ?)"
	insertRecords = insertRecord + strings.Repeat(", (?, ?)", insertMany-1)
	insertEvent   = "INSERT INTO events VALUES (?" + strings.Repeat(", ?", eventColumns-1) + ")"
	insertEvents  = insertEvent + strings.Repeat(", (?"+strings.Repeat(", ?", eventColumns-1)+")", insertMany-1)
)

func (f *follower) insertRecords(ctx context.Context, entries []evidence.Entry) error {
	args := make([]any, 0, recordColumns*insertMany)
	for i := 0; i < len(entries); {
		query, n := insertRecord, 1
		if len(entries)-i >= insertMany {
			query, n = insertRecords, insertMany
		}
		args = args[:0]
		for _, e := range entries[i : i+n] {
			args = append(args, int64(e.Index), e.Record)
		}
		if err := f.exec(ctx, query, args...); err != nil {
			return err
		}
		i += n
	}
	return nil
}

func (f *follower) insertEvents(ctx context.Context, rows []row) error {
	args := make([]any, 0, eventColumns*insertMany)
	for i := 0; i < len(rows); {
		query, n := insertEvent, 1
		if len(rows)-i >= insertMany {
			query, n = insertEvents, insertMany
		}
		args = args[:0]
		for _, r := range rows[i : i+n] {
			args = append(args, int64(r.index), r.c.ID, r.time, r.c.TenantID, r.c.Kind, r.c.Tool, r.c.AgentID,
				r.c.Decision, r.c.Enforcement, r.c.Mode, r.c.ReasonCode, r.c.Resource, r.state, r.outcome)
		}
		if err := f.exec(ctx, query, args...); err != nil {
			return err
		}
		i += n
	}
	return nil
}

// bound widens the time bounds of the blocks that rows lie in.
func (f *follower) bound(ctx context.Context, rows []row) error {
	for i := 0; i < len(rows); {
		block := rows[i].index / blockSize
		lo, hi := rows[i].time, rows[i].time
		for ; i < len(rows) && rows[i].index/blockSize == block; i++ {
			lo, hi = min(lo, rows[i].time), max(hi, rows[i].time)
		}
		err := f.exec(ctx, `INSERT INTO blocks VALUES (?, ?, ?)
			ON CONFLICT DO UPDATE SET min_time = min(min_time, excluded.min_time), max_time = max(max_time, excluded.max_time)`,
			int64(block), lo, hi)
		if err != nil {
			return err
		}
	}
	return nil
}

// View is an event as queries give it: with its last outcome, and its place in
// the log.
type View struct {
	evidence.Event
	Log LogPosition `json:"log"`
}

// LogPosition is where an event stands in the log.
type LogPosition struct {
	Index    uint64 `json:"index"`
	LeafHash string `json:"leaf_hash"` // base64 (standard) of the RFC 6962 leaf hash of the event's record
}

// MarshalJSON puts log at the end of the event's own members.
func (v View) MarshalJSON() ([]byte, error) {
	// An alias has no methods, so that one which Event may have is not taken for
	// View's own.
	type plain evidence.Event
	return json.Marshal(struct {
		plain
		Log LogPosition `json:"log"`
	}{plain(v.Event), v.Log})
}
