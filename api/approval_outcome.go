package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// ApprovalOutcome is what is known of the one use of an approval.
type ApprovalOutcome struct {
	State   string         `json:"state"`    // of the event that used it, or unknown
	Status  int            `json:"status"`   // of the answer, 0 for none
	EventID string         `json:"event_id"` // of the call that used it
	UsedAt  *evidence.Time `json:"used_at"`  // it left right after that, if it left; null on old approvals
	Host    string         `json:"host"`     // where the call goes; "" for an action that the agent runs itself
	Summary string         `json:"summary"`  // what is known, in a sentence
	Check   string         `json:"check"`    // what a human has to find out, "" for nothing
}

// OutcomeUnknown is the state where the record of the use is not at hand.
const OutcomeUnknown = "unknown"

// outcomeLate is how long a call may be without an outcome before a human is asked
// to look: longer than an answer takes, and than an agent takes to report one.
const outcomeLate = 15 * time.Minute

// Unclear says that nobody knows whether the approved call took effect.
func (a *Approval) Unclear() bool { return a.Outcome != nil && a.Outcome.Check != "" }

// OutcomeUnclear selects the approvals that Unclear is true of, whatever the state of
// their outcome.
const OutcomeUnclear = "unclear"

// outcomes are what a list of approvals can be asked for.
var outcomes = []string{
	OutcomeUnclear, evidence.StatePending, evidence.StateForwarded, evidence.StateBlocked, evidence.StateRefused, evidence.StateAmbiguous, OutcomeUnknown,
}

// maxLooked bounds the used approvals that one question for an outcome looks through.
const maxLooked = 2000

// came says whether a is one of an outcome.
func (a *Approval) came(outcome string) bool {
	return outcome == OutcomeUnclear && a.Unclear() || a.Outcome != nil && a.Outcome.State == outcome
}

// useOf tells what came of a used approval; nil of one that was not used. Looking
// is for people: what the index has not yet, or not here, is said to be unknown.
func (s *server) useOf(ctx context.Context, a *gate.Approval) *ApprovalOutcome {
	if a.State != gate.ApprovalConsumed {
		return nil
	}
	o := &ApprovalOutcome{State: OutcomeUnknown, EventID: a.ConsumedBy, UsedAt: moment(a.ClosedAt)}
	if a.Request != nil {
		o.Host = strings.TrimSuffix(a.Request.Authority, ":443")
	}
	b, err := s.Events.Event(ctx, a.TenantID, a.ConsumedBy)
	var e struct {
		Door    string            `json:"door"`
		Outcome *evidence.Outcome `json:"outcome"`
	}
	if err == nil {
		err = json.Unmarshal(b, &e)
	}
	if e.Door == string(gate.DoorAPI) {
		o.Host = ""
	}
	switch {
	case err == nil && e.Outcome != nil && e.Outcome.State != evidence.StateHeld:
		o.State, o.Status = e.Outcome.State, e.Outcome.Status
		o.tell(e.Outcome.Error, s.Now())
	case err == nil:
		o.lost("the record of its use has no word of what came of it")
	case errors.Is(err, gate.ErrNotFound):
		s.elsewhere(ctx, a, o)
	default:
		o.lost("the records could not be searched just now")
	}
	return o
}

// elsewhere is useOf for a record that is not here: what the sidecar where it was
// used left in the store, if the two share one.
func (s *server) elsewhere(ctx context.Context, a *gate.Approval, o *ApprovalOutcome) {
	came, byAgent, err := s.Gate.CameOf(ctx, *a)
	if byAgent {
		o.Host = ""
	}
	switch {
	case err == nil:
		o.State, o.Status = came.State, came.Status
		o.tell(came.Error, s.Now())
	case errors.Is(err, gate.ErrNotFound) && !a.ClosedAt.IsZero() && s.Now().Sub(a.ClosedAt) < outcomeLate:
		o.Summary = "It was used a moment ago by event " + o.EventID + ", at another sidecar, and no outcome is known here yet."
	case errors.Is(err, gate.ErrNotFound):
		o.lost("the record of its use is not in this sidecar's log, and no outcome was left in the store: another sidecar sent it, or old records were removed")
	default:
		o.lost("the record of its use is not in this sidecar's log, and the store could not be searched just now")
	}
}

// tell puts what is known into words. fault is the error on record; of an action
// that an agent ran itself, it is the agent's word.
func (o *ApprovalOutcome) tell(fault string, now time.Time) {
	own := o.Host == ""
	used := "It was used"
	if o.UsedAt != nil {
		used += " at " + o.UsedAt.UTC().Format("2006-01-02 15:04:05") + " UTC"
	}
	late := o.UsedAt != nil && now.Sub(o.UsedAt.Time) > outcomeLate
	switch {
	case o.State == evidence.StatePending && own:
		o.Summary = used + ": the agent was told to go ahead, and has not said what came of it."
		if late {
			o.Check = "Find out, with the agent or where it acts, whether the action took effect before it is asked for again."
		}
	case o.State == evidence.StatePending:
		o.Summary = used + ", and the call is under way to " + o.Host + "."
		if late {
			o.Summary = used + "; the call went to " + o.Host + ", and no outcome has been recorded since."
			o.Check = o.find()
		}
	case o.State == evidence.StateForwarded && own && fault == "":
		o.Summary = used + "; the agent ran the action itself and reports that it succeeded."
	case o.State == evidence.StateForwarded && own:
		o.Summary = used + fmt.Sprintf("; the agent ran the action itself and reports that it failed: %q.", fault)
	case o.State == evidence.StateForwarded:
		o.Summary = used + fmt.Sprintf(" and sent once, to %s, which answered with status %d.", o.Host, o.Status)
		if fault != "" {
			o.Summary += " The answer did not arrive whole: " + fault + "."
		}
	case o.State == evidence.StateAmbiguous && own:
		o.Summary = used + ": the agent was told to go ahead, and what came of it is not known."
		if fault != "" {
			o.Summary += fmt.Sprintf(" The agent says: %q.", fault)
		}
		o.Check = "Find out, with the agent or where it acts, whether the action took effect before it is asked for again."
	case o.State == evidence.StateAmbiguous:
		o.Summary = used + "; the call was sent to " + o.Host + ", or may have been, and no answer was recorded."
		if fault != "" {
			o.Summary += " On record is: " + fault + "."
		}
		o.Summary += " It is not sent again."
		o.Check = o.find()
	default: // blocked, refused
		o.Summary = used + ", and was not sent after all."
		if fault != "" {
			o.Summary += " On record is: " + fault + "."
		}
	}
}

func (o *ApprovalOutcome) find() string {
	return "Find out at " + o.Host + " whether the call took effect before it is asked for again: it may have happened."
}

// lost is for a use of which only the approval itself tells.
func (o *ApprovalOutcome) lost(why string) {
	o.State = OutcomeUnknown
	o.Summary = "It was used by event " + o.EventID + "; " + why + "."
	if o.Host == "" {
		o.Check = "Find out, with the agent or where it acts, whether the action took effect before it is asked for again."
		return
	}
	o.Check = o.find()
}

// shown renders a with what came of its use. Of one that was used a moment ago the
// index may not know yet: it is waited for once.
func (s *server) shown(r *http.Request, a gate.Approval, waited *bool) Approval {
	d := ApprovalOf(a, s.Now())
	d.Outcome = s.useOf(r.Context(), &a)
	fresh := s.Now().Sub(a.ClosedAt) < time.Minute
	if d.Outcome != nil && fresh && !*waited && (d.Outcome.State == OutcomeUnknown || d.Outcome.State == evidence.StatePending) {
		*waited = true
		_ = s.catchUp(r)
		d.Outcome = s.useOf(r.Context(), &a)
	}
	return d
}
