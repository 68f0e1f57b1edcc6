package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/whatif"
)

const (
	fewSamples = 3
	longestArg = 60
)

// printStopped tells a group in plain words.
func printStopped(out io.Writer, g *whatif.Stopped, set *policy.Set) {
	agent := plain(g.AgentID)
	if agent == "" {
		agent = "an agent without a name"
	}
	word := "would be blocked"
	if g.To.Enforcement == "hold" {
		word = "would wait for a human"
	}
	on := ""
	if resource, same := g.Resource(); resource != "" {
		on = " on " + plain(resource)
		if !same {
			on += "..."
		}
	}
	fmt.Fprintf(out, "%s called %s%s: %d %s, which %s.\n", agent, plain(g.Tool), on, g.Count, plural(g.Count, "time", "times"), word)
	if len(g.Amounts) > 0 {
		fmt.Fprintf(out, "  amounts  %s in all\n", plain(amountsText(g.Amounts)))
	}
	fmt.Fprintf(out, "  seen     %s to %s\n", day(g.First), day(g.Last))
	switch {
	case g.To.Rule == "":
		fmt.Fprintf(out, "  because  %s: %s\n", g.To.Decision, g.To.ReasonCode)
	default:
		kind := "rule"
		if g.Limit {
			kind = "limit"
		}
		fmt.Fprintf(out, "  because  %s: %s, %s %s at %s:%d\n", g.To.Decision, g.To.ReasonCode, kind, plain(g.To.Rule), plain(g.Pos.File), g.Pos.Line)
		text, from := set.Source(g.Pos.File, g.Pos.Line)
		for i, line := range strings.Split(text, "\n") {
			fmt.Fprintf(out, "    %4d | %s\n", from+i, plain(line))
		}
	}
	printSamples(out, g.Samples[:min(len(g.Samples), fewSamples)])
}

func printSamples(out io.Writer, list []whatif.Sample) {
	for i := range list {
		s := &list[i]
		fmt.Fprintf(out, "  e.g.     %s  %s  %s  %s\n", s.EventID, day(s.Time), plain(s.Resource), argsText(s.Args))
	}
}

// printMore shows more samples, and what each argument held.
func printMore(out io.Writer, g *whatif.Stopped) {
	printSamples(out, g.Samples)
	if more := g.Count - len(g.Samples); more > 0 {
		fmt.Fprintf(out, "  and %d more\n", more)
	}
	for _, line := range g.Arguments() {
		fmt.Fprintf(out, "  args.%s\n", plain(line))
	}
}

// argsText shows arguments on a line.
func argsText(args map[string]any) string {
	names := make([]string, 0, len(args))
	for n := range args {
		if n != evidence.OmittedKey {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	parts := make([]string, len(names))
	for i, n := range names {
		b, err := json.Marshal(args[n])
		text := plain(string(b))
		if err != nil {
			text = "?"
		}
		if short := []rune(text); len(short) > longestArg {
			text = string(short[:longestArg]) + "..."
		}
		parts[i] = plain(n) + "=" + text
	}
	return strings.Join(parts, " ")
}

func printDraft(out io.Writer, d *whatif.Draft) {
	fmt.Fprintf(out, "Accepted, above %s at %s:%d:\n\n", plain(d.Above), plain(d.Pos.File), d.Pos.Line)
	for line := range strings.Lines(d.YAML) {
		fmt.Fprintf(out, "    %s\n", plain(strings.TrimSuffix(line, "\n")))
	}
	fmt.Fprintln(out)
	if len(d.Open) > 0 {
		fmt.Fprintf(out, "It lets %s have any value.\n", plain(strings.Join(d.Open, ", ")))
	}
}
