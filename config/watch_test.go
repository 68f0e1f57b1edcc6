package config

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// TestWatchBesideALog: a change is seen although another file of the directory is
// written without a pause, and not before the file that changed has come to rest.
func TestWatchBesideALog(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "config.yaml")
	write := func(file, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Error(err)
		}
	}
	write(name, "mode: monitor\n")
	noise := make(chan struct{})
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		for i := 0; ; i++ {
			select {
			case <-noise:
				return
			case <-time.After(20 * time.Millisecond):
				write(filepath.Join(dir, "log"), strconv.Itoa(i))
			}
		}
	}()
	defer func() { close(noise); <-quiet }()

	changed, done := make(chan string, 8), make(chan error, 1)
	ctx := t.Context()
	go func() {
		done <- Watch(ctx, func() ([]string, []string) { return []string{name}, nil }, func() {
			text, _ := os.ReadFile(name)
			changed <- string(text)
		})
	}()
	time.Sleep(100 * time.Millisecond)
	for i := range 8 { // half a second in which the file is being written
		write(name, "mode: warn # "+strconv.Itoa(i)+"\n")
		time.Sleep(70 * time.Millisecond)
	}
	write(name, "mode: enforce\n")
	select {
	case got := <-changed:
		if got != "mode: enforce\n" {
			t.Errorf("%q was read while it was being written", got)
		}
	case <-time.After(3 * time.Second):
		t.Fatal("the change was not seen beside a file that is written all the time")
	}
	select {
	case got := <-changed:
		t.Errorf("one change was told of twice, the second time at %q", got)
	case <-time.After(3 * settle):
	}
}
