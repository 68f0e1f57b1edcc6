package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// rig is an upstream and the two proxies, all running.
type rig struct {
	upstream, bare *child
	sidecar        *sidecar
	bareAddr       string
	bareCA, actCA  string
	rounds         []round
}

// round is one load on each proxy.
type round struct {
	call          string
	bare, sidecar sample
}

// sample is one load on one proxy.
type sample struct {
	result
	cpu float64 // of the proxy, µs a request
}

func startRig(ctx context.Context, o options) (*rig, error) {
	dir := filepath.Join(o.dir, "proxied")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	upstreamCA, leaf := filepath.Join(dir, "upstream-ca.pem"), filepath.Join(dir, "upstream.pem")
	ca, key, err := writeAuthority(upstreamCA, "bench upstream CA")
	if err != nil {
		return nil, err
	}
	if err := writeLeaf(leaf, ca, key); err != nil {
		return nil, err
	}
	r := &rig{bareCA: filepath.Join(dir, "bare-ca.pem")}
	if _, _, err := writeAuthority(r.bareCA, "bench proxy CA"); err != nil {
		return nil, err
	}
	ok := false
	defer func() {
		if !ok {
			r.stop()
		}
	}()
	if r.upstream, err = role(ctx, roleUpstream, "-cert", leaf); err != nil {
		return nil, err
	}
	addr, err := r.upstream.line(ctx)
	if err != nil {
		return nil, err
	}
	if r.bare, err = role(ctx, roleBare, "-upstream", addr, "-upstream-ca", upstreamCA, "-ca", r.bareCA); err != nil {
		return nil, err
	}
	if r.bareAddr, err = r.bare.line(ctx); err != nil {
		return nil, err
	}
	config, err := writeConfig(dir, addr, upstreamCA, o.async)
	if err != nil {
		return nil, err
	}
	if r.sidecar, err = startSidecar(ctx, o.binary, config); err != nil {
		return nil, err
	}
	r.actCA = filepath.Join(dir, "data", "ca", "ca.pem")
	ok = true
	return r, nil
}

func (r *rig) stop() {
	if r.sidecar != nil {
		r.sidecar.end()
	}
	for _, c := range []*child{r.bare, r.upstream} {
		if c != nil {
			c.stop()
		}
	}
}

// load runs one load through a proxy and takes its CPU over the measured time.
func load(ctx context.Context, o options, proxy, ca string, pid int, call string) (sample, error) {
	c, err := role(ctx, roleLoad, "-proxy", proxy, "-ca", ca, "-call", call, "-clients", fmt.Sprint(o.clients),
		"-warmup", o.warmup.String(), "-duration", o.duration.String())
	if err != nil {
		return sample{}, err
	}
	defer c.stop()
	var s sample
	var at [2]time.Duration
	for i, mark := range []string{"begin", "end"} {
		if line, err := c.line(ctx); err != nil || line != mark {
			return s, fmt.Errorf("load %s: %q: %w", call, line, err)
		}
		if at[i], err = cpu(pid); err != nil {
			return s, err
		}
	}
	line, err := c.line(ctx)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(line), &s.result); err != nil {
		return s, fmt.Errorf("read the result of a load: %w", err)
	}
	s.cpu = float64((at[1] - at[0]).Microseconds()) / float64(s.Requests)
	return s, nil
}

// measureProxied compares the two proxies by turns.
func measureProxied(ctx context.Context, o options) ([]figure, error) {
	r, err := startRig(ctx, o)
	if err != nil {
		return nil, err
	}
	defer r.stop()
	for i := range o.rounds {
		for _, call := range []string{callRefund, callRead} {
			rd := round{call: call}
			bare := func() (err error) {
				rd.bare, err = load(ctx, o, r.bareAddr, r.bareCA, r.bare.cmd.Process.Pid, call)
				return err
			}
			side := func() (err error) {
				rd.sidecar, err = load(ctx, o, r.sidecar.proxy, r.actCA, r.sidecar.cmd.Process.Pid, call)
				return err
			}
			turns := []func() error{bare, side}
			if i%2 == 1 { // neither always comes first
				turns = []func() error{side, bare}
			}
			for _, turn := range turns {
				if err := turn(); err != nil {
					return nil, err
				}
			}
			r.rounds = append(r.rounds, rd)
			fmt.Fprintf(os.Stderr, "round %d %s: bare %.0f/s %.0f µs, sidecar %.0f/s %.0f µs: %.2f of the rate, %.2f of the CPU\n", i+1, call,
				rd.bare.rate(), rd.bare.cpu, rd.sidecar.rate(), rd.sidecar.cpu, rd.sidecar.rate()/rd.bare.rate(), rd.sidecar.cpu/rd.bare.cpu)
		}
	}
	var table []figure
	for _, call := range []string{callRefund, callRead} {
		table = append(table, r.compare(call, o)...)
	}
	rss, err := resident(r.sidecar.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	table = append(table, figure{name: "memory after the load (RSS)", value: fmt.Sprintf("%.0f MiB", float64(rss)/(1<<20)), untargeted: true})
	if o.profile {
		if err := profile(ctx, o, r); err != nil {
			return nil, err
		}
	}
	return table, nil
}

// compare gives the lines of one kind of call. The ratios are medians over
// rounds, each of which ran both proxies within seconds of each other.
func (r *rig) compare(call string, o options) []figure {
	pick := func(f func(round) float64) float64 {
		var v []float64
		for _, rd := range r.rounds {
			if rd.call == call {
				v = append(v, f(rd))
			}
		}
		return median(v)
	}
	rate := pick(func(rd round) float64 { return rd.sidecar.rate() / rd.bare.rate() })
	spent := pick(func(rd round) float64 { return rd.sidecar.cpu / rd.bare.cpu })
	pair := func(format string, f func(sample) float64) string {
		return fmt.Sprintf(strings.ReplaceAll("F / F", "F", format),
			pick(func(rd round) float64 { return f(rd.sidecar) }), pick(func(rd round) float64 { return f(rd.bare) }))
	}
	title := fmt.Sprintf("%s, %d clients", call, o.clients)
	return []figure{
		{name: title + ": rate, sidecar / bare goproxy", value: fmt.Sprintf("%.2f", rate), target: ">= 0.8", met: rate >= 0.8},
		{name: "  CPU a request, sidecar / bare goproxy", value: fmt.Sprintf("%.2f", spent), target: "<= 1.6", met: spent <= 1.6},
		{name: "  requests a second", value: pair("%.0f", sample.rate), untargeted: true},
		{name: "  CPU a request, µs", value: pair("%.0f", func(s sample) float64 { return s.cpu }), untargeted: true},
		{name: "  latency p50, ms", value: pair("%.1f", func(s sample) float64 { return s.P50 }), untargeted: true},
		{name: "  latency p99, ms", value: pair("%.1f", func(s sample) float64 { return s.P99 }), untargeted: true},
	}
}
