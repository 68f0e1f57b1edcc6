package store

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/actpass/sidecar/gate"
)

// Prune implements gate.Store.
func (m *Memory) Prune(ctx context.Context, before, now time.Time) (n gate.Pruned, err error) {
	err = m.do(ctx, "Prune", func(s *memoryState) error {
		if before.IsZero() || now.IsZero() || before.After(now) {
			return misuse("pruning what ended before %s, at %s", before, now)
		}
		n = gate.Pruned{}
		s.pruneApprovals(before, now, &n)
		for id, g := range s.grants {
			if !g.ExpiresAt.Before(before) {
				continue
			}
			delete(s.grants, id)
			n.Grants++
			maps.DeleteFunc(s.grantUses, func(u memoryGrantUse, _ int64) bool {
				if u.grant == id {
					n.Uses++
				}
				return u.grant == id
			})
		}
		maps.DeleteFunc(s.answers, func(_ [2]string, a memoryAnswer) bool {
			if !now.Before(a.expires) {
				n.Answers++
				return true
			}
			return false
		})
		return nil
	})
	return answer(n, err)
}

func (s *memoryState) pruneApprovals(before, now time.Time, n *gate.Pruned) {
	busy := map[string]bool{} // with a move that is not on record
	for _, t := range s.transitions {
		busy[t.ApprovalID] = busy[t.ApprovalID] || !s.recorded[t.ID]
	}
	for key, a := range s.answers {
		if id, _, _ := strings.Cut(key[1], "/"); now.Before(a.expires) {
			busy[id] = true
		}
	}
	var gone []gate.Approval
	for _, a := range s.approvals {
		if closed(a.State) && a.ClosedAt.Before(before) && a.AnswersUntil().Before(now) && !busy[a.ID] {
			gone = append(gone, a)
		}
	}
	slices.SortFunc(gone, func(a, b gate.Approval) int { return a.ClosedAt.Compare(b.ClosedAt) })
	for _, a := range gone[:min(len(gone), prunePage)] {
		delete(s.approvals, a.ID)
		n.Approvals++
		s.transitions = slices.DeleteFunc(s.transitions, func(t gate.Transition) bool {
			if t.ApprovalID == a.ID {
				delete(s.recorded, t.ID)
				n.Moves++
			}
			return t.ApprovalID == a.ID
		})
	}
}

// hasMove says whether there is a transition with that id.
func (s *memoryState) hasMove(id int64) bool {
	_, found := slices.BinarySearchFunc(s.transitions, id, func(t gate.Transition, id int64) int { return cmp.Compare(t.ID, id) })
	return found
}
