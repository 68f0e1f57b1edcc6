package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// child is a process of the rig. The sidecar is one too: nothing of it is linked
// in where it is measured.
type child struct {
	cmd   *exec.Cmd
	lines chan string // of its standard output
	mu    sync.Mutex
	tail  []string // of its standard error
}

// spawn starts a process. Its standard error goes to errTo, or is kept to explain
// a failure.
func spawn(ctx context.Context, errTo *os.File, name string, args ...string) (*child, error) {
	c := &child{cmd: exec.CommandContext(ctx, name, args...), lines: make(chan string, 16)}
	// Variables of this shell that lead clients elsewhere would be measured too.
	for _, e := range os.Environ() {
		if k, _, _ := strings.Cut(e, "="); !strings.HasSuffix(strings.ToLower(k), "_proxy") && !strings.HasPrefix(k, "ACTPASS_") {
			c.cmd.Env = append(c.cmd.Env, e)
		}
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if errTo != nil {
		c.cmd.Stderr = errTo
	} else {
		c.cmd.Stderr = c
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(c.lines)
		s := bufio.NewScanner(out)
		for s.Scan() {
			c.lines <- s.Text()
		}
	}()
	return c, nil
}

// role starts this program as one of its other roles.
func role(ctx context.Context, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return spawn(ctx, nil, self, args...)
}

// Write keeps the end of what the child complains about.
func (c *child) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail = append(c.tail, strings.TrimSpace(string(p)))
	if len(c.tail) > 10 {
		c.tail = c.tail[len(c.tail)-10:]
	}
	return len(p), nil
}

// line waits for the next line of the child's output.
func (c *child) line(ctx context.Context) (string, error) {
	select {
	case s, ok := <-c.lines:
		if !ok {
			err := c.cmd.Wait()
			c.mu.Lock()
			defer c.mu.Unlock()
			return "", fmt.Errorf("%s ended: %w\n%s", strings.Join(c.cmd.Args, " "), errors.Join(err, io.EOF), strings.Join(c.tail, "\n"))
		}
		return s, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// stop ends the child in order.
func (c *child) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		for range c.lines { // until its output ends
		}
		_ = c.cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		_ = c.cmd.Process.Kill()
		<-done
	}
}

// cpu is the processor time of a process so far, user and system.
func cpu(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name may hold spaces; what follows it does not (proc(5)).
	_, rest, ok := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has another form than expected", pid)
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// resident is the memory of a process in RAM, in bytes.
func resident(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status says nothing of VmRSS", pid)
}

// onDisk refuses a directory in memory, where an fsync costs nothing.
func onDisk(dir string) error {
	const tmpfs, ramfs = 0x01021994, 0x858458f6 // statfs(2)
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Type == tmpfs || st.Type == ramfs {
		return fmt.Errorf("%s is in memory, and evidence is to be on a disk: name another directory with -dir", dir)
	}
	return nil
}
