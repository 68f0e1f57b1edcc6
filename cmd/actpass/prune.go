package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/store"
)

// pruneEvery is how often the store is looked through for what is over. Sidecars
// that share one come at times of their own.
const pruneEvery = time.Hour

// prune removes from the store what came to its end longer than store.keep ago, and
// at a control the copies of evidence that came longer than store.evidence_keep ago,
// until ctx ends.
func (p *program) prune(ctx context.Context) {
	keep, copies := p.cfg.Store.Keep.D(), p.cfg.Store.EvidenceKeep.D()
	if p.shared == nil { // no annotation or setting of one pod takes away what all recorded
		copies = 0
	}
	if keep == 0 && copies == 0 {
		return
	}
	for {
		if keep > 0 {
			if _, err := p.gate.Prune(ctx, keep); err != nil {
				p.fault(ctx, "store", err)
			}
		}
		if copies > 0 {
			if err := p.trimEvidence(ctx, copies); err != nil && !errors.Is(err, store.ErrAway) && ctx.Err() == nil {
				p.fault(ctx, "evidence_share", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pruneEvery - pruneEvery/8 + rand.N(pruneEvery/4)):
		}
	}
}

// trimPause leaves room between two pages for who ships and who reads.
const trimPause = 20 * time.Millisecond

// trimEvidence removes the old copies, and puts on record how much it was.
func (p *program) trimEvidence(ctx context.Context, keep time.Duration) error {
	records, until := 0, uint64(0)
	var failed error
	for ctx.Err() == nil {
		n, err := p.shipper.To.TrimShared(ctx, keep)
		if failed = err; err != nil || n.Batches == 0 {
			break
		}
		records, until = records+n.Records, n.Until
		select {
		case <-time.After(trimPause):
		case <-ctx.Done():
		}
	}
	if records == 0 {
		return failed
	}
	const what = "old copies of evidence were removed from the shared database"
	p.log.Info(what, zap.Int("records", records), zap.Uint64("first_left", until), zap.Duration("kept", keep))
	err := p.gate.Note(context.WithoutCancel(ctx), evidence.KindSystem, what, map[string]string{
		"records": strconv.Itoa(records), "first_left": strconv.FormatUint(until, 10), "kept": keep.String(),
	})
	if err != nil {
		err = fmt.Errorf("record that %s: %w", what, err)
	}
	if failed == nil {
		failed = err
	}
	return failed
}
