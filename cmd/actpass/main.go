// Command actpass is the sidecar: one binary that serves, checks, explains and
// looks after keys, approvals and evidence.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	_ "github.com/actpass/sidecar/cmd/actpass/timerslack" // takes effect by being there
	"github.com/spf13/cobra"
)

// version is set by the linker: -ldflags "-X main.version=1.2.3".
var version = "dev"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// Exit codes of every command.
const (
	exitFine    = 0
	exitFinding = 1
	exitUsage   = 2
)

// exitError ends a command with a code. An empty msg prints nothing: the
// command has said what there is to say.
type exitError struct {
	code int
	msg  string
}

func (e *exitError) Error() string { return e.msg }

func finding(format string, args ...any) error {
	return &exitError{exitFinding, fmt.Sprintf(format, args...)}
}

func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Sprintf(format, args...)}
}

func run(args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	if err == nil {
		return exitFine
	}
	var e *exitError
	if !errors.As(err, &e) {
		e = &exitError{exitFinding, err.Error()}
	}
	if e.msg != "" {
		fmt.Fprintln(stderr, "actpass: "+e.msg)
	}
	return e.code
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "actpass",
		Short: "A proxy between AI agents and the APIs they call: every call judged, every decision on record",
		Example: `  actpass serve                           # embedded defaults, monitor mode
  actpass run -- node agent.js            # a private sidecar around one command
  actpass explain POST https://api.stripe.com/v1/refunds -d 'amount=4900&currency=usd&charge=ch_123'`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.PersistentFlags().String("config", "", "configuration file (else ACTPASS_CONFIG, else ./config.yaml, else embedded defaults)")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%v (see `%s --help`)", err, cmd.CommandPath())
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newServeCmd(), newRunCmd(), newCheckCmd(), newExplainCmd(),
		newKeysCmd(), newPassportCmd(), newApprovalsCmd(), newGrantsCmd(), newLimitsCmd(), newModeCmd(), newEvidenceCmd(), newCACmd(), newMappingCmd(),
		newSimulateCmd(), newReviewCmd(), newPolicyCmd(), newReadinessCmd(), newTestCmd(), newRedirectCmd(), newInjectCmd(), newDoctorCmd())
	strictArgs(root)
	return root
}

// strictArgs makes wrong arguments a usage error (exit code 2) everywhere.
func strictArgs(cmd *cobra.Command) {
	check := cmd.Args
	if check == nil {
		check = cobra.NoArgs
	}
	cmd.Args = func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usage("%v (see `%s --help`)", err, c.CommandPath())
		}
		return nil
	}
	for _, sub := range cmd.Commands() {
		strictArgs(sub)
	}
}
