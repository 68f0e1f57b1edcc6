package whatif

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
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
const (
	proposalExamples = 3
	proposalValues   = 5 // of one argument, before it is left open
)

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
	when, most := condition(like)
	p.RuleYAML = ruleYAML(&p, when, reasonLike(a.ReasonCode))
	p.Fixtures = proposalFixtures(rules, &p, like, most, reasonLike(a.ReasonCode))
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

// condition is the CEL text that covers the approvals and little more; most are
// the numeric ceilings by argument.
func condition(like []gate.Approval) (text string, most map[string]int64) {
	a := &like[0]
	parts := []string{"agent_id == " + celText(a.AgentID), commonResource(like)}
	names := sorted(a.Args)
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = celText(n)
	}
	parts = append(parts, "args.all(name, name in ["+strings.Join(quoted, ", ")+"])")
	most = map[string]int64{}
	for _, n := range names {
		if bound := argBound(n, like, most); bound != "" {
			parts = append(parts, bound)
		}
	}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " && "), most
}

// argBound bounds one argument by what was approved: a whole number at most, a few
// texts exactly, anything else not at all.
func argBound(name string, like []gate.Approval, most map[string]int64) string {
	var texts []string
	low, high, whole, text := int64(0), int64(0), true, true
	for i := range like {
		switch v := like[i].Args[name].(type) {
		case int64:
			if text = false; i == 0 || v > high {
				high = v
			}
			low = min(low, v)
		case string:
			whole = false
			if !slices.Contains(texts, v) {
				texts = append(texts, v)
			}
		default:
			whole, text = false, false
		}
	}
	at := "args." + name
	there := "has(" + at + ") && "
	if !plainName.MatchString(name) {
		at, there = "args["+celText(name)+"]", celText(name)+" in args && "
	}
	switch {
	case whole:
		most[name] = high
		return there + at + " >= " + strconv.FormatInt(low, 10) + " && " + at + " <= " + strconv.FormatInt(high, 10)
	case text && len(texts) == 1:
		return there + at + " == " + celText(texts[0])
	case text && len(texts) <= proposalValues && len(texts) < len(like):
		slices.Sort(texts)
		for i := range texts {
			texts[i] = celText(texts[i])
		}
		return there + at + " in [" + strings.Join(texts, ", ") + "]"
	}
	return ""
}

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// celText is a text as CEL reads it: JSON's escapes are CEL's.
func celText(s string) string { return quote(s) }

// commonResource is what the resources share: all of it, or the beginning up to a
// separator.
func commonResource(like []gate.Approval) string {
	prefix := like[0].Resource
	for i := range like {
		r := like[i].Resource
		n := 0
		for n < len(prefix) && n < len(r) && prefix[n] == r[n] {
			n++
		}
		prefix = prefix[:n]
	}
	if !slices.ContainsFunc(like, func(a gate.Approval) bool { return a.Resource != prefix }) {
		return "resource == " + celText(prefix)
	}
	cut := strings.LastIndexAny(prefix, ":/")
	if cut < 0 {
		return ""
	}
	return "resource.startsWith(" + celText(prefix[:cut+1]) + ")"
}

// reasonLike makes the reason code of the rule out of that of the asking one.
func reasonLike(asked string) string {
	word, _, _ := strings.Cut(asked, ".")
	switch word {
	case "", "policy", "mapping", "passport", "approval", "evidence", "request", "limit":
		word = "approved"
	}
	return word + ".like_approved"
}

func ruleYAML(p *Proposal, when, reason string) string {
	return fmt.Sprintf("- name: %s\n  when: %s\n  decision: allow\n  reason_code: %s\n", p.Name, quoteYAML(when), reason)
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
	lines := strings.SplitAfter(string(file), "\n")
	at := p.Pos.Line - 1
	if at < 0 || at >= len(lines) {
		return nil, fmt.Errorf("%s has no line %d", p.Pos.File, p.Pos.Line)
	}
	trimmed := strings.TrimLeft(lines[at], " ")
	if !strings.HasPrefix(trimmed, "- ") {
		return nil, fmt.Errorf("%s:%d is not where the rule %s begins", p.Pos.File, p.Pos.Line, p.Rule)
	}
	indent := strings.Repeat(" ", len(lines[at])-len(trimmed))
	var rule []string
	for line := range strings.Lines(p.RuleYAML) {
		rule = append(rule, indent+line)
	}
	return []byte(strings.Join(slices.Insert(lines, at, rule...), "")), nil
}
