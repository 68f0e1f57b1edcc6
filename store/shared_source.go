package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// SharedLog reads the evidence of all sidecars as one log, in the order in which it
// came into the database, for an Index to follow. The index of an entry is its place
// in that order; Place says whose it is.
type SharedLog struct {
	p *Postgres

	mu      sync.Mutex
	size    uint64
	first   uint64
	name    string
	grown   chan struct{}           // closed when size moves
	batches map[uint64]*sharedBatch // by the seq of their first record
	order   []uint64                // of batches, the oldest first
}

// sharedBatch is one shipment, unpacked.
type sharedBatch struct {
	seq, first     uint64
	origin, source string
	records        [][]byte
}

const (
	sharedLook    = 500 * time.Millisecond // between two looks at how far it is
	sharedBatches = 32                     // unpacked at a time
	sharedPage    = 64                     // batches in one question
)

// SharedLog gives the evidence of all sidecars. It has nothing before the first Look.
func (p *Postgres) SharedLog() *SharedLog {
	return &SharedLog{p: p, grown: make(chan struct{}), batches: map[uint64]*sharedBatch{}}
}

// Begin waits until the database has said how much there is, or ctx ends.
func (l *SharedLog) Begin(ctx context.Context) error {
	for l.Look(ctx) != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(sharedLook):
		}
	}
	return nil
}

// Look asks the database how far it is.
func (l *SharedLog) Look(ctx context.Context) error {
	var seq, first int64
	var name string
	err := l.p.row(ctx, `SELECT h.seq, h.name, coalesce((SELECT min(seq) FROM evidence_batches), h.seq) FROM evidence_head h WHERE id = 1`).Scan(&seq, &name, &first)
	if err != nil {
		return wrap(err, "ask how much shared evidence there is")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if uint64(seq) != l.size {
		close(l.grown)
		l.grown = make(chan struct{})
	}
	l.size, l.first, l.name = uint64(seq), uint64(first), name
	return nil
}

// Size is the number of records at the last look.
func (l *SharedLog) Size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

// First is the oldest record that is left.
func (l *SharedLog) First() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}

// PublicKey tells two databases apart, as a log's key tells two logs.
func (l *SharedLog) PublicKey() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.name
}

// Wait returns when there are more than n records. It looks meanwhile; while the
// database is away it goes on waiting.
func (l *SharedLog) Wait(ctx context.Context, n uint64) error {
	tick := time.NewTicker(sharedLook)
	defer tick.Stop()
	for {
		l.mu.Lock()
		there, grown := l.size > n, l.grown
		l.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-grown:
		case <-tick.C:
			if err := l.Look(ctx); err != nil && !errors.Is(err, ErrAway) && ctx.Err() == nil {
				return err
			}
		}
	}
}

// Read gives up to max entries from index from, in order.
func (l *SharedLog) Read(from uint64, max int) ([]evidence.Entry, error) {
	if size := l.Size(); from >= size || max <= 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var out []evidence.Entry
	take := func(b *sharedBatch) bool {
		for i := from + uint64(len(out)) - b.seq; i < uint64(len(b.records)) && len(out) < max; i++ {
			r := b.records[i]
			out = append(out, evidence.Entry{Index: b.seq + i, Record: r, LeafHash: evidence.LeafHash(r).String()})
		}
		return len(out) < max
	}
	if b := l.kept(from); b != nil && from+uint64(max) <= b.seq+uint64(len(b.records)) {
		take(b)
		return out, nil
	}
	list, err := l.fetch(ctx, from, min(sharedPage, max))
	if err != nil {
		return nil, err
	}
	for i, b := range list {
		if want := from + uint64(len(out)); b.seq > want || i > 0 && b.seq != want {
			return nil, fmt.Errorf("read the shared evidence: record %d is not there any more", want)
		}
		if !take(b) {
			break
		}
	}
	return out, nil
}

// fetch reads the batch that holds a record, and those behind it.
func (l *SharedLog) fetch(ctx context.Context, from uint64, limit int) (list []*sharedBatch, err error) {
	bytes := 0
	err = l.p.each(ctx, `SELECT b.seq, b.records, b.first, b.origin, g.source, b.content FROM evidence_batches b JOIN evidence_logs g USING (origin)
		WHERE b.seq >= coalesce((SELECT max(seq) FROM evidence_batches WHERE seq <= ?1), 0) ORDER BY b.seq LIMIT ?2`,
		[]any{int64(from), limit}, func(row scanner) error {
			var b sharedBatch
			var seq, count, first int64
			var content []byte
			if err := row.Scan(&seq, &count, &first, &b.origin, &b.source, &content); err != nil {
				return err
			}
			if bytes > 8<<20 {
				return nil // enough for once; the rest is asked for again
			}
			b.seq, b.first = uint64(seq), uint64(first)
			var err error
			if b.records, err = unpack(content, count); err != nil {
				return err
			}
			for _, r := range b.records {
				bytes += len(r)
			}
			list = append(list, &b)
			return nil
		})
	if err != nil {
		return nil, wrap(err, "read the shared evidence")
	}
	l.keep(list)
	return list, nil
}

func (l *SharedLog) keep(list []*sharedBatch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range list {
		if l.batches[b.seq] == nil {
			l.order = append(l.order, b.seq)
		}
		l.batches[b.seq] = b
	}
	for len(l.order) > sharedBatches {
		delete(l.batches, l.order[0])
		l.order = l.order[1:]
	}
}

// kept is the batch that holds a record, if it was read lately.
func (l *SharedLog) kept(index uint64) *sharedBatch {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.batches {
		if index >= b.seq && index < b.seq+uint64(len(b.records)) {
			return b
		}
	}
	return nil
}

// Place says in which sidecar's log a record stands, and where.
func (l *SharedLog) Place(index uint64) (LogPosition, error) {
	b := l.kept(index)
	if b == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		list, err := l.fetch(ctx, index, 1)
		if err != nil {
			return LogPosition{}, err
		}
		if len(list) == 0 || index < list[0].seq || index >= list[0].seq+uint64(len(list[0].records)) {
			return LogPosition{}, fmt.Errorf("record %d of the shared evidence is not there any more", index)
		}
		b = list[0]
	}
	return LogPosition{
		Index: b.first + index - b.seq, LeafHash: evidence.LeafHash(b.records[index-b.seq]).String(), Origin: b.origin, Source: b.source, Seq: index + 1,
	}, nil
}
