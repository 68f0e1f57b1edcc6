package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
)

func newApprovalsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "approvals",
		Short: "See and decide what agents ask for",
		Long: `Talks to the running sidecar with the key in ` + envAPIKey + `. Deciding needs a key with
the role approver, in a group that the rule names, or admin; never the key of the
agent that asks.`,
		Example: "  actpass approvals list --state pending\n  actpass approvals approve apr_... --reason 'checked with the customer'",
		RunE:    showHelp,
	}
	cmd.AddCommand(newApprovalsListCmd(), newApprovalsShowCmd(), newApprovalsWatchCmd(), newApprovalsProposeCmd(), newDeliveriesCmd(),
		newDecideCmd("approve", "Approve an action: exactly this one, once"),
		newDecideCmd("deny", "Deny an action"),
		newDecideCmd("escalate", "Leave the decision to other groups"),
		newDecideCmd("cancel", "Withdraw a request: its call is refused. Also with the key of the agent that asks"))
	return cmd
}

func newApprovalsListCmd() *cobra.Command {
	var state, outcome, agent string
	cmd := listing[api.Approval]{
		use: "list", short: "List approvals, newest first: age, time left, and what came of the call", example: "  actpass approvals list --state pending",
		pages: true, narrower: " or --state",
		fetch: fromAPI(func(ctx context.Context, c *api.Client, limit int) (api.Page[api.Approval], error) {
			if outcome == "" {
				return c.Approvals(ctx, state, agent, "", limit)
			}
			if state != "" && state != gate.ApprovalConsumed {
				return api.Page[api.Approval]{}, usage("--outcome: only those that are consumed have one, and --state is %s", state)
			}
			return usedApprovals(ctx, c, outcome, agent, limit)
		}),
		head: []string{"ID", "STATE", "TOOL", "RESOURCE", "AGENT", "ARGS", "AGE", "LEFT", "OUTCOME"},
		row: func(a *api.Approval) []string {
			return []string{a.ID, a.State, a.Tool, a.Resource, a.AgentID, brief(a.Args), ageOf(a), leftOf(a), outcomeOf(a)}
		},
		after: func(cmd *cobra.Command, list []api.Approval) {
			if n := unclear(list); n > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "of %d used ones it is not known whether the call took effect (%s): `actpass approvals show ID` says what to find out\n", n, unclearMark)
			}
		},
	}.command()
	cmd.Flags().StringVar(&state, "state", "", "pending, approved, denied, expired, cancelled or consumed; without it, all")
	cmd.Flags().StringVar(&outcome, "outcome", "", "of used ones, those whose call was forwarded, ambiguous, pending, blocked, refused or unknown; unclear: those that a human has to look into")
	cmd.Flags().StringVar(&agent, "agent", "", "of this agent only")
	return cmd
}

// usedApprovals asks until there are limit of an outcome, or no more.
func usedApprovals(ctx context.Context, c *api.Client, outcome, agent string, limit int) (all api.Page[api.Approval], err error) {
	for {
		p, err := c.UsedApprovals(ctx, outcome, agent, all.Next, limit)
		if err != nil {
			return all, err
		}
		all.Data = append(all.Data, p.Data...)
		if len(all.Data) > limit {
			all.Data = all.Data[:limit]
			return all, nil // Next leads to the page that was cut
		}
		if all.Next = p.Next; all.Next == "" || len(all.Data) == limit {
			return all, nil
		}
	}
}

// brief is args on one line, cut where a table would become unreadable.
func brief(args map[string]any) string {
	b, err := json.Marshal(args)
	if err != nil {
		return "?"
	}
	s := []rune(string(b))
	if len(s) > 80 {
		return string(s[:77]) + "..."
	}
	return string(s)
}

func newApprovalsShowCmd() *cobra.Command {
	var wait time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "Show one approval: what exactly is asked for, by whom, and who said what",
		Example: "  actpass approvals show apr_0199a5c0-7d2e-7c3b-9f10-2b6f6f0a1c22 --wait 30s",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := newClient(cmd)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			a, err := client.Approval(ctx, args[0], wait)
			if err != nil {
				return explained(err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), a)
			}
			return showApproval(cmd.OutOrStdout(), a)
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait this long for the decision, at most 60s")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	addAPIFlag(cmd)
	return cmd
}

func showApproval(out io.Writer, a api.Approval) error {
	args, err := json.Marshal(a.Args)
	if err != nil {
		return err
	}
	f := fields{out}
	f.line("approval", a.ID)
	f.line("state", a.State)
	f.line("tool", a.Tool+" ("+a.RiskTier+" risk)")
	f.line("resource", a.Resource)
	f.line("args", string(args))
	if r := a.Request; r != nil {
		f.line("request", r.Method+" "+r.Authority+r.Path)
	}
	f.line("agent", a.AgentID)
	f.line("user", a.UserID)
	f.line("goal", a.Goal)
	f.line("why", a.Summary+" ("+a.ReasonCode+")")
	f.line("rule", a.Policy+" / "+a.Rule)
	f.line("approvers", fmt.Sprintf("%d of %s", a.Required, cmp.Or(strings.Join(a.Approvers, ", "), "any approver")))
	for _, v := range a.Votes {
		said := v.Decision
		if said == gate.Approve && !v.Counts {
			said += " (before the escalation; does not count)"
		}
		f.line("vote", strings.TrimSpace(day(v.Time.Time)+"  "+v.Name+" ("+v.KeyID+"): "+said+"  "+v.Reason))
	}
	f.line("asked", day(a.CreatedAt.Time))
	f.line("decide by", day(a.ExpiresAt.Time))
	f.line("decided", when(a.DecidedAt))
	f.line("use by", when(a.UseBefore))
	f.line("age", ageOf(&a))
	f.line("left", leftOf(&a))
	f.line("used by", a.ConsumedBy)
	if o := a.Outcome; o != nil {
		f.line("outcome", outcomeOf(&a)+": "+o.Summary)
		f.line("to check", o.Check)
	}
	f.line("evidence", a.EventID)
	return nil
}

// fields prints labelled lines, without those that have no value.
type fields struct{ out io.Writer }

func (f fields) line(label, value string) {
	if strings.TrimSpace(value) != "" {
		fmt.Fprintf(f.out, "%-11s %s\n", label, plain(value))
	}
}

func newDecideCmd(decision, short string) *cobra.Command {
	v := api.Verdict{Decision: decision}
	var asJSON bool
	cmd := &cobra.Command{
		Use:     decision + " ID",
		Short:   short,
		Example: "  actpass approvals " + decision + " apr_0199a5c0-7d2e-7c3b-9f10-2b6f6f0a1c22 --reason 'checked with the customer'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := newClient(cmd)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			a, err := client.Decide(ctx, args[0], v)
			if err != nil {
				return explained(err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), a)
			}
			fmt.Fprintln(cmd.OutOrStdout(), verdict(a))
			return nil
		},
	}
	cmd.Flags().StringVar(&v.Reason, "reason", "", "why; it goes on record")
	if decision == "escalate" {
		cmd.Example = "  actpass approvals escalate apr_0199a5c0-7d2e-7c3b-9f10-2b6f6f0a1c22 --to finance-leads"
		cmd.Flags().StringArrayVar(&v.To, "to", nil, "group that decides from now on; may be given several times")
		_ = cmd.MarkFlagRequired("to")
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the approval as JSON")
	addAPIFlag(cmd)
	return cmd
}

// verdict is the approval after a word on it, in one line.
func verdict(a api.Approval) string {
	s := plain(a.ID) + " is " + plain(a.State) + ": " + plain(a.Tool) + " " + plain(a.Resource) + " for " + plain(a.AgentID)
	switch {
	case a.State == gate.ApprovalPending:
		s += fmt.Sprintf(" (%d of %d approvals; asked: %s)", a.Given(), a.Required, plain(cmp.Or(strings.Join(a.Approvers, ", "), "any approver")))
	case a.State == gate.ApprovalApproved && a.UseBefore != nil:
		s += " (to be used before " + when(a.UseBefore) + ")"
	case a.Outcome != nil:
		s += ". " + plain(strings.TrimSpace(a.Outcome.Summary+" "+a.Outcome.Check))
	}
	return s
}

// watchEvery is how often watch looks for new approvals; what happens to a
// known one shows at the same pace.
const watchEvery = time.Second

func newApprovalsWatchCmd() *cobra.Command {
	var asJSON, lines bool
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "See approvals as they are asked for, and decide them, until q or Ctrl-C",
		Long: `On a terminal: a screen with the approvals that wait, their age and the time that is
left, the chosen one in plain words, and keys to approve, deny, escalate and cancel it
with a reason; below them those that were used in the last day and of whose call it is
not known whether it took effect. Elsewhere, with --lines or --json: one line for each thing that happens.`,
		Example: "  actpass approvals watch\n  actpass approvals watch --lines",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := newClient(cmd)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			if out, ok := cmd.OutOrStdout().(*os.File); ok && !asJSON && !lines && isTerminal(out) && isTerminal(os.Stdin) {
				where, err := apiURL(cmd)
				if err != nil {
					return err
				}
				return explained(watchScreen(ctx, client, where))
			}
			w := watcher{client: client, known: map[string]string{}, told: map[string]bool{}, show: func(a api.Approval) error {
				if asJSON {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(a)
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), day(time.Now())+"  "+verdict(a)+"  "+plain(brief(a.Args)))
				return err
			}}
			return explained(w.run(ctx, cmd.ErrOrStderr()))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	cmd.Flags().BoolVar(&lines, "lines", false, "print lines on a terminal too")
	addAPIFlag(cmd)
	return cmd
}

// watcher follows the queue of one sidecar.
type watcher struct {
	client *api.Client
	known  map[string]string // pending ones and the number of votes shown
	told   map[string]bool   // of used ones whose outcome is not known, those shown
	doubts doubts
	show   func(api.Approval) error
}

func (w *watcher) run(ctx context.Context, notes io.Writer) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	away := false
	for first := true; ; first = false {
		err := w.look(ctx)
		var said *api.Error
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil && away:
			away = false
			fmt.Fprintln(notes, "actpass: the sidecar answers again")
		case err == nil:
		case first, errors.As(err, &said) && said.Status < 500:
			return err // a wrong address or key does not mend itself
		case !away:
			away = true
			fmt.Fprintf(notes, "actpass: %s; waiting for it to come back\n", plain(err.Error()))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look shows what is new: pending ones never seen, and what became of those
// that are pending no more.
func (w *watcher) look(ctx context.Context) error {
	pending, err := all(func(cursor string) ([]api.Approval, string, error) {
		p, err := w.client.Approvals(ctx, gate.ApprovalPending, "", cursor, api.MaxLimit)
		return p.Data, p.Next, err
	})
	if err != nil {
		return err
	}
	still := map[string]bool{}
	for i := len(pending) - 1; i >= 0; i-- { // oldest first
		a := pending[i]
		still[a.ID] = true
		mark := fmt.Sprint(len(a.Votes))
		if w.known[a.ID] == mark {
			continue
		}
		if err := w.show(a); err != nil {
			return err
		}
		w.known[a.ID] = mark
	}
	for id := range w.known {
		if still[id] {
			continue
		}
		a, err := w.client.Approval(ctx, id, 0)
		if err != nil {
			return err
		}
		if err := w.show(a); err != nil {
			return err
		}
		delete(w.known, id)
	}
	open, err := w.doubts.look(ctx, w.client)
	if err != nil {
		return err
	}
	for i := len(open) - 1; i >= 0; i-- {
		if w.told[open[i].ID] {
			continue
		}
		if err := w.show(open[i]); err != nil {
			return err
		}
		w.told[open[i].ID] = true
	}
	return nil
}
