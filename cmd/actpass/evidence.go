package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/whatif"
)

func newEvidenceCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "evidence",
		Short: "Read and verify what is on record",
		Long: `tail and show ask the running sidecar with the key in ` + envAPIKey + ` (role approver or
admin). verify reads the log in the data directory itself and asks nobody.`,
		Example: "  actpass evidence tail -f\n  actpass evidence verify",
		RunE:    showHelp,
	}
	cmd.AddCommand(newEvidenceTailCmd(), newEvidenceShowCmd(), newEvidenceVerifyCmd(), newEvidenceExportCmd())
	return cmd
}

// event is an evidence event as the API gives it.
type event struct {
	evidence.Event
	Log struct {
		Index    uint64 `json:"index"`
		LeafHash string `json:"leaf_hash"`
		Source   string `json:"source"` // "" where the log is of one sidecar
		Seq      uint64 `json:"seq"`    // likewise 0
	} `json:"log"`
}

// position is where the event stands in the order of what the API lists.
func (e *event) position() uint64 {
	if e.Log.Seq > 0 {
		return e.Log.Seq - 1
	}
	return e.Log.Index
}

// tailEvery is how often tail -f asks for new events.
const tailEvery = 500 * time.Millisecond

func newEvidenceTailCmd() *cobra.Command {
	var q api.EventQuery
	var since string
	var follow, asJSON bool
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print the latest events, the newest last",
		Example: `  actpass evidence tail --limit 50
  actpass evidence tail -f --tool 'stripe.*' --decision deny
  actpass evidence tail --since 1h --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := checkLimit(q.Limit, longestPage)
			if err != nil {
				return err
			}
			if q.Since, err = api.When(since, time.Now()); err != nil {
				return usage("--since: %v", err)
			}
			client, err := newClient(cmd)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			t := tail{client: client, query: q, show: func(raw json.RawMessage, e *event) error {
				if asJSON {
					var line bytes.Buffer
					if err := json.Compact(&line, raw); err != nil {
						return err
					}
					_, err := fmt.Fprintln(cmd.OutOrStdout(), line.String())
					return err
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), eventLine(e))
				return err
			}}
			return explained(t.run(ctx, follow, cmd.ErrOrStderr()))
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new events until Ctrl-C")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	cmd.Flags().IntVar(&q.Limit, "limit", 20, "how many to begin with, 1 to 1000")
	cmd.Flags().StringVar(&since, "since", "", "nothing older than this: a duration (1h) or a time (2026-01-31T09:00:00Z)")
	cmd.Flags().StringVar(&q.Tool, "tool", "", "only this tool; globs work")
	cmd.Flags().StringVar(&q.Agent, "agent", "", "only this agent")
	cmd.Flags().StringVar(&q.Decision, "decision", "", "only allow, deny, require_approval or warn")
	cmd.Flags().StringVar(&q.Kind, "kind", "", "only action, approval, config, grant, passport, doctor or system; all for every kind")
	cmd.Flags().StringVar(&q.State, "state", "", "only this state of the outcome: pending, forwarded, blocked, held, refused or ambiguous")
	addAPIFlag(cmd)
	return cmd
}

// tail follows the events of one sidecar by their position in the log: unlike
// the time, it only grows.
type tail struct {
	client *api.Client
	query  api.EventQuery
	show   func(raw json.RawMessage, e *event) error

	next uint64 // the first position that was not looked at
}

func (t *tail) run(ctx context.Context, follow bool, notes io.Writer) error {
	p, err := t.client.Events(ctx, t.query)
	if err != nil {
		return err
	}
	if err := t.print(p.Data); err != nil {
		return err
	}
	tick := time.NewTicker(tailEvery)
	defer tick.Stop()
	away := false
	for follow {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := t.more(ctx)
		var said *api.Error
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil && away:
			away = false
			fmt.Fprintln(notes, "actpass: the sidecar answers again")
		case err == nil:
		case errors.As(err, &said) && said.Status < 500:
			return err
		case !away:
			away = true
			fmt.Fprintf(notes, "actpass: %s; waiting for it to come back\n", plain(err.Error()))
		}
	}
	return nil
}

// more prints what is new. It pages back until it meets what it knows, and
// prints only when it has all: what it could not read now comes next time.
func (t *tail) more(ctx context.Context) error {
	q := t.query
	q.Limit = api.MaxLimit
	var fresh []json.RawMessage
	for {
		p, err := t.client.Events(ctx, q)
		if err != nil {
			return err
		}
		fresh = append(fresh, p.Data...)
		if len(p.Data) == 0 || p.Next == "" {
			break
		}
		var oldest event
		if err := json.Unmarshal(p.Data[len(p.Data)-1], &oldest); err != nil {
			return fmt.Errorf("read an event: %w", err)
		}
		if oldest.position() < t.next {
			break
		}
		q.Cursor = p.Next
	}
	return t.print(fresh)
}

// print shows those of list, newest first, that are new, oldest first.
func (t *tail) print(list []json.RawMessage) error {
	for _, raw := range slices.Backward(list) {
		var e event
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("read an event: %w", err)
		}
		if e.position() < t.next {
			continue
		}
		if err := t.show(raw, &e); err != nil {
			return err
		}
		t.next = e.position() + 1
	}
	return nil
}

// eventLine is an event on one line of a terminal.
func eventLine(e *event) string {
	parts := []string{day(e.Time.Time)}
	switch e.Kind {
	case evidence.KindAction:
		parts = append(parts, fmt.Sprintf("%-16s", e.Decision.Decision), e.Tool, e.Resource, "agent="+cmp.Or(e.AgentID, "-"), "reason="+e.ReasonCode, "mode="+e.Mode)
		if o := e.Outcome; o != nil {
			state := "state=" + o.State
			if o.Status != 0 {
				state += "/" + strconv.Itoa(o.Status)
			}
			parts = append(parts, state)
		}
		if len(e.Flags) > 0 {
			parts = append(parts, "flags="+strings.Join(e.Flags, ","))
		}
	case evidence.KindApproval:
		parts = append(parts, fmt.Sprintf("%-16s", "approval"))
		if a := e.Approval; a != nil {
			parts = append(parts, a.ID, cmp.Or(a.From, "-")+" -> "+a.State, "by="+cmp.Or(a.Actor, "-"))
			if a.Reason != "" {
				parts = append(parts, strconv.Quote(a.Reason))
			}
		}
	default:
		parts = append(parts, fmt.Sprintf("%-16s", e.Kind), e.Message)
	}
	if e.Log.Source != "" {
		parts = append(parts, "at="+e.Log.Source)
	}
	return plain(strings.Join(append(parts, e.ID), "  "))
}

func newEvidenceShowCmd() *cobra.Command {
	var asJSON, asFixture bool
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "Show one event",
		Example: "  actpass evidence show ev_0199a5c0-7d2e-7c3b-9f10-2b6f6f0a1c22",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := newClient(cmd)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			raw, err := client.Event(ctx, args[0])
			if err != nil {
				return explained(err)
			}
			if asFixture {
				return printFixture(cmd.OutOrStdout(), raw)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			var e event
			if err := json.Unmarshal(raw, &e); err != nil {
				return fmt.Errorf("read the event: %w", err)
			}
			return showEvent(cmd.OutOrStdout(), raw, &e)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&asFixture, "as-fixture", false, "print a fixture for actpass test")
	addAPIFlag(cmd)
	return cmd
}

// printFixture writes an event as a policy fixture, its numbers as they are on
// record.
func printFixture(out io.Writer, raw json.RawMessage) error {
	e, _, err := evidence.DecodeRecord(raw)
	if err == nil && e == nil {
		err = errors.New("it is an outcome")
	}
	if err != nil {
		return fmt.Errorf("read the event: %w", err)
	}
	text, err := whatif.FixtureOf(e)
	if err != nil {
		return finding("%s", plain(err.Error()))
	}
	_, err = io.WriteString(out, text)
	return err
}

func showEvent(out io.Writer, raw json.RawMessage, e *event) error {
	// Numbers as they are on record, not as floating point makes them.
	var exact struct {
		Args json.RawMessage `json:"args"`
	}
	if err := json.Unmarshal(raw, &exact); err != nil {
		return fmt.Errorf("read the event: %w", err)
	}
	f := fields{out}
	f.line("event", e.ID+"  ("+e.Kind+", position "+strconv.FormatUint(e.Log.Index, 10)+" of the log"+prefixed(" of ", e.Log.Source)+")")
	f.line("time", e.Time.UTC().Format(evidence.TimeLayout))
	if e.Decision.Decision != "" {
		f.line("decision", e.Decision.Decision+"  "+e.ReasonCode)
	}
	if e.Mode != "" {
		would := ""
		for _, mode := range []string{"warn", "enforce", "strict"} {
			if w, ok := e.Would[mode]; ok {
				would += "; " + mode + " would: " + w
			}
		}
		f.line("mode", e.Mode+": "+cmp.Or(e.Enforcement, "-")+would)
	}
	f.line("why", e.Explain.Summary)
	f.line("rules", strings.Join(e.Explain.MatchedRules, ", "))
	f.line("next", strings.Join(e.Explain.NextSteps, " "))
	if e.Tool != "" {
		f.line("tool", e.Tool+" ("+cmp.Or(e.RiskTier, "unknown")+" risk)")
	}
	f.line("resource", e.Resource)
	f.line("args", string(exact.Args))
	if r := e.Request; r != nil {
		f.line("request", fmt.Sprintf("%s %s%s  %d bytes %s", r.Method, r.Authority, r.Path, r.Bytes, r.ContentType))
		f.line("body", cmp.Or(prefixed("sha256 ", r.BodySHA256), ""))
	}
	f.line("agent", e.AgentID+prefixed("  by ", e.IdentitySource)+prefixed("  ", e.KeyID))
	f.line("user", e.UserID)
	f.line("goal", e.Goal)
	f.line("door", e.Door)
	f.line("rule", position(e.Rule))
	f.line("mapping", position(e.MappingRule))
	f.line("flags", strings.Join(e.Flags, ", "))
	for _, n := range e.Notes {
		f.line("note", n)
	}
	if o := e.Outcome; o != nil {
		text := o.State
		if o.Status != 0 {
			text += fmt.Sprintf("  status %d  %d bytes  %.1f ms", o.Status, o.Bytes, o.DurationMS)
		}
		f.line("outcome", text+prefixed("  ", o.Error))
	}
	if a := e.Approval; a != nil {
		f.line("approval", a.ID+"  "+prefixed(a.From, prefixed(" -> ", a.State))+prefixed("  by ", a.Actor)+prefixed("  ", a.Reason))
	}
	f.line("message", e.Message)
	for _, k := range sortedKeys(e.Data) {
		f.line(k, e.Data[k])
	}
	f.line("policy", e.PolicyHash)
	f.line("mapping", e.MappingHash)
	f.line("leaf hash", e.Log.LeafHash)
	return nil
}

// prefixed is p and s, nothing when s is nothing.
func prefixed(p, s string) string {
	if s == "" {
		return ""
	}
	return p + s
}

func position(p *evidence.Position) string {
	if p == nil {
		return ""
	}
	return p.File + ":" + strconv.Itoa(p.Line) + prefixed("  ", p.Name)
}

func sortedKeys(m map[string]string) []string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

func newEvidenceVerifyCmd() *cobra.Command {
	var dir, key, bundle string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Read the whole log and check every hash and signature",
		Long: `Reads the log in the data directory, whether the sidecar runs or not, and checks
each record against the signed checkpoints. Names the first event that is missing
or was altered. Exit code 0: the log is whole; 1: it is not.

Without --public-key the key beside the log is believed, which shows damage but
not a log that was made anew with another key: note the key that is printed
somewhere else, and give it here.`,
		Example: "  actpass evidence verify\n  actpass evidence verify --data-dir /backup/actpass --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if bundle != "" {
				return verifyBundle(cmd, bundle, key)
			}
			if dir == "" {
				cfg, err := loadConfig(cmd)
				if err != nil {
					return err
				}
				dir = cfg.Path(cfg.DataDir)
			}
			report, err := verifyLog(filepath.Join(dir, "ledger"), key)
			if err != nil {
				return finding("%s", plain(err.Error()))
			}
			if spooled(dir) {
				report.Notes = append(report.Notes, "records of commands that ran beside the sidecar wait in "+filepath.Join(dir, "spool")+"; it takes them into the log while it runs")
			}
			if asJSON {
				if err := printJSON(cmd.OutOrStdout(), report); err != nil {
					return err
				}
				if !report.OK {
					return &exitError{code: exitFinding}
				}
				return nil
			}
			out := cmd.OutOrStdout()
			if f := report.Finding; f != nil {
				fmt.Fprintf(out, "bad: record %d%s: %s\n", f.Index, plain(prefixed(", event ", f.EventID)), plain(f.Problem))
			} else {
				fmt.Fprintf(out, "ok: %d %s, tree size %d, root %s\n", report.Records, plural(int(report.Records), "record", "records"), report.TreeSize, report.Root)
			}
			fmt.Fprintln(out, "key: "+plain(report.PublicKey))
			for _, n := range report.Notes {
				fmt.Fprintln(out, "note: "+plain(n))
			}
			if !report.OK {
				return finding("the evidence log in %s is not what was written", dir)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", "", "data directory (else data_dir of the configuration)")
	cmd.Flags().StringVar(&key, "public-key", "", "verifier key of the log, as known from elsewhere")
	cmd.Flags().StringVar(&bundle, "bundle", "", "check an exported bundle instead, a file or -")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// verifyLog checks the log in dir; key "" is the one beside it.
func verifyLog(dir, key string) (api.VerifyReport, error) {
	found, err := ledger.VerifyDir(dir, key)
	if err != nil {
		return api.VerifyReport{}, err
	}
	r := api.VerifyReport{
		OK: found.Fault == nil, Records: found.Size - found.First, TreeSize: found.Size, Root: found.Root,
		PublicKey: found.PublicKey, Notes: []string{}, Took: found.Took,
	}
	if f := found.Fault; f != nil {
		r.Finding = &api.LogFinding{Index: f.Index, EventID: f.EventID, Problem: f.Reason}
	}
	if found.First > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("the log begins at record %d: older ones were removed by retention", found.First))
	}
	if found.Pending > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%d bytes at the end are under no checkpoint: a batch that is being written, or one that a crash cut off before it was acknowledged", found.Pending))
	}
	return r, nil
}
