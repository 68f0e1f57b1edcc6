package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestInjectedPod runs what `actpass inject` wrote, container by container, in a
// namespace that stands for the pod: the sidecar as its uid, then the redirect,
// then an agent with the variables that it was given and one without.
func TestInjectedPod(t *testing.T) {
	p := newPod(t)
	var front *upstream
	p.in(func() { front = newUpstream(t) })
	dir := t.TempDir()
	for at := dir; at != "/tmp" && at != "/"; at = filepath.Dir(at) {
		must(t, os.Chmod(at, 0o755))
	}
	for at := filepath.Dir(front.caFile); at != "/tmp" && at != "/"; at = filepath.Dir(at) {
		must(t, os.Chmod(at, 0o755))
	}
	for at := filepath.Dir(binary); at != "/tmp" && at != "/"; at = filepath.Dir(at) {
		must(t, os.Chmod(at, 0o755))
	}
	manifest := `{"kind": "Pod", "metadata": {"labels": {"actpass.dev/inject": "enabled"}, "annotations": {"actpass.dev/redirect": "true", "actpass.dev/mode": "enforce", "actpass.dev/agent-id": "injected"}},
		"spec": {"securityContext": {"runAsNonRoot": true}, "initContainers": [{"name": "first", "image": "i"}], "containers": [{"name": "agent", "image": "i"}]}}`
	inject := exec.Command(binary, "inject", "--image", "i")
	inject.Stdin = strings.NewReader(manifest)
	out, err := inject.Output()
	must(t, err)
	// Volumes are directories here.
	for _, volume := range [][2]string{{"/var/run/actpass/trust", "trust"}, {`"/data"`, "data"}} {
		to := filepath.Join(dir, volume[1])
		must(t, os.Mkdir(to, 0o777))
		must(t, os.Chmod(to, 0o777)) // as an emptyDir
		if volume[0][0] == '"' {
			to = `"` + to + `"`
		}
		out = []byte(strings.ReplaceAll(string(out), volume[0], to))
	}
	type container struct {
		Name            string
		Args            []string
		Env             []struct{ Name, Value string }
		SecurityContext struct{ RunAsUser int }
	}
	var pod struct {
		Metadata struct{ Annotations map[string]string }
		Spec     struct{ InitContainers, Containers []container }
	}
	must(t, json.Unmarshal(out, &pod))
	if len(pod.Spec.InitContainers) != 3 || pod.Metadata.Annotations["actpass.dev/injected"] != "forced" {
		t.Fatalf("%s", out)
	}
	environ := func(c container) []string {
		env := []string{"PATH=" + os.Getenv("PATH"), "HOME=/tmp"}
		for _, v := range c.Env {
			env = append(env, v.Name+"="+v.Value)
		}
		return env
	}
	side, redirect, first := pod.Spec.InitContainers[0], pod.Spec.InitContainers[1], pod.Spec.InitContainers[2]
	sc := &sidecar{t: t, dir: dir, config: settings{front: front}.write(t, dir)}
	cmd := p.command(side.SecurityContext.RunAsUser, append([]string{binary}, side.Args...)...)
	cmd.Env = append(environ(side), "ACTPASS_CONFIG="+sc.config)
	sc.launch(cmd)
	t.Cleanup(sc.stop)
	rules := exec.Command("ip", append([]string{"netns", "exec", p.name, binary}, redirect.Args...)...)
	if out, err := rules.CombinedOutput(); err != nil || redirect.SecurityContext.RunAsUser != 0 {
		t.Fatalf("%s: %v %s", redirect.Name, err, out)
	}
	get := func(env []string, args ...string) string {
		out, _ := p.run(env, append([]string{"curl", "-sS", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code} %header{actpass-reason}"}, args...)...)
		return out
	}
	for _, c := range append(pod.Spec.Containers, first) {
		if got := get(environ(c)[2:], "https://echo.example.test/x"); got != "200 test.echo" && got != "200 read.low_risk" {
			t.Errorf("%s, with what it was given: %q", c.Name, got)
		}
		if got := get(environ(c)[2:], "-d", "amount=75000&currency=usd&charge=ch_1", "https://api.stripe.com/v1/refunds"); got != "403 refund.over_limit" {
			t.Errorf("%s, denied: %q", c.Name, got)
		}
	}
	if got := get(nil, "--cacert", filepath.Join(dir, "trust", "ca.pem"), "-d", "amount=75000&currency=usd&charge=ch_1", "https://api.stripe.com/v1/refunds"); got != "403 refund.over_limit" {
		t.Errorf("with no variables: %q", got)
	}
	doors := map[string]int{}
	key, err := exec.Command("ip", "netns", "exec", p.name, "setpriv", fmt.Sprint("--reuid=", side.SecurityContext.RunAsUser), "--clear-groups", "env", "ACTPASS_DATA_DIR="+filepath.Join(dir, "data"),
		binary, "keys", "create", "--config", sc.config, "--name", "test", "--role", "admin").Output()
	must(t, err)
	tail := exec.Command("ip", "netns", "exec", p.name, binary, "evidence", "tail", "--config", sc.config, "--json", "--limit", "50")
	tail.Env = append(os.Environ(), "ACTPASS_API_KEY="+strings.TrimSpace(string(key)), "ACTPASS_API_URL=http://127.0.0.1:18090")
	b, err := tail.Output()
	must(t, err)
	for line := range strings.Lines(string(b)) {
		var e event
		must(t, json.Unmarshal([]byte(line), &e))
		if e.Kind == "action" {
			doors[e.Door+" "+e.AgentID]++
		}
	}
	if doors["connect injected"] != 4 || doors["transparent injected"] != 1 {
		t.Errorf("doors: %v", doors)
	}
}
