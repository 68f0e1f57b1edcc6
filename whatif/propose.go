package whatif

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
)

// Proposal is a policy rule that would have covered approvals which people gave
// again and again, with its fixtures.
type Proposal struct {
	Name      string // of the rule
	Tool      string
	AgentID   string
	Policy    string
	Rule      string     // that asked; the proposed one stands before it
	Pos       policy.Pos // of the rule that asked
	Count     int        // approvals that it covers
	Approvals []string   // their ids, newest first
	First     time.Time
	Last      time.Time
	RuleYAML  string // one item of the policy's rules, not indented
	Fixtures  string // a fixture file
}

// Bounds of what a proposal shows.
const proposalExamples = 3

// Propose finds like approvals: of one tool and agent, asked by one rule whose
// text is still in force, with the same arguments. Least many of them make a
// proposal; one denial among them makes none. list is newest first.
func Propose(rules *gate.Rules, list []gate.Approval, least int) []Proposal {
	if rules == nil || rules.Policy == nil || rules.Mapping == nil {
		return nil
	}
	groups := map[string][]gate.Approval{}
	denied := map[string]bool{}
	var order []string
	for _, a := range list {
		key := likeness(&a)
		switch {
		case a.Several(): // no word on any one of its calls
		case a.State == gate.ApprovalDenied:
			denied[key] = true
		case approvedByPeople(&a):
			if groups[key] == nil {
				order = append(order, key)
			}
			groups[key] = append(groups[key], a)
		}
	}
	var out []Proposal
	for _, key := range order {
		like := groups[key]
		if len(like) < max(least, 1) || denied[key] {
			continue
		}
		if p, ok := propose(rules, like); ok {
			out = append(out, p)
		}
	}
	return out
}

func approvedByPeople(a *gate.Approval) bool {
	return !a.UseBefore.IsZero() && (a.State == gate.ApprovalApproved || a.State == gate.ApprovalConsumed || a.State == gate.ApprovalExpired)
}

// likeness is what like approvals have in common.
func likeness(a *gate.Approval) string {
	b, _ := json.Marshal([]any{a.Tool, a.AgentID, a.Policy, a.Rule, a.RuleHash, sorted(a.Args)})
	return string(b)
}

func propose(rules *gate.Rules, like []gate.Approval) (Proposal, bool) {
	a := &like[0]
	asks, covers, ok := rules.Policy.Rule(a.Policy, a.Rule, a.Tool)
	if !ok || !covers || asks.RuleHash != a.RuleHash || asks.Effect != policy.RequireApproval {
		return Proposal{}, false // a limit asked, or the rule has changed
	}
	for i := range like {
		if askedElsewhere(rules, &like[i]) {
			return Proposal{}, false // another policy would go on asking
		}
	}
	sum := sha256.Sum256([]byte(likeness(a)))
	p := Proposal{
		Name: "like_approved_" + hex.EncodeToString(sum[:4]), Tool: a.Tool, AgentID: a.AgentID, Policy: a.Policy, Rule: a.Rule, Pos: asks.Pos,
		Count: len(like), First: like[len(like)-1].CreatedAt, Last: a.CreatedAt,
	}
	for _, one := range like {
		p.Approvals = append(p.Approvals, one.ID)
	}
	var in shape
	for i := range like {
		in.add(like[i].Resource, like[i].Args)
	}
	reason := reasonLike(a.ReasonCode, "approved", "like_approved")
	p.RuleYAML = ruleYAML(p.Name, in.condition(a.Tool, a.AgentID), reason)
	p.Fixtures = proposalFixtures(rules, &p, like, in.most(), reason)
	return p, true
}

// suppose judges the recorded action under the rules in force.
func suppose(rules *gate.Rules, a *gate.Approval, args map[string]any) (gate.Supposed, *mapping.Call) {
	call := &mapping.Call{Tool: a.Tool, Resource: a.Resource, Risk: a.Risk, Args: args}
	return rules.Suppose(call, gate.Identity{TenantID: a.TenantID, AgentID: a.AgentID}, a.UserID, a.Goal, nil, a.CreatedAt), call
}

// askedElsewhere says that a policy other than the asking one would not let the
// call go.
func askedElsewhere(rules *gate.Rules, a *gate.Approval) bool {
	in := &policy.Input{Tool: a.Tool, Resource: a.Resource, Risk: a.Risk, Args: a.Args, AgentID: a.AgentID, UserID: a.UserID, Goal: a.Goal, Now: a.CreatedAt}
	for _, step := range rules.Policy.Explain(in) {
		if step.Policy == a.Policy {
			continue
		}
		for _, r := range step.Rules {
			if r.Result == policy.ResultError || r.Result == policy.ResultMatched && r.Decision != policy.Allow.String() {
				return true
			}
		}
	}
	return false
}

// reasonLike makes the reason code of the rule out of that of the asking one;
// other is its first word where that is not for authors to use.
func reasonLike(asked, other, last string) string {
	word, _, _ := strings.Cut(asked, ".")
	switch word {
	case "", "policy", "mapping", "passport", "approval", "evidence", "request", "limit":
		word = other
	}
	return word + "." + last
}

func ruleYAML(name, when, reason string) string {
	return fmt.Sprintf("- name: %s\n  when: %s\n  decision: allow\n  reason_code: %s\n", name, quoteYAML(when), reason)
}

// quoteYAML writes a text as a single-quoted scalar, in which nothing but the
// quote itself is escaped.
func quoteYAML(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// proposalFixtures holds the rule to examples that were approved, and to each
// ceiling: one more is judged as it is now.
func proposalFixtures(rules *gate.Rules, p *Proposal, like []gate.Approval, most map[string]int64, reason string) string {
	var b strings.Builder
	b.WriteString("fixtures:\n")
	for i := range like[:min(len(like), proposalExamples)] {
		writeExample(&b, p.Name+": approved as "+like[i].ID, &like[i], like[i].Args, "allow", reason, p.Name)
	}
	for _, name := range sorted(most) {
		args := make(map[string]any, len(like[0].Args))
		for k, v := range like[0].Args {
			args[k] = v
		}
		if most[name] == 1<<63-1 {
			continue
		}
		args[name] = most[name] + 1
		was, _ := suppose(rules, &like[0], args)
		d := was.Policy
		if d.Effect == policy.Allow {
			continue // another rule lets more through already
		}
		writeExample(&b, p.Name+": "+name+" one over", &like[0], args, d.Effect.String(), d.ReasonCode, d.Rule)
	}
	return b.String()
}

func writeExample(b *strings.Builder, name string, a *gate.Approval, args map[string]any, decision, reason, rule string) {
	fmt.Fprintf(b, "  - name: %s\n    action:\n      tool: %s\n      resource: %s\n", quote(name), quote(a.Tool), quote(a.Resource))
	if a.Risk != "" {
		fmt.Fprintf(b, "      risk_tier: %s\n", quote(a.Risk))
	}
	var cut pruning
	if kept := cut.object(args, "args"); len(kept) > 0 {
		b.WriteString("      args:\n")
		writeObject(b, stand(kept, args), 8)
	}
	fmt.Fprintf(b, "      agent_id: %s\n", quote(a.AgentID))
	for _, f := range [][2]string{{"user_id", a.UserID}, {"goal", a.Goal}} {
		if f[1] != "" {
			fmt.Fprintf(b, "      %s: %s\n", f[0], quote(f[1]))
		}
	}
	fmt.Fprintf(b, "    now: %s\n", quote(a.CreatedAt.UTC().Format(evidence.TimeLayout)))
	fmt.Fprintf(b, "    expect: { decision: %s, reason_code: %s, rule: %s }\n", decision, quote(reason), quote(rule))
}

// stand puts a word where an argument is not on record, so that the action has
// the same arguments.
func stand(kept, args map[string]any) map[string]any {
	for k := range args {
		if _, there := kept[k]; !there && k != evidence.OmittedKey {
			kept[k] = "not on record"
		}
	}
	return kept
}

// Insert puts the rule of p into the text of the policy file that holds the
// asking rule, before that rule.
func (p *Proposal) Insert(file []byte) ([]byte, error) {
	t := NewText(file)
	if err := t.Insert(p.Pos.Line, p.RuleYAML); err != nil {
		return nil, fmt.Errorf("%s: the rule %s: %w", p.Pos.File, p.Rule, err)
	}
	return t.Bytes(), nil
}
