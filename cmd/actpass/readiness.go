package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/whatif"
)

func newReadinessCmd() *cobra.Command {
	var q api.ReadinessQuery
	var since, dataDir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "readiness",
		Short: "Say of each tool and agent whether it could be enforced now, and what is missing",
		Long: `Judges the actions on record again under the policy in force and the mode that is
asked for, in one pass, and says for each tool of each agent: on how many days it was
seen at work, how much of it is mapped, what would be blocked though no rule says so,
how many holds a day people would face, and whether anything is missing.

With ` + envAPIKey + ` set the running sidecar is asked (role approver or admin); else the
log in the data directory is read, and modes set while running are not known.
Exit code 0 when all that was asked for is ready or in force; else 1.`,
		Example: `  actpass readiness
  actpass readiness --tool 'stripe.*' --agent support_agent --since 14d --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkLimit(q.Limit, longestPage); err != nil {
				return err
			}
			switch {
			case q.Mode != gate.ModeEnforce && q.Mode != gate.ModeStrict:
				return usage("--mode must be enforce or strict, not %q", q.Mode)
			case q.MinDays < 1 || q.MaxHolds < 1:
				return usage("--min-days and --max-holds must be 1 or more")
			}
			q.Now = time.Now()
			var err error
			if q.Since, err = api.When(since, q.Now); err != nil || q.Since.IsZero() || !q.Since.Before(q.Now) {
				return usage("--since must be a duration ago (24h, 7d), a date or an RFC 3339 time, in the past")
			}
			report, err := askReadiness(cmd, q, dataDir)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), report)
			} else {
				err = printReadiness(cmd.OutOrStdout(), &report)
			}
			if err == nil && !report.Ready {
				return &exitError{code: exitFinding}
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.Mode, "mode", gate.ModeEnforce, "ready for enforce, or for strict")
	f.StringVar(&since, "since", "7d", "first time: a duration ago (24h, 7d), a date or an RFC 3339 time")
	f.StringVar(&q.Tool, "tool", "", "only this tool; a name or a glob")
	f.StringVar(&q.Agent, "agent", "", "only this agent")
	f.IntVar(&q.MinDays, "min-days", whatif.DefaultMinDays, "days of work that are asked for")
	f.IntVar(&q.MaxHolds, "max-holds", whatif.DefaultMaxHolds, "holds a day of one tool and agent that people can bear")
	f.IntVar(&q.Limit, "limit", whatif.DefaultLimit, "rows to show")
	f.StringVar(&dataDir, "data-dir", "", "data directory (else data_dir of the configuration); asks no sidecar")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	addAPIFlag(cmd)
	return cmd
}

func askReadiness(cmd *cobra.Command, q api.ReadinessQuery, dir string) (r whatif.Readiness, err error) {
	ctx, stop := interruptible(cmd)
	defer stop()
	if os.Getenv(envAPIKey) != "" && dir == "" {
		client, err := newClient(cmd)
		if err != nil {
			return r, err
		}
		for {
			r, err = client.Readiness(ctx, q)
			if e := (*api.Error)(nil); !errors.As(err, &e) || e.Code != api.ReadingCode {
				return r, explained(err)
			}
		}
	}
	cfg, compiled, err := loadAll(cmd)
	if err != nil {
		return r, configError(err)
	}
	if dir == "" {
		dir = cfg.Path(cfg.DataDir)
	}
	log, err := ledger.OpenReader(filepath.Join(dir, "ledger"))
	if err != nil {
		return r, finding("there is no evidence log in %s to ask: %v", dir, err)
	}
	size, err := log.Size()
	if err != nil {
		return r, err
	}
	return studyOf(ctx, rulesOf(cfg, compiled), q, log.Read, size)
}

func studyOf(ctx context.Context, rules *gate.Rules, q api.ReadinessQuery, read readLog, size uint64) (whatif.Readiness, error) {
	study, err := whatif.NewReadiness(whatif.ReadinessOptions{
		Rules: rules, Mode: q.Mode, Tenant: q.Tenant, Since: q.Since, Now: q.Now, Tool: q.Tool, Agent: q.Agent,
		MinDays: q.MinDays, MaxHolds: q.MaxHolds, Limit: q.Limit, Skip: q.Skip,
	})
	if err == nil {
		err = replayLog(ctx, read, size, study)
	}
	if err != nil {
		return whatif.Readiness{}, err
	}
	return study.Report(), nil
}

// Readiness implements api.EventSource.
func (e *events) Readiness(ctx context.Context, q api.ReadinessQuery) (whatif.Readiness, error) {
	inForce := e.gate.Rules()
	if inForce == nil {
		return whatif.Readiness{}, fmt.Errorf("%w: no policy is loaded yet", gate.ErrUnavailable)
	}
	if err := e.log.Flush(ctx); err != nil {
		return whatif.Readiness{}, err
	}
	return e.studies.ask(ctx, inForce, q, e.log.Read, e.log.Size())
}

func printReadiness(out io.Writer, r *whatif.Readiness) error {
	changed := "not in this time"
	if r.PolicyChanged != nil {
		changed = day(r.PolicyChanged.Time)
	}
	verdict := "ready for " + r.Mode
	if !r.Ready {
		verdict = "not ready for " + r.Mode
	}
	fmt.Fprintf(out, "%s: %d %s from %s to %s, %s mapped; last policy change: %s\n", verdict, r.Calls, plural(r.Calls, "call", "calls"),
		day(r.From.Time), day(r.To.Time), portion(r.Mapped), changed)
	for _, m := range r.Missing {
		fmt.Fprintf(out, "missing: %s\n", plain(m))
	}
	if len(r.Data) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	t := newTable(out, "VERDICT", "TOOL", "AGENT", "MODE", "CALLS", "DAYS", "MAPPED", "BLOCKED", "UNEXPLAINED", "HOLDS/DAY", "MISSING")
	for _, row := range r.Data {
		missing := row.Missing
		if len(missing) == 0 {
			missing = []string{""}
		}
		t.row(row.Verdict, row.Tool, row.AgentID, row.Mode, strconv.Itoa(row.Calls), strconv.Itoa(row.Days), portion(row.Mapped), strconv.Itoa(row.WouldBlock),
			strconv.Itoa(row.Unexplained), strconv.FormatFloat(row.HoldsADay, 'f', 1, 64), missing[0])
		for _, m := range missing[1:] {
			t.row(" ", " ", " ", " ", " ", " ", " ", " ", " ", " ", m)
		}
	}
	if err := t.end(); err != nil {
		return err
	}
	if more := r.Rows - len(r.Data); more > 0 {
		fmt.Fprintf(out, "and %d more: raise --limit\n", more)
	}
	return nil
}

// portion rounds down: it never says 100 of what is not whole.
func portion(share float64) string { return strconv.Itoa(int(share*100)) + "%" }
