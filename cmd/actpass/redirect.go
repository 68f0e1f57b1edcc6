package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
)

// redirection is what the rules of `actpass redirect` are made of.
type redirection struct {
	Uid, Port, Mark uint32 //nolint:revive,staticcheck // names of a template
	V4, V6          []netip.Addr
}

// redirectRules is an nftables script. Applied again, it replaces what it made.
// It is one transaction: all of it is in force, or nothing is new.
var redirectRules = template.Must(template.New("rules").Parse(`table inet actpass
delete table inet actpass
table inet actpass {
	chain forced {
		type nat hook output priority -100; policy accept;
{{- template "own" . }}
		oifname "lo" return
{{- template "dns" . }}
		meta l4proto tcp redirect to :{{.Port}}
	}
	chain refused {
		type filter hook output priority 0; policy accept;
{{- template "own" . }}
		oifname "lo" accept
		ct direction reply accept
{{- template "dns" . }}
		meta l4proto tcp accept
		meta l4proto icmp accept
		meta l4proto ipv6-icmp accept
		reject with icmpx type admin-prohibited
	}
}
{{- define "own" }}
		meta skuid {{.Uid}} accept
{{- if .Mark }}
		meta mark {{.Mark}} accept
{{- end }}
{{- end }}
{{- define "dns" }}
{{- range .V4 }}
		ip daddr {{.}} tcp dport 53 accept
		ip daddr {{.}} udp dport 53 accept
{{- end }}
{{- range .V6 }}
		ip6 daddr {{.}} tcp dport 53 accept
		ip6 daddr {{.}} udp dport 53 accept
{{- end }}
{{- end }}
`))

func newRedirectCmd() *cobra.Command {
	var r redirection
	var dns []string
	var show, remove bool
	cmd := &cobra.Command{
		Use:   "redirect",
		Short: "Force this network namespace's outbound TCP through the transparent door (Linux)",
		Long: `Loads nftables rules into the network namespace that it runs in, or prints them.
Outbound TCP of every uid but the sidecar's is led to the transparent door, over
IPv4 and IPv6. DNS goes to the resolvers of /etc/resolv.conf (or --dns) and to no
other; other UDP, QUIC with it, and every other protocol but ICMP is refused. The
loopback stays as it is.

It needs CAP_NET_ADMIN, and no other program. The agent must have neither that
capability nor the sidecar's uid, else it can undo or pass the rules.`,
		Example: `  actpass redirect --uid 65532 --port 15001
  actpass redirect --print | nft -f -
  actpass redirect --remove`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.Port < 1 || r.Port > 65535 {
				return usage("--port must be between 1 and 65535")
			}
			if r.Uid == 0 && r.Mark == 0 {
				return usage("--uid 0 would let everything that runs as root pass: run the sidecar as a uid of its own, or name a --mark")
			}
			script := "table inet actpass\ndelete table inet actpass\n"
			if !remove {
				if err := r.resolvers(dns, cmd.Flags().Changed("dns")); err != nil {
					return err
				}
				var b strings.Builder
				if err := redirectRules.Execute(&b, r); err != nil {
					return fmt.Errorf("write the rules: %w", err)
				}
				script = b.String()
			}
			if show {
				_, err := fmt.Fprint(cmd.OutOrStdout(), script)
				return err
			}
			if err := r.load(remove); err != nil {
				return finding("load the rules: %v: it needs CAP_NET_ADMIN, and a kernel with nf_tables", err)
			}
			return nil
		},
	}
	cmd.Flags().Uint32Var(&r.Uid, "uid", 65532, "uid of the sidecar, whose connections pass")
	cmd.Flags().Uint32Var(&r.Port, "port", 15001, "port of listen.transparent")
	cmd.Flags().Uint32Var(&r.Mark, "mark", 0, "also let connections with this mark pass (upstream.mark)")
	cmd.Flags().StringSliceVar(&dns, "dns", nil, "resolvers that may be asked (default: those of /etc/resolv.conf)")
	cmd.Flags().BoolVar(&show, "print", false, "print the nftables script, load nothing")
	cmd.Flags().BoolVar(&remove, "remove", false, "take the rules away")
	return cmd
}

// resolvers sets the addresses that DNS may go to. Those on the loopback need no
// rule.
func (r *redirection) resolvers(given []string, some bool) error {
	if !some {
		b, err := os.ReadFile("/etc/resolv.conf")
		if err != nil {
			return fmt.Errorf("find the resolvers: %w: name them with --dns", err)
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
				given = append(given, f[1])
			}
		}
	}
	for _, s := range given {
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil:
			return usage("--dns: %q is not an address", s)
		case a.Unmap().Is4():
			r.V4 = append(r.V4, a.Unmap())
		default:
			r.V6 = append(r.V6, a.WithZone(""))
		}
	}
	return nil
}
