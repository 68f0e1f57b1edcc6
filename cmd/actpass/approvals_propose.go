package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	sidecar "github.com/actpass/sidecar"
	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/whatif"
)

func newApprovalsProposeCmd() *cobra.Command {
	var least int
	var dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "propose",
		Short: "Propose policy rules for what is approved again and again",
		Long: `Looks at the latest approvals of the running sidecar. Where people approved the same
tool for the same agent under the same rule, with like arguments, and denied none, it
writes the rule that would have let them go, and fixtures that hold the policy to it.
Nothing is changed: read the rule, take it over or not, raise the policy's version.

With --write, the policy files with the rules in their places go to DIR, and the
fixtures to DIR/fixtures; run actpass test on them.`,
		Example: `  actpass approvals propose
  actpass approvals propose --write proposed && actpass test --policy 'proposed/*.yaml' proposed/fixtures/*.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if least < 1 {
				return usage("--min must be 1 or more")
			}
			client, err := newClient(cmd)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			p, err := client.Proposals(ctx, least)
			if err != nil {
				return explained(err)
			}
			if dir != "" {
				cfg, err := loadConfig(cmd)
				if err != nil {
					return configError(err)
				}
				return writeProposals(cmd.OutOrStdout(), cfg, dir, p.Data)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), p)
			}
			printProposals(cmd.OutOrStdout(), p.Data)
			return nil
		},
	}
	cmd.Flags().IntVar(&least, "min", api.DefaultLikeness, "how many like approvals make a proposal")
	cmd.Flags().StringVar(&dir, "write", "", "write policy files and fixtures into this `directory`, which is made")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	addAPIFlag(cmd)
	return cmd
}

func printProposals(out io.Writer, list []api.Proposal) {
	if len(list) == 0 {
		fmt.Fprintln(out, "# Nothing was approved so often, and alike, that a rule would cover it.")
	}
	for i, p := range list {
		if i > 0 {
			fmt.Fprintln(out, "---")
		}
		fmt.Fprintf(out, "# %d like approvals of %s for %s, none denied, %s to %s.\n", p.Count, plain(p.Tool), plain(p.AgentID), day(p.FirstAt.Time), day(p.LastAt.Time))
		fmt.Fprintf(out, "# In policy %s, before the rule %s (%s:%d):\n", plain(p.Policy), plain(p.Rule), plain(p.File), p.Line)
		fmt.Fprintf(out, "%s# For fixtures/:\n%s", lines(p.RuleYAML), lines(p.Fixtures))
	}
}

// lines is text whose lines are plain.
func lines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(plain(strings.TrimSuffix(line, "\n")) + "\n")
	}
	return b.String()
}

// writeProposals writes whole policy files. A later place in a file first, so that
// the places before it stay where they are.
func writeProposals(out io.Writer, cfg *config.Config, dir string, list []api.Proposal) error {
	texts := map[string][]byte{}
	byPlace := slices.Clone(list)
	slices.SortStableFunc(byPlace, func(a, b api.Proposal) int { return cmp.Compare(b.Line, a.Line) })
	for _, p := range byPlace {
		text, known := texts[p.File]
		if !known {
			var err error
			if text, err = os.ReadFile(cfg.Path(p.File)); errors.Is(err, fs.ErrNotExist) && cfg.File == "" {
				text, err = sidecar.ExamplePolicies.ReadFile(p.File)
			}
			if err != nil {
				return finding("the policy file is not here: %v; take the rules over by hand", err)
			}
		}
		next, err := (&whatif.Proposal{Rule: p.Rule, Pos: policy.Pos{File: p.File, Line: p.Line}, RuleYAML: p.RuleYAML}).Insert(text)
		if err != nil {
			return finding("put the rule %s in its place: %v", p.Name, err)
		}
		texts[p.File] = next
	}
	if err := os.MkdirAll(filepath.Join(dir, "fixtures"), 0o755); err != nil {
		return usage("make the directory: %v", err)
	}
	for name, text := range texts {
		if err := writeNew(out, filepath.Join(dir, filepath.Base(name)), text); err != nil {
			return err
		}
	}
	for _, p := range list {
		note := fmt.Sprintf("# %d like approvals, %s to %s.\n", p.Count, p.FirstAt.UTC().Format(time.RFC3339), p.LastAt.UTC().Format(time.RFC3339))
		if err := writeNew(out, filepath.Join(dir, "fixtures", filepath.Base(p.Name)+".yaml"), append([]byte(note), p.Fixtures...)); err != nil {
			return err
		}
	}
	return nil
}

// writeNew writes a file, and over no other text.
func writeNew(out io.Writer, name string, text []byte) error {
	if old, err := os.ReadFile(name); err == nil && !bytes.Equal(old, text) {
		return finding("%s is there already: choose another directory", name)
	}
	if err := os.WriteFile(name, text, 0o644); err != nil {
		return usage("write the proposal: %v", err)
	}
	fmt.Fprintln(out, plain(name))
	return nil
}
