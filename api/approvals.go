package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// Approval is an approval as the API shows it.
type Approval struct {
	ID         string            `json:"id"`
	State      string            `json:"state"` // pending, approved, denied, expired, cancelled, consumed
	Tool       string            `json:"tool"`
	Resource   string            `json:"resource"`
	RiskTier   string            `json:"risk_tier"`
	Args       map[string]any    `json:"args"` // redacted; never null
	AgentID    string            `json:"agent_id"`
	UserID     string            `json:"user_id"`
	Goal       string            `json:"goal"`
	ReasonCode string            `json:"reason_code"`
	Summary    string            `json:"summary"`
	Policy     string            `json:"policy"`
	Rule       string            `json:"rule"`
	Approvers  []string          `json:"approvers"` // groups; empty: any approver
	Required   int               `json:"required"`  // different keys that must approve
	Votes      []Vote            `json:"votes"`     // never null
	CreatedAt  evidence.Time     `json:"created_at"`
	ExpiresAt  evidence.Time     `json:"expires_at"` // of the decision
	DecidedAt  *evidence.Time    `json:"decided_at"`
	UseBefore  *evidence.Time    `json:"use_before"` // set when approved
	EventID    string            `json:"event_id"`
	Request    *evidence.Request `json:"request"` // null for an action of the preflight API
	ConsumedBy string            `json:"consumed_by"`

	Age       int64            `json:"age_seconds"`        // since it was asked for
	ExpiresIn *int64           `json:"expires_in_seconds"` // until it ends by itself: of the decision, then of the use; null when closed
	Outcome   *ApprovalOutcome `json:"outcome"`            // of the call that used it; null before, and in answers about words and events

	// Beside are the rules that would have let it go without a human, and what it
	// is away from them; in the answer about this one approval only.
	Beside []RuleBeside `json:"beside,omitempty"`

	// In the answer to the word that approved it, and nowhere else.
	PassportToken     string         `json:"passport_token,omitempty"`
	PassportExpiresAt *evidence.Time `json:"passport_expires_at,omitempty"`
	Grant             *Grant         `json:"grant,omitempty"` // that was made with it
}

// RuleBeside is a rule that allows and that the call does not meet.
type RuleBeside struct {
	Rule     string   `json:"rule"`
	Decision string   `json:"decision"`
	When     string   `json:"when"`
	Misses   []string `json:"misses"` // never null
}

// Vote is one human's word; with cancel, also the asking agent's own.
type Vote struct {
	KeyID    string        `json:"key_id"`
	Name     string        `json:"name"`
	Decision string        `json:"decision"` // approve, deny, escalate, cancel
	Reason   string        `json:"reason"`
	Time     evidence.Time `json:"time"`
	Counts   bool          `json:"counts"` // an approval towards Required; one of before an escalation may not be
}

// Given is how many of the approvals that a needs it has.
func (a *Approval) Given() (n int) {
	for _, v := range a.Votes {
		if v.Counts {
			n++
		}
	}
	return n
}

// UnmarshalJSON keeps the numbers of Args as they were written: a human who
// decides must see the amount, and not what floating point makes of it.
func (a *Approval) UnmarshalJSON(b []byte) error {
	type plain Approval // without this method
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode((*plain)(a))
}

// ApprovalOf renders a as it is at now, without what came of its use.
func ApprovalOf(a gate.Approval, now time.Time) Approval {
	out := Approval{
		ID: a.ID, State: a.State, Tool: a.Tool, Resource: a.Resource, RiskTier: a.Risk, Args: a.Args, AgentID: a.AgentID, UserID: a.UserID,
		Goal: a.Goal, ReasonCode: a.ReasonCode, Summary: a.Summary, Policy: a.Policy, Rule: a.Rule, Approvers: list(a.Approvers), Required: a.Required,
		Votes: []Vote{}, CreatedAt: evidence.Time{Time: a.CreatedAt}, ExpiresAt: evidence.Time{Time: a.ExpiresAt}, DecidedAt: moment(a.DecidedAt),
		UseBefore: moment(a.UseBefore), EventID: a.EventID, Request: a.Request, ConsumedBy: a.ConsumedBy,
		Age: max(0, int64(now.Sub(a.CreatedAt)/time.Second)),
	}
	var end time.Time
	switch a.State {
	case gate.ApprovalPending:
		end = a.ExpiresAt
	case gate.ApprovalApproved:
		end = a.UseBefore
	}
	if !end.IsZero() {
		left := max(0, int64(end.Sub(now)/time.Second))
		out.ExpiresIn = &left
	}
	if out.Args == nil {
		out.Args = map[string]any{}
	}
	for i, v := range a.Votes {
		out.Votes = append(out.Votes, Vote{KeyID: v.KeyID, Name: v.Name, Decision: v.Decision, Reason: v.Reason, Time: evidence.Time{Time: v.Time}, Counts: a.Counts(i)})
	}
	return out
}

// listApprovals gives a gateway key the approvals of its own agent, and others
// all of the tenant.
func (s *server) listApprovals(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	q, err := readQuery(r, "state", "outcome", "agent_id", "limit", "cursor")
	if err != nil {
		return err
	}
	limit, err := q.limit()
	if err != nil {
		return err
	}
	state, err := q.oneOf("state", gate.ApprovalPending, gate.ApprovalApproved, gate.ApprovalDenied, gate.ApprovalExpired, gate.ApprovalCancelled, gate.ApprovalConsumed)
	if err != nil {
		return err
	}
	outcome, err := q.oneOf("outcome", outcomes...)
	if err != nil {
		return err
	}
	if outcome != "" {
		if state != "" && state != gate.ApprovalConsumed {
			return invalid("state", "only those that are consumed have an outcome")
		}
		state = gate.ApprovalConsumed
	}
	agent := q["agent_id"]
	if own := ownAgent(id); own != "" {
		if agent != "" && agent != own {
			return &Error{Status: http.StatusForbidden, Code: "forbidden", Message: "this key speaks for the agent " + own + " and sees its approvals only"}
		}
		agent = own
	}
	p := Page[Approval]{Data: []Approval{}, Next: q["cursor"]}
	waited := false
	// What came of a call is in the log's index, and the approval in the store. A page
	// of the store is looked through, and the next one as long as nothing was in it: a
	// list by outcome may have fewer than limit, and goes on where next_cursor says.
	for looked := 0; ; {
		found, next, err := s.Gate.Approvals(r.Context(), reader(id), gate.ApprovalQuery{TenantID: id.TenantID, State: state, AgentID: agent, Cursor: p.Next, Limit: limit})
		if err != nil {
			return about("approval", storeDown, err)
		}
		p.Next = next
		for _, a := range found {
			if !maySee(id, &a) {
				continue
			}
			if d := s.shown(r, a, &waited); outcome == "" || d.came(outcome) {
				p.Data = append(p.Data, d)
			}
		}
		if looked += len(found); outcome == "" || len(p.Data) > 0 || next == "" || looked >= maxLooked {
			return writeJSON(w, http.StatusOK, p)
		}
	}
}

// ownAgent is the one agent that a gateway key speaks for, "" when the key is
// not bound to one and for people.
func ownAgent(id gate.Identity) string {
	if id.Role == gate.RoleGateway {
		return id.AgentID
	}
	return ""
}

// maySee says whose approvals a key may see: people all of the tenant, a gateway
// key its agent's, and one that is bound to no agent those that it asked for.
func maySee(id gate.Identity, a *gate.Approval) bool {
	switch own := ownAgent(id); {
	case id.Role != gate.RoleGateway:
		return true
	case own != "":
		return a.AgentID == own
	}
	return a.KeyID == id.KeyID
}

// reader is id as it asks the gate for approvals. The gate knows an agent by its
// name alone; a key bound to none has no name before it acts, so maySee judges
// it by the key instead.
func reader(id gate.Identity) gate.Identity {
	if id.Role == gate.RoleGateway && id.AgentID == "" {
		id.Role = gate.RoleApprover
	}
	return id
}

// getApproval gives one; with wait, when it is no longer pending or wait is over.
func (s *server) getApproval(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	key, err := pathID(r, "apr_", "approval")
	if err != nil {
		return err
	}
	q, err := readQuery(r, "wait")
	if err != nil {
		return err
	}
	wait, err := q.wait()
	if err != nil {
		return err
	}
	// Look first and wait then, so that a key learns nothing of another agent's
	// approval, not even by how long the answer takes.
	a, err := s.Gate.Approval(r.Context(), reader(id), key, 0)
	if err == nil && !maySee(id, &a) {
		err = gate.ErrNotFound
	}
	if err == nil && wait > 0 && a.State == gate.ApprovalPending {
		a, err = s.Gate.Approval(r.Context(), reader(id), key, wait)
	}
	if err != nil {
		return about("approval", storeDown, err)
	}
	waited := false
	d := s.shown(r, a, &waited)
	if id.Role != gate.RoleGateway && a.State == gate.ApprovalPending {
		for _, b := range s.Gate.Beside(&a) {
			d.Beside = append(d.Beside, RuleBeside{Rule: b.Rule, Decision: b.Decision, When: b.When, Misses: list(b.Misses)})
		}
	}
	return writeJSON(w, http.StatusOK, d)
}

// Verdict is the body of POST /api/v1/approvals/{id}/decide.
type Verdict struct {
	Decision string   `json:"decision"` // approve, deny, escalate, cancel
	Reason   string   `json:"reason,omitempty"`
	To       []string `json:"to,omitempty"` // groups, for escalate; without it, keys with role admin
	// Grant approves, with this call, those like it. What it leaves empty is this
	// approval's.
	Grant *NewGrant `json:"grant,omitempty"`
}

func (v Verdict) check() error {
	switch v.Decision {
	case gate.Approve, gate.DenyIt, gate.Escalate, gate.Cancel:
	case "":
		return invalid("decision", "is required: approve, deny, escalate or cancel")
	default:
		return invalid("decision", "must be approve, deny, escalate or cancel")
	}
	if len(v.Reason) > 4096 {
		return invalid("reason", "is longer than 4096 bytes")
	}
	if v.To != nil && len(v.To) == 0 {
		return invalid("to", "is empty: name the groups that decide from now on, or leave it out to ask the admins")
	}
	if v.Decision != "escalate" && len(v.To) > 0 {
		return invalid("to", "belongs to escalate only")
	}
	if v.Decision != "approve" && v.Grant != nil {
		return invalid("grant", "belongs to approve only")
	}
	for _, g := range v.To {
		if g == "" || len(g) > 200 {
			return invalid("to", "a group is a name of 1 to 200 bytes")
		}
	}
	return nil
}

func (s *server) decide(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	key, err := pathID(r, "apr_", "approval")
	if err != nil {
		return err
	}
	var v Verdict
	if err := decode(w, r, &v); err != nil {
		return err
	}
	if id.Role == gate.RoleGateway && v.Decision != gate.Cancel {
		return &Error{Status: http.StatusForbidden, Code: "forbidden", Message: "this call needs a key with the role approver or admin; a key with the role " + id.Role + " may cancel its own requests only"}
	}
	if err := v.check(); err != nil {
		return err
	}
	var a gate.Approval
	if id.Role == gate.RoleGateway {
		a, err = s.Gate.Approval(r.Context(), reader(id), key, 0)
		if err == nil && !maySee(id, &a) {
			err = gate.ErrNotFound
		}
		if err != nil {
			return about("approval", storeDown, err)
		}
	}
	var granted *Grant
	if v.Grant != nil {
		a, granted, err = s.decideWithGrant(r.Context(), id, key, &v)
	} else {
		a, err = s.Gate.Decide(r.Context(), id, key, v.Decision, v.Reason, v.To)
		err = about("approval", storeDown, err)
	}
	if err != nil {
		return err
	}
	d := ApprovalOf(a, s.Now())
	d.Grant = granted
	if v.Decision == gate.Approve && a.State == gate.ApprovalApproved {
		// The word is stored and stands, with or without a passport: the call's own
		// retry needs none.
		p, err := s.Gate.PassportFor(r.Context(), id, a)
		if err != nil {
			s.Logger.Error("the passport of an approval could not be made", zap.String("request_id", note(r).requestID), zap.String("approval", a.ID), zap.Error(err))
		} else {
			d.PassportToken, d.PassportExpiresAt = p.Token, moment(p.ExpiresAt)
		}
	}
	return writeJSON(w, http.StatusOK, d)
}
