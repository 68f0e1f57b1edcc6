package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
)

func newPassportListCmd() *cobra.Command {
	var q api.PassportQuery
	states := []string{gate.PassportLive, gate.PassportUsed, gate.PassportExpired, gate.PassportRevoked}
	cmd := listing[api.Passport]{
		use: "list", short: "List passports that were issued, newest first, and what became of each",
		long:    "A passport stays in the list for a week after its end. Its token was shown once, when it was made.",
		example: "  actpass passport list --state live --agent support_agent",
		pages:   true, narrower: ", --state or --agent",
		fetch: fromAPI(func(ctx context.Context, c *api.Client, limit int) (api.Page[api.Passport], error) {
			if q.State != "" && !slices.Contains(states, q.State) {
				return api.Page[api.Passport]{}, usage("--state: must be %s", strings.Join(states, ", "))
			}
			q.Limit = limit
			return c.Passports(ctx, q)
		}),
		head: []string{"JTI", "STATE", "AGENT", "USER", "TOOLS", "EXPIRES", "USED BY", "ISSUED BY"},
		row: func(p *api.Passport) []string {
			return []string{p.ID, p.State, p.AgentID, p.UserID, strings.Join(p.AllowedTools, " "), day(p.ExpiresAt.Time), p.UsedBy, p.Name}
		},
	}.command()
	cmd.Flags().StringVar(&q.State, "state", "", "only those in this state: "+strings.Join(states, ", "))
	cmd.Flags().StringVar(&q.AgentID, "agent", "", "only those of this agent")
	return cmd
}
