package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
)

func newModeCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mode",
		Short: "Tighten the mode of a tool or an agent while the sidecar runs",
		Long: `Sets stricter modes for a part of the traffic of the running sidecar, from the next
call on and over restarts. They stand beside mode and mode_overrides of the
configuration: the strictest that covers a call is its mode, so none can loosen.
Setting and clearing go on record first. Talks to the sidecar with the key in
` + envAPIKey + `: role admin, for list approver too.`,
		Example: `  actpass mode set enforce --tool 'stripe.refund.*' --agent support_agent --reason 'a quiet week'
  actpass mode list
  actpass mode clear mod_... --reason 'too early'`,
		RunE: showHelp,
	}
	cmd.AddCommand(newModeSetCmd(), newModeListCmd(), newModeClearCmd())
	return cmd
}

func newModeSetCmd() *cobra.Command {
	var n api.NewMode
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "set MODE",
		Short: "Tighten a tool, an agent, or both to warn, enforce or strict",
		Long: `Without --tool it is every tool, without --agent every agent of the key's tenant. In
both, * stands for any run of characters, and everything else for itself.`,
		Example: `  actpass mode set enforce --tool 'stripe.*'
  actpass mode set strict --agent 'batch_*' --reason 'new agents come with passports'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n.Mode = args[0]
			client, err := newClient(cmd)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			m, err := client.SetMode(ctx, n)
			if err != nil {
				return explained(err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), m)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s of %s is judged in %s from now on\n", m.ID,
				plain(cmp.Or(m.Tool, "every tool")), plain(cmp.Or(m.AgentID, "every agent")), m.Mode)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&n.Tool, "tool", "", "this tool, or glob: * is any run of characters")
	f.StringVar(&n.AgentID, "agent", "", "this agent, or glob")
	f.StringVar(&n.Reason, "reason", "", "why; it goes on record")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	addAPIFlag(cmd)
	return cmd
}

func newModeListCmd() *cobra.Command {
	return listing[api.ModeOverride]{
		use: "list", short: "List the modes that were set while running, newest first", example: "  actpass mode list --json",
		fetch: fromAPI(func(ctx context.Context, c *api.Client, _ int) (api.Page[api.ModeOverride], error) {
			list, err := all(func(cursor string) ([]api.ModeOverride, string, error) {
				p, err := c.Modes(ctx, cursor, api.MaxLimit)
				return p.Data, p.Next, err
			})
			return api.Page[api.ModeOverride]{Data: list}, err
		}),
		head: []string{"ID", "MODE", "TOOL", "AGENT", "SINCE", "BY", "REASON"},
		row: func(m *api.ModeOverride) []string {
			return []string{m.ID, m.Mode, cmp.Or(m.Tool, "*"), cmp.Or(m.AgentID, "*"), day(m.CreatedAt.Time), cmp.Or(m.Name, m.KeyID), m.Reason}
		},
	}.command()
}

func newModeClearCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:     "clear ID",
		Short:   "End one: its calls are again judged in the configured mode",
		Example: "  actpass mode clear mod_0199a5c0-7d2e-7c3b-9f10-2b6f6f0a1c22 --reason 'too early'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := newClient(cmd)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			if err := client.ClearMode(ctx, args[0], reason); err != nil {
				return explained(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "cleared %s\n", plain(args[0]))
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it goes on record")
	addAPIFlag(cmd)
	return cmd
}
