package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

const approvalColumns = `id, tenant_id, fingerprint, agent_id, state, created_at, expires_at, decided_at, use_before, closed_at, approvers, votes, consumed_by, question`

// question is the part of an approval that never changes, as it is stored. New
// members are added; none changes its name.
type question struct {
	KeyID      string            `json:"key_id,omitempty"`
	UserID     string            `json:"user_id,omitempty"`
	Goal       string            `json:"goal,omitempty"`
	EventID    string            `json:"event_id,omitempty"`
	Tool       string            `json:"tool,omitempty"`
	Resource   string            `json:"resource,omitempty"`
	Risk       string            `json:"risk,omitempty"`
	Args       json.RawMessage   `json:"args,omitempty"`
	Request    *evidence.Request `json:"request,omitempty"`
	ReasonCode string            `json:"reason_code,omitempty"`
	Summary    string            `json:"summary,omitempty"`
	Policy     string            `json:"policy,omitempty"`
	Rule       string            `json:"rule,omitempty"`
	RuleHash   string            `json:"rule_hash,omitempty"`
	Required   int               `json:"required"`
	UseWithin  int64             `json:"use_within"` // microseconds
}

// storedVote is a vote as it is stored. Votes of before role and groups were kept
// have neither, and do not outlast an escalation.
type storedVote struct {
	KeyID    string   `json:"key_id"`
	Name     string   `json:"name,omitempty"`
	Role     string   `json:"role,omitempty"`
	Groups   []string `json:"groups,omitempty"`
	Decision string   `json:"decision"`
	Reason   string   `json:"reason,omitempty"`
	At       int64    `json:"at"` // microseconds
}

func encodeQuestion(a gate.Approval) (string, error) {
	q := question{
		KeyID: a.KeyID, UserID: a.UserID, Goal: a.Goal, EventID: a.EventID,
		Tool: a.Tool, Resource: a.Resource, Risk: a.Risk, Request: a.Request,
		ReasonCode: a.ReasonCode, Summary: a.Summary, Policy: a.Policy, Rule: a.Rule, RuleHash: a.RuleHash,
		Required: a.Required, UseWithin: a.UseWithin.Microseconds(),
	}
	if a.Args != nil {
		args, err := json.Marshal(a.Args)
		if err != nil {
			return "", fmt.Errorf("encode the arguments: %w", err)
		}
		q.Args = args
	}
	raw, err := json.Marshal(q)
	return string(raw), err
}

func encodeVotes(votes []gate.Vote) (string, error) {
	list := make([]storedVote, len(votes))
	for i, v := range votes {
		list[i] = storedVote{KeyID: v.KeyID, Name: v.Name, Role: v.Role, Groups: v.Groups, Decision: v.Decision, Reason: v.Reason, At: micros(v.Time)}
	}
	raw, err := json.Marshal(list)
	return string(raw), err
}

func scanApproval(row scanner) (gate.Approval, error) {
	var a gate.Approval
	var created, expires, decided, useBefore, closed int64
	var approvers, votes, rest []byte
	err := row.Scan(&a.ID, &a.TenantID, &a.Fingerprint, &a.AgentID, &a.State, &created, &expires, &decided, &useBefore, &closed,
		&approvers, &votes, &a.ConsumedBy, &rest)
	if err != nil {
		return gate.Approval{}, err
	}
	a.CreatedAt, a.ExpiresAt = fromMicros(created), fromMicros(expires)
	a.DecidedAt, a.UseBefore, a.ClosedAt = fromMicros(decided), fromMicros(useBefore), fromMicros(closed)
	var q question
	var vs []storedVote
	if err := errors.Join(decodeList(approvers, &a.Approvers), decodeList(votes, &vs), json.Unmarshal(rest, &q)); err != nil {
		return gate.Approval{}, fmt.Errorf("approval %s as stored: %w", a.ID, err)
	}
	for _, v := range vs {
		a.Votes = append(a.Votes, gate.Vote{KeyID: v.KeyID, Name: v.Name, Role: v.Role, Groups: v.Groups, Decision: v.Decision, Reason: v.Reason, Time: fromMicros(v.At)})
	}
	a.KeyID, a.UserID, a.Goal, a.EventID = q.KeyID, q.UserID, q.Goal, q.EventID
	a.Tool, a.Resource, a.Risk, a.Request = q.Tool, q.Resource, q.Risk, q.Request
	a.ReasonCode, a.Summary, a.Policy, a.Rule, a.RuleHash = q.ReasonCode, q.Summary, q.Policy, q.Rule, q.RuleHash
	a.Required, a.UseWithin = q.Required, time.Duration(q.UseWithin)*time.Microsecond
	if q.Args != nil {
		if a.Args, err = decodeArgs(q.Args); err != nil {
			return gate.Approval{}, fmt.Errorf("arguments of approval %s as stored: %w", a.ID, err)
		}
	}
	return a, nil
}

// decodeList is json.Unmarshal, but that most lists are empty.
func decodeList[T any](raw []byte, list *[]T) error {
	if string(raw) == "[]" {
		*list = []T{}
		return nil
	}
	return json.Unmarshal(raw, list)
}

// approval reads the one row of query.
func (b *batch) approval(query string, args ...any) (gate.Approval, error) {
	return scanApproval(b.one(query, args...))
}

// save writes the state of a and the transition that led to it.
func (b *batch) save(a gate.Approval, t gate.Transition) error {
	votes, err := encodeVotes(a.Votes)
	if err != nil {
		return err
	}
	approvers, err := json.Marshal(a.Approvers)
	if err != nil {
		return err
	}
	err = b.run(`UPDATE approvals SET state = ?, due_at = ?, decided_at = ?, use_before = ?, closed_at = ?, rest_at = ?, approvers = ?, votes = ?, consumed_by = ? WHERE id = ?`,
		a.State, micros(due(a)), micros(a.DecidedAt), micros(a.UseBefore), micros(a.ClosedAt), micros(restAt(a)), string(approvers), votes, a.ConsumedBy, a.ID)
	if err != nil {
		return err
	}
	if t.From == gate.ApprovalPending && t.To != gate.ApprovalPending {
		if err := b.uncountPending(a); err != nil {
			return err
		}
	}
	return b.run(`INSERT INTO transitions (approval_id, tenant_id, from_state, to_state, actor, reason, at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		t.ApprovalID, t.TenantID, t.From, t.To, t.Actor, t.Reason, micros(t.Time))
}

// Scopes of the pending counts: counting rows at each opening cost more than all
// the rest of it, once thousands were pending.
const (
	countTenant = "tenant"
	countAgent  = "agent"
)

// pending is how many approvals of a tenant, and of one agent in it, are pending.
func (b *batch) pending(tenant, agent string) (all, ofAgent int, err error) {
	err = b.row(`SELECT
		coalesce((SELECT pending FROM pending_counts WHERE tenant_id = ? AND scope = '`+countTenant+`' AND name = ''), 0),
		coalesce((SELECT pending FROM pending_counts WHERE tenant_id = ? AND scope = '`+countAgent+`' AND name = ?), 0)`,
		[]any{tenant, tenant, agent}, &all, &ofAgent)
	return all, ofAgent, err
}

// countPending adds one to the counts of a's tenant and agent, in the transaction
// that makes a pending.
func (b *batch) countPending(a gate.Approval) error {
	for _, c := range [][2]string{{countTenant, ""}, {countAgent, a.AgentID}} {
		err := b.run(`INSERT INTO pending_counts (tenant_id, scope, name, pending) VALUES (?, ?, ?, 1)
			ON CONFLICT (tenant_id, scope, name) DO UPDATE SET pending = pending_counts.pending + 1`, a.TenantID, c[0], c[1])
		if err != nil {
			return err
		}
	}
	return nil
}

// uncountPending takes it away again, in the transaction that moves a on. What
// names agents may name any number of them, so a count that is zero is not kept.
func (b *batch) uncountPending(a gate.Approval) error {
	err := b.run(`UPDATE pending_counts SET pending = pending - 1 WHERE tenant_id = ?
		AND (scope = '`+countTenant+`' AND name = '' OR scope = '`+countAgent+`' AND name = ?)`, a.TenantID, a.AgentID)
	if err != nil {
		return err
	}
	return b.run(`DELETE FROM pending_counts WHERE tenant_id = ? AND scope = '`+countAgent+`' AND name = ? AND pending = 0`, a.TenantID, a.AgentID)
}

// OpenApproval implements gate.Store. An open one of the fingerprint that is past
// its time, and that ExpireApprovals has not met yet, is expired on the way.
func (s *tables) OpenApproval(ctx context.Context, a gate.Approval, room gate.Room) (gate.Approval, bool, error) {
	if err := checkOpen(a); err != nil {
		return gate.Approval{}, false, err
	}
	a = opened(a)
	rest, err := encodeQuestion(a)
	if err != nil {
		return gate.Approval{}, false, fmt.Errorf("open approval %s: %w", a.ID, err)
	}
	approvers, err := json.Marshal(a.Approvers)
	if err != nil {
		return gate.Approval{}, false, fmt.Errorf("open approval %s: %w", a.ID, err)
	}
	var got gate.Approval
	var isNew bool
	err = s.transact(ctx, moves, func(b *batch) error {
		open, err := b.approval(`SELECT `+approvalColumns+` FROM approvals
			WHERE tenant_id = ? AND fingerprint = ? AND state IN ('pending', 'approved')`, a.TenantID, a.Fingerprint)
		switch {
		case err == nil:
			t, over := expire(&open, a.CreatedAt)
			if !over {
				got, isNew = open, false
				return nil
			}
			if err := b.save(open, t); err != nil {
				return err
			}
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		if a.Seen != "" {
			latest, err := b.approval(`SELECT `+approvalColumns+` FROM approvals
				WHERE tenant_id = ? AND fingerprint = ? ORDER BY created_at DESC, id DESC LIMIT 1`, a.TenantID, a.Fingerprint)
			switch {
			case err == nil && latest.ID != a.Seen:
				got, isNew = latest, false
				return nil
			case err != nil && !errors.Is(err, sql.ErrNoRows):
				return err
			}
		}
		pending, ofAgent, err := b.pending(a.TenantID, a.AgentID)
		if err != nil {
			return err
		}
		if err := roomLeft(room, pending, ofAgent); err != nil {
			return err
		}
		if err := b.countPending(a); err != nil {
			return err
		}
		err = b.run(`INSERT INTO approvals (`+approvalColumns+`, due_at) VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, ?, '[]', '', ?, ?)`,
			a.ID, a.TenantID, a.Fingerprint, a.AgentID, a.State, micros(a.CreatedAt), micros(a.ExpiresAt),
			string(approvers), rest, micros(due(a)))
		if err != nil {
			return err
		}
		got, err = b.approval(`SELECT `+approvalColumns+` FROM approvals WHERE id = ?`, a.ID)
		isNew = true
		return err
	})
	if err != nil {
		return gate.Approval{}, false, fmt.Errorf("open approval %s: %w", a.ID, err)
	}
	return got, isNew, nil
}

func (s *tables) findApproval(ctx context.Context, what, id, query string, args ...any) (gate.Approval, error) {
	a, err := scanApproval(s.row(ctx, query, args...))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return gate.Approval{}, notFound(what, id)
	case err != nil:
		return gate.Approval{}, fmt.Errorf("read %s %s: %w", what, id, err)
	}
	return a, nil
}

// LatestApproval implements gate.Store.
func (s *tables) LatestApproval(ctx context.Context, tenant, fingerprint string) (gate.Approval, error) {
	return s.findApproval(ctx, "approval of fingerprint", fingerprint, `SELECT `+approvalColumns+` FROM approvals
		WHERE tenant_id = ? AND fingerprint = ? ORDER BY created_at DESC, id DESC LIMIT 1`, tenant, fingerprint)
}

// GetApproval implements gate.Store.
func (s *tables) GetApproval(ctx context.Context, tenant, id string) (gate.Approval, error) {
	return s.findApproval(ctx, "approval", id, `SELECT `+approvalColumns+` FROM approvals WHERE id = ? AND tenant_id = ?`, id, tenant)
}

// Approvals implements gate.Store.
func (s *tables) Approvals(ctx context.Context, q gate.ApprovalQuery) ([]gate.Approval, string, error) {
	from, err := parsePosition(q.Cursor)
	if err != nil {
		return nil, "", err
	}
	limit := pageSize(q.Limit)
	query := `SELECT ` + approvalColumns + ` FROM approvals WHERE tenant_id = ? AND (created_at, id) < (?, ?)`
	args := []any{q.TenantID, from.at, from.id}
	if q.State != "" {
		query += ` AND state = ?`
		args = append(args, q.State)
	}
	if q.AgentID != "" {
		query += ` AND agent_id = ?`
		args = append(args, q.AgentID)
	}
	var list []gate.Approval
	err = s.each(ctx, query+` ORDER BY created_at DESC, id DESC LIMIT ?`, append(args, limit+1), func(row scanner) error {
		a, err := scanApproval(row)
		list = append(list, a)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list approvals: %w", err)
	}
	list, next := page(list, limit, approvalPosition)
	return list, next, nil
}

func approvalPosition(a gate.Approval) position { return position{at: micros(a.CreatedAt), id: a.ID} }

// change reads an approval, lets step move it, and writes both in one transaction.
func (s *tables) change(ctx context.Context, what, tenant, id string, step func(*gate.Approval) (gate.Transition, error)) (gate.Approval, error) {
	var got gate.Approval
	err := s.transact(ctx, moves, func(b *batch) error {
		a, err := b.approval(`SELECT `+approvalColumns+` FROM approvals WHERE id = ? AND tenant_id = ?`, id, tenant)
		if errors.Is(err, sql.ErrNoRows) {
			return notFound("approval", id)
		}
		if err != nil {
			return err
		}
		t, err := step(&a)
		if err != nil {
			return err
		}
		got = a
		return b.save(a, t)
	})
	if err != nil {
		return gate.Approval{}, fmt.Errorf("%s approval %s: %w", what, id, err)
	}
	return got, nil
}

// Vote implements gate.Store.
func (s *tables) Vote(ctx context.Context, tenant, id string, v gate.Vote, to []string) (gate.Approval, error) {
	return s.change(ctx, "vote on", tenant, id, func(a *gate.Approval) (gate.Transition, error) { return vote(a, v, to) })
}

// Consume implements gate.Store.
func (s *tables) Consume(ctx context.Context, tenant, id, eventID string, now time.Time) (gate.Approval, error) {
	return s.change(ctx, "consume", tenant, id, func(a *gate.Approval) (gate.Transition, error) { return consume(a, eventID, now) })
}

// Cancel implements gate.Store.
func (s *tables) Cancel(ctx context.Context, tenant, id string, v gate.Vote) (gate.Approval, error) {
	return s.change(ctx, "cancel", tenant, id, func(a *gate.Approval) (gate.Transition, error) { return cancel(a, v) })
}

// ExpireApprovals implements gate.Store.
func (s *tables) ExpireApprovals(ctx context.Context, now time.Time) ([]gate.Approval, error) {
	if now.IsZero() {
		return nil, misuse("expiring approvals without a time")
	}
	// Most of the time nothing is due: that must not cost a transaction.
	const dueIDs = `FROM approvals WHERE state IN ('pending', 'approved') AND due_at < ?`
	var some bool
	if err := s.row(ctx, `SELECT EXISTS (SELECT 1 `+dueIDs+`)`, micros(now)).Scan(&some); err != nil {
		return nil, fmt.Errorf("look for expired approvals: %w", err)
	}
	if !some {
		return nil, nil
	}
	var list []gate.Approval
	err := s.transact(ctx, moves, func(b *batch) error {
		list = nil
		err := b.each(`SELECT `+approvalColumns+` `+dueIDs+` ORDER BY due_at, id LIMIT ?`, []any{micros(now), expirePage}, func(row scanner) error {
			a, err := scanApproval(row)
			list = append(list, a)
			return err
		})
		if err != nil {
			return err
		}
		for i := range list {
			t, over := expire(&list[i], now)
			if !over {
				return fmt.Errorf("approval %s is due at %s but not over", list[i].ID, due(list[i]))
			}
			if err := b.save(list[i], t); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("expire approvals: %w", err)
	}
	return list, nil
}
