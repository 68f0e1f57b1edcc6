package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // calendar limits name zones, and an image without a system has none

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/gate"
)

func newLimitsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "limits",
		Short: "Show what the limits of the policies hold, and reset them",
		Long: `Limits count calls, or add up an argument, per key and window. A reset is on
record before anything is forgotten.

With ` + envAPIKey + ` set, the commands ask the running sidecar. Without it they work
on the data directory itself, by the policy files that the configuration names.`,
		Example: "  actpass limits list",
		RunE:    showHelp,
	}
	cmd.AddCommand(newLimitsListCmd(), newLimitsShowCmd(), newLimitsResetCmd())
	return cmd
}

// counters are where limits are counted: behind the API of a sidecar, or in its
// data directory.
type counters interface {
	list(ctx context.Context, name, key string) ([]api.Limit, error)
	reset(ctx context.Context, name, key, reason string) ([]api.Limit, error)
	close()
}

func openCounters(ctx context.Context, cmd *cobra.Command) (counters, error) {
	asked := cmd.Flags().Changed("api")
	key := os.Getenv(envAPIKey)
	if key == "" && asked {
		return nil, usage("--api needs a key with the role approver or admin in %s", envAPIKey)
	}
	if key != "" {
		base, err := apiURL(cmd)
		if err != nil {
			return nil, err
		}
		client := api.NewClient(base, key, nil)
		if err := client.Healthy(ctx); !errors.Is(err, api.ErrUnreachable) || asked {
			return remoteLimits{client}, explained(err)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "actpass: no sidecar answers at %s; working on the data directory\n", base)
	}
	cfg, compiled, err := loadAll(cmd)
	if err != nil {
		return nil, configError(err)
	}
	g, done, err := openLocal(ctx, cfg)
	if err != nil {
		return nil, err
	}
	actor := gate.Identity{TenantID: cfg.Identity.TenantID, Source: gate.SourceConfig, Role: gate.RoleAdmin}
	rules := rulesOf(cfg, compiled)
	rules.Identity = actor
	g.Load(rules)
	return localLimits{g, actor, done}, nil
}

type remoteLimits struct{ client *api.Client }

func (r remoteLimits) list(ctx context.Context, name, key string) ([]api.Limit, error) {
	return all(func(cursor string) ([]api.Limit, string, error) {
		p, err := r.client.Limits(ctx, name, key, cursor, api.MaxLimit)
		return p.Data, p.Next, err
	})
}

func (r remoteLimits) reset(ctx context.Context, name, key, reason string) ([]api.Limit, error) {
	out, err := r.client.ResetLimit(ctx, api.LimitReset{Limit: name, Key: jsontext.Value(key), All: key == "", Reason: reason})
	return out.Reset, err
}

func (r remoteLimits) close() {}

type localLimits struct {
	gate  *gate.Gate
	actor gate.Identity
	done  func()
}

func (l localLimits) list(ctx context.Context, name, key string) ([]api.Limit, error) {
	return all(func(cursor string) ([]api.Limit, string, error) {
		uses, next, err := l.gate.Limits(ctx, l.actor, gate.LimitQuery{Limit: name, Key: key, Cursor: cursor})
		return limitRows(uses), next, err
	})
}

func (l localLimits) reset(ctx context.Context, name, key, reason string) ([]api.Limit, error) {
	uses, err := l.gate.ResetLimit(ctx, l.actor, name, key, reason)
	return limitRows(uses), err
}

func (l localLimits) close() { l.done() }

func limitRows(uses []gate.LimitUse) []api.Limit {
	list := make([]api.Limit, 0, len(uses))
	for _, u := range uses {
		list = append(list, api.LimitOf(u))
	}
	return list
}

// limitError is err in the user's words, also where the gate itself was asked.
func limitError(err error) error {
	var field *gate.FieldError
	var answer *api.Error
	switch {
	case errors.As(err, &field):
		return usage("%s", plain(field.Error()))
	case errors.Is(err, gate.ErrNotFound), errors.As(err, &answer) && answer.Code == "not_found":
		return finding("there is no such limit in the policy in force; `actpass limits list` shows them all")
	}
	return explained(err)
}

func newLimitsListCmd() *cobra.Command {
	return listing[api.Limit]{
		use: "list", short: "List all limits with what they hold, by key", example: "  actpass limits list",
		fetch: func(_ context.Context, cmd *cobra.Command, _ int) (api.Page[api.Limit], error) {
			list, err := limitsAt(cmd, "", "")
			return api.Page[api.Limit]{Data: list}, err
		},
		head: []string{"LIMIT", "KEY", "USED", "WINDOW", "FREE AGAIN", "THEN"},
		row: func(l *api.Limit) []string {
			return []string{l.Limit, keyText(*l), l.Summary, windowText(*l), when(l.ResetsAt), l.Decision}
		},
	}.command()
}

func limitsAt(cmd *cobra.Command, name, key string) ([]api.Limit, error) {
	ctx, stop := interruptible(cmd)
	defer stop()
	c, err := openCounters(ctx, cmd)
	if err != nil {
		return nil, err
	}
	defer c.close()
	list, err := c.list(ctx, name, key)
	return list, limitError(err)
}

// keyText is a key as JSON, which `limits reset --key` takes.
func keyText(l api.Limit) string {
	if string(l.Key) == "null" {
		return ""
	}
	return string(l.Key)
}

func windowText(l api.Limit) string {
	if l.Zone == "" {
		return l.Window
	}
	return l.Window + " (" + l.Zone + ")"
}

func newLimitsShowCmd() *cobra.Command {
	var key string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show LIMIT",
		Short: "Show one limit with what it holds, by key",
		Example: `  actpass limits show refunds_per_day
  actpass limits show refund_policy/refunds_per_day --key '["support_agent","usd"]'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := limitsAt(cmd, args[0], key)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), api.Page[api.Limit]{Data: list})
			}
			for i, l := range list {
				if i == 0 || list[i-1].Limit != l.Limit {
					printLimit(cmd, l)
				}
				if string(l.Key) == "null" {
					fmt.Fprintln(cmd.OutOrStdout(), "nothing is used")
					continue
				}
				free := ", free again " + when(l.ResetsAt)
				if l.NextFreeAt != nil && l.ResetsAt != nil && !l.NextFreeAt.Equal(l.ResetsAt.Time) {
					free = ", some of it free at " + when(l.NextFreeAt) + ", all at " + when(l.ResetsAt)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %s%s\n", plain(keyText(l)), l.Summary, free)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&key, "key", "", `one key, a JSON array: '["support_agent","usd"]'`)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	addAPIFlag(cmd)
	return cmd
}

func printLimit(cmd *cobra.Command, l api.Limit) {
	fmt.Fprintf(cmd.OutOrStdout(), "%s at %s:%d\n", l.Limit, plain(l.File), l.Line)
	most := strconv.FormatInt(l.Max, 10)
	if l.Unit == "calls" {
		most += " calls"
	}
	fmt.Fprintf(cmd.OutOrStdout(), "at most %s in %s by %s; then %s (%s)\n", most, windowText(l), plain(strings.Join(l.KeyNames, ", ")), l.Decision, l.ReasonCode)
}

func newLimitsResetCmd() *cobra.Command {
	var key, reason string
	var every, asJSON bool
	cmd := &cobra.Command{
		Use:   "reset LIMIT --key KEY|--all",
		Short: "Forget what a limit holds; the reset is on record",
		Long: `Forgets what a limit holds under one key or under all. Shares of calls that are
on their way are forgotten, too. Calls that wait for approval go on waiting.`,
		Example: `  actpass limits reset refunds_per_day --key '["support_agent","usd"]' --reason 'agreed with finance'
  actpass limits reset refund_policy/refunds_per_day --all`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case (key == "") == !every:
				return usage("give --key for one key, or --all for every key")
			case key != "" && !json.Valid([]byte(key)):
				return usage(`--key must be a JSON array, as limits list shows it: '["support_agent","usd"]'`)
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			c, err := openCounters(ctx, cmd)
			if err != nil {
				return err
			}
			defer c.close()
			list, err := c.reset(ctx, args[0], key, reason)
			if err != nil {
				return limitError(err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), api.LimitsReset{Reset: list})
			}
			for _, l := range list {
				fmt.Fprintf(cmd.OutOrStdout(), "reset %s %s: %s\n", l.Limit, plain(keyText(l)), l.Summary)
			}
			if len(list) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing was used")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&key, "key", "", `one key, a JSON array: '["support_agent","usd"]'`)
	cmd.Flags().BoolVar(&every, "all", false, "every key")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	addAPIFlag(cmd)
	return cmd
}

// limitUsage finds out what limits hold, for explain: from the running sidecar
// when there is a key for it, else from the data directory; nil when there is
// neither.
func limitUsage(cmd *cobra.Command, cfg *config.Config) (gate.Usage, func()) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	if key := os.Getenv(envAPIKey); key != "" {
		if base, err := apiURL(cmd); err == nil {
			client := api.NewClient(base, key, nil)
			if !errors.Is(client.Healthy(ctx), api.ErrUnreachable) {
				return remoteUsage(ctx, client), func() {}
			}
		}
	}
	if cfg.Store.Driver != "postgres" {
		if _, err := os.Stat(filepath.Join(cfg.Path(cfg.DataDir), "actpass.db")); err != nil {
			return nil, func() {} // nothing was ever counted there
		}
	}
	db, err := openStore(ctx, cfg, nil)
	if err != nil {
		return func([]gate.Use) ([]int64, error) { return nil, err }, func() {}
	}
	return func(uses []gate.Use) ([]int64, error) {
		return db.Usage(ctx, cfg.Identity.TenantID, uses, time.Now())
	}, func() { _ = db.Close() }
}

func remoteUsage(ctx context.Context, client *api.Client) gate.Usage {
	return func(uses []gate.Use) ([]int64, error) {
		used := make([]int64, len(uses))
		for i, u := range uses {
			p, err := client.Limits(ctx, u.Limit, u.Key, "", 1)
			if err != nil {
				return nil, err
			}
			for _, l := range p.Data {
				used[i] = l.Used
			}
		}
		return used, nil
	}
}
