package store

import (
	"context"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// pgDriver is database/sql on pgconn, the protocol layer of pgx, for the types that
// this package stores: whole numbers, text, bytes and booleans, all in text form.
// pgx's own driver knows all of PostgreSQL's types, which costs the binary three
// megabytes more.
//
// A statement with parameters is parsed, bound and run in one round trip, and
// nothing is kept prepared at the server.
type pgDriver struct{ cfg *pgconn.Config }

var _ driver.Connector = pgDriver{}

// Connect implements driver.Connector.
func (d pgDriver) Connect(ctx context.Context) (driver.Conn, error) {
	pg, err := pgconn.ConnectConfig(ctx, d.cfg)
	if err != nil {
		return nil, err
	}
	return &pgSession{pg}, nil
}

// Driver implements driver.Connector.
func (d pgDriver) Driver() driver.Driver { return d }

// Open implements driver.Driver; nobody opens by name.
func (pgDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("open PostgreSQL by its connector")
}

// pgSession is one connection.
type pgSession struct{ pg *pgconn.PgConn }

var (
	_ driver.ConnBeginTx     = (*pgSession)(nil)
	_ driver.ExecerContext   = (*pgSession)(nil)
	_ driver.QueryerContext  = (*pgSession)(nil)
	_ driver.Pinger          = (*pgSession)(nil)
	_ driver.SessionResetter = (*pgSession)(nil)
	_ driver.Validator       = (*pgSession)(nil)
)

func (s *pgSession) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return s.pg.Close(ctx)
}

// IsValid implements driver.Validator: a connection that broke, or on which a
// transaction was left open, is not used again.
func (s *pgSession) IsValid() bool { return !s.pg.IsClosed() && s.pg.TxStatus() == 'I' }

// ResetSession implements driver.SessionResetter.
func (s *pgSession) ResetSession(context.Context) error {
	if !s.IsValid() {
		return driver.ErrBadConn
	}
	return nil
}

// errBroken is in the chain of the error of a connection that is not there any more.
var errBroken = errors.New("the connection broke")

// said is err, marked where it was not the server that spoke but the connection
// that ended.
func (s *pgSession) said(err error) error {
	var pg *pgconn.PgError
	if err == nil || !s.pg.IsClosed() || errors.As(err, &pg) {
		return err
	}
	return fmt.Errorf("%w: %w", errBroken, err)
}

// Ping implements driver.Pinger.
func (s *pgSession) Ping(ctx context.Context) error {
	_, err := s.pg.Exec(ctx, "").ReadAll()
	return s.said(err)
}

// exec runs statements as they are, without parameters, and gives the tag of the
// last.
func (s *pgSession) exec(ctx context.Context, statements string) (pgconn.CommandTag, error) {
	results, err := s.pg.Exec(ctx, statements).ReadAll()
	if err != nil || len(results) == 0 {
		return pgconn.CommandTag{}, s.said(err)
	}
	return results[len(results)-1].CommandTag, nil
}

// ExecContext implements driver.ExecerContext.
func (s *pgSession) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if len(args) == 0 {
		tag, err := s.exec(ctx, query)
		return driver.RowsAffected(tag.RowsAffected()), err
	}
	params, err := textParams(args)
	if err != nil {
		return nil, err
	}
	res := s.pg.ExecParams(ctx, query, params, nil, nil, nil).Read()
	return driver.RowsAffected(res.CommandTag.RowsAffected()), s.said(res.Err)
}

// QueryContext implements driver.QueryerContext.
func (s *pgSession) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	params, err := textParams(args)
	if err != nil {
		return nil, err
	}
	// Lists are of at most a thousand rows: read whole, the connection is free.
	res := s.pg.ExecParams(ctx, query, params, nil, nil, nil).Read()
	if res.Err != nil {
		return nil, s.said(res.Err)
	}
	return &pgRows{res: res}, nil
}

// Prepare implements driver.Conn: nothing is prepared.
func (s *pgSession) Prepare(query string) (driver.Stmt, error) { return pgStatement{s, query}, nil }

// Begin implements driver.Conn.
func (s *pgSession) Begin() (driver.Tx, error) {
	return s.BeginTx(context.Background(), driver.TxOptions{})
}

// BeginTx implements driver.ConnBeginTx, for the migrator.
func (s *pgSession) BeginTx(ctx context.Context, opt driver.TxOptions) (driver.Tx, error) {
	if opt.Isolation != 0 || opt.ReadOnly {
		return nil, errors.New("only plain transactions are begun this way")
	}
	if _, err := s.exec(ctx, "BEGIN"); err != nil {
		return nil, err
	}
	return pgTx{ctx, s}, nil
}

type pgTx struct {
	ctx context.Context
	s   *pgSession
}

func (t pgTx) Commit() error {
	tag, err := t.s.exec(t.ctx, "COMMIT")
	if err == nil && tag.String() != "COMMIT" {
		err = fmt.Errorf("commit: the server answered %s", tag)
	}
	return err
}

func (t pgTx) Rollback() error {
	_, err := t.s.exec(t.ctx, "ROLLBACK")
	return err
}

type pgStatement struct {
	s     *pgSession
	query string
}

func (pgStatement) Close() error  { return nil }
func (pgStatement) NumInput() int { return -1 }

func (st pgStatement) Exec(args []driver.Value) (driver.Result, error) {
	return st.s.ExecContext(context.Background(), st.query, named(args))
}

func (st pgStatement) Query(args []driver.Value) (driver.Rows, error) {
	return st.s.QueryContext(context.Background(), st.query, named(args))
}

func named(args []driver.Value) []driver.NamedValue {
	list := make([]driver.NamedValue, len(args))
	for i, a := range args {
		list[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	return list
}

func textParams(args []driver.NamedValue) ([][]byte, error) {
	params := make([][]byte, len(args))
	for i, a := range args {
		switch v := a.Value.(type) {
		case nil:
		case int64:
			params[i] = strconv.AppendInt(nil, v, 10)
		case bool:
			params[i] = strconv.AppendBool(nil, v)
		case string:
			params[i] = []byte(v)
		case []byte:
			if v != nil {
				params[i] = append([]byte(`\x`), hex.AppendEncode(nil, v)...)
			}
		default:
			return nil, fmt.Errorf("parameter %d has the type %T, which is stored nowhere", a.Ordinal, v)
		}
	}
	return params, nil
}

type pgRows struct {
	res *pgconn.Result
	at  int
}

func (r *pgRows) Columns() []string {
	names := make([]string, len(r.res.FieldDescriptions))
	for i, f := range r.res.FieldDescriptions {
		names[i] = f.Name
	}
	return names
}

func (r *pgRows) Close() error { return nil }

// The types of the columns, as the server numbers them.
const (
	oidBool  = 16
	oidBytea = 17
)

// Next implements driver.Rows. Numbers stay text: database/sql reads them into
// what they are scanned to, or says that they do not fit.
func (r *pgRows) Next(dest []driver.Value) error {
	if r.at == len(r.res.Rows) {
		return io.EOF
	}
	row := r.res.Rows[r.at]
	r.at++
	for i, text := range row {
		switch {
		case text == nil:
			dest[i] = nil
		case r.res.FieldDescriptions[i].DataTypeOID == oidBool:
			dest[i] = string(text) == "t"
		case r.res.FieldDescriptions[i].DataTypeOID == oidBytea:
			if len(text) < 2 {
				return errors.New("bytes in a form that is not hex: set bytea_output to hex")
			}
			raw, err := hex.DecodeString(string(text[2:]))
			if err != nil {
				return fmt.Errorf("bytes in a form that is not hex: set bytea_output to hex: %w", err)
			}
			dest[i] = raw
		default:
			dest[i] = string(text)
		}
	}
	return nil
}
