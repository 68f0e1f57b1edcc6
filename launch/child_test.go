package launch_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/actpass/sidecar/launch"
)

// TestMain makes the test binary a Go child: with a URL in the variable it fetches that and prints the answer.
func TestMain(m *testing.M) {
	if url := os.Getenv("LAUNCH_TEST_GET"); url != "" {
		resp, err := http.Get(url)
		if err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		var b bytes.Buffer
		_, _ = b.ReadFrom(resp.Body)
		os.Stdout.Write(b.Bytes())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// clean is this process's environment without anything that could make a check pass by itself: presets of roots, proxies,
// preloads.
func clean() []string {
	var out []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		upper := strings.ToUpper(name)
		if strings.Contains(upper, "PROXY") || strings.Contains(upper, "_CA_") || strings.HasSuffix(upper, "_CERT") ||
			strings.HasPrefix(upper, "SSL_CERT_") || strings.HasSuffix(upper, "CAINFO") || strings.HasSuffix(upper, "CAFILE") ||
			strings.HasPrefix(upper, "GRPC_") || upper == "NIX_SSL_CERT_FILE" || upper == "NODE_OPTIONS" || upper == "JAVA_TOOL_OPTIONS" {
			continue
		}
		out = append(out, entry)
	}
	return out
}

// prepared is the environment of a child of s. Its directory has a space, a quote and a backslash in its name.
func prepared(t *testing.T, s *sidecar, change func(*launch.Options)) []string {
	t.Helper()
	opt := launch.Options{ProxyURL: s.URL, CAPEM: s.caPEM, Environ: clean()}
	if change != nil {
		change(&opt)
	}
	env, err := launch.Prepare(filepath.Join(t.TempDir(), `a "b\c`), opt)
	if err != nil {
		t.Fatal(err)
	}
	return env.Environ()
}

func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed here: its behaviour is not tested", program)
	}
	if program == "python3" {
		return interpreter(path)
	}
	return path
}

// interpreter looks behind a version manager's wrapper, which takes longer than all else that is done with Python here.
var interpreter = func() func(string) string {
	var once sync.Once
	var real string
	return func(path string) string {
		once.Do(func() {
			real = path
			if out, err := exec.Command(path, "-c", "import sys; print(sys.executable)").Output(); err == nil {
				real = strings.TrimSpace(string(out))
			}
		})
		return real
	}
}()

// run is a child's standard output and error; a child that ends with another status than 0 fails the test.
func run(t *testing.T, env []string, name string, args ...string) (stdout, stderr string) {
	t.Helper()
	stdout, stderr, err := try(t, env, name, args...)
	if err != nil {
		t.Fatalf("%s: %v\nstdout: %s\nstderr: %s", name, err, stdout, stderr)
	}
	return stdout, stderr
}

func try(t *testing.T, env []string, name string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	cmd.Dir = t.TempDir()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// script writes a file beside which the child is run.
func script(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
