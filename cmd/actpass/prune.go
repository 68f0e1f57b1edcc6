package main

import (
	"context"
	"math/rand/v2"
	"time"
)

// pruneEvery is how often the store is looked through for what is over. Sidecars
// that share one come at times of their own.
const pruneEvery = time.Hour

// prune removes from the store what came to its end longer than store.keep ago,
// until ctx ends.
func (p *program) prune(ctx context.Context) {
	keep := p.cfg.Store.Keep.D()
	if keep == 0 {
		return
	}
	for {
		if _, err := p.gate.Prune(ctx, keep); err != nil {
			p.fault(ctx, "store", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pruneEvery - pruneEvery/8 + rand.N(pruneEvery/4)):
		}
	}
}
