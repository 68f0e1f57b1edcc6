package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/launch"
	"github.com/actpass/sidecar/ledger"
	"github.com/actpass/sidecar/store"
)

func newRunCmd() *cobra.Command {
	var noProxy []string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG...]",
		Short: "Run a command with a private sidecar around it",
		Long: `Starts a sidecar on free ports and runs COMMAND with an environment that makes
curl, Python, Go, Node, Java, git and others use and trust it, with no change to
the command. Nothing is added to its standard output; when it ends, a summary of
what it did is printed on standard error, and its exit code is passed on.`,
		Example: `  actpass run -- node agent.js
  actpass run --mode enforce -- python agent.py
  actpass run -- curl https://api.stripe.com/v1/refunds -u sk_test_...: -d charge=ch_123 -d amount=4900`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tuneMemory()
			cfg, compiled, err := loadAll(cmd)
			if err != nil {
				return configError(err)
			}
			opt := launch.Options{Environ: os.Environ(), NoProxy: launch.Loopback}
			if cmd.Flags().Changed("no-proxy") {
				opt.NoProxy = append([]string{}, noProxy...)
			}
			return runChild(cmd, cfg, compiled, args, opt, quiet)
		},
	}
	cmd.Flags().SetInterspersed(false) // flags after COMMAND are the command's
	cmd.Flags().StringSliceVar(&noProxy, "no-proxy", launch.Loopback, "what the command reaches directly, unjudged")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print no summary")
	addSettingFlags(cmd)
	return cmd
}

// exit codes as shells give them.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128
)

func runChild(cmd *cobra.Command, cfg *config.Config, compiled *config.Compiled, args []string, opt launch.Options, quiet bool) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		code := exitNotFound
		if errors.Is(err, os.ErrPermission) {
			code = exitNotExecutable
		}
		return &exitError{code, fmt.Sprintf("run %s: %v", args[0], err)}
	}
	cfg.Listen = config.Listen{Proxy: "127.0.0.1:0", Reverse: "127.0.0.1:0", API: "127.0.0.1:0"}
	if cfg.DataDir, err = freeDataDir(cfg.Path(cfg.DataDir)); err != nil {
		return err
	}
	log, closeLog, err := fileLogger(cfg, filepath.Join(cfg.DataDir, "run.log"))
	if err != nil {
		return err
	}
	defer closeLog()
	p, err := start(context.WithoutCancel(cmd.Context()), asSidecar, cfg, compiled, nil, log)
	if err != nil {
		return err
	}
	began := time.Now()
	code, err := p.child(cmd, path, args, opt)
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	if !quiet && err == nil {
		p.summary(ctx, cmd.ErrOrStderr(), began)
	}
	if stopErr := p.shutdown(ctx); stopErr != nil {
		log.Warn("not everything ended in order", zap.Error(stopErr))
	}
	if err != nil {
		return err
	}
	if code != 0 {
		return &exitError{code: code}
	}
	return nil
}

// freeDataDir is dir, or a directory below it where another sidecar holds dir.
func freeDataDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return "", fmt.Errorf("create data_dir: %w", err)
	}
	trail, err := ledger.Open(filepath.Join(dir, "ledger"), ledger.Options{})
	switch {
	case err == nil:
		return dir, trail.Close()
	case !errors.Is(err, ledger.ErrLocked):
		return "", err
	}
	dir = filepath.Join(dir, "runs", uuid.Must(uuid.NewV7()).String())
	return dir, os.MkdirAll(dir, 0o700)
}

// child runs the command and gives its exit code.
func (p *program) child(cmd *cobra.Command, path string, args []string, opt launch.Options) (int, error) {
	dir, err := os.MkdirTemp("", "actpass-run-")
	if err != nil {
		return 0, fmt.Errorf("make a directory for the command's certificates: %w", err)
	}
	defer os.RemoveAll(dir)
	opt.ProxyURL, opt.ReverseURL, opt.APIURL = "http://"+p.addresses.proxy, "http://"+p.addresses.reverse, "http://"+p.addresses.api
	opt.CAPEM = p.ca.Load().PEM()
	env, err := launch.Prepare(dir, opt)
	if err != nil {
		return 0, err
	}
	for _, w := range env.Warnings() {
		fmt.Fprintln(cmd.ErrOrStderr(), "actpass: "+w)
	}
	c := exec.Command(path, args[1:]...)
	c.Args[0] = args[0]
	c.Env = env.Environ()
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	// A terminal sends its interrupt to the command too; the sidecar must outlive
	// it, and passes on what only it got.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := c.Start(); err != nil {
		return 0, &exitError{exitNotExecutable, fmt.Sprintf("run %s: %v", args[0], err)}
	}
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				if s != syscall.SIGINT || !isTerminal(os.Stdin) {
					_ = c.Process.Signal(s)
				}
			case <-ended:
				return
			}
		}
	}()
	err = c.Wait()
	close(ended)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return 0, fmt.Errorf("run %s: %w", args[0], err)
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return exitSignal + int(ws.Signal()), nil
	}
	return exit.ExitCode(), nil
}

// isTerminal says that f is a terminal: not merely a character device, which
// /dev/null is too.
func isTerminal(f *os.File) bool { return isatty.IsTerminal(f.Fd()) }

// summary tells what the command did, and what a stricter mode would have done.
func (p *program) summary(ctx context.Context, w io.Writer, since time.Time) {
	type line struct{ tool, decision, enforcement, would string }
	counts := map[line]int{}
	total, stopped := 0, 0
	cursor := ""
	for {
		if err := p.index.CatchUp(ctx, p.trail.Size()); err != nil {
			break
		}
		views, next, err := p.index.Events(ctx, store.Query{
			Tenant: p.current.Identity.TenantID, Kind: evidence.KindAction, Since: since, Cursor: cursor, Limit: 200,
		})
		if err != nil {
			fmt.Fprintf(w, "actpass: the summary cannot be read: %v\n", err)
			return
		}
		for _, v := range views {
			counts[line{v.Tool, v.Decision.Decision, v.Enforcement, v.Would["enforce"]}]++
			total++
			if v.Enforcement == "block" || v.Enforcement == "hold" {
				stopped++
			}
		}
		if next == "" {
			break
		}
		cursor = next
	}
	if total == 0 {
		fmt.Fprintf(w, "actpass: no calls went through the sidecar (mode %s)\n", p.current.Mode)
		return
	}
	lines := make([]line, 0, len(counts))
	for l := range counts {
		lines = append(lines, l)
	}
	sort.Slice(lines, func(i, j int) bool {
		return strings.Join([]string{lines[i].tool, lines[i].decision}, " ") < strings.Join([]string{lines[j].tool, lines[j].decision}, " ")
	})
	fmt.Fprintf(w, "actpass: %d %s, %d stopped (mode %s), evidence in %s\n", total, plural(total, "call", "calls"), stopped, p.current.Mode, p.dir)
	for _, l := range lines {
		note := ""
		if l.enforcement == "none" || l.enforcement == "warn" {
			if l.would == "block" || l.would == "hold" {
				note = "  (enforce would " + l.would + ")"
			}
		} else {
			note = "  (" + l.enforcement + ")"
		}
		fmt.Fprintf(w, "actpass: %5d  %-36s %s%s\n", counts[l], plain(l.tool), l.decision, note)
	}
}

// fileLogger logs into a file: the command's own standard error stays its own.
func fileLogger(cfg *config.Config, file string) (*zap.Logger, func(), error) {
	level, err := zapcore.ParseLevel(cfg.Log.Level)
	if err != nil {
		return nil, nil, fmt.Errorf("log.level: %w", err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open the log: %w", err)
	}
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	enc.TimeKey = "time"
	enc.EncodeDuration = zapcore.MillisDurationEncoder // as serve has it
	enc.EncodeDuration = zapcore.StringDurationEncoder
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(enc), zapcore.AddSync(f), level)), func() { _ = f.Close() }, nil
}
