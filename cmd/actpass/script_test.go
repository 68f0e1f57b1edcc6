package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"actpass": main})
}

// TestScripts runs testdata/script/*.txtar: the program from outside, one file
// a behaviour. Beside testscript's own commands they have:
//
//	ports NAME...             sets each to a free port of the loopback
//	ready URL                 waits until a sidecar's API answers there
//	http STATUS METHOD URL [FILE]
//	                          calls with the key in ACTPASS_API_KEY and FILE as
//	                          JSON; prints the body; fails on another status
//	take NAME REGEXP          sets NAME to what the group matches in the last stdout
//	within SECONDS FILE REGEXP
//	                          waits until FILE matches
//	replace FILE OLD NEW      changes the one place where OLD stands
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("TZ", "UTC")
			env.Setenv("NO_PROXY", "127.0.0.1")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"ports": scriptPorts, "ready": scriptReady, "http": scriptHTTP, "take": scriptTake, "within": scriptWithin, "replace": scriptReplace,
		},
	})
}

func scriptPorts(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		_, port, err := net.SplitHostPort(ln.Addr().String())
		ts.Check(err)
		defer ln.Close() // all at once, so that no two get the same
		ts.Setenv(name, port)
	}
}

func scriptReady(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: ready URL")
	}
	poll(ts, 20*time.Second, "a sidecar at "+args[0], func() bool {
		resp, err := http.Get(args[0] + "/healthz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func poll(ts *testscript.TestScript, limit time.Duration, what string, done func() bool) {
	for end := time.Now().Add(limit); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("%s: not within %s", what, limit)
		}
	}
}

func scriptHTTP(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 || len(args) > 4 {
		ts.Fatalf("usage: http STATUS METHOD URL [FILE]")
	}
	var body io.Reader
	if len(args) == 4 {
		body = strings.NewReader(ts.ReadFile(args[3]))
	}
	req, err := http.NewRequest(args[1], args[2], body)
	ts.Check(err)
	req.Header.Set("Authorization", "Bearer "+ts.Getenv(envAPIKey))
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	ts.Check(err)
	_, _ = ts.Stdout().Write(b)
	if fmt.Sprint(resp.StatusCode) != args[0] {
		ts.Fatalf("%s %s answers %d: %s", args[1], args[2], resp.StatusCode, b)
	}
}

func scriptTake(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: take NAME REGEXP")
	}
	found := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) != 2 {
		ts.Fatalf("%s matches nothing", args[1])
	}
	ts.Setenv(args[0], found[1])
}

func scriptWithin(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: within SECONDS FILE REGEXP")
	}
	seconds, err := strconv.Atoi(args[0])
	ts.Check(err)
	re := regexp.MustCompile(args[2])
	poll(ts, time.Duration(seconds)*time.Second, args[1]+" to match "+args[2], func() bool {
		b, err := os.ReadFile(ts.MkAbs(args[1]))
		return err == nil && re.Match(b)
	})
}

func scriptReplace(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: replace FILE OLD NEW")
	}
	file := ts.MkAbs(args[0])
	b, err := os.ReadFile(file)
	ts.Check(err)
	if n := bytes.Count(b, []byte(args[1])); n != 1 {
		ts.Fatalf("%q stands in %s %d times", args[1], args[0], n)
	}
	ts.Check(os.WriteFile(file, bytes.Replace(b, []byte(args[1]), []byte(args[2]), 1), 0o600))
}
