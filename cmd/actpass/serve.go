package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/actpass/sidecar/config"
	"github.com/actpass/sidecar/strictyaml"
)

// drain is how long a stop waits for calls that are under way.
const drain = 30 * time.Second

func newServeCmd() *cobra.Command {
	var trust string
	var as role
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the sidecar",
		Long: `Opens the doors: a forward proxy, base URLs, and the API. SIGTERM and SIGINT stop
it after the calls that are under way; SIGHUP, or a changed file, reloads
configuration, mapping and policies: all of it or nothing.

With --role control it opens the API and the dashboard alone, for the sidecars that
share its database (store.driver: postgres): what is made, decided or set there holds
at each of them.`,
		Example: `  actpass serve
  actpass serve --config /etc/actpass/config.yaml --mode enforce
  ACTPASS_STORE_DSN=postgres://... actpass serve --role control --store.driver postgres`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if as == control && trust != "" {
				return usage("--trust-dir is of no use with --role control: no call goes through it")
			}
			tuneMemory()
			cfg, compiled, err := as.load(cmd)
			if err != nil {
				return configError(err)
			}
			return serve(cmd, as, cfg, compiled, trust)
		},
	}
	cmd.Flags().Var(&as, "role", "sidecar; or control: API and dashboard of all sidecars that share its database, and no doors")
	cmd.Flags().StringVar(&trust, "trust-dir", "", "directory to write roots, truststore and Node preload into, for other containers")
	addSettingFlags(cmd)
	return cmd
}

// configError is a finding, or a usage error where it is a flag that is wrong.
func configError(err error) error {
	var faults strictyaml.Faults
	if errors.As(err, &faults) && slices.ContainsFunc(faults, func(f strictyaml.Fault) bool { return strings.HasPrefix(f.File, "flag --") }) {
		return usage("the configuration cannot be used:\n%v", err)
	}
	return finding("the configuration cannot be used:\n%v", err)
}

func serve(cmd *cobra.Command, as role, cfg *config.Config, compiled *config.Compiled, trust string) error {
	log, err := newLogger(cfg)
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }()
	if err := publishTrust(cfg, trust, log); err != nil {
		return err
	}
	began := time.Now()
	ctx, cancel := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	again := func() (*config.Config, *config.Compiled, error) { return as.load(cmd) }
	p, err := start(context.WithoutCancel(ctx), as, cfg, compiled, again, log)
	if err != nil {
		return err
	}
	p.trust.Store(&trust)
	log.Info("ready", zap.String("role", as.String()), zap.String("mode", cfg.Mode), zap.String("proxy", p.addresses.proxy), zap.String("reverse", p.addresses.reverse),
		zap.String("api", p.addresses.api), zap.String("transparent", p.addresses.transparent), zap.String("data_dir", p.dir), zap.Duration("after", time.Since(began)))
	tuneProcessors(ctx, p.blocked)
	warnOfFiles(cfg.Limits.MaxHolds, log)
	p.hintFirstKey(ctx, cmd)

	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			p.reload(ctx, "SIGHUP")
			continue
		case err = <-p.failed:
		case <-ctx.Done():
			err = nil
		}
		break
	}
	cancel() // a second signal ends the process at once
	log.Info("stopping: waiting for the calls that are under way", zap.Duration("at_most", drain))
	stopCtx, done := context.WithTimeout(context.Background(), drain)
	defer done()
	if stopErr := p.shutdown(stopCtx); stopErr != nil {
		log.Warn("not everything ended in order", zap.Error(stopErr))
	}
	log.Info("stopped")
	return err
}

// hintFirstKey tells a fresh install how to go on: the API is closed without a
// key.
func (p *program) hintFirstKey(ctx context.Context, cmd *cobra.Command) {
	keys, _, err := p.gate.Keys(ctx, p.gate.ConfigIdentity(), "", 1)
	if err != nil || len(keys) > 0 {
		return
	}
	w := cmd.ErrOrStderr()
	flag := ""
	if p.cfg.File != "" {
		flag = " --config " + p.cfg.File
	}
	fmt.Fprintf(w, "\nThere is no API key yet, and the API answers nobody without one. Make the first:\n\n    actpass keys create%s --name admin --role admin\n\n", flag)
	if p.role == control {
		return
	}
	fmt.Fprintf(w, "Point an agent here:  HTTPS_PROXY=http://%s  (CA certificate: %s)\n\n", p.addresses.proxy, caFilesOf(p.cfg).cert)
}

func newLogger(cfg *config.Config) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(cfg.Log.Level)
	if err != nil {
		return nil, fmt.Errorf("log.level: %w", err)
	}
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	enc.TimeKey = "time"
	enc.EncodeDuration = zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(enc)
	if cfg.Log.Format == "console" {
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(enc)
	}
	stderr := zapcore.Lock(os.Stderr)
	core := zapcore.NewCore(encoder, &logBuffer{below: stderr}, level) // not sampled: one line a request, every request
	return zap.New(promptCore{core}, zap.ErrorOutput(stderr)), nil
}
