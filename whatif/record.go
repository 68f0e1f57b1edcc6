package whatif

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
)

// Verdict is what was, or would be, made of an action.
type Verdict struct {
	Decision    string `json:"decision"`
	ReasonCode  string `json:"reason_code"`
	Enforcement string `json:"enforcement"`
	// Rule is the rule or limit whose reason it is; "" for ours.
	Rule string `json:"rule,omitempty"`
}

// same compares what is on record with what would be. Rules may be renamed.
func (v Verdict) same(o Verdict) bool {
	return v.Decision == o.Decision && v.ReasonCode == o.ReasonCode && v.Enforcement == o.Enforcement
}

// action is what a simulation reads of a record.
type action struct {
	kind, id, tenant, agent, user, goal, door string
	tool, resource, risk                      string
	mode, reason, policyHash                  string
	from                                      Verdict
	at                                        time.Time
	rawArgs                                   []byte
	args                                      map[string]any
	problems                                  []mapping.Problem
	approval, jti                             string
	granted                                   bool // it went on a grant
	ambiguous, fault, badPassport, mapped     bool

	state    string // of the outcome, "" without one
	status   int
	eventRef string // of an outcome record
}

// interned keeps one copy of the few texts that most records share.
type interned map[string]string

const maxInterned = 4096

func (m interned) text(raw []byte) string {
	if s, ok := m[string(raw)]; ok {
		return s
	}
	s := evidence.TextValue(raw)
	if len(m) >= maxInterned {
		clear(m)
	}
	m[string(raw)] = s
	return s
}

// read takes what is needed from a record. It goes over the bytes once and
// decodes little: a log has millions of them.
func (a *action) read(record []byte, names interned) error {
	var at, flags, unusable, outcome, approval []byte
	err := evidence.EachMember(record, func(name, val []byte) {
		switch string(name) {
		case "kind":
			a.kind = names.text(val)
		case "id":
			a.id = evidence.TextValue(val)
		case "event_id":
			a.eventRef = evidence.TextValue(val)
		case "time":
			at = val
		case "tenant_id":
			a.tenant = names.text(val)
		case "agent_id":
			a.agent = names.text(val)
		case "user_id":
			a.user = names.text(val)
		case "goal":
			a.goal = names.text(val)
		case "door":
			a.door = names.text(val)
		case "tool":
			a.tool = names.text(val)
		case "resource":
			a.resource = evidence.TextValue(val)
		case "risk_tier":
			a.risk = names.text(val)
		case "decision":
			a.from.Decision = names.text(val)
		case "reason_code":
			a.from.ReasonCode = names.text(val)
		case "enforcement":
			a.from.Enforcement = names.text(val)
		case "mode":
			a.mode = names.text(val)
		case "policy_hash":
			a.policyHash = names.text(val)
		case "passport_jti":
			a.jti = evidence.TextValue(val)
		case "args":
			a.rawArgs = val
		case "mapping_rule":
			a.mapped = true
		case "flags":
			flags = val
		case "unusable":
			unusable = val
		case "outcome":
			outcome = val
		case "approval":
			approval = val
		case "grant":
			a.granted = string(val) != "null"
		}
	})
	if err != nil {
		return fmt.Errorf("whatif: %w", err)
	}
	a.reason = a.from.ReasonCode
	if outcome != nil {
		err = evidence.EachMember(outcome, func(name, val []byte) {
			switch string(name) {
			case "state":
				a.state = names.text(val)
			case "status":
				a.status, _ = strconv.Atoi(string(val))
			}
		})
	}
	if approval != nil && err == nil {
		err = evidence.EachMember(approval, func(name, val []byte) {
			if string(name) == "id" {
				a.approval = evidence.TextValue(val)
			}
		})
	}
	if err != nil || a.kind != evidence.KindAction && a.kind != evidence.KindConfig {
		return err
	}
	if len(at) > 2 {
		if a.at, err = time.Parse(evidence.TimeLayout, string(at[1:len(at)-1])); err != nil {
			return fmt.Errorf("whatif: the time of event %s: %w", a.id, err)
		}
	}
	if a.id == "" || a.at.IsZero() {
		return errors.New("whatif: an action has no id or no time")
	}
	if flags != nil {
		text := string(flags)
		a.ambiguous = strings.Contains(text, strconv.Quote(gate.FlagAmbiguous))
		a.fault = strings.Contains(text, strconv.Quote(gate.FlagFault))
		a.badPassport = strings.Contains(text, strconv.Quote(gate.FlagPassport))
	}
	if unusable != nil {
		return a.readUnusable(unusable)
	}
	return nil
}

func (a *action) readUnusable(raw []byte) error {
	m, err := evidence.ArgsValue(raw)
	if err != nil {
		return err
	}
	for arg, kind := range m {
		p := mapping.Problem{Arg: arg, Kind: "invalid", Detail: "was sent without a usable value"}
		if kind == "missing" {
			p.Kind, p.Detail = "missing", policy.Missing
		}
		a.problems = append(a.problems, p)
	}
	return nil
}

// arguments are the args as they are on record, without the marks of what is
// not: those are in gaps.
func (a *action) arguments(gaps *policy.Gaps) (map[string]any, error) {
	gaps.Hidden, gaps.Cut = gaps.Hidden[:0], gaps.Cut[:0]
	if len(a.rawArgs) == 0 {
		return nil, nil
	}
	args, err := evidence.ArgsValue(a.rawArgs)
	if err != nil {
		return nil, fmt.Errorf("whatif: event %s: %w", a.id, err)
	}
	a.args = args
	findGaps(args, "", gaps)
	return args, nil
}

func findGaps(m map[string]any, path string, gaps *policy.Gaps) {
	if _, cut := m[evidence.OmittedKey]; cut {
		gaps.Cut = append(gaps.Cut, path)
		delete(m, evidence.OmittedKey)
	}
	for k, v := range m {
		switch v := v.(type) {
		case map[string]any:
			findGap(v, join(path, k), gaps)
		case []any:
			m[k] = findListGaps(v, join(path, k), gaps)
		}
	}
}

func findGap(m map[string]any, path string, gaps *policy.Gaps) {
	if hidden(m) {
		gaps.Hidden = append(gaps.Hidden, path)
		return
	}
	findGaps(m, path, gaps)
}

func findListGaps(list []any, path string, gaps *policy.Gaps) []any {
	for i, v := range list {
		switch v := v.(type) {
		case map[string]any:
			if _, omitted := v[evidence.OmittedKey]; omitted && len(v) == 1 && i == len(list)-1 {
				gaps.Cut = append(gaps.Cut, path)
				return list[:i]
			}
			findGap(v, join(path, strconv.Itoa(i)), gaps)
		case []any:
			list[i] = findListGaps(v, join(path, strconv.Itoa(i)), gaps)
		}
	}
	return list
}

// hidden says that an object stands for a value that is not on record: see
// evidence.Redact.
func hidden(m map[string]any) bool {
	_, redacted := m[evidence.RedactedKey].(string)
	_, truncated := m[evidence.TruncatedKey].(string)
	_, omitted := m[evidence.OmittedKey]
	_, hashed := m["hash"].(string)
	return redacted && len(m) == 1 || truncated && hashed && len(m) == 3 || omitted && hashed && len(m) == 2
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// neverWasACall: what was refused at the wire has no call in it that any policy
// or mode could let through.
func (a *action) neverWasACall() bool {
	return strings.HasPrefix(a.reason, "request.") && !a.ambiguous
}

// refused is the reason code for which enforce and strict let the action not
// leave, whatever policy says; "" for none.
func (a *action) refused() string {
	switch a.reason {
	case gate.ReasonStore, gate.ReasonEvidence, gate.ReasonTooMany, gate.ReasonTooManyOfAgent:
		return a.reason // what failed then would have failed
	}
	switch {
	case a.ambiguous && strings.HasPrefix(a.reason, "request."):
		return a.reason
	case a.ambiguous:
		return gate.ReasonAmbiguous
	case a.fault:
		return gate.ReasonStore
	}
	return ""
}

func (a *action) passport() gate.PassportShown {
	switch {
	case a.badPassport:
		return gate.PassportBad
	case a.jti != "":
		return gate.PassportGood
	}
	return gate.PassportNone
}

// ownPassportReason says that the record tells what was wrong with the passport.
func (a *action) ownPassportReason() bool {
	return a.badPassport && (strings.HasPrefix(a.reason, "passport.") || strings.HasPrefix(a.reason, "approval."))
}

// wasApproved says that a human's answer to the question whether the action may
// be taken, given then or ahead of it by a grant, is or may be what made its verdict.
func (a *action) wasApproved() bool {
	return a.from.Enforcement != "hold" && (a.approval != "" || a.granted || a.jti != "" && a.from.Decision == "allow")
}

// question says that the action was only asked about, not to be executed.
func (a *action) question() bool { return a.door == string(gate.DoorAPI) && a.state == "" }
