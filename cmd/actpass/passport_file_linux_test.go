package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAMountedPassportIsAFile: what else may lie there is not waited for.
func TestAMountedPassportIsAFile(t *testing.T) {
	dir := t.TempDir()
	file, link, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := os.WriteFile(file, []byte("a.b.c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: "a.b.c", link: "a.b.c", pipe: "", dir: "", "/dev/zero": "", filepath.Join(dir, "none"): ""} {
		type read struct {
			token string
			err   error
		}
		got := make(chan read, 1)
		go func() {
			token, err := readToken(path)
			got <- read{token, err}
		}()
		select {
		case r := <-got:
			if r.token != want || (r.err == nil) != (want != "") {
				t.Errorf("%s: %q %v", path, r.token, r.err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s is waited for", strings.TrimPrefix(path, dir))
		}
	}
}
