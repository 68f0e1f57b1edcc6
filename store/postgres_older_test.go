package store

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// Two versions of the program work on one schema while a fleet is upgraded, and the
// older one goes on with the newer schema when it is put back. So a migration only
// adds, and what older programs ask of the database has to stay right.

// statementsEnv names a file that gets the statements of this version, as the tests of
// this package make it ask them. For the next one who changes the schema: before that,
//
//	ACTPASS_STATEMENTS=testdata/postgres/statements-N.sql go test -count=1 ./store
//
// with N as postgresSchema is until then.
const statementsEnv = "ACTPASS_STATEMENTS"

func writeStatements() error {
	file := os.Getenv(statementsEnv)
	if file == "" {
		return nil
	}
	log, err := cluster.Log()
	if err != nil {
		return err
	}
	list := statementsIn(string(log))
	return os.WriteFile(file, []byte(strings.Join(list, "\n")+"\n"), 0o644)
}

var (
	logLine  = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ \S+ \[\d+\] `)
	space    = regexp.MustCompile(`\s+`)
	ourTable = regexp.MustCompile(`\b(keys|approvals|pending_counts|transitions|limit_uses|limit_sums|passports|answers|grants|grant_uses|mode_overrides|channels|deliveries|receipts|callbacks|evidence_\w+|shared_secrets|schema_floor)\b`)
)

// statementsIn gives the statements with parameters that a server logged, each once.
func statementsIn(log string) []string {
	seen := map[string]bool{}
	for _, entry := range logLine.Split(log, -1) {
		_, text, ok := strings.Cut(entry, "LOG:  execute <unnamed>: ")
		if !ok || !ourTable.MatchString(text) {
			continue
		}
		seen[strings.TrimSpace(space.ReplaceAllString(text, " "))] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// TestOlderStatements: the server understands on the newest schema what the versions
// before ask, in their words.
func TestOlderStatements(t *testing.T) {
	dsn := postgres(t).Database(t)
	openPostgres(t, dsn, PostgresOptions{})
	ctx := context.Background()
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	files, err := filepath.Glob("testdata/postgres/statements-*.sql")
	if err != nil {
		t.Fatal(err)
	}
	last := fmt.Sprintf("testdata/postgres/statements-%d.sql", postgresSchema-1)
	if !slices.Contains(files, last) {
		t.Errorf("%s is not there: make it with the program of before the migration, see %s", last, statementsEnv)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		list := strings.Split(strings.TrimSpace(string(raw)), "\n")
		if len(list) < 50 {
			t.Errorf("%s has %d statements: that is not all of them", file, len(list))
		}
		for _, statement := range list {
			if _, err := conn.Prepare(ctx, "", statement, nil); err != nil {
				t.Errorf("%s: %v: %s", file, err, statement)
			}
		}
	}
}

// takesAway are the things in a migration that a program of the version before may not
// live with.
var takesAway = map[string]*regexp.Regexp{
	"takes away":                      regexp.MustCompile(`(?i)\b(DROP|TRUNCATE|DELETE FROM|REVOKE)\b`),
	"renames":                         regexp.MustCompile(`(?i)\bRENAME\b`),
	"changes a type or asks for more": regexp.MustCompile(`(?i)\bALTER (COLUMN )?\w+ (TYPE|SET DATA TYPE|SET NOT NULL)\b|\bALTER TABLE [^;]*\bADD (CONSTRAINT|CHECK|UNIQUE|FOREIGN|PRIMARY)\b`),
}

var (
	addColumn = regexp.MustCompile(`(?i)\bADD COLUMN\b`)
	notNull   = regexp.MustCompile(`(?i)\bNOT NULL\b`)
	defaulted = regexp.MustCompile(`(?i)\bDEFAULT\b`)
	comment   = regexp.MustCompile(`(?m)--.*$`)
)

// asks says what about the first half of a migration an older program may not live
// with; "" for nothing.
func asks(migration string) string {
	up, _, _ := strings.Cut(migration, "-- +goose Down")
	up = comment.ReplaceAllString(up, "")
	for statement := range strings.SplitSeq(up, ";") {
		for _, column := range addColumn.Split(statement, -1)[1:] {
			if notNull.MatchString(column) && !defaulted.MatchString(column) {
				return "asks for a value"
			}
		}
		for what, pattern := range takesAway {
			if pattern.MatchString(statement) {
				return what
			}
		}
	}
	return ""
}

// TestMigrationsAdd: a migration only adds, or says that older programs must be gone.
func TestMigrationsAdd(t *testing.T) {
	for what, migration := range map[string]string{
		"takes away":                      "ALTER TABLE keys DROP COLUMN prefix;",
		"renames":                         "ALTER TABLE keys RENAME COLUMN prefix TO begins;",
		"changes a type or asks for more": "ALTER TABLE keys ADD CONSTRAINT named CHECK (name <> '');",
		"asks for a value":                "ALTER TABLE keys ADD COLUMN a TEXT NOT NULL, ADD COLUMN b TEXT NOT NULL DEFAULT '';",
		"":                                "ALTER TABLE keys ADD COLUMN b TEXT NOT NULL DEFAULT ''; -- DROP\n-- +goose Down\nDROP TABLE keys;",
	} {
		if got := asks(migration); got != what {
			t.Errorf("%q: %q, not %q", migration, got, what)
		}
	}
	list, err := filepath.Glob("migrations/postgres/*.sql")
	if err != nil || len(list) != postgresSchema {
		t.Fatalf("%d migrations, %v", len(list), err)
	}
	for _, file := range list {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if what := asks(string(raw)); what != "" && !strings.Contains(string(raw), "UPDATE schema_floor SET oldest") {
			t.Errorf("%s %s, and does not raise schema_floor", file, what)
		}
	}
}
