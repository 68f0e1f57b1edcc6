package store

import (
	"context"
	"database/sql"
	"strconv"
	"sync"
)

// engine is a database as the SQL of this package uses it. The text of the SQL
// is one for all engines: what their dialects do not share is not used.
type engine interface {
	// transact runs fn in a transaction and returns when it is durable, or with fn's
	// error, of which nothing is kept. Two transactions that name one lock never run
	// at the same time, on whatever machine; an engine that runs one at a time anyway
	// need not look at them. When ctx ends before fn began, fn never runs. fn may run
	// and be lost, or run again: it must not change anything that the caller sees
	// unless transact returned nil, and must begin anew each time.
	transact(ctx context.Context, locks []lock, fn func(*batch) error) error
	// soon is transact that may return when fn has run and will not run again, with
	// fn's error; settled then waits until it is durable, and may be called again. An
	// engine in which fn can run again after it ran waits.
	soon(ctx context.Context, locks []lock, fn func(*batch) error) (settled func() error, err error)
	// row is the one row of query, asked for when it is scanned; sql.ErrNoRows.
	row(ctx context.Context, query string, args ...any) scanner
	// each calls scan for every row.
	each(ctx context.Context, query string, args []any, scan func(scanner) error) error
	// snapshot runs fn, which only reads, on one moment of the database.
	snapshot(ctx context.Context, fn func(*batch) error) error
	// sweeps says that each reservation takes some old uses along.
	sweeps() bool
}

// lock is a name that transactions agree on. Those that share it run together,
// and with none that does not.
type lock struct {
	name   string
	shared bool
}

func exclusive(parts ...string) lock { return lock{name: joinParts(parts)} }

func shared(parts ...string) lock { return lock{name: joinParts(parts), shared: true} }

// joinParts joins so that no two lists give the same text.
func joinParts(parts []string) string {
	name := ""
	for _, p := range parts {
		name += strconv.Itoa(len(p)) + ":" + p
	}
	return name
}

// moves is the lock of everything that writes transitions: their ids become
// visible in their order, as Moved promises.
var moves = []lock{exclusive("moves")}

// tables is every method of a store that is SQL.
type tables struct {
	engine
	// owner is this process among those that share the database; "" when it has the
	// database alone.
	owner string

	sweep   sweep
	touched sync.Map // key id to the minute (Unix) of the last use that is stored
}

// conn is where the statements of a transaction go.
type conn interface {
	exec(ctx context.Context, query string, args []any) (sql.Result, error)
	query(ctx context.Context, query string, args []any) (*sql.Rows, error)
	one(ctx context.Context, query string, args []any) scanner
}

// batch is the transaction as one operation sees it.
type batch struct {
	ctx context.Context
	on  conn
}

func (b *batch) run(query string, args ...any) error {
	_, err := b.exec(query, args...)
	return err
}

func (b *batch) exec(query string, args ...any) (sql.Result, error) {
	return b.on.exec(b.ctx, query, args)
}

// one is the one row of query; scanning it gives sql.ErrNoRows without one.
func (b *batch) one(query string, args ...any) scanner { return b.on.one(b.ctx, query, args) }

// row scans the one row of query into dest.
func (b *batch) row(query string, args []any, dest ...any) error {
	return b.one(query, args...).Scan(dest...)
}

// each calls scan for every row. The statement is open meanwhile: scan must not
// write.
func (b *batch) each(query string, args []any, scan func(scanner) error) error {
	rows, err := b.on.query(b.ctx, query, args)
	if err != nil {
		return err
	}
	return eachRow(rows, scan)
}

// scanner is a row.
type scanner interface{ Scan(dest ...any) error }

// noRow is the row of a query that could not be asked.
type noRow struct{ err error }

func (r noRow) Scan(...any) error { return r.err }

func eachRow(rows *sql.Rows, scan func(scanner) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
