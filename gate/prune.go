package gate

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
)

// PruneStore is the part of a Store that forgets what is over. The evidence log is
// not its business: what happened stays on record.
type PruneStore interface {
	// Prune removes what came to its end before before: a page of closed approvals
	// with their votes and moves, of grants with their uses, and of kept answers that
	// have expired, each in a transaction of its own, and says what it removed;
	// nothing when there is no more. It never removes an approval that is open, one
	// that still answers for its call (Approval.AnswersUntil), one whose kept answer
	// has not expired, one with a move that is not on record, and one of which a
	// delivery is under way or can be sent again.
	Prune(ctx context.Context, before, now time.Time) (Pruned, error)
}

// Pruned counts what was removed.
type Pruned struct {
	Approvals int
	Moves     int // of those approvals
	Grants    int
	Uses      int // of grants
	Answers   int
}

// None says that there was nothing to remove.
func (p Pruned) None() bool { return p == Pruned{} }

func (p *Pruned) add(o Pruned) {
	p.Approvals += o.Approvals
	p.Moves += o.Moves
	p.Grants += o.Grants
	p.Uses += o.Uses
	p.Answers += o.Answers
}

// prunePause leaves room between two pages for who waits for the store.
const prunePause = 20 * time.Millisecond

// Prune removes from the store what came to its end longer than keep ago, page by
// page, and puts on record how much. It returns when there is no more, or with ctx.
//
// If we crash on the way, what was removed so far is not told of; each of those
// approvals and grants has its own records in the log.
func (g *Gate) Prune(ctx context.Context, keep time.Duration) (Pruned, error) {
	var all Pruned
	var failed error
	for {
		now := g.now()
		n, err := g.store.Prune(ctx, now.Add(-keep), now)
		all.add(n)
		if err != nil && ctx.Err() == nil {
			failed = fmt.Errorf("remove old approvals: %w", err)
		}
		if err != nil || n.None() {
			break
		}
		select {
		case <-time.After(prunePause):
		case <-ctx.Done():
		}
	}
	if all.Approvals == 0 && all.Grants == 0 {
		return all, failed
	}
	g.log.Info("old approvals and grants were removed from the store", zap.Int("approvals", all.Approvals), zap.Int("moves", all.Moves),
		zap.Int("grants", all.Grants), zap.Duration("kept", keep))
	err := g.Note(ctx, evidence.KindSystem, "old approvals and grants were removed from the store", map[string]string{
		"approvals": strconv.Itoa(all.Approvals), "moves": strconv.Itoa(all.Moves), "grants": strconv.Itoa(all.Grants),
		"uses": strconv.Itoa(all.Uses), "answers": strconv.Itoa(all.Answers), "kept": keep.String(),
	})
	if failed == nil {
		failed = err
	}
	return all, failed
}
