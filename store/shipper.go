package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/actpass/sidecar/evidence"
)

// Shippable is a log that signs checkpoints; ledger.Log is one.
type Shippable interface {
	Source
	PublicKey() string
	Checkpoint() []byte // the newest, signed; what it covers is on disk
}

// Shipper is the follower of a sidecar's log that copies it into the shared
// database. The log's own disk is its spool: it may be behind by any time that the
// database is away.
type Shipper struct {
	To   *Postgres
	From Shippable
	// Source is what people call this machine.
	Source string
	// Fault hears of what stands in the way, but for a database that is away, of which
	// the store tells itself; nil: nobody.
	Fault func(error)

	mu     sync.Mutex // one shipment at a time
	joined bool
	next   atomic.Uint64
}

const (
	// shipEvery lets records collect: a busy sidecar ships about so often. Half of it
	// is by chance, so that those that started together do not come together.
	shipEvery = time.Second
	shipRetry = 2 * time.Second
)

// Behind is how many records are not shipped yet, as far as is known.
func (s *Shipper) Behind() uint64 {
	size, next := s.From.Size(), s.next.Load()
	if next > size {
		return 0
	}
	return size - next
}

// Run ships until ctx ends.
func (s *Shipper) Run(ctx context.Context) {
	for ctx.Err() == nil {
		pause := shipEvery/2 + rand.N(shipEvery/2)
		if err := s.Ship(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			pause = shipRetry/2 + rand.N(shipRetry)
			if !errors.Is(err, ErrAway) && s.Fault != nil {
				s.Fault(fmt.Errorf("ship evidence to the shared database: %w", err))
				pause = 30 * time.Second
			}
		} else if s.From.Wait(ctx, s.next.Load()) != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// Ship copies what is durable now and was not shipped yet.
func (s *Shipper) Ship(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := LogName{PublicKey: s.From.PublicKey(), Source: s.Source}
	if !s.joined {
		next, err := s.To.JoinLog(ctx, name)
		if err != nil {
			return err
		}
		s.next.Store(next)
		s.joined = true
	}
	signed := s.From.Checkpoint()
	if signed == nil {
		return nil // a new log
	}
	verifier, err := note.NewVerifier(name.PublicKey)
	if err != nil {
		return fmt.Errorf("read the key of the log: %w", err)
	}
	covers, err := evidence.OpenCheckpoint(signed, verifier)
	if err != nil {
		return err
	}
	if next := s.next.Load(); next > covers.Size {
		s.joined = false // ask again: it may be the database that was put back
		return fmt.Errorf("the database has %d records of this log, which has %d: the data directory was put back to an older state; records from then on would not fit, so none are shipped", next, covers.Size)
	}
	for s.next.Load() < covers.Size {
		if err := s.one(ctx, name, covers.Size, signed); err != nil {
			// Whatever it was, the database knows how far it got: a commit whose answer
			// was lost included.
			s.joined = false
			return err
		}
	}
	return nil
}

// one makes one shipment, at most up to end.
func (s *Shipper) one(ctx context.Context, name LogName, end uint64, signed []byte) error {
	from := s.next.Load()
	entries, err := s.From.Read(from, int(min(end-from, ShipRecords)))
	if err != nil {
		return err
	}
	var records [][]byte
	for i, bytes := 0, 0; i < len(entries); i++ {
		if bytes += len(entries[i].Record); i > 0 && bytes > ShipBytes {
			break
		}
		if entries[i].Index != from+uint64(i) {
			return fmt.Errorf("the log gave record %d in the place of %d", entries[i].Index, from+uint64(i))
		}
		records = append(records, entries[i].Record)
	}
	if len(records) == 0 {
		return fmt.Errorf("read record %d of the log: it gave none", from)
	}
	next := from + uint64(len(records))
	if next < end {
		signed = nil
	}
	if err := s.To.Ship(ctx, name, from, records, signed); err != nil {
		return err
	}
	s.next.Store(next)
	return nil
}
