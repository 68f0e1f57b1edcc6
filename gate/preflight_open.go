package gate

import (
	"context"
	"errors"
	"fmt"
)

// answer is what became of a question about an action, for whoever asks it again.
type answer struct {
	code, what, next string
}

// openPreflight opens the approval of an action, or attaches to the open one. An
// answer says that the question was answered already, and is not put to people
// again.
func (g *Gate) openPreflight(ctx context.Context, c *call, p Preflight) (Approval, *answer, error) {
	a := g.ask(c)
	name, err := fingerprintPreflight(c.Identity, p.Tool, p.Resource, c.reading.Calls[0].Args, p.IdempotencyKey)
	if err != nil {
		return Approval{}, nil, err
	}
	a.Fingerprint = askedBy(name, c.verdict.policy.RuleHash)
	for {
		last, err := g.store.LatestApproval(ctx, a.TenantID, a.Fingerprint)
		switch {
		case err == nil:
			if is := g.settledPreflight(c, &p, &last); is != nil {
				return last, is, nil
			}
			a.Seen = seen(last)
		case errors.Is(err, ErrNotFound):
			a.Seen = SeenNone
		default:
			g.Fault("store", fmt.Errorf("open an approval: %w", err))
			return Approval{}, nil, fmt.Errorf("open an approval: %w", err)
		}
		got, opened, err := g.store.OpenApproval(ctx, a, c.rules.room())
		switch {
		case errors.Is(err, ErrTooMany):
			return Approval{}, nil, fmt.Errorf("open an approval: %w", err) // no fault of the store
		case err != nil:
			g.Fault("store", fmt.Errorf("open an approval: %w", err))
			return Approval{}, nil, fmt.Errorf("open an approval: %w", err)
		case opened || got.State == ApprovalPending || got.State == ApprovalApproved:
			return got, nil, nil
		}
		// Answered between the two: look again.
	}
}

// settledPreflight says what the last question about the action answers to this
// one; nil when it is a question of its own.
//
// A used approval answers for the same action, which is known by its idempotency
// key. Without one a caller may well mean it a second time, unless the approval was
// used while this very question was on its way: then it was the same one.
func (g *Gate) settledPreflight(c *call, p *Preflight, last *Approval) *answer {
	over := g.now().After(last.AnswersUntil())
	switch {
	case last.State == ApprovalDenied && !over:
		return &answer{ReasonDenied, "a human denied this action" + reasonOf(*last), "Do not ask for it again unchanged."}
	case last.State == ApprovalConsumed && (p.IdempotencyKey != "" && !over || last.ClosedAt.After(c.started)):
		return &answer{
			ReasonConsumed, "the approval of this exact action was used already, by event " + last.ConsumedBy,
			"Find out what came of it before you act again; another action needs another idempotency_key.",
		}
	case last.State == ApprovalCancelled && byHand(*last) && !over:
		return &answer{ReasonCancelled, cancelled(*last), "Do not ask for it again unchanged."}
	}
	return nil
}
