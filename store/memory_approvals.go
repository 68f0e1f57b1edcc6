package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/actpass/sidecar/gate"
)

// private copies an approval so that the caller and the store share nothing.
func private(a gate.Approval) (gate.Approval, error) {
	if a.Args != nil {
		raw, err := json.Marshal(a.Args)
		if err != nil {
			return gate.Approval{}, fmt.Errorf("encode the arguments: %w", err)
		}
		if a.Args, err = decodeArgs(bytes.Clone(raw)); err != nil {
			return gate.Approval{}, err
		}
	}
	if a.Request != nil {
		r := *a.Request
		a.Request = &r
	}
	a.Approvers, a.Votes = slices.Clone(a.Approvers), slices.Clone(a.Votes)
	return a, nil
}

// put writes a and its transition.
func (s *memoryState) put(a gate.Approval, t gate.Transition) {
	s.approvals[a.ID] = a
	s.lastMove++
	t.ID = s.lastMove
	s.transitions = append(s.transitions, t)
}

func isOpen(a gate.Approval) bool {
	return a.State == gate.ApprovalPending || a.State == gate.ApprovalApproved
}

// OpenApproval implements gate.Store.
func (m *Memory) OpenApproval(ctx context.Context, a gate.Approval, room gate.Room) (got gate.Approval, isNew bool, err error) {
	err = m.do(ctx, "OpenApproval", func(s *memoryState) error {
		if err := checkOpen(a); err != nil {
			return err
		}
		mine, err := private(opened(a))
		if err != nil {
			return err
		}
		pending, ofAgent := 0, 0
		var overdue []func()
		for _, old := range s.approvals {
			if old.TenantID != mine.TenantID {
				continue
			}
			if isOpen(old) && old.Fingerprint == mine.Fingerprint {
				t, over := expire(&old, mine.CreatedAt)
				if !over {
					got, err = private(old)
					return err
				}
				overdue = append(overdue, func() { s.put(old, t) })
			}
			if old.State == gate.ApprovalPending {
				pending++
				if old.AgentID == mine.AgentID {
					ofAgent++
				}
			}
		}
		if mine.Seen != "" {
			latest, _, err := newestFirst(s.approvals, approvalPosition, func(a gate.Approval) bool {
				return a.TenantID == mine.TenantID && a.Fingerprint == mine.Fingerprint
			}, "", 1)
			if err != nil {
				return err
			}
			if len(latest) == 1 && latest[0].ID != mine.Seen {
				for _, put := range overdue {
					put() // as it is, and not as it was: nobody may wait for what is over
				}
				got, err = private(s.approvals[latest[0].ID])
				return err
			}
			mine.Seen = ""
		}
		if err := roomLeft(room, pending, ofAgent); err != nil {
			return fmt.Errorf("open approval %s: %w", mine.ID, err)
		}
		if _, taken := s.approvals[mine.ID]; taken {
			return misuse("approval %s exists", mine.ID)
		}
		for _, put := range overdue {
			put()
		}
		s.approvals[mine.ID] = mine
		isNew = true
		got, err = private(mine)
		return err
	})
	got, err = answer(got, err)
	return got, isNew && err == nil, err
}

// LatestApproval implements gate.Store.
func (m *Memory) LatestApproval(ctx context.Context, tenant, fingerprint string) (got gate.Approval, err error) {
	err = m.do(ctx, "LatestApproval", func(s *memoryState) error {
		list, _, err := newestFirst(s.approvals, approvalPosition, func(a gate.Approval) bool {
			return a.TenantID == tenant && a.Fingerprint == fingerprint
		}, "", 1)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return notFound("approval of fingerprint", fingerprint)
		}
		got, err = private(list[0])
		return err
	})
	return answer(got, err)
}

// GetApproval implements gate.Store.
func (m *Memory) GetApproval(ctx context.Context, tenant, id string) (got gate.Approval, err error) {
	err = m.do(ctx, "GetApproval", func(s *memoryState) error {
		a, ok := s.approvals[id]
		if !ok || a.TenantID != tenant {
			return notFound("approval", id)
		}
		got, err = private(a)
		return err
	})
	return answer(got, err)
}

// Approvals implements gate.Store.
func (m *Memory) Approvals(ctx context.Context, q gate.ApprovalQuery) (list []gate.Approval, next string, err error) {
	err = m.do(ctx, "Approvals", func(s *memoryState) (err error) {
		list, next, err = newestFirst(s.approvals, approvalPosition, func(a gate.Approval) bool {
			return a.TenantID == q.TenantID && (q.State == "" || a.State == q.State) && (q.AgentID == "" || a.AgentID == q.AgentID)
		}, q.Cursor, q.Limit)
		for i := range list {
			if err == nil {
				list[i], err = private(list[i])
			}
		}
		return err
	})
	return list, next, err
}

func (m *Memory) change(ctx context.Context, method, tenant, id string, step func(*gate.Approval) (gate.Transition, error)) (got gate.Approval, err error) {
	err = m.do(ctx, method, func(s *memoryState) error {
		a, ok := s.approvals[id]
		if !ok || a.TenantID != tenant {
			return notFound("approval", id)
		}
		a, err := private(a)
		if err != nil {
			return err
		}
		t, err := step(&a)
		if err != nil {
			return err
		}
		s.put(a, t)
		got, err = private(a)
		return err
	})
	return answer(got, err)
}

// Vote implements gate.Store.
func (m *Memory) Vote(ctx context.Context, tenant, id string, v gate.Vote, to []string) (gate.Approval, error) {
	return m.change(ctx, "Vote", tenant, id, func(a *gate.Approval) (gate.Transition, error) { return vote(a, v, to) })
}

// Consume implements gate.Store. An event that consumed this approval already
// was told so, or was told of a failure after which it must not try again.
func (m *Memory) Consume(ctx context.Context, tenant, id, eventID string, now time.Time) (gate.Approval, error) {
	return m.change(ctx, "Consume", tenant, id, func(a *gate.Approval) (gate.Transition, error) {
		if a.ConsumedBy == eventID && eventID != "" {
			return gate.Transition{}, errors.Join(misuse("event %s consumes %s twice", eventID, id), gate.ErrIllegalState)
		}
		return consume(a, eventID, now)
	})
}

// Cancel implements gate.Store.
func (m *Memory) Cancel(ctx context.Context, tenant, id string, v gate.Vote) (gate.Approval, error) {
	return m.change(ctx, "Cancel", tenant, id, func(a *gate.Approval) (gate.Transition, error) { return cancel(a, v) })
}

// ExpireApprovals implements gate.Store.
func (m *Memory) ExpireApprovals(ctx context.Context, now time.Time) (list []gate.Approval, err error) {
	err = m.do(ctx, "ExpireApprovals", func(s *memoryState) error {
		if now.IsZero() {
			return misuse("expiring approvals without a time")
		}
		var over []gate.Approval
		for _, a := range s.approvals {
			if isOpen(a) && past(now, due(a)) {
				over = append(over, a)
			}
		}
		slices.SortFunc(over, func(a, b gate.Approval) int {
			return cmp.Or(due(a).Compare(due(b)), cmp.Compare(a.ID, b.ID))
		})
		for _, a := range over[:min(len(over), expirePage)] {
			t, _ := expire(&a, now)
			s.put(a, t)
			got, err := private(a)
			if err != nil {
				return err
			}
			list = append(list, got)
		}
		return nil
	})
	return answer(list, err)
}

// Unrecorded implements gate.Store.
func (m *Memory) Unrecorded(ctx context.Context, limit int) (list []gate.Transition, err error) {
	err = m.do(ctx, "Unrecorded", func(s *memoryState) error {
		for _, t := range s.transitions {
			if !s.recorded[t.ID] && len(list) < pageSize(limit) {
				list = append(list, t)
			}
		}
		return nil
	})
	return answer(list, err)
}

// MarkRecorded implements gate.Store.
func (m *Memory) MarkRecorded(ctx context.Context, ids ...int64) error {
	return m.do(ctx, "MarkRecorded", func(s *memoryState) error {
		for _, id := range ids {
			if !s.hasMove(id) {
				return misuse("there is no transition %d", id)
			}
		}
		for _, id := range ids {
			s.recorded[id] = true
		}
		return nil
	})
}

// Moved implements gate.Store.
func (m *Memory) Moved(ctx context.Context, after int64) (list []string, last int64, err error) {
	err = m.do(ctx, "Moved", func(s *memoryState) error {
		last = max(after, 0)
		if after < 0 {
			last = s.lastMove
		}
		for _, t := range s.transitions {
			if t.ID > last && len(list) < maxLimit {
				list, last = append(list, t.ApprovalID), t.ID
			}
		}
		return nil
	})
	if err != nil {
		return nil, after, err
	}
	return list, last, nil
}
