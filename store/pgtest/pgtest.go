// Package pgtest starts PostgreSQL clusters for tests: real ones, of the
// installed version, on a free port of loopback, in a temporary directory.
package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Cluster is a running, or stopped, PostgreSQL.
type Cluster struct {
	Port int

	bin, data string
	flags     string
	as        *syscall.Credential // nil: this user
	databases atomic.Int64
}

// Password is the superuser's, so that a test can see that it shows nowhere.
const Password = "s3cret-of-the-test"

// Start starts a cluster and has it removed when the test ends. Where PostgreSQL is
// not installed the test is skipped, or fails under ACTPASS_E2E_REQUIRE=1.
func Start(t testing.TB) *Cluster {
	t.Helper()
	c, remove, err := New()
	if err != nil {
		if os.Getenv("ACTPASS_E2E_REQUIRE") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Cleanup(remove)
	return c
}

// New is Start without a test, for TestMain, with further flags of the server.
func New(flags ...string) (c *Cluster, remove func(), err error) {
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(bins) == 0 {
		if one, err := exec.LookPath("initdb"); err == nil {
			bins = []string{one}
		}
	}
	if len(bins) == 0 {
		return nil, nil, fmt.Errorf("PostgreSQL is not installed: apt-get install postgresql")
	}
	slices.Sort(bins)
	c = &Cluster{bin: filepath.Dir(bins[len(bins)-1]), flags: strings.Join(flags, " ")}
	dir, err := os.MkdirTemp("", "actpass-pg-")
	if err != nil {
		return nil, nil, err
	}
	remove = func() {
		_ = c.Stop()
		_ = os.RemoveAll(dir)
	}
	defer func() {
		if err != nil {
			remove()
		}
	}()
	c.data = filepath.Join(dir, "data")
	if os.Getuid() == 0 { // which PostgreSQL refuses to run as
		u, err := user.Lookup("postgres")
		if err != nil {
			return nil, nil, err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		c.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, nil, err
		}
	}
	pw := filepath.Join(dir, "pw")
	if err := os.WriteFile(pw, []byte(Password), 0o644); err != nil {
		return nil, nil, err
	}
	if err := c.run("initdb", "-D", c.data, "-U", "postgres", "-A", "scram-sha-256", "--pwfile", pw, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"); err != nil {
		return nil, nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	c.Port = ln.Addr().(*net.TCPAddr).Port
	if err := ln.Close(); err != nil {
		return nil, nil, err
	}
	if err := c.Restart(); err != nil {
		return nil, nil, err
	}
	return c, remove, nil
}

// Restart starts it, the first time or again.
func (c *Cluster) Restart() error {
	return c.run("pg_ctl", "-D", c.data, "-w", "-t", "30", "-l", filepath.Join(filepath.Dir(c.data), "log"), "-o",
		fmt.Sprintf("-p %d -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=100 -c shared_buffers=16MB %s", c.Port, c.flags), "start")
}

// Log is what the server has logged.
func (c *Cluster) Log() ([]byte, error) {
	return os.ReadFile(filepath.Join(filepath.Dir(c.data), "log"))
}

// Stop stops it at once, as a crash does: connections break, and the log is
// replayed at the next start.
func (c *Cluster) Stop() error {
	return c.run("pg_ctl", "-D", c.data, "-w", "-m", "immediate", "stop")
}

func (c *Cluster) run(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir = filepath.Dir(c.data)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.as}
	var out bytes.Buffer
	log, err := os.CreateTemp("", "actpass-pg-out-") // a pipe would be held open by the server
	if err != nil {
		return err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		b, _ := os.ReadFile(log.Name())
		out.Write(b)
		return fmt.Errorf("%s: %w: %s", name, err, out.String())
	}
	return nil
}

// DSN is that of a database for a role, the superuser's password.
func (c *Cluster) DSN(database string) string {
	return fmt.Sprintf("postgres://postgres:%s@127.0.0.1:%d/%s?sslmode=disable", Password, c.Port, database)
}

// Database makes an empty database and gives its dsn.
func (c *Cluster) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test_%d", c.databases.Add(1))
	c.Exec(t, "postgres", "CREATE DATABASE "+name+" TEMPLATE template0")
	return c.DSN(name)
}

// Exec runs statements in a database, as the superuser.
func (c *Cluster) Exec(t testing.TB, database, statements string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgconn.Connect(ctx, c.DSN(database))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statements).ReadAll(); err != nil {
		t.Fatal(err)
	}
}
