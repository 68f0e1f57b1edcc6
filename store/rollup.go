package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// The rollups are counts of actions by minute and by hour, so that an overview
// of ten million events reads some thousand rows. A dim is one combination of
// what is counted by; rows of counts name it by number and stay short.
//
// They are written in the transaction of the batch that they count, so that a
// crash neither loses nor repeats a count. What it costs is one upsert for each
// different combination in a batch, twice, and not one for each event.
// What retention takes from the log goes from here too.
const rollupTables = `
CREATE TABLE dims (
  dim           INTEGER PRIMARY KEY,
  tenant        TEXT NOT NULL,
  agent         TEXT NOT NULL,
  tool          TEXT NOT NULL,
  mode          TEXT NOT NULL,
  decision      TEXT NOT NULL,
  enforcement   TEXT NOT NULL,
  would_enforce TEXT NOT NULL,           -- '' where the mode is as strict already
  would_strict  TEXT NOT NULL,
  mapping       TEXT NOT NULL,           -- one of the Mapping constants
  UNIQUE (tenant, agent, tool, mode, decision, enforcement, would_enforce, would_strict, mapping)
) STRICT;
CREATE TABLE counts (
  span   INTEGER NOT NULL,               -- seconds: 60 or 3600
  bucket INTEGER NOT NULL,               -- its first second, since 1970 UTC
  dim    INTEGER NOT NULL,
  n      INTEGER NOT NULL,
  PRIMARY KEY (span, bucket, dim)
) STRICT, WITHOUT ROWID;
`

// How an action got its name.
const (
	MappingRule   = "rule"   // a mapping rule named it
	MappingNone   = "none"   // no rule did
	MappingCaller = "caller" // it came by the preflight API, which names tools itself
)

const (
	minuteSpan = 60
	hourSpan   = 3600
	// minutesKept is how far back minutes are kept; hours stay as long as the log.
	minutesKept = 3 * time.Hour
	// maxDims bounds the combinations of one tenant: an agent chooses what it
	// calls, and must not choose how much that costs. Later ones count as other.
	maxDims = 5000
	// otherName stands for the tools and agents beyond maxDims.
	otherName = "(other)"
)

// Dim is what actions are counted by.
type Dim struct {
	Tenant, Agent, Tool, Mode, Decision, Enforcement, WouldEnforce, WouldStrict, Mapping string
}

// Count is how many actions of one kind fell into one bucket.
type Count struct {
	Dim
	Start time.Time // of the bucket
	N     int64
}

type rollupKey struct {
	span, bucket, dim int64
}

// rollup counts the rows of one batch, for the follower.
type rollup struct {
	exec    func(ctx context.Context, query string, args ...any) error
	known   map[Dim]int64
	tenants map[string]int // dims by tenant
	last    int64
	pending map[pendingCount]int64
	pruned  int64 // the minute up to which minutes were forgotten
}

// pendingCount is one combination, in the words of its block.
type pendingCount struct {
	block  *block
	cols   [numColumns]uint16
	minute int64
}

// loadRollup reads the combinations that the index knows.
func loadRollup(ctx context.Context, conn *sql.Conn, exec func(ctx context.Context, query string, args ...any) error) (*rollup, error) {
	r := &rollup{exec: exec, known: map[Dim]int64{}, tenants: map[string]int{}, pending: map[pendingCount]int64{}}
	rows, err := conn.QueryContext(ctx, `SELECT dim, tenant, agent, tool, mode, decision, enforcement, would_enforce, would_strict, mapping FROM dims`)
	if err != nil {
		return nil, fmt.Errorf("read the rollups: %w", err)
	}
	err = eachRow(rows, func(s scanner) error {
		var d Dim
		var id int64
		err := s.Scan(&id, &d.Tenant, &d.Agent, &d.Tool, &d.Mode, &d.Decision, &d.Enforcement, &d.WouldEnforce, &d.WouldStrict, &d.Mapping)
		r.known[d] = id
		r.tenants[d.Tenant]++
		r.last = max(r.last, id)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the rollups: %w", err)
	}
	return r, nil
}

// add counts one row; flush writes it.
func (r *rollup) add(b *block, row *blockRow) {
	if b.words[row.cols[colKind]] != evidence.KindAction {
		return
	}
	p := pendingCount{block: b, cols: row.cols, minute: row.time / 1e6 / minuteSpan * minuteSpan}
	p.cols[colReason], p.cols[colState] = 0, 0 // not counted by
	r.pending[p]++
}

func (p *pendingCount) dim() Dim {
	w := func(col int) string { return p.block.words[p.cols[col]] }
	return Dim{
		Tenant: w(colTenant), Agent: w(colAgent), Tool: w(colTool), Mode: w(colMode), Decision: w(colDecision),
		Enforcement: w(colEnforcement), WouldEnforce: w(colWouldEnforce), WouldStrict: w(colWouldStrict), Mapping: w(colMapping),
	}
}

// flush writes what add has counted into the open transaction. After an error
// the rollup must be loaded again.
func (r *rollup) flush(ctx context.Context) error {
	sums := map[rollupKey]int64{}
	newest := int64(0)
	for p, n := range r.pending {
		id, err := r.dim(ctx, p.dim())
		if err != nil {
			return err
		}
		sums[rollupKey{minuteSpan, p.minute, id}] += n
		sums[rollupKey{hourSpan, p.minute - p.minute%hourSpan, id}] += n
		newest = max(newest, p.minute)
	}
	clear(r.pending)
	for k, n := range sums {
		err := r.exec(ctx, `INSERT INTO counts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n`, k.span, k.bucket, k.dim, n)
		if err != nil {
			return fmt.Errorf("count a batch: %w", err)
		}
	}
	if newest > r.pruned {
		r.pruned = newest
		if err := r.exec(ctx, `DELETE FROM counts WHERE span = 60 AND bucket < ?`, newest-int64(minutesKept/time.Second)); err != nil {
			return fmt.Errorf("forget old minutes: %w", err)
		}
	}
	return nil
}

// dim is the number of d, made when it is new.
func (r *rollup) dim(ctx context.Context, d Dim) (int64, error) {
	if id, ok := r.known[d]; ok {
		return id, nil
	}
	if r.tenants[d.Tenant] >= maxDims {
		d.Agent, d.Tool = otherName, otherName
		if id, ok := r.known[d]; ok {
			return id, nil
		}
	}
	r.last++
	err := r.exec(ctx, `INSERT INTO dims VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		r.last, d.Tenant, d.Agent, d.Tool, d.Mode, d.Decision, d.Enforcement, d.WouldEnforce, d.WouldStrict, d.Mapping)
	if err != nil {
		return 0, fmt.Errorf("count a new combination: %w", err)
	}
	r.known[d] = r.last
	r.tenants[d.Tenant]++
	return r.last, nil
}

// forget drops the hours before the oldest event that is left.
func (r *rollup) forget(ctx context.Context) error {
	return r.exec(ctx, `DELETE FROM counts WHERE bucket + span <= coalesce((SELECT min(min_time) FROM blocks WHERE max_time > 0), 0) / 1000000`)
}

// Counts gives a tenant's counted actions since a time, in buckets of a minute
// or of an hour, in the order of time. Minutes go back three hours. since is
// rounded down to a whole bucket.
func (ix *Index) Counts(ctx context.Context, tenant string, since time.Time, minutes bool) ([]Count, error) {
	db, _, release, err := ix.reader()
	if err != nil {
		return nil, err
	}
	defer release()
	span := int64(hourSpan)
	if minutes {
		span = minuteSpan
	}
	from := since.Unix() - since.Unix()%span
	dims := map[int64]Dim{}
	rows, err := db.QueryContext(ctx, `SELECT dim, agent, tool, mode, decision, enforcement, would_enforce, would_strict, mapping FROM dims WHERE tenant = ?`, tenant)
	if err != nil {
		return nil, fmt.Errorf("read the rollups: %w", err)
	}
	err = eachRow(rows, func(s scanner) error {
		d := Dim{Tenant: tenant}
		var id int64
		err := s.Scan(&id, &d.Agent, &d.Tool, &d.Mode, &d.Decision, &d.Enforcement, &d.WouldEnforce, &d.WouldStrict, &d.Mapping)
		dims[id] = d
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the rollups: %w", err)
	}
	rows, err = db.QueryContext(ctx, `SELECT bucket, dim, n FROM counts WHERE span = ? AND bucket >= ? ORDER BY bucket, dim`, span, from)
	if err != nil {
		return nil, fmt.Errorf("read the rollups: %w", err)
	}
	var list []Count
	err = eachRow(rows, func(s scanner) error {
		var bucket, id, n int64
		if err := s.Scan(&bucket, &id, &n); err != nil {
			return err
		}
		// The other tenants' share the table and not the answer.
		if d, own := dims[id]; own {
			list = append(list, Count{Dim: d, Start: time.Unix(bucket, 0).UTC(), N: n})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the rollups: %w", err)
	}
	return list, nil
}
