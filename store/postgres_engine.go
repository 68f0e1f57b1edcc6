package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// pgEngine runs transactions on PostgreSQL, at READ COMMITTED under advisory
// locks: what a transaction reads after it has its locks, nobody else changes
// before its end, and everything that was committed under them is seen.
type pgEngine struct {
	cfg *pgconn.Config
	opt PostgresOptions
	db  *sql.DB

	local localLocks // of this process, taken before a connection

	gone  atomic.Pointer[error] // why the database is away; nil while it is not
	ready atomic.Bool           // the schema was seen to fit

	ctx  context.Context // ends with close
	stop context.CancelFunc
	wg   sync.WaitGroup
	mu   sync.Mutex // of closing and starting what wg waits for
	done bool
}

func (e *pgEngine) close() error {
	e.mu.Lock()
	e.done = true
	e.mu.Unlock()
	e.stop()
	e.wg.Wait()
	return e.db.Close()
}

func (e *pgEngine) sweeps() bool { return false }

// begun is a connection on which a transaction runs.
type begun struct {
	*sql.Conn
	ctx  context.Context // of the whole operation; not the caller's
	stop context.CancelFunc
}

// attempts is how often an operation begins, where PostgreSQL said that it was in
// the way of another, or where the connection was found dead before anything was
// asked of it.
const attempts = 5

func (e *pgEngine) transact(ctx context.Context, locks []lock, fn func(*batch) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ids := lockIDs(locks)
	wait, cancel := context.WithTimeout(ctx, e.opt.Wait)
	defer cancel()
	free, err := e.local.take(wait, ids)
	if err != nil {
		return e.waited(ctx, err)
	}
	defer free()
	for attempt := 1; ; attempt++ {
		err, again := e.attempt(ctx, wait, "BEGIN; "+lockSQL(ids), fn)
		if err == nil || !again || attempt == attempts || wait.Err() != nil {
			return err
		}
	}
}

// soon waits: a transaction that another is in the way of runs again.
func (e *pgEngine) soon(ctx context.Context, locks []lock, fn func(*batch) error) (func() error, error) {
	return durable, e.transact(ctx, locks, fn)
}

// durable is the end of what was waited for.
func durable() error { return nil }

// attempt runs fn once. again says that nothing was kept and that it may be tried
// once more.
func (e *pgEngine) attempt(ctx, wait context.Context, begin string, fn func(*batch) error) (err error, again bool) {
	c, err, again := e.begin(ctx, wait, begin)
	if err != nil {
		return err, again
	}
	defer c.stop()
	defer c.Close()
	if err := fn(&batch{ctx: c.ctx, on: pgConn{c.Conn}}); err != nil {
		c.raw("ROLLBACK")
		if inTheWay(err) {
			return err, true
		}
		return e.failed(err), false
	}
	tag, err := c.raw("COMMIT")
	switch {
	case err != nil && inTheWay(err):
		return err, true
	case err != nil:
		// If the connection died here, the server may have committed: the caller is
		// told of a failure, and nothing was done on the strength of it.
		return e.failed(fmt.Errorf("commit: %w", err)), false
	case tag != "COMMIT":
		return fmt.Errorf("commit: the server answered %s", tag), false
	}
	return nil, false
}

// begin gives a connection on which the first statements were run, in one round
// trip: beginning, and taking the locks. Until then nothing is lost by trying
// again, and the caller may leave; from then on the operation has its own time.
func (e *pgEngine) begin(ctx, wait context.Context, statements string) (c *begun, err error, again bool) {
	if why := e.gone.Load(); why != nil {
		return nil, *why, false
	}
	conn, err := e.db.Conn(wait)
	if err != nil {
		if wait.Err() != nil {
			return nil, e.waited(ctx, err), false
		}
		return nil, e.failed(err), false
	}
	if why := e.gone.Load(); why != nil { // while this one stood in line
		_ = conn.Close()
		return nil, *why, false
	}
	own, stop := context.WithTimeout(context.WithoutCancel(ctx), e.opt.Timeout)
	c = &begun{Conn: conn, ctx: own, stop: stop}
	if _, err := c.raw(statements); err != nil {
		_ = conn.Close()
		stop()
		if inTheWay(err) {
			return nil, err, true
		}
		var pg *pgconn.PgError
		if own.Err() == nil && !errors.As(err, &pg) {
			return nil, describe(err), true // a connection that had died in the pool
		}
		return nil, e.failed(err), false
	}
	return c, nil, false
}

// raw runs statements as they are and gives the tag of the last. A connection on
// which that fails is not used again.
func (c *begun) raw(statements string) (tag string, err error) {
	bad := c.Raw(func(dc any) error {
		var t pgconn.CommandTag
		if t, err = dc.(*pgSession).exec(c.ctx, statements); err != nil {
			return driver.ErrBadConn
		}
		tag = t.String()
		return nil
	})
	if err == nil {
		err = bad
	}
	return tag, err
}

func (e *pgEngine) row(ctx context.Context, query string, args ...any) scanner {
	return &pgRow{e: e, ctx: ctx, query: query, args: args}
}

// pgRow asks when it is scanned, so that its time is bounded and its connection
// is given back.
type pgRow struct {
	e     *pgEngine
	ctx   context.Context
	query string
	args  []any
}

func (r *pgRow) Scan(dest ...any) error {
	return r.e.read(r.ctx, func(b *batch) error { return b.one(r.query, r.args...).Scan(dest...) })
}

func (e *pgEngine) each(ctx context.Context, query string, args []any, scan func(scanner) error) error {
	return e.read(ctx, func(b *batch) error { return b.each(query, args, scan) })
}

// read runs fn, which asks one question, without a transaction.
func (e *pgEngine) read(ctx context.Context, fn func(*batch) error) error {
	return e.ask(ctx, fn, true)
}

// write runs fn, which is one statement, without a transaction. Should its connection
// turn out to be dead it runs again, so fn has to be such that a second run does
// nothing where the first was done and only its answer was lost.
func (e *pgEngine) write(ctx context.Context, fn func(*batch) error) error {
	for attempt := 1; ; attempt++ {
		err := e.ask(ctx, fn, attempt == attempts)
		if attempt == attempts || !errors.Is(err, errBroken) {
			return err
		}
	}
}

// ask is either of them, once. A connection that broke is no sign yet that the
// database is away unless this is the last attempt.
func (e *pgEngine) ask(ctx context.Context, fn func(*batch) error, last bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if why := e.gone.Load(); why != nil {
		return *why
	}
	wait, cancel := context.WithTimeout(ctx, e.opt.Wait)
	defer cancel()
	conn, err := e.db.Conn(wait)
	if err != nil {
		if wait.Err() != nil {
			return e.waited(ctx, err)
		}
		return e.failed(err)
	}
	defer conn.Close()
	own, stop := context.WithTimeout(ctx, e.opt.Timeout)
	defer stop()
	err = fn(&batch{ctx: own, on: pgConn{conn}})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if !last && errors.Is(err, errBroken) {
		return err
	}
	return e.failed(err)
}

func (e *pgEngine) snapshot(ctx context.Context, fn func(*batch) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, e.opt.Wait)
	defer cancel()
	for attempt := 1; ; attempt++ {
		err, again := e.attempt(ctx, wait, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", fn)
		if err == nil || !again || attempt == attempts || wait.Err() != nil {
			return err
		}
	}
}

// pgConn puts the questions of a batch to one connection.
type pgConn struct{ c *sql.Conn }

func (c pgConn) exec(ctx context.Context, query string, args []any) (sql.Result, error) {
	return c.c.ExecContext(ctx, numbered(query), storable(args)...)
}

func (c pgConn) query(ctx context.Context, query string, args []any) (*sql.Rows, error) {
	return c.c.QueryContext(ctx, numbered(query), storable(args)...)
}

func (c pgConn) one(ctx context.Context, query string, args []any) scanner {
	return c.c.QueryRowContext(ctx, numbered(query), storable(args)...)
}

var numberedQueries sync.Map // query to query; there are as many as in the source

// numbered writes ? and ?2 as $1 and $2. No query of this package has a question
// mark that is anything else.
func numbered(query string) string {
	if q, ok := numberedQueries.Load(query); ok {
		return q.(string)
	}
	var b strings.Builder
	n := 0
	for i := 0; i < len(query); i++ {
		if query[i] != '?' {
			b.WriteByte(query[i])
			continue
		}
		b.WriteByte('$')
		if i+1 == len(query) || query[i+1] < '0' || query[i+1] > '9' {
			n++
			b.WriteString(strconv.Itoa(n))
		}
	}
	numberedQueries.Store(query, b.String())
	return b.String()
}

// storable writes what PostgreSQL's text cannot hold (NUL, bytes that are no
// UTF-8) as what it can. Two keys of a limit that differ in nothing else then share
// it, which can only refuse more.
func storable(args []any) []any {
	for i, a := range args {
		s, ok := a.(string)
		if !ok {
			continue
		}
		if t := strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\u2400"); t != s {
			args = slices.Clone(args)
			args[i] = t
		}
	}
	return args
}

// lockID is a lock as PostgreSQL knows it. Two names that fall together wait for
// each other without need, and that is all.
type lockID struct {
	id     int64
	shared bool
}

// lockIDs sorts, so that whoever needs several takes them in one order, and leaves
// out what is there twice.
func lockIDs(locks []lock) []lockID {
	list := make([]lockID, len(locks))
	for i, l := range locks {
		h := fnv.New64a()
		_, _ = h.Write([]byte("actpass " + l.name)) // never fails
		list[i] = lockID{int64(h.Sum64()), l.shared}
	}
	slices.SortFunc(list, func(a, b lockID) int {
		switch {
		case a.id != b.id && a.id < b.id:
			return -1
		case a.id != b.id:
			return 1
		case a.shared == b.shared:
			return 0
		case a.shared:
			return 1 // the stronger one stays
		}
		return -1
	})
	return slices.CompactFunc(list, func(a, b lockID) bool { return a.id == b.id })
}

func lockSQL(ids []lockID) string {
	var b strings.Builder
	for _, l := range ids {
		b.WriteString("SELECT pg_advisory_xact_lock")
		if l.shared {
			b.WriteString("_shared")
		}
		b.WriteString("(" + strconv.FormatInt(l.id, 10) + "); ")
	}
	return b.String()
}

// inTheWay says that the server undid a transaction because of others: it could
// not be put in an order with them, or waited too long for a lock.
func inTheWay(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "40001" || pg.Code == "40P01" || pg.Code == "55P03")
}

// waited is the error of an operation that did not get so far as to begin.
func (e *pgEngine) waited(ctx context.Context, _ error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if why := e.gone.Load(); why != nil {
		return *why
	}
	return errNoConn
}

// failed looks at an error: one that says that the database does not answer makes
// everybody stop asking, but for one.
func (e *pgEngine) failed(err error) error {
	if err == nil || !isAway(err) {
		return err
	}
	err = describe(err)
	e.away(err)
	return err
}

// isAway tells a database that does not answer from one that says no.
func isAway(err error) bool {
	if errors.Is(err, ErrAway) {
		return true
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		// Connection exceptions, and the server that shuts down or starts.
		return strings.HasPrefix(pg.Code, "08") || strings.HasPrefix(pg.Code, "57P")
	}
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, errBroken) ||
		pgconn.Timeout(err) || isNet(err)
}

// away notes that the database does not answer, and asks until it does.
func (e *pgEngine) away(why error) {
	if !e.gone.CompareAndSwap(nil, &why) {
		return
	}
	e.mu.Lock()
	if e.done {
		e.mu.Unlock()
		return
	}
	e.wg.Go(e.askAgain)
	e.mu.Unlock()
	e.opt.Changed(why)
}

func (e *pgEngine) askAgain() {
	// What is idle in the pool is most likely dead.
	e.db.SetMaxIdleConns(0)
	e.db.SetMaxIdleConns(e.opt.Conns)
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-time.After(250*time.Millisecond + rand.N(500*time.Millisecond)):
		}
		if err := e.prepare(e.ctx); err != nil {
			// Only what a human must see: everybody knows already that it is away.
			if !errors.Is(err, ErrAway) {
				e.gone.Store(new(fmt.Errorf("%w: %w", ErrAway, err)))
			}
			continue
		}
		e.gone.Store(nil)
		e.opt.Changed(nil)
		return
	}
}
