package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/gate"
	"github.com/actpass/sidecar/mapping"
	"github.com/actpass/sidecar/policy"
	"github.com/actpass/sidecar/whatif"
)

func newExplainCmd() *cobra.Command {
	var data, user, goal, agent string
	var headers []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain METHOD URL",
		Short: "Show step by step how a call would be named and judged; nothing is sent",
		Long: `Takes a call through canonical form, mapping, policy and mode, and prints each
step with the file and line that it comes from. No traffic, no record, no limit
is used; what limits hold already is looked up in the running sidecar, when there
is a key for it, or in the data directory.
Exit code 0: the call would leave; 1: it would be blocked or held.`,
		Example: `  actpass explain POST https://api.stripe.com/v1/refunds -d 'amount=4900&currency=usd&charge=ch_123'
  actpass explain GET https://api.stripe.com/v1/charges/ch_123 --json
  actpass explain POST https://api.example.com/x -d @body.json -H 'Content-Type: application/json' --mode enforce`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, compiled, err := loadAll(cmd)
			if err != nil {
				return configError(err)
			}
			head, body, err := requestOf(args[0], args[1], data, headers)
			if err != nil {
				return err
			}
			rules := rulesOf(cfg, compiled)
			if agent != "" {
				rules.Identity.AgentID = agent
			}
			usage, done := limitUsage(cmd, cfg)
			defer done()
			x := rules.Explain(head, body, user, goal, time.Now(), usage)
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(x)
			} else {
				err = printExplanation(cmd.OutOrStdout(), x)
			}
			if err != nil {
				return err
			}
			if x.Decision.Enforcement == "block" || x.Decision.Enforcement == "hold" {
				return &exitError{code: exitFinding}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&data, "data", "d", "", "request body, or @FILE, or @- for standard input")
	f.StringArrayVarP(&headers, "header", "H", nil, "request header, 'Name: value'")
	f.StringVar(&agent, "agent", "", "agent id (else identity.agent_id)")
	f.StringVar(&user, "user", "", "user id, as ActPass-User")
	f.StringVar(&goal, "goal", "", "goal, as ActPass-Goal")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	addSettingFlags(cmd)
	return cmd
}

func requestOf(method, rawURL, data string, headers []string) (*mapping.Request, []byte, error) {
	var err error
	body := []byte(data)
	if name, ok := strings.CutPrefix(data, "@"); ok {
		in := os.Stdin
		if name != "-" {
			if in, err = os.Open(name); err != nil {
				return nil, nil, usage("read the body: %v", err)
			}
			defer in.Close()
		}
		if body, err = io.ReadAll(io.LimitReader(in, 1<<30)); err != nil {
			return nil, nil, fmt.Errorf("read the body: %w", err)
		}
	}
	head, err := whatif.RequestOf(method, rawURL, body, headers)
	if err != nil {
		return nil, nil, usage("%v", err)
	}
	return head, body, nil
}

// valueText is an argument as people write it: texts bare, objects and lists as
// JSON.
func valueText(v any) string {
	switch v.(type) {
	case map[string]any, []any:
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err == nil {
			return strings.TrimSuffix(b.String(), "\n")
		}
	}
	return fmt.Sprint(v)
}

func printExplanation(w io.Writer, x gate.Explanation) error {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", label, plain(fmt.Sprintf(format, args...)))
	}
	line("request", "%s %s", x.Request.Method, x.Request.URL)
	line("canonical", "%s %s", x.Canonical.Method, x.Canonical.URL)
	for _, a := range x.Ambiguous {
		line("ambiguous", "%s: %s (%d under enforce)", a.Class, a.Detail, a.Status)
	}
	if x.MappingRule == "" {
		line("mapping", "no rule maps it: a generic name")
	} else {
		line("mapping", "%s", x.MappingRule)
	}
	line("tool", "%s", x.Decision.Tool)
	line("resource", "%s", x.Decision.Resource)
	line("risk", "%s", x.Decision.RiskTier)
	for _, a := range x.Args {
		line("arg", "%s = %s (%s)", a.Name, valueText(a.Value), a.Type)
	}
	for _, p := range x.Problems {
		line("problem", "%s %s", p.Class, p.Detail)
	}
	for i, c := range x.Calls {
		marks := ""
		if c.Decides {
			marks = " (decides)"
		}
		line("call", "%d of %d: %s on %s (%s, rule %s): %s (%s)%s", i+1, len(x.Calls), c.Tool, c.Resource, c.RiskTier, c.MappingRule, c.Decision, c.ReasonCode, marks)
		for _, a := range c.Args {
			line("", "  %s = %s (%s)", a.Name, valueText(a.Value), a.Type)
		}
		for _, p := range c.Problems {
			line("", "  problem: %s %s", p.Class, p.Detail)
		}
	}
	line("identity", "agent %s, tenant %s (%s)", x.Identity.AgentID, x.Identity.TenantID, x.Identity.Source)
	if len(x.Policies) == 0 {
		line("policy", "none covers %s: policy.default decides", x.Decision.Tool)
	}
	for _, p := range x.Policies {
		line("policy", "%s v%d at %s (tools %s)", p.Name, p.Version, p.At, p.Glob)
		for _, r := range p.Rules {
			line("", "  line %d, %s: %s", r.Line, r.Name, ruleResult(r))
		}
		for _, l := range p.Limits {
			line("", "  limit %s", l)
		}
	}
	line("decision", "%s: %s (%s)", x.Decision.Decision, x.Decision.Explain.Summary, x.Decision.ReasonCode)
	line("mode", "%s: %s", x.Decision.Mode, doing(x.Decision.Enforcement))
	for _, m := range []string{gate.ModeWarn, gate.ModeEnforce, gate.ModeStrict} {
		if e, ok := x.Decision.Would[m]; ok {
			line("would", "%s: %s", m, doing(e))
		}
	}
	for _, s := range x.Decision.Explain.NextSteps {
		line("next", "%s", s)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func ruleResult(r gate.ExplainedRule) string {
	switch r.Result {
	case policy.ResultMatched:
		return "matches: " + r.Decision + " (" + r.Reason + ")"
	case policy.ResultError:
		return "cannot be evaluated: " + r.Error
	}
	return r.Result
}

func doing(enforcement string) string {
	switch enforcement {
	case "none":
		return "forwarded"
	case "warn":
		return "forwarded with a warning"
	case "hold":
		return "held for a human"
	}
	return "blocked"
}
