package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/mapping/openapi"
)

func newMappingSuggestCmd() *cobra.Command {
	var since, host string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "suggest",
		Short: "Draft rules for recorded traffic that no rule maps",
		Long: `Writes a rule file to standard output: one rule for each method, host and shape
of path that is on record without a rule. Numbers, UUIDs and other identifiers in
paths become named segments. Arguments are not on record and not declared; risks
are guesses. Read the file, then list it under mapping.files.

Exit code 0 also when there is nothing to suggest; standard output is then empty.`,
		Example: `  actpass mapping suggest --since 7d > mappings/seen.yaml
  actpass mapping suggest --host tickets.example.com`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, _, err := recorded(cmd, since, host)
			if t == nil {
				return err
			}
			pack, err := openapi.Observe(t.Unmapped)
			if err != nil {
				return finding("draft the rules: %s", plain(err.Error()))
			}
			notes := cmd.ErrOrStderr()
			showLeft(notes, pack.Left)
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{
					"operations": append([]openapi.Operation{}, pack.Operations...), "left": append([]openapi.Left{}, pack.Left...),
				})
			}
			if len(pack.Operations) == 0 {
				fmt.Fprintln(notes, "actpass: nothing to suggest: no call without a rule is on record")
				return nil
			}
			_, err = cmd.OutOrStdout().Write(pack.YAML())
			return err
		},
	}
	addTrafficFlags(cmd, &since, &host)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func addTrafficFlags(cmd *cobra.Command, since, host *string) {
	cmd.Flags().StringVar(since, "since", "7d", "nothing older than this: a duration ago (7d, 12h), a date or an RFC 3339 time")
	cmd.Flags().StringVar(host, "host", "", "only calls to this host, host:port where the port is neither 443 nor 80")
	addAPIFlag(cmd)
}

// coverage is what coverage says with --json.
type coverage struct {
	Since     evidence.Time   `json:"since"`
	Calls     int             `json:"calls"`
	Mapped    int             `json:"mapped"`
	Percent   string          `json:"percent"`
	Unmapped  []openapi.Shape `json:"unmapped"`
	Opaque    int             `json:"opaque"` // tunnels that were not looked into
	OpaqueTop []tunnel        `json:"tunnels"`
}

type tunnel struct {
	Authority string `json:"authority"`
	Calls     int    `json:"calls"`
}

func newMappingCoverageCmd() *cobra.Command {
	var since, host string
	var least float64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "coverage",
		Short: "Say how much of the recorded traffic has a rule, and what has none",
		Long: `Counts the calls on record that a mapping rule named, and lists the others by host
and shape of path, the most frequent first. Tunnels that were not looked into are
counted by themselves. Calls of the preflight door are left out: they name their
tools themselves.

Exit code 0; with --fail-under, 1 where less is mapped.`,
		Example: `  actpass mapping coverage --since 24h
  actpass mapping coverage --fail-under 95 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if least < 0 || least > 100 {
				return usage("--fail-under must be from 0 to 100")
			}
			t, from, err := recorded(cmd, since, host)
			if t == nil {
				return err
			}
			c := coverageOf(t, from)
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), c)
			} else {
				err = showCoverage(cmd.OutOrStdout(), c)
			}
			if err != nil {
				return err
			}
			if float64(c.Mapped)*100 < least*float64(c.Calls) {
				return finding("%s%% of the calls are mapped, less than %g%%", c.Percent, least)
			}
			return nil
		},
	}
	addTrafficFlags(cmd, &since, &host)
	cmd.Flags().Float64Var(&least, "fail-under", 0, "exit with 1 where less than this percentage is mapped")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func coverageOf(t *api.Traffic, from time.Time) *coverage {
	c := &coverage{Since: evidence.Time{Time: from}, Mapped: t.Mapped, Calls: t.Mapped, Unmapped: append([]openapi.Shape{}, openapi.Shapes(t.Unmapped)...), OpaqueTop: []tunnel{}}
	for _, s := range c.Unmapped {
		c.Calls += s.Calls
	}
	for authority, n := range t.Tunnels {
		c.Opaque += n
		c.OpaqueTop = append(c.OpaqueTop, tunnel{authority, n})
	}
	slices.SortFunc(c.OpaqueTop, func(a, b tunnel) int { return cmp.Or(b.Calls-a.Calls, strings.Compare(a.Authority, b.Authority)) })
	c.Percent = percent(c.Mapped, c.Calls)
	return c
}

func showCoverage(out io.Writer, c *coverage) error {
	fmt.Fprintf(out, "%d %s since %s: %d mapped (%s%%), %d not\n", c.Calls, plural(c.Calls, "call", "calls"), day(c.Since.Time), c.Mapped, c.Percent, c.Calls-c.Mapped)
	if c.Opaque > 0 {
		fmt.Fprintf(out, "%d %s not looked into\n", c.Opaque, plural(c.Opaque, "tunnel", "tunnels"))
	}
	if len(c.Unmapped)+len(c.OpaqueTop) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	table := newTable(out, "CALLS", "METHOD", "HOST", "PATH")
	for _, s := range c.Unmapped {
		path := s.Path
		if s.Odd != "" {
			path += "  (" + s.Odd + ")"
		}
		table.row(strconv.Itoa(s.Calls), s.Method, s.Host, path)
	}
	for _, t := range c.OpaqueTop {
		table.row(strconv.Itoa(t.Calls), "CONNECT", t.Authority, "(not looked into)")
	}
	return table.end()
}

// recorded reads the traffic since a time that the user gave. The traffic is nil
// where there is nothing more to do; the error may be nil then too (Ctrl-C).
func recorded(cmd *cobra.Command, since, host string) (*api.Traffic, time.Time, error) {
	from, err := api.When(since, time.Now())
	if err != nil {
		return nil, from, usage("--since: %v", err)
	}
	client, err := newClient(cmd)
	if err != nil {
		return nil, from, err
	}
	ctx, stop := interruptible(cmd)
	defer stop()
	count := progressOf(cmd.ErrOrStderr(), "events read")
	t, err := client.Traffic(ctx, from, host, 0, count)
	count(-1)
	if err != nil {
		return nil, from, explained(err)
	}
	return t, from, nil
}

// progressOf shows a number on a terminal; a negative one wipes it off.
func progressOf(w io.Writer, what string) func(n int) {
	file, ok := w.(*os.File)
	if !ok || !isTerminal(file) {
		return func(int) {}
	}
	return func(n int) {
		fmt.Fprint(w, "\r\x1b[K")
		if n >= 0 {
			fmt.Fprintf(w, "%d %s", n, what)
		}
	}
}

// percent is part of whole with one decimal, rounded down: 99.96 is not all.
func percent(part, whole int) string {
	if whole == 0 {
		return "100.0"
	}
	tenths := part * 1000 / whole
	return strconv.Itoa(tenths/10) + "." + strconv.Itoa(tenths%10)
}
