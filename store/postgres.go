package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/notify"
)

// ErrAway is in the chain of every error that means that PostgreSQL did not
// answer, or not in time. Whether a write that ends with it was kept is not known.
var ErrAway = errors.New("the database does not answer")

// PostgresOptions of OpenPostgres. The zero value is usable by one process alone.
type PostgresOptions struct {
	// Owner names this process among those that share the database, the same after
	// a restart: what it took and had not recorded is its own to mend. "postgres"
	// when empty.
	Owner string
	// Conns bounds the connections of this process, but for the one that listens
	// while calls are held; 8 when 0.
	Conns int
	// Connect bounds making a connection, Wait the time that an operation stands in
	// line for one and for those of this process before it, and Timeout each operation
	// from then on; 2, 10 and 3 s when 0. Who stands in line when the database goes
	// away is sent away at once.
	Connect, Wait, Timeout time.Duration
	// Idle is how long an unused connection is kept; 1 min when 0.
	Idle time.Duration
	// Changed hears when the database goes away (err says why) and when it is back
	// (nil). It must not block.
	Changed func(err error)
}

func (o *PostgresOptions) defaults() {
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	set(&o.Connect, 2*time.Second)
	set(&o.Wait, 10*time.Second)
	set(&o.Timeout, 3*time.Second)
	set(&o.Idle, time.Minute)
	if o.Owner == "" {
		o.Owner = "postgres"
	}
	if o.Conns <= 0 {
		o.Conns = 8
	}
	if o.Changed == nil {
		o.Changed = func(error) {}
	}
}

// Postgres is the gate.Store that several sidecars share. A write is committed
// before its method returns nil; how durable that is, is the server's
// synchronous_commit.
//
// Nothing waits for a database that is away: after the first failure every
// operation fails at once with ErrAway, while one question in about half a second
// asks whether it is back.
type Postgres struct {
	*tables
	pg      *pgEngine
	closing sync.Once
	closed  error
}

var (
	_ gate.Store    = (*Postgres)(nil)
	_ notify.Outbox = (*Postgres)(nil)
)

// OpenPostgres connects to dsn, a URL or key=value string as libpq takes it, and
// brings the schema up to date. A database that is away is no error: it is asked
// until it answers. A schema that this program cannot work on is one, and so is a
// role that may not do what is needed.
func OpenPostgres(ctx context.Context, dsn string, opt PostgresOptions) (*Postgres, error) {
	opt.defaults()
	cfg, err := parseDSN(dsn, &opt)
	if err != nil {
		return nil, err
	}
	e := newPgEngine(cfg, opt)
	if err := e.prepare(ctx); err != nil {
		if !errors.Is(err, ErrAway) {
			return nil, errors.Join(err, e.close())
		}
		e.away(err)
	}
	p := &Postgres{tables: &tables{engine: e, owner: opt.Owner}, pg: e}
	e.wg.Go(func() { p.tend(e.ctx) })
	return p, nil
}

// parseDSN never says what the dsn is: it holds a password.
func parseDSN(dsn string, opt *PostgresOptions) (*pgconn.Config, error) {
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New("the dsn of the database is not one that PostgreSQL takes: write postgres://user:password@host:5432/database, or the same as host= user= dbname= pairs")
	}
	if cfg.ConnectTimeout <= 0 || cfg.ConnectTimeout > opt.Connect {
		cfg.ConnectTimeout = opt.Connect
	}
	ms := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	for name, value := range map[string]string{
		"application_name": "actpass",
		// The server's own bounds, should this process be stopped or cut off while it
		// holds locks.
		"statement_timeout": ms(opt.Timeout), "lock_timeout": ms(opt.Timeout * 2 / 3),
		"idle_in_transaction_session_timeout": ms(2 * opt.Timeout),
	} {
		if _, said := cfg.RuntimeParams[name]; !said {
			cfg.RuntimeParams[name] = value
		}
	}
	return cfg, nil
}

func newPgEngine(cfg *pgconn.Config, opt PostgresOptions) *pgEngine {
	e := &pgEngine{cfg: cfg, opt: opt, db: sql.OpenDB(pgDriver{cfg})}
	e.ctx, e.stop = context.WithCancel(context.Background())
	e.db.SetMaxOpenConns(opt.Conns)
	e.db.SetMaxIdleConns(opt.Conns)
	e.db.SetConnMaxIdleTime(opt.Idle)
	e.db.SetConnMaxLifetime(30 * time.Minute)
	return e
}

// Ping says whether the database answers and can be written.
func (p *Postgres) Ping(ctx context.Context) error {
	return p.pg.transact(ctx, nil, func(b *batch) error {
		var readOnly string
		if err := b.row(`SHOW transaction_read_only`, nil, &readOnly); err != nil {
			return err
		}
		if readOnly != "off" {
			return errors.New("the database is read only: the dsn names a standby")
		}
		return nil
	})
}

// Clock is the database's own time, which all who share it can count by.
func (p *Postgres) Clock(ctx context.Context) (time.Time, error) {
	var now int64
	if err := p.row(ctx, `SELECT `+dbNow).Scan(&now); err != nil {
		return time.Time{}, fmt.Errorf("ask for the time: %w", err)
	}
	return fromMicros(now), nil
}

// Close ends the connections. Later calls give the first answer.
func (p *Postgres) Close() error {
	p.closing.Do(func() { p.closed = p.pg.close() })
	return p.closed
}

// describe is err as one that says that the database is away. Contexts are not in
// its chain: it was this package that had no patience, not the caller.
func describe(err error) error {
	if err == nil || errors.Is(err, ErrAway) {
		return err
	}
	return fmt.Errorf("%w: %s", ErrAway, err.Error())
}

// isNet says that a connection broke.
func isNet(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

var errNoConn = fmt.Errorf("%w: no connection was free in time", ErrAway)
