package gate

import (
	"strings"

	"github.com/actpass/sidecar/policy"
)

// Modes, in rising strictness.
const (
	ModeMonitor = "monitor"
	ModeWarn    = "warn"
	ModeEnforce = "enforce"
	ModeStrict  = "strict"
)

var modes = [...]string{ModeMonitor, ModeWarn, ModeEnforce, ModeStrict}

// What is, or would be, done.
const (
	enforceNone  = "none"
	enforceWarn  = "warn"
	enforceBlock = "block"
	enforceHold  = "hold"
)

// rank orders modes; an unknown one is the strictest, so that a mistake can
// only tighten.
func rank(mode string) int {
	for i, m := range modes {
		if m == mode {
			return i
		}
	}
	return len(modes) - 1
}

// ValidMode says whether m is one of the four.
func ValidMode(m string) bool {
	for _, known := range modes {
		if m == known {
			return true
		}
	}
	return false
}

func stricter(a, b string) string {
	if b != "" && rank(b) > rank(a) {
		return b
	}
	return a
}

// blocking says that a mode fails closed.
func blocking(mode string) bool { return rank(mode) >= rank(ModeEnforce) }

// modeFor is the strictest of what the operator set globally, for this tool and
// agent, and for this key, and of what the request asked for.
func (r *Rules) modeFor(tool string, id Identity, asked string) string {
	mode := stricter(stricter(r.Mode, id.KeyMode), asked)
	return r.tightened(mode, id, func(glob string) bool { return glob == "" || wildcard(glob, tool) })
}

// ModeFor is the strictest mode that already applies to an identity before its
// tool is known.
func (g *Gate) ModeFor(id Identity) string {
	r := g.rules.Load()
	if r == nil {
		return ModeStrict
	}
	return r.tightened(stricter(r.Mode, id.KeyMode), id, func(glob string) bool { return glob == "" })
}

// tunnelled are the methods that unmapped traffic can be expected to use: what a
// tunnel to a host that no rule maps may hold.
var tunnelled = [...]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}

// StrictestFor is the strictest mode that any call of an identity can get at a
// host, whatever its tool. It is for traffic whose calls cannot be seen: judged by
// ModeFor, a tool that an override tightens would leave through it unblocked.
// mapped says that a mapping rule can match there; otherwise only overrides that
// fit unmapped traffic (http.get, http.post, ...) count.
func (g *Gate) StrictestFor(id Identity, mapped bool) string {
	r := g.rules.Load()
	if r == nil {
		return ModeStrict
	}
	return r.tightened(stricter(r.Mode, id.KeyMode), id, func(glob string) bool {
		fits := mapped || glob == ""
		for j := 0; !fits && j < len(tunnelled); j++ {
			fits = wildcard(glob, methodTool(tunnelled[j]))
		}
		return fits
	})
}

// wildcard matches a pattern in which '*' stands for any run of characters,
// dots and slashes included, and '?' for one. It runs in linear time in
// practice: one backtrack point only.
func wildcard(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// enforcement is the table of the modes: what a mode does with a verdict.
func enforcement(mode string, v *verdict) string {
	if mode == ModeMonitor {
		return enforceNone
	}
	bad := v.effect != policy.Allow || v.refuse != nil || v.passport == passportInvalid
	if mode == ModeWarn {
		if bad || v.passport == passportAbsent {
			return enforceWarn
		}
		return enforceNone
	}
	if v.refuse != nil || v.passport == passportInvalid {
		return enforceBlock
	}
	if mode != ModeEnforce && v.passport == passportAbsent {
		return enforceBlock
	}
	switch v.effect {
	case policy.Allow:
		return enforceNone
	case policy.RequireApproval:
		if v.granted {
			return enforceNone
		}
		return enforceHold
	}
	return enforceBlock
}

// would gives what each mode stricter than the effective one would do.
func would(mode string, v *verdict) map[string]string {
	w := make(map[string]string, 3)
	for i := rank(mode) + 1; i < len(modes); i++ {
		w[modes[i]] = enforcement(modes[i], v)
	}
	return w
}
