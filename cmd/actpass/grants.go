package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
)

func newGrantsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "grants",
		Short: "Approve calls of one shape ahead, for a bounded number and time",
		Long: `A grant answers the question of one policy rule ahead of the calls: one tool, a
resource glob, bounds on every argument, a number of uses, an end. It goes over no
limit and no denial. Talks to the running sidecar with the key in ` + envAPIKey + `: who may
approve a call may grant it, except where its rule asks for several keys.`,
		Example: `  actpass grants create --approval apr_... --count 10 --for 8h
  actpass grants create --approval apr_... --resource 'stripe:charge:*' --free charge --count 10 --for 8h --sum amount=200000
  actpass grants list --live
  actpass grants revoke grt_... --reason 'the batch is done'`,
		RunE: showHelp,
	}
	cmd.AddCommand(newGrantsCreateCmd(), newGrantsListCmd(), newGrantsShowCmd(), newGrantsRevokeCmd())
	return cmd
}

func newGrantsCreateCmd() *cobra.Command {
	var n api.NewGrant
	var most, exactly []string
	var sum string
	var span time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Grant calls like an approval's, or of a shape of your own",
		Long: `With --approval, what is not given is taken from that approval, and each of its
arguments that neither --max, --equals nor --free names becomes a bound: a number at
most its value, anything else exactly it. The approval itself is not decided by it, nor
is any other call that waits already: a grant covers those that come after it. A call
with an argument that the grant says nothing about is not covered.`,
		Example: `  actpass grants create --approval apr_... --resource 'stripe:charge:*' --free charge --max amount=30000 --count 10 --for 8h
  actpass grants create --agent support_agent --tool stripe.refund.create --resource 'stripe:charge:*' --policy refund_policy --rule medium_refund_needs_approval --max amount=30000 --equals currency=usd --free charge --count 10 --for 8h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if n.ResourceConstraints, err = grantBounds(most, exactly); err != nil {
				return err
			}
			if sum != "" {
				arg, v, err := assigned("--sum", sum)
				if err != nil {
					return err
				}
				whole, ok := v.(int64)
				if !ok {
					return usage("--sum %s: the most must be a whole number", plain(sum))
				}
				n.Sum = &api.GrantSum{Arg: arg, Max: whole}
			}
			n.TTL = int64(span / time.Second)
			client, err := newClient(cmd)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			g, err := client.CreateGrant(ctx, n)
			if err != nil {
				return explained(err)
			}
			if err := printGrant(cmd.OutOrStdout(), g, asJSON); err != nil {
				return err
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "it covers calls that come from now on; those that wait already are decided one by one: actpass approvals list --state pending")
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&n.ApprovalID, "approval", "", "take what is not given from this approval")
	f.StringVar(&n.AgentID, "agent", "", "for this agent; '*' for every agent of the tenant")
	f.StringVar(&n.Tool, "tool", "", "this tool; no glob")
	f.StringVar(&n.Resource, "resource", "", "on this resource, or glob: * is any run of characters")
	f.StringVar(&n.Policy, "policy", "", "policy whose rule asks")
	f.StringVar(&n.Rule, "rule", "", "rule that asks")
	f.StringArrayVar(&most, "max", nil, "ARG=NUMBER: the argument at most this; may be given several times")
	f.StringArrayVar(&exactly, "equals", nil, "ARG=VALUE: the argument exactly this (JSON, else text); may be given several times")
	f.StringArrayVar(&n.FreeArgs, "free", nil, "ARG: the argument may be anything; may be given several times")
	f.Int64Var(&n.Count, "count", 0, "how many calls")
	f.StringVar(&sum, "sum", "", "ARG=NUMBER: all calls together at most this")
	f.DurationVar(&span, "for", 0, "for how long, as 8h")
	f.StringVar(&n.Reason, "reason", "", "why; it goes on record")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	_ = cmd.MarkFlagRequired("count")
	_ = cmd.MarkFlagRequired("for")
	addAPIFlag(cmd)
	return cmd
}

func grantBounds(most, exactly []string) (api.Constraints, error) {
	out := api.Constraints{}
	for _, c := range []struct {
		flag, name string
		list       []string
	}{{"--max", "max", most}, {"--equals", "equals", exactly}} {
		m := map[string]any{}
		for _, text := range c.list {
			arg, v, err := assigned(c.flag, text)
			if err != nil {
				return nil, err
			}
			if _, twice := m[arg]; twice {
				return nil, usage("%s names %s twice", c.flag, plain(arg))
			}
			m[arg] = v
		}
		if len(m) > 0 {
			out[c.name] = m
		}
	}
	return out, nil
}

// assigned reads ARG=VALUE. A value that is JSON is that value, exactly; any
// other is a text.
func assigned(flag, text string) (arg string, value any, err error) {
	arg, raw, ok := strings.Cut(text, "=")
	if !ok || arg == "" || raw == "" {
		return "", nil, usage("%s %s: write ARG=VALUE, as amount=30000", flag, plain(text))
	}
	var one api.Constraints
	if json.Unmarshal([]byte(`{"v":`+raw+`}`), &one) == nil && len(one) == 1 {
		return arg, one["v"], nil
	}
	return arg, raw, nil
}

func newGrantsListCmd() *cobra.Command {
	var live bool
	cmd := listing[api.Grant]{
		use: "list", short: "List grants, newest first", example: "  actpass grants list --live",
		pages: true, narrower: " or --live",
		fetch: fromAPI(func(ctx context.Context, c *api.Client, limit int) (api.Page[api.Grant], error) {
			return c.Grants(ctx, live, "", limit)
		}),
		head: []string{"ID", "STATE", "TOOL", "RESOURCE", "AGENT", "USED", "EXPIRES", "BY"},
		row: func(g *api.Grant) []string {
			return []string{g.ID, g.State, g.Tool, g.Resource, g.AgentID, fmt.Sprintf("%d of %d", g.Used, g.Count), day(g.ExpiresAt.Time), g.Name}
		},
	}.command()
	cmd.Flags().BoolVar(&live, "live", false, "only those that have a use left")
	return cmd
}

func newGrantsShowCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "Show one grant: its shape, its ceilings, and what is used of them",
		Example: "  actpass grants show grt_0199a5c0-7d2e-7c3b-9f10-2b6f6f0a1c22",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := newClient(cmd)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			g, err := client.Grant(ctx, args[0])
			if err != nil {
				return explained(err)
			}
			return printGrant(cmd.OutOrStdout(), g, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	addAPIFlag(cmd)
	return cmd
}

func newGrantsRevokeCmd() *cobra.Command {
	var reason string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "revoke ID",
		Short:   "End a grant at once",
		Example: "  actpass grants revoke grt_0199a5c0-7d2e-7c3b-9f10-2b6f6f0a1c22 --reason 'the batch is done'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := newClient(cmd)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			g, err := client.RevokeGrant(ctx, args[0], reason)
			if err != nil {
				return explained(err)
			}
			return printGrant(cmd.OutOrStdout(), g, asJSON)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it goes on record")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	addAPIFlag(cmd)
	return cmd
}

func printGrant(out io.Writer, g api.Grant, asJSON bool) error {
	if asJSON {
		return printJSON(out, g)
	}
	bounds, err := json.Marshal(g.ResourceConstraints)
	if err != nil {
		return err
	}
	f := fields{out}
	f.line("grant", g.ID)
	f.line("state", g.State)
	f.line("agent", g.AgentID)
	f.line("tool", g.Tool)
	f.line("resource", g.Resource)
	f.line("bounds", string(bounds))
	f.line("free", strings.Join(g.FreeArgs, ", "))
	f.line("rule", g.Policy+" / "+g.Rule)
	f.line("used", fmt.Sprintf("%d of %d", g.Used, g.Count))
	if g.Sum != nil {
		f.line("sum", fmt.Sprintf("%d of %d, of %s", g.Summed, g.Sum.Max, g.Sum.Arg))
	}
	f.line("by", cmp.Or(g.Name, "-")+" ("+g.KeyID+")")
	f.line("reason", g.Reason)
	f.line("approval", g.ApprovalID)
	f.line("made", day(g.CreatedAt.Time))
	f.line("ends", day(g.ExpiresAt.Time))
	f.line("revoked", when(g.RevokedAt))
	f.line("revoked by", g.RevokedBy)
	return nil
}
