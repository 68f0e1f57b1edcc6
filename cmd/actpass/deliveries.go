package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/notify"
)

func newDeliveriesCmd() *cobra.Command {
	var dead bool
	cmd := listing[api.Delivery]{
		use: "deliveries", short: "List what was sent to the notification channels, newest first",
		long: `Lists the events of approvals on their way to the channels of the configuration
(notify). Delivered ones are kept for a day, dead ones for store.keep (30 days).`,
		example: "  actpass approvals deliveries --dead\n  actpass approvals deliveries retry dlv_5f0c2e8b9a7d4c31a6e2d90b7f18c4aa",
		pages:   true,
		fetch: fromAPI(func(ctx context.Context, c *api.Client, limit int) (api.Page[api.Delivery], error) {
			state := ""
			if dead {
				state = notify.Dead
			}
			return c.Deliveries(ctx, state, "", limit)
		}),
		head: []string{"ID", "CHANNEL", "EVENT", "APPROVAL", "STATE", "ATTEMPTS", "LAST ANSWER", "NEXT"},
		row: func(d *api.Delivery) []string {
			answer := d.LastError
			if d.LastStatus != 0 {
				answer = cmp.Or(answer, strconv.Itoa(d.LastStatus))
			}
			return []string{d.ID, d.Channel, d.Event, d.ApprovalID, d.State, strconv.Itoa(d.Attempts), answer, when(d.NextAt)}
		},
	}.command()
	cmd.Flags().BoolVar(&dead, "dead", false, "only those that were given up")
	cmd.AddCommand(newRetryCmd())
	return cmd
}

func newRetryCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "retry ID",
		Short:   "Send a dead delivery again, under its own id; needs an admin key",
		Example: "  actpass approvals deliveries retry dlv_5f0c2e8b9a7d4c31a6e2d90b7f18c4aa",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := newClient(cmd)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			d, err := client.RetryDelivery(ctx, args[0])
			if err != nil {
				return explained(err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), d)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is %s: %s of %s to %s\n", plain(d.ID), plain(d.State), plain(d.Event), plain(d.ApprovalID), plain(d.Channel))
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the delivery as JSON")
	addAPIFlag(cmd)
	return cmd
}
