package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// SharedLogStatus is how the copy of one sidecar's log stands here.
type SharedLogStatus struct {
	LogName
	Origin     string
	Begins     uint64 // the oldest record that was not removed
	Next       uint64
	Checkpoint []byte // signed; nil: none yet
	ShippedAt  time.Time

	edge []byte
}

// Before is the tree over the records that were removed from the copy. An error says
// that it does not fit them.
func (s SharedLogStatus) Before() (evidence.Tree, error) {
	var h evidence.Hash
	if len(s.edge)%len(h) != 0 {
		return evidence.Tree{}, errors.New("what is kept of the records that were removed is damaged")
	}
	edge := make([]evidence.Hash, len(s.edge)/len(h))
	for i := range edge {
		copy(edge[i][:], s.edge[i*len(h):])
	}
	return evidence.NewTree(s.Begins, edge)
}

const sharedLogColumns = `origin, public_key, source, begins, edge, next, checkpoint, shipped_at`

func scanSharedLog(row scanner) (s SharedLogStatus, err error) {
	var begins, next, at int64
	var checkpoint string
	err = row.Scan(&s.Origin, &s.PublicKey, &s.Source, &begins, &s.edge, &next, &checkpoint, &at)
	s.Begins, s.Next, s.ShippedAt = uint64(begins), uint64(next), fromMicros(at)
	if checkpoint != "" {
		s.Checkpoint = []byte(checkpoint)
	}
	return s, err
}

// SharedLogs lists the logs whose records are here, by name, from the one behind
// after.
func (p *Postgres) SharedLogs(ctx context.Context, after string, limit int) (list []SharedLogStatus, err error) {
	err = p.each(ctx, `SELECT `+sharedLogColumns+` FROM evidence_logs WHERE origin > ? ORDER BY origin LIMIT ?`,
		[]any{after, pageSize(limit)}, func(row scanner) error {
			s, err := scanSharedLog(row)
			list = append(list, s)
			return err
		})
	return list, wrap(err, "list the logs of the shared evidence")
}

// SharedLogNamed is one of them; gate.ErrNotFound when there is none of that name.
func (p *Postgres) SharedLogNamed(ctx context.Context, origin string) (SharedLogStatus, error) {
	s, err := scanSharedLog(p.row(ctx, `SELECT `+sharedLogColumns+` FROM evidence_logs WHERE origin = ?`, origin))
	if errors.Is(err, sql.ErrNoRows) {
		return s, gate.ErrNotFound
	}
	return s, wrap(err, "look for a log of the shared evidence")
}

// ReadCopy gives up to max records of one log's copy from position from on, in order;
// fewer when they are large, none when the record at from is not here.
func (p *Postgres) ReadCopy(ctx context.Context, origin string, from uint64, max int) (out []evidence.Entry, err error) {
	next, bytes := from, 0
	err = p.each(ctx, `SELECT records, first, content FROM evidence_batches WHERE origin = ?1
		AND first >= coalesce((SELECT max(first) FROM evidence_batches WHERE origin = ?1 AND first <= ?2), 0) ORDER BY first LIMIT ?3`,
		[]any{origin, int64(from), min(sharedPage, max)}, func(row scanner) error {
			var count, first int64
			var content []byte
			if err := row.Scan(&count, &first, &content); err != nil {
				return err
			}
			// Behind a gap, or enough for once.
			if uint64(first) > next || uint64(first+count) <= next || len(out) >= max || bytes > 8<<20 {
				return nil
			}
			records, err := unpack(content, count)
			if err != nil {
				return err
			}
			for _, r := range records[next-uint64(first):] {
				if len(out) == max {
					break
				}
				out = append(out, evidence.Entry{Index: next, Record: r, LeafHash: evidence.LeafHash(r).String()})
				bytes += len(r)
				next++
			}
			return nil
		})
	return out, wrap(err, "read a log of the shared evidence")
}

// VerifyShared holds one sidecar's records here to the checkpoint that its own key
// signed. What it finds wrong is a fault; err says that it could not be found out.
// checked is how many records, of those that are left, the checkpoint covers.
func (p *Postgres) VerifyShared(ctx context.Context, s SharedLogStatus) (checked uint64, fault *evidence.Fault, err error) {
	verifier, err := note.NewVerifier(s.PublicKey)
	if err != nil {
		return 0, &evidence.Fault{Reason: "its key is not one: " + err.Error()}, nil
	}
	if s.Checkpoint == nil {
		return 0, nil, nil
	}
	c, err := evidence.OpenCheckpoint(s.Checkpoint, verifier)
	if err != nil {
		return 0, &evidence.Fault{Reason: err.Error()}, nil
	}
	if c.Size < s.Begins {
		return 0, nil, nil // all that it covers was removed
	}
	tree, err := s.Before()
	if err != nil {
		return 0, &evidence.Fault{Index: s.Begins, Reason: err.Error()}, nil
	}
	for tree.Size() < c.Size {
		var next [][]byte
		begins := tree.Size()
		var content []byte
		var count int64
		err := p.row(ctx, `SELECT records, content FROM evidence_batches WHERE origin = ? AND first = ?`, s.Origin, int64(begins)).Scan(&count, &content)
		if errors.Is(err, sql.ErrNoRows) {
			return 0, &evidence.Fault{Index: begins, Reason: "it is missing, and those behind it"}, nil
		}
		if err != nil {
			return 0, nil, wrap(err, "verify the shared evidence")
		}
		if next, err = unpack(content, count); err != nil {
			return 0, &evidence.Fault{Index: begins, Reason: err.Error()}, nil
		}
		for _, r := range next {
			if tree.Size() < c.Size {
				tree.Add(evidence.LeafHash(r))
			}
		}
	}
	if tree.Root() != c.Root {
		return 0, &evidence.Fault{Reason: fmt.Sprintf("the first %d records are not those that %s signed a checkpoint of", c.Size, strings.TrimSpace(s.Origin))}, nil
	}
	return c.Size - s.Begins, nil, nil
}
