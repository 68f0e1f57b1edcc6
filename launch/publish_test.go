package launch_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/actpass/sidecar/launch"
)

// TestPublish: every file that the variables name is there, and others may read it.
func TestPublish(t *testing.T) {
	s := newSidecar(t)
	dir := filepath.Join(t.TempDir(), "trust")
	for range 2 { // a restart replaces them
		if _, err := launch.Publish(dir, s.caPEM, clean()); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 5 {
		t.Fatalf("%v %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: %v %v", e.Name(), info.Mode(), err)
		}
	}
	vars, err := launch.Variables(dir, launch.Options{ProxyURL: s.URL, Environ: []string{"NODE_OPTIONS=--inspect"}})
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, v := range vars {
		if filepath.IsAbs(v.Value) {
			files++
			if _, err := os.Stat(v.Value); err != nil {
				t.Errorf("%s: %v", v.Name, err)
			}
		}
	}
	i := slices.IndexFunc(vars, func(v launch.Variable) bool { return v.Name == "NODE_OPTIONS" })
	if want := `--require "` + dir + `/preload.cjs" --inspect`; files < 15 || i < 0 || vars[i].Value != want {
		t.Errorf("%d files; NODE_OPTIONS of %v, want %s", files, vars, want)
	}
	if _, err := launch.Publish(dir, []byte("no certificate"), nil); err == nil {
		t.Error("a CA without a certificate is published")
	}
}
