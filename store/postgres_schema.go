package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/postgres/*.sql
var postgresMigrations embed.FS

// postgresSchema is the newest migration.
const postgresSchema = 7

// prepare sees that the database answers, that it can be written, and that its
// schema fits.
func (e *pgEngine) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.opt.Connect+e.opt.Timeout)
	defer cancel()
	conn, err := e.db.Conn(ctx)
	if err != nil {
		return e.unready("connect to the database", err)
	}
	defer conn.Close()
	if e.ready.Load() {
		return e.unready("ask the database", conn.PingContext(ctx))
	}
	have, oldest, err := schemaVersion(ctx, conn)
	if err != nil {
		return e.unready("read the schema version of the database", err)
	}
	if have > postgresSchema && oldest > postgresSchema {
		return fmt.Errorf("the database has schema version %d, which programs that know less than version %d cannot work on, and this one knows version %d: start the newer program",
			have, oldest, postgresSchema)
	}
	if have < postgresSchema {
		if err := e.migrate(e.ctx); err != nil {
			return err
		}
	}
	e.ready.Store(true)
	return nil
}

func (e *pgEngine) unready(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case isAway(err):
		return describe(fmt.Errorf("%s: %w", what, err))
	}
	return fmt.Errorf("%s: %w", what, err)
}

// schemaVersion is the newest migration that was applied, and the oldest program
// that may work on it; zeros for a new database.
func schemaVersion(ctx context.Context, conn *sql.Conn) (have, oldest int64, err error) {
	err = conn.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&have)
	if err == nil && have > 0 {
		err = conn.QueryRowContext(ctx, `SELECT max(oldest) FROM schema_floor`).Scan(&oldest)
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42P01" { // no such table
		return 0, 0, nil
	}
	return have, oldest, err
}

// migrationLock is that of all migrations, of every process.
const migrationLock = 0x616374706173732d // "actpass-"

// migrate runs with time-outs of its own: it may wait for another sidecar that is
// at it, and a big table takes its time.
func (e *pgEngine) migrate(ctx context.Context) (err error) {
	cfg := e.cfg.Copy()
	for _, name := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
		delete(cfg.RuntimeParams, name)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	db := sql.OpenDB(pgDriver{cfg})
	defer func() { err = errors.Join(err, db.Close()) }()
	guard, err := db.Conn(ctx)
	if err != nil {
		return e.unready("connect to the database", err)
	}
	defer guard.Close() // the lock is the session's, and goes with it
	if _, err := guard.ExecContext(ctx, fmt.Sprintf(`SELECT pg_advisory_lock(%d)`, int64(migrationLock))); err != nil {
		return e.unready("wait for the migrations of another process", err)
	}
	defer func() {
		_, unlock := guard.ExecContext(ctx, fmt.Sprintf(`SELECT pg_advisory_unlock(%d)`, int64(migrationLock)))
		err = errors.Join(err, unlock)
	}()
	dir, err := fs.Sub(postgresMigrations, "migrations/postgres")
	if err != nil {
		return fmt.Errorf("open the embedded migrations: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, dir, goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("read the embedded migrations: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "42501" {
			return fmt.Errorf("the role of the dsn may not bring the schema to version %d: run `actpass keys list` once with the dsn of the role that owns the schema (ACTPASS_STORE_DSN): %w", postgresSchema, err)
		}
		return e.unready(fmt.Sprintf("bring the database to schema version %d", postgresSchema), err)
	}
	return nil
}
