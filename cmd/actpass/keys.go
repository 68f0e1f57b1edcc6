package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/gate"
)

func newKeysCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make, list and revoke keys",
		Long: `Keys say who calls: agents (role gateway), people who decide approvals and read
evidence (approver), and those who may do everything (admin).

With ` + envAPIKey + ` set, the commands ask the running sidecar. Without it they work
on the data directory itself: who may write there is admin anyway.`,
		Example: "  actpass keys create --name support-agent --role gateway --agent support_agent",
		RunE:    showHelp,
	}
	cmd.AddCommand(newKeysCreateCmd(), newKeysListCmd(), newKeysRevokeCmd())
	return cmd
}

// addKeyringFlags gives a command the ways to say where the keys are.
func addKeyringFlags(cmd *cobra.Command) {
	if cmd.Flags().Lookup("api") == nil {
		addAPIFlag(cmd)
	}
	cmd.Flags().String("data-dir", "", "data directory (else data_dir of the configuration); asks no sidecar")
}

// keyring is where keys are: the API of a sidecar, or its data directory.
type keyring interface {
	create(ctx context.Context, n api.NewKey) (api.Key, error)
	list(ctx context.Context) ([]api.Key, error)
	revoke(ctx context.Context, id string) error
	close()
}

// openKeyring asks the sidecar when there is a key for it and it answers, and
// opens the data directory otherwise. An address given with --api is meant: then
// there is no falling back.
func openKeyring(ctx context.Context, cmd *cobra.Command) (keyring, error) {
	asked := cmd.Flags().Changed("api")
	key := os.Getenv(envAPIKey)
	dir, _ := cmd.Flags().GetString("data-dir")
	if dir != "" {
		if asked {
			return nil, usage("--api asks a sidecar, --data-dir works on the files of this machine: give one of them")
		}
		key = ""
	}
	if key == "" && asked {
		return nil, usage("--api needs a key with the role admin in %s", envAPIKey)
	}
	if key != "" {
		base, err := apiURL(cmd)
		if err != nil {
			return nil, err
		}
		client := api.NewClient(base, key, nil)
		if err := client.Healthy(ctx); !errors.Is(err, api.ErrUnreachable) || asked {
			return remoteKeys{client}, explained(err)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "actpass: no sidecar answers at %s; working on the data directory\n", base)
	}
	cfg, err := loadConfig(cmd)
	if err != nil {
		return nil, err
	}
	if dir != "" {
		if cfg.DataDir, err = filepath.Abs(dir); err != nil {
			return nil, fmt.Errorf("find the data directory: %w", err)
		}
	}
	g, done, err := openLocal(ctx, cfg)
	if err != nil {
		return nil, err
	}
	actor := gate.Identity{TenantID: cfg.Identity.TenantID, Source: "config", Role: gate.RoleAdmin}
	return localKeys{g, actor, done}, nil
}

type remoteKeys struct{ client *api.Client }

func (r remoteKeys) create(ctx context.Context, n api.NewKey) (api.Key, error) {
	return r.client.CreateKey(ctx, n)
}

func (r remoteKeys) list(ctx context.Context) ([]api.Key, error) {
	return all(func(cursor string) ([]api.Key, string, error) {
		p, err := r.client.Keys(ctx, cursor, api.MaxLimit)
		return p.Data, p.Next, err
	})
}

func (r remoteKeys) revoke(ctx context.Context, id string) error { return r.client.RevokeKey(ctx, id) }
func (r remoteKeys) close()                                      {}

type localKeys struct {
	gate  *gate.Gate
	actor gate.Identity
	done  func()
}

func (l localKeys) create(ctx context.Context, n api.NewKey) (api.Key, error) {
	wish, err := n.Wish(time.Now())
	if err != nil {
		return api.Key{}, err
	}
	k, secret, err := l.gate.CreateKey(ctx, l.actor, wish)
	if err != nil {
		return api.Key{}, err
	}
	return api.KeyOf(k, secret), nil
}

func (l localKeys) list(ctx context.Context) ([]api.Key, error) {
	return all(func(cursor string) ([]api.Key, string, error) {
		keys, next, err := l.gate.Keys(ctx, l.actor, cursor, api.MaxLimit)
		var list []api.Key
		for _, k := range keys {
			list = append(list, api.KeyOf(k, ""))
		}
		return list, next, err
	})
}

func (l localKeys) revoke(ctx context.Context, id string) error {
	_, err := l.gate.RevokeKey(ctx, l.actor, id)
	return err
}

func (l localKeys) close() { l.done() }

// all reads every page.
func all[T any](page func(cursor string) ([]T, string, error)) ([]T, error) {
	list, cursor := []T{}, ""
	for {
		part, next, err := page(cursor)
		if err != nil {
			return nil, err
		}
		list = append(list, part...)
		if next == "" {
			return list, nil
		}
		cursor = next
	}
}

// keyError is err in the user's words, also where the gate itself was asked.
func keyError(err error) error {
	var field *gate.FieldError
	switch {
	case errors.As(err, &field):
		return usage("%s", plain(field.Error()))
	case errors.Is(err, gate.ErrNotFound):
		return finding("there is no such key; `actpass keys list` shows them all")
	}
	return explained(err)
}

// keyFlags are the names of a key's fields on the command line, where they
// differ.
var keyFlags = strings.NewReplacer("groups: ", "group: ", "agent_id: ", "agent: ")

func newKeysCreateCmd() *cobra.Command {
	var n api.NewKey
	var asJSON bool
	var ceiling string
	cmd := &cobra.Command{
		Use:   "create --role gateway|approver|admin [--name NAME]",
		Short: "Make a key; its secret is printed once, alone, on standard output",
		Example: `  actpass keys create --name support-agent --role gateway --agent support_agent --ttl 720h
  actpass keys create --name ann --role approver --group support-leads
  actpass keys create --name planner --role gateway --ceiling '{"allowed_tools":["stripe.refund.*"],"allowed_resources":["*"],"resource_constraints":{"max_amount":5000}}'
  export ACTPASS_API_KEY=$(actpass keys create --name ops --role admin)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ceiling != "" {
				var err error
				if n.Ceiling, err = readCeiling(ceiling); err != nil {
					return usage("--ceiling: %v", err)
				}
			}
			if n.Name == "" && !cmd.Flags().Changed("name") {
				n.Name = nameless(&n)
			}
			if _, err := n.Wish(time.Now()); err != nil {
				return usage("--%s", keyFlags.Replace(plain(err.Error())))
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			ring, err := openKeyring(ctx, cmd)
			if err != nil {
				return err
			}
			defer ring.close()
			k, err := ring.create(ctx, n)
			if err != nil {
				return keyError(err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), k)
			}
			fmt.Fprintln(cmd.OutOrStdout(), k.Key)
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s. The secret is shown this once; revoke the key with `actpass keys revoke %s`.\n", k.ID, describeKey(k), k.ID)
			return nil
		},
	}
	cmd.Flags().StringVar(&n.Name, "name", "", "whose key it is, for people; without it, after its agent, its groups or its role")
	cmd.Flags().StringVar(&n.Role, "role", "", "gateway (agents), approver (decides approvals, reads evidence) or admin")
	cmd.Flags().StringVar(&n.AgentID, "agent", "", "the one agent that the key speaks for; without it, any")
	cmd.Flags().StringArrayVar(&n.Groups, "group", nil, "group of an approver, as rules name it in approvers; may be given several times")
	cmd.Flags().StringVar(&n.Mode, "mode", "", "mode that calls with this key get at least: warn, enforce or strict")
	cmd.Flags().StringVar(&ceiling, "ceiling", "", "the most that the key may put into passports, as JSON or a file of it: allowed_tools, allowed_resources, resource_constraints, risk_tier")
	cmd.Flags().StringVar(&n.TTL, "ttl", "", "how long the key is good, as in 720h; without it, until it is revoked")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the key as JSON, secret included")
	addKeyringFlags(cmd)
	return cmd
}

// nameless is the name of a key that was given none: whose it must be.
func nameless(n *api.NewKey) string {
	name := cmp.Or(n.AgentID, strings.Join(n.Groups, ", "), n.Role, "key")
	if len(name) > 64 {
		return cmp.Or(n.Role, "key")
	}
	return name
}

// readCeiling reads JSON, or the file that holds it.
func readCeiling(text string) (*api.Ceiling, error) {
	data := []byte(text)
	if !strings.HasPrefix(strings.TrimSpace(text), "{") {
		var err error
		if data, err = os.ReadFile(text); err != nil {
			return nil, err
		}
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var c api.Ceiling
	if err := d.Decode(&c); err != nil {
		return nil, fmt.Errorf("not a ceiling: %w", err)
	}
	if d.More() {
		return nil, errors.New("something follows the ceiling")
	}
	return &c, nil
}

func describeKey(k api.Key) string {
	s := "role " + k.Role
	if k.AgentID != "" {
		s += ", agent " + plain(k.AgentID)
	}
	if len(k.Groups) > 0 {
		s += ", groups " + plain(strings.Join(k.Groups, " "))
	}
	if k.Mode != "" {
		s += ", mode " + k.Mode
	}
	if k.Ceiling != nil {
		s += ", issues passports for " + plain(strings.Join(k.Ceiling.AllowedTools, " "))
	}
	if k.ExpiresAt == nil {
		return s + ", does not expire"
	}
	return s + ", good until " + when(k.ExpiresAt)
}

func newKeysListCmd() *cobra.Command {
	cmd := listing[api.Key]{
		use: "list", short: "List all keys, newest first, without their secrets", example: "  actpass keys list",
		fetch: func(ctx context.Context, cmd *cobra.Command, _ int) (api.Page[api.Key], error) {
			ring, err := openKeyring(ctx, cmd)
			if err != nil {
				return api.Page[api.Key]{}, err
			}
			defer ring.close()
			list, err := ring.list(ctx)
			if err != nil && ctx.Err() == nil {
				err = keyError(err)
			}
			return api.Page[api.Key]{Data: list}, err
		},
		head: []string{"ID", "NAME", "ROLE", "AGENT", "GROUPS", "MODE", "PREFIX", "STATE", "LAST USED"},
		row: func(k *api.Key) []string {
			return []string{k.ID, k.Name, k.Role, k.AgentID, strings.Join(k.Groups, " "), k.Mode, k.Prefix, keyState(*k, time.Now()), when(k.LastUsedAt)}
		},
	}.command()
	addKeyringFlags(cmd)
	return cmd
}

func keyState(k api.Key, now time.Time) string {
	switch {
	case k.RevokedAt != nil:
		return "revoked " + when(k.RevokedAt)
	case k.ExpiresAt == nil:
		return "good"
	case now.Before(k.ExpiresAt.Time):
		return "good until " + when(k.ExpiresAt)
	}
	return "expired " + when(k.ExpiresAt)
}

func newKeysRevokeCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "revoke ID",
		Short:   "Revoke a key, for good",
		Example: "  actpass keys revoke key_0199a5c0-7d2e-7c3b-9f10-2b6f6f0a1c22",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd)
			defer stop()
			ring, err := openKeyring(ctx, cmd)
			if err != nil {
				return err
			}
			defer ring.close()
			if err := ring.revoke(ctx, args[0]); err != nil {
				return keyError(err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"id": args[0], "revoked": true})
			}
			fmt.Fprintln(cmd.OutOrStdout(), "revoked", plain(args[0]))
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	addKeyringFlags(cmd)
	return cmd
}
