package ledger

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestQuietSync(t *testing.T) {
	q := newQuietSync()
	if q == nil {
		t.Skip("this kernel, or what stands around the process, has no io_setup")
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 100 {
		if _, err := f.WriteString("x"); err != nil {
			t.Fatal(err)
		}
		if begun, err := q.sync(f); !begun || err != nil {
			t.Fatal(begun, err)
		}
	}
	// Its errors are those of fdatasync(2).
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if begun, err := q.sync(w); begun || err != nil {
		t.Errorf("a pipe: %v, %v", begun, err) // falls back to the plain call, which says why
	}
	if err := (diskFile{w}).Sync(); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a pipe: %v", err)
	}
	if begun, err := q.sync(f); !begun || err != nil {
		t.Errorf("after a failure: %v, %v", begun, err)
	}
}
