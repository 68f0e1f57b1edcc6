package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/actpass/sidecar/strictyaml"
)

// Limit is one counted bound of a policy file.
type Limit struct {
	Policy  string
	Version int // of the policy
	Name    string
	// Keys are what it is counted by, as written: agent_id, args.currency.
	Keys []string
	// Sum is the expression that is added up, as written; "" counts calls.
	Sum string
	Max int64
	// Window is how far back uses count. Of a calendar window it is the longest
	// that one can be, and Bounds tells where it begins and ends.
	Window   time.Duration
	Calendar string         // "", CalendarDay, CalendarWeek or CalendarMonth
	Zone     *time.Location // of Calendar, else nil

	Effect     Effect // what follows when it is exceeded: Deny or RequireApproval
	ReasonCode string
	Approval   *Approval
	Pos        Pos
	Hash       string // of its text
}

// ID names the limit among all limits of all policies.
func (l *Limit) ID() string { return l.Policy + "/" + l.Name }

// Reservation is one use of a limit by one action.
type Reservation struct {
	Limit  *Limit
	Key    string // the values of the limit's key as a JSON array: ["support_agent","usd"]
	Amount int64  // 1 when calls are counted
}

// limit is one compiled limit.
type limit struct {
	Limit
	keys []limitKey
	sum  *condition // nil: count calls
	// failed is the decision when sum or key cannot be read, but for the summary.
	failed Decision
}

// limitKey is one value of a limit's key: a variable such as agent_id, or a
// field such as args.currency.
type limitKey struct {
	variable string
	read     read
}

const maxKeys = 8

func (c *compiler) limit(p *compiled, y *limitYAML, seen map[string]strictyaml.Pos) *limit {
	l := &limit{Limit: Limit{Policy: p.name, Version: p.version, Pos: Pos{File: y.At.File, Line: y.At.Line}, Max: y.Max.V}}
	l.Name = c.name(y.At, "limit", y.Name, seen)
	if len(y.Key) == 0 {
		c.missing(y.At, "limit %s has no `key`: write what it is counted by, such as [agent_id, args.currency]", l.Name)
	}
	if len(y.Key) > maxKeys {
		c.faults.Addf(y.Key[maxKeys].Pos, "a key of more than %d values", maxKeys)
	}
	for _, k := range y.Key {
		l.keys = append(l.keys, c.key(k))
	}
	if y.Sum.Set() {
		l.sum = c.condition(y.Sum, cel.IntType)
	}
	switch {
	case !y.Max.Set():
		c.missing(y.At, "limit %s has no `max`", l.Name)
	case y.Max.V < 1:
		c.faults.Addf(y.Max.Pos, "`max` must be 1 or more: to forbid a tool, deny it by a rule")
	}
	c.window(l, y)
	switch y.Decision.V {
	case "deny":
		l.Effect = Deny
	case "require_approval":
		l.Effect = RequireApproval
	default:
		if y.Decision.Set() {
			c.faults.Addf(y.Decision.Pos, "`decision` of a limit must be deny or require_approval, not %q", y.Decision.V)
		} else {
			c.missing(y.At, "limit %s has no `decision`: write deny or require_approval", l.Name)
		}
	}
	l.ReasonCode = c.reason(y.ReasonCode, "limit."+slug(l.Name))
	if !y.ReasonCode.Set() && y.Decision.V == "deny" {
		c.missing(y.At, "limit %s denies without a `reason_code`: write one, such as refund.daily_limit, so that the refused can be told why", l.Name)
	}
	l.Approval = c.approval(y.Approval, y.Decision.V, "limit "+l.Name)

	for _, k := range y.Key {
		l.Keys = append(l.Keys, k.V)
	}
	l.Sum = strings.TrimSpace(y.Sum.V)
	l.Hash = digest("limit", p.name, l.Name, l.Keys, l.Sum, l.Max, l.per(), y.Decision.V, l.ReasonCode, l.Approval)
	l.failed = Decision{
		ReasonCode: ReasonError, Policy: p.name, Version: p.version, Rule: l.Name,
		Pos: l.Pos, RuleHash: l.Hash, MatchedRules: []string{},
	}
	return l
}

func (c *compiler) key(v strictyaml.Val[string]) limitKey {
	parts := strings.Split(v.V, ".")
	for _, p := range parts {
		if p == "" {
			c.faults.Addf(v.Pos, "%q is not a key: write a variable such as agent_id, or a field such as args.currency", v.V)
			return limitKey{}
		}
	}
	switch {
	case len(parts) == 1 && isVariable(parts[0]) && !isMap(parts[0]) && parts[0] != "now":
		return limitKey{variable: parts[0]}
	case len(parts) > 1 && isMap(parts[0]):
		return limitKey{read: read{root: parts[0], path: parts[1:]}}
	case len(parts) == 1 && isMap(parts[0]):
		c.faults.Addf(v.Pos, "a key needs one field of %s, such as %s.currency", parts[0], parts[0])
	case parts[0] == "now":
		c.faults.Addf(v.Pos, "a limit cannot be counted by the time: use `window`")
	default:
		c.faults.Addf(v.Pos, "unknown variable %s%s", parts[0], strictyaml.Suggest(parts[0], variableNames()))
	}
	return limitKey{}
}

// reserve says what one action uses of the limit.
func (l *limit) reserve(a *activation) (Reservation, error) {
	r := Reservation{Limit: &l.Limit, Amount: 1}
	if l.sum != nil {
		n, err := l.sum.sum(a)
		if err != nil {
			return Reservation{}, err
		}
		r.Amount = n
	}
	key := append(make([]byte, 0, 64), '[')
	for i, k := range l.keys {
		if i > 0 {
			key = append(key, ',')
		}
		var err error
		if key, err = k.appendTo(key, a.in); err != nil {
			return Reservation{}, err
		}
	}
	r.Key = string(append(key, ']'))
	return r, nil
}

// maxKeyText is the longest text that may stand in a key, in bytes.
const maxKeyText = 1024

func (k limitKey) appendTo(b []byte, in *Input) ([]byte, error) {
	var v any
	name := k.variable
	switch k.variable {
	case "tool":
		v = in.Tool
	case "resource":
		v = in.Resource
	case "agent_id":
		v = in.AgentID
	case "user_id":
		v = in.UserID
	case "goal":
		v = in.Goal
	case "risk_tier":
		v = in.Risk
	default:
		if len(k.read.path) == 0 {
			return nil, errors.New("the key names nothing")
		}
		name = k.read.String()
		if why := unreadable([]read{k.read}, in); why != "" {
			return nil, errors.New(why)
		}
		v, _ = lookup(in.field(k.read.root), k.read.path)
	}
	switch x := v.(type) {
	case string:
		if k.currency() {
			// USD, usd and "usd " are one currency at a provider that takes them all: two
			// keys would be twice the limit.
			x = oneCurrency(x)
		}
		if len(x) > maxKeyText {
			return nil, fmt.Errorf("%s is too long to count by: at most %d bytes", name, maxKeyText)
		}
		out, err := jsontext.AppendQuote(b, x)
		if err != nil {
			return nil, fmt.Errorf("%s is not valid UTF-8", name)
		}
		return out, nil
	case int64:
		return strconv.AppendInt(b, x, 10), nil
	case bool:
		return strconv.AppendBool(b, x), nil
	}
	return nil, fmt.Errorf("%s is %s: only a text, a whole number or a truth value can be counted by", name, classOfGo(v))
}

func (l *limit) broken(err error) Decision {
	d := l.failed
	d.Summary = fmt.Sprintf("Policy %s v%d: limit %s cannot be evaluated: %s.", d.Policy, d.Version, d.Rule, strings.TrimSuffix(err.Error(), "."))
	d.NextSteps = brokenSteps()
	return d
}

// Limits lists the limits of all policies, in file order. They are not to be
// modified.
func (s *Set) Limits() []*Limit {
	var list []*Limit
	for _, p := range s.policies {
		for _, l := range p.limits {
			list = append(list, &l.Limit)
		}
	}
	return list
}
