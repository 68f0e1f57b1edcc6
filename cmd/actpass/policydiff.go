package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/whatif"
)

func newPolicyCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Compare policies",
		Example: `  actpass policy diff policies new/policies
  actpass policy diff policies new/policies --since 7d`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPolicyDiffCmd())
	return cmd
}

// policyDiff is the answer of policy diff.
type policyDiff struct {
	Differences []whatif.PolicyDifference `json:"differences"`
	Recorded    int                       `json:"recorded"` // actions on record that were judged by both
	Unknown     int                       `json:"unknown"`  // of them, those that hang on what is not on record
}

func newPolicyDiffCmd() *cobra.Command {
	var since, dataDir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Say which actions two policies decide otherwise, with an example each",
		Long: `Judges actions by the policies of A and by those of B and says what differs: decision,
reason, or the limits that count. A and B are files, globs, or directories of *.yaml.

The actions are made up at the edges of what the rules of both compare with: every
number and its neighbours, every text and another one, every field absent. With --since
or --data-dir the actions on record are judged too. Rules that compute may differ
elsewhere: no difference found is no proof that there is none.
Exit code 0: no difference; 1: some; 2: usage, or a policy that cannot be used.`,
		Example: `  actpass policy diff policies new/policies
  actpass policy diff policies/refund_policy.yaml refund_policy.new.yaml --since 7d --json`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := diffPolicies(cmd, args, since, dataDir)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), d)
			} else {
				printPolicyDiff(cmd.OutOrStdout(), d)
			}
			if err == nil && len(d.Differences) > 0 {
				return &exitError{code: exitFinding}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&since, "since", "", "also judge the actions on record since: a duration ago (24h, 7d), a date or an RFC 3339 time")
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "also judge the actions on record in this data directory (else data_dir of the configuration)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func diffPolicies(cmd *cobra.Command, args []string, since, dataDir string) (*policyDiff, error) {
	from, err := api.When(since, time.Now())
	if err != nil {
		return nil, usage("--since: %v", err)
	}
	pattern := func(p string) []string {
		if info, err := os.Stat(p); err == nil && info.IsDir() {
			p = filepath.Join(p, "*.yaml")
		}
		return []string{p}
	}
	cfg, a, err := candidate(cmd, pattern(args[0]))
	if err != nil {
		return nil, usage("A: %v", err)
	}
	_, b, err := candidate(cmd, pattern(args[1]))
	if err != nil {
		return nil, usage("B: %v", err)
	}
	d := &policyDiff{Differences: whatif.DiffPolicies(a.Policy, b.Policy, a.Mapping.Tools(), time.Now())}
	if since == "" && dataDir == "" {
		return d, nil
	}
	recorded, err := whatif.NewRecordDiff(whatif.Options{Rules: a, Since: from}, b.Policy)
	if err != nil {
		return nil, err
	}
	ctx, stop := interruptible(cmd)
	defer stop()
	if err := replayDir(ctx, cfg, dataDir, recorded); err != nil {
		return nil, usage("%v", err)
	}
	d.Differences = append(recorded.Differences(), d.Differences...)
	d.Recorded, d.Unknown = recorded.Events, recorded.Unknown
	return d, nil
}

func printPolicyDiff(out io.Writer, d *policyDiff) {
	if d.Recorded > 0 {
		fmt.Fprintf(out, "%d actions on record, %d of them unknown.\n", d.Recorded, d.Unknown)
	}
	if len(d.Differences) == 0 {
		fmt.Fprintln(out, "No difference found.")
	}
	for i := range d.Differences {
		p := &d.Differences[i]
		fmt.Fprintf(out, "%s: %s -> %s", plain(p.Tool), policyWord(p.From), policyWord(p.To))
		if len(p.LimitsFrom)+len(p.LimitsTo) > 0 {
			fmt.Fprintf(out, "; limits %v -> %v", p.LimitsFrom, p.LimitsTo)
		}
		fmt.Fprintf(out, " (%s, %d)\n", p.Source, p.Count)
		e := &p.Example
		fmt.Fprint(out, "  e.g.")
		for _, f := range [][2]string{{"", e.EventID}, {"resource", e.Resource}, {"agent_id", e.AgentID}, {"user_id", e.UserID}, {"goal", e.Goal}, {"risk_tier", e.Risk}} {
			switch {
			case f[1] == "":
			case f[0] == "":
				fmt.Fprint(out, " "+f[1])
			default:
				fmt.Fprintf(out, " %s=%s", f[0], plain(f[1]))
			}
		}
		for _, m := range []struct {
			name string
			args map[string]any
		}{{"args", e.Args}, {"path", e.Path}, {"query", e.Query}, {"header", e.Header}, {"passport", e.Passport}} {
			if len(m.args) > 0 {
				fmt.Fprintf(out, " %s: %s", m.name, argsText(m.args))
			}
		}
		fmt.Fprintln(out)
	}
}

func policyWord(v whatif.Verdict) string {
	if v.Rule == "" {
		return v.Decision + " " + v.ReasonCode
	}
	return v.Decision + " " + v.ReasonCode + " by " + plain(v.Rule)
}
