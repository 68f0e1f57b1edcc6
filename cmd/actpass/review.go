package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/whatif"
)

// review is what the command line asks, and what is found.
type review struct {
	policies           []string
	mode, since, until string
	tool, agent        string
	dataDir            string
	out, fixtures      string
	write              bool

	cfg      *config.Config
	inForce  *policy.Set
	embedded bool // the policies are those in the binary
	from, to time.Time
	walk     *whatif.Walk
	answered map[string]bool // groups that are settled without a rule
	blocked  int
	ignored  int
}

func newReviewCmd() *cobra.Command {
	var q review
	var asJSON bool
	var answers []string
	var limit int
	cmd := &cobra.Command{
		Use:   "review",
		Short: "Go through what enforce would stop, and make rules of what is right",
		Long: `Judges the actions on record again under a mode and walks the groups of those that it
would block or hold, the largest first. For each, answer with a word or its first letter:

  accept   such calls are right: draft a rule and its fixture
  blocked  rightly stopped: draft a fixture that holds the policy to it
  ignore   say nothing about it
  more     show more of it, and ask again
  quit     end here

A rule is put above the one that stopped the calls, as text: the file's comments and
order stay. After each accept everything is judged again. In the end --out writes a
patch, policies and fixtures together, and --write applies it; with neither it is
printed. Raise the policy's version before it goes into force.

The log in the data directory is read, whether a sidecar runs or not. Answers may come
from a pipe, one a line; where they end, so does the review. Exit code 0; 2 when an
answer from a pipe is none.

--json is the same for programs, without a conversation: groups with ids, and with
--answer what comes of them. With ` + envAPIKey + ` set, and neither --data-dir nor --policy, the
running sidecar is asked for it (role approver or admin).`,
		Example: `  actpass review --since 30d --out review.patch && git apply review.patch && actpass test
  actpass review --tool 'stripe.*' --write
  printf 'accept\nblocked\n' | actpass review --out review.patch
  actpass review --json --answer 3f2a9c0d1b7e8842=accept`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case !gate.ValidMode(q.mode):
				return usage("--mode must be monitor, warn, enforce or strict, not %q", q.mode)
			case q.write && q.out != "":
				return usage("--write applies what --out would write: give one of them")
			}
			if err := q.checkJSON(asJSON, answers, limit); err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			if asJSON {
				given, err := readAnswers(answers)
				if err != nil {
					return err
				}
				r, err := q.report(ctx, cmd, given, limit)
				if err != nil {
					return err
				}
				return printJSON(cmd.OutOrStdout(), r)
			}
			if err := q.begin(cmd); err != nil {
				return err
			}
			if err := q.goThrough(ctx, cmd.InOrStdin(), cmd.OutOrStdout()); err != nil {
				return err
			}
			return q.finish(cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&q.policies, "policy", nil, "policy `file` or glob to review instead of the configuration's; may be repeated")
	f.StringVar(&q.mode, "mode", gate.ModeEnforce, "the mode in question: monitor, warn, enforce or strict")
	f.StringVar(&q.since, "since", "7d", "first time: a duration ago (24h, 7d), a date or an RFC 3339 time")
	f.StringVar(&q.until, "until", "", "time to stop before, as --since")
	f.StringVar(&q.tool, "tool", "", "only this tool; a name or a glob")
	f.StringVar(&q.agent, "agent", "", "only this agent")
	f.StringVar(&q.dataDir, "data-dir", "", "data directory (else data_dir of the configuration)")
	f.StringVar(&q.out, "out", "", "write the patch to this `file`")
	f.StringVar(&q.fixtures, "fixtures", "", "`file` for the fixtures (else fixtures/review_....yaml beside the policy)")
	f.BoolVar(&asJSON, "json", false, "print the groups as JSON, asking nothing; with --answer, what becomes of them and the patch")
	f.StringArrayVar(&answers, "answer", nil, "with --json: GROUP=accept, GROUP=blocked or GROUP=ignore; may be repeated")
	f.IntVar(&limit, "limit", whatif.DefaultLimit, "with --json: groups to show")
	addAPIFlag(cmd)
	f.BoolVar(&q.write, "write", false, "change the policy files, and write the fixtures")
	return cmd
}

func (q *review) begin(cmd *cobra.Command) error {
	now := time.Now()
	if err := q.period(now); err != nil {
		return err
	}
	cfg, rules, err := candidate(cmd, q.policies)
	if err != nil {
		return err
	}
	q.cfg, q.inForce, q.answered = cfg, rules.Policy, make(map[string]bool)
	q.embedded = cfg.File == "" && len(q.policies) == 0
	if len(q.policies) > 0 {
		if _, compiled, err := loadAll(cmd); err == nil {
			q.inForce = compiled.Policy
		}
	}
	rules.Mode = q.mode
	q.walk, err = newWalk(cfg, rules, q.embedded, now)
	return err
}

// newWalk begins a walk with rules, held to the fixtures beside the policies.
func newWalk(cfg *config.Config, rules *gate.Rules, embedded bool, now time.Time) (*whatif.Walk, error) {
	var held []whatif.Fixture
	if sources, err := fixtureSources(cfg, nil, embedded); err == nil { // there may be none
		if held, err = whatif.ReadFixtures(sources, now); err != nil {
			return nil, finding("the fixtures beside the policies cannot be read: %v", err)
		}
	}
	return whatif.NewWalk(rules, func(sources []policy.Source) (*policy.Set, error) {
		return policy.Compile(sources, cfg.PolicyOptions(rules.Mapping))
	}, held)
}

// judge goes over the record and gives the groups that are not settled.
func (q *review) judge(ctx context.Context) (left []whatif.Stopped, r whatif.Report, err error) {
	sim, err := whatif.NewReview(whatif.Options{
		Rules: q.walk.Rules(), InForce: q.inForce, Since: q.from, Until: q.to, Tool: q.tool, Agent: q.agent,
	})
	if err != nil {
		return nil, r, err
	}
	if err := replayDir(ctx, q.cfg, q.dataDir, sim); err != nil {
		return nil, r, err
	}
	all, _ := sim.Stopped()
	for i := range all {
		if !q.answered[all[i].Key()] {
			left = append(left, all[i])
		}
	}
	return left, sim.Report(), nil
}

func (q *review) goThrough(ctx context.Context, in io.Reader, out io.Writer) error {
	left, r, err := q.judge(ctx)
	if err != nil {
		return err
	}
	n := r.Totals.Events
	fmt.Fprintf(out, "%d %s from %s to %s. Mode %s %s.\n", n, plural(n, "action", "actions"), day(r.From.Time), day(r.To.Time), q.mode, stops(left))
	lines := bufio.NewScanner(in)
	for len(left) > 0 {
		g := left[0]
		fmt.Fprintf(out, "\n%d left. ", len(left))
		printStopped(out, &g, q.walk.Rules().Policy)
		settled, quit, err := q.ask(lines, in, out, &g)
		if err != nil || quit {
			return err
		}
		if settled {
			q.answered[g.Key()] = true
			left = left[1:]
			continue
		}
		if left, r, err = q.judge(ctx); err != nil {
			return err
		}
		fmt.Fprintf(out, "Judged again: mode %s %s.\n", q.mode, stops(left))
	}
	if n := r.Totals.Unknown; n > 0 {
		fmt.Fprintf(out, "\n%d more %s on what is not on record, such as %s of %s: see actpass simulate.\n", n, plural(n, "hangs", "hang"), plain(r.Unknown[0].Argument), plain(r.Unknown[0].Tool))
	}
	return nil
}

// stops words how much is stopped.
func stops(list []whatif.Stopped) string {
	n, blocked := 0, 0
	for i := range list {
		n += list[i].Count
		if list[i].To.Enforcement == "block" {
			blocked += list[i].Count
		}
	}
	if n == 0 {
		return "stops nothing that is left to answer"
	}
	return fmt.Sprintf("blocks %d and holds %d, in %d %s", blocked, n-blocked, len(list), plural(len(list), "group", "groups"))
}

// ask has one group answered. settled: without a rule.
func (q *review) ask(lines *bufio.Scanner, in io.Reader, out io.Writer, g *whatif.Stopped) (settled, quit bool, err error) {
	f, isFile := in.(*os.File)
	person := isFile && isTerminal(f)
	for {
		fmt.Fprint(out, "accept, blocked, ignore, more, quit? ")
		if !lines.Scan() {
			fmt.Fprintln(out)
			return false, true, lines.Err()
		}
		answer := strings.ToLower(strings.TrimSpace(lines.Text()))
		if !person {
			fmt.Fprintln(out, plain(answer))
		}
		switch answer {
		case "a", "accept":
			d, err := q.walk.Accept(g)
			if err != nil {
				fmt.Fprintf(out, "Not accepted: %s.\n", told(err))
				if !person {
					// The next line was written for the next group.
					q.ignored++
					return true, false, nil
				}
				continue
			}
			printDraft(out, d)
			return false, false, nil
		case "b", "blocked", "rightly blocked":
			q.walk.Blocked(g)
			q.blocked++
			return true, false, nil
		case "i", "ignore":
			q.ignored++
			return true, false, nil
		case "m", "more":
			printMore(out, g)
		case "q", "quit":
			return false, true, nil
		default:
			if !person {
				return false, false, usage("%q is no answer: use accept, blocked, ignore, more or quit, one a line; nothing was written", answer)
			}
		}
	}
}

// told is an error as it may go to a terminal, line by line.
func told(err error) string {
	return strings.TrimSuffix(lines(strings.TrimSuffix(err.Error(), ".")), "\n")
}

var errAway = errors.New("outside of it")
