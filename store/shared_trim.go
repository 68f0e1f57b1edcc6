package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// trimBatches is how many shipments one call of TrimShared looks at.
const trimBatches = 32

// Trimmed is what TrimShared took away.
type Trimmed struct {
	Records, Batches int
	Until            uint64 // place among all of the oldest record that is left, counted from 1
}

// errTaken says that somebody else removed a page at the same time.
var errTaken = errors.New("it was removed by another")

// TrimShared removes a page of the oldest shipments, those that came longer than keep
// ago by the database's clock, in the order in which they came. Nothing is removed that
// could not be read: it may be what an attacker left. What stays of a log verifies as
// before. Batches is 0 when there is no more.
//
// If we crash before the commit, nothing is gone; after it, all of the page.
func (p *Postgres) TrimShared(ctx context.Context, keep time.Duration) (n Trimmed, err error) {
	type begin struct {
		was  uint64
		tree evidence.Tree
		lost bool // records before it were removed by other means: nothing is known of them
	}
	logs := map[string]*begin{}
	old := true
	var until int64
	err = p.each(ctx, `SELECT g.origin, g.begins, g.edge, b.seq, b.records, b.first, b.shipped_at < `+dbNow+` - ?1, CASE WHEN b.shipped_at < `+dbNow+` - ?1 THEN b.content END
		FROM evidence_batches b JOIN evidence_logs g USING (origin) ORDER BY b.seq LIMIT ?2`, []any{keep.Microseconds(), trimBatches}, func(row scanner) error {
		var s SharedLogStatus
		var begins, seq, count, first int64
		var over bool
		var content []byte
		if err := row.Scan(&s.Origin, &begins, &s.edge, &seq, &count, &first, &over, &content); err != nil {
			return err
		}
		if old = old && over; !old {
			return nil
		}
		s.Begins = uint64(begins)
		b := logs[s.Origin]
		if b == nil {
			var err error
			b = &begin{was: s.Begins}
			b.tree, err = s.Before()
			b.lost = err != nil
			logs[s.Origin] = b
		}
		if b.lost = b.lost || b.tree.Size() != uint64(first); !b.lost {
			records, err := unpack(content, count)
			if err != nil {
				return fmt.Errorf("record %d of the log %s, which is to be removed: %w", first, s.Origin, err)
			}
			for _, r := range records {
				b.tree.Add(evidence.LeafHash(r))
			}
		}
		n.Records += int(count)
		n.Batches++
		until = seq + count
		return nil
	})
	if err != nil {
		return Trimmed{}, wrap(err, "remove old shared evidence")
	}
	if n.Batches == 0 {
		return n, nil
	}
	n.Until = uint64(until) + 1
	err = p.transact(ctx, pruning, func(b *batch) error {
		gone, err := b.removed(`DELETE FROM evidence_batches WHERE seq < ?`, until)
		if err != nil || gone != n.Batches {
			return errors.Join(err, errTaken)
		}
		for origin, l := range logs {
			if l.lost {
				continue
			}
			var edge []byte
			for _, h := range l.tree.Edge() {
				edge = append(edge, h[:]...)
			}
			moved, err := b.removed(`UPDATE evidence_logs SET begins = ?, edge = ? WHERE origin = ? AND begins = ?`, int64(l.tree.Size()), edge, origin, int64(l.was))
			if err != nil || moved != 1 {
				return errors.Join(err, errTaken)
			}
		}
		return nil
	})
	if errors.Is(err, errTaken) {
		return Trimmed{}, nil // who took it goes on
	}
	if err != nil {
		return Trimmed{}, wrap(err, "remove old shared evidence")
	}
	return n, nil
}
