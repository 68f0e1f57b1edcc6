package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/notify"
)

// Commands that talk to a running sidecar find it and their key here.
const (
	envAPIKey = "ACTPASS_API_KEY"
	envAPIURL = "ACTPASS_API_URL"
)

// showHelp is what a command of commands does by itself. As a RunE it makes
// cobra look at the arguments: without it, a misspelt subcommand is a success.
func showHelp(cmd *cobra.Command, _ []string) error { return cmd.Help() }

func addAPIFlag(cmd *cobra.Command) {
	cmd.Flags().String("api", "", "address of the sidecar's API (else "+envAPIURL+", else listen.api of the configuration)")
}

// apiURL is where the API is: --api, else ACTPASS_API_URL, else the address
// that the configuration makes the sidecar listen at.
func apiURL(cmd *cobra.Command) (string, error) {
	flag, _ := cmd.Flags().GetString("api")
	if given := cmp.Or(flag, os.Getenv(envAPIURL)); given != "" {
		if !strings.HasPrefix(given, "http://") && !strings.HasPrefix(given, "https://") {
			given = "http://" + given
		}
		return given, nil
	}
	cfg, err := loadConfig(cmd)
	if err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(cfg.Listen.API)
	if err != nil || port == "0" {
		return "", usage("the configuration gives no address of the API (listen.api is %q); give --api URL or set %s", cfg.Listen.API, envAPIURL)
	}
	switch host { // a wildcard is listened at, not dialled
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return "http://" + net.JoinHostPort(host, port), nil
}

// newClient is the client of the commands that only a running sidecar can
// answer.
func newClient(cmd *cobra.Command) (*api.Client, error) {
	key := os.Getenv(envAPIKey)
	if key == "" {
		return nil, usage("set %s to a key of this sidecar; `actpass keys create --name you --role approver` makes one", envAPIKey)
	}
	base, err := apiURL(cmd)
	if err != nil {
		return nil, err
	}
	return api.NewClient(base, key, nil), nil
}

// explained turns what the API said into what the user can do about it.
func explained(err error) error {
	var e *api.Error
	switch {
	case err == nil || errors.Is(err, context.Canceled):
		return nil // the user pressed Ctrl-C
	case errors.Is(err, api.ErrUnreachable):
		return finding("%v; start it with `actpass serve`, or say where it is with --api", err)
	case !errors.As(err, &e):
		return err
	case e.Status == http.StatusBadRequest:
		return usage("%s", plain(e.Error()))
	case e.Status == http.StatusUnauthorized:
		return finding("the key in %s is not good here: %s", envAPIKey, plain(e.Error()))
	}
	return finding("%s", plain(e.Error()))
}

// interruptible ends with Ctrl-C or SIGTERM.
func interruptible(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

// plain is s as it may go to a terminal: control characters, invisible and
// reordering ones and broken UTF-8 are shown as escapes. Agents choose much of
// what stands in an approval, and must not choose what its reader sees.
func plain(s string) string { return notify.Visible(s) }

// table prints rows of columns; every cell is made plain.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer, head ...string) *table {
	t := &table{tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)}
	t.row(head...)
	return t
}

func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = cmp.Or(plain(c), "-")
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

func (t *table) end() error { return t.w.Flush() }

// longestPage is what one call to the API lists at most.
const longestPage = 1000

func checkLimit(n, most int) error {
	if n < 1 || n > most {
		return usage("--limit must be from 1 to %d", most)
	}
	return nil
}

func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// day is a time to the second in the reader's own zone.
func day(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

func when(t *evidence.Time) string {
	if t == nil {
		return ""
	}
	return day(t.Time)
}
