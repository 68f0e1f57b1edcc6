package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/notify"
)

// Options of OpenSQLite. The zero value is usable.
type Options struct {
	// BusyTimeout is how long to wait for another process that writes (a command
	// line beside a running sidecar); 5 s when 0.
	BusyTimeout time.Duration
	// Readers is how many connections answer reads; 4 when 0.
	Readers int
}

// SQLite is the embedded gate.Store. Writes go through one connection and are
// grouped: all that wait share one transaction and its fsync. Reads have their
// own connections and never wait for a write. A write is in the file, and the
// file on the disk, before its method returns nil.
type SQLite struct {
	*tables
	path  string
	write *sql.DB
	read  *sql.DB
	w     *writer

	closing sync.Once
	closed  error
}

var (
	_ gate.Store    = (*SQLite)(nil)
	_ notify.Outbox = (*SQLite)(nil)
)

// Blocked is how long commits have taken so far, which is mostly waiting for the
// disk in system calls that hold a processor.
func (s *SQLite) Blocked() time.Duration { return time.Duration(s.w.blocked.Load()) }

// OpenSQLite opens or creates the database at path (mode 0600, its directory
// 0700 when it is made here) and brings its schema up to date. A database of a
// newer schema is refused.
func OpenSQLite(path string, opt Options) (*SQLite, error) {
	if opt.BusyTimeout <= 0 {
		opt.BusyTimeout = 5 * time.Second
	}
	if opt.Readers <= 0 {
		opt.Readers = 4
	}
	if err := prepareFile(path); err != nil {
		return nil, err
	}
	write, err := openSQL(path, 1, opt.BusyTimeout,
		"journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)")
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	if err := migrateSQLite(ctx, write, path); err != nil {
		return nil, errors.Join(err, write.Close())
	}
	w, err := startWriter(ctx, write)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s for writing: %w", path, err), write.Close())
	}
	read, err := openSQL(path, opt.Readers, opt.BusyTimeout, "query_only(1)")
	if err != nil {
		return nil, errors.Join(err, w.stop(), write.Close())
	}
	return &SQLite{tables: &tables{engine: sqliteEngine{w: w, read: &reader{db: read}}}, path: path, write: write, read: read, w: w}, nil
}

// prepareFile makes the file before SQLite does, so that it never exists with a
// wider mode; the write-ahead log and its index inherit the mode.
func prepareFile(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of the database: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("look at the database: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		if err := f.Chmod(0o600); err != nil {
			return fmt.Errorf("close %s to other users: %w", path, err)
		}
	}
	if st.Size() > 0 {
		return nil
	}
	// New: its name must survive a power failure too.
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open the directory of the database: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// openSQL opens a pool of conns connections that set pragmas first.
func openSQL(path string, conns int, busy time.Duration, pragmas ...string) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", path, err)
	}
	// busy_timeout first: switching to WAL may itself have to wait.
	q := url.Values{
		"_pragma": append([]string{fmt.Sprintf("busy_timeout(%d)", busy.Milliseconds())}, pragmas...),
		"_txlock": {"immediate"},
	}
	u := url.URL{Scheme: "file", Path: abs, RawQuery: q.Encode()}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// Ping says whether the database answers and can be written: it takes and
// gives back the write lock.
func (s *SQLite) Ping(ctx context.Context) error {
	if err := s.w.do(ctx, func(*batch) error { return nil }); err != nil {
		return fmt.Errorf("write to %s: %w", s.path, err)
	}
	var one int
	if err := s.read.QueryRowContext(ctx, "SELECT 1 FROM sqlite_schema LIMIT 1").Scan(&one); err != nil {
		return fmt.Errorf("read from %s: %w", s.path, err)
	}
	return nil
}

// Close waits for writes that are under way, refuses new ones, and folds the
// write-ahead log into the file. Later calls give the first answer.
func (s *SQLite) Close() error {
	s.closing.Do(func() {
		// Readers first: the last connection to close is the one that checkpoints.
		s.closed = errors.Join(s.read.Close(), s.w.stop(), s.write.Close())
		if s.closed != nil {
			s.closed = fmt.Errorf("close %s: %w", s.path, s.closed)
		}
	})
	return s.closed
}

// sqliteEngine runs one transaction at a time, so that locks are for free.
type sqliteEngine struct {
	w    *writer
	read *reader
}

func (e sqliteEngine) transact(ctx context.Context, _ []lock, fn func(*batch) error) error {
	return e.w.do(ctx, fn)
}

func (e sqliteEngine) soon(ctx context.Context, _ []lock, fn func(*batch) error) (func() error, error) {
	return e.w.soon(ctx, fn)
}

func (e sqliteEngine) row(ctx context.Context, query string, args ...any) scanner {
	st, err := e.read.stmt(ctx, query)
	switch {
	case err != nil:
		return noRow{err}
	case st == nil:
		return e.read.db.QueryRowContext(ctx, query, args...)
	}
	return st.QueryRowContext(ctx, args...)
}

func (e sqliteEngine) each(ctx context.Context, query string, args []any, scan func(scanner) error) error {
	rows, err := e.read.query(ctx, query, args)
	if err != nil {
		return err
	}
	return eachRow(rows, scan)
}

func (e sqliteEngine) snapshot(ctx context.Context, fn func(*batch) error) error {
	tx, err := e.read.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // it wrote nothing
	return fn(&batch{ctx: ctx, on: txConn{tx}})
}

func (sqliteEngine) sweeps() bool { return true }

// txConn is a transaction of database/sql as a conn.
type txConn struct{ tx *sql.Tx }

func (c txConn) exec(ctx context.Context, query string, args []any) (sql.Result, error) {
	return c.tx.ExecContext(ctx, query, args...)
}

func (c txConn) query(ctx context.Context, query string, args []any) (*sql.Rows, error) {
	return c.tx.QueryContext(ctx, query, args...)
}

func (c txConn) one(ctx context.Context, query string, args []any) scanner {
	return c.tx.QueryRowContext(ctx, query, args...)
}
