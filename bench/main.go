// Command bench measures the sidecar and prints one table: what deciding costs
// in a process, and what the whole sidecar costs beside a bare goproxy of the
// same version, in the same run, against the same upstream, with the same load.
//
//	cd bench && go run .
//	cd bench && go run . -rounds 9 -duration 6s
//	cd bench && go run . -only proxied -profile    # needs perf(1)
//
// Machines differ, and so does what else they do: only the ratios carry over.
// docs/performance.md says how each figure is made.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

// options of a run.
type options struct {
	dir      string
	only     string
	binary   string
	rounds   int
	duration time.Duration
	warmup   time.Duration
	clients  int
	profile  bool
	async    bool
}

// Roles of the child processes that a run starts from its own executable.
const (
	roleUpstream = "upstream"
	roleBare     = "bare"
	roleLoad     = "load"
)

func main() {
	if len(os.Args) > 1 {
		roles := map[string]func([]string) error{roleUpstream: upstreamMain, roleBare: bareMain, roleLoad: loadMain}
		if role := roles[os.Args[1]]; role != nil {
			exit(role(os.Args[2:]))
		}
	}
	var o options
	flag.StringVar(&o.dir, "dir", "", "where to keep the sidecar's data; must be on a disk (default: a new directory in the user's cache)")
	flag.StringVar(&o.only, "only", "", "decide, process or proxied: only this part")
	flag.StringVar(&o.binary, "binary", "", "a built actpass (default: build ../cmd/actpass)")
	flag.IntVar(&o.rounds, "rounds", 7, "rounds of each comparison; the medians are reported")
	flag.DurationVar(&o.duration, "duration", 4*time.Second, "measured time of one load")
	flag.DurationVar(&o.warmup, "warmup", time.Second, "unmeasured time before it")
	flag.IntVar(&o.clients, "clients", 64, "connections, each with one call at a time")
	flag.BoolVar(&o.profile, "profile", false, "also profile the sidecar under load with perf, and print where its CPU goes")
	flag.BoolVar(&o.async, "async", false, "measure with evidence.durability: async")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit(measure(ctx, o))
}

func exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

// figure is one line of the table.
type figure struct {
	name, value, target string
	met                 bool
	untargeted          bool
}

func measure(ctx context.Context, o options) error {
	switch o.only {
	case "", "decide", "process", "proxied":
	default:
		return fmt.Errorf("-only %s: must be decide, process or proxied", o.only)
	}
	if o.dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("choose a directory: %w: name one with -dir", err)
		}
		o.dir = filepath.Join(cache, "actpass-bench")
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	dir, err := os.MkdirTemp(o.dir, "run-")
	if err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := onDisk(dir); err != nil {
		return err
	}
	o.dir = dir

	var table []figure
	if o.only == "" || o.only == "decide" {
		lines, err := measureDecide()
		if err != nil {
			return err
		}
		table = append(table, lines...)
	}
	if o.only == "" || o.only == "process" || o.only == "proxied" {
		if o.binary == "" {
			if o.binary, err = build(ctx, dir); err != nil {
				return err
			}
		}
		if o.only != "proxied" {
			lines, err := measureProcess(ctx, o)
			if err != nil {
				return err
			}
			table = append(table, lines...)
		}
		if o.only != "process" {
			lines, err := measureProxied(ctx, o)
			if err != nil {
				return err
			}
			table = append(table, lines...)
		}
	}
	return render(table)
}

// render prints the table; a target that was missed is an error.
func render(table []figure) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "figure\tmeasured\ttarget\t")
	var missed []string
	for _, f := range table {
		verdict := "met"
		switch {
		case f.untargeted:
			verdict = ""
		case !f.met:
			verdict = "MISSED"
			missed = append(missed, f.name)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.name, f.value, f.target, verdict)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(missed) > 0 {
		return errors.New("missed: " + strings.Join(missed, "; "))
	}
	return nil
}
