package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/api/web"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/store"
)

// records are those that queries are about: of this process's own log, or of the logs
// of all that share a database.
type records interface {
	// Flush returns when what was recorded before the call can be read.
	Flush(ctx context.Context) error
	Size() uint64
	Read(from uint64, max int) ([]evidence.Entry, error)
}

// sharedRecords are those of all sidecars.
type sharedRecords struct {
	*store.SharedLog
	db      *store.Postgres
	trail   *ledger.Log
	shipper *store.Shipper
	temp    string // where a proof may have a temporary file
}

// Flush ships this process's own log too. What others have not shipped yet, it cannot
// know of.
func (s *sharedRecords) Flush(ctx context.Context) error {
	if err := s.trail.Flush(ctx); err != nil {
		return err
	}
	return errors.Join(s.shipper.Ship(ctx), s.Look(ctx))
}

// Read gives up to max entries from index from on, as a log of one's own: what was
// taken off the beginning is ledger.ErrRemoved.
func (s *sharedRecords) Read(from uint64, max int) ([]evidence.Entry, error) {
	if first := s.First(); from < first {
		return nil, fmt.Errorf("%w: the oldest left is %d", ledger.ErrRemoved, first)
	}
	return s.SharedLog.Read(from, max)
}

// verify holds the copy of each sidecar's log to the checkpoint that its own key
// signed.
func (s *sharedRecords) verify(ctx context.Context) (api.VerifyReport, error) {
	began := time.Now()
	r := api.VerifyReport{OK: true, Notes: []string{}}
	after, trimmed := "", 0
	for {
		list, err := s.db.SharedLogs(ctx, after, 100)
		if err != nil {
			return r, err
		}
		for _, l := range list {
			after = l.Origin
			checked, fault, err := s.db.VerifyShared(ctx, l)
			if err != nil {
				return r, err
			}
			one := api.SharedLog{Origin: l.Origin, Source: l.Source, PublicKey: l.PublicKey, OK: fault == nil, Records: l.Next, Verified: checked}
			if !l.ShippedAt.IsZero() {
				one.ShippedAt = &evidence.Time{Time: l.ShippedAt}
			}
			if l.Begins > 0 {
				one.First = l.Begins
				trimmed++
			}
			if fault != nil {
				one.Problem = fault.Error()
				r.OK = false
				if r.Finding == nil {
					r.Finding = &api.LogFinding{Index: fault.Index, Problem: "log of " + l.Source + " (" + l.Origin + "): " + fault.Reason}
				}
			}
			r.Records += checked
			r.TreeSize += l.Next
			r.Logs = append(r.Logs, one)
		}
		if len(list) < 100 {
			break
		}
	}
	r.Notes = append(r.Notes, fmt.Sprintf("%d logs, each under its own key: `logs` has them one by one. The keys are those that the sidecars brought; compare them with what is known from elsewhere", len(r.Logs)))
	if trimmed > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("of %d of them the oldest records were removed from the database (store.evidence_keep): first says where the copy begins. Their sidecars' own logs have them", trimmed))
	}
	r.Took = time.Since(began)
	return r, nil
}

// shareEvidence makes what copies the log into a shared database, and what shows
// those of all.
func (p *program) shareEvidence() {
	db, ok := p.store.(*store.Postgres)
	if !ok || p.cfg.Store.Evidence != "shared" {
		return
	}
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	p.shipper = &store.Shipper{To: db, From: p.trail, Source: name, Fault: func(err error) { p.gate.Fault("evidence_share", err) }}
	p.metrics.unshipped(p.shipper.Behind)
	if p.role == control {
		p.shared = db.SharedLog()
	}
}

// follow keeps the index in step with the log that queries are about.
func (p *program) follow(ctx context.Context) error {
	if p.shared == nil {
		return p.index.Follow(ctx, p.trail)
	}
	if err := p.shared.Begin(ctx); err != nil {
		return err
	}
	return p.index.Follow(ctx, p.shared)
}

// events is what the API answers questions about the evidence from.
func (p *program) events() *events {
	e := &events{index: p.index, log: p.trail, own: p.trail, dir: filepath.Join(p.dir, "ledger"), gate: p.gate, settings: p.inForce}
	if p.shared != nil {
		e.own, e.log = nil, &sharedRecords{SharedLog: p.shared, db: p.shipper.To, trail: p.trail, shipper: p.shipper, temp: p.dir}
	}
	return e
}

// shipLast gives the last records time to get out: a pod's disk may go with it.
func (p *program) shipLast(ctx context.Context) {
	if p.shipper == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := p.trail.Flush(ctx)
	if err == nil {
		err = p.shipper.Ship(ctx)
	}
	if err != nil {
		p.log.Warn("stopped before the shared database had all of the evidence: it is in the data directory, and goes there at the next start",
			zap.Uint64("records", p.shipper.Behind()), zap.Error(err))
	}
}

// copyOf is the copy of one sidecar's log.
func (s *sharedRecords) copyOf(ctx context.Context, origin string) (ledger.Copy, error) {
	l, err := s.db.SharedLogNamed(ctx, origin)
	if errors.Is(err, gate.ErrNotFound) {
		return ledger.Copy{}, errNoLog
	}
	if err != nil {
		return ledger.Copy{}, err
	}
	first, err := l.Before()
	if err != nil {
		return ledger.Copy{}, err
	}
	return ledger.Copy{
		PublicKey: l.PublicKey, Checkpoint: l.Checkpoint, First: first, Temp: s.temp,
		Read: func(from uint64, max int) ([]evidence.Entry, error) { return s.db.ReadCopy(ctx, origin, from, max) },
	}, nil
}

// export writes a bundle of one sidecar's log, from its copy.
func (s *sharedRecords) export(ctx context.Context, w io.Writer, origin string, sel ledger.Selection) error {
	c, err := s.copyOf(ctx, origin)
	if err == nil {
		_, err = c.ExportSelected(ctx, w, sel)
	}
	if errors.Is(err, ledger.ErrUnsigned) {
		return &api.Error{Status: http.StatusConflict, Code: "evidence.unsigned", Message: "no signed checkpoint covers what is here of that log: its sidecar ships one when the log has come here as far as it goes, or all that one covered was removed (store.evidence_keep)"}
	}
	return err
}

// pageEvidence is what the pages ask of the log.
func (p *program) pageEvidence() web.Evidence {
	if p.shared == nil {
		return oneLog{p.trail}
	}
	return &manyLogs{&sharedRecords{SharedLog: p.shared, db: p.shipper.To, temp: p.dir}}
}

// oneLog is this process's own.
type oneLog struct{ *ledger.Log }

func (l oneLog) Proof(_ context.Context, _ string, index uint64) (evidence.Proof, string, error) {
	p, err := l.Log.Proof(index)
	return p, l.PublicKey(), err
}

// manyLogs are the copies of all. It has proofs of each, under the key of its sidecar.
type manyLogs struct{ records *sharedRecords }

func (m *manyLogs) Size() uint64 { return m.records.Size() }

func (m *manyLogs) Proof(ctx context.Context, origin string, index uint64) (evidence.Proof, string, error) {
	c, err := m.records.copyOf(ctx, origin)
	if err != nil {
		return evidence.Proof{}, "", err
	}
	p, err := c.Proof(index)
	return p, c.PublicKey, err
}
