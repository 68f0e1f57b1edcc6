package timerslack

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The child asks on its first thread, where the package set the slack: the runtime
// may have started another one before, which on a busy machine goes on with main.
func init() {
	if os.Getenv("TIMERSLACK_CHILD") != "" {
		runtime.LockOSThread()
	}
}

// TestMain is also the program that is executed again: this very binary with
// "serve" among its arguments, which says what it finds.
func TestMain(m *testing.M) {
	if os.Getenv("TIMERSLACK_CHILD") == "" {
		os.Exit(m.Run())
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil || len(tasks) < 2 {
		fmt.Println("tasks", err)
		os.Exit(1)
	}
	// The monitor is the thread that the runtime starts first.
	monitor, err := os.ReadFile("/proc/" + tasks[1].Name() + "/timerslack_ns")
	runtime.LockOSThread()
	if comm, cerr := os.ReadFile("/proc/self/comm"); cerr != nil || !strings.HasPrefix(filepath.Base(os.Args[0]), strings.TrimSpace(string(comm))) {
		fmt.Println("shown as", string(comm), cerr)
		os.Exit(1)
	}
	fmt.Println(os.Getpid(), strings.Join(os.Args[1:], ","), get(), os.Getenv(marker) == "", strings.TrimSpace(string(monitor)), err)
}

func child(t *testing.T, args ...string) (pid int, out []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "TIMERSLACK_CHILD=1")
	b, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return cmd.Process.Pid, strings.Fields(string(b))
}

func TestMonitorThread(t *testing.T) {
	for _, c := range []struct{ arg, monitor string }{{"check", "50000"}, {"serve", "1000000"}} {
		pid, out := child(t, c.arg, "x")
		if len(out) < 6 {
			t.Fatalf("%s: %q", c.arg, out)
		}
		// The same process with the same arguments, and no trace for its children.
		if out[0] != fmt.Sprint(pid) || out[1] != c.arg+",x" || out[2] != fmt.Sprint(usual) || out[3] != "true" {
			t.Errorf("%s, pid %d: %q", c.arg, pid, out)
		}
		if strings.Contains(strings.Join(out, " "), "denied") || strings.Contains(strings.Join(out, " "), "permitted") {
			t.Skip("the slack of another thread may be read with CAP_SYS_NICE only")
		}
		if out[4] != c.monitor {
			t.Errorf("%s: the monitor's slack is %s ns, want %s", c.arg, out[4], c.monitor)
		}
	}
}
