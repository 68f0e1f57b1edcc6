package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"regexp"
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
	// Bare leaves outcomes out, and the place in the log but for its index: each event
	// costs a third.
	Bare bool
}

// reader gives the read handle and the log; release it.
func (ix *Index) reader() (*sql.DB, Source, func(), error) {
	ix.mu.Lock()
	src := ix.src
	ix.mu.Unlock()
	ix.db.RLock()
	switch {
	case ix.read == nil:
		ix.db.RUnlock()
		return nil, nil, nil, errClosed
	case src == nil:
		ix.db.RUnlock()
		return nil, nil, nil, errors.New("the index does not follow a log yet")
	}
	return ix.read, src, ix.db.RUnlock, nil
}

// Event finds one event of a tenant by its id; gate.ErrNotFound.
func (ix *Index) Event(ctx context.Context, tenant, id string) (View, error) {
	db, src, release, err := ix.reader()
	if err != nil {
		return View{}, err
	}
	defer release()
	key := keyOf([]byte(id))
	var found *hit
	err = scanBlocks(ctx, db, `b.min_key <= ? AND b.max_key >= ?`, []any{key[:], key[:]}, func(b *block) bool {
		for i := range b.rows {
			if r := &b.rows[i]; r.key == key && b.words[r.cols[colTenant]] == tenant {
				found = b.hit(r)
				return false
			}
		}
		return true
	})
	if err != nil {
		return View{}, fmt.Errorf("read event %s: %w", id, err)
	}
	if found == nil {
		return View{}, notFound("event", id)
	}
	list, err := views(src, []*hit{found})
	switch {
	case err != nil:
		return View{}, fmt.Errorf("read event %s: %w", id, err)
	case len(list) == 0 || list[0].ID != id: // retention took it, or another id has the same key
		return View{}, notFound("event", id)
	}
	return list[0], nil
}

// scanBlocks calls visit for the blocks that where selects, newest first, until
// it returns false.
func scanBlocks(ctx context.Context, db *sql.DB, where string, args []any, visit func(*block) bool) error {
	rows, err := db.QueryContext(ctx, `SELECT b.block, c.content FROM blocks b JOIN columns c ON c.block = b.block
		WHERE `+where+` ORDER BY b.block DESC`, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var number int64
		var content sql.RawBytes
		if err := rows.Scan(&number, &content); err != nil {
			return err
		}
		b, err := decodeBlock(uint64(number), content)
		if err != nil {
			return err
		}
		if !visit(b) {
			break
		}
	}
	return rows.Err()
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
	db, src, release, err := ix.reader()
	if err != nil {
		return nil, "", err
	}
	defer release()
	first := firstOf(src)
	where := "b.block <= ? AND b.block >= ?"
	args := []any{int64(before / blockSize), int64(first / blockSize)}
	since, until := int64(math.MinInt64), int64(math.MaxInt64)
	if !q.Since.IsZero() {
		since = micros(q.Since)
		where += " AND b.max_time >= ?"
		args = append(args, since)
	}
	if !q.Until.IsZero() {
		until = micros(q.Until)
		where += " AND b.min_time < ?"
		args = append(args, until)
	}
	tests := q.tests()
	for _, t := range tests {
		if t.mask != 0 {
			where += " AND (b." + t.column + " & ?) <> 0"
			args = append(args, int64(t.mask))
		}
	}
	together, more, err := q.pairsOf(ctx, db, tests)
	if err != nil {
		return nil, "", fmt.Errorf("list events: %w", err)
	}
	if together != "" {
		where += " AND " + together
		args = append(args, more...)
	}
	limit := pageSize(q.Limit)
	var hits []*hit
	err = scanBlocks(ctx, db, where, args, func(b *block) bool {
		good := make([]bool, len(b.words)*len(tests))
		for i, t := range tests {
			for j, w := range b.words {
				good[i*len(b.words)+j] = t.match(w)
			}
		}
	rows:
		for i := len(b.rows) - 1; i >= 0; i-- {
			r := &b.rows[i]
			if at := b.index(r); at >= before || at < first || r.time < since || r.time >= until {
				continue
			}
			for j, t := range tests {
				if !good[j*len(b.words)+int(r.cols[t.col])] {
					continue rows
				}
			}
			h := b.hit(r)
			if h.bare = q.Bare; h.bare {
				h.outcome = 0
			}
			hits = append(hits, h)
			if len(hits) > limit {
				return false
			}
		}
		return true
	})
	if err != nil {
		return nil, "", fmt.Errorf("list events: %w", err)
	}
	if len(hits) > limit {
		hits = hits[:limit]
		next = strconv.FormatUint(hits[limit-1].index, 10)
	}
	if list, err = views(src, hits); err != nil {
		return nil, "", fmt.Errorf("list events: %w", err)
	}
	return list, next, nil
}

// test is one condition of a query.
type test struct {
	col    int
	column string  // of the table blocks
	mask   uint64  // 0: it tells nothing about a block as a whole
	value  *string // that it must be; nil: match tells
	match  func(word string) bool
}

func (q *Query) tests() []test {
	exact := func(col int, column, value string) test {
		return test{col, column, maskBit(value), &value, func(w string) bool { return w == value }}
	}
	tests := []test{exact(colTenant, "tenants", q.Tenant)}
	switch q.Kind {
	case "":
		tests = append(tests, test{col: colKind, match: func(w string) bool { return w != evidence.KindSystem }})
	case KindAll:
	default:
		tests = append(tests, exact(colKind, "kinds", q.Kind))
	}
	switch {
	case q.Tool == "":
	case strings.ContainsAny(q.Tool, "*?["):
		tests = append(tests, test{col: colTool, match: globber(q.Tool)})
	default:
		tests = append(tests, exact(colTool, "tools", q.Tool))
	}
	if q.Agent != "" {
		tests = append(tests, exact(colAgent, "agents", q.Agent))
	}
	if q.Decision != "" {
		tests = append(tests, exact(colDecision, "decisions", q.Decision))
	}
	if q.State != "" {
		tests = append(tests, exact(colState, "states", q.State))
	}
	if q.Reason != "" {
		tests = append(tests, exact(colReason, "reasons", q.Reason))
	}
	return tests
}

// globber matches as SQLite's GLOB: * is any text, ? one character, [...] one of
// a set and [^...] one that is not. A pattern that is not well formed matches
// nothing.
func globber(pattern string) func(string) bool {
	var re strings.Builder
	re.WriteString(`(?s)\A`)
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '*':
			re.WriteString(`.*`)
		case '?':
			re.WriteString(`.`)
		case '[':
			from := i + 1
			if from < len(pattern) && pattern[from] == '^' {
				from++
			}
			end := -1
			if from < len(pattern) { // a ] that comes first is one of the set
				end = strings.IndexByte(pattern[from+1:], ']')
			}
			if end < 0 {
				return func(string) bool { return false }
			}
			set := pattern[i+1 : from+1+end]
			i = from + 1 + end
			re.WriteByte('[')
			if set[0] == '^' {
				re.WriteByte('^')
				set = set[1:]
			}
			re.WriteString(strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `^`, `\^`).Replace(set))
			re.WriteByte(']')
		default:
			end := i
			for end < len(pattern) && !strings.ContainsRune("*?[", rune(pattern[end])) {
				end++
			}
			re.WriteString(regexp.QuoteMeta(pattern[i:end]))
			i = end - 1
		}
	}
	re.WriteString(`\z`)
	compiled, err := regexp.Compile(re.String())
	if err != nil {
		return func(string) bool { return false }
	}
	return compiled.MatchString
}
