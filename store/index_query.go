package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// KindAll in a Query selects events of every kind.
const KindAll = "all"

// Query selects events, newest first. Empty fields select everything, except
// that an empty Kind leaves out events of kind system.
type Query struct {
	Tenant   string // always applies
	Since    time.Time
	Until    time.Time // exclusive
	Tool     string    // a name, or a glob of * ? and [...], where * also crosses dots
	Agent    string
	Decision string
	Kind     string // one of evidence.Kind..., "" or KindAll
	State    string // of the last outcome
	Reason   string
	Cursor   string
	Limit    int // 50 when 0, at most 1000
}

const viewColumns = `e.log_index, r.record, o.record FROM events e
	JOIN records r ON r.log_index = e.log_index LEFT JOIN records o ON o.log_index = e.outcome`

func scanView(s scanner) (View, error) {
	var v View
	var record, outcome []byte
	if err := s.Scan(&v.Log.Index, &record, &outcome); err != nil {
		return View{}, err
	}
	e, _, err := evidence.DecodeRecord(record)
	if err == nil && e == nil {
		err = errors.New("it is not an event")
	}
	if err != nil {
		return View{}, fmt.Errorf("record %d: %w", v.Log.Index, err)
	}
	v.Event = *e
	v.Log.LeafHash = evidence.LeafHash(record).String()
	if outcome == nil {
		return v, nil
	}
	_, o, err := evidence.DecodeRecord(outcome)
	if err == nil && o == nil {
		err = errors.New("it is not an outcome")
	}
	if err != nil {
		return View{}, fmt.Errorf("outcome of record %d: %w", v.Log.Index, err)
	}
	v.Outcome = &o.Outcome
	return v, nil
}

// reader gives the read handle; release it.
func (ix *Index) reader() (*sql.DB, func(), error) {
	ix.db.RLock()
	if ix.read == nil {
		ix.db.RUnlock()
		return nil, nil, errClosed
	}
	return ix.read, ix.db.RUnlock, nil
}

// Event finds one event of a tenant by its id; gate.ErrNotFound.
func (ix *Index) Event(ctx context.Context, tenant, id string) (View, error) {
	db, release, err := ix.reader()
	if err != nil {
		return View{}, err
	}
	defer release()
	v, err := scanView(db.QueryRowContext(ctx, `SELECT `+viewColumns+` WHERE e.id = ? AND e.tenant = ?`, id, tenant))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return View{}, notFound("event", id)
	case err != nil:
		return View{}, fmt.Errorf("read event %s: %w", id, err)
	}
	return v, nil
}

// Events lists events, newest first in the order of the log. next is the cursor
// of the next page, "" at the end. A cursor that is none is a *gate.FieldError.
func (ix *Index) Events(ctx context.Context, q Query) (list []View, next string, err error) {
	before := uint64(math.MaxInt64)
	if q.Cursor != "" {
		if before, err = strconv.ParseUint(q.Cursor, 10, 63); err != nil {
			return nil, "", badCursor()
		}
	}
	db, release, err := ix.reader()
	if err != nil {
		return nil, "", err
	}
	defer release()
	where := []string{"e.tenant = ?"}
	args := []any{q.Tenant}
	and := func(cond string, values ...any) {
		where = append(where, cond)
		args = append(args, values...)
	}
	from := uint64(0)
	if !q.Since.IsZero() {
		// The blocks bound the search, the exact condition does the rest.
		var block sql.Null[uint64]
		if err := db.QueryRowContext(ctx, `SELECT min(block) FROM blocks WHERE max_time >= ?`, micros(q.Since)).Scan(&block); err != nil {
			return nil, "", fmt.Errorf("list events: %w", err)
		}
		if !block.Valid {
			return nil, "", nil
		}
		from = block.V * blockSize
		and("e.time >= ?", micros(q.Since))
	}
	if !q.Until.IsZero() {
		var block sql.Null[uint64]
		if err := db.QueryRowContext(ctx, `SELECT max(block) FROM blocks WHERE min_time < ?`, micros(q.Until)).Scan(&block); err != nil {
			return nil, "", fmt.Errorf("list events: %w", err)
		}
		if !block.Valid {
			return nil, "", nil
		}
		before = min(before, (block.V+1)*blockSize)
		and("e.time < ?", micros(q.Until))
	}
	and("e.log_index >= ? AND e.log_index < ?", int64(from), int64(before))
	switch q.Kind {
	case "":
		and("e.kind <> ?", evidence.KindSystem)
	case KindAll:
	default:
		and("e.kind = ?", q.Kind)
	}
	switch {
	case q.Tool == "":
	case strings.ContainsAny(q.Tool, "*?["):
		and("e.tool GLOB ?", q.Tool)
	default:
		and("e.tool = ?", q.Tool)
	}
	for _, exact := range []struct{ column, value string }{
		{"agent", q.Agent}, {"decision", q.Decision}, {"state", q.State}, {"reason", q.Reason},
	} {
		if exact.value != "" {
			and("e."+exact.column+" = ?", exact.value)
		}
	}
	limit := pageSize(q.Limit)
	rows, err := db.QueryContext(ctx, `SELECT `+viewColumns+` WHERE `+strings.Join(where, " AND ")+
		` ORDER BY e.log_index DESC LIMIT ?`, append(args, limit+1)...)
	if err != nil {
		return nil, "", fmt.Errorf("list events: %w", err)
	}
	err = eachRow(rows, func(s scanner) error {
		v, err := scanView(s)
		list = append(list, v)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list events: %w", err)
	}
	if len(list) > limit {
		list = list[:limit]
		next = strconv.FormatUint(list[limit-1].Log.Index, 10)
	}
	return list, next, nil
}
