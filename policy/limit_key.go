package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// KeyValue is one value of a key.
type KeyValue struct {
	Name  string // as in the policy: args.currency
	Value string // a text as it is, a number or a truth value as JSON writes it
}

// KeyValues reads the key of a reservation back; nil when it is not one of
// this limit, as after an edit of the policy.
func (l *Limit) KeyValues(key string) []KeyValue {
	var raw []jsontext.Value
	if json.Unmarshal([]byte(key), &raw) != nil || len(raw) != len(l.Keys) {
		return nil
	}
	values := make([]KeyValue, len(raw))
	for i, v := range raw {
		values[i] = KeyValue{Name: l.Keys[i], Value: string(v)}
		if v.Kind() == '"' && json.Unmarshal(v, &values[i].Value) != nil {
			return nil
		}
	}
	return values
}

// ParseKey reads a key as a person writes it, a JSON array with one value for
// each of the limit's Keys, and gives it as a Reservation has it.
func (l *Limit) ParseKey(text string) (string, error) {
	form := fmt.Errorf("must be a JSON array of the %d values %s, such as %s", len(l.Keys), strings.Join(l.Keys, ", "), l.exampleKey())
	var raw []jsontext.Value
	if json.Unmarshal([]byte(text), &raw) != nil || len(raw) != len(l.Keys) {
		return "", form
	}
	key := []byte{'['}
	for i, v := range raw {
		if i > 0 {
			key = append(key, ',')
		}
		switch v.Kind() {
		case '"':
			var s string
			if json.Unmarshal(v, &s) != nil {
				return "", form
			}
			if namesCurrency(l.Keys[i]) {
				s = oneCurrency(s)
			}
			var err error
			if key, err = jsontext.AppendQuote(key, s); err != nil {
				return "", form
			}
		case '0':
			n, err := strconv.ParseInt(string(v), 10, 64)
			if err != nil {
				return "", form
			}
			key = strconv.AppendInt(key, n, 10)
		case 't', 'f':
			key = append(key, v...)
		default:
			return "", form
		}
	}
	return string(append(key, ']')), nil
}

func (l *Limit) exampleKey() string {
	var b strings.Builder
	for i, name := range l.Keys {
		b.WriteString("[,"[min(i, 1) : min(i, 1)+1])
		if namesCurrency(name) {
			b.WriteString(`"usd"`)
		} else {
			b.WriteString(`"..."`)
		}
	}
	return b.String() + "]"
}

// currency says whether this value of a key tells the currency.
func (k limitKey) currency() bool { return k.variable == "" && namesCurrency(k.read.String()) }

func namesCurrency(key string) bool {
	last := key[strings.LastIndexByte(key, '.')+1:]
	return len(last) < len(key) && strings.EqualFold(last, "currency")
}

// oneCurrency is the one spelling under which a currency is counted.
func oneCurrency(s string) string { return lowerASCII(strings.TrimSpace(s)) }

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// checkCurrency refuses a limit that adds up amounts of several currencies: its
// sum reads an amount beside which the tools declare a currency, and its key does
// not have that.
func (v vocabulary) checkCurrency(c *compiler, y *limitYAML, l *limit) {
	if l.sum == nil {
		return
	}
	for _, r := range l.sum.reads {
		if r.root != "args" || len(r.path) == 0 || !strings.EqualFold(r.path[len(r.path)-1], "amount") {
			continue
		}
		beside := strings.Join(append(slices.Clone(r.path[:len(r.path)-1]), "currency"), ".")
		if slices.Contains(v.names, beside) && !slices.Contains(l.Keys, "args."+beside) {
			c.faults.Addf(y.Sum.Pos, "limit %s adds up args.%s over all currencies: put args.%s into its `key`", l.Name, strings.Join(r.path, "."), beside)
			return
		}
	}
}
