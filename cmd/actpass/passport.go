package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/passport"
)

func newPassportCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "passport",
		Short: "Issue, list, verify and revoke passports, and rotate their keys",
		Long: `A passport is a signed, short-lived right to make one call: who may use which
tools on which resources, within which values. An agent shows it as the header
ActPass-Passport, or as ` + "`passport`" + ` of a preflight.

An admin key may issue any passport, another one what its ceiling contains (see
keys create --ceiling). issue, list, verify and revoke ask the running sidecar with the key in ` + envAPIKey + `;
rotate works on the data directory.`,
		Example: "  actpass passport issue --agent support_agent --tool stripe.refund.create --resource 'stripe:charge:*' --max-amount 5000 --currency usd",
		RunE:    showHelp,
	}
	cmd.AddCommand(newPassportIssueCmd(), newPassportListCmd(), newPassportVerifyCmd(), newPassportRevokeCmd(), newPassportRotateCmd())
	return cmd
}

// passportFlags are the names of a passport's fields on the command line.
var passportFlags = strings.NewReplacer("agent_id: ", "agent: ", "user_id: ", "user: ", "allowed_tools: ", "tool: ", "allowed_resources: ", "resource: ",
	"risk_tier: ", "risk: ", "resource_constraints: ", "constraint: ", "approval_hash: ", "approval-hash: ")

func newPassportIssueCmd() *cobra.Command {
	var n api.NewPassport
	var ttl time.Duration
	var maxAmount, minAmount int64
	var currency string
	var constraints []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "issue --agent AGENT --tool TOOL... --resource RESOURCE...",
		Short: "Make a passport; its token is printed alone, on standard output",
		Example: `  actpass passport issue --agent support_agent --tool stripe.refund.create --resource 'stripe:charge:*' --max-amount 5000 --currency usd
  actpass passport issue --agent deployer --tool 'github.*' --resource '*' --constraint one_of.repo='["api","web"]' --ttl 2m --json
  curl -H "ActPass-Passport: $(actpass passport issue --agent a --tool http.post --resource '*')" ...`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case n.AgentID == "":
				return usage("--agent: is required: which agent may use the passport")
			case len(n.AllowedTools) == 0:
				return usage("--tool: is required: a tool's name or a glob, as in 'stripe.refund.*'; may be given several times")
			case len(n.AllowedResources) == 0:
				return usage("--resource: is required: a resource or a glob, as in 'stripe:charge:*'; may be given several times")
			case ttl < time.Second || ttl > passport.MaxTTL || ttl%time.Second != 0:
				return usage("--ttl: must be whole seconds, from 1s to %s", passport.MaxTTL)
			}
			n.TTL = int64(ttl / time.Second)
			n.ResourceConstraints = api.Constraints{}
			for _, text := range constraints {
				if err := addConstraint(n.ResourceConstraints, text); err != nil {
					return usage("--constraint: %v", err)
				}
			}
			for name, v := range map[string]any{"max_amount": maxAmount, "min_amount": minAmount, "currency": currency} {
				if !cmd.Flags().Changed(strings.ReplaceAll(name, "_", "-")) {
					continue
				}
				if _, twice := n.ResourceConstraints[name]; twice {
					return usage("--constraint: %s is given twice", name)
				}
				n.ResourceConstraints[name] = v
			}
			client, err := newClient(cmd)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			p, err := client.IssuePassport(ctx, n)
			if err != nil {
				return passportError(err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), p)
			}
			fmt.Fprintln(cmd.OutOrStdout(), p.Token)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&n.AgentID, "agent", "", "the agent that may use it")
	f.StringArrayVar(&n.AllowedTools, "tool", nil, "a tool that it may call, or a glob; may be given several times")
	f.StringArrayVar(&n.AllowedResources, "resource", nil, "a resource that it may touch, or a glob; may be given several times")
	f.Int64Var(&maxAmount, "max-amount", 0, "highest args.amount, in the currency's smallest unit")
	f.Int64Var(&minAmount, "min-amount", 0, "lowest args.amount")
	f.StringVar(&currency, "currency", "", "what args.currency must be")
	f.StringArrayVar(&constraints, "constraint", nil, "NAME=VALUE or NAME.ARG=VALUE, where NAME is max_amount, min_amount, currency, max, min, equals, prefix or one_of; VALUE is JSON or plain text; may be given several times")
	f.StringVar(&n.UserID, "user", "", "for whom the agent acts")
	f.StringVar(&n.Goal, "goal", "", "what for")
	f.StringVar(&n.RiskTier, "risk", "", "highest risk that it allows: low, medium, high or critical; without it any")
	f.StringVar(&n.ApprovalHash, "approval-hash", "", "the one exact request that it is for, as an approval names it")
	f.StringVar(&n.Audience, "audience", "", "the sidecars that accept it; without it the issuing one's own")
	f.DurationVar(&ttl, "ttl", 5*time.Minute, "how long it is good, at most "+passport.MaxTTL.String())
	f.BoolVar(&asJSON, "json", false, "print token, jti and expiry as JSON")
	addAPIFlag(cmd)
	return cmd
}

// addConstraint reads NAME=VALUE, or NAME.ARG=VALUE for those that are about one
// argument. A value that is no JSON is text.
func addConstraint(to map[string]any, text string) error {
	left, value, ok := strings.Cut(text, "=")
	name, arg, nested := strings.Cut(left, ".")
	if !ok || name == "" || nested && arg == "" {
		return fmt.Errorf("%q must be NAME=VALUE or NAME.ARG=VALUE, such as currency=usd or max.quantity=10", text)
	}
	v, err := constraintValue(value)
	if err != nil {
		return err
	}
	if !nested {
		if _, twice := to[name]; twice {
			return fmt.Errorf("%s is given twice", name)
		}
		to[name] = v
		return nil
	}
	m, ok := to[name].(map[string]any)
	if to[name] != nil && !ok {
		return fmt.Errorf("%s is given with and without an argument's name", name)
	}
	if m == nil {
		m = map[string]any{}
		to[name] = m
	}
	if _, twice := m[arg]; twice {
		return fmt.Errorf("%s.%s is given twice", name, arg)
	}
	m[arg] = v
	return nil
}

func passportError(err error) error {
	err = explained(err)
	if e, ok := err.(*exitError); ok && e.code == exitUsage {
		e.msg = "--" + passportFlags.Replace(e.msg)
	}
	return err
}

func newPassportVerifyCmd() *cobra.Command {
	var audience string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify TOKEN|-",
		Short: "Check a passport as a call would be checked, without using it",
		Long:  "Exit code 0 says that the passport is valid here and now, 1 that it is not; - reads the token from standard input.",
		Example: `  actpass passport verify "$TOKEN"
  actpass passport issue ... | actpass passport verify -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			token := args[0]
			if token == "-" {
				b, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxMounted))
				if err != nil {
					return fmt.Errorf("read the token: %w", err)
				}
				token = string(b)
			}
			if token = strings.TrimSpace(token); token == "" {
				return usage("there is no token to verify")
			}
			client, err := newClient(cmd)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			v, err := client.VerifyPassport(ctx, token, audience)
			if err != nil {
				return explained(err)
			}
			if asJSON {
				if err := printJSON(cmd.OutOrStdout(), v); err != nil {
					return err
				}
			}
			if !v.Valid {
				if asJSON {
					return &exitError{code: exitFinding}
				}
				return finding("%s: %s", plain(v.ReasonCode), plain(v.Message))
			}
			if !asJSON && v.Claims != nil {
				printClaims(cmd.OutOrStdout(), v.Claims)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&audience, "audience", "", "check it for these sidecars; without it the asked one's own")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	addAPIFlag(cmd)
	return cmd
}

func printClaims(out io.Writer, c *api.PassportClaims) {
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(out, "%-12s %s\n", name, plain(value))
		}
	}
	line("valid until", day(time.Unix(c.ExpiresAt, 0)))
	line("jti", c.ID)
	line("agent", c.AgentID)
	line("user", c.UserID)
	line("goal", c.Goal)
	line("tools", strings.Join(c.AllowedTools, " "))
	line("resources", strings.Join(c.AllowedResources, " "))
	if b, err := json.Marshal(c.ResourceConstraints); err == nil && len(c.ResourceConstraints) > 0 {
		line("constraints", string(b))
	}
	line("risk up to", c.RiskTier)
	line("request", c.ApprovalHash)
	line("tenant", c.TenantID)
	line("issuer", c.Issuer)
	line("audience", c.Audience)
}

func newPassportRevokeCmd() *cobra.Command {
	var reason string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "revoke JTI",
		Short:   "End a passport at once, used or not",
		Example: "  actpass passport revoke ap_0199a5c0-7d2e-7c3b-9f10-2b6f6f0a1c22 --reason 'token in a log'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := newClient(cmd)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			p, err := client.RevokePassport(ctx, args[0], reason)
			if err != nil {
				return explained(err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), p)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "revoked", plain(p.ID))
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	addAPIFlag(cmd)
	return cmd
}

func newPassportRotateCmd() *cobra.Command {
	var dropOld bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Sign with a new key from now on",
		Long: `Puts a new signing key in front of those in the data directory. The keys of before
go on verifying, until nothing that they signed can be valid any more; a running
sidecar takes the new one within a second or two. With store.key_file they are those
of all sidecars that share the database, which take the new one within ten seconds.

--drop-old drops them at once, which ends every passport that is out: for a key
that somebody else may have.`,
		Example: "  actpass passport rotate",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd)
			if err != nil {
				return configError(err)
			}
			dir := cfg.Path(cfg.DataDir)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return fmt.Errorf("create data_dir: %w", err)
			}
			list, dropped, err := rotateEverywhere(cmd.Context(), cfg, filepath.Join(dir, passportKeysFile), dropOld)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s signs from now on; %d of before %s, %d dropped\n", list[0].ID, len(list)-1, plural(len(list)-1, "verifies", "verify"), dropped)
			return nil
		},
	}
	cmd.Flags().BoolVar(&dropOld, "drop-old", false, "drop the keys of before at once")
	return cmd
}

// rotateEverywhere rotates the keys of the data directory, and of the fleet where it
// has them in common.
func rotateEverywhere(ctx context.Context, cfg *config.Config, path string, dropOld bool) (list []storedKey, dropped int, err error) {
	if cfg.Store.KeyFile == "" {
		return rotatePassportKeys(path, time.Now(), dropOld)
	}
	db, err := openStore(ctx, cfg, nil)
	if err != nil {
		return nil, 0, err
	}
	defer db.Close()
	f, err := fleetOf(cfg, db)
	if err != nil {
		return nil, 0, err
	}
	return f.rotate(ctx, path, time.Now(), dropOld)
}

// constraintValue is a JSON value with its numbers kept exactly, or else text.
func constraintValue(text string) (any, error) {
	if !json.Valid([]byte(text)) {
		return text, nil
	}
	var c api.Constraints
	if err := json.Unmarshal([]byte(`{"v":`+text+`}`), &c); err != nil {
		return nil, err
	}
	return c["v"], nil
}
