package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/sqlite/*.sql
var sqliteMigrations embed.FS

// sqliteSchema is the newest migration. Every migration ends by writing its
// number to user_version, so that an up-to-date database opens without asking
// the migrator.
const sqliteSchema = 11

// migrateSQLite brings the database to sqliteSchema. A newer one is refused: an
// older program would not know what it must keep true.
func migrateSQLite(ctx context.Context, db *sql.DB, path string) error {
	var have int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return fmt.Errorf("read the schema version of %s: %w", path, err)
	}
	if have == sqliteSchema {
		return nil
	}
	if have > sqliteSchema {
		return fmt.Errorf("%s has schema version %d, and this program knows versions up to %d: "+
			"start the newer program that wrote it, or restore the backup from before the upgrade", path, have, sqliteSchema)
	}
	dir, err := fs.Sub(sqliteMigrations, "migrations/sqlite")
	if err != nil {
		return fmt.Errorf("open the embedded migrations: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, dir, goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("read the embedded migrations: %w", err)
	}
	for attempt := 0; ; attempt++ {
		_, err := p.Up(ctx)
		if err == nil {
			return nil
		}
		// Another process may be at it in this moment (serve and "keys create" on a
		// new data dir): when it is done there is nothing left to do.
		if db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have) == nil && have == sqliteSchema {
			return nil
		}
		if attempt == 20 || ctx.Err() != nil {
			return fmt.Errorf("migrate %s to schema version %d: %w", path, sqliteSchema, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
