package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// members is a tree of arguments laid flat: the path to each leaf, its parts
// held apart by a byte that no name has.
type members map[string]string

const under = "\x1f"

func (m members) put(path, leaf string) {
	if _, twice := m[path]; twice {
		leaf = "twice"
	}
	m[path] = leaf
}

// hidden is a leaf of the record that holds a hash instead of the value.
const hidden = "hidden\x1f"

// flatten lays v flat. typed says that a number is another thing than its text.
func (m members) flatten(path string, v any, typed bool) {
	at := func(name string) string {
		if path == "" {
			return name
		}
		return path + under + name
	}
	switch x := v.(type) {
	case map[string]any:
		if _, redacted := x["redacted"].(string); redacted || x["truncated"] != nil && x["bytes"] != nil {
			m.put(path, hidden)
			return
		}
		if len(x) == 0 && path != "" && typed {
			m.put(path, "{}")
		}
		for k, e := range x {
			m.flatten(at(k), e, typed)
		}
	case []any:
		if len(x) == 0 && path != "" && typed {
			m.put(path, "[]")
		}
		for i, e := range x {
			m.flatten(at(strconv.Itoa(i)), e, typed)
		}
	case string:
		if typed {
			x = strconv.Quote(x)
		}
		m.put(path, x)
	case json.Number:
		if typed {
			m.put(path, exact(x.String()))
		} else {
			m.put(path, x.String())
		}
	case nil:
		m.put(path, "null")
	default:
		m.put(path, fmt.Sprint(x))
	}
}

// exact writes a number in one way: 1e2, 100 and 100.0 are the same.
func exact(s string) string {
	if _, exp, ok := strings.Cut(strings.ToLower(s), "e"); ok {
		if n, err := strconv.Atoi(exp); err != nil || n > 400 || n < -400 {
			return s
		}
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return s
	}
	if r.IsInt() {
		return r.Num().String()
	}
	f, _ := r.Float64()
	return strconv.FormatFloat(f, 'g', -1, 64)
}

// pairs lays fields flat whose names hold brackets.
func (m members) pairs(fields [][2]string) {
	next := map[string]int{}
	for _, f := range fields {
		name, rest, nested := strings.Cut(f[0], "[")
		path := name
		for nested {
			inner, after, closed := strings.Cut(rest, "]")
			if !closed {
				path = f[0]
				break
			}
			if inner == "" {
				inner = strconv.Itoa(next[path])
				next[path]++
			}
			path += under + inner
			if after == "" {
				break
			}
			rest, nested = strings.CutPrefix(after, "[")
			if !nested {
				path = f[0]
			}
		}
		m.put(path, f[1])
	}
}

// php gives the arguments the names that PHP gives them. What is declared, or
// would be one with another, is refused; else a policy for a PHP server has to
// name the field as it is sent.
func (m members) php() members {
	out := members{}
	for k, v := range m {
		name, rest, nested := strings.Cut(k, under)
		name = strings.NewReplacer(".", "_", " ", "_").Replace(name)
		if nested {
			name += under + rest
		}
		out.put(name, v)
	}
	return out
}

// compact numbers the elements of lists anew: qs makes a list without gaps of
// small numbers in brackets. Policy sees an object there, as PHP and Rack do, and
// a rule about a list cannot be evaluated over one.
func (m members) compact() members {
	type element struct{ n, path string }
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		if len(a) != len(b) { // "2" before "10"
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	place, next := map[element]int{}, map[string]int{}
	out := members{}
	for _, k := range keys {
		parts := strings.Split(k, under)
		for i := 1; i < len(parts); i++ {
			parent := strings.Join(parts[:i], under)
			if _, err := strconv.ParseUint(parts[i], 10, 16); err != nil {
				continue
			}
			e := element{parts[i], parent}
			if _, known := place[e]; !known {
				place[e] = next[parent]
				next[parent]++
			}
			parts[i] = strconv.Itoa(place[e])
		}
		out.put(strings.Join(parts, under), m[k])
	}
	return out
}

func (m members) dotted() members {
	out := members{}
	for k, v := range m {
		out.put(strings.ReplaceAll(k, under, "."), v)
	}
	return out
}
