package openapi

import (
	"strconv"
	"strings"
)

// YAML is the pack as a rule file (mapping/catalog/README.md).
func (p *Pack) YAML() []byte {
	data, _ := p.write()
	return data
}

// write gives the file and, for each operation, the line that its first rule
// begins on.
func (p *Pack) write() ([]byte, []int) {
	w := writer{indent: "  "}
	w.line("# Drafted: names and resources follow from the paths, risks are guesses. Read them before they are enforced.")
	w.line("name: " + scalar(p.Name))
	if d := oneLine(p.Description); d != "" {
		w.line("description: " + scalar(d))
	}
	if p.Host != "" {
		w.line("hosts: [" + scalar(p.Host) + "]")
	}
	w.line("")
	w.line("rules:")
	lines := make([]int, len(p.Operations))
	for i := range p.Operations {
		lines[i] = w.lines + 1
		w.operation(&p.Operations[i], "")
	}
	return []byte(w.b.String()), lines
}

type writer struct {
	b      strings.Builder
	lines  int
	indent string // of the rules' dashes
}

func (w *writer) line(s string) {
	w.b.WriteString(s)
	w.b.WriteByte('\n')
	w.lines++
}

// operation writes the rules of o. host is written where o names none.
func (w *writer) operation(o *Operation, host string) {
	if o.Summary != "" {
		w.line(w.indent + "# " + o.Summary)
	}
	if o.Calls > 0 {
		w.line(w.indent + "# seen " + plural(o.Calls, "time", "times"))
	}
	if o.Host != "" {
		host = o.Host
	}
	in := w.indent + "  "
	for _, b := range o.Bodies {
		match := "methods: [" + o.Method + "], path: " + quote(o.Path)
		if host != "" {
			match = "host: " + scalar(host) + ", " + match
		}
		if b.ContentType != "" {
			match += ", headers: { Content-Type: " + quote(b.ContentType) + " }"
		}
		w.line(w.indent + "- match: { " + match + " }")
		w.line(in + "tool: " + scalar(o.Tool))
		w.line(in + "risk: " + o.Risk)
		if b.Kind != "none" {
			w.line(in + "args: " + b.Kind)
		}
		for _, required := range []bool{true, false} {
			list := declared(b.Args, required)
			if len(list) == 0 {
				continue
			}
			if required {
				w.line(in + "require:")
			} else {
				w.line(in + "optional:")
			}
			for _, a := range list {
				w.line(in + "  - " + describeArg(a))
			}
		}
		if o.Resource != "" {
			w.line(in + "resource: " + quote(o.Resource))
		}
		if len(b.Quirks) > 0 {
			w.line(in + "quirks: [" + strings.Join(b.Quirks, ", ") + "]")
		}
	}
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// quote is s between double quotes (YAML 1.2 section 7.3.1).
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			b.WriteString(`\x` + strconv.FormatInt(int64(r)+0x100, 16)[1:])
		case r >= 0x80 && (r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfeff):
			b.WriteString(`\u` + strconv.FormatInt(int64(r)+0x10000, 16)[1:])
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// scalar is s plain where every YAML reads it as that text, else quoted.
func scalar(s string) string {
	if s == "" || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != "" {
		return quote(s)
	}
	if c := s[0]; c >= '0' && c <= '9' || c == '-' || c == '.' {
		return quote(s)
	}
	switch strings.ToLower(s) {
	case "null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf":
		return quote(s)
	}
	return s
}
