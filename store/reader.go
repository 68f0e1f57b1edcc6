package store

import (
	"context"
	"database/sql"
	"sync"
	"sync/atomic"
)

// maxPrepared bounds the statements that are kept prepared, should a query ever be
// written with values in its text.
const maxPrepared = 128

// reader is the connections that read, with what is asked on them prepared: to
// prepare a look at one row costs as much as the look.
type reader struct {
	db    *sql.DB
	stmts sync.Map // query to *sql.Stmt; they end with db
	count atomic.Int32
}

// stmt is query, prepared; nil when it is to be asked as it is.
func (r *reader) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if st, ok := r.stmts.Load(query); ok {
		return st.(*sql.Stmt), nil
	}
	if r.count.Load() >= maxPrepared {
		return nil, nil
	}
	st, err := r.db.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if first, other := r.stmts.LoadOrStore(query, st); other {
		return first.(*sql.Stmt), st.Close()
	}
	r.count.Add(1)
	return st, nil
}

func (r *reader) query(ctx context.Context, query string, args []any) (*sql.Rows, error) {
	st, err := r.stmt(ctx, query)
	switch {
	case err != nil:
		return nil, err
	case st == nil:
		return r.db.QueryContext(ctx, query, args...)
	}
	return st.QueryContext(ctx, args...)
}
