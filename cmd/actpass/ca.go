package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/proxy"
)

func newCACmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Hand out the certificate authority that intercepted calls are signed with",
		Long: `Each data directory has a certificate authority of its own, made on first use. A
client that is to be read must trust it. ` + "`actpass run`" + ` does that for one command;
these commands are for everything else.`,
		Example: "  actpass ca export --out actpass-ca.pem",
		RunE:    showHelp,
	}
	cmd.AddCommand(newCAExportCmd(), newCAInstallCmd())
	return cmd
}

// loadCA reads the CA of the configured data directory, or makes it.
func loadCA(cmd *cobra.Command) (ca *proxy.CA, file string, err error) {
	cfg, err := loadConfig(cmd)
	if err != nil {
		return nil, "", err
	}
	files := caFilesOf(cfg)
	ca, err = files.load(time.Now())
	return ca, files.cert, err
}

func newCAExportCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Print the CA's certificate (PEM)",
		Long: `Prints the certificate, never the key. How a client is told to trust it:

  Node.js            NODE_EXTRA_CA_CERTS=FILE
  Python requests    REQUESTS_CA_BUNDLE=BUNDLE
  curl               CURL_CA_BUNDLE=BUNDLE
  Go, OpenSSL        SSL_CERT_FILE=BUNDLE
  AWS SDKs           AWS_CA_BUNDLE=BUNDLE

FILE is this certificate alone. BUNDLE replaces the system's roots, so it must
hold them too: cat /etc/ssl/certs/ca-certificates.crt FILE > BUNDLE.`,
		Example: "  actpass ca export --out actpass-ca.pem\n  NODE_EXTRA_CA_CERTS=actpass-ca.pem node agent.js",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ca, _, err := loadCA(cmd)
			if err != nil {
				return err
			}
			if out == "" || out == "-" {
				_, err := cmd.OutOrStdout().Write(ca.PEM())
				return err
			}
			if err := os.WriteFile(out, ca.PEM(), 0o644); err != nil {
				return fmt.Errorf("write the certificate: %w", err)
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "wrote", out)
			return nil
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "file to write; standard output without it")
	return cmd
}

// trustStore is where a system keeps the roots that it trusts besides its own.
type trustStore struct {
	dir    string // must be there for the store to be this one
	file   string // the certificate's name in it
	update []string
}

// trustStores, in the order in which they are looked for.
var trustStores = []trustStore{
	{"/usr/local/share/ca-certificates", "actpass-sidecar.crt", []string{"update-ca-certificates"}},           // Debian, Ubuntu, Alpine
	{"/etc/pki/ca-trust/source/anchors", "actpass-sidecar.pem", []string{"update-ca-trust", "extract"}},       // Red Hat, Fedora
	{"/etc/ca-certificates/trust-source/anchors", "actpass-sidecar.crt", []string{"trust", "extract-compat"}}, // Arch
	{"/usr/share/pki/trust/anchors", "actpass-sidecar.pem", []string{"update-ca-certificates"}},               // SUSE
}

func newCAInstallCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Make this system trust the CA",
		Long: `As root, puts the certificate into the system's trust store. Otherwise prints the
commands that do, and changes nothing. Node.js, Python requests and the JVM do
not read the system's store: see ` + "`actpass ca export --help`" + `.

A system that trusts the CA trusts whoever holds its key, which is in the data
directory: install it where the agents run, and nowhere else.`,
		Example: "  sudo actpass ca install",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ca, file, err := loadCA(cmd)
			if err != nil {
				return err
			}
			if file, err = filepath.Abs(file); err != nil {
				return fmt.Errorf("find the CA's certificate: %w", err)
			}
			if runtime.GOOS == "darwin" {
				return installOnMac(cmd, file)
			}
			for _, s := range trustStores {
				if st, err := os.Stat(s.dir); err == nil && st.IsDir() {
					return s.install(cmd, ca.PEM(), file)
				}
			}
			return finding("no trust store of a known kind is on this system; add %s to its roots by hand", file)
		},
	}
	return cmd
}

func (s trustStore) install(cmd *cobra.Command, pem []byte, file string) error {
	target := filepath.Join(s.dir, s.file)
	if os.Geteuid() != 0 {
		fmt.Fprintf(cmd.OutOrStdout(), "sudo cp %s %s\nsudo %s\n", shellQuote(file), target, strings.Join(s.update, " "))
		return finding("only root may change the system's trust; run the commands above")
	}
	if err := os.WriteFile(target, pem, 0o644); err != nil {
		return fmt.Errorf("put the certificate into the trust store: %w", err)
	}
	if err := runTool(cmd, s.update...); err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), "installed", target)
	return nil
}

func installOnMac(cmd *cobra.Command, file string) error {
	add := []string{"security", "add-trusted-cert", "-d", "-r", "trustRoot", "-k", "/Library/Keychains/System.keychain", file}
	if os.Geteuid() != 0 {
		add[len(add)-1] = shellQuote(file)
		fmt.Fprintln(cmd.OutOrStdout(), "sudo "+strings.Join(add, " "))
		return finding("only root may change the system's trust; run the command above")
	}
	if err := runTool(cmd, add...); err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), "installed", file)
	return nil
}

// runTool runs a tool of the system, whose output is the user's to see.
func runTool(cmd *cobra.Command, line ...string) error {
	tool := exec.CommandContext(cmd.Context(), line[0], line[1:]...)
	tool.Stdout, tool.Stderr = cmd.ErrOrStderr(), cmd.ErrOrStderr()
	err := tool.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return finding("%s is not installed; install it, then run: %s", line[0], strings.Join(line, " "))
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", strings.Join(line, " "), err)
	}
	return nil
}

// shellQuote makes s one word of a POSIX shell.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
