package whatif

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/actpass/sidecar/evidence"
)

// writeFixture renders YAML. Texts are written as JSON strings, which YAML
// reads alike.
func writeFixture(e *evidence.Event) string {
	var b strings.Builder
	line := func(indent int, key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s%s: %s\n", strings.Repeat(" ", indent), key, value)
		}
	}
	text := func(indent int, key, value string) {
		if value != "" {
			line(indent, key, quote(value))
		}
	}
	b.WriteString("fixtures:\n")
	fmt.Fprintf(&b, "  - name: %s\n    action:\n", quote(e.Tool+" "+e.ID))
	text(6, "tool", e.Tool)
	text(6, "resource", e.Resource)
	text(6, "risk_tier", e.RiskTier)
	args, notes := known(e)
	if len(args) > 0 {
		b.WriteString("      args:\n")
		writeObject(&b, args, 8)
	}
	for _, n := range notes {
		fmt.Fprintf(&b, "      # %s\n", n)
	}
	text(6, "agent_id", e.AgentID)
	text(6, "user_id", e.UserID)
	text(6, "goal", e.Goal)
	if e.PassportJTI != "" {
		b.WriteString("      # passport: its claims are not on record\n")
	}
	text(4, "mode", e.Mode)
	text(4, "now", e.Time.UTC().Format(evidence.TimeLayout))
	b.WriteString("    expect:\n")
	text(6, "decision", e.Decision.Decision)
	text(6, "reason_code", e.ReasonCode)
	if e.Rule != nil {
		text(6, "rule", e.Rule.Name)
	}
	return b.String()
}

// known are the arguments that are on record, and notes about the others.
func known(e *evidence.Event) (map[string]any, []string) {
	var p pruning
	args := p.object(e.Args, "args")
	for _, arg := range sorted(e.Unusable) {
		p.note("args."+arg, e.Unusable[arg])
	}
	return args, p.notes
}

// pruning copies arguments without the marks of what is not on record.
type pruning struct{ notes []string }

func (p *pruning) note(path, what string) {
	p.notes = append(p.notes, printable(path)+": "+printable(what))
}

func (p *pruning) object(m map[string]any, path string) map[string]any {
	out := make(map[string]any, len(m))
	for _, k := range sorted(m) {
		if k == evidence.OmittedKey {
			p.note(path, "has members that are not on record")
			continue
		}
		if v, there := p.value(m[k], path+"."+k); there {
			out[k] = v
		}
	}
	return out
}

func (p *pruning) value(v any, path string) (copied any, there bool) {
	switch v := v.(type) {
	case map[string]any:
		if hidden(v) {
			p.note(path, "not on record (secret, or too long)")
			return nil, false
		}
		return p.object(v, path), true
	case []any:
		out := make([]any, 0, len(v))
		for i, e := range v {
			if m, _ := e.(map[string]any); len(m) == 1 && m[evidence.OmittedKey] != nil && i == len(v)-1 {
				p.note(path, "has elements that are not on record")
				break
			}
			e, _ := p.value(e, path+"."+strconv.Itoa(i)) // null keeps the place of what is not there
			out = append(out, e)
		}
		return out, true
	}
	return v, true
}

func writeObject(b *strings.Builder, m map[string]any, indent int) {
	for _, k := range sorted(m) {
		fmt.Fprintf(b, "%s%s: %s\n", strings.Repeat(" ", indent), key(k), flow(m[k]))
	}
}

// flow writes a value in YAML's flow form.
func flow(v any) string {
	switch v := v.(type) {
	case map[string]any:
		parts := make([]string, 0, len(v))
		for _, k := range sorted(v) {
			parts = append(parts, key(k)+": "+flow(v[k]))
		}
		return "{ " + strings.Join(parts, ", ") + " }"
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = flow(e)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case string:
		return quote(v)
	case float64:
		s := strconv.FormatFloat(v, 'g', -1, 64)
		// YAML wants the point, also before an exponent.
		mantissa, exponent, scientific := strings.Cut(s, "e")
		if !strings.Contains(mantissa, ".") {
			mantissa += ".0"
		}
		if scientific {
			mantissa += "e" + exponent
		}
		return mantissa
	case nil:
		return "null"
	}
	return fmt.Sprint(v)
}

// key is a member's name, in quotes unless it is plain.
func key(name string) string {
	plain := name != ""
	for _, c := range name {
		plain = plain && (c == '_' || c >= 'a' && c <= 'z')
	}
	switch name {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
		plain = false
	}
	if plain {
		return name
	}
	return quote(name)
}

// quote writes characters that cannot be seen as escapes: direction marks would
// let a fixture look other than it is.
func quote(s string) string {
	var quoted strings.Builder
	e := json.NewEncoder(&quoted)
	e.SetEscapeHTML(false) // it is read by people; pages escape it themselves
	if err := e.Encode(s); err != nil {
		return strconv.QuoteToASCII(s)
	}
	var b strings.Builder
	for _, r := range strings.TrimSuffix(quoted.String(), "\n") {
		switch {
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08X`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// printable keeps a comment on its line.
func printable(s string) string {
	q := quote(s)
	return q[1 : len(q)-1]
}

func sorted[V any](m map[string]V) []string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}
