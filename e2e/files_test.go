package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestFewOpenFiles: the soft limit is raised as far as it goes, and where that does
// not reach for the calls that may be held, the log says so.
func TestFewOpenFiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ulimit string
		warns  bool
	}{
		{"ulimit -Sn 256", false}, // the hard limit is enough
		{"ulimit -n 2000", true},
	} {
		sc := &sidecar{t: t, dir: t.TempDir()}
		sc.config = settings{holds: 1500}.write(t, sc.dir)
		cmd := exec.Command("sh", "-c", c.ulimit+" && exec "+binary+" serve --config "+sc.config)
		cmd.Env = os.Environ()
		sc.launch(cmd)
		sc.stop()
		if got := strings.Contains(strings.Join(sc.log(), "\n"), "limits.max_holds needs 2524"); got != c.warns {
			t.Errorf("%s: warned: %v\n%s", c.ulimit, got, tail(sc.log(), 10))
		}
	}
}
