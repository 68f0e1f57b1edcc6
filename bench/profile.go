package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// profile runs perf(1) on the sidecar under one more load of each kind and
// prints where its CPU goes. The binary must have its symbols: -binary names one
// that was built without -ldflags "-s -w".
func profile(ctx context.Context, o options, r *rig) error {
	perf, err := exec.LookPath("perf")
	if err != nil {
		return fmt.Errorf("profile the sidecar: %w: install perf", err)
	}
	for _, call := range []string{callRefund, callRead} {
		data := filepath.Join(o.dir, "perf.data")
		// Started a little after the load, and over before it.
		seconds := o.duration.Seconds()
		rec := exec.CommandContext(ctx, perf, "record", "-q", "-F", "997", "-g", "-o", data,
			"-p", fmt.Sprint(r.sidecar.cmd.Process.Pid), "--", "sleep", fmt.Sprintf("%.1f", seconds))
		rec.Stderr = os.Stderr
		failed := make(chan error, 1)
		go func() {
			time.Sleep(o.warmup)
			failed <- rec.Run()
		}()
		if _, err := load(ctx, o, r.sidecar.proxy, r.actCA, r.sidecar.cmd.Process.Pid, call); err != nil {
			return err
		}
		if err := <-failed; err != nil {
			return fmt.Errorf("profile the sidecar: %w", err)
		}
		for _, view := range []struct {
			title string
			args  []string
		}{
			{"by function", []string{"--no-children", "-g", "none", "--percent-limit", "0.5"}},
			{"with callees", []string{"--children", "-g", "none", "--percent-limit", "1.5"}},
		} {
			fmt.Printf("\n%s, %s\n", call, view.title)
			rep := exec.CommandContext(ctx, perf, append([]string{"report", "--stdio", "-i", data, "--sort", "symbol"}, view.args...)...)
			rep.Stdout, rep.Stderr = os.Stdout, os.Stderr
			if err := rep.Run(); err != nil {
				return fmt.Errorf("report the profile: %w", err)
			}
		}
	}
	return nil
}
