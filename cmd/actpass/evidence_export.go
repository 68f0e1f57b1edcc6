package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/ledger"
)

func newEvidenceExportCmd() *cobra.Command {
	var dir, since, until, outFile string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write a signed bundle of events that verifies offline",
		Long: `Writes the records of a time range, each with its proof against a signed
checkpoint, as JSON lines. The bundle can be checked without the rest of the log:
actpass evidence verify --bundle FILE. Reads the log in the data directory, also
while the sidecar runs.`,
		Example: "  actpass evidence export --since 24h --out bundle.jsonl\n  actpass evidence export --since 2026-11-01 --until 2026-12-01 > november.jsonl",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			keep, err := between(since, until, time.Now())
			if err != nil {
				return err
			}
			if dir == "" {
				cfg, err := loadConfig(cmd)
				if err != nil {
					return configError(err)
				}
				dir = cfg.Path(cfg.DataDir)
			}
			r, err := ledger.OpenReader(filepath.Join(dir, "ledger"))
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if outFile != "" {
				f, err := os.OpenFile(outFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
				if err != nil {
					return fmt.Errorf("create the bundle: %w", err)
				}
				defer func() { err = errors.Join(err, f.Sync(), f.Close()) }()
				w = f
			}
			n, err := r.Export(w, 0, math.MaxUint64, keep)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%d %s exported\n", n, plural(n, "record", "records"))
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", "", "data directory (else data_dir of the configuration)")
	cmd.Flags().StringVar(&since, "since", "", "first time: a duration ago (24h, 7d), a date or an RFC 3339 time")
	cmd.Flags().StringVar(&until, "until", "", "time to stop before, as --since")
	cmd.Flags().StringVarP(&outFile, "out", "o", "", "file to write, which must not exist (else standard output)")
	return cmd
}

// between keeps the records of a time range.
func between(since, until string, now time.Time) (func(evidence.Entry) bool, error) {
	from, err := api.When(since, now)
	if err != nil {
		return nil, usage("--since: %v", err)
	}
	to, err := api.When(until, now)
	if err != nil {
		return nil, usage("--until: %v", err)
	}
	if from.IsZero() && to.IsZero() {
		return nil, nil
	}
	return func(e evidence.Entry) bool {
		at, err := recordTime(e.Record)
		// A record without a readable time is kept: leaving out is the worse fault.
		return err != nil || (from.IsZero() || !at.Before(from)) && (to.IsZero() || at.Before(to))
	}, nil
}

func recordTime(record []byte) (time.Time, error) {
	event, outcome, err := evidence.DecodeRecord(record)
	switch {
	case err != nil:
		return time.Time{}, err
	case event != nil:
		return event.Time.Time, nil
	}
	return outcome.Time.Time, nil
}

// verifyBundle checks a bundle on its own.
func verifyBundle(cmd *cobra.Command, file, key string) error {
	in := io.Reader(os.Stdin)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return usage("open the bundle: %v", err)
		}
		defer f.Close()
		in = f
	}
	rep, err := evidence.VerifyBundle(in, key, nil)
	if err != nil {
		return finding("%s", plain(err.Error()))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "ok: %d %s of a log of %d\nkey: %s\n", rep.Records, plural(int(rep.Records), "record", "records"), rep.Checkpoint.Size, plain(rep.PublicKey))
	return nil
}
