package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// build makes the binary as a release does.
func build(ctx context.Context, dir string) (string, error) {
	out := filepath.Join(dir, "actpass")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "./cmd/actpass")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the sidecar (run this from bench/): %w\n%s", err, b)
	}
	return out, nil
}

// policies allows the two measured calls, and no limit keeps count of them: a
// limit is a transaction in the store, which is another figure.
const policies = `policies:
  - name: bench
    version: 1
    tools: ["stripe.refund.*"]
    rules:
      - { name: small, when: args.amount <= 5000 && args.currency == "usd", decision: allow, reason_code: refund.small }
      - { name: rest, decision: require_approval }
  - name: reads
    version: 1
    tools: ["*"]
    rules:
      - { name: low_risk, when: risk_tier == "low", decision: allow, reason_code: read.low_risk }
`

// sidecar is a running actpass.
type sidecar struct {
	*child
	proxy string
	log   *os.File
	took  time.Duration // from start to the line that says ready
}

// writeConfig prepares a directory: enforce mode, evidence on disk before the
// first byte, and the upstream in Stripe's place.
func writeConfig(dir, upstream, upstreamCA string, async bool) (string, error) {
	durability := "sync"
	if async {
		durability = "async"
	}
	connect := ""
	if upstream != "" {
		connect = fmt.Sprintf("  ca_file: %q\n  connect_to: [{ host: %s, port: 443, address: %q }]\n", upstreamCA, upstreamHost, upstream)
	}
	text := fmt.Sprintf(`mode: enforce
identity: { tenant_id: acme, agent_id: support_agent }
listen: { proxy: "127.0.0.1:0", reverse: "127.0.0.1:0", api: "127.0.0.1:0" }
mapping: { packs: [stripe] }
policy: { files: [./policies.yaml] }
evidence: { durability: %s }
upstream:
  allow_private: [127.0.0.0/8]
%s`, durability, connect)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "policies.yaml"), []byte(policies), 0o600); err != nil {
		return "", err
	}
	file := filepath.Join(dir, "config.yaml")
	return file, os.WriteFile(file, []byte(text), 0o600)
}

// startSidecar runs the binary until it says that it is ready. Its log goes to a
// file, as under a container runtime.
func startSidecar(ctx context.Context, binary, config string) (*sidecar, error) {
	log, err := os.OpenFile(config+".log", os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	s := &sidecar{log: log}
	began := time.Now()
	if s.child, err = spawn(ctx, log, binary, "serve", "--config", config); err != nil {
		return nil, err
	}
	for time.Since(began) < 20*time.Second && ctx.Err() == nil {
		if s.proxy = s.readyAt(); s.proxy != "" {
			s.took = time.Since(began)
			return s, nil
		}
		time.Sleep(time.Millisecond)
	}
	said, _ := os.ReadFile(log.Name())
	s.stop()
	return nil, fmt.Errorf("the sidecar is not ready:\n%s", said)
}

// readyAt looks for the line that says ready, and gives the address in it.
func (s *sidecar) readyAt() string {
	b, err := os.ReadFile(s.log.Name())
	if err != nil || !bytes.Contains(b, []byte(`"ready"`)) {
		return ""
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		var l struct{ Msg, Proxy string }
		if json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg == "ready" {
			return l.Proxy
		}
	}
	return ""
}

func (s *sidecar) end() {
	s.stop()
	_ = s.log.Close()
}

// measureProcess is about the process alone: size, start, memory at rest.
func measureProcess(ctx context.Context, o options) ([]figure, error) {
	st, err := os.Stat(o.binary)
	if err != nil {
		return nil, err
	}
	size := float64(st.Size()) / 1e6
	config, err := writeConfig(filepath.Join(o.dir, "process"), "", "", false)
	if err != nil {
		return nil, err
	}
	const starts = 12
	var first float64
	var took, rss []float64
	for i := range starts {
		s, err := startSidecar(ctx, o.binary, config)
		if err != nil {
			return nil, err
		}
		ms := s.took.Seconds() * 1000
		if i == 0 {
			first = ms
		} else {
			took = append(took, ms)
		}
		if i >= starts-3 {
			time.Sleep(3 * time.Second) // let what a start leaves behind be collected
			b, err := resident(s.cmd.Process.Pid)
			if err != nil {
				s.end()
				return nil, err
			}
			rss = append(rss, float64(b)/(1<<20))
		}
		s.end()
	}
	ready, idle := median(took), median(rss)
	return []figure{
		{name: "binary", value: fmt.Sprintf("%.1f MB", size), target: "< 40 MB", met: size < 40},
		{name: "ready after the first start", value: fmt.Sprintf("%.0f ms", ready), target: "< 150 ms", met: ready < 150},
		{name: "  the first start, which makes keys and files", value: fmt.Sprintf("%.0f ms", first), untargeted: true},
		{name: "memory at rest (RSS)", value: fmt.Sprintf("%.1f MiB", idle), target: "< 40 MiB", met: idle < 40},
	}, nil
}
