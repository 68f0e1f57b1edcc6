package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/doctor"
)

func newDoctorCmd() *cobra.Command {
	var targets []string
	var ca string
	var asJSON, silent bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Try to get out of this workload without the sidecar, and say which ways are open",
		Long: `Run it where the agent runs, as the user that the agent is. It tries to reach
public addresses without a look at the proxy variables: TCP over IPv4 and IPv6, UDP
443 (QUIC), DNS over UDP and TCP to a public resolver, and the metadata service of
the clouds. It says of each way whether it is

  enforced   led to the sidecar, or stopped
  advisory   open, but a program that obeys its variables does not take it
  open       open, and nothing leads to the sidecar

and what to change. Nothing but the probes is sent; it takes ten seconds at most. With ` + envAPIKey + `
the result goes on the sidecar's record, as an event of kind doctor.
Exit code 0: all is enforced; 1: something is not, or could not be recorded.`,
		Example: `  actpass doctor
  actpass doctor --json --no-report
  actpass doctor --target tcp=203.0.113.7:443 --target tcp6= --target metadata=`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := doctor.Options{Targets: doctor.Public, Environ: os.Environ()}
			for _, t := range targets {
				if err := setTarget(&o.Targets, t); err != nil {
					return err
				}
			}
			// Where no file is named, what the injection and `run` leave in the
			// environment: the sidecar's authority, perhaps with others of the same pod.
			file := ca
			if file == "" {
				file = os.Getenv("NODE_EXTRA_CA_CERTS")
			}
			pem, err := os.ReadFile(file)
			if err != nil && ca != "" {
				return usage("--ca: %v", err)
			}
			o.CAPEM = pem
			report := doctor.Run(cmd.Context(), o)
			if err := printDoctor(cmd, report, asJSON); err != nil {
				return err
			}
			recorded := silent || recordDoctor(cmd, report)
			if report.Verdict != doctor.Enforced || !recorded {
				return &exitError{code: exitFinding}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&targets, "target", nil, "PATH=ADDRESS:PORT to try instead of the public one, or PATH= to leave it out; PATH is tcp, tcp6, udp443, udp443_6, dns or metadata")
	cmd.Flags().StringVar(&ca, "ca", "", "the sidecar's CA, PEM (else the file of NODE_EXTRA_CA_CERTS)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	cmd.Flags().BoolVar(&silent, "no-report", false, "put nothing on the sidecar's record")
	addAPIFlag(cmd)
	return cmd
}

func setTarget(t *doctor.Targets, given string) error {
	fields := map[string]*string{"tcp": &t.TCP, "tcp6": &t.TCP6, "udp443": &t.UDP, "udp443_6": &t.UDP6, "dns": &t.DNS, "metadata": &t.Metadata}
	name, address, ok := strings.Cut(given, "=")
	to := fields[name]
	if !ok || to == nil {
		return usage("--target: %q is not PATH=ADDRESS:PORT with one of tcp, tcp6, udp443, udp443_6, dns, metadata", given)
	}
	if address != "" {
		host, _, err := net.SplitHostPort(address)
		if err == nil {
			_, err = netip.ParseAddr(host) // a name would ask a resolver first
		}
		if err != nil {
			return usage("--target: %q is no address with a port", address)
		}
	}
	*to = address
	return nil
}

func printDoctor(cmd *cobra.Command, r doctor.Report, asJSON bool) error {
	w := cmd.OutOrStdout()
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	for _, p := range r.Paths {
		sure := ""
		if !p.Certain {
			sure = " (uncertain)"
		}
		fmt.Fprintf(w, "%-9s %-9s %s\n          %s%s\n", p.Verdict, p.Path, plain(p.Target), plain(p.Detail), sure)
		if p.Change != "" {
			fmt.Fprintln(w, "          change:", p.Change)
		}
	}
	_, err := fmt.Fprintln(w, "\nthis workload:", r.Verdict)
	return err
}

// recordDoctor says whether the report is on record, or need not be.
func recordDoctor(cmd *cobra.Command, r doctor.Report) bool {
	if os.Getenv(envAPIKey) == "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "actpass: not recorded: %s is not set\n", envAPIKey)
		return true
	}
	base, err := apiURL(cmd)
	var id string
	if err == nil {
		id, err = api.NewClient(base, os.Getenv(envAPIKey), nil).ReportDoctor(cmd.Context(), r)
	}
	if err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "actpass: not recorded:", err)
		return false
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "actpass: recorded as", id)
	return true
}
