package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDescriptorFault: a file that is no descriptor set is reported by its name,
// as a bad rule file is.
func TestDescriptorFault(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "config.yaml")
	for file, text := range map[string]string{
		name:                            "mapping: { packs: [stripe], descriptors: [./orders.pb, ./none/*.pb] }\n",
		filepath.Join(dir, "orders.pb"): "syntax = \"proto3\";",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(Source{File: name})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Compile(nil)
	for _, want := range []string{"orders.pb", "is no FileDescriptorSet", "none/*.pb matches no file"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, globs := c.Watched(); !strings.Contains(strings.Join(globs, " "), "orders.pb") {
		t.Errorf("not watched: %v", globs)
	}
}
