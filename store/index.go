package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Index answers queries about the evidence log. It follows the log, says where in
// it an event stands, and holds nothing of its own: delete its file, and it is
// rebuilt. It also rebuilds
// itself when the file is damaged, is of another schema, or belongs to another
// log. Its writes are therefore not synced one by one.
//
// Queries may run before and while Follow runs; they see what has been indexed.
type Index struct {
	path string

	db    sync.RWMutex // held for writing while the handles are replaced
	write *sql.DB
	read  *sql.DB

	mu        sync.Mutex
	src       Source // the log, once it is known that the file belongs to it
	cursor    uint64 // records below it are indexed and committed
	advanced  chan struct{}
	following bool
	closed    bool
	err       error
	hurry     chan struct{} // somebody waits in CatchUp
}

// indexSchema is the version of the tables below. Another one in the file means
// a rebuild, not a migration.
const indexSchema = 4

// A block stands for blockSize records of the log. blocks holds what a query needs
// to pass it by, in short rows; columns holds what decides about each event in it.
// The events themselves are read from the log.
const indexTables = `
CREATE TABLE meta (
  id       INTEGER PRIMARY KEY CHECK (id = 1),
  log      TEXT NOT NULL,             -- public key of the log
  position INTEGER NOT NULL,          -- the next record to read
  leaf     TEXT NOT NULL              -- leaf hash of the last one that was read
) STRICT;
INSERT INTO meta VALUES (1, '', 0, '');
CREATE TABLE blocks (
  block     INTEGER PRIMARY KEY,       -- log_index / blockSize
  records   INTEGER NOT NULL,          -- the log's size when it was written
  min_time  INTEGER NOT NULL,          -- microseconds since 1970 UTC
  max_time  INTEGER NOT NULL,
  min_key   BLOB NOT NULL,             -- of the events' ids
  max_key   BLOB NOT NULL,
  tenants   INTEGER NOT NULL,          -- a bit for each value that is in it, by its hash
  kinds     INTEGER NOT NULL,
  tools     INTEGER NOT NULL,
  agents    INTEGER NOT NULL,
  decisions INTEGER NOT NULL,
  reasons   INTEGER NOT NULL,
  states    INTEGER NOT NULL,
  p0 INTEGER NOT NULL, p1 INTEGER NOT NULL, p2 INTEGER NOT NULL, p3 INTEGER NOT NULL,    -- pairSet
  p4 INTEGER NOT NULL, p5 INTEGER NOT NULL, p6 INTEGER NOT NULL, p7 INTEGER NOT NULL,
  p8 INTEGER NOT NULL, p9 INTEGER NOT NULL, p10 INTEGER NOT NULL, p11 INTEGER NOT NULL,
  p12 INTEGER NOT NULL, p13 INTEGER NOT NULL, p14 INTEGER NOT NULL, p15 INTEGER NOT NULL
) STRICT;
CREATE TABLE columns (
  block   INTEGER PRIMARY KEY,
  content BLOB NOT NULL
) STRICT;
`

// OpenIndex opens the index at path, or makes a new one when it is missing or
// cannot be used. Follow fills it.
func OpenIndex(path string) (*Index, error) {
	ix := &Index{path: path, hurry: make(chan struct{}, 1)}
	err := ix.connect()
	if err != nil && (unusable(err) || hasCode(err, sqlite3.SQLITE_ERROR)) {
		// SQLITE_ERROR here is a table that is not there: somebody else's file.
		err = ix.startAfresh()
	}
	if err != nil {
		return nil, err
	}
	return ix, nil
}

// errOtherSchema is the schema of another version of this program.
var errOtherSchema = errors.New("the index has another schema")

// unusable says whether err is about the file's content, so that a rebuild
// helps. A constraint is one: the tables hold what the position says is to come.
func unusable(err error) bool {
	return errors.Is(err, errOtherSchema) ||
		hasCode(err, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_CONSTRAINT)
}

// hasCode says whether err is one of SQLite's primary result codes.
func hasCode(err error, codes ...int) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && slices.Contains(codes, se.Code()&0xff)
}

// connect opens the handles; ix.db is held for writing or ix is not shared yet.
func (ix *Index) connect() error {
	if err := prepareFile(ix.path); err != nil {
		return err
	}
	// NORMAL syncs at checkpoints only: a power failure may take the newest
	// batches along, never the file, and they are read from the log again.
	write, err := openSQL(ix.path, 1, 5*time.Second, "journal_mode(WAL)", "synchronous(NORMAL)", "cache_size(-8000)")
	if err != nil {
		return err
	}
	ctx := context.Background()
	position, err := ix.load(ctx, write)
	if err != nil {
		return errors.Join(fmt.Errorf("open the index %s: %w", ix.path, err), write.Close())
	}
	read, err := openSQL(ix.path, 3, 5*time.Second, "query_only(1)")
	if err != nil {
		return errors.Join(err, write.Close())
	}
	ix.write, ix.read = write, read
	ix.advance(position)
	return nil
}

// load makes the tables in an empty file and reads the position.
func (ix *Index) load(ctx context.Context, db *sql.DB) (position uint64, err error) {
	var version, tables int
	err = db.QueryRowContext(ctx, `SELECT (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)`).Scan(&version, &tables)
	if err != nil {
		return 0, err
	}
	switch {
	case version == 0 && tables == 0:
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return 0, err
		}
		defer tx.Rollback() // after Commit it does nothing
		if _, err := tx.ExecContext(ctx, fmt.Sprintf("%s%s PRAGMA user_version = %d;", indexTables, rollupTables, indexSchema)); err != nil {
			return 0, err
		}
		if err := tx.Commit(); err != nil {
			return 0, err
		}
	case version != indexSchema:
		return 0, errOtherSchema
	}
	err = db.QueryRowContext(ctx, `SELECT position FROM meta WHERE id = 1`).Scan(&position)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, errOtherSchema
	}
	return position, err
}

// startAfresh removes the file and makes a new one.
func (ix *Index) startAfresh() error {
	ix.db.Lock()
	defer ix.db.Unlock()
	if err := ix.disconnect(); err != nil {
		return err
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(ix.path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove an unusable index: %w", err)
		}
	}
	return ix.connect()
}

func (ix *Index) disconnect() error {
	var errs []error
	if ix.read != nil {
		errs = append(errs, ix.read.Close())
	}
	if ix.write != nil {
		errs = append(errs, ix.write.Close())
	}
	ix.read, ix.write = nil, nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the index %s: %w", ix.path, err)
	}
	return nil
}

// attach lets queries read the events of src: the file is about that log.
func (ix *Index) attach(src Source) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.src = src
}

// advance publishes the position.
func (ix *Index) advance(position uint64) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.cursor = position
	if ix.advanced != nil {
		close(ix.advanced)
		ix.advanced = nil
	}
}

// Position is the number of records that are indexed.
func (ix *Index) Position() uint64 {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	return ix.cursor
}

// Err is nil while Follow gets on, else what stops it at the moment.
func (ix *Index) Err() error {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	return ix.err
}

// CatchUp waits until the first n records of the log can be found, or until ctx
// ends. It needs Follow to run.
func (ix *Index) CatchUp(ctx context.Context, n uint64) error {
	for {
		ix.mu.Lock()
		if ix.closed {
			ix.mu.Unlock()
			return errClosed
		}
		if ix.cursor >= n {
			ix.mu.Unlock()
			return nil
		}
		if ix.advanced == nil {
			ix.advanced = make(chan struct{})
		}
		advanced := ix.advanced
		ix.mu.Unlock()
		select {
		case ix.hurry <- struct{}{}:
		default:
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return fmt.Errorf("wait for record %d in the index, which has %d: %w", n, ix.Position(), ctx.Err())
		}
	}
}

// Close ends queries and lets Follow fail. Later calls do nothing.
func (ix *Index) Close() error {
	ix.mu.Lock()
	done := ix.closed
	ix.closed = true
	if ix.advanced != nil {
		close(ix.advanced)
		ix.advanced = nil
	}
	ix.mu.Unlock()
	if done {
		return nil
	}
	ix.db.Lock()
	defer ix.db.Unlock()
	return ix.disconnect()
}
