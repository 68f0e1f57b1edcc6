package main

import (
	"bytes"
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
	var dir, since, until, outFile, origin string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write a signed bundle of events that verifies offline",
		Long: `Writes the records of a time range, each with its proof against a signed
checkpoint, as JSON lines. The bundle can be checked without the rest of the log:
actpass evidence verify --bundle FILE. Reads the log in the data directory, also
while the sidecar runs.

With --log it asks a control (serve --role control) for one of the logs that it has
copies of, with the key in ` + envAPIKey + ` (role approver or admin): the records of
the key's tenant. An event's log.origin names its log, and so does
GET /api/v1/evidence/verify.`,
		Example: `  actpass evidence export --since 24h --out bundle.jsonl
  actpass evidence export --since 2026-11-01 --until 2026-12-01 > november.jsonl
  actpass evidence export --log actpass/4f1c9b0a7d2e6538 --api http://127.0.0.1:8090`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			from, to, err := between(since, until, time.Now())
			if err != nil {
				return err
			}
			if origin != "" && dir != "" {
				return usage("--log asks a control, --data-dir reads the log on this machine: give one of them")
			}
			w := cmd.OutOrStdout()
			create := func() error {
				if outFile == "" {
					return nil
				}
				f, err := os.OpenFile(outFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
				if err != nil {
					return fmt.Errorf("create the bundle: %w", err)
				}
				w = f
				return nil
			}
			defer func() {
				if f, ok := w.(*os.File); ok && outFile != "" {
					err = errors.Join(err, f.Sync(), f.Close())
				}
			}()
			if origin != "" {
				client, err := newClient(cmd)
				if err == nil {
					err = create()
				}
				if err != nil {
					return err
				}
				ctx, stop := interruptible(cmd)
				defer stop()
				q := api.ExportQuery{Log: origin, Since: from, Until: to}
				counted := &lineCounter{w: w}
				if err := client.Export(ctx, counted, q); err != nil {
					return explained(err)
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "%d %s exported\n", counted.lines-1, plural(counted.lines-1, "record", "records"))
				return nil
			}
			if dir == "" {
				cfg, err := loadConfig(cmd)
				if err != nil {
					return configError(err)
				}
				dir = cfg.Path(cfg.DataDir)
			}
			r, err := ledger.OpenReader(filepath.Join(dir, "ledger"))
			if err == nil {
				err = create()
			}
			if err != nil {
				return err
			}
			n, err := r.Export(w, 0, math.MaxUint64, within(from, to))
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%d %s exported\n", n, plural(n, "record", "records"))
			return nil
		},
	}
	addAPIFlag(cmd)
	cmd.Flags().StringVar(&origin, "log", "", "the log of this name, from the control that --api names, instead of the data directory's")
	cmd.Flags().StringVar(&dir, "data-dir", "", "data directory (else data_dir of the configuration)")
	cmd.Flags().StringVar(&since, "since", "", "first time: a duration ago (24h, 7d), a date or an RFC 3339 time")
	cmd.Flags().StringVar(&until, "until", "", "time to stop before, as --since")
	cmd.Flags().StringVarP(&outFile, "out", "o", "", "file to write, which must not exist (else standard output)")
	return cmd
}

// lineCounter counts the lines that pass.
type lineCounter struct {
	w     io.Writer
	lines int
}

func (c *lineCounter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.lines += bytes.Count(b[:n], []byte{'\n'})
	return n, err
}

// between reads a time range; a zero time is no bound.
func between(since, until string, now time.Time) (from, to time.Time, err error) {
	if from, err = api.When(since, now); err != nil {
		return from, to, usage("--since: %v", err)
	}
	if to, err = api.When(until, now); err != nil {
		return from, to, usage("--until: %v", err)
	}
	return from, to, nil
}

// within keeps the records of a time range; nil, which keeps all, for one without
// bounds.
func within(from, to time.Time) func(evidence.Entry) bool {
	if from.IsZero() && to.IsZero() {
		return nil
	}
	return func(e evidence.Entry) bool {
		at, err := recordTime(e.Record)
		// A record without a readable time is kept: leaving out is the worse fault.
		return err != nil || (from.IsZero() || !at.Before(from)) && (to.IsZero() || at.Before(to))
	}
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
