package main

import (
	"context"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
)

// lastRecords is how much of the log is read at start to find calls that took a
// share of a limit and were never recorded. Each call leaves two records, and no
// more calls are between the two steps than there are connections.
const lastRecords = 4096

// recoverLimits gives back what calls took that a crash cut off before they were
// recorded.
//
// With evidence.durability: async a power cut may have taken the record of a call that
// was sent. Then no missing record says that nothing was, and the shares stay taken
// until their windows end.
func (p *program) recoverLimits(ctx context.Context) error {
	if p.cfg.Evidence.Durability == "async" {
		return nil
	}
	known, err := p.lastEvents()
	if err != nil {
		return fmt.Errorf("read the end of the evidence log: %w", err)
	}
	n, err := p.gate.ReleaseUnrecorded(ctx, known)
	if n > 0 {
		p.log.Warn("calls were cut off after they took shares of limits; they were not sent, and the shares are given back", zap.Int("calls", n))
	}
	return err
}

// lastEvents tells of an event whether it stands in the log, as far as its end
// was read: what is older than that is taken to stand there. Ids rise with time.
func (p *program) lastEvents() (func(id string) bool, error) {
	from, first := uint64(0), p.trail.First()
	if size := p.trail.Size(); size > lastRecords {
		from = size - lastRecords
	}
	from = max(from, first)
	var ids []string
	for at := from; at < p.trail.Size(); {
		entries, err := p.trail.Read(at, lastRecords)
		if err != nil {
			return nil, err
		}
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			if ev, _, err := evidence.DecodeRecord(e.Record); err == nil && ev != nil && ev.Kind == evidence.KindAction {
				ids = append(ids, ev.ID)
			}
		}
		at = entries[len(entries)-1].Index + 1
	}
	oldest := ""
	if from > 0 && len(ids) == 0 {
		return func(string) bool { return true }, nil
	}
	if from > 0 {
		// Calls are recorded a little out of the order of their ids.
		oldest = slices.Max(ids[:(len(ids)+1)/2])
	}
	slices.Sort(ids)
	return func(id string) bool {
		_, found := slices.BinarySearch(ids, id)
		return found || id <= oldest
	}, nil
}
