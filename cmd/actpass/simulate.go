package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/whatif"
)

// simulation is what the command line asks.
type simulation struct {
	policies             []string
	mode, since, until   string
	tool, agent, dataDir string
	limit                int
}

func newSimulateCmd() *cobra.Command {
	var q simulation
	var asJSON, exitCode bool
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Judge the record again under another policy or mode; show what would change",
		Long: `Judges the actions on record again, in order, limits included, under the policy
files and the mode that are given, and groups what changes. Without --policy it is
the policy in force; without --mode each action is judged in the mode that it was
judged in. --policy replaces all policy files of the configuration.

An action whose verdict hangs on a value that is not on record (redacted, cut, or
never written down) is counted as unknown, with the name of the value.

With ` + envAPIKey + ` set the running sidecar is asked (role approver or admin); else the
log in the data directory is read, whether a sidecar runs or not. Nothing is
changed either way. Exit code 0; with --exit-code 1 when anything would change
or is unknown.`,
		Example: `  actpass simulate --mode enforce
  actpass simulate --policy 'new/*.yaml' --since 30d --tool 'stripe.*'
  actpass simulate --policy policies/refund_policy.yaml --exit-code --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkLimit(q.limit, api.MaxLimit); err != nil {
				return err
			}
			if q.mode != "" && !gate.ValidMode(q.mode) {
				return usage("--mode must be monitor, warn, enforce or strict, not %q", q.mode)
			}
			report, err := q.ask(cmd)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), report)
			} else {
				err = printReport(cmd.OutOrStdout(), &report)
			}
			if err == nil && exitCode && report.Totals.Changed+report.Totals.Unknown > 0 {
				return &exitError{code: exitFinding}
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&q.policies, "policy", nil, "policy `file` or glob of the candidate; may be repeated")
	f.StringVar(&q.mode, "mode", "", "judge every action in this mode: monitor, warn, enforce or strict")
	f.StringVar(&q.since, "since", "7d", "first time: a duration ago (24h, 7d), a date or an RFC 3339 time")
	f.StringVar(&q.until, "until", "", "time to stop before, as --since")
	f.StringVar(&q.tool, "tool", "", "only this tool; a name or a glob")
	f.StringVar(&q.agent, "agent", "", "only this agent")
	f.IntVar(&q.limit, "limit", whatif.DefaultLimit, "groups to show")
	f.StringVar(&q.dataDir, "data-dir", "", "data directory (else data_dir of the configuration); asks no sidecar")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.BoolVar(&exitCode, "exit-code", false, "end with 1 when anything would change or is unknown")
	addAPIFlag(cmd)
	return cmd
}

// ask asks the running sidecar where there is a key for it, else the log.
func (q *simulation) ask(cmd *cobra.Command) (whatif.Report, error) {
	now := time.Now()
	since, err := api.When(q.since, now)
	if err != nil {
		return whatif.Report{}, usage("--since: %v", err)
	}
	until, err := api.When(q.until, now)
	if err != nil {
		return whatif.Report{}, usage("--until: %v", err)
	}
	if !until.IsZero() && !since.Before(until) {
		return whatif.Report{}, usage("--until must be later than --since")
	}
	ctx, stop := interruptible(cmd)
	defer stop()
	if os.Getenv(envAPIKey) == "" || q.dataDir != "" {
		return q.read(ctx, cmd, since, until)
	}
	body := api.Simulation{Mode: q.mode, Tool: q.tool, AgentID: q.agent, Limit: q.limit, Since: moment(since), Until: moment(until)}
	if since.IsZero() {
		body.Since = moment(time.Unix(0, 0)) // all there is
	}
	files, err := filesOf(q.policies)
	if err != nil {
		return whatif.Report{}, err
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return whatif.Report{}, usage("read the policy: %v", err)
		}
		body.Policies = append(body.Policies, api.SimulationPolicy{Name: name, YAML: string(text)})
	}
	client, err := newClient(cmd)
	if err != nil {
		return whatif.Report{}, err
	}
	report, err := client.Simulate(ctx, body)
	return report, explained(err)
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// read reads the log in the data directory.
func (q *simulation) read(ctx context.Context, cmd *cobra.Command, since, until time.Time) (whatif.Report, error) {
	cfg, rules, err := candidate(cmd, q.policies)
	if err != nil {
		return whatif.Report{}, err
	}
	inForce := rules.Policy
	if len(q.policies) > 0 {
		// What is in force may be broken: the candidate may be what mends it.
		if _, compiled, err := loadAll(cmd); err == nil {
			inForce = compiled.Policy
		}
	}
	rules.Mode = q.mode
	sim, err := whatif.New(whatif.Options{
		Rules: rules, InForce: inForce, Since: since, Until: until, Tool: q.tool, Agent: q.agent, Limit: q.limit,
	})
	if err != nil {
		return whatif.Report{}, err
	}
	if err := replayDir(ctx, cfg, q.dataDir, sim); err != nil {
		return whatif.Report{}, err
	}
	return sim.Report(), nil
}

// replayDir shows a simulation the log in a data directory, "" for that of the
// configuration.
func replayDir(ctx context.Context, cfg *config.Config, dir string, sim listener) error {
	if dir == "" {
		dir = cfg.Path(cfg.DataDir)
	}
	r, err := ledger.OpenReader(filepath.Join(dir, "ledger"))
	if err != nil {
		return finding("there is no evidence log in %s to judge again: %v", dir, err)
	}
	size, err := r.Size()
	if err != nil {
		return err
	}
	return replayLog(ctx, r.Read, size, sim)
}

// candidate is the configuration, and its rules with other policy files in the
// place of its own; no files: its own.
func candidate(cmd *cobra.Command, policies []string) (*config.Config, *gate.Rules, error) {
	if len(policies) == 0 {
		cfg, compiled, err := loadAll(cmd)
		if err != nil {
			return nil, nil, configError(err)
		}
		return cfg, rulesOf(cfg, compiled), nil
	}
	cfg, err := loadConfig(cmd)
	if err != nil {
		return nil, nil, configError(err)
	}
	if cfg.Policy.Files, err = filesOf(policies); err != nil {
		return nil, nil, err
	}
	for i, name := range cfg.Policy.Files {
		if cfg.Dir != "." { // what the settings name is relative to their file
			if cfg.Policy.Files[i], err = filepath.Abs(name); err != nil {
				return nil, nil, err
			}
		}
	}
	compiled, err := cfg.Compile(nil)
	if err != nil {
		return nil, nil, configError(err)
	}
	return cfg, rulesOf(cfg, compiled), nil
}

// filesOf writes out globs, each file once. A pattern that names no file is an
// error: the file that was meant would not be looked at.
func filesOf(patterns []string) ([]string, error) {
	var out []string
	seen := make(map[string]bool)
	for _, p := range patterns {
		names, err := doublestar.FilepathGlob(p, doublestar.WithFilesOnly())
		if err != nil {
			return nil, usage("%q is not a usable pattern: %v", p, err)
		}
		if len(names) == 0 {
			return nil, usage("%s matches no file", p)
		}
		sort.Strings(names)
		for _, n := range names {
			if !seen[n] {
				seen[n] = true
				out = append(out, n)
			}
		}
	}
	return out, nil
}

func printReport(out io.Writer, r *whatif.Report) error {
	mode := "each in the mode that it was judged in"
	if r.Mode != "" {
		mode = "in mode " + r.Mode
	}
	t := r.Totals
	fmt.Fprintf(out, "%d %s from %s to %s, %s: %d %s, %d %s the same, %d unknown\n", t.Events, plural(t.Events, "action", "actions"),
		day(r.From.Time), day(r.To.Time), mode, t.Changed, plural(t.Changed, "changes", "change"), t.Unchanged, plural(t.Unchanged, "stays", "stay"), t.Unknown)
	if len(r.Data) > 0 {
		fmt.Fprintln(out)
		rows := newTable(out, "COUNT", "TOOL", "AGENT", "FROM", "TO", "RULE", "AMOUNT", "LAST", "FOR EXAMPLE")
		for _, g := range r.Data {
			rows.row(strconv.Itoa(g.Count), g.Tool, g.AgentID, verdictText(g.From), verdictText(g.To), g.To.Rule, amountsText(g.Amounts), day(g.LastSeen.Time), g.Samples[0])
		}
		if err := rows.end(); err != nil {
			return err
		}
		if more := t.Groups - len(r.Data); more > 0 {
			fmt.Fprintf(out, "and %d more %s: raise --limit\n", more, plural(more, "group", "groups"))
		}
	}
	if len(r.Unknown) > 0 {
		fmt.Fprintln(out)
		rows := newTable(out, "UNKNOWN", "TOOL", "NOT ON RECORD", "FOR EXAMPLE")
		for _, u := range r.Unknown {
			rows.row(strconv.Itoa(u.Count), u.Tool, u.Argument, u.Samples[0])
		}
		return rows.end()
	}
	return nil
}

func verdictText(v whatif.Verdict) string {
	return v.Decision + " " + v.ReasonCode + " (" + doing(v.Enforcement) + ")"
}

func amountsText(m map[string]int64) string {
	list := make([]string, 0, len(m))
	for currency, n := range m {
		list = append(list, strconv.FormatInt(n, 10)+" "+currency)
	}
	sort.Strings(list)
	return strings.Join(list, ", ")
}
