package launch_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/actpass/sidecar/launch"
)

func lookup(env []string, name string) (string, bool) {
	for _, entry := range env {
		if n, v, _ := strings.Cut(entry, "="); n == name {
			return v, true
		}
	}
	return "", false
}

func prepare(t *testing.T, opt launch.Options) (*launch.Env, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "d")
	env, err := launch.Prepare(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	return env, dir
}

func TestWhatIsHandedDown(t *testing.T) {
	t.Parallel()
	s := newSidecar(t)
	env, _ := prepare(t, launch.Options{
		ProxyURL: "http://127.0.0.1:8080", ReverseURL: "http://127.0.0.1:8081", CAPEM: s.caPEM,
		Environ: []string{
			"HOME=/home/a", "EMPTY=", "TWICE=1", "TWICE=2", "MULTI=a=b\nc",
			"HTTPS_PROXY=http://user:secret@corp:3128", "no_proxy=*", "NO_PROXY=*", "all_proxy=socks5://corp", "grpc_proxy=http://corp",
			"npm_config_https_proxy=http://corp", "wss_proxy=http://corp",
			"ACTPASS_API_KEY=sk_live_admin", "ACTPASS_STORE_DSN=postgres://u:p@h/d", "ACTPASS_API_URL=http://stale",
		},
	})
	for name, want := range map[string]string{
		"HOME": "/home/a", "EMPTY": "", "TWICE": "2", "MULTI": "a=b\nc",
		"HTTPS_PROXY": "http://127.0.0.1:8080", "https_proxy": "http://127.0.0.1:8080",
		"HTTP_PROXY": "http://127.0.0.1:8080", "http_proxy": "http://127.0.0.1:8080",
		"ALL_PROXY": "http://127.0.0.1:8080", "all_proxy": "http://127.0.0.1:8080",
		"NO_PROXY": "localhost,127.0.0.1,::1", "no_proxy": "localhost,127.0.0.1,::1",
		"ACTPASS_PROXY_URL": "http://127.0.0.1:8080", "ACTPASS_REVERSE_URL": "http://127.0.0.1:8081",
		"NODE_USE_ENV_PROXY": "1",
	} {
		if got, ok := lookup(env.Environ(), name); !ok || got != want {
			t.Errorf("%s is %q (set: %v), want %q", name, got, ok, want)
		}
	}
	for _, name := range []string{"grpc_proxy", "npm_config_https_proxy", "wss_proxy", "ACTPASS_API_KEY", "ACTPASS_STORE_DSN", "ACTPASS_API_URL"} {
		if got, ok := lookup(env.Environ(), name); ok {
			t.Errorf("%s is handed down as %q", name, got)
		}
	}
	seen := map[string]bool{}
	for _, entry := range env.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if seen[name] {
			t.Errorf("%s stands twice", name)
		}
		seen[name] = true
	}
	warnings := strings.Join(env.Warnings(), "\n")
	if !strings.Contains(warnings, "HTTPS_PROXY") || strings.Contains(warnings, "secret") {
		t.Errorf("warnings: %s", warnings)
	}
}

func blocks(t *testing.T, path string) [][]byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		out = append(out, block.Bytes)
	}
	return out
}

func TestRootsOfTheParentAreKept(t *testing.T) {
	t.Parallel()
	own, system, company, node := newSidecar(t), newSidecar(t), newSidecar(t), newSidecar(t)
	write := func(data ...[]byte) string { return script(t, "roots.pem", string(bytes.Join(data, nil))) }
	env, dir := prepare(t, launch.Options{
		ProxyURL: "http://127.0.0.1:8080", CAPEM: own.caPEM,
		Environ: []string{
			"SSL_CERT_FILE=" + write([]byte("# a comment\n"), system.caPEM, system.caPEM, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
			"REQUESTS_CA_BUNDLE=" + write(company.caPEM, system.caPEM),
			"NODE_EXTRA_CA_CERTS=" + write(node.caPEM),
			"PIP_CERT=/nonexistent/roots.pem",
		},
	})
	for file, want := range map[string][]*sidecar{
		"ca.pem":         {own},
		"bundle.pem":     {system, company, node, own},
		"node-extra.pem": {node, own},
	} {
		got := blocks(t, filepath.Join(dir, file))
		if len(got) != len(want) {
			t.Errorf("%s holds %d certificates, want %d", file, len(got), len(want))
			continue
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i].ca.Raw) {
				t.Errorf("%s: certificate %d is another one", file, i)
			}
		}
	}
	for name, want := range map[string]string{
		"SSL_CERT_FILE": "bundle.pem", "REQUESTS_CA_BUNDLE": "bundle.pem", "PIP_CERT": "bundle.pem", "AWS_CA_BUNDLE": "bundle.pem",
		"GIT_SSL_CAINFO": "bundle.pem", "CURL_CA_BUNDLE": "bundle.pem", "NODE_EXTRA_CA_CERTS": "node-extra.pem",
	} {
		if got, _ := lookup(env.Environ(), name); got != filepath.Join(dir, want) {
			t.Errorf("%s is %q", name, got)
		}
	}
	if !slices.ContainsFunc(env.Warnings(), func(w string) bool { return strings.Contains(w, "PIP_CERT") }) {
		t.Errorf("no warning names PIP_CERT: %q", env.Warnings())
	}
}

func TestWhatPrepareRefuses(t *testing.T) {
	t.Parallel()
	s := newSidecar(t)
	good := launch.Options{ProxyURL: "http://127.0.0.1:8080", CAPEM: s.caPEM}
	open := t.TempDir()
	if err := os.Chmod(open, 0o770); err != nil {
		t.Fatal(err)
	}
	link, private := filepath.Join(t.TempDir(), "link"), t.TempDir()
	if err := errors.Join(os.Chmod(private, 0o700), os.Symlink(private, link)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, dir string
		change    func(*launch.Options)
		want      string
	}{
		{"no proxy", "", func(o *launch.Options) { o.ProxyURL = "" }, "http://HOST:PORT"},
		{"a proxy over TLS", "", func(o *launch.Options) { o.ProxyURL = "https://127.0.0.1:1" }, "http://HOST:PORT"},
		{"no port", "", func(o *launch.Options) { o.ProxyURL = "http://127.0.0.1" }, "http://HOST:PORT"},
		{"port 0", "", func(o *launch.Options) { o.ProxyURL = "http://127.0.0.1:0" }, "http://HOST:PORT"},
		{"a path", "", func(o *launch.Options) { o.ProxyURL = "http://a:key@127.0.0.1:1/x" }, "http://a:xxxxx@127.0.0.1:1/x"},
		{"an unreadable URL", "", func(o *launch.Options) { o.ProxyURL = "http://a:key@[::1" }, "http://HOST:PORT"},
		{"no CA", "", func(o *launch.Options) { o.CAPEM = nil }, "no certificate"},
		{"no certificate in the CA", "", func(o *launch.Options) { o.CAPEM = []byte("hello") }, "no certificate"},
		{"a missing SSL_CERT_FILE", "", func(o *launch.Options) { o.Environ = []string{"SSL_CERT_FILE=/nonexistent"} }, "SSL_CERT_FILE"},
		{"a directory that others may enter", open, nil, "0700"},
		{"a symbolic link", link, nil, "0700"},
		{"a directory without a parent", filepath.Join(link, "a", "b"), nil, "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opt, dir := good, tt.dir
			if dir == "" {
				dir = filepath.Join(t.TempDir(), "d")
			}
			if tt.change != nil {
				tt.change(&opt)
			}
			_, err := launch.Prepare(dir, opt)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "key") {
				t.Errorf("Prepare: %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestFilesArePrivate(t *testing.T) {
	t.Parallel()
	s := newSidecar(t)
	_, dir := prepare(t, launch.Options{ProxyURL: "http://127.0.0.1:8080", CAPEM: s.caPEM})
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", entry.Name(), info.Mode(), err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %v, %v", info.Mode(), err)
	}
}
