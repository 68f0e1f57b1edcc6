package deploytest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

type composed struct {
	Services map[string]struct {
		Networks    []string
		Environment map[string]string
		Volumes     []string
		Command     []string
		ReadOnly    bool `json:"read_only"`
		User        string
		CapDrop     []string `json:"cap_drop"`
		Ports       []string
	}
	Networks map[string]struct{ Internal bool }
	Volumes  map[string]any
}

func compose(t *testing.T) (c composed) {
	t.Helper()
	b, err := os.ReadFile("../compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestCompose: the agent has no other network than the internal one, where the sidecar
// is and the database is not, and is given none of the secrets.
func TestCompose(t *testing.T) {
	c := compose(t)
	agent, sidecar, database := c.Services["agent"], c.Services["actpass"], c.Services["postgres"]
	if len(agent.Networks) != 1 || !c.Networks[agent.Networks[0]].Internal || agent.Environment["HTTPS_PROXY"] != "http://actpass:8080" {
		t.Errorf("the agent gets out by itself: %+v %+v", agent, c.Networks)
	}
	if !sidecar.ReadOnly || sidecar.User != "65532:65532" || len(sidecar.CapDrop) != 1 || !slices.Equal(sidecar.Networks, []string{"agents", "internet", "state"}) {
		t.Errorf("the sidecar: %+v", sidecar)
	}
	if !slices.Equal(database.Networks, []string{"state"}) || !c.Networks["state"].Internal || len(database.Ports) > 0 || slices.Contains(agent.Networks, "state") {
		t.Errorf("the database: %+v %+v", database, c.Networks)
	}
	for name, s := range c.Services {
		for _, v := range s.Volumes {
			volume, _, _ := strings.Cut(v, ":")
			if _, known := c.Volumes[volume]; !known {
				t.Errorf("%s: there is no volume %s", name, volume)
			}
			if slices.Contains([]string{"secrets", "password", "database", "data"}, volume) && name == "agent" {
				t.Errorf("the agent is given %s", v)
			}
		}
	}
}

// TestComposeStarts does without an engine what the file says: it makes the secrets by
// the file's own commands, starts PostgreSQL with them, and the sidecar with its
// variables; its state is in the database then.
func TestComposeStarts(t *testing.T) {
	if os.Getuid() != 0 { // chown
		missing(t, "root is needed")
	}
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		missing(t, "PostgreSQL is not installed: apt-get install postgresql")
	}
	bin := bins[len(bins)-1]
	c := compose(t)
	dir := t.TempDir()
	for _, name := range []string{"data", "trust", "secrets", "password", "db"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	here := strings.NewReplacer("/secrets", dir+"/secrets", "/password/", dir+"/password/", "/data", dir+"/data", "/trust", dir+"/trust", "$$", "$")
	run := func(args ...string) {
		t.Helper()
		if b, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v %s", args, err, b)
		}
	}
	script := here.Replace(c.Services["volumes"].Command[0])
	run("sh", "-euc", script)
	made := contents(t, dir+"/secrets/dsn") + contents(t, dir+"/secrets/key")
	run("sh", "-euc", script)
	if again := contents(t, dir+"/secrets/dsn") + contents(t, dir+"/secrets/key"); again != made {
		t.Error("a second start makes other secrets")
	}
	for file, want := range map[string]os.FileMode{"/secrets/dsn": 0o600, "/secrets/key": 0o600, "/password/password": 0o444} {
		st, err := os.Stat(dir + file)
		if err != nil || st.Mode().Perm() != want || (want == 0o600) != (st.Sys().(*syscall.Stat_t).Uid == 65532) {
			t.Errorf("%s: %v, %v", file, st.Mode(), err)
		}
	}

	environment := c.Services["postgres"].Environment
	user, password := environment["POSTGRES_USER"], here.Replace(environment["POSTGRES_PASSWORD_FILE"])
	run("chown", "-R", "postgres", dir+"/db")
	run("chmod", "755", dir, filepath.Dir(dir), dir+"/password")
	as := func(command string) { t.Helper(); run("su", "postgres", "-c", "cd / && "+command) }
	as(fmt.Sprintf("%s/initdb -D %s/db/data -U %s -A scram-sha-256 --pwfile %s --no-sync >/dev/null", bin, dir, user, password))
	_, number, _ := net.SplitHostPort(port(t))
	as(fmt.Sprintf("%s/pg_ctl -D %s/db/data -w -l %s/db/log -o '-p %s -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off' start >/dev/null", bin, dir, dir, number))
	t.Cleanup(func() { as(fmt.Sprintf("%s/pg_ctl -D %s/db/data -m immediate stop >/dev/null", bin, dir)) })
	sql := func(database, text string) string {
		t.Helper()
		cmd := exec.Command(bin+"/psql", "-qtA", "-h", "127.0.0.1", "-p", number, "-U", user, "-d", database, "-c", text)
		cmd.Env = append(os.Environ(), "PGPASSWORD="+contents(t, password))
		b, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v %s", text, err, b)
		}
		return string(b)
	}
	sql("postgres", "CREATE DATABASE "+environment["POSTGRES_DB"]) // as the image does

	dsn := strings.Replace(contents(t, dir+"/secrets/dsn"), "@postgres:5432/", "@127.0.0.1:"+number+"/", 1)
	if err := os.WriteFile(dir+"/secrets/dsn", []byte(dsn), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := program()
	if err != nil {
		t.Fatal(err)
	}
	api := port(t)
	cmd := exec.Command(file, "serve", "--config", "../../config.example.yaml", "--listen.api", api, "--listen.proxy", port(t), "--listen.reverse", port(t))
	cmd.Env = os.Environ()
	for name, value := range c.Services["actpass"].Environment {
		if strings.HasPrefix(name, "ACTPASS_") && name != "ACTPASS_MODE" {
			cmd.Env = append(cmd.Env, name+"="+here.Replace(value))
		}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var ready struct{ Status string }
	for end := time.Now().Add(15 * time.Second); ready.Status != "ready" && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if resp, err := http.Get("http://" + api + "/readyz"); err == nil {
			b, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			_ = json.Unmarshal(b, &ready)
		}
	}
	if ready.Status != "ready" {
		t.Fatal("the sidecar is not ready")
	}
	// Its keys in common are sealed with the secret that was made, and so is its log there.
	if got := sql(environment["POSTGRES_DB"], "SELECT (SELECT count(*) FROM shared_secrets) > 0"); got != "t\n" {
		t.Errorf("the database has no state of it: %q", got)
	}
}

func contents(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
